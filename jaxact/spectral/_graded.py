r"""Singular values of a product of many matrices, of any spread, in the matrices' own precision.

The product is kept as :math:`P = Q\,\mathrm{diag}(e^{\sigma})\,U` with orthonormal columns in Q and
a unit upper triangular U that stays bounded: a layer W turns it by :math:`WQ = Q'R` into

.. math:: U' = D'^{-1} R D\,U, \qquad \sigma' = \sigma + \log \mathrm{diag}\,R,

in which only bounded ratios :math:`e^{\sigma_j - \sigma_i}` occur. At the end one-sided Jacobi
rotations, on rows that carry their scale as a logarithm, give the singular values.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxact.spectral._jacobi import add, log_row_jacobi, phases, positive_qr
from jaxact.spectral._spectrum import widen

SMALL = 2.0**-8
"""Diagonal entries of R below this share of their column's length take more digits to refine."""


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
    a = widen(a)
    k = a.shape[1]
    zero = jnp.zeros(k, jnp.abs(a).dtype)
    q, r = positive_qr(a)
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
    return _absorb(product, *positive_qr(widen(aq)), tolerance)


def graded_spectrum(product: GradedProduct, /) -> Float[Array, " k"]:
    """Log singular values of a graded product, largest first.

    Args:
      product: from `graded_start` and `graded_step`.

    Returns:
      Natural logarithms (k,), -inf for a direction that is exactly lost.
    """
    return log_row_jacobi(product.log_scale, product.compensation, product.u)


def transposed(product: GradedProduct) -> GradedProduct:
    """The conjugate transpose, but for orthonormal columns that act first.

    P^H = U^H D Q^H has the singular values, and the left factor, of U^H D.
    """
    q, r = positive_qr(product.u.T.conj())
    return _absorb(product._replace(u=jnp.eye(len(r), dtype=r.dtype)), q, r)


def refined_step(
    product: GradedProduct,
    x: Inexact[Array, "k k"],
    w: Inexact[Array, "n m"],
    tolerance: float,
) -> tuple[GradedProduct, Inexact[Array, "k k"]]:
    """`graded_step` by a real matrix, n >= k, with Q and R known to 1.3 to 1.6 times the digits.

    Q is ``product.q (I + x)``, x strictly lower triangular, small, and constant to derivatives.
    """
    reached = jnp.isfinite(product.log_scale)
    q, r, x = _refined_qr(tolerance, w, product.q, lax.stop_gradient(x), reached)
    return _absorb(product, q, r, tolerance), x


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _refined_qr(
    tolerance: float, w: Array, before: Array, x: Array, reached: Array
) -> tuple[Array, Array, Array]:
    """Q0, R and X of W Q (I + x) = Q0 (I + X) R, Q being ``before``.

    Of the QR W Q = Q0 R0 + F the residual F is found to more digits; with G = Q0^T F + R0 x

        WQ (I + x) = Q0 (R0 + G),   X = stril(G (R0 + triu G)^-1),   R = R0 + triu(G - X R).
    """
    q, r = positive_qr(jnp.matmul(w, before, precision="highest"))
    size, length = jnp.abs(jnp.diagonal(r)), jnp.linalg.norm(r, axis=0)
    all_digits = jnp.any(reached & (size > tolerance * length) & (size < SMALL * length))
    terms = jnp.concatenate([w, -q], axis=1), jnp.concatenate([before, r])
    residual = _residual(*terms, all_digits)
    both = jnp.concatenate([q.T, r], axis=1), jnp.concatenate([residual, x])
    g = jnp.matmul(*both, precision="highest")
    better = r + jnp.triu(g)
    reached = reached & (jnp.diagonal(better) != 0)
    x = _solve_right(jnp.where(jnp.diag(~reached), 1, better), jnp.tril(g, -1))
    x = jnp.where(reached[None], jnp.tril(x, -1), 0)
    better = better - jnp.triu(jnp.matmul(x, better, precision="highest"))
    sign = phases(jnp.diagonal(better))
    return q * sign[None], better * sign[:, None], sign[:, None] * x * sign[None]


@_refined_qr.defjvp
def _refined_qr_jvp(tolerance, primals, tangents):
    """That of QR, with the refined R in place of the first: in small entries they differ much."""
    w, before, _, reached = primals
    q, r, x = out = _refined_qr(tolerance, *primals)
    product = functools.partial(jnp.matmul, precision="highest")
    change = product(tangents[0], before) + product(w, tangents[1])
    usable = reached & (jnp.diagonal(r) != 0)
    change = _solve_right(jnp.where(jnp.diag(~usable), 1, r), jnp.where(usable[None], change, 0))
    inner = product(q.T, change)
    lower = jnp.tril(inner, -1)
    turn = lower - lower.T
    return out, (change + product(q, turn - inner), product(inner - turn, r), jnp.zeros_like(x))


def _solve_right(upper: Array, a: Array) -> Array:
    return lax.linalg.triangular_solve(upper, a, left_side=False, lower=False)


def _residual(a: Array, b: Array, all_digits: Array) -> Array:
    """A product of real matrices whose terms cancel, to about 8 bits more, or 16 where asked.

    The leading bits of both factors are split off, few enough that sums of their products are exact
    (Ozaki, Ogita, Oishi & Rump 2012); the rest is smaller by so many bits.
    """
    a1, b1 = _leading_bits(a, 1), _leading_bits(b, 0)
    a2, b2 = a - a1, b - b1

    def product(left: list[Array], right: list[Array]) -> Array:
        both = jnp.concatenate(left, axis=1), jnp.concatenate(right)
        return jnp.matmul(*both, precision="highest")

    def three_parts() -> Array:
        a2_, b2_ = _leading_bits(a2, 1), _leading_bits(b2, 0)
        rest = product([a1, a2_, a2 - a2_], [b2 - b2_, b2, b])
        return product([a1, a2_], [b2_, b1]) + rest

    def two_parts() -> Array:
        return product([a1, a2], [b2, b])

    return product([a1], [b1]) + lax.cond(all_digits, three_parts, two_parts)


def _leading_bits(a: Array, axis: int) -> Array:
    """So many leading bits that products of twice the length are exact."""
    info = jnp.finfo(a.dtype)
    bits = max((info.nmant + 1 - (2 * a.shape[axis] - 1).bit_length()) // 2, 1)
    largest = jnp.max(jnp.abs(a), axis=axis, keepdims=True)
    # Without a mantissa only a power of two remains.
    unit = lax.reduce_precision(largest, info.nexp, 0) * 2.0 ** (1 - bits)
    unit = jnp.where(unit > 0, unit, 1)
    return jnp.round(a / unit) * unit


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
    new, lost = add(old[:rows], product.compensation[:rows], jnp.log(size))
    compensation = jnp.where(alive, lost, 0)
    return GradedProduct(q, jnp.where(alive, new, -jnp.inf), compensation, u)


def _as(real: Array, like: Array) -> Array:
    return real.astype(like.dtype)
