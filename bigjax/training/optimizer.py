"""How weights move: any optax optimizer by its optax name, with a schedule and weight decay."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from bigjax.config import Parameter, Schema, schema
from bigjax.errors import UserError, nearest
from bigjax.models.stacked import is_stacked
from bigjax.parallel.mesh import name_of
from bigjax.training.state import Tree

# Those that need more than gradients and parameters (the loss, a key), or that take no learning rate schedule.
UNSUITABLE = {"lbfgs", "noisy_sgd", "optimistic_adam", "rprop", "sm3"}
OURS = {"muon_weight_dimension_numbers", "adam_weight_decay", "preconditioning"}  # of Muon's; no keys of a config


@dataclass(frozen=True)
class OptimizerOptions:
    """The keys that `config.optimizer` takes for every optimizer, beside the optax optimizer's own.

    Attributes:
      learning_rate: the peak, reached after `warmup_steps` steps of linear warm-up.
      schedule: what follows until the end of the run; "rsqrt" is the Transformer's (Vaswani et al. 2017, section 5.3).
      warmup_steps: optimizer steps.
      final_fraction: what is left of the peak at the end of a cosine or linear schedule.
      milestones: shares of the run after each of which a "step" schedule goes on with a tenth of the rate; by default
        after 30, 60 and 80 epochs of 90 (Goyal et al. 2017, section 5.1).
      clip_norm: gradients are scaled down to this global norm, which the step does.
      weight_decay: the optimizer's own (decoupled, as in AdamW) where it has one, else added to the gradient (L2).
      weight_decay_mask: what decays: "matrices" (arrays of two or more axes), "all", or a regular expression that is
        searched for in parameters' names.
      accumulate_steps: microbatches that one step's batch goes through in.
      ema_decay: of an exponential moving average of the parameters, which evaluation then uses.
      zero: what the devices along `config.mesh.fsdp` share (Rajbhandari et al. 2020, ZeRO): 1 the optimizer's state, 2
        the gradient, too, 3 the parameters, too. With 1 and 2 each holds all parameters and gathers them once a step.
    """

    learning_rate: float
    schedule: Literal["constant", "cosine", "linear", "step", "rsqrt"] = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    milestones: tuple[float, ...] = (1 / 3, 2 / 3, 8 / 9)
    clip_norm: float | None = None
    weight_decay: float = 0.0
    weight_decay_mask: str = "matrices"
    accumulate_steps: int = 1
    ema_decay: float | None = None
    zero: Literal[1, 2, 3] = 3

    def __post_init__(self) -> None:
        in_range = {
            "learning_rate": self.learning_rate >= 0,
            "warmup_steps": self.warmup_steps >= 0,
            "final_fraction": 0 <= self.final_fraction <= 1,
            "milestones": all(0 < share < 1 for share in self.milestones),
            "clip_norm": self.clip_norm is None or self.clip_norm > 0,
            "weight_decay": self.weight_decay >= 0,
            "accumulate_steps": self.accumulate_steps >= 1,
            "ema_decay": self.ema_decay is None or 0 <= self.ema_decay < 1,
        }
        for name, fits in in_range.items():
            if not fits:
                raise ValueError(f"{name} is out of range: {getattr(self, name)}")


def optimizers() -> dict[str, Callable[..., Any]]:
    """Every optax optimizer by name: what `optax` has that takes a learning rate first, and Muon of `optax.contrib`."""
    found: dict[str, Callable[..., Any]] = {"muon": muon}
    for name, function in inspect.getmembers(optax, lambda member: isinstance(member, (FunctionType, partial))):
        if name.startswith(("_", "scale_by")) or name in UNSUITABLE:
            continue
        if next(iter(inspect.signature(function).parameters), None) == "learning_rate":
            found[name] = function
    return found


def optimizer_schema(name: str) -> Schema:
    """The keys of `config.optimizer`: those of `OptimizerOptions` and those of the optax function `name`.

    optax annotates its arguments as "array or function or number"; what a config can say of one is told by its default.
    """
    known = optimizers()
    if name not in known:
        raise UserError(f"There is no optax optimizer {name!r}; {nearest(name, known)}")
    shared = schema(OptimizerOptions)
    own = {}
    for parameter in inspect.signature(known[name]).parameters.values():
        default = parameter.default
        if parameter.name.endswith("mask") or parameter.name in OURS:
            continue
        if isinstance(default, (bool, str)) or parameter.name == "ns_steps":
            own[parameter.name] = Parameter(type(default), default)
        elif isinstance(default, (int, float)):
            own[parameter.name] = Parameter(float, float(default))
        elif default is None:
            own[parameter.name] = Parameter(float | str | None, None)
    if "adam_learning_rate" in own:
        own["adam_learning_rate"] = Parameter(float | None, None)
    if "weight_decay" in own:
        own["weight_decay"] = Parameter(float, own["weight_decay"].default or 0.0)
    return shared | own


def make_schedule(options: OptimizerOptions, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, in tenths, or a cosine or line to `final_fraction`.

    "rsqrt" falls as the inverse square root of the step: with a peak of (d_model * warmup_steps) ** -0.5 it is the
    Transformer paper's formula.
    """
    peak, warmup = options.learning_rate, options.warmup_steps
    if warmup and warmup >= steps:
        raise UserError(f"config.optimizer.warmup_steps is {warmup}, but the run has only {steps} steps.")
    if options.schedule == "rsqrt" and not warmup:
        raise UserError("config.optimizer.schedule='rsqrt' falls from where warm-up ends: set warmup_steps.")
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup, options.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, peak * options.final_fraction, steps - warmup),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {round(share * steps) - warmup: 0.1 for share in options.milestones}
        ),
        "rsqrt": lambda: lambda count: peak * jnp.sqrt(warmup / (count + warmup + 1)),
    }[options.schedule]()
    if not warmup:
        return after
    # The first step already moves: its rate is peak / warmup, not 0.
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup - 1), after], [warmup])


def make_optimizer(
    config: Mapping[str, Any], steps: int, learns: Tree
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The gradient transformation of a checked `config.optimizer`, and its schedule.

    Args:
      config: the section.
      steps: the run's.
      learns: True for every parameter that learns; the others stay what they are and have no optimizer state.

    Raises:
      UserError: a value is out of range, or optax refuses it.
    """
    try:
        options = OptimizerOptions(**{key: config[key] for key in schema(OptimizerOptions)})
    except ValueError as error:
        raise UserError(f"config.optimizer: {error}.") from error
    function = optimizers()[config["name"]]
    takes = inspect.signature(function).parameters
    learning_rate = make_schedule(options, steps)
    own = {key: value for key, value in config.items() if key in takes} | {"learning_rate": learning_rate}

    def decays(params: Tree) -> Tree:
        return decay_mask(params, options.weight_decay_mask)

    own |= {key: decays for key in ("mask", "weight_decay_mask") if key in takes}
    before, after = [], []
    if options.clip_norm is not None:
        before.append(optax.identity())  # where clipping was: checkpoints have a place for it
    if "weight_decay" not in takes and options.weight_decay:
        before.append(optax.add_decayed_weights(options.weight_decay, decays))
    if function is muon:  # by itself it would decay its matrices alone, and Adam's rate would follow no schedule
        rate = options.learning_rate
        ratio = own["adam_learning_rate"] / rate if rate and own["adam_learning_rate"] is not None else 1.0
        if ratio < 0:
            raise UserError(f"config.optimizer: adam_learning_rate is out of range: {own['adam_learning_rate']}.")
        own |= {"learning_rate": 1.0, "adam_learning_rate": ratio, "weight_decay": 0.0, "weight_decay_mask": None}
        own["muon_weight_dimension_numbers"] = muon_matrices
        after = [optax.add_decayed_weights(-options.weight_decay, decays), optax.scale_by_schedule(learning_rate)]
    try:
        optimizer = optax.chain(*before, function(**own), *after)
    except (ValueError, TypeError) as error:
        raise UserError(f"config.optimizer: optax.{config['name']} refuses its arguments: {error}") from error
    if not all(jax.tree.leaves(learns)):
        optimizer = optax.partition({True: optimizer, False: optax.set_to_zero()}, learns)
    return optimizer, learning_rate


def decay_mask(params: Tree, which: str) -> Tree:
    """True for every parameter that decays; `which` is `weight_decay_mask` of `options`."""
    if which == "matrices":
        return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim - is_stacked(name_of(path)) >= 2, params)
    if which == "all":
        return jax.tree.map(lambda p: True, params)
    mask = jax.tree_util.tree_map_with_path(lambda path, p: bool(re.search(which, name_of(path))), params)
    if not any(jax.tree.leaves(mask)):
        raise UserError(f"config.optimizer.weight_decay_mask {which!r} is found in no parameter's name.")
    return mask


def muon_matrices(params: Tree) -> Tree:
    """Of each parameter that Muon makes orthogonal its axes [..., in, out]; None of one that it leaves to Adam.

    Those are embeddings, heads, routers of experts and all that is no matrix (Jordan 2024, "Muon: an optimizer for
    hidden layers in neural networks"). A convolution's kernel is the matrix of its products with patches. Layers of a
    stack, and experts, are each a matrix of their own; depthwise kernels are none.
    """

    def axes(path: Any, p: jax.Array) -> MuonDimensionNumbers | None:
        name = name_of(path)
        if re.search(r"mlp/(up|gate|down)$", name):
            return MuonDimensionNumbers(-2, -1)
        if not re.search(r"(kernel|lora_[ab])$", name) or re.search(r"(^|/)(head|router|depthwise)/kernel$", name):
            return None
        return MuonDimensionNumbers(tuple(range(is_stacked(name), p.ndim - 1)), -1)

    return jax.tree_util.tree_map_with_path(axes, params)
