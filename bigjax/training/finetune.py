"""What a run begins from, and what of it learns: the whole model, a part of it, or low-rank corrections."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.errors import UserError
from bigjax.models.lora import add_lora
from bigjax.models.stacked import is_stacked, layer_names, unstacked
from bigjax.parallel.mesh import name_of
from bigjax.pretrained.load import checkpoint_arrays, checkpoint_config, put
from bigjax.training.checkpoint import Checkpoints, flatten
from bigjax.training.state import TrainState, Tree
from bigjax.training.workdir import Workdir


@dataclass(frozen=True)
class FinetuneOptions:
    """`config.finetune`. Names are those of the model's arrays, such as `blocks/0/mlp/up/kernel`.

    Attributes:
      init_from: a run's folder, or a Hugging Face or torchvision checkpoint, whose weights the model begins with.
      replace: a regular expression searched for in names: these arrays begin as a new model's do.
      freeze: likewise: these parameters stay what they are. BatchNorm's statistics go on, as training does with them.
      lora_layers: likewise: these linear layers learn a low-rank correction, and nothing else learns but what `replace`
        names.
      lora_rank: of the corrections.
      lora_alpha: their weight, over the rank.
    """

    init_from: str | None = None
    replace: str | None = None
    freeze: str | None = None
    lora_layers: str | None = None
    lora_rank: int = 8
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        for name in ("replace", "freeze", "lora_layers"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from error


def adapt(model: nnx.Module, options: FinetuneOptions, key: jax.Array) -> nnx.Module:
    """The model with the corrections that it is to learn.

    Raises:
      ValueError: no layer has the name, or the rank is not positive.
    """
    if options.lora_layers is None:
        return model
    rngs = nnx.Rngs(params=jax.random.fold_in(key, 1))
    return add_lora(model, options.lora_layers, options.lora_rank, options.lora_alpha, rngs=rngs)


def learning(model: nnx.Module, options: FinetuneOptions) -> Tree:
    """True for every parameter of a model (its shapes will do) that learns.

    Raises:
      UserError: `freeze` is found in no name, or nothing learns.
    """

    def learns(path: tuple[object, ...], _: object) -> bool:
        name = name_of(path)
        if options.freeze is not None and re.search(options.freeze, name):
            return False
        new = options.replace is not None and re.search(options.replace, name) is not None
        return options.lora_layers is None or "/lora_" in name or new

    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mask = jax.tree_util.tree_map_with_path(learns, params)
    if not any(jax.tree.leaves(mask)):
        raise UserError("config.finetune leaves no parameter to learn.")
    if options.freeze is not None and not any(re.search(options.freeze, name) for name in flatten(params)):
        raise UserError(f"config.finetune.freeze={options.freeze!r} is found in no parameter's name.")
    return mask


# What changes the numbers and not the shapes of the arrays.
SHAPELESS = ("num_heads", "num_kv_heads", "head_dim", "norm_epsilon", "rope_theta", "rope_scaling", "mlp", "pool")


def begin_from(state: TrainState, options: FinetuneOptions, section: Mapping[str, Any]) -> TrainState:
    """The state of a new model with the weights of `options.init_from`, laid out as it is; `section` is `config.model`.

    Raises:
      UserError: they cannot be read, or do not fit the model but for what `replace` names.
    """
    if options.init_from is None:
        return state
    theirs = model_config(options.init_from)
    for key in ("name", *SHAPELESS):
        ours, other = section.get(key), theirs.get(key)
        if ours != other and None not in (ours, other):
            raise UserError(f"config.model.{key} is {ours!r}, but {options.init_from} was trained with {other!r}.")
    trees = {"params": state.params, "statistics": state.statistics}
    targets = {name: array for tree in trees.values() for name, array in flatten(tree).items()}
    loaded = fitted(stored(options.init_from), targets, options)

    def replaced(path: tuple[object, ...], array: jax.Array) -> jax.Array:
        return loaded.get(name_of(path), array)

    trees = {key: jax.tree_util.tree_map_with_path(replaced, tree) for key, tree in trees.items()}
    ema = jax.tree.map(jnp.copy, trees["params"]) if state.ema else {}
    return state._replace(**trees, ema=ema)


def model_config(path: str | Path) -> dict[str, Any]:
    """The `config.model` of a run's folder or of a checkpoint, for an experiment that goes on from its weights.

    Raises:
      UserError: the folder cannot be read, or bigjax does not have its architecture.
    """
    if (Path(path) / "checkpoints").is_dir():
        return Workdir(Path(path)).read("config.json")["model"]
    return checkpoint_config(path)


Arrays = Mapping[str, Callable[[], np.ndarray]]  # read when they are called


def stored(path: str) -> Arrays:
    """The arrays of a run's newest checkpoint, or of a checkpoint folder."""
    if not (checkpoints := Path(path) / "checkpoints").is_dir():
        return checkpoint_arrays(path)
    run = Checkpoints(checkpoints)
    if not run.steps():
        raise UserError(f"config.finetune.init_from: {path} has no checkpoint yet.")
    weights, statistics = run.restore_weights(max(run.steps()))
    return {name: partial(np.asarray, array) for name, array in unstacked(weights | statistics).items()}


def fitted(arrays: Arrays, targets: Mapping[str, jax.Array], options: FinetuneOptions) -> dict[str, jax.Array]:
    """For each of our arrays that does not begin anew, the one that was stored, in its dtype and sharding."""

    corrected = any("/lora_" in name for name in arrays)  # then the corrections go on, too

    def anew(*names: str) -> bool:
        replaced = options.replace is not None and any(re.search(options.replace, name) for name in names)
        return replaced or ("/lora_" in names[0] and not corrected)

    # Layers may be stacked on one side and not on the other.
    parts = {name: layer_names(name, target.shape) for name, target in targets.items()}
    known = {*arrays, *parts, *(part for some in parts.values() for part in some)}
    if options.replace is not None and not any(re.search(options.replace, name) for name in known):
        raise UserError(f"config.finetune.replace={options.replace!r} is found in no array's name.")
    left = {part for name, some in parts.items() if anew(name, *some) for part in some}
    parts = {name: some for name, some in parts.items() if not anew(name, *some)}
    wanted = {part for some in parts.values() for part in some}
    hint = "config.finetune.replace says, as a regular expression, which arrays begin anew or are left out"
    if missing := sorted(wanted - arrays.keys()):
        raise UserError(f"{options.init_from} lacks {listed(missing)} of the model; {hint}.")
    if unused := sorted(name for name in arrays.keys() - wanted - left if not anew(name)):
        if any("/lora_" in name for name in unused):
            hint = "bigjax export merges the corrections of LoRA into the weights of a checkpoint to begin from"
        raise UserError(f"The model lacks {listed(unused)} of {options.init_from}; {hint}.")
    loaded = {}
    for name, names in parts.items():
        target = targets[name]
        array = np.stack([arrays[part]() for part in names]) if is_stacked(name) else arrays[name]()
        if array.shape != target.shape:
            raise UserError(f"{name} is {array.shape} in {options.init_from}, but {target.shape} here; {hint}.")
        loaded[name] = put(array, target)
    return loaded


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
