"""Exponential linear units and smooth rectifiers."""

from fractions import Fraction
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import Number, as_number, elementwise, ruled

Out = Float[Array, "..."]

SELU_ALPHA = 1.6732632423543772848
SELU_SCALE = 1.0507009873554804934
_SELU_PRODUCT = 1.7580993408473768600


def _elu_value(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, alpha * sp.expm1_negative(sp.negative_part(x)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, alpha * sp.exp_negative(sp.negative_part(x)))


_elu = elementwise(_elu_value, _elu_slope)


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
    return jnp.where(x > 0, x, alpha * sp.expm1_negative(sp.negative_part(x) / alpha))


def _celu_tail(x: Array, alpha: float) -> Array:
    """exp(x/alpha), x <= 0: it would magnify the rounding error of the quotient."""
    inverse = 1.0 / alpha
    rest = float(1 / Fraction(alpha) - Fraction(inverse))
    return sp.at_scaled(sp.exp_negative, sp.exp_negative, x, inverse, rest)


celu_tail = ruled(_celu_tail, lambda x, alpha: celu_tail(x, alpha) / alpha)


def _celu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, celu_tail(sp.negative_part(x), alpha))


_celu = elementwise(_celu_value, _celu_slope)


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
    return jnp.where(x > 0, SELU_SCALE, _SELU_PRODUCT * sp.exp_negative(sp.negative_part(x)))


_selu = elementwise(_selu_value, _selu_slope)


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
    # The product beta x may overflow where the value does not.
    return jnp.maximum(x, 0.0) + sp.at_scaled(sp.softplus, sp.sigmoid, -jnp.abs(x), beta) / beta


def _softplus_slope(x: Array, beta: float) -> Array:
    return sp.sigmoid(x) if beta == 1.0 else sp.sigmoid_scaled(x, beta)


def _softplus_brief(x: Array, beta: float = 1.0) -> Array:
    return jnp.maximum(x, 0.0) + jnp.log1p(sp.brief_exp(-jnp.abs(x * beta))) / beta


_softplus = elementwise(_softplus_value, _softplus_slope, brief=_softplus_brief)


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
    return sp.softplus(jnp.clip(x, -limit, limit))


def _soft_relu_slope(x: Array, limit: float) -> Array:
    return jnp.where(jnp.abs(x) > limit, 0.0, sp.sigmoid(x))


_soft_relu = elementwise(_soft_relu_value, _soft_relu_slope)


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


def _root(x: Array, b: float) -> Array:
    """The root sqrt(x^2 + b), where x^2 may overflow."""
    a = jnp.abs(x)
    safe = sp.capped(a, 1e153 if sp.is_double(x) else 1e18)
    return jnp.maximum(jnp.sqrt(safe * safe + b), a)


def _squareplus_value(x: Array, b: float) -> Array:
    # XLA would join 0.5 x + 0.5 root into a sum that overflows.
    return jnp.maximum(x, 0.0) + 0.5 * b / (_root(x, b) + jnp.abs(x))


def _squareplus_slope(x: Array, b: float) -> Array:
    a = sp.capped(jnp.abs(x), 1e153 if sp.is_double(x) else 1e18)
    square = a * a + b
    # Not the root that the value takes: XLA on CPU would keep what they share.
    tail = 0.5 * b / (square + a * (square * lax.rsqrt(square)))
    return jnp.where(x < 0, tail, 1.0 - tail)


def _squareplus_curvature(x: Array, b: float) -> Array:
    root = _root(x, b)
    return 0.5 * b / root / root / root


_squareplus = elementwise(_squareplus_value, ruled(_squareplus_slope, _squareplus_curvature))


def squareplus(x: Any, /, *, b: Number = 4.0) -> Out:
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
    return sp.exp_negative(-x) / -sp.expm1_negative(-x)


def _log1mexp_brief(x: Array) -> Array:
    return jnp.where(x < 0.6931, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))


_log1mexp = elementwise(_log1mexp_value, _log1mexp_slope, brief=_log1mexp_brief)


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
