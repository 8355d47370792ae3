"""What of a model learns: the whole of it, a part, or low-rank corrections."""

import re
from dataclasses import dataclass

import jax
from flax import nnx

from bigjax.errors import UserError
from bigjax.models.checks import check_positive, check_sizes
from bigjax.models.lora import add_lora
from bigjax.parallel.mesh import name_of
from bigjax.training.checkpoint import flatten
from bigjax.training.state import Tree


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
        check_sizes(lora_rank=self.lora_rank)
        check_positive(lora_alpha=self.lora_alpha)
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
