"""Stable fixed points of the variance and correlation maps, and their depth scales."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _maps as maps
from jaxact.theory import _quadrature as quad
from jaxact.theory._layer import Given, resolve, slope_moment

_OCTAVES = 60
_BISECTIONS = 60


class FixedPoint(NamedTuple):
    """Where depth drives the variance and the correlation, and how fast."""

    variance: Float[Array, ""]
    variance_slope: Float[Array, ""]
    variance_depth: Float[Array, ""]
    correlation: Float[Array, ""]
    correlation_slope: Float[Array, ""]
    correlation_depth: Float[Array, ""]
    chi_1: Float[Array, ""]


def _bisect(function, low: Array, high: Array) -> Array:
    """The root between low, where the function is positive, and high, where it is not."""

    def step(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        right = function(middle) > 0
        return jnp.where(right, middle, low), jnp.where(right, high, middle)

    low, high = lax.fori_loop(0, _BISECTIONS, step, (low, high))
    return (low + high) / 2


def _polish(function, root: Array, slope: Array) -> Array:
    """One Newton step of x = function(x): it carries the implicit derivative of the root."""
    root, slope = lax.stop_gradient((root, slope))
    # at a marginal point, slope 1, the root is not isolated and has no derivative
    isolated = jnp.abs(1 - slope) > 1e-5
    step = (function(root) - root) / jnp.where(isolated, 1 - slope, jnp.ones_like(slope))
    return root + jnp.where(isolated, step, 0)


def fixed_point(
    layer: Given,
    /,
    *,
    initial_variance: ArrayLike = 1.0,
) -> FixedPoint:
    """The fixed points q* = V(q*) and c* = C(c*) that deep layers reach, with their depth scales.

    xi = -1 / log(slope): deviations from the fixed point shrink by e every xi layers. q* is the
    point that q -> V(q) reaches from ``initial_variance``; 0 or infinity if it leaves 2^+-60 times
    that, and of slope above 1 (unstable) only if started on it. c* is 1 in the ordered phase,
    C'(1) <= 1, else the stable point below 1. chi_1 = sigma_w^2 E f'(X)^2, equal to C'(1) at a
    positive, finite q*.

    Args:
        layer: A `Layer` of scalar variances, or the activation of one, with V increasing (every
            monotone or rectifier-like function).
        initial_variance: Where the search for q* starts.

    Returns:
        ``FixedPoint(variance, variance_slope, variance_depth, correlation, correlation_slope,
        correlation_depth, chi_1)``. Where q* is 0 or infinite, the correlation map is evaluated at
        the end of the search range. The fixed points are differentiable in the arguments and in
        what the activation closes over, once (implicit derivative).

    Raises:
        ValueError: A variance out of its range.

    Example:
        >>> from jaxact import theory
        >>> layer = theory.Layer("tanh", weight_variance=1.5, bias_variance=0.05)
        >>> point = fixed_point(layer)
        >>> print(f"{point.variance:.4f} {point.chi_1:.4f} {point.correlation:.4f}")
        0.4180 0.9386 1.0000

    Reference:
        Poole et al. 2016; Schoenholz et al. 2017, eq. 7 to 10.
    """
    it = resolve(layer, initial_variance)
    start = quad.as_positive("initial_variance", initial_variance, it.dtype)

    def variance_map(q: Array) -> Array:
        return maps.next_variance(it, q)

    grid = start * 2.0 ** jnp.arange(-_OCTAVES, _OCTAVES + 1, dtype=it.dtype)
    excess = jax.vmap(variance_map)(grid) - grid
    here = excess[_OCTAVES]
    marginal = jnp.abs(here) <= 32 * jnp.finfo(it.dtype).eps * start
    up, down = excess[_OCTAVES:], excess[_OCTAVES::-1]
    above = jnp.argmax(up <= 0)
    below = jnp.argmax(down >= 0)
    rising = here > 0
    low = jnp.where(rising, grid[_OCTAVES + above - 1], grid[_OCTAVES - below])
    high = jnp.where(rising, grid[_OCTAVES + above], grid[_OCTAVES - below + 1])
    root = _bisect(lambda q: variance_map(q) - q, low, high)
    root = jnp.where(marginal, start, root)
    slope = jax.grad(variance_map)(lax.stop_gradient(root))
    root = _polish(variance_map, root, slope)
    unbounded = rising & ~marginal & ~jnp.any(up <= 0)
    vanishing = ~rising & ~marginal & ~jnp.any(down >= 0)
    at = jnp.where(unbounded, grid[-1], jnp.where(vanishing, grid[0], root))
    slope = jax.grad(variance_map)(at)
    infinity = jnp.asarray(jnp.inf, it.dtype)
    variance = jnp.where(unbounded, infinity, jnp.where(vanishing, 0, root))

    def derivative(defect: Array) -> Array:
        return maps.correlation_derivative(it, defect, at, at)

    def defect_map(defect: Array) -> Array:
        return maps.defect_map(it, defect, at, at)

    zero = jnp.zeros((), it.dtype)
    chi = derivative(zero)
    ordered = chi <= 1 + 32 * jnp.finfo(it.dtype).eps
    floor = 1e-12 if it.dtype == jnp.float64 else 1e-7

    def grows(log_defect: Array) -> Array:
        defect = jnp.exp(log_defect)
        return defect_map(defect) - defect

    found = jnp.exp(_bisect(grows, jnp.log(jnp.asarray(floor, it.dtype)), zero))
    found = lax.stop_gradient(jnp.minimum(found, 1))
    defect = jnp.where(ordered, 0, _polish(defect_map, found, derivative(found)))
    correlation_slope = jnp.where(ordered, chi, derivative(defect))
    chi_1 = it.weight_variance * slope_moment(it, at, 2)
    return FixedPoint(
        variance,
        slope,
        _depth(slope),
        1 - defect,
        correlation_slope,
        _depth(correlation_slope),
        chi_1,
    )


def _depth(slope: Array) -> Array:
    """-1 / log |slope|; infinite at a marginal point, 0 where one layer suffices."""
    size = jnp.abs(slope)
    tiny = jnp.finfo(size.dtype).tiny
    rate = -jnp.log(jnp.maximum(size, tiny))
    settled = rate > 64 * jnp.finfo(size.dtype).eps
    depth = 1 / jnp.where(settled, rate, 1)
    return jnp.where(settled, jnp.where(size > tiny, depth, 0), jnp.inf)
