"""Exponential linear units and smooth rectifiers."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import as_number, elementwise

Out = Float[Array, "..."]

SELU_ALPHA = 1.6732632423543772848
SELU_SCALE = 1.0507009873554804934
_SELU_PRODUCT = 1.7580993408473768600


def _elu_value(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, alpha * sp.expm1(sp.negative_part(x)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, alpha * jnp.exp(sp.negative_part(x)))


_elu = elementwise(_elu_value, _elu_slope)


def elu(x: Any, /, *, alpha: float = 1.0) -> Out:
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
    return jnp.where(x > 0, x, alpha * sp.expm1(sp.negative_part(x) / alpha))


def _celu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, jnp.exp(sp.negative_part(x) / alpha))


_celu = elementwise(_celu_value, _celu_slope)


def celu(x: Any, /, *, alpha: float = 1.0) -> Out:
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
    return jnp.where(x > 0, SELU_SCALE * x, _SELU_PRODUCT * sp.expm1(sp.negative_part(x)))


def _selu_slope(x: Array) -> Array:
    return jnp.where(x > 0, SELU_SCALE, _SELU_PRODUCT * jnp.exp(sp.negative_part(x)))


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
    return sp.softplus(x) if beta == 1.0 else sp.softplus(x * beta) / beta


def _softplus_slope(x: Array, beta: float) -> Array:
    return sp.sigmoid(x) if beta == 1.0 else sp.sigmoid(x * beta)


_softplus = elementwise(_softplus_value, _softplus_slope)


def softplus(x: Any, /, *, beta: float = 1.0) -> Out:
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
