"""Whether a mesh suits a batch and a model, asked before anything is compiled."""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from bigjax.errors import UserError
from bigjax.models import CUTS_POSITIONS, SHARDING
from bigjax.parallel.mesh import nearest_multiples


def check_batch_size(batch_size: int, shards: int, accumulate: int) -> None:
    """Raises UserError unless every device gets equally many rows of every microbatch."""
    unit = shards * accumulate
    if batch_size % unit:
        raise UserError(
            f"config.train.batch_size={batch_size} does not divide into {accumulate} microbatches "
            f"on {shards} devices; the nearest that does is {nearest_multiples(batch_size, unit)}."
        )


def check_axes(mesh: Mesh, model: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
    """Raises UserError where an axis of the mesh would do nothing for a model, or does not divide what it cuts.

    Args:
      mesh: from `make_mesh`.
      model: `config.model`.
      batch: arrays, or their shapes.
    """
    for axis, models in (("tensor", tuple(SHARDING)), ("sequence", CUTS_POSITIONS)):
        if mesh.shape[axis] > 1 and model["name"] not in models:
            raise UserError(f"config.mesh.{axis} is for {', '.join(models)}, and not for {model['name']}: leave it 1.")
    stacked = model.get("scan_layers") and model.get("num_experts") is None
    if mesh.shape["pipeline"] > 1 and (not stacked or mesh.shape["sequence"] > 1):
        raise UserError(
            f"config.mesh.pipeline={mesh.shape['pipeline']} cuts a stack of layers into stages: it takes a model with "
            "config.model.scan_layers=True and no num_experts, and config.mesh.sequence=1."
        )
    n = mesh.shape["sequence"]
    for name, array in batch.items():
        if array.ndim == 2 and (length := array.shape[1]) % n:
            raise UserError(
                f"config.mesh.sequence={n} does not divide the {length} positions of {name}: "
                f"{nearest_multiples(length, n)} would do."
            )
    devices, num_experts = mesh.shape["expert"], model.get("num_experts")
    if devices > 1 and (num_experts is None or num_experts % devices):
        raise UserError(
            f"config.mesh.expert={devices} shares out config.model.num_experts, which is {num_experts} and must be a "
            f"multiple of {devices}: change it, or set config.mesh.expert=1."
        )
