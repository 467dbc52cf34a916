"""Periodic functions and those made of them."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import Number, as_number, elementwise
from jaxact.activations._math import _coefficients as fits
from jaxact.activations._math import _special as sp
from jaxact.activations._math._special import horner
from jaxact.activations._table import INF, NAN, known

Out = Float[Array, "..."]


def _angle(x: Array, omega: float) -> tuple[Array, Array]:
    """The product omega x, finite where x is, and what rounding took from it."""
    if abs(omega) > 1:
        limit = float(jnp.finfo(x.dtype).max) / 2 / abs(omega)
        x = jnp.where(jnp.isinf(x), x, jnp.clip(x, -limit, limit))
    if sp.exact(omega):
        return x * omega, jnp.zeros_like(x)
    return sp.scaled_product(x, omega)


def _sine_and_cosine(low: Array) -> tuple[Array, Array]:
    """Of a small angle, within [-1, 1]."""
    low = jnp.clip(low, -1.0, 1.0)
    square, terms = low * low, 10 if sp.is_double(low) else 5
    return low * horner(square, _alternating(terms, 1)), horner(square, _alternating(terms, 0))


def _sin(z: Array, low: Array) -> Array:
    s, c = _sine_and_cosine(low)
    return jnp.sin(z) * c + jnp.cos(z) * s


def _cos(z: Array, low: Array) -> Array:
    s, c = _sine_and_cosine(low)
    return jnp.cos(z) * c - jnp.sin(z) * s


def _sine_value(x: Array, omega: float) -> Array:
    return jnp.sin(x * omega) if sp.exact(omega) and abs(omega) <= 1 else _sin(*_angle(x, omega))


def _sine_slope(x: Array, omega: float) -> Array:
    if sp.exact(omega) and abs(omega) <= 1:
        return omega * jnp.cos(x * omega)
    return omega * _cos(*_angle(x, omega))


_sine = elementwise(_sine_value, _sine_slope)


@known(
    "periodic",
    r"\sin x",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    paper="Sitzmann et al.",
    year=2020,
    monotone=False,
    limits=(NAN, NAN),
    aliases=("sin",),
)
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
    return jnp.cos(x * omega) if sp.exact(omega) and abs(omega) <= 1 else _cos(*_angle(x, omega))


def _cosine_slope(x: Array, omega: float) -> Array:
    return -omega * _sine_value(x, omega)


_cosine = elementwise(_cosine_value, _cosine_slope)


@known(
    "periodic",
    r"\cos x",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    monotone=False,
    limits=(NAN, NAN),
    aliases=("cos",),
)
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
    """Where it is least beside x, at ax = -1.17, x times a fit of 1 + sin(ax)^2/(ax)."""
    z, low = _angle(jnp.where(jnp.isinf(x), 0.0, x), a)
    s = _sin(z, low)
    centre, reach = fits.SNAKE_CENTRE, fits.SNAKE_REACH
    d = (z - centre) + low
    near = jnp.abs(d) < reach
    d = jnp.clip(d, -reach, reach)
    *coefficients, first = sp.fit(x, "SNAKE")
    rest = horner(d, tuple(coefficients))
    product = d * rest
    ratio = first + product
    low = ((first - ratio) + product) + sp.product_error(d, rest, product)
    return jnp.where(near, x * ratio + x * low, x + s * s / a)


_QUARTER = {
    32: (0.7853981852531433, -2.1855694143368964e-08),
    64: (math.pi / 4, 3.061616997868383e-17),
}


def _snake_slope(x: Array, a: float) -> Array:
    """1 + sin(2ax) = 2 sin(ax + pi/4)^2, which touches 0: the argument is taken in two parts."""
    z, error = _angle(x, a)
    upper, lower = _QUARTER[64 if sp.is_double(x) else 32]
    total = z + upper
    part = total - z
    low = ((z - (total - part)) + (upper - part)) + (error + lower)
    root = _sin(total, low)
    return 2.0 * root * root


def _alternating(terms: int, first: int) -> tuple[float, ...]:
    """The coefficients 1/first!, -1/(first + 2)!, ..., the highest power first."""
    return tuple((-1) ** k / math.factorial(2 * k + first) for k in reversed(range(terms)))


def unit_sine_slope(x: Array) -> Array:
    """1 + sin(x), which touches 0."""
    return _snake_slope(x, 0.5)


_snake = elementwise(_snake_value, _snake_slope)


@known(
    "periodic", r"x + \sin^2 x", range=(-INF, INF), lipschitz=2.0, paper="Ziyin et al.", year=2020
)
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


def sinc_value(x: Array) -> Array:
    y = jnp.where(jnp.abs(x) < 2, 1.0, x)
    far = jnp.where(jnp.isinf(x), 0.0, jnp.sin(y) / y)
    return jnp.where(jnp.abs(x) < 2, horner(jnp.where(jnp.abs(x) < 2, x * x, 0.0), _SINC), far)


_SINC_SLOPE = tuple(c * 2 * (14 - i) for i, c in enumerate(_SINC[:-1]))


def sinc_slope(x: Array) -> Array:
    near = jnp.abs(x) < 2
    y = jnp.where(near, 2.0, jnp.where(jnp.isinf(x), 1e30, x))
    small = jnp.where(near, x, 0.0)
    far = jnp.where(jnp.isinf(x), 0.0, (jnp.cos(y) - jnp.sin(y) / y) / y)
    return jnp.where(near, small * horner(small * small, _SINC_SLOPE), far)


_sinc = elementwise(sinc_value, sinc_slope, name="sinc")


@known(
    "periodic",
    r"\sin(x) / x",
    range=(-0.21723362821122166, 1.0),
    lipschitz=0.4361818172714585,
    monotone=False,
    limits=(0.0, 0.0),
)
def sinc(x: Any, /) -> Out:
    """Unnormalized cardinal sine, f(x) = sin(x)/x, with f(0) = 1.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-0.2172, 1]; all derivatives are exact at 0.
    """
    return _sinc(x)


_gcu = elementwise(lambda x: x * jnp.cos(x), lambda x: jnp.cos(x) - x * jnp.sin(x), name="gcu")


@known(
    "periodic",
    r"x \cos x",
    range=(-INF, INF),
    lipschitz=INF,
    paper="Noel et al.",
    year=2021,
    monotone=False,
    limits=(NAN, NAN),
)
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
