"""How weights move: any optax optimizer by its optax name, with a schedule, clipping and weight decay."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax

from bigjax.config import Parameter, Schema, schema
from bigjax.errors import UserError, nearest
from bigjax.parallel.mesh import name_of
from bigjax.training.state import Tree

# Those that need more than gradients and parameters (the loss itself, or a key of their own).
UNSUITABLE = {"lbfgs", "noisy_sgd"}


def optimizers() -> dict[str, Callable[..., Any]]:
    """Every optax optimizer by name: the public functions of `optax` whose first argument is a learning rate."""
    found: dict[str, Callable[..., Any]] = {}
    for name, function in inspect.getmembers(optax, inspect.isfunction):
        if name.startswith(("_", "scale_by")) or name in UNSUITABLE:
            continue
        if next(iter(inspect.signature(function).parameters), None) == "learning_rate":
            found[name] = function
    return found


def options(
    learning_rate: float,
    schedule: Literal["constant", "cosine", "linear"] = "constant",
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    weight_decay_mask: str = "matrices",
    accumulate_steps: int = 1,
    ema_decay: float | None = None,
) -> dict[str, Any]:
    """The keys that `config.optimizer` takes for every optimizer, beside the optimizer's own; checks their ranges.

    Args:
      learning_rate: the peak, reached after `warmup_steps` of linear warm-up from 0.
      schedule: what follows until the last step.
      warmup_steps: optimizer steps.
      final_fraction: what is left of the peak at the last step of a cosine or linear schedule.
      clip_norm: gradients are scaled down to this global norm.
      weight_decay: the optimizer's own (decoupled, as in AdamW) where it has one, else added to the gradient.
      weight_decay_mask: what decays: "matrices" (arrays of two or more axes), "all", or a regular expression that is
        searched for in parameters' names.
      accumulate_steps: microbatches that one step's batch goes through in.
      ema_decay: of an exponential moving average of the parameters, which evaluation then uses.
    """
    values = dict(locals())
    in_range = {
        "learning_rate": learning_rate >= 0,
        "warmup_steps": warmup_steps >= 0,
        "final_fraction": 0 <= final_fraction <= 1,
        "clip_norm": clip_norm is None or clip_norm > 0,
        "weight_decay": weight_decay >= 0,
        "accumulate_steps": accumulate_steps >= 1,
        "ema_decay": ema_decay is None or 0 <= ema_decay < 1,
    }
    for key, fits in in_range.items():
        if not fits:
            raise UserError(f"config.optimizer.{key} is out of range: {values[key]}.")
    return values


def optimizer_schema(name: str) -> Schema:
    """The keys of `config.optimizer`: those of `options` and those of the optax function `name`."""
    known = optimizers()
    if name not in known:
        raise UserError(f"There is no optax optimizer {name!r}; {nearest(name, known)}")
    own = {}
    for parameter in inspect.signature(known[name]).parameters.values():
        if not parameter.name.endswith("mask"):
            own[parameter.name] = Parameter(by_default(parameter.default), parameter.default)
    shared = schema(options)
    if "weight_decay" in own:
        own["weight_decay"] = Parameter(float, float(own["weight_decay"].default or 0))
    return shared | own | {"learning_rate": shared["learning_rate"]}


def by_default(default: Any) -> Any:
    """The type of an optax argument, told by its default: optax's own annotations admit arrays and functions."""
    if isinstance(default, (bool, str)):
        return type(default)
    if isinstance(default, (int, float)):
        return float
    return float | str | None


def make_schedule(
    learning_rate: float, schedule: str, warmup_steps: int, final_fraction: float, steps: int
) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, or a cosine or line to `final_fraction` at `steps`."""
    if warmup_steps >= steps and warmup_steps > 0:
        raise UserError(f"config.optimizer.warmup_steps is {warmup_steps}, but the run has only {steps} steps.")
    rest = steps - warmup_steps
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, rest, final_fraction),
        "linear": lambda: optax.linear_schedule(learning_rate, learning_rate * final_fraction, rest),
    }[schedule]()
    if not warmup_steps:
        return after
    # Step 0 already moves: the first rate is one warm-up step's, not 0.
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(config: Mapping[str, Any], steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The gradient transformation of a checked `config.optimizer` for a run of `steps` steps, and its schedule."""
    shared = options(**{key: config[key] for key in schema(options)})
    function = optimizers()[config["name"]]
    learning_rate = make_schedule(**{key: shared[key] for key in schema(make_schedule) if key != "steps"}, steps=steps)
    takes = inspect.signature(function).parameters
    own = {key: value for key, value in config.items() if key in takes} | {"learning_rate": learning_rate}

    def decays(params: Tree) -> Tree:
        return decay_mask(params, shared["weight_decay_mask"])

    chain = []
    if shared["clip_norm"] is not None:
        chain.append(optax.clip_by_global_norm(shared["clip_norm"]))
    if "weight_decay" not in takes and shared["weight_decay"]:
        chain.append(optax.add_decayed_weights(shared["weight_decay"], decays))
    for key in ("mask", "weight_decay_mask"):
        if key in takes:
            own[key] = decays
    try:
        return optax.chain(*chain, function(**own)), learning_rate
    except (ValueError, TypeError) as error:
        raise UserError(f"config.optimizer: optax.{config['name']} refuses its arguments: {error}") from error


def decay_mask(params: Tree, which: str) -> Tree:
    """True for every parameter that decays; `which` is `weight_decay_mask` of `options`."""
    if which == "matrices":
        return jax.tree.map(lambda p: p.ndim >= 2, params)
    if which == "all":
        return jax.tree.map(lambda p: True, params)
    mask = jax.tree_util.tree_map_with_path(lambda path, p: bool(re.search(which, name_of(path))), params)
    if not any(jax.tree.leaves(mask)):
        raise UserError(f"config.optimizer.weight_decay_mask {which!r} is found in no parameter's name.")
    return mask
