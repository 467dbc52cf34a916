"""Limits of infinite width: Marchenko-Pastur and Fuss-Catalan."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import digamma
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact._checks import whole
from jaxact.theory import _quadrature as quad


class Edges(NamedTuple):
    """The support of a limiting density."""

    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]


class LimitingRanks(NamedTuple):
    """Ranks over the smaller dimension, in the limit of infinite width."""

    stable_rank: Float[Array, "*batch"]
    effective_rank_squared: Float[Array, "*batch"]
    participation_ratio: Float[Array, "*batch"]


def marchenko_pastur_edges(ratio: ArrayLike, /, *, variance: ArrayLike = 1.0) -> Edges:
    """sigma^2 (1 -+ sqrt c)^2: where the eigenvalues of W W^T lie, W of m x M, c = m / M.

    Args:
        ratio: c > 0, of any shape. Above 1 a share 1 - 1/c of the eigenvalues is 0.
        variance: sigma^2 > 0: the entries' variance times M.

    Returns:
        ``Edges(lower, upper)``.

    Raises:
        ValueError: ``ratio`` or ``variance`` not positive.

    Reference:
        Marchenko & Pastur 1967.
    """
    dtype = quad.scalar_dtype(ratio, variance)
    c = quad.as_positive("ratio", ratio, dtype)
    sigma2 = quad.as_positive("variance", variance, dtype)
    return Edges(sigma2 * jnp.square(1 - jnp.sqrt(c)), sigma2 * jnp.square(1 + jnp.sqrt(c)))


def marchenko_pastur_density(
    x: ArrayLike, ratio: ArrayLike, /, *, variance: ArrayLike = 1.0
) -> Float[Array, "*batch"]:
    """sqrt((b - x)(x - a)) / (2 pi sigma^2 c x) on [a, b], else 0: of the nonzero part.

    Args:
        x: Eigenvalues of W W^T (squared singular values), of any shape.
        ratio: c = m / M > 0; for c > 1 the density integrates to 1/c.
        variance: sigma^2 > 0: the entries' variance times M.

    Returns:
        The density.

    Raises:
        ValueError: ``ratio`` or ``variance`` not positive.
    """
    dtype = quad.scalar_dtype(x, ratio, variance)
    x = jnp.asarray(x).astype(dtype)
    c = quad.as_positive("ratio", ratio, dtype)
    sigma2 = quad.as_positive("variance", variance, dtype)
    lower, upper = marchenko_pastur_edges(c, variance=sigma2)
    square = (upper - x) * (x - lower)
    inside = (square > 0) & (x > 0)
    root = jnp.sqrt(jnp.where(inside, square, 1))
    return jnp.where(inside, root / (2 * math.pi * sigma2 * c * jnp.where(inside, x, 1)), 0)


def marchenko_pastur_ranks(ratio: ArrayLike, /) -> LimitingRanks:
    """Ranks of a Gaussian m x M matrix over m, c = m / M at most 1, as both grow.

    1 / (1 + sqrt c)^2, exp(-c / 2) and 1 / (1 + c).

    Args:
        ratio: c in (0, 1], of any shape.

    Returns:
        ``LimitingRanks(stable_rank, effective_rank_squared, participation_ratio)``; the effective
        rank is that of s^2.

    Raises:
        ValueError: ``ratio`` outside (0, 1].
    """
    dtype = quad.scalar_dtype(ratio)
    quad.as_positive("ratio", ratio, dtype)
    c = quad.as_within("ratio", ratio, 0.0, 1.0, dtype)
    return LimitingRanks(1 / jnp.square(1 + jnp.sqrt(c)), jnp.exp(-c / 2), 1 / (1 + c))


def fuss_catalan_moments(depth: int, count: int, /) -> Float[Array, " count"]:
    """binom((L + 1) k, k) / (L k + 1), k = 1..count: moments of s^2 of a product of L layers.

    For products of L Gaussian n x n matrices of entries N(0, 1/n), n to infinity.

    Args:
        depth: L >= 1.
        count: How many moments, at least 1.

    Returns:
        (count,); infinity where the dtype overflows.

    Raises:
        ValueError: ``depth`` or ``count`` below 1.

    Example:
        >>> print(fuss_catalan_moments(1, 4))  # Catalan numbers
        [ 1.  2.  5. 14.]

    Reference:
        Banica et al. 2011, "Free Bessel laws"; Penson & Zyczkowski 2011.
    """
    depth = whole("depth", depth)
    count = whole("count", count)
    # products of integers, not gamma functions: exact until they no longer fit
    values = [math.comb((depth + 1) * k, k) // (depth * k + 1) for k in range(1, count + 1)]
    largest = float(jnp.finfo(jnp.zeros(()).dtype).max)
    return jnp.asarray(np.array([v if v <= largest else np.inf for v in values], np.float64))


def fuss_catalan_edge(depth: ArrayLike, /) -> Float[Array, "*batch"]:
    """(L + 1)^(L + 1) / L^L: the largest s^2 of a product of L Gaussian layers, n to infinity.

    Args:
        depth: L >= 1, of any shape.

    Returns:
        The upper edge of the density; the lower is 0.

    Raises:
        ValueError: ``depth`` not positive.
    """
    depth = quad.as_positive("depth", depth, quad.scalar_dtype(depth))
    return (depth + 1) * jnp.exp(depth * jnp.log1p(1 / depth))


def fuss_catalan_density(x: ArrayLike, depth: int, /) -> Float[Array, "*batch"]:
    """The limiting density of s^2 of a product of L Gaussian layers of entries N(0, 1/n).

    sin(t)^2 sin(L t)^(L-1) / (pi sin((L+1) t)^L) where
    x = sin((L+1) t)^(L+1) / (sin(t) sin(L t)^L), 0 < t < pi / (L+1); t is found by bisection.

    Args:
        x: Squared singular values, of any shape.
        depth: L >= 1.

    Returns:
        The density; 0 outside the support. It grows as x^(-L/(L+1)) at 0, where infinity is
        returned. Not differentiable.

    Raises:
        ValueError: ``depth`` below 1.

    Reference:
        Haagerup & Moller 2013, "The law of large numbers for the free multiplicative
        convolution", theorem 8; Biane 1998.
    """
    depth = whole("depth", depth)
    dtype = quad.scalar_dtype(x)
    x = jnp.asarray(x).astype(dtype)
    inside = (x > 0) & (x < fuss_catalan_edge(jnp.asarray(depth, dtype)))
    log_x = jnp.log(jnp.where(inside, x, 1))

    # in u = pi / (L + 1) - t, since small x lie at small u
    end = math.pi / (depth + 1)

    def logs(u: Array) -> tuple[Array, Array, Array]:
        t = end - u
        # sin((L + 1) t) = sin((L + 1) u)
        first, second, third = t, depth * t, (depth + 1) * u
        return jnp.log(jnp.sin(first)), jnp.log(jnp.sin(second)), jnp.log(jnp.sin(third))

    def step(_, bracket):
        low, high = bracket  # of log u
        middle = (low + high) / 2
        first, second, third = logs(jnp.exp(middle))
        above = (depth + 1) * third - first - depth * second > log_x
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low = jnp.full(x.shape, math.log(jnp.finfo(dtype).tiny) / 2, dtype)
    high = jnp.full(x.shape, math.log(end), dtype)
    low, high = lax.fori_loop(0, 70, step, (low, high))
    first, second, third = logs(jnp.exp((low + high) / 2))
    density = jnp.exp(2 * first + (depth - 1) * second - depth * third) / math.pi
    at_zero = jnp.where(x == 0, jnp.asarray(jnp.inf, dtype), 0)
    return lax.stop_gradient(jnp.where(inside, density, at_zero))


def fuss_catalan_ranks(depth: ArrayLike, /) -> LimitingRanks:
    """Ranks over n of a product of L Gaussian n x n layers, n to infinity at fixed L.

    L^L / (L+1)^(L+1), exp(-(1/2 + ... + 1/(L+1))) and 1 / (L + 1): all fall as 1 / L.

    Args:
        depth: L >= 1, of any shape.

    Returns:
        ``LimitingRanks(stable_rank, effective_rank_squared, participation_ratio)``; the effective
        rank is that of s^2.

    Raises:
        ValueError: ``depth`` not positive.

    Example:
        >>> print([f"{r:.4f}" for r in fuss_catalan_ranks(1)])
        ['0.2500', '0.6065', '0.5000']

    Reference:
        Collins, Nechita & Zyczkowski 2010, "Random graph states, Fuss-Catalan distributions and
        area laws", for the entropy.
    """
    dtype = quad.scalar_dtype(depth)
    layers = quad.as_positive("depth", depth, dtype)
    harmonic = digamma(layers + 2) - (1 - float(np.euler_gamma))
    return LimitingRanks(1 / fuss_catalan_edge(layers), jnp.exp(-harmonic), 1 / (layers + 1))
