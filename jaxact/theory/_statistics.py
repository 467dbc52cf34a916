"""Statistics of one activation under a Gaussian input."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _quadrature as quad


class Moments(NamedTuple):
    """The first two moments of f(X), X ~ N(0, q)."""

    mean: Float[Array, "*batch"]
    second_moment: Float[Array, "*batch"]
    variance: Float[Array, "*batch"]


def moments(
    activation: quad.Activation,
    /,
    *,
    variance: ArrayLike = 1.0,
    breakpoints: Sequence[float] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Moments:
    """E f(X), E f(X)^2 and Var f(X) for X ~ N(0, variance).

    The integrals are split at the breakpoints (those of a named activation are known) and at 0, and
    each piece is integrated by Gauss-Legendre: 1e-14 at 64 nodes a piece.

    Args:
        activation: A name, or an elementwise callable.
        variance: q > 0, of any shape.
        breakpoints: Where a callable is not smooth; a traced array is differentiated through.
        nodes: Nodes a piece. Raise it for a function that oscillates within one standard deviation.

    Returns:
        ``Moments(mean, second_moment, variance)``, each of the shape of ``variance``; its dtype if
        that is an array, else JAX's default. The variance is summed about the mean.

    Raises:
        ValueError: ``variance`` is not positive, or ``nodes`` below 2, or the name is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> m = moments(lambda x: jnp.maximum(x, 0.0))
        >>> print(f"{m.mean:.6f} {m.second_moment:.6f} {m.variance:.6f}")
        0.398942 0.500000 0.340845
    """
    function, points = quad.resolve(activation, breakpoints)
    nodes = quad.check_nodes(nodes)
    dtype = quad.scalar_dtype(variance)
    q = quad.as_positive("variance", variance, dtype)

    def one(q: ArrayLike) -> Moments:
        x, w = quad.line_nodes(points, q, nodes, dtype)
        y = function(x)
        mean = quad.total(y, w)
        centred = y.astype(dtype) - mean
        return Moments(mean, quad.total(y * y, w), quad.total(centred * centred, w))

    return one(variance) if isinstance(variance, int | float) else quad.over(one, q)


def gain(
    activation: quad.Activation,
    /,
    *,
    variance: ArrayLike = 1.0,
    breakpoints: Sequence[float] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """sqrt(q / E f(X)^2), X ~ N(0, q): the gain that keeps the second moment q of a layer.

    At q = 1 it is 1/sqrt(E f(Z)^2): weights of variance gain^2 / fan_in make the variance map
    V(q) = gain^2 E f(sqrt(q) Z)^2 have the fixed point q.

    Args:
        activation: A name, or an elementwise callable.
        variance: q > 0, of any shape.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece.

    Returns:
        The gain, of the shape of ``variance``; infinite where f vanishes.

    Raises:
        ValueError: ``variance`` is not positive, or ``nodes`` below 2, or the name is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{gain(lambda x: jnp.maximum(x, 0.0)):.6f}")
        1.414214

    Reference:
        He et al. 2015, "Delving Deep into Rectifiers", eq. 10, for the rectifier.
    """
    dtype = quad.scalar_dtype(variance)
    second = moments(
        activation, variance=variance, breakpoints=breakpoints, nodes=nodes
    ).second_moment
    return jnp.sqrt(jnp.asarray(variance).astype(dtype) / second)
