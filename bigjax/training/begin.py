"""What a run begins from, where that is not a new model: the weights of another run, or of a checkpoint."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from bigjax.data.subwords import load_tokenizer
from bigjax.errors import UserError
from bigjax.models.stacked import is_stacked, layer_names, unstacked
from bigjax.parallel.mesh import name_of
from bigjax.pretrained.folder import Folder, read_documents
from bigjax.pretrained.load import checkpoint_arrays, checkpoint_config, put
from bigjax.training.checkpoint import flatten, newest_weights
from bigjax.training.finetune import FinetuneOptions
from bigjax.training.state import TrainState, Tree
from bigjax.training.workdir import Workdir

DOCUMENTS = "huggingface"  # the folder of a run with what a checkpoint holds besides weights

# What changes the numbers and not the shapes of the arrays.
SHAPELESS = (
    *("num_heads", "num_kv_heads", "head_dim", "norm_epsilon", "rope_theta", "rope_scaling"),
    *("mlp", "experts_per_token", "pool"),
)


def begin_from(
    options: FinetuneOptions,
    section: Mapping[str, Any],
    tokenizer: str | None,
    abstract: TrainState,
    make: Callable[[], TrainState],
) -> TrainState:
    """The state of a new model with the weights of `options.init_from`.

    Args:
      options: `config.finetune`.
      section: `config.model`.
      tokenizer: the data's tokenizer.json, or None where there is none.
      abstract: the state's shapes, dtypes and shardings.
      make: makes it for a new model; not called before the weights are there, for they may not fit.

    Raises:
      UserError: they cannot be read, or do not fit the model but for what `replace` names.
    """
    if options.init_from is None:
        return make()
    theirs = model_config(options.init_from)
    for key in different(section, {key: theirs.get(key) for key in ("name", *SHAPELESS)}):
        raise UserError(
            f"config.model.{key} is {section[key]!r}, but {options.init_from} was trained with {theirs[key]!r}."
        )
    if "vocab_size" in section:
        check_tokens(options, Path(options.init_from), theirs["vocab_size"], tokenizer)
    targets = flatten(abstract.params) | flatten(abstract.statistics)
    loaded = fitted(stored(options.init_from), targets, options)
    state = make()

    def replaced(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, array: loaded.get(name_of(path), array), tree)

    params = replaced(state.params)
    ema = jax.tree.map(jnp.copy, params) if state.ema else {}
    return state._replace(params=params, statistics=replaced(state.statistics), ema=ema)


def different(section: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys of `other` that are something else in `section`; None is a default, and nobody says which."""
    section, other = json.loads(json.dumps([section, other]))  # tuples as lists, which they are in files
    pairs = {key: (section.get(key), value) for key, value in other.items()}
    return [key for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


def check_tokens(options: FinetuneOptions, path: Path, vocab_size: int, tokenizer: str | None) -> None:
    """Raises UserError unless tokens mean what they meant to the model that a run begins from.

    Args:
      options: they may say that the embedding begins anew; then tokens may be others.
      path: of the run or checkpoint.
      vocab_size: of its model; without a tokenizer, 256 tokens are bytes and others unknown.
      tokenizer: the data's tokenizer.json, or None where tokens are bytes.
    """
    if options.replace is not None and re.search(options.replace, "embedding/embedding"):
        return
    if (path / "checkpoints").is_dir():
        theirs = load_tokenizer(path / "tokenizer.json") if (path / "tokenizer.json").exists() else None
    else:
        theirs = Folder(path).tokenizer
    if theirs is None and vocab_size != 256:
        return
    ours = None if tokenizer is None else Tokenizer.from_str(tokenizer)
    if (theirs and theirs.get_vocab()) != (ours and ours.get_vocab()):
        needed = "'bytes'" if theirs is None else f"the tokenizer.json of {path}"
        raise UserError(
            f"config.data.tokenizer makes other tokens than {path} was trained on: set it to {needed}, or begin the "
            "embedding anew by config.finetune.replace='embedding'."
        )


def documents_of(options: FinetuneOptions, section: Mapping[str, Any]) -> dict[str, str]:
    """What to keep of a checkpoint that a run begins from, by the run's files: all where it stays the same model."""
    if options.init_from is None or options.replace is not None:
        return {}
    path = Path(options.init_from)
    theirs = {k: v for k, v in model_config(path).items() if k not in ("dropout", "scan_layers", "remat")}
    if different(section, theirs):
        return {}
    documents = read_documents(path / DOCUMENTS) if (path / "checkpoints").is_dir() else Folder(path).documents
    return {f"{DOCUMENTS}/{name}": content for name, content in documents.items()}


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
    if not (Path(path) / "checkpoints").is_dir():
        return checkpoint_arrays(path)
    weights, statistics = newest_weights(Path(path))
    return {name: partial(np.asarray, array) for name, array in unstacked(weights | statistics).items()}


def fitted(
    arrays: Arrays, targets: Mapping[str, jax.ShapeDtypeStruct], options: FinetuneOptions
) -> dict[str, jax.Array]:
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
