"""How many floating-point operations a step is, counted from what it traces to."""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# Peak dense bfloat16 FLOP/s per chip, from the makers' data sheets.
PEAK_BFLOAT16 = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """The chip's peak bfloat16 FLOP/s, or None where it is not known."""
    return next((peak for name, peak in PEAK_BFLOAT16.items() if device_kind.startswith(name)), None)


def count_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Multiplications and additions in a jaxpr's matrix products and convolutions, loops counted as often as they run.

    Elementwise work is left out, as is usual for MFU. A `while` of unknown length counts once.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(equation_flops(equation) for equation in jaxpr.eqns)


def equation_flops(equation: JaxprEqn) -> int:
    """The operations of one equation, with those of what it calls."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = shape_of(equation.invars[0])
        return 2 * math.prod(shape_of(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)
    if name == "ragged_dot_general":
        dimensions = params["ragged_dot_dimension_numbers"]
        (contracted, _), _ = dimensions.dot_dimension_numbers
        shape, groups = shape_of(equation.invars[0]), shape_of(equation.invars[2])[-1]
        work = 2 * math.prod(shape_of(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)
        # A row meets one group only; where rows are contracted, the result has an axis of groups.
        return work // groups if dimensions.lhs_ragged_dimensions[0] in contracted else work
    if name == "conv_general_dilated":
        kernel = shape_of(equation.invars[1])
        out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
        # Zeros that a strided convolution's gradient puts between its inputs are not work.
        dilation = math.prod(params["lhs_dilation"])
        return 2 * math.prod(shape_of(equation.outvars[0])) * math.prod(kernel) // (out_features * dilation)
    if name.startswith("dot_product_attention"):  # cuDNN's, forward with two products and backward with twice as many
        (batch, length, heads, width), source = shape_of(equation.invars[0]), shape_of(equation.invars[1])
        square = 4 * batch * heads * length * source[1] * width * (2 if "bwd" in name else 1)
        return square // 2 if "CAUSAL" in str(params["mask_type"]) else square
    times = params.get("length", 1) if name == "scan" else 1
    branches = [count_flops(inner) for value in params.values() for inner in inner_jaxprs(value)]
    return times * (max(branches, default=0) if name == "cond" else sum(branches))


def inner_jaxprs(value: Any) -> list[Jaxpr | ClosedJaxpr]:
    """The jaxprs in one of an equation's parameters."""
    if isinstance(value, (Jaxpr, ClosedJaxpr)):
        return [value]
    return [inner for item in value for inner in inner_jaxprs(item)] if isinstance(value, (tuple, list)) else []


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a jaxpr's variable."""
    return variable.aval.shape
