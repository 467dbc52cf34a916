"""Dual kernels in closed form."""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _quadrature as quad


def _arguments(c: ArrayLike, variance: ArrayLike, other: ArrayLike | None):
    other = variance if other is None else other
    dtype = quad.scalar_dtype(c, variance, other)
    q1 = quad.as_positive("variance", variance, dtype)
    q2 = quad.as_positive("other_variance", other, dtype)
    return jnp.broadcast_arrays(quad.as_within("c", c, -1.0, 1.0, dtype), q1, q2)


def arc_cosine_kernel(
    c: ArrayLike,
    /,
    *,
    order: int = 1,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """E f(X) f(Y) for f(x) = x^order where x > 0, else 0: step, rectifier, squared rectifier.

    (q1 q2)^(order/2) J(theta) / (2 pi) with theta = arccos c and J = pi - theta,
    sin theta + (pi - theta) cos theta, 3 sin theta cos theta + (pi - theta)(1 + 2 cos^2 theta).

    Args:
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        order: 0, 1 or 2.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        The kernel.

    Raises:
        ValueError: ``order`` not 0, 1 or 2; c outside [-1, 1].

    Reference:
        Cho & Saul 2009, "Kernel methods for deep learning", eq. 3 to 7 (half of their kernel).
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order must be 0, 1 or 2, got {order!r}")
    c, q1, q2 = _arguments(c, variance, other_variance)
    sine = jnp.sqrt((1 - c) * (1 + c))
    rest = math.pi - jnp.arctan2(sine, c)
    angular = (rest, sine + rest * c, 3 * sine * c + rest * (1 + 2 * c * c))[order]
    return (q1 * q2) ** (order / 2) * angular / (2 * math.pi)


def erf_kernel(
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """E erf(X) erf(Y) = (2 / pi) arcsin(2 c sqrt(q1 q2) / sqrt((1 + 2 q1)(1 + 2 q2))).

    Args:
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        The kernel.

    Raises:
        ValueError: c outside [-1, 1].

    Reference:
        Williams 1998, "Computation with infinite neural networks", eq. 11.
    """
    c, q1, q2 = _arguments(c, variance, other_variance)
    ratio = 2 * c * jnp.sqrt(q1 * q2) / jnp.sqrt((1 + 2 * q1) * (1 + 2 * q2))
    return 2 / math.pi * jnp.arcsin(ratio)
