"""A checkpoint folder as Hugging Face lays it out: config.json, safetensors in one file or several, a tokenizer.

One safetensors file alone, as from torchvision, will do where its tensors tell the architecture.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer

from bigjax.data.subwords import load_tokenizer
from bigjax.errors import UserError
from bigjax.pretrained import torchvision

# What there may be beside the weights: it comes in and goes out as it is.
DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
)
DTYPES = ("F64", "F32", "F16", "BF16")  # of tensors that are used; others would need scales, or lose a part
PICKLES = (".bin", ".pth", ".pt")
CONVERT = (
    "model.save_pretrained(FOLDER) in transformers, or safetensors.torch.save_file(state_dict, 'model.safetensors'), "
    "writes one that holds nothing but numbers"
)


class Folder:
    """What a checkpoint folder holds; tensors are read one at a time, when they are asked for.

    Raises:
      UserError: there is no such folder, or no config.json or safetensors in it, or a shard is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"There is no folder {str(path)!r} with a checkpoint in it.")
        alone = self.path.is_file()
        if alone and self.path.suffix != ".safetensors":
            raise UserError(
                f"{self.path.name} is a pickle, which can run any code when it is read: {CONVERT}."
                if self.path.suffix in PICKLES
                else f"{str(self.path)!r} is neither a folder nor a safetensors file."
            )
        self.config = {} if alone else self.read("config.json")
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for file in [self.path] if alone else self.shards():
            self.look_into(file)
        self.optional("generation_config.json")  # so that a damaged one is noticed
        if "architectures" not in self.config:  # torchvision has no config.json, and timm has another kind
            self.config |= torchvision.describe(self.config, self.shapes)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        file = self.path / name
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            raise UserError(
                f"{str(self.path)!r} has no {name}, which a Hugging Face checkpoint needs; of torchvision's give the "
                "safetensors file itself."
            ) from None
        except (ValueError, RecursionError, OSError) as error:
            raise UserError(f"{str(file)!r} cannot be read as JSON: {error}.") from error
        if not isinstance(content, dict):
            raise UserError(f"{str(file)!r} is not a JSON object.")
        return content

    def shards(self) -> list[Path]:
        """The safetensors files."""
        whole, index = self.path / "model.safetensors", self.path / "model.safetensors.index.json"
        if whole.exists():
            return [whole]
        if index.exists():
            names = self.read(index.name).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                raise UserError(f"{str(index)!r} has no weight_map from tensors to files.")
            files = [self.path / Path(name).name for name in sorted(set(names.values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                raise UserError(f"{str(self.path)!r} lacks {missing[0]}, a shard that its index names.")
            return files
        if pickled := sorted(file.name for kind in PICKLES for file in self.path.glob(f"*{kind}")):
            raise UserError(f"{pickled[0]} is a pickle, which can run any code when it is read: {CONVERT}.")
        raise UserError(f"{str(self.path)!r} has no model.safetensors.")

    def look_into(self, file: Path) -> None:
        """Notes the names, shapes and dtypes of the tensors in one file."""
        try:
            with safe_open(file, "numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                    self.files[name] = file
                    tensor = tensors.get_slice(name)
                    self.shapes[name], self.dtypes[name] = tuple(tensor.get_shape()), tensor.get_dtype()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{str(file)!r} is damaged: {error}.") from error

    def tensor(self, name: str) -> np.ndarray:
        """One tensor. The file is opened for it alone, for what has been read of an open one stays in memory."""
        with safe_open(self.files[name], "numpy") as tensors:
            return tensors.get_tensor(name)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's own tokenizer, or None where it has none."""
        whole, words, merges = (self.path / name for name in ("tokenizer.json", "vocab.txt", "merges.txt"))
        if whole.exists():
            return load_tokenizer(whole)
        try:
            if words.exists():
                lower = self.optional("tokenizer_config.json").get("do_lower_case", True)
                return BertWordPieceTokenizer(str(words), lowercase=lower)._tokenizer
            if merges.exists():
                return ByteLevelBPETokenizer(str(self.path / "vocab.json"), str(merges))._tokenizer
        except Exception as error:  # the library raises no narrower class
            raise UserError(f"The vocabulary of {str(self.path)!r} is damaged: {error}.") from error
        return None

    @property
    def documents(self) -> dict[str, str]:
        """The content of `DOCUMENTS`, as far as there are any; config.json with what the tensors tell."""
        return read_documents(self.path) | {"config.json": json.dumps(self.config, indent=2) + "\n"}

    def optional(self, name: str) -> Mapping[str, Any]:
        """A JSON file that may be absent."""
        return self.read(name) if (self.path / name).exists() else {}


def read_documents(folder: Path) -> dict[str, str]:
    """The content of `DOCUMENTS`, as far as there are any in a folder, by name.

    Raises:
      UserError: one is no text.
    """
    try:
        return {name: (folder / name).read_text() for name in DOCUMENTS if (folder / name).is_file()}
    except (ValueError, OSError) as error:
        raise UserError(f"A file of {str(folder)!r} cannot be read: {error}.") from error
