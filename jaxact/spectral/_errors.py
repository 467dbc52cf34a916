r"""Rounding errors of a graded product, followed as variances, and what they leave of its values.

The true product is :math:`Q (1 + Z)\,\mathrm{diag}(2^e)\,(U + dU)`, Z strictly lower triangular. A
layer with :math:`WQ = Q'R` and rounding errors F makes of :math:`1 + Z` the matrix
:math:`1 + RZR^{-1} + Q'^H F R^{-1}`, of which the lower part is the next Z: what a column is off in
the direction of smaller ones, harmless until the order turns over. The rest is an error of rows of
U, for good. Both are followed as variances of independent roundings, over the squared machine
epsilon: products of squared entries, so that exact zeros stay exact.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxact.spectral._jacobi import dual
from jaxact.spectral._spectrum import exponents, powers_of_two

LOST = -(2**29)
"""The exponent of a direction that is exactly lost."""


def largest(dtype) -> float:
    """Where variances are cut off: nothing is left of the value long before (1e30, 1e240)."""
    return float(jnp.finfo(dtype).max) ** 0.78


OF_QR = 0.1
"""Variance of the rounding of QR, over the squared machine epsilon."""

WIDTH = 6.0
"""Standard deviations in a bar, with what the model leaves out; from the zoo of chains."""


def births(w: Array, q: Array, entries: Array, shift: Array) -> Array:
    """Variances of the rounding of W Q, W being 2^-shift times the ``entries``.

    Where these span more than the normal numbers do, nothing is known.
    """
    least = exponents(jnp.min(jnp.where(entries == 0, jnp.inf, jnp.abs(entries))))
    coarse = least - shift < jnp.finfo(w.dtype).minexp
    return jnp.where(coarse, largest(w.dtype), _product(_square(w), _square(q)))


def vanished(w: Array, q: Array, wq: Array, alive: Array) -> Array:
    """Whether rounding made a row or a column of W Q zero, where W and Q hold none."""
    q, wq = jnp.where(alive, jnp.abs(q), 0), jnp.where(alive, jnp.abs(wq), 0)
    w = (w != 0).astype(q.dtype)
    rows = _product(w, jnp.max(q, axis=1, keepdims=True) != 0)[:, 0] > 0
    columns = _product(jnp.max(w, axis=0, keepdims=True), q != 0)[0] > 0
    lost = jnp.any(rows & (jnp.max(wq, axis=1) == 0))
    return lost | jnp.any(columns & (jnp.max(wq, axis=0) == 0))


def propagated(q, r, t, level, fresh, tilt, noise, rise, lost, hidden) -> tuple[Array, Array]:
    """Tilt and noise after W Q = Q R, where W Q has errors of variance ``fresh``.

    Rows of U become T U, with exponents ``level``, and are then scaled by ``rise``; ``lost`` of
    them are zero, which rounding may have ``hidden``.
    """
    kept, most = len(r), largest(r.dtype)
    index = jnp.arange(kept)
    lower = index[:, None] > index[None]
    left = jnp.concatenate([_square(r), _square(q).T], axis=1)
    moved = jnp.minimum(_product(left, jnp.concatenate([tilt, fresh])), most)
    # From the right by R^-1: rows of R are divided by its diagonal first, which may be tiny.
    square = r[:, :kept]
    size = jnp.maximum(jnp.abs(square[index, index]), most**-0.5)
    unit = jnp.where(lower.T, square / size[:, None].astype(r.dtype), 0)
    unit = unit + jnp.eye(kept, dtype=r.dtype)
    one = jnp.eye(kept, dtype=r.dtype)
    inverse = lax.linalg.triangular_solve(unit, one, left_side=True, lower=False)
    inverse = jnp.minimum(_square(inverse), most) / size[None] / size[None]
    moved = jnp.minimum(_product(moved[:, :kept], inverse), most)
    # Of a column that is lost nothing can be off.
    gap = jnp.minimum(powers_of_two(level[None] - level[:, None], moved.dtype), most**0.5)
    own = jnp.where(lower | (level < LOST // 2)[None], 0, moved) * gap * gap
    noise = jnp.minimum(_product(_square(t), noise[:, None])[:, 0], most)
    noise = jnp.minimum((noise + jnp.sum(own, axis=1)) * rise * rise, most)
    # A row that is lost to a zero that rounding made is not known to be one.
    of_lost = jnp.where((noise > 0) | hidden, most, 0)
    return jnp.where(lower, moved, 0), jnp.where(lost, of_lost, noise + 1)


def bars(log_scale, u, tilt, noise, logs, v) -> Array:
    r"""Of each value the sum over rows a of |w_a|^2 noise_a and |x_a|^2 tilt_ab |x_b|^2.

    x is its left singular vector, w = D x / s = U^-H v.
    """
    eps = float(jnp.finfo(logs.dtype).eps)
    lost = jnp.isneginf(log_scale)
    w = jnp.abs(dual(u, v, log_scale, logs))
    ratio = jnp.where(lost[:, None], -jnp.inf, logs[None] - log_scale[:, None])
    x = jnp.where(w > 0, jnp.minimum(w * jnp.exp(jnp.minimum(ratio, 80)), 1), 0)
    x2 = jnp.square(x)
    steep = jnp.where(tilt > 0, tilt, 0)
    variance = jnp.sum(jnp.square(w) * jnp.where(lost, 0, noise)[:, None], axis=0)
    variance = variance + jnp.sum(x2 * _product(steep, x2), axis=0)
    share = WIDTH * eps * (jnp.sqrt(variance) + jnp.where(jnp.isfinite(logs), jnp.abs(logs), 0) / 4)
    # What is off by a share of itself may be an exact zero once that share is one.
    bar = jnp.where(share < 1, -jnp.log1p(-jnp.minimum(share, 1)), jnp.inf)
    # A zero that only the last step has found is a value below the smallest number.
    zeros = jnp.sum(jnp.isneginf(logs).astype(jnp.int32)) > jnp.sum(lost.astype(jnp.int32))
    hidden = jnp.any(lost & (noise > 0)) | zeros
    bar = jnp.where(jnp.isneginf(logs), jnp.where(hidden, jnp.inf, 0), bar)
    return jnp.where(jnp.isnan(logs), jnp.nan, bar)


def _square(a: Array) -> Array:
    return jnp.square(jnp.abs(a))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.astype(a.dtype), precision="highest")
