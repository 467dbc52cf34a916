"""Building blocks at working precision (float32, float64), each with its exact derivative.

Everything of the exponential family is written with exp(-|x|), which neither overflows nor cancels;
XLA merges the copies, so that a value and its derivative share one exponential.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from jaxact.activations import _coefficients as fits
from jaxact.activations._core import ruled


def horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    """The polynomial with these coefficients, highest power first."""
    y = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = y * x + c
    return y


def is_double(x: Array) -> bool:
    """Whether the polynomials of float64 serve."""
    return x.dtype == jnp.float64


def negative_part(x: Array) -> Array:
    """min(x, 0), whose derivative at 0 is that from the left (minimum's would be 1/2)."""
    return jnp.where(x > 0, jnp.zeros_like(x), x)


def decay(x: Array) -> Array:
    """exp(-|x|)."""
    return jnp.exp(-jnp.abs(x))


def _sigmoid(x: Array) -> Array:
    e = decay(x)
    return jnp.where(x >= 0, 1.0, e) / (1.0 + e)


def _sigmoid_of_minus(x: Array) -> Array:
    e = decay(x)
    return jnp.where(x < 0, 1.0, e) / (1.0 + e)


def _bell(x: Array) -> Array:
    return sigmoid(x) * sigmoid_of_minus(x)


sigmoid = ruled(_sigmoid, _bell)
sigmoid_of_minus = ruled(_sigmoid_of_minus, lambda x: -_bell(x))
softplus = ruled(lambda x: jnp.maximum(x, 0.0) + jnp.log1p(decay(x)), sigmoid)


def _expm1(x: Array) -> Array:
    if is_double(x):
        return jnp.expm1(x)
    near = x + x * x * horner(x, fits.EXPM1_32)
    return jnp.where(jnp.abs(x) < 0.5, near, jnp.exp(x) - 1.0)


expm1 = ruled(_expm1, jnp.exp)


def _tanh(x: Array) -> Array:
    z = jnp.minimum(x * x, 0.4)
    near = x - x * z * horner(z, fits.TANH_NEAR_64 if is_double(x) else fits.TANH_NEAR_32)
    e = decay(2.0 * x)
    far = jnp.copysign(1.0 - 2.0 * e / (1.0 + e), x)
    return jnp.where(jnp.abs(x) < 0.625, near, far)


def _sech2(x: Array) -> Array:
    e = decay(2.0 * x)
    root = 1.0 / (1.0 + e)
    return 4.0 * e * root * root


sech2 = ruled(_sech2, lambda x: -2.0 * tanh(x) * sech2(x))
tanh = ruled(_tanh, sech2)


def high_part(x: Array) -> Array:
    """The upper half of the significand of x: its square is exact."""
    bits = (11, 25) if is_double(x) else (8, 11)
    return lax.reduce_precision(x, *bits)


def exp_minus_square(x: Array, half: float = 1.0) -> Array:
    """exp(-half x^2): the rounding error of x^2, which exp would magnify, is put back."""
    square = x * x
    high = high_part(x)
    low = x - high
    error = ((high * high - square) + 2.0 * high * low) + low * low
    y = jnp.exp(-half * square)
    return jnp.where(square < 800.0 / half, y - y * (half * error), y * 0.0)


def gaussian_of(half: float):
    """Of x, exp(-half x^2), for half a power of two."""

    def slope(x):
        return -2.0 * half * jnp.clip(x, -60.0, 60.0) * function(x)

    function = ruled(lambda x: exp_minus_square(x, half), slope)
    return function


gaussian = gaussian_of(1.0)
half_gaussian = gaussian_of(0.5)


def _normal_upper(a: Array) -> Array:
    """Phi(-a) exp(a^2/2), a >= 0."""
    double = is_double(a)
    centre = 4.0 if double else 3.0
    a = jnp.minimum(a, 39.0 if double else 14.5)
    t = (a - centre) / (a + centre)
    return horner(t, fits.NORMAL_TAIL_64 if double else fits.NORMAL_TAIL_32) / (1.0 + 2.0 * a)


def _normal_cdf(x: Array) -> Array:
    upper = exp_minus_square(x, 0.5) * _normal_upper(jnp.abs(x))
    z = jnp.minimum(x * x, 0.5)
    near = 0.5 + x * horner(z, fits.NORMAL_NEAR_64 if is_double(x) else fits.NORMAL_NEAR_32)
    return jnp.where(x * x < 0.5, near, jnp.where(x < 0, upper, 1.0 - upper))


def normal_pdf(x: Array) -> Array:
    """The standard normal density."""
    return half_gaussian(x) * 0.3989422804014326779


normal_cdf = ruled(_normal_cdf, normal_pdf)


def _erfc_tail(a: Array) -> Array:
    """erfc(a), a >= 0."""
    double = is_double(a)
    centre = 3.0 if double else 2.0
    b = jnp.minimum(a, 27.5 if double else 10.5)
    t = (b - centre) / (b + centre)
    ratio = horner(t, fits.ERFC_TAIL_64 if double else fits.ERFC_TAIL_32) / (1.0 + 2.0 * b)
    return exp_minus_square(a) * ratio


def _erf(x: Array) -> Array:
    a = jnp.abs(x)
    z = jnp.minimum(x * x, 1.0)
    near = x * horner(z, fits.ERF_NEAR_64 if is_double(x) else fits.ERF_NEAR_32)
    return jnp.where(a < 1.0, near, jnp.copysign(1.0 - _erfc_tail(a), x))


erf = ruled(_erf, lambda x: gaussian(x) * 1.1283791670955125739)


def scaled_product(x: Array, c: float) -> tuple[Array, Array]:
    """The rounded product c x, and what rounding took from it."""
    z = x * c
    bits = 26 if is_double(x) else 12
    mantissa, exponent = math.frexp(c)
    high_c = math.ldexp(round(mantissa * 2**bits) / 2**bits, exponent)
    low_c = c - high_c
    high = high_part(x)
    low = x - high
    error = ((high * high_c - z) + low * high_c) + x * low_c
    return z, jnp.where(jnp.isfinite(z), error, 0.0)


def at_scaled(value, slope, x: Array, c: float) -> Array:
    """value(c x) with the product's rounding error put back, which a tail would magnify."""
    if math.frexp(c)[0] == 0.5 or c == 0.0:
        return value(x * c)
    z, error = scaled_product(x, c)
    return value(z) + error * slope(z)


def sigmoid_scaled(x: Array, c: float) -> Array:
    """The sigmoid of c x."""
    return _sigmoid_scaled(x, c)


_sigmoid_scaled = ruled(
    lambda x, c: at_scaled(_sigmoid, _bell, x, c),
    lambda x, c: c * sigmoid_scaled(x, c) * sigmoid_scaled(x, -c),
)
