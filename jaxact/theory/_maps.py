"""Variance and correlation maps of a layer, their fixed points and depth scales."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _quadrature as quad
from jaxact.theory._layer import (
    Function,
    Given,
    Resolved,
    pair_moment,
    resolve,
    second_moment,
)


def next_variance(it: Resolved, q: Array) -> Array:
    """V(q)."""
    return it.weight_variance * second_moment(it, q) + it.bias_variance


def defect_map(it: Resolved, defect: Array, q1: Array, q2: Array) -> Array:
    """1 - C(1 - defect), from E (f(X1) - f(X2))^2: no cancellation at small defects."""
    a1, a2 = (lax.rsqrt(next_variance(it, q)) for q in (q1, q2))
    x1, x2, w = quad.pair_nodes(it.points, q1, q2, defect, it.nodes)
    apart = jnp.sum(w * jnp.square(it.function(x1) * a1 - it.function(x2) * a2))
    return (it.weight_variance * apart + it.bias_variance * jnp.square(a1 - a2)) / 2


def generalized_moment(
    it: Resolved, regular: Function, jump: Array, q1: Array, q2: Array, defect: Array
) -> Array:
    """E g(X1) g(X2) for g = regular + sum_j jump_j delta(x - point_j): Price's theorem at kinks."""
    dtype = q1.dtype
    at = jnp.asarray(it.points, dtype)
    result = pair_moment(it._replace(function=regular), q1, q2, defect)
    c = 1 - defect
    square = defect * (2 - defect)
    apart = square > 0
    s = jnp.sqrt(jnp.where(apart, square, jnp.ones((), dtype)))

    def density(z: Array) -> Array:
        return jnp.exp(-z * z / 2) / jnp.sqrt(jnp.asarray(2 * np.pi, dtype))

    for qa, qb in ((q1, q2), (q2, q1)):
        mean = (c * at / jnp.sqrt(qa))[:, None]
        z, w = quad.conditional_nodes(at / jnp.sqrt(qb), mean, s, it.nodes)
        given = quad.total(regular(jnp.sqrt(qb) * (mean + jnp.where(apart, s, 0) * z)), w)
        result += jnp.sum(jump * density(at / jnp.sqrt(qa)) / jnp.sqrt(qa) * given)
    first = density(at / jnp.sqrt(q1)) / jnp.sqrt(q1)
    gap = at[None, :] / jnp.sqrt(q2) - c * (at / jnp.sqrt(q1))[:, None]
    infinite = jnp.asarray(jnp.inf, dtype)
    second = jnp.where(
        apart, density(gap / s) / (s * jnp.sqrt(q2)), jnp.where(gap == 0, infinite, 0)
    )
    both = jump[:, None] * jump[None, :]
    mass = jnp.where(both == 0, 0, both * first[:, None] * second)
    return result + jnp.sum(mass)


def correlation_derivative(
    it: Resolved, defect: Array, q1: Array, q2: Array, order: int = 1
) -> Array:
    """C'(c) or C''(c), by Price's theorem."""
    a1, a2 = (lax.rsqrt(next_variance(it, q)) for q in (q1, q2))
    lower, upper = it.function, quad.derivative(it.function)
    if order == 2:
        lower, upper = upper, quad.derivative(upper)
    jump = quad.jumps(lower, it.points, q1.dtype)
    moment = generalized_moment(it, upper, jump, q1, q2, defect)
    return it.weight_variance * a1 * a2 * jnp.sqrt(q1 * q2) ** order * moment


def variance_map(
    layer: Given,
    variance: ArrayLike,
    /,
) -> Float[Array, "*batch"]:
    """V(q) = sigma_w^2 E f(sqrt(q) Z)^2 + sigma_b^2: the variance after a wide layer.

    Args:
        layer: A `Layer`, or the activation of one.
        variance: q > 0, of any shape.

    Returns:
        V(q), of the shape of ``variance``; its slope is by ``jax.grad``.

    Raises:
        ValueError: A variance out of its range.

    Example:
        >>> from jaxact import theory
        >>> layer = theory.Layer("relu", weight_variance=2.0)
        >>> float(variance_map(layer, 3.0).round(5))
        3.0

    Reference:
        Poole et al. 2016, "Exponential expressivity in deep neural networks through transient
        chaos", eq. 3.
    """
    it = resolve(layer, variance)
    return _over(it, next_variance, quad.as_positive("variance", variance, it.dtype))


def dual_kernel(
    layer: Given,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """E f(X) f(Y) for a centred Gaussian pair of variances q1, q2 and correlation c.

    X is integrated with panels split at the kinks, Y given X with panels split where c and X put
    them, so that kinks cost no accuracy and c may approach 1 (see the page on theory).

    Args:
        layer: A `Layer`, or the activation of one.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        The kernel. Its derivative with respect to c is not defined by AD at c = -1 and 1, where 0
        is returned: see ``correlation_slope``.

    Raises:
        ValueError: c outside [-1, 1], a variance that is not positive.

    Reference:
        Daniely, Frostig & Singer 2016, "Toward deeper understanding of neural networks", def. 4.
    """
    other = variance if other_variance is None else other_variance
    it = resolve(layer, c, variance, other)
    q1 = quad.as_positive("variance", variance, it.dtype)
    q2 = quad.as_positive("other_variance", other, it.dtype)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)

    return quad.over(lambda *q: pair_moment(it, *q), q1, q2, defect)


def correlation_map(
    layer: Given,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """C(c) = (sigma_w^2 E f(X) f(Y) + sigma_b^2) / sqrt(V(q1) V(q2)): the next layer's correlation.

    Args:
        layer: A `Layer`, or the activation of one.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        C(c). For correlations within 1e-3 of 1 use ``correlation_defect``, which keeps the digits
        of 1 - c. At c = -1 and 1 AD returns 0: use ``correlation_slope``.

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{correlation_map(lambda x: jnp.maximum(x, 0.0), 0.0):.6f}")  # 1 / pi
        0.318310

    Reference:
        Poole et al. 2016, eq. 5 and 6; Schoenholz et al. 2017, "Deep information propagation".
    """
    other = variance if other_variance is None else other_variance
    it = resolve(layer, c, variance, other)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)
    return 1 - _over_defects(it, defect, variance, other, defect_map)


def correlation_defect(
    layer: Given,
    defect: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """1 - C(1 - d), the correlation map for correlations near 1, without cancellation.

    Computed as E (f(X)/sqrt(V(q1)) - f(Y)/sqrt(V(q2)))^2 / 2 with biases included: in float32 right
    to a few parts in 1e4 at d = 1e-6, where 1 - C(c) has one digit.

    Args:
        layer: A `Layer`, or the activation of one.
        defect: d = 1 - c in [0, 2], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        1 - C(1 - d).

    Raises:
        ValueError: d outside [0, 2], a variance out of its range.
    """
    other = variance if other_variance is None else other_variance
    it = resolve(layer, defect, variance, other)
    d = quad.as_within("defect", defect, 0.0, 2.0, it.dtype)
    return _over_defects(it, d, variance, other, defect_map)


def correlation_slope(
    layer: Given,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """C'(c) = sigma_w^2 sqrt(q1 q2) E f'(X) f'(Y) / sqrt(V(q1) V(q2)), at c = 1 included.

    By Price's theorem; a jump of f enters f' as a point mass, and makes C'(1) infinite.

    Args:
        layer: A `Layer`, or the activation of one.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        C'(c). At c = 1 and a fixed point of V it is chi_1 of Schoenholz et al. 2017.

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.

    Reference:
        Price 1958; Poole et al. 2016, eq. 9; Schoenholz et al. 2017, eq. 9.
    """
    return _slope(1, layer, c, variance, other_variance)


def correlation_curvature(
    layer: Given,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """C''(c) = sigma_w^2 q1 q2 E f''(X) f''(Y) / sqrt(V(q1) V(q2)), for a continuous f.

    A kink of f enters f'' as a point mass, and makes C''(1) infinite, as for the rectifier.

    Args:
        layer: A `Layer`, or the activation of one, continuous.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.

    Returns:
        C''(c).

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.
    """
    return _slope(2, layer, c, variance, other_variance)


def _slope(order: int, layer: Given, c: ArrayLike, variance: ArrayLike, other: ArrayLike | None):
    other = variance if other is None else other
    it = resolve(layer, c, variance, other)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)

    def derivative(*arguments):
        return correlation_derivative(*arguments, order=order)

    return _over_defects(it, defect, variance, other, derivative)


def _over_defects(it: Resolved, defect: Array, variance, other, function) -> Array:
    q1 = quad.as_positive("variance", variance, it.dtype)
    q2 = quad.as_positive("other_variance", other, it.dtype)
    return _over(it, function, defect, q1, q2)


def _over(it: Resolved, function, *arguments: Array) -> Array:
    """``function(it, *arguments)`` where these and the layer's variances broadcast."""

    def one(sigma2: Array, bias2: Array, *arguments: Array) -> Array:
        return function(it._replace(weight_variance=sigma2, bias_variance=bias2), *arguments)

    return quad.over(one, it.weight_variance, it.bias_variance, *arguments)
