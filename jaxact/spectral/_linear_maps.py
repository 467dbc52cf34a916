r"""What can be known of a linear map from its action alone, with the error of each answer.

A map is a linear function of an array or a pytree: `jax.linearize(f, x)[1]` for the Jacobian of f
at x, or `operator` for a convolution. ``like`` is an input, of which only shape and dtype count.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxact._extras import require
from jaxact.spectral._spectrum import relative

BATCH = 8
"""So many probes go through the map at once."""


class Estimate(NamedTuple):
    """A number with its standard error, both scalars."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


class TopSingularValues(NamedTuple):
    """Singular triplets by Lanczos' method, largest first.

    Attributes:
      values: (k,).
      residuals: (k,): |A^T u - s v|, while A v = s u; the largest value's rounding is added. A true
        singular value lies within it of each value; where values are apart the error is about its
        square over the gap.
      left: singular vectors u in the output space, flat, (k, m).
      right: singular vectors v in the input space, flat, (k, n).
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    left: Float[Array, "k m"]
    right: Float[Array, "k n"]


class StableRankEstimate(NamedTuple):
    """The stable rank of a linear map.

    Attributes:
      value: squared Frobenius norm over the largest singular value squared.
      standard_error: from that of the norm.
      squared_frobenius_norm: an `Estimate`.
      spectral_norm: the largest singular value, from below.
      residual: of the largest singular value, see `TopSingularValues`.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    squared_frobenius_norm: Estimate
    spectral_norm: Float[Array, ""]
    residual: Float[Array, ""]


class SpectralDensity(NamedTuple):
    """The spectrum of a map as quadrature rules, one for each probe.

    sum_i f(s_i) over all n dimensions of the input, zeros included, is estimated by
    n * mean over probes of sum_j weights_j f(nodes_j).

    Attributes:
      nodes: singular values (not squared), (probes, iterations).
      weights: of each probe they sum to 1.
      dimension: n, of the input space.
    """

    nodes: Float[Array, "probes iterations"]
    weights: Float[Array, "probes iterations"]
    dimension: int


class RankEstimates(NamedTuple):
    """Ranks of a linear map by stochastic quadrature, each an `Estimate`.

    Attributes:
      effective_rank: by the entropy of s.
      effective_rank_squared: by the entropy of s^2.
      participation_ratio: of s^2.
      squared_frobenius_norm: sum of s^2.
    """

    effective_rank: Estimate
    effective_rank_squared: Estimate
    participation_ratio: Estimate
    squared_frobenius_norm: Estimate


def dense_matrix(linear: Callable, like: PyTree, /) -> Float[Array, "m n"]:
    """The matrix of a linear map, exact: up to some thousand dimensions this is the fastest way.

    Args:
      linear: a linear function of an array or a pytree.
      like: an input.

    Returns:
      (m, n) in the input's flat order, found column by column or row by row, whichever are fewer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([1.0, 2.0])
      >>> dense_matrix(jax.linearize(lambda x: x**2, x)[1], x).tolist()
      [[2.0, 0.0], [0.0, 4.0]]
    """
    forward, adjoint, n, m, dtype = _flat(linear, like)
    if n <= m:
        return jax.vmap(forward, out_axes=-1)(jnp.eye(n, dtype=dtype))
    return jax.vmap(adjoint)(jnp.eye(m, dtype=dtype))


def squared_frobenius_norm(
    linear: Callable,
    like: PyTree,
    /,
    *,
    key: PRNGKeyArray,
    probes: int = 32,
    method: Literal["hutchinson", "xtrace"] = "hutchinson",
) -> Estimate:
    r"""Squared Frobenius norm :math:`\mathrm{tr}\,A^T A` of a linear map, from random probes.

    Args:
      linear: a linear function of an array or a pytree.
      like: an input.
      key: for the probes.
      probes: at least 2.
      method: "hutchinson": the mean of |A v|^2 over vectors of random signs, unbiased, the cheapest
        for flat spectra; "xtrace": each probe also serves the others as a subspace, at twice the
        cost and ``probes`` vectors of memory, far better where the spectrum decays.

    Returns:
      An `Estimate`. XTrace's standard error takes its estimates as independent.

    Raises:
      ValueError: if ``probes`` is less than 2, or for XTrace more than the input's dimensions.

    Reference:
      Hutchinson 1990; Epperly, Tropp & Webber 2024, "XTrace: making the most of every sample in
      stochastic trace estimation".
    """
    _at_least("probes", probes, 2)
    forward, adjoint, n, _, dtype = _flat(linear, like)
    if method == "xtrace":
        if probes > n:
            raise ValueError(f"probes must be at most the input's dimensions {n}; got {probes}")
        require("studies", "matfree")
        from matfree import stochtrace

        sampler = stochtrace.sampler_normal(jnp.zeros(n, dtype), num=probes)
        integrand = stochtrace.leave_one_out_xtrace()
        # matfree relies on JAX's default promotions.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            values = integrand(lambda v: adjoint(forward(v)), sampler(key))
    else:

        def one(key):
            return jnp.sum(jnp.square(forward(jax.random.rademacher(key, (n,), dtype))))

        values = lax.map(one, jax.random.split(key, probes), batch_size=min(BATCH, probes))
    return _mean(values)


def top_singular_values(
    linear: Callable,
    like: PyTree,
    /,
    *,
    k: int,
    key: PRNGKeyArray,
    iterations: int | None = None,
) -> TopSingularValues:
    """The k largest singular values of a linear map, by Golub and Kahan's bidiagonalization.

    Full reorthogonalization; each step costs one application of the map and one of its transpose,
    and keeps one vector of either space.

    Args:
      linear: a linear function of an array or a pytree.
      like: an input.
      k: from 1 to the smaller of the map's dimensions.
      key: for the first vector.
      iterations: at least k; 4 k + 20, at most the smaller dimension, if not given. Flat spectra
        converge slowly: look at the residuals.

    Returns:
      `TopSingularValues`. The values are differentiable, ds = u^T dA v, in whatever the map closes
      over; the rest is constant.

    Raises:
      ValueError: if ``k`` or ``iterations`` is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> a = jnp.diag(jnp.arange(1.0, 31.0))
      >>> found = top_singular_values(
      ...     lambda v: a @ v, jnp.zeros(30), k=2, key=jax.random.key(0), iterations=30
      ... )
      >>> [round(float(s), 3) for s in found.values]
      [30.0, 29.0]

    Reference:
      Golub & Kahan 1965, "Calculating the singular values and pseudo-inverse of a matrix".
    """
    forward, _, n, m, dtype = _flat(linear, like)
    small = min(m, n)
    if not 1 <= k <= small:
        raise ValueError(f"k must be from 1 to the map's smaller dimension {small}; got {k}")
    steps = min(4 * k + 20, small) if iterations is None else iterations
    if not k <= steps <= small:
        raise ValueError(f"iterations must be from k={k} to {small}; got {iterations}")
    start = jax.random.normal(key, (n,), dtype)
    us, vs, b, last = _bidiagonalize(*_frozen(linear, like), start, m, steps)
    p, s, qh = jnp.linalg.svd(b, full_matrices=False)
    left = jnp.matmul(p[:, :k].T, us, precision="highest")
    right = jnp.matmul(qh[:k], vs, precision="highest")
    residuals = jnp.abs(last * p[-1, :k]) + jnp.finfo(dtype).eps * s[0]
    left, right, s, residuals = lax.stop_gradient((left, right, s, residuals))
    first = jnp.sum(left * jax.vmap(forward)(right), axis=-1)
    # The value is Lanczos' own; its gradient is that of u^T A v.
    return TopSingularValues(s[:k] + (first - lax.stop_gradient(first)), residuals, left, right)


def estimate_stable_rank(
    linear: Callable,
    like: PyTree,
    /,
    *,
    key: PRNGKeyArray,
    probes: int = 32,
    iterations: int = 32,
    method: Literal["hutchinson", "xtrace"] = "hutchinson",
) -> StableRankEstimate:
    """Stable rank of a linear map, without its matrix.

    Args:
      linear: a linear function of an array or a pytree.
      like: an input.
      key: for probes and first vector.
      probes: of the squared Frobenius norm.
      iterations: of Lanczos' method for the largest singular value; fewer where the map is smaller.
      method: see `squared_frobenius_norm`.

    Returns:
      A `StableRankEstimate`; value 0 for the zero map. Differentiable in what the map closes over.

    Raises:
      ValueError: if an option is out of range.
    """
    _at_least("iterations", iterations, 1)
    _, _, n, m, _ = _flat(linear, like)
    first, second = jax.random.split(key)
    total = squared_frobenius_norm(linear, like, key=first, probes=probes, method=method)
    top = top_singular_values(linear, like, k=1, key=second, iterations=min(iterations, n, m))
    norm = top.values[0]
    square = jnp.where(norm > 0, jnp.square(norm), 1)
    value = jnp.where(norm > 0, total.value / square, 0)
    error = jnp.where(norm > 0, total.standard_error / square, 0)
    return StableRankEstimate(value, error, total, norm, top.residuals[0])


def spectral_density(
    linear: Callable,
    like: PyTree,
    /,
    *,
    key: PRNGKeyArray,
    probes: int = 32,
    iterations: int = 32,
) -> SpectralDensity:
    """The distribution of a map's singular values, by stochastic Lanczos quadrature.

    Args:
      linear: a linear function of an array or a pytree.
      like: an input.
      key: for the probes.
      probes: at least 2; with fewer than some tens the density is rough.
      iterations: Lanczos steps of each probe, at most the smaller of the map's dimensions.

    Returns:
      A `SpectralDensity`, for `estimate_ranks`, a histogram, or a sum of any function of s.
      Not differentiable.

    Raises:
      ValueError: if ``probes`` is less than 2 or ``iterations`` out of range.

    Reference:
      Ubaru, Chen & Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature";
      Ghorbani, Krishnan & Xiao 2019 for networks.
    """
    _at_least("probes", probes, 2)
    _, _, n, m, dtype = _flat(linear, like)
    if not 1 <= iterations <= min(m, n):
        raise ValueError(f"iterations must be from 1 to {min(m, n)}; got {iterations}")
    forward, adjoint = _frozen(linear, like)

    def one(key):
        start = jax.random.rademacher(key, (n,), dtype)
        _, _, b, _ = _bidiagonalize(forward, adjoint, start, m, iterations)
        _, s, qh = jnp.linalg.svd(b)
        return s, jnp.square(qh[:, 0])

    nodes, weights = lax.map(one, jax.random.split(key, probes), batch_size=min(BATCH, probes))
    return SpectralDensity(*lax.stop_gradient((nodes, weights)), n)


def estimate_ranks(density: SpectralDensity, /) -> RankEstimates:
    """Effective ranks and participation ratio of a map, from its spectral density.

    Args:
      density: from `spectral_density`.

    Returns:
      `RankEstimates`; standard errors by the jackknife over probes. All 0 for the zero map.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> density = spectral_density(
      ...     lambda v: 2 * v, jnp.zeros(50), key=jax.random.key(0), iterations=3
      ... )
      >>> round(float(estimate_ranks(density).effective_rank.value), 2)
      50.0
    """
    nodes, weights, n = density
    largest = jnp.max(nodes)
    s = relative(nodes.ravel(), False).reshape(nodes.shape)

    def total(values):
        return n * jnp.sum(weights * values, axis=-1)

    def entropy_rank(power):
        x = s**power
        log = power * jnp.log(jnp.where(s > 0, s, 1))

        def rank(sums):
            mass, cross = sums
            safe = jnp.where(mass > 0, mass, 1)
            return jnp.where(mass > 0, safe * jnp.exp(-cross / safe), 0)

        return _jackknife(rank, (total(x), total(x * log)))

    def participation(sums):
        second, fourth = sums
        return jnp.square(second) / jnp.where(fourth > 0, fourth, 1)

    frobenius = _mean(total(jnp.square(s)))
    return RankEstimates(
        entropy_rank(1),
        entropy_rank(2),
        _jackknife(participation, (total(jnp.square(s)), total(s**4))),
        Estimate(*(field * jnp.square(largest) for field in frobenius)),
    )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")


def _mean(values: Array) -> Estimate:
    count = len(values)
    error = jnp.std(values, ddof=1) / jnp.sqrt(jnp.asarray(count, values.dtype))
    return Estimate(jnp.mean(values), lax.stop_gradient(error))


def _jackknife(f: Callable, sums: tuple[Array, ...]) -> Estimate:
    """A function of means over probes, and the standard error by leaving out each in turn."""
    count = len(sums[0])
    left_out = tuple((jnp.sum(x) - x) / (count - 1) for x in sums)
    values = jax.vmap(lambda *x: f(x))(*left_out)
    error = jnp.sqrt((count - 1) * jnp.mean(jnp.square(values - jnp.mean(values))))
    return Estimate(f(tuple(jnp.mean(x) for x in sums)), error)


def _flat(linear: Callable, like: PyTree):
    """The map and its transpose on flat vectors, their dimensions, and the input's dtype."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    flat, unravel = ravel_pytree(zeros)
    if not jnp.issubdtype(flat.dtype, jnp.floating):
        raise ValueError(f"like must hold real floating-point arrays; got {flat.dtype}")

    def forward(v):
        return ravel_pytree(linear(unravel(v)))[0]

    out = jax.eval_shape(forward, flat)

    def adjoint(u):
        return jax.linear_transpose(forward, flat)(u.astype(out.dtype))[0]

    return forward, adjoint, flat.size, out.size, flat.dtype


def _frozen(linear: Callable, like: PyTree) -> tuple[Callable, Callable]:
    """The flat map and its transpose, constant: an iteration has no derivative to carry."""
    forward, _, n, _, dtype = _flat(linear, like)
    pure, captured = jax.closure_convert(forward, jnp.zeros(n, dtype))
    captured = lax.stop_gradient(captured)

    def frozen(v):
        return pure(v, *captured)

    return frozen, lambda u: jax.linear_transpose(frozen, jnp.zeros(n, dtype))(u)[0]


def _bidiagonalize(forward: Callable, adjoint: Callable, start: Array, m: int, steps: int):
    """A V = U B, A^T U = V B^T + last v e^T: rows of U and V, B upper bidiagonal, and last.

    Unlike matfree's it survives an exhausted space (rank below the steps, the zero map): vectors
    and coefficients are zero from there on.
    """

    def orthogonal(vector, basis):
        for _ in range(2):
            shares = jnp.matmul(basis, vector, precision="highest")
            vector = vector - jnp.matmul(shares, basis, precision="highest")
        return vector

    def unit(vector, size_before):
        size = jnp.linalg.norm(vector)
        # What rounding leaves of a vector that lies in the basis is no new direction.
        alive = size > 8 * jnp.finfo(vector.dtype).eps * size_before
        return jnp.where(alive, vector / jnp.where(alive, size, 1), 0), jnp.where(alive, size, 0)

    def step(carry, index):
        us, vs, v = carry
        vs = vs.at[index].set(v)
        image = forward(v)
        u, alpha = unit(orthogonal(image, us), jnp.linalg.norm(image))
        us = us.at[index].set(u)
        image = adjoint(u)
        v, beta = unit(orthogonal(image, vs), jnp.linalg.norm(image))
        return (us, vs, v), (alpha, beta)

    n, dtype = len(start), start.dtype
    first = start / jnp.linalg.norm(start)
    carry = (jnp.zeros((steps, m), dtype), jnp.zeros((steps, n), dtype), first)
    (us, vs, _), (alphas, betas) = lax.scan(step, carry, jnp.arange(steps))
    return us, vs, jnp.diag(alphas) + jnp.diag(betas[:-1], 1), betas[-1]
