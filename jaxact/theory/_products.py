"""Spectra of products of random matrices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact._checks import whole
from jaxact.theory import _quadrature as quad


def newman_exponents(n: int, /, *, variance: ArrayLike = 1.0) -> Float[Array, " n"]:
    """Lyapunov exponents of a product of Gaussian n x n layers, largest first.

    mu_i = (log(2 sigma^2 / n) + digamma((n - i + 1) / 2)) / 2, i = 1..n, for entries
    N(0, sigma^2 / n): log s_i / L of the product of L layers tends to mu_i, and the logarithm of
    the i-th diagonal of the sequential QR factors has mean mu_i at every layer.

    Args:
        n: The width, at least 1.
        variance: sigma^2 > 0, a scalar: the entries' variance times n. For ReLU layers at He
            initialization sigma^2 = 2 counts the masks apart.

    Returns:
        (n,), nats a layer.

    Raises:
        ValueError: ``n`` below 1 or ``variance`` not positive.

    Example:
        >>> print([f"{mu:.4f}" for mu in newman_exponents(2)])
        ['-0.2886', '-0.9818']

    Reference:
        Newman 1986, "The distribution of Lyapunov exponents: exact results for random matrices",
        Commun. Math. Phys. 103, eq. 5.
    """
    n = whole("n", n)
    dtype = quad.scalar_dtype(variance)
    sigma2 = quad.as_positive("variance", variance, dtype)
    from scipy.special import digamma  # slow to import

    standard = (digamma((n - np.arange(n)) / 2) - np.log(n / 2)) / 2
    return jnp.log(sigma2) / 2 + jnp.asarray(standard, dtype)


class ProductRanks(NamedTuple):
    """Predicted ranks of a product of layers; counts, or fractions of n where so said."""

    effective_rank: Float[Array, ""]
    effective_rank_squared: Float[Array, ""]
    stable_rank: Float[Array, ""]
    participation_ratio: Float[Array, ""]


def newman_ranks(n: int, depth: ArrayLike, /) -> ProductRanks:
    """Ranks of a product of L >> n Gaussian n x n layers, with log s_i = L mu_i.

    For n large the exponents are mu_i - mu_1 = log(1 - i/n) / 2, so that rank is lost as 1/L:
    n / (L + 1) for the stable rank, n exp(L / (L + 1)) / (L + 1) for the effective rank of s^2, the
    same at L / 2 for that of s, n (2L + 1) / (L + 1)^2 for the participation ratio; they tend to 1
    beyond L = n. At fixed L and n to infinity use ``fuss_catalan_ranks``.

    Args:
        n: The width, at least 1.
        depth: L > 0, a scalar; it may be traced.

    Returns:
        ``ProductRanks(effective_rank, effective_rank_squared, stable_rank, participation_ratio)``:
        exp of the entropy of s / sum s and of s^2 / sum s^2; sum s^2 / s_1^2;
        (sum s^2)^2 / sum s^4. Each is a count between 1 and n.

    Raises:
        ValueError: ``n`` below 1 or ``depth`` not positive.

    Example:
        >>> print(f"{newman_ranks(64, 10_000).stable_rank:.3f}")
        1.000
    """
    dtype = quad.scalar_dtype(depth)
    scaled = quad.as_positive("depth", depth, dtype) * newman_exponents(n).astype(dtype)
    twice = 2 * (scaled - scaled[0])

    def entropy_rank(log_weights: Array) -> Array:
        log_p = jax.nn.log_softmax(log_weights)
        return jnp.exp(-jnp.sum(jnp.exp(log_p) * log_p))

    total, squares = (jax.nn.logsumexp(k * twice) for k in (1, 2))
    return ProductRanks(
        entropy_rank(twice / 2),
        entropy_rank(twice),
        jnp.exp(total),
        jnp.exp(2 * total - squares),
    )


def expected_log_determinant(
    n: int, depth: ArrayLike = 1, /, *, variance: ArrayLike = 1.0
) -> Float[Array, ""]:
    """E log |det W_L ... W_1| = L sum_i mu_i, exact at every L, for Gaussian n x n layers.

    Args:
        n: The width, at least 1.
        depth: L > 0.
        variance: sigma^2 > 0: the entries' variance times n.

    Returns:
        Nats.

    Raises:
        ValueError: ``n`` below 1, ``depth`` or ``variance`` not positive.

    Reference:
        Goodman 1963; Newman 1986.
    """
    dtype = quad.scalar_dtype(depth, variance)
    depth = quad.as_positive("depth", depth, dtype)
    return depth * jnp.sum(newman_exponents(n, variance=variance).astype(dtype))


def batch_norm_rank_bound(
    gram: Float[Array, "*batch d d"], /, *, tolerance: ArrayLike = 0.0
) -> Float[Array, "*batch"]:
    """(1 - tau)^2 tr(M)^2 / |M|_F^2: no fewer eigenvalues of M are at least tau tr(M) / d.

    For M = H H^T / N after batch norm, tr M = d: the soft rank of Daneshmand 2020. With batch norm
    and a weak residual branch the bound stays of order sqrt(d) at every depth (their theorem 2),
    where without it it falls to 1.

    Args:
        gram: (..., d, d), symmetric and positive semidefinite.
        tolerance: tau in [0, 1].

    Returns:
        The bound; NaN for the zero matrix.

    Raises:
        ValueError: ``tolerance`` outside [0, 1].

    Reference:
        Daneshmand et al. 2020, "Batch normalization provably avoids rank collapse for randomly
        initialised deep networks", lemma 4 and theorem 2.
    """
    tau = quad.as_within("tolerance", tolerance, 0.0, 1.0, gram.dtype)
    trace = jnp.trace(gram, axis1=-2, axis2=-1)
    return jnp.square((1 - tau) * trace) / jnp.sum(jnp.square(gram), axis=(-2, -1))
