"""Gated linear units, on two arrays or on one that packs value and gate along an axis.

On a TPU the gradient of a packed unit must join two halves in memory: it moves 2.6 times the least
bytes, the two-array form 1.00. Two projections, or one reshaped to (..., 2, width), avoid it.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import as_float
from jaxact.activations._exponential import selu
from jaxact.activations._rectified import identity, relu
from jaxact.activations._self_gated import gelu, silu
from jaxact.activations._sigmoidal import sigmoid, tanh

Out = Float[Array, "..."]


def _unit(
    name: str, formula: str, reference: str, gate_of: Callable[..., Array], value_of=identity
):
    def unit(value: Any, gate: Any = None, /, *, axis: int = -1) -> Out:
        value = as_float(value, "value")
        if gate is None:
            size = value.shape[axis] if value.ndim else 0
            if size == 0 or size % 2:
                raise ValueError(
                    f"{name}: without a gate, the axis must pack value and gate and have an even "
                    f"length; got shape {value.shape} and axis {axis}"
                )
            value, gate = jnp.split(value, 2, axis=axis)
        else:
            gate = as_float(gate, "gate")
            if value.shape != gate.shape or value.dtype != gate.dtype:
                raise ValueError(
                    f"{name}: value and gate must agree in shape and dtype, got "
                    f"{value.shape} {value.dtype} and {gate.shape} {gate.dtype}"
                )
        return value_of(value) * gate_of(gate)

    unit.__name__ = unit.__qualname__ = name
    unit.__doc__ = f"""{formula}

    Args:
        value: Real floating array; without a gate, value and gate packed in this order.
        gate: Of the shape and dtype of value. Prefer it to the packed form: see the module.
        axis: The packed axis, of even length, where no gate is given.

    Returns:
        Of the shape of the value (half of a packed axis) and its dtype.

    Raises:
        ValueError: Shapes or dtypes differ, or the packed axis is odd.

    Reference:
        {reference}
    """
    return unit


_SHAZEER = 'Shazeer 2020, "GLU Variants Improve Transformer".'
glu = _unit(
    "glu",
    "Gated linear unit, value sigmoid(gate).",
    'Dauphin et al. 2017, "Language Modeling with Gated Convolutional Networks".',
    sigmoid,
)
bilinear = _unit("bilinear", "Bilinear unit, value gate.", _SHAZEER, identity)
reglu = _unit("reglu", "Rectified gated unit, value relu(gate).", _SHAZEER, relu)
geglu = _unit("geglu", "GELU gated unit, value gelu(gate).", _SHAZEER, gelu)
swiglu = _unit("swiglu", "SiLU gated unit, value silu(gate).", _SHAZEER, silu)
seglu = _unit("seglu", "SELU gated unit, value selu(gate).", _SHAZEER, selu)
gtu = _unit(
    "gtu",
    "Gated tanh unit, tanh(value) sigmoid(gate).",
    'van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders".',
    sigmoid,
    tanh,
)

GATED_UNITS: dict[str, Callable[..., Array]] = {
    unit.__name__: unit for unit in (glu, bilinear, reglu, geglu, swiglu, seglu, gtu)
}
"""Units of a value and a gate, by name."""
