"""Where a number that is not finite first came from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.extend.core as core
import jax.numpy as jnp
from flax import nnx

from bigjax.tasks.task import Batch
from bigjax.training.checkpoint import flatten
from bigjax.training.state import TrainState, random_key
from bigjax.training.step import Program, gradients

# Primitives that only run a function of their own, which the search then looks into.
CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "remat2",
}
NO_NAMES = core.DebugInfo("one equation", "bigjax", None, None)


def diagnose(program: Program, state: TrainState, batch: Batch) -> dict[str, Any]:
    """What is known of a step whose loss or gradient is not finite, as JSON.

    The step's gradient is computed again, one operation after another.

    Returns:
      "parameters" and "batch", the names of arrays that were not finite before the step; and "first", where there is
      such a thing, the first operation that gave NaN or infinity from numbers: its "layer" (the path in the model, or
      "" outside of it), "operation" and "line" (file:line of the code).
    """
    found: dict[str, Any] = {
        "parameters": [name for name, array in flatten(state.params).items() if not finite(array)],
        "batch": [name for name, array in batch.items() if not finite(array)],
    }
    model = nnx.merge(program.graphdef, state.params, state.statistics)
    with named_layers(model):
        key = random_key(state.seed, "step", state.step)
        traced = jax.make_jaxpr(lambda state, batch: gradients(program, state, batch, key))(state, batch)
    try:
        run(traced.jaxpr, traced.consts, jax.tree.leaves((state, batch)), ())
    except Found as first:
        found["first"] = first.args[0]
    return found


class Found(Exception):
    """The search is over."""


def finite(array: Any) -> bool:
    """Whether all numbers of an array are; integers and keys are."""
    return not jnp.issubdtype(array.dtype, jnp.floating) or bool(jnp.isfinite(array).all())


def run(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], scopes: tuple[str, ...]) -> list[Any]:
    """Evaluates a jaxpr equation by equation; raises Found at the first that makes what is not finite."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [value(atom) for atom in equation.invars]
        inside = (*scopes, str(equation.source_info.name_stack))
        inner = next((equation.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in equation.params), None)
        if equation.primitive.name in CALLS and inner is not None:
            open_jaxpr, constants = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
            results = run(open_jaxpr, constants, given, inside)
        else:
            results = one(jaxpr, equation, given)
            # Only NaN, or an infinity from numbers: masks are filled with infinities on purpose.
            made = [r for r in results if not finite(r)]
            if made and all(map(finite, map(jnp.asarray, given))):
                raise Found(
                    {
                        "layer": layer_of(inside),
                        "operation": equation.primitive.name,
                        "line": line_of(equation.source_info.traceback),
                        "value": "nan" if any(bool(jnp.isnan(r).any()) for r in made) else "inf",
                    }
                )
        values.update(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def one(jaxpr: core.Jaxpr, equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """What one equation of a jaxpr gives."""
    bound = [atom for atom in equation.invars if not isinstance(atom, core.Literal)]
    numbers = [
        number for atom, number in zip(equation.invars, given, strict=True) if not isinstance(atom, core.Literal)
    ]
    alone = jaxpr.replace(eqns=[equation], constvars=[], invars=bound, outvars=equation.outvars, debug_info=NO_NAMES)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*numbers)


def layer_of(scopes: Sequence[str]) -> str:
    """The path of the innermost layer in name stacks such as `transpose(jvp(@blocks/0/mlp))/@blocks/0/mlp/up`."""
    text = "/".join(scopes)
    if "@" not in text:
        return ""
    name = text.rpartition("@")[2].partition(")")[0]
    return name.removesuffix("/") + (" (backward)" if "transpose" in text else "")


def line_of(traceback: Any) -> str:
    """The innermost line of code that is not of a library below us."""
    frames = traceback.frames if traceback is not None else []
    ours = [f for f in frames if not any(f"/{name}/" in f.file_name for name in ("jax", "jaxlib", "flax", "optax"))]
    return f"{ours[0].file_name}:{ours[0].line_num}" if ours else ""


@contextmanager
def named_layers(model: nnx.Module) -> Iterator[None]:
    """While it is entered, what a layer of such a model computes is named after its path, where nnx.merge makes it."""
    kinds = {type(layer) for _, layer in nnx.iter_modules(model) if callable(layer)}
    merge = nnx.merge
    names: dict[int, str] = {}

    def merging(*args: Any, **kwargs: Any) -> Any:
        made = merge(*args, **kwargs)
        names.update({id(layer): "/".join(map(str, path)) for path, layer in nnx.iter_modules(made)})
        return made

    def naming(call: Any) -> Any:
        def named(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            with jax.named_scope(f"@{names.get(id(self), '')}"):
                return call(self, *args, **kwargs)

        return named

    calls: dict[Any, Any] = {kind: kind.__call__ for kind in kinds}
    own = {kind for kind in kinds if "__call__" in kind.__dict__}
    try:
        nnx.merge = merging
        for kind, call in calls.items():
            kind.__call__ = naming(call)
        yield
    finally:
        nnx.merge = merge
        for kind, call in calls.items():
            if kind in own:
                kind.__call__ = call
            else:
                del kind.__call__
