"""Periodic functions and those made of them."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import as_number, elementwise

Out = Float[Array, "..."]


def _sine_value(x: Array, omega: float) -> Array:
    return jnp.sin(x * omega)


def _sine_slope(x: Array, omega: float) -> Array:
    return omega * jnp.cos(x * omega)


_sine = elementwise(_sine_value, _sine_slope)


def sine(x: Any, /, *, omega: float = 1.0) -> Out:
    """Sine, f(x) = sin(omega x).

    Args:
        x: Real floating array of any shape.
        omega: Frequency; SIREN takes 30 in its first layer.

    Returns:
        Values in [-1, 1]; NaN at the infinities, where there is no limit.

    Reference:
        Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation Functions".
    """
    return _sine(x, as_number(omega, "omega"))
