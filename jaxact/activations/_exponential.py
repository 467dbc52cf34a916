"""Exponential linear units and smooth rectifiers."""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxact.activations._core import Number, as_number, elementwise, ruled
from jaxact.activations._math import _special as sp
from jaxact.activations._table import INF, NAN, known

Out = Float[Array, "..."]

SELU_SCALE = 1.0507009873554804934
_SELU_PRODUCT = 1.7580993408473768600


scaled_exp = ruled(
    lambda x, scale: sp.times_exp(jnp.full_like(x, scale), sp.negative_parts(x)),
    lambda x, scale: scaled_exp(x, scale),
)


def _elu_value(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, alpha * sp.expm1_negative(sp.negative_part(x)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, scaled_exp(sp.negative_part(x), alpha))


_elu = elementwise(_elu_value, _elu_slope)


@known(
    "exponential",
    r"x \text{ if } x > 0 \text{ else } e^x - 1",
    range=(-1.0, INF),
    lipschitz=1.0,
    paper="Clevert et al.",
    year=2016,
    breakpoints=(0.0,),
)
def elu(x: Any, /, *, alpha: Number = 1.0) -> Out:
    """Exponential linear unit, f(x) = x for x > 0, else alpha (exp(x) - 1).

    Args:
        x: Real floating array of any shape.
        alpha: Minus the limit at minus infinity.

    Returns:
        Values above -alpha. The derivative at 0 is alpha, the second derivative alpha.

    Raises:
        TypeError: ``alpha`` is not a Python number.

    Reference:
        Clevert et al. 2016, "Fast and Accurate Deep Network Learning by Exponential Linear Units".
    """
    return _elu(x, as_number(alpha, "alpha"))


def _celu_value(x: Array, alpha: float) -> Array:
    # Next to 0 it is x, whose quotient by alpha may be flushed.
    below = alpha * sp.expm1_negative(sp.negative_part(x) / alpha)
    return jnp.where(x > -1e-18 * alpha, x, below)


def _celu_tail(x: Array, alpha: float) -> Array:
    """exp(x/alpha), x <= 0: it would magnify the rounding error of the quotient."""
    inverse = 1.0 / alpha
    rest = float(1 / Fraction(alpha) - Fraction(inverse))
    return sp.at_scaled(sp.exp_negative, sp.exp_negative, x, inverse, rest)


celu_tail = ruled(_celu_tail, lambda x, alpha: celu_tail(x, alpha) / alpha)


def _celu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, celu_tail(sp.negative_part(x), alpha))


_celu = elementwise(_celu_value, _celu_slope)


@known(
    "exponential",
    r"x \text{ if } x > 0 \text{ else } \alpha (e^{x/\alpha} - 1),\ \alpha = 1",
    range=(-1.0, INF),
    lipschitz=1.0,
    paper="Barron",
    year=2017,
    breakpoints=(0.0,),
)
def celu(x: Any, /, *, alpha: Number = 1.0) -> Out:
    """Continuously differentiable ELU, f(x) = x for x > 0, else alpha (exp(x/alpha) - 1).

    Args:
        x: Real floating array of any shape.
        alpha: Minus the limit at minus infinity, positive.

    Returns:
        Values above -alpha. The second derivative at 0 is 1/alpha.

    Raises:
        ValueError: ``alpha`` is not positive.

    Reference:
        Barron 2017, "Continuously Differentiable Exponential Linear Units".
    """
    return _celu(x, as_number(alpha, "alpha", positive=True))


def _selu_value(x: Array) -> Array:
    return jnp.where(x > 0, SELU_SCALE * x, _SELU_PRODUCT * sp.expm1_negative(sp.negative_part(x)))


def _selu_slope(x: Array) -> Array:
    return jnp.where(x > 0, SELU_SCALE, scaled_exp(sp.negative_part(x), _SELU_PRODUCT))


_selu = elementwise(_selu_value, _selu_slope)


@known(
    "exponential",
    r"s x \text{ if } x > 0 \text{ else } s \alpha (e^x - 1)",
    range=(-1.7580993408473766, INF),
    lipschitz=1.7580993408473768,
    paper="Klambauer et al.",
    year=2017,
    breakpoints=(0.0,),
)
def selu(x: Any, /) -> Out:
    """Self-normalizing ELU, f(x) = s x for x > 0, else s a (exp(x) - 1).

    s = 1.0507... and a = 1.6733... keep the mean 0 and the variance 1 of a standard normal input.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -1.7581. The derivative at 0 is s a.

    Reference:
        Klambauer et al. 2017, "Self-Normalizing Neural Networks", eq. 2.
    """
    return _selu(x)


def _softplus_value(x: Array, beta: float) -> Array:
    if beta == 1.0:
        return sp.softplus(x)
    return sp.softplus_scaled(x, beta)


def _softplus_slope(x: Array, beta: float) -> Array:
    return sp.sigmoid(x) if beta == 1.0 else sp.sigmoid_scaled(x, beta)


def _softplus_brief(x: Array, beta: float = 1.0) -> Array:
    z = jnp.abs(x * beta)
    if beta >= 1.0:
        return jnp.maximum(x, 0.0) + jnp.log1p(sp.brief_exp(-z)) / beta
    e, rest = sp.brief_tail(-z)  # their product may be flushed where it is not over beta
    tail = jnp.where(z > 40.0, (e / beta) * rest, jnp.log1p(e * rest) / beta)
    return jnp.maximum(x, 0.0) + tail


_softplus = elementwise(_softplus_value, _softplus_slope, brief=_softplus_brief)


@known(
    "exponential",
    r"\log(1 + e^x)",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Dugas et al.",
    year=2001,
    aliases=("soft_plus",),
)
def softplus(x: Any, /, *, beta: Number = 1.0) -> Out:
    """Smooth rectifier, f(x) = log(1 + exp(beta x)) / beta.

    Args:
        x: Real floating array of any shape.
        beta: Sharpness, positive: relu is the limit of a large beta.

    Returns:
        Positive values.

    Raises:
        ValueError: ``beta`` is not positive.

    Reference:
        Dugas et al. 2001, "Incorporating Second-Order Functional Knowledge for Better Option
        Pricing".
    """
    return _softplus(x, as_number(beta, "beta", positive=True))


def _soft_relu_value(x: Array, limit: float) -> Array:
    # Constants of the limit itself, which may be no number of the dtype.
    rest = math.log1p(math.exp(-limit))
    beyond = jnp.where(x > 0, limit + rest, rest)
    return jnp.where(sp.above(jnp.abs(x), limit), beyond, sp.softplus(x))


def _soft_relu_slope(x: Array, limit: float) -> Array:
    return jnp.where(sp.above(jnp.abs(x), limit), 0.0, sp.sigmoid(x))


_soft_relu = elementwise(_soft_relu_value, _soft_relu_slope)


@known(
    "exponential",
    r"\log(1 + e^{\min(\max(x, -40), 40)})",
    range=(4.248354255291589e-18, 40.0),
    lipschitz=1.0,
    breakpoints=(-40.0, 40.0),
)
def soft_relu(x: Any, /, *, limit: Number = 40.0) -> Out:
    """Clipped softplus, f(x) = log(1 + exp(min(max(x, -limit), limit))).

    Args:
        x: Real floating array of any shape.
        limit: Where it becomes constant, positive.

    Returns:
        Values of the shape and dtype of x. The derivative is 0 beyond the limits.

    Reference:
        PaddlePaddle's soft_relu.
    """
    return _soft_relu(x, as_number(limit, "limit", positive=True))


_exponential = elementwise(sp.exp, sp.exp, brief=jnp.exp, name="exponential")


@known(
    "exponential",
    r"e^x",
    range=(0.0, INF),
    lipschitz=INF,
    aliases=("exp",),
)
def exponential(x: Any, /) -> Out:
    """The exponential, f(x) = exp(x).

    Args:
        x: Real floating array of any shape.

    Returns:
        Positive values.

    Reference:
        Keras' ``exponential``.
    """
    return _exponential(x)


def _root(x: Array, b: float) -> Array:
    """The root sqrt(x^2 + b), where x^2 may overflow."""
    a = jnp.abs(x)
    safe = sp.capped(a, 1e153 if sp.is_double(x) else 1e18)
    return jnp.maximum(jnp.sqrt(safe * safe + b), a)


def _squareplus_value(x: Array, b: float) -> Array:
    # XLA would join 0.5 x + 0.5 root into a sum that overflows.
    a = jnp.abs(x)
    far = 1e153 if sp.is_double(x) else 1e18
    b_near = jnp.where(a > far, 0.25 * b, 0.5 * b)
    return jnp.maximum(x, 0.0) + b_near / jnp.where(a > far, a, _root(x, b) + sp.capped(a, far))


def _squareplus_slope(x: Array, b: float) -> Array:
    far = 1e153 if sp.is_double(x) else 1e18
    a = jnp.abs(x)
    near = sp.capped(a, far)
    square = near * near + b
    # Not the root that the value takes: XLA on CPU would keep what they share.
    tail = 0.5 * b / (square + near * (square * lax.rsqrt(square)))
    root = 0.5 * math.sqrt(b) / jnp.maximum(a, far)  # XLA would divide by a square
    tail = jnp.where(a > far, root * root, tail)
    return jnp.where(x < 0, tail, 1.0 - tail)


def _squareplus_curvature(x: Array, b: float) -> Array:
    root = _root(x, b)
    return 0.5 * b / root / root / root


_squareplus = elementwise(_squareplus_value, ruled(_squareplus_slope, _squareplus_curvature))


@known(
    "exponential",
    r"(x + \sqrt{x^2 + 4}) / 2",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Barron",
    year=2021,
)
def squareplus(x: Any, /, b: Number = 4.0) -> Out:
    """Squareplus, f(x) = (x + sqrt(x^2 + b)) / 2, without overflow or cancellation.

    Args:
        x: Real floating array of any shape.
        b: Width of the bend, positive.

    Returns:
        Positive values.

    Reference:
        Barron 2021, "Squareplus: A Softplus-Like Algebraic Rectifier".
    """
    return _squareplus(x, as_number(b, "b", positive=True))


_log_sigmoid = elementwise(
    lambda x: -sp.softplus(-x),
    lambda x: sp.sigmoid_of_minus(x),
    brief=lambda x: -_softplus_brief(-x),
    name="log_sigmoid",
)


@known(
    "exponential", r"-\log(1 + e^{-x})", range=(-INF, 0.0), lipschitz=1.0, aliases=("logsigmoid",)
)
def log_sigmoid(x: Any, /) -> Out:
    """Logarithm of the logistic sigmoid, f(x) = -log(1 + exp(-x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Negative values.
    """
    return _log_sigmoid(x)


def _log1mexp_value(x: Array) -> Array:
    x = jnp.where(x < 0, jnp.nan, x)
    near = jnp.log(-sp.expm1_negative(-sp.capped(x, 0.7)))
    return jnp.where(x < 0.6931, near, sp.log1m(sp.capped(sp.exp_negative(-x), 0.5)))


def _log1mexp_slope(x: Array) -> Array:
    x = jnp.where(x < 0, jnp.nan, x)
    return sp.exp_negative(-x) / jnp.abs(sp.expm1_negative(-x))


def _log1mexp_brief(x: Array) -> Array:
    return jnp.where(x < 0.6931, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))


_log1mexp = elementwise(_log1mexp_value, _log1mexp_slope, brief=_log1mexp_brief)


@known(
    "exponential",
    r"\log(1 - e^{-x})",
    range=(-INF, 0.0),
    lipschitz=INF,
    paper="Mächler",
    year=2012,
    breakpoints=(0.0,),
    limits=(NAN, 0.0),
)
def log1mexp(x: Any, /) -> Out:
    """Log of one minus exp, f(x) = log(1 - exp(-x)), for x > 0.

    Args:
        x: Real floating array of any shape.

    Returns:
        Negative values; minus infinity at 0 and NaN below.

    Reference:
        Mächler 2012, "Accurately Computing log(1 - exp(-|a|))".
    """
    return _log1mexp(x)
