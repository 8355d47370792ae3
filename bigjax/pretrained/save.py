"""From a live model to a checkpoint folder that transformers loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from bigjax.errors import UserError
from bigjax.folders import new_folder
from bigjax.models.lora import merge_lora
from bigjax.models.stacked import unstacked
from bigjax.parallel.mesh import name_of
from bigjax.pretrained import FAMILIES
from bigjax.pretrained.mapping import Family, Place, Table

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}
SHARD_BYTES = 5 * 10**9  # transformers' own limit


def save_pretrained(
    path: str | Path,
    model: nnx.Module,
    section: Mapping[str, Any],
    *,
    documents: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes config.json, safetensors, tokenizer.json, and what else goes with them.

    Args:
      path: the folder, which must be empty or not exist.
      model: a live module; corrections of LoRA become part of its weights.
      section: its `config.model`.
      documents: those of the checkpoint that it came from, which are written again; the dtype in config.json decides.
      tokenizer: saved too, where the documents have none.

    Raises:
      UserError: no family has this model, or the folder is not empty.
    """
    source = json.loads((documents or {}).get("config.json", "{}"))
    family = family_for(section, source)
    config = source or {"dtype": "float32", **family.config(section)}
    table = Table(family, section)
    state = nnx.to_pure_dict(nnx.state(merge_lora(model)))
    arrays = unstacked({name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)})
    places: dict[str, Place] = {}
    for name in arrays:
        place = table.of_ours(name)
        places[place.theirs] = place
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"The checkpoint's config.json has dtype {name!r}; weights are saved as {', '.join(DTYPES)}.")
    with new_folder(path) as folder:
        write(folder, places, arrays, DTYPES[name])
        for file, content in ({"config.json": json.dumps(config, indent=2) + "\n"} | dict(documents or {})).items():
            (folder / file).write_text(content)
        if tokenizer is not None and not (folder / "tokenizer.json").exists():
            tokenizer.save(str(folder / "tokenizer.json"))


def family_for(section: Mapping[str, Any], source: Mapping[str, Any]) -> Family:
    """The family of checkpoints that a `config.model` belongs to: the one that it came from, or the first."""
    came_from = [FAMILIES[name] for name in source.get("architectures", ()) if name in FAMILIES]
    for family in (*came_from, *FAMILIES.values()):
        if all(section.get(key, value) == value for key, value in family.kind.items()):
            return family
    names = sorted({family.kind["name"] for family in FAMILIES.values()})
    raise UserError(
        f"No Hugging Face architecture has a model {section['name']!r} with these options; "
        f"models that can be exported are {', '.join(names)}: {', '.join(FAMILIES)}."
    )


def write(folder: Path, places: Mapping[str, Place], arrays: Mapping[str, jax.Array], dtype: Any) -> None:
    """One safetensors file, or several with an index, each of at most SHARD_BYTES."""
    sizes = {t: sum(arrays[o].size for o in p.ours) * np.dtype(dtype).itemsize for t, p in places.items()}
    shards: list[list[str]] = [[]]
    for name in sorted(places):
        if shards[-1] and sum(sizes[n] for n in shards[-1]) + sizes[name] > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        tensors = {}
        for name in names:
            place = places[name]
            tensor = place.layout.back([np.asarray(arrays[one]) for one in place.ours])
            tensors[name] = np.ascontiguousarray(tensor.astype(dtype))
            if name.endswith(".running_mean"):  # beside it PyTorch expects a count of batches, which it does not use
                tensors[name.replace("running_mean", "num_batches_tracked")] = np.array(0)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
