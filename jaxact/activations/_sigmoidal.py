"""Bounded, odd or monotone squashing functions."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import elementwise, ruled

Out = Float[Array, "..."]

_sigmoid = elementwise(lambda x: sp.sigmoid(x), lambda x: sp.sigmoid(x) * sp.sigmoid_of_minus(x))


def sigmoid(x: Any, /) -> Out:
    """Logistic sigmoid, f(x) = 1 / (1 + exp(-x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 1]; f'(x) = f(x) f(-x) keeps every digit in both tails.
    """
    return _sigmoid(x)


_tanh = elementwise(lambda x: sp.tanh(x), lambda x: sp.sech2(x))


def tanh(x: Any, /) -> Out:
    """Hyperbolic tangent.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]; the derivative 1/cosh(x)^2 keeps every digit in the tails.
    """
    return _tanh(x)


_erf = elementwise(lambda x: sp.erf(x), lambda x: sp.gaussian(x) * 1.1283791670955125739)


def erf(x: Any, /) -> Out:
    """Error function, f(x) = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1].
    """
    return _erf(x)


def _soft_sign_value(x: Array) -> Array:
    big = 1e300 if sp.is_double(x) else 1e30
    y = jnp.clip(x, -big, big)
    return y / (1.0 + jnp.abs(y))


def _soft_sign_slope(x: Array) -> Array:
    root = 1.0 / (1.0 + jnp.abs(x))
    return root * root


def _soft_sign_curvature(x: Array) -> Array:
    root = 1.0 / (1.0 + jnp.abs(x))
    return -2.0 * jnp.sign(x) * root * root * root


_soft_sign = elementwise(_soft_sign_value, ruled(_soft_sign_slope, _soft_sign_curvature))


def soft_sign(x: Any, /) -> Out:
    """Soft sign, f(x) = x / (1 + |x|).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]. The second derivative jumps at 0 and is given as 0 there.

    Reference:
        Bergstra et al. 2009, "Quadratic Polynomials Learn Better Image Features".
    """
    return _soft_sign(x)
