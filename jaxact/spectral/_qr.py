"""QR with a derivative that is finite where a direction is lost, and QR to more digits."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

SMALL = 2.0**-8
"""Diagonal entries of R below this share of their column's length take more digits to refine."""


def householder_qr(a: Array) -> tuple[Array, Array]:
    """Reduced QR as `jnp.linalg.qr`, which JAX 0.12 does not batch on a mesh of explicit axes."""
    h, factors = _reflectors(a)
    kept = factors.shape[-1]
    return lax.linalg.householder_product(h[..., :kept], factors), jnp.triu(h[..., :kept, :])


def householder_r(a: Array) -> Array:
    """R of `householder_qr` alone."""
    h, factors = _reflectors(a)
    return jnp.triu(h[..., : factors.shape[-1], :])


def _reflectors(a: Array) -> tuple[Array, Array]:
    h, factors = jnp.linalg.qr(a, mode="raw")
    return jnp.swapaxes(h, -1, -2), factors


def qr(a: Array) -> tuple[Array, Array]:
    """Reduced QR of any shape."""
    rows, columns = a.shape
    if rows >= columns:
        return tall_qr(a)
    q, r = tall_qr(a[:, :rows])
    rest = jnp.matmul(q.T.conj(), a[:, rows:], precision="highest")
    return q, jnp.concatenate([r, rest], axis=1)


@jax.custom_jvp
def tall_qr(a: Array) -> tuple[Array, Array]:
    return householder_qr(a)


@tall_qr.defjvp
def _qr_jvp(primals, tangents):
    q, r = tall_qr(*primals)
    return (q, r), _turn(q, r, tangents[0], jnp.ones(len(r), bool))


def _turn(q: Array, r: Array, change: Array, reached: Array) -> tuple[Array, Array]:
    """What a change of Q R turns Q and R by; directions that are lost do not turn."""
    product = functools.partial(jnp.matmul, precision="highest")
    right = product(change, _inverse(r, reached))
    inner = product(q.T.conj(), right)
    lower = jnp.tril(inner, -1)
    turn = lower - lower.T.conj()
    if jnp.iscomplexobj(inner):
        turn = turn + 1j * jnp.imag(jnp.diag(jnp.diagonal(inner)))
    direct = product(q.T.conj(), change)
    return right + product(q, turn - inner), jnp.triu(direct - product(turn, r))


def _inverse(r: Array, reached: Array) -> Array:
    """The inverse of R without lost directions; no entry is so large that products overflow."""
    bound = float(jnp.finfo(r.dtype).max) ** 0.5
    usable = reached & (jnp.abs(jnp.diagonal(r)) > 1 / bound)
    inverse = _solve_right(jnp.where(jnp.diag(~usable), 1, r), jnp.diag(usable.astype(r.dtype)))
    return jnp.where(jnp.abs(inverse) < bound, inverse, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def refined_qr(
    tolerance: float, w: Array, before: Array, x: Array, reached: Array
) -> tuple[Array, Array, Array]:
    """Q0, R, X of W Q (I + x) = Q0 (I + X) R, Q being ``before``, to 1.3 to 1.6 times the digits.

    Of the QR W Q = Q0 R0 + F the residual F is found to more digits; with G = Q0^T F + R0 x

        WQ (I + x) = Q0 (R0 + G),   X = stril(G (R0 + triu G)^-1),   R = R0 + triu(G - X R).
    """
    q, r = tall_qr(jnp.matmul(w, before, precision="highest"))
    size, length = jnp.abs(jnp.diagonal(r)), jnp.linalg.norm(r, axis=0)
    all_digits = jnp.any(reached & (size > tolerance * length) & (size < SMALL * length))
    terms = jnp.concatenate([w, -q], axis=1), jnp.concatenate([before, r])
    residual = _residual(*terms, all_digits)
    both = jnp.concatenate([q.T, r], axis=1), jnp.concatenate([residual, x])
    g = jnp.matmul(*both, precision="highest")
    better = r + jnp.triu(g)
    reached = reached & (jnp.diagonal(better) != 0)
    x = _solve_right(jnp.where(jnp.diag(~reached), 1, better), jnp.tril(g, -1))
    x = jnp.where(reached[None] & (jnp.abs(x) < 1), jnp.tril(x, -1), 0)
    better = better - jnp.triu(jnp.matmul(x, better, precision="highest"))
    return q, better, x


@refined_qr.defjvp
def _refined_qr_jvp(tolerance, primals, tangents):
    """That of QR, with the refined R in place of the first: in small entries they differ much."""
    w, before, _, reached = primals
    q, r, x = out = refined_qr(tolerance, *primals)
    product = functools.partial(jnp.matmul, precision="highest")
    change = product(tangents[0], before) + product(w, tangents[1])
    return out, (*_turn(q, r, change, reached), jnp.zeros_like(x))


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
