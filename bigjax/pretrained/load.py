"""From a checkpoint folder to a live model."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
from tokenizers import Tokenizer

from bigjax.errors import UserError
from bigjax.models import MODELS, SHARDING
from bigjax.parallel.mesh import name_of, state_shardings
from bigjax.pretrained import FAMILIES
from bigjax.pretrained.folder import DTYPES as TENSOR_DTYPES
from bigjax.pretrained.folder import Folder
from bigjax.pretrained.mapping import Family, Place, Table

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint as bigjax uses it.

    Attributes:
      model: a live module.
      config: its `config.model`.
      tokenizer: the checkpoint's own, or None where it has none.
      documents: the content of config.json and of what else goes with the weights when they are saved again, by name.
    """

    model: nnx.Module
    config: dict[str, Any]
    tokenizer: Tokenizer | None
    documents: dict[str, str]

    @property
    def stop(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return stop_tokens(self.documents)


def stop_tokens(documents: Mapping[str, str]) -> tuple[int, ...]:
    """The tokens that end a text, by a checkpoint's generation_config.json, which may name more than config.json."""
    config, generation = (json.loads(documents.get(f"{name}.json", "{}")) for name in ("config", "generation_config"))
    token = generation.get("eos_token_id", config.get("eos_token_id"))
    return () if token is None else tuple(token) if isinstance(token, list) else (token,)


def load_pretrained(
    path: str | Path, *, dtype: Literal["float32", "bfloat16"] = "float32", mesh: Mesh | None = None
) -> Pretrained:
    """Reads a Hugging Face, torchvision or timm checkpoint, tensor by tensor, straight to where each array belongs.

    Args:
      path: the folder, with config.json and safetensors, or torchvision's tensors in one safetensors file.
      dtype: of the parameters, and what is computed in.
      mesh: over which the parameters are laid as in training; None is the first device.

    Raises:
      UserError: the folder cannot be read, its architecture or one of its options is not known, a tensor has no
        place, another shape, or is missing, or the tokenizer has more tokens than the model.
    """
    folder = Folder(path)
    family = family_of(folder)
    section = model_section(family, folder)
    abstract = abstract_model(section, dtype)
    tokenizer = folder.tokenizer
    if tokenizer is not None and tokenizer.get_vocab_size() > section.get("vocab_size", np.inf):
        raise UserError(
            f"The tokenizer has {tokenizer.get_vocab_size()} tokens, but the model only {section['vocab_size']}."
        )
    graphdef, state = nnx.split(abstract)

    def target(variable: nnx.Variable) -> nnx.Variable:
        # Statistics of BatchNorm stay in float32.
        of = DTYPES[dtype] if isinstance(variable, nnx.Param) else variable.dtype
        return variable.replace(jax.ShapeDtypeStruct(variable.shape, of))

    targets = nnx.to_pure_dict(jax.tree.map(target, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))
    if mesh is None:
        shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), targets)
    else:
        shardings = state_shardings(mesh, targets, SHARDING.get(section["name"], ()))
    targets = jax.tree.map(lambda t, s: jax.ShapeDtypeStruct(t.shape, t.dtype, sharding=s), targets, shardings)
    leaves, structure = jax.tree_util.tree_flatten_with_path(targets)
    weights = load_weights(folder, Table(family, section), {name_of(path): leaf for path, leaf in leaves})
    arrays = jax.tree.unflatten(structure, [weights[name_of(path)] for path, _ in leaves])
    return Pretrained(nnx.merge(graphdef, arrays), section, tokenizer, folder.documents)


def checkpoint_config(path: str | Path) -> dict[str, Any]:
    """The `config.model` of a checkpoint.

    Raises:
      UserError: the folder cannot be read, or its architecture or one of its options is not known.
    """
    folder = Folder(path)
    return model_section(family_of(folder), folder)


def checkpoint_arrays(path: str | Path) -> dict[str, Callable[[], np.ndarray]]:
    """The arrays of a checkpoint by our names; each is read when it is called.

    Raises:
      UserError: as `load_pretrained`, but for arrays that the checkpoint lacks, which a new model may begin anew.
    """
    folder = Folder(path)
    family = family_of(folder)
    section = model_section(family, folder)
    table = Table(family, section)
    places = places_of(folder, table)
    state = nnx.to_pure_dict(nnx.state(abstract_model(section)))
    targets = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    there = {name for place in places for name in place.ours}
    check(places, folder, table, {name: target for name, target in targets.items() if name in there})

    def read(place: Place, part: int) -> np.ndarray:
        return place.layout.into(folder.tensor(place.theirs))[part]

    return {name: partial(read, place, part) for place in places for part, name in enumerate(place.ours)}


def abstract_model(section: Mapping[str, Any], dtype: Literal["float32", "bfloat16"] = "float32") -> nnx.Module:
    """The model of a checkpoint's `config.model` with shapes for arrays."""
    kwargs = {key: value for key, value in section.items() if key != "name"}
    make = MODELS[section["name"]]
    try:
        return nnx.eval_shape(lambda: make(**kwargs, dtype=DTYPES[dtype], rngs=nnx.Rngs(params=0)))
    except (ValueError, TypeError) as error:
        raise UserError(f"The checkpoint's config.json: {error}.") from error


def family_of(folder: Folder) -> Family:
    """The family of a checkpoint, by the architecture in its config.json."""
    names = folder.config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{str(folder.path / 'config.json')!r} has architectures={names!r}, which is no list of names.")
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    known = ", ".join(FAMILIES)
    raise UserError(
        f"{str(folder.path)!r} is a checkpoint of {', '.join(names) or 'no known architecture'}; bigjax has {known}."
    )


def model_section(family: Family, folder: Folder) -> dict[str, Any]:
    """The `config.model` of a checkpoint."""
    try:
        section = {**family.kind, **family.model(folder.config)}
        if (layers := section.get("num_layers", 0)) > len(folder.shapes):
            raise UserError(f"{str(folder.path)!r} has {len(folder.shapes)} tensors, too few for {layers} layers.")
        return section
    except KeyError as error:
        raise UserError(f"{str(folder.path / 'config.json')!r} lacks {error}.") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{str(folder.path / 'config.json')!r} has a value that cannot be: {error}.") from error


def load_weights(folder: Folder, table: Table, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Our arrays by name; everything is checked before the first is read.

    Args:
      folder: the checkpoint.
      table: which tensor goes where.
      targets: shape, dtype and sharding of each array.

    Raises:
      UserError: a tensor has no place or another shape, or an array has no tensor.
    """
    places = places_of(folder, table)
    check(places, folder, table, targets)
    # The largest first: what a tensor takes while it is copied is then least when most is loaded.
    places.sort(key=lambda place: -math.prod(folder.shapes[place.theirs]))
    weights = {}
    for place in places:
        tensor = folder.tensor(place.theirs)
        for name, array in zip(place.ours, place.layout.into(tensor), strict=True):
            weights[name] = put(array, targets[name])
    return weights


def places_of(folder: Folder, table: Table) -> list[Place]:
    """Where each tensor goes that is used.

    Raises:
      UserError: a tensor has no place, or is not the one that it is tied to.
    """
    for name, other in table.family.tied.items():
        if name in folder.files and table.of_theirs(name) is None:
            if other not in folder.files:
                other = other.removeprefix(table.family.prefix)
            if other in folder.files and not np.array_equal(folder.tensor(name), folder.tensor(other)):
                raise UserError(f"The tensor {name!r} differs from {other!r}, but config.json says that they are tied.")
    return [place for name in folder.files if (place := table.of_theirs(name)) is not None]


def check(places: list[Place], folder: Folder, table: Table, targets: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raises UserError unless the places fill every target exactly once, with its shape."""
    filled: dict[str, str] = {}
    for place in places:
        shape, dtype = folder.shapes[place.theirs], folder.dtypes[place.theirs]
        if dtype not in TENSOR_DTYPES:
            raise UserError(f"The tensor {place.theirs!r} is {dtype}; bigjax reads {', '.join(TENSOR_DTYPES)}.")
        try:
            arrays = place.layout.into(np.broadcast_to(np.float32(0), shape))  # takes no memory
        except (ValueError, IndexError) as error:
            raise UserError(f"The tensor {place.theirs!r} has shape {shape}, which cannot be: {error}.") from error
        for name, array in zip(place.ours, arrays, strict=True):
            if name not in targets:
                raise UserError(f"The tensor {place.theirs!r} belongs to {name!r}, which the model does not have.")
            if array.shape != targets[name].shape:
                raise UserError(
                    f"The tensor {place.theirs!r} has shape {shape}; its place {name!r} has {targets[name].shape}, "
                    f"not {array.shape}."
                )
            if name in filled:
                raise UserError(f"The tensors {filled[name]!r} and {place.theirs!r} both belong to {name!r}.")
            filled[name] = place.theirs
    if missing := [name for name in targets if name not in filled]:
        more = f", and none for {len(missing) - 1} more arrays." if len(missing) > 1 else "."
        raise UserError(
            f"The checkpoint lacks {table.of_ours(missing[0]).theirs!r}, which is {missing[0]!r} here{more}"
        )


def put(array: np.ndarray, target: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
    """`array` in the dtype and at the place of `target`; a device is given only what it keeps."""
    return jax.make_array_from_callback(
        target.shape, target.sharding, lambda index: np.ascontiguousarray(array[index], dtype=target.dtype)
    )
