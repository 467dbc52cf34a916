r"""Singular values of a product of many matrices, of any spread, in the matrices' own precision.

The product is kept as :math:`P = Q\,\mathrm{diag}(e^{\sigma})\,U` with orthonormal columns in Q and
a unit upper triangular U that stays bounded: a layer W turns it by :math:`WQ = Q'R` into

.. math:: U' = D'^{-1} R D\,U, \qquad \sigma' = \sigma + \log \mathrm{diag}\,R,

in which only bounded ratios :math:`e^{\sigma_j - \sigma_i}` occur. At the end one-sided Jacobi
rotations, on rows that carry their scale as a logarithm, give the singular values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

SWEEPS = 8


class GradedProduct(NamedTuple):
    """A product of matrices P = Q diag(exp(log_scale)) U, of shape (m, k), m >= k.

    Attributes:
      q: orthonormal columns (m, k).
      log_scale: (k,), real; -inf where a direction is exactly lost.
      compensation: (k,), what rounding has lost of ``log_scale`` so far.
      u: (k, k), bounded: unit upper triangular while no layer has fewer than k rows; a row of zeros
        where a direction is lost.
    """

    q: Inexact[Array, "m k"]
    log_scale: Float[Array, " k"]
    compensation: Float[Array, " k"]
    u: Inexact[Array, "k k"]


class ProductSpectrum(NamedTuple):
    """The spectrum of a product of matrices.

    Attributes:
      log_singular_values: natural logarithms, largest first, (k,), or (prefixes, k); -inf for a
        direction that is exactly lost.
    """

    log_singular_values: Float[Array, "*prefixes k"]


def graded_start(a: Inexact[Array, "m k"], /) -> GradedProduct:
    """The graded product that consists of one matrix.

    Args:
      a: real or complex (m, k) with m >= k: the first matrix, or an orthogonal basis of the inputs
        (the identity, say) from which layers then act.

    Returns:
      The product, for `graded_step`.

    Raises:
      ValueError: if ``a`` is not a matrix with m >= k >= 1.
    """
    if a.ndim != 2 or a.shape[0] < a.shape[1] or a.shape[1] == 0:
        raise ValueError(f"a must be a matrix (m, k) with m >= k >= 1; got shape {a.shape}")
    k = a.shape[1]
    zero = jnp.zeros(k, jnp.abs(a).dtype)
    q, r = _positive_qr(a)
    return _absorb(GradedProduct(q, zero, zero, jnp.eye(k, dtype=a.dtype)), q, r)


def graded_step(
    product: GradedProduct, aq: Inexact[Array, "m k"], /, *, tolerance: float = 0.0
) -> GradedProduct:
    """The product with one more matrix acting after it.

    Args:
      product: P = Q diag(exp s) U.
      aq: A Q, the next matrix applied to the columns of ``product.q``; A may be known as an
        operator only, such as the `jax.linearize` of a layer.
      tolerance: a direction is taken as exactly lost once what A leaves of it, orthogonal to the
        directions before it, is at most this share of its length. Where layers are exactly singular
        (ReLU's masks), rounding otherwise keeps it at about the machine epsilon.

    Returns:
      The product A P. Where A has m < k rows, its k becomes m: the other singular values are
      exact zeros, and no longer counted.

    Raises:
      ValueError: if ``aq`` has another number of columns than ``product.q``, or no rows, or the
        tolerance is not from 0 to 1.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and less than 1; got {tolerance}")
    if aq.ndim != 2 or aq.shape[1] != product.q.shape[1] or aq.shape[0] == 0:
        raise ValueError(
            f"aq must be a matrix of {product.q.shape[1]} columns and at least one row; "
            f"got shape {aq.shape}"
        )
    return _absorb(product, *_positive_qr(aq), tolerance=tolerance)


def graded_spectrum(product: GradedProduct, /) -> Float[Array, " k"]:
    """Log singular values of a graded product, largest first.

    Args:
      product: from `graded_start` and `graded_step`.

    Returns:
      Natural logarithms (k,), -inf for a direction that is exactly lost.
    """
    return _log_row_jacobi(product.log_scale, product.u)


def product_spectrum(
    matrices: Inexact[Array, "layer n n"], /, *, prefixes: Sequence[int] | None = None
) -> ProductSpectrum:
    r"""Log singular values of W_L ... W_1, and of its prefixes W_l ... W_1 where asked.

    All of them are right however far they lie apart, in the arithmetic of the matrices' dtype: the
    product itself is never formed.

    Args:
      matrices: real or complex (L, n, n); the first acts first. For a batch use `jax.vmap`.
      prefixes: numbers of layers l, each from 1 to L, static; the whole product if not given.

    Returns:
      A `ProductSpectrum`.

    Raises:
      ValueError: if ``matrices`` is not a stack of square matrices, or a prefix is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.stack([jnp.diag(jnp.array([2.0, 1e-30]))] * 3)
      >>> [round(float(v), 3) for v in product_spectrum(w).log_singular_values]
      [2.079, -207.233]
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or 0 in matrices.shape:
        raise ValueError(
            f"matrices must be a stack (layers, n, n) with none of them 0; got {matrices.shape}"
        )
    layers = len(matrices)
    if prefixes is not None and not all(1 <= prefix <= layers for prefix in prefixes):
        raise ValueError(f"prefixes must be from 1 to the {layers} layers; got {tuple(prefixes)}")

    def step(product, w):
        product = graded_step(product, jnp.matmul(w, product.q, precision="highest"))
        return product, None if prefixes is None else product

    start = graded_start(jnp.eye(matrices.shape[-1], dtype=matrices.dtype))
    last, products = lax.scan(step, start, matrices)
    if prefixes is None:
        return ProductSpectrum(graded_spectrum(last))
    chosen = jax.tree.map(lambda leaf: leaf[np.array(prefixes) - 1], products)
    return ProductSpectrum(jax.vmap(graded_spectrum)(chosen))


def _positive_qr(a: Array) -> tuple[Array, Array]:
    """QR with a diagonal of R that is not negative."""
    q, r = jnp.linalg.qr(a)
    diagonal = jnp.diagonal(r)
    size = jnp.abs(diagonal)
    phase = jnp.where(size > 0, diagonal / _as(jnp.where(size > 0, size, 1), r), 1)
    return q * phase[None], r * phase.conj()[:, None]


def _absorb(product: GradedProduct, q: Array, r: Array, tolerance: float = 0.0) -> GradedProduct:
    rows, columns = r.shape
    size = jnp.abs(jnp.diagonal(r))
    length = jnp.sqrt(jnp.sum(jnp.square(jnp.abs(r[:, :rows])), axis=0))
    reached = jnp.isfinite(product.log_scale)
    alive = (size > tolerance * length) & reached[:rows]
    size = jnp.where(alive, size, 1)
    old = jnp.where(reached, product.log_scale, 0)
    upper = jnp.triu(alive[:, None] & reached[None])
    ratio = jnp.where(upper, jnp.exp(jnp.where(upper, old[None] - old[:rows, None], 0)), 0)
    scaled = r / _as(size, r)[:, None] * _as(ratio, r)
    u = jnp.matmul(scaled, product.u, precision="highest")
    if rows < columns:
        # From the right, orthonormal rows change no singular value: keep the square factor of LQ.
        u = jnp.linalg.qr(u.T.conj(), mode="r").T.conj()
    # Kahan's compensated sum: a thousand layers add up to thousands of nats.
    term = jnp.log(size) - product.compensation[:rows]
    new = old[:rows] + term
    compensation = jnp.where(alive, (new - old[:rows]) - term, 0)
    return GradedProduct(q, jnp.where(alive, new, -jnp.inf), compensation, u)


def _as(real: Array, like: Array) -> Array:
    return real.astype(like.dtype)


def _round_robin(n: int) -> np.ndarray:
    """All pairs of n (even) players in n - 1 rounds, (rounds, 2, n / 2)."""
    players = list(range(n))
    rounds = []
    for _ in range(n - 1):
        rounds.append([players[: n // 2], players[: n // 2 - 1 : -1]])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds)


def _log_row_jacobi(log_scale: Array, rows: Array) -> Array:
    """Log singular values of diag(exp(log_scale)) rows, by rotations of pairs of rows.

    Every row is kept at unit length beside the logarithm of its true length, so that only the
    ratio of two lengths, at most one, enters a rotation.
    """
    n = len(rows)
    lower = jnp.swapaxes(_positive_qr(jnp.swapaxes(rows, 0, 1).conj())[1], 0, 1).conj()
    rows, log_scale = _unit_rows(lower, log_scale)
    order = jnp.argsort(-log_scale)
    rows, log_scale = rows[order], log_scale[order]
    if n == 1:
        return log_scale
    if n % 2:
        rows = jnp.pad(rows, ((0, 1), (0, 0)))
        log_scale = jnp.append(log_scale, -jnp.inf)

    def rotate(carry, pair):
        rows, log_scale = carry
        swap = log_scale[pair[1]] > log_scale[pair[0]]
        i, j = jnp.where(swap, pair[1], pair[0]), jnp.where(swap, pair[0], pair[1])
        x, y = rows[i], rows[j]
        alive = jnp.isfinite(log_scale[j])
        ratio = jnp.where(alive, jnp.exp(jnp.where(alive, log_scale[j] - log_scale[i], 0)), 0)
        inner = jnp.sum(x * y.conj(), axis=-1)
        cosine = jnp.abs(inner)
        phase = jnp.where(cosine > 0, inner / _as(jnp.where(cosine > 0, cosine, 1), inner), 1)
        y = y * phase[:, None]
        gap = (1 - ratio) * (1 + ratio)
        square = jnp.square(gap) + jnp.square(2 * ratio * cosine)
        root = gap + jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        # The tangent of the angle over the ratio: bounded however small the ratio is.
        slope = jnp.where(alive & (root > 0), 2 * cosine / jnp.where(root > 0, root, 1), 0)
        tangent = slope * ratio
        shrink = _as(lax.rsqrt(1 + jnp.square(tangent)), x)[:, None]
        new_x = shrink * (x + _as(tangent * ratio, x)[:, None] * y)
        new_y = shrink * (y - _as(slope, x)[:, None] * x)
        new_x, scale_i = _unit_rows(new_x, log_scale[i])
        new_y, scale_j = _unit_rows(new_y, log_scale[j])
        rows = rows.at[i].set(new_x).at[j].set(new_y)
        return (rows, log_scale.at[i].set(scale_i).at[j].set(scale_j)), None

    pairs = jnp.asarray(_round_robin(len(rows)))

    def sweep(carry, _):
        return lax.scan(rotate, carry, pairs)[0], None

    (_, log_scale), _ = lax.scan(sweep, (rows, log_scale), None, length=SWEEPS)
    return -jnp.sort(-log_scale)[:n]


def _unit_rows(rows: Array, log_scale: Array) -> tuple[Array, Array]:
    square = jnp.sum(jnp.real(rows * rows.conj()), axis=-1)
    alive = (square > 0) & jnp.isfinite(log_scale)
    size = jnp.sqrt(jnp.where(alive, square, 1))
    log_scale = jnp.where(alive, jnp.where(alive, log_scale, 0) + jnp.log(size), -jnp.inf)
    return jnp.where(alive[:, None], rows / _as(size, rows)[:, None], 0), log_scale
