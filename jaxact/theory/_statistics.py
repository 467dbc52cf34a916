"""Statistics of one activation under a Gaussian input."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _quadrature as quad
from jaxact.theory._layer import Given, as_layer


class Moments(NamedTuple):
    """The first two moments of f(X), X ~ N(0, q)."""

    mean: Float[Array, "*batch"]
    second_moment: Float[Array, "*batch"]
    variance: Float[Array, "*batch"]


def moments(
    layer: Given,
    /,
    *,
    variance: ArrayLike = 1.0,
) -> Moments:
    """E f(X), E f(X)^2 and Var f(X) for X ~ N(0, variance).

    The integrals are split at the breakpoints (those of a named activation are known) and at 0, and
    each piece is integrated by Gauss-Legendre: 1e-14 at 64 nodes a piece.

    Args:
        layer: An activation, or a `Layer` of one: only its activation counts.
        variance: q > 0, of any shape.

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
    layer = as_layer(layer)
    function, points = quad.resolve(layer.activation, layer.breakpoints)
    q = quad.as_positive("variance", variance, quad.scalar_dtype(variance))

    def one(q: ArrayLike) -> Moments:
        dtype = quad.scalar_dtype(q)
        x, w = quad.line_nodes(points, q, layer.nodes, dtype)
        y = function(x)
        mean = quad.total(y, w)
        centred = y.astype(dtype) - mean
        return Moments(mean, quad.total(y * y, w), quad.total(centred * centred, w))

    if isinstance(variance, int | float):
        return quad.in_float64_if_static(lambda: one(variance), layer.activation, variance)
    return quad.over(one, q)


def gain(
    layer: Given,
    /,
    *,
    variance: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
    """sqrt(q / E f(X)^2), X ~ N(0, q): the gain that keeps the second moment q of a layer.

    At q = 1 it is 1/sqrt(E f(Z)^2): weights of variance gain^2 / fan_in make the variance map
    V(q) = gain^2 E f(sqrt(q) Z)^2 have the fixed point q.

    Args:
        layer: An activation, or a `Layer` of one: only its activation counts.
        variance: q > 0, of any shape.

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
    second = moments(layer, variance=variance).second_moment
    return jnp.sqrt(jnp.asarray(variance).astype(dtype) / second)


class Statistics(NamedTuple):
    """What mean-field theory asks of one activation at one input variance."""

    mean: Float[Array, ""]
    second_moment: Float[Array, ""]
    variance: Float[Array, ""]
    gain: Float[Array, ""]
    mean_slope: Float[Array, ""]
    squared_slope: Float[Array, ""]
    fourth_slope: Float[Array, ""]
    dead_fraction: Float[Array, ""]
    saturated_fraction: Float[Array, ""]
    lipschitz: Float[Array, ""]


def statistics(
    layer: Given,
    /,
    *,
    variance: ArrayLike = 1.0,
    tolerance: float = 0.01,
) -> Statistics:
    """The moments of f and f' under N(0, variance), and the shares of flat input.

    Args:
        layer: An activation, or a `Layer` of one: only its activation counts.
        variance: q > 0, a scalar.
        tolerance: |f'| up to which an input counts as saturated.

    Returns:
        ``Statistics``: ``mean`` E f, ``second_moment`` E f^2, ``variance``, ``gain``
        sqrt(q / E f^2), ``mean_slope`` E f', ``squared_slope`` E f'^2 (chi_1 at sigma_w = 1),
        ``fourth_slope`` E f'^4, ``dead_fraction`` P(f' = 0), ``saturated_fraction``
        P(|f'| <= tolerance), ``lipschitz`` sup |f'|. Slopes are those of the smooth pieces.

    Raises:
        ValueError: ``variance`` not positive, ``tolerance`` negative.

    Example:
        >>> import jax.numpy as jnp
        >>> s = statistics(lambda x: jnp.maximum(x, 0.0))
        >>> print(f"{s.squared_slope:.3f} {s.dead_fraction:.3f} {s.lipschitz:.3f}")
        0.500 0.500 1.000
    """
    layer = as_layer(layer)
    function, points = quad.resolve(layer.activation, layer.breakpoints)
    dtype = quad.scalar_dtype(variance)
    q = quad.as_positive("variance", variance, dtype)
    m = moments(layer, variance=variance)
    x, w = quad.line_nodes(points, q, layer.nodes, dtype)
    slope = quad.derivative(function)(x)
    return Statistics(
        *m,
        jnp.sqrt(q / m.second_moment),
        quad.total(slope, w),
        quad.total(slope**2, w),
        quad.total(slope**4, w),
        flat_fraction(layer, variance=variance, tolerance=0.0),
        flat_fraction(layer, variance=variance, tolerance=tolerance),
        lipschitz_constant(layer, dtype=dtype),
    )


def flat_fraction(
    layer: Given,
    /,
    *,
    tolerance: float = 0.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, ""]:
    """P(|f'(X)| <= tolerance), X ~ N(0, variance): dead at tolerance 0, saturated above.

    Crossings of the threshold are bracketed on a grid of a hundredth of a standard deviation and
    bisected, so that narrower islands may be missed. Not differentiable.

    Args:
        layer: An activation, or a `Layer` of one: only its activation counts.
        tolerance: The largest |f'| that counts as flat, >= 0.
        variance: q > 0, a scalar.

    Returns:
        A probability.

    Raises:
        ValueError: ``tolerance`` negative or ``variance`` not positive.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be non-negative, got {tolerance!r}")
    function, _ = quad.resolve(as_layer(layer).activation)
    dtype = quad.scalar_dtype(variance)
    scale = jnp.sqrt(quad.as_positive("variance", variance, dtype))
    slope = quad.derivative(function)

    def flat(z: Array) -> Array:
        return jnp.abs(slope(scale * z)) <= tolerance

    # the grid misses 0, where many a kink sits and a derivative is a matter of convention
    grid = jnp.asarray(np.linspace(-quad.RANGE, quad.RANGE, 2002), dtype)
    left, right = grid[:-1], grid[1:]
    at_left, at_right = flat(left), flat(right)

    def bisect(_: ArrayLike, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        same = flat(middle) == at_left
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    low, high = lax.fori_loop(0, 50, bisect, (left, right))
    below = jax.scipy.special.ndtr((low + high) / 2)
    leaves, enters = at_left & ~at_right, ~at_left & at_right
    last = at_right[-1].astype(dtype)
    return lax.stop_gradient(last + jnp.sum(jnp.where(leaves, below, jnp.where(enters, -below, 0))))


def lipschitz_constant(
    layer: Given,
    /,
    *,
    dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, ""]:
    """The supremum of |f'|, searched on a grid and refined by golden section about its best point.

    The grid is linear to 20 and logarithmic to 1e4; infinity is returned where |f'| at 1e4
    exceeds its maximum within 20 by 1%, as for a square. A function whose slope peaks elsewhere in
    an interval below 0.01 needs that point among ``breakpoints``.

    Args:
        layer: An activation, or a `Layer` of one: only its activation counts.
        dtype: Of the search; JAX's default float if None.

    Returns:
        The constant. Not differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{lipschitz_constant(jnp.tanh):.6f}")
        1.000000
    """
    layer = as_layer(layer)
    function, points = quad.resolve(layer.activation, layer.breakpoints)
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    slope = quad.derivative(function)

    def size(x: Array) -> Array:
        value = jnp.abs(slope(x))
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    near = jnp.asarray(np.linspace(-20, 20, 4002), dtype)
    far = np.geomspace(20, 1e4, 200)
    far = jnp.asarray(np.concatenate([-far, far]), dtype)
    at = jnp.asarray(points, dtype)
    step = jnp.maximum(jnp.abs(at), 1e-20) * 4 * float(jnp.finfo(dtype).eps)
    sides = jnp.concatenate([at - step, at + step])
    inside = size(near)
    best = jnp.argmax(inside)
    width = 40 / 4001
    ratio = (math.sqrt(5) - 1) / 2

    def shrink(_: ArrayLike, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        left = size(a) >= size(b)
        return jnp.where(left, low, a), jnp.where(left, b, high)

    low, high = lax.fori_loop(0, 60, shrink, (near[best] - width, near[best] + width))
    peak = jnp.maximum(jnp.max(inside), size((low + high) / 2))
    peak = jnp.maximum(peak, jnp.max(size(sides)))
    outside = jnp.max(size(far))
    grows = jnp.maximum(size(far[-1]), size(far[199])) > 1.01 * peak
    return lax.stop_gradient(jnp.where(grows, jnp.inf, jnp.maximum(peak, outside)))
