"""Periodic functions and those made of them."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import Number, as_number, elementwise
from jaxact.activations._special import horner

Out = Float[Array, "..."]


def _angle(x: Array, omega: float) -> Array:
    """The product omega x, finite where x is."""
    if -1 <= omega <= 1:
        return x * omega
    limit = float(jnp.finfo(x.dtype).max) / 2 / abs(omega)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -limit, limit)) * omega


def _sine_value(x: Array, omega: float) -> Array:
    return jnp.sin(_angle(x, omega))


def _sine_slope(x: Array, omega: float) -> Array:
    return omega * jnp.cos(_angle(x, omega))


_sine = elementwise(_sine_value, _sine_slope)


def sine(x: Any, /, *, omega: Number = 1.0) -> Out:
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


def _cosine_value(x: Array, omega: float) -> Array:
    return jnp.cos(_angle(x, omega))


def _cosine_slope(x: Array, omega: float) -> Array:
    return -omega * jnp.sin(_angle(x, omega))


_cosine = elementwise(_cosine_value, _cosine_slope)


def cosine(x: Any, /, *, omega: Number = 1.0) -> Out:
    """Cosine, f(x) = cos(omega x).

    Args:
        x: Real floating array of any shape.
        omega: Frequency.

    Returns:
        Values in [-1, 1]; NaN at the infinities, where there is no limit.
    """
    return _cosine(x, as_number(omega, "omega"))


def _snake_value(x: Array, a: float) -> Array:
    s = jnp.sin(a * jnp.where(jnp.isinf(x), 0.0, x))
    return x + s * s / a


_QUARTER = {
    32: (0.7853981852531433, -2.1855694143368964e-08),
    64: (math.pi / 4, 3.061616997868383e-17),
}


def _snake_slope(x: Array, a: float) -> Array:
    """1 + sin(2ax) = 2 sin(ax + pi/4)^2, which touches 0: the argument is taken in two parts."""
    z, error = sp.scaled_product(x, a)
    upper, lower = _QUARTER[64 if sp.is_double(x) else 32]
    total = z + upper
    part = total - z
    low = ((z - (total - part)) + (upper - part)) + (error + lower)
    low = jnp.clip(low, -1.0, 1.0)
    # sin(total + low), where low is small unless ax is huge.
    square, terms = low * low, 10 if sp.is_double(x) else 5
    cosine_of_low = sp.horner(square, _alternating(terms, 0))
    sine_of_low = low * sp.horner(square, _alternating(terms, 1))
    root = jnp.sin(total) * cosine_of_low + jnp.cos(total) * sine_of_low
    return 2.0 * root * root


def _alternating(terms: int, first: int) -> tuple[float, ...]:
    """The coefficients 1/first!, -1/(first + 2)!, ..., the highest power first."""
    return tuple((-1) ** k / math.factorial(2 * k + first) for k in reversed(range(terms)))


_snake = elementwise(_snake_value, _snake_slope)


def snake(x: Any, /, *, a: Number = 1.0) -> Out:
    """Snake, f(x) = x + sin(a x)^2 / a.

    Args:
        x: Real floating array of any shape.
        a: Frequency, positive.

    Returns:
        Values of the shape and dtype of x; it never decreases.

    Reference:
        Ziyin et al. 2020, "Neural Networks Fail to Learn Periodic Functions and How to Fix It".
    """
    return _snake(x, as_number(a, "a", positive=True))


_SINC = _alternating(15, 1)


def _sinc_value(x: Array) -> Array:
    y = jnp.where(jnp.abs(x) < 2, 1.0, x)
    far = jnp.where(jnp.isinf(x), 0.0, jnp.sin(y) / y)
    return jnp.where(jnp.abs(x) < 2, horner(jnp.where(jnp.abs(x) < 2, x * x, 0.0), _SINC), far)


_SINC_SLOPE = tuple(c * 2 * (14 - i) for i, c in enumerate(_SINC[:-1]))


def _sinc_slope(x: Array) -> Array:
    near = jnp.abs(x) < 2
    y = jnp.where(near, 2.0, jnp.where(jnp.isinf(x), 1e30, x))
    small = jnp.where(near, x, 0.0)
    far = jnp.where(jnp.isinf(x), 0.0, (jnp.cos(y) - jnp.sin(y) / y) / y)
    return jnp.where(near, small * horner(small * small, _SINC_SLOPE), far)


_sinc = elementwise(_sinc_value, _sinc_slope)


def sinc(x: Any, /) -> Out:
    """Unnormalized cardinal sine, f(x) = sin(x)/x, with f(0) = 1.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-0.2172, 1]; all derivatives are exact at 0.
    """
    return _sinc(x)


_gcu = elementwise(lambda x: x * jnp.cos(x), lambda x: jnp.cos(x) - x * jnp.sin(x), name="gcu")


def gcu(x: Any, /) -> Out:
    """Growing cosine unit, f(x) = x cos(x).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; NaN at the infinities.

    Reference:
        Noel et al. 2021, "Growing Cosine Unit".
    """
    return _gcu(x)
