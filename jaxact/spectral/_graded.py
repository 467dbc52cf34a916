r"""Singular values of a product of many matrices, of any spread, in the matrices' own precision.

The product is kept as :math:`P = Q\,\mathrm{diag}(2^{e})\,U` with orthonormal columns in Q,
integers e, and rows of U of size one. A layer W turns it by the QR of :math:`WQ\Pi = Q'R` into

.. math:: P' = Q'\,R\,\mathrm{diag}(2^{e})\,U,

where the permutation :math:`\Pi` sorts the columns of :math:`WQ\,\mathrm{diag}(2^{e})` by length
first, so that only ratios :math:`2^{e_j - e_i}` that are bounded occur. At the end one-sided Jacobi
rotations, on rows that carry their scale as a logarithm, give the singular values.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact, Int

from jaxact.spectral._errors import LOST, OF_QR, bars, births, largest, propagated, vanished
from jaxact.spectral._jacobi import log_row_jacobi
from jaxact.spectral._qr import qr, refined_qr
from jaxact.spectral._spectrum import alike, exponents, powers_of_two, scaled, widen


class GradedProduct(NamedTuple):
    """A product of matrices P = Q diag(2^exponent) U, of shape (m, k), m >= k.

    Attributes:
      q: orthonormal columns (m, k).
      exponent: (k,), int32.
      u: (k, k), the largest entry of each row from 1/2 to 1, or a row of zeros where a direction
        is exactly lost; NaN where a matrix of the product held NaN or infinity.
      tilt: (k, k), variance of the error of Q, of each column in the direction of the others, over
        the squared machine epsilon; None where errors are not followed.
      noise: (k,), variance of the error of each row of U, over the squared machine epsilon.
    """

    q: Inexact[Array, "m k"]
    exponent: Int[Array, " k"]
    u: Inexact[Array, "k k"]
    tilt: Float[Array, "k k"] | None = None
    noise: Float[Array, " k"] | None = None

    @property
    def log_scale(self) -> Float[Array, "... k"]:
        """Natural logarithms of the lengths of the rows of diag(2^exponent) U, -inf where lost."""
        length = jnp.linalg.norm(self.u, axis=-1)
        log = jnp.log(jnp.where(length == 0, 1, length))
        scale = self.exponent.astype(log.dtype) * math.log(2)
        return jnp.where(length == 0, -jnp.inf, log + scale)


def graded_start(a: Inexact[Array, "m k"], /, *, errors: bool = False) -> GradedProduct:
    """The graded product that consists of one matrix.

    Args:
      a: real or complex (m, k) with m >= k: the first matrix, or an orthogonal basis of the inputs
        (the identity, say) from which layers then act.
      errors: follow the rounding errors, for `graded_error`.

    Returns:
      The product, for `graded_step`.

    Raises:
      ValueError: if ``a`` is not a matrix with m >= k >= 1.
    """
    if a.ndim != 2 or a.shape[0] < a.shape[1] or a.shape[1] == 0:
        raise ValueError(f"a must be a matrix (m, k) with m >= k >= 1; got shape {a.shape}")
    a = widen(a)
    return absorb(_nothing(jnp.eye(a.shape[1], dtype=a.dtype), errors), a)


def _nothing(u: Array, errors: bool) -> GradedProduct:
    k, real = len(u), jnp.finfo(u.dtype).dtype
    follow = (jnp.zeros((k, k), real), jnp.zeros(k, real)) if errors else (None, None)
    return GradedProduct(jnp.eye(k, dtype=u.dtype), jnp.zeros(k, jnp.int32), u, *follow)


def graded_step(
    product: GradedProduct, aq: Inexact[Array, "m k"], /, *, tolerance: float = 0.0
) -> GradedProduct:
    """The product with one more matrix acting after it.

    Args:
      product: P = Q diag(2^e) U.
      aq: A Q, the next matrix applied to the columns of ``product.q``; A may be known as an
        operator only, such as the `jax.linearize` of a layer.
      tolerance: a direction is taken as exactly lost once what A leaves of it, orthogonal to the
        directions before it, is at most this share of its length. With 0 only exact zeros are
        lost: rows of zeros (ReLU's masks) and columns of zeros, whatever the others hold.

    Returns:
      The product A P. Where A has m < k rows, its k becomes m: the other singular values are
      exact zeros, and no longer counted.

    Raises:
      ValueError: if ``product`` is not one product, ``aq`` has another number of columns than
        ``product.q``, or no rows, or the tolerance is not from 0 to 1.
    """
    _one(product)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and less than 1; got {tolerance}")
    if aq.ndim != 2 or aq.shape[1] != product.q.shape[1] or aq.shape[0] == 0:
        raise ValueError(
            f"aq must be a matrix of {product.q.shape[1]} columns and at least one row; "
            f"got shape {aq.shape}"
        )
    return absorb(product, widen(aq), tolerance)


def graded_spectrum(product: GradedProduct, /) -> Float[Array, " k"]:
    """Log singular values of a graded product, largest first.

    Args:
      product: from `graded_start` and `graded_step`.

    Returns:
      Natural logarithms (k,), -inf for a direction that is exactly lost; all NaN where a matrix of
      the product held NaN or infinity.

    Raises:
      ValueError: if ``product`` is not one product; `jax.vmap` takes stacked ones.
    """
    _one(product)
    return _spectrum(product, False)[0]


def graded_error(product: GradedProduct, /) -> Float[Array, " k"]:
    """How far, in nats, each value of `graded_spectrum` may be from the truth.

    Args:
      product: from `graded_start` with ``errors=True`` and `graded_step`.

    Returns:
      (k,), not negative; infinite where rounding may hide an exact zero, NaN where the values are.
      See `product_spectrum`.

    Raises:
      ValueError: if errors were not followed, or ``product`` is not one product.
    """
    _one(product)
    if product.noise is None:
        raise ValueError("product must come from graded_start with errors=True; got errors=False")
    error = spectrum_and_error(product)[1]
    assert error is not None
    return error


def _one(product: GradedProduct) -> None:
    """Refuses stacked products, and parts that do not belong together."""
    q, exponent, u = (jnp.shape(part) for part in product[:3])
    if len(q) != 2 or exponent != q[1:] or u != 2 * exponent:
        raise ValueError(
            "product must be one, of shapes q (m, k), exponent (k,), u (k, k), or be mapped by "
            f"jax.vmap over the axis that stacks several; got shapes {q}, {exponent}, {u}"
        )


def spectrum_and_error(product: GradedProduct) -> tuple[Array, Array | None]:
    """`graded_spectrum`, and `graded_error` where errors were followed."""
    logs, v = _spectrum(product, product.noise is not None)
    if v is None:
        return logs, None
    log_scale, rest = _natural(product)
    state = (log_scale - rest, product.u, product.tilt, product.noise, logs, v)
    return logs, bars(*(lax.stop_gradient(leaf) for leaf in state))


def _spectrum(product: GradedProduct, vectors: bool) -> tuple[Array, Array | None]:
    log_scale, rest = _natural(product)
    logs, v = log_row_jacobi(vectors, log_scale, rest, product.u)
    return jnp.where(jnp.any(jnp.isnan(product.u)), jnp.nan, logs), v


def _natural(product: GradedProduct) -> tuple[Array, Array]:
    """Natural logarithms of the scales, and what their rounding has added."""
    real = jnp.finfo(product.u.dtype).dtype
    lost = jnp.all(product.u == 0, axis=1)
    exponent = jnp.where(lost, 0, product.exponent).astype(real)
    # The first factor has few bits, so that its product is exact.
    return jnp.where(lost, -jnp.inf, exponent * 0.6875), exponent * (0.6875 - math.log(2))


def transposed(product: GradedProduct) -> GradedProduct:
    """The conjugate transpose, but for orthonormal columns that act first.

    P^H = U^H D Q^H has the singular values, and the left factor, of U^H D.
    """
    u = product.u.T.conj()
    before = product._replace(q=jnp.eye(len(u), dtype=u.dtype), u=jnp.eye(len(u), dtype=u.dtype))
    if product.noise is None or product.tilt is None:
        return absorb(before, u)
    # What the columns of U^H are off by goes into Q; what Q was off by is on the right now.
    tilt = jnp.broadcast_to(product.noise[None] / len(u), u.shape)
    noise = jnp.sum(product.tilt, axis=0)
    before = before._replace(tilt=jnp.zeros_like(tilt), noise=noise)
    return absorb(before, u, fresh=tilt)


def graded_layer(product: GradedProduct, w: Array, tolerance: float, x: Array | None = None):
    """`graded_step` by a matrix; and, if x is given, refined: Q is then ``product.q (I + x)``.

    x is small and constant to derivatives. Returns the product and the new x.
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(w)))
    shift = exponents(largest)
    q = product.q
    follow = product.noise is not None
    entries, w = w, scaled(w, -shift)
    if x is not None and len(w) < q.shape[1]:
        q, x = q + jnp.matmul(q, x, precision="highest"), jnp.zeros_like(x[: len(w), : len(w)])
        return absorb(product, jnp.matmul(w, q, precision="highest"), tolerance, shift), x
    fresh = births(w, q, entries, shift) if follow else None
    wq = jnp.matmul(w, q, precision="highest")
    hidden = vanished(entries, q, wq, product.exponent > LOST) if follow else False
    if x is None:
        return absorb(product, wq, tolerance, shift, fresh, hidden), None
    return _absorb(product, wq, tolerance, shift, fresh, hidden, (w, lax.stop_gradient(x)))


def absorb(
    product: GradedProduct,
    aq: Array,
    tolerance: float = 0.0,
    shift: Array | int = 0,
    fresh: Array | None = None,
    hidden: Array | bool = False,
) -> GradedProduct:
    """The product by a matrix 2^shift A, of which A Q is given, and the variances of its errors."""
    return _absorb(product, aq, tolerance, shift, fresh, hidden, None)[0]


def _absorb(
    product, aq, tolerance, shift, fresh, hidden, refine
) -> tuple[GradedProduct, Array | None]:
    kept = min(aq.shape)
    product = alike(product, aq)
    size = lax.stop_gradient(jnp.max(jnp.abs(aq), axis=0))
    step = exponents(size)
    columns = scaled(aq, -step[None])
    alive = (size > 0) & (product.exponent > LOST)
    level = jnp.where(alive, product.exponent + step + shift, LOST)
    # By size: the level, and the bits of the largest entry.
    order = jnp.argsort(-(level.astype(size.dtype) + scaled(size, -step)))
    level, u = level[order], _take(product.u, order)
    # Rows of zeros last keep exact zeros apart from rounding, and small rows their digits.
    extent = jnp.max(jnp.where(alive, jnp.abs(lax.stop_gradient(columns)), 0), axis=1)
    rows = jnp.argsort(-extent)
    back = jnp.argsort(rows)
    x = None
    if refine is None:
        index = rows[:, None] * aq.shape[1] + order[None]
        q, r = qr(_take(columns.ravel(), index))
    else:
        w, x = refine
        w, q, x = w[rows], product.q[:, order], x[order][:, order]
        q, r, x = refined_qr(tolerance, w, q, x, alive[order])
        r = scaled(r, -step[order][None])
    index = jnp.arange(kept)
    # Not jnp.diagonal: XLA would find it anew for each entry of what follows.
    diagonal = exponents(jnp.maximum(lax.stop_gradient(jnp.abs(r[index, index])), 2.0**-100))
    scales = powers_of_two(level[None] - (level[:kept] + diagonal)[:, None], size.dtype)
    upper = index[:, None] <= jnp.arange(r.shape[1])[None]
    t = jnp.where(upper, r * scales.astype(r.dtype), 0)
    if tolerance:
        left = jnp.max(jnp.abs(t), axis=1) * powers_of_two(diagonal, size.dtype)
        length = jnp.linalg.norm(lax.stop_gradient(columns), axis=0)[order][:kept]
        t = jnp.where((left > tolerance * length)[:, None], t, 0)
    new = jnp.matmul(t, u, precision="highest")
    if kept < r.shape[1]:
        # From the right, orthonormal rows change no singular value: keep the square factor of LQ.
        new = qr(new.T.conj())[1].T.conj()
    length = lax.stop_gradient(jnp.max(jnp.abs(new), axis=1))
    rise = exponents(length)
    lost = length == 0
    exponent = jnp.where(lost, LOST, level[:kept] + diagonal + rise)
    new = jnp.where(jnp.all(jnp.isfinite(size)), scaled(new, -rise[:, None]), jnp.nan)
    tilt = noise = None
    if product.noise is not None:
        fresh, tilt = _as_scaled(product, aq, columns, extent, step, fresh)
        hidden = hidden | jnp.any((product.exponent == LOST) & (product.noise > 0))
        factors = q, r, t, level[:kept] + diagonal
        errors = fresh[rows][:, order], tilt[order][:, order], product.noise[order]
        rise = powers_of_two(-rise, size.dtype)
        known = lax.stop_gradient((*factors, *errors, rise))
        tilt, noise = propagated(*known, lost, hidden)
    return GradedProduct(_take(q, back), exponent, new, tilt, noise), x


def _as_scaled(product, aq, columns, extent, step, fresh) -> tuple[Array, Array]:
    """Variances of the errors of the columns as scaled, and of the tilt before them."""
    real = extent.dtype
    most = largest(real)
    power = powers_of_two(step[:, None] - step[None], real)
    tilt = jnp.minimum(product.tilt * power * power, most)
    if fresh is None:
        # An operator's rounding is that of its whole rows, as far as is known.
        highest = jnp.max(step)
        fresh = jnp.sum(jnp.square(jnp.abs(scaled(aq, -highest))), axis=1, keepdims=True)
        step = step - highest
    power = powers_of_two(-step, real)[None]
    # QR rounds each row in proportion to its largest entry.
    of_qr = jnp.where(columns != 0, jnp.square(extent)[:, None] * OF_QR, 0)
    fresh = jnp.minimum(fresh * power * power + of_qr, most)
    return jnp.where((product.exponent > LOST)[None], fresh, 0), tilt


def _take(a: Array, index: Array) -> Array:
    return a.at[index].get(mode="promise_in_bounds", unique_indices=True)
