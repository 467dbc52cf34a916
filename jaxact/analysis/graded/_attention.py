r"""Attention, by how far each token's softmax is from one that all tokens share.

The logits of tokens that have almost collapsed are, up to a constant of the row, :math:`s_j` of all
rows and small :math:`\delta_{ij}`. With :math:`q = \mathrm{softmax}(s)` and
:math:`z_i = \log \sum_k q_k e^{\delta_{ik}}`,

.. math:: p_{ij} - q_j = q_j (e^{\delta_{ij} - z_i} - 1),

which scales as the deltas. What all rows share moves every token alike, and the sums of
:math:`(p_{ij} - q_j) r_j` are taken over the differences from the token that is attended most, so
that neither a small delta nor a saturated softmax leaves a difference of nearly equal numbers.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxact._checks import number, one_of
from jaxact.analysis.graded._maps import linear
from jaxact.analysis.graded._tokens import (
    GradedTokens,
    collected,
    combined,
    normalized,
    power,
)

Layer = Callable[[GradedTokens], GradedTokens]
Weights = Float[Array, "..."]
Bias = Weights | None


def attention(
    x: GradedTokens,
    query: Weights,
    key: Weights,
    value: Weights,
    output: Weights,
    /,
    *,
    query_bias: Bias = None,
    key_bias: Bias = None,
    value_bias: Bias = None,
    output_bias: Bias = None,
    mask: str | Array | None = None,
    scale: float | None = None,
    query_norm: Layer | None = None,
    key_norm: Layer | None = None,
    positions: Callable[[Array], Array] | None = None,
) -> GradedTokens:
    r"""Softmax attention of the tokens to each other.

    .. math:: y_i = \sum_h \Bigl( \sum_j \mathrm{softmax}_j(
       \mathrm{scale}\; q_{hi} \cdot k_{hj})\, v_{hj} \Bigr) W_O^h + b_O

    Args:
      x: n tokens of d features.
      query: W_Q, (d, heads, k).
      key: W_K, (d, heads, k); or fewer heads, each of which serves as many queries.
      value: W_V, (d, heads, width), of as many heads as the keys.
      output: W_O, (heads, width, e).
      query_bias: (heads, k), or None.
      key_bias: of the keys' heads, or None.
      value_bias: of the keys' heads, (heads, width), or None.
      output_bias: (e,), or None.
      mask: None; "causal", each token attending to itself and those before; or a matrix (n, n) that
        is true where token i attends to token j.
      scale: of the logits, 1 / sqrt(k) by default.
      query_norm: a map of graded tokens applied to each head's queries, such as `rms_norm`.
      key_norm: the same for the keys.
      positions: a linear map of (n, k), applied to each head's queries and keys after that: rotary
        positions.

    Returns:
      n tokens of e features. A token that attends to nothing makes all of them NaN.

    Raises:
      ValueError: if the shapes do not fit, or the mask is unknown.

    Example:
      >>> import jax
      >>> keys = jax.random.split(jax.random.key(0), 5)
      >>> w = [jax.random.normal(k, (8, 2, 4)) / 8**0.5 for k in keys[:3]]
      >>> w.append(jax.random.normal(keys[3], (2, 4, 8)) / 8**0.5)
      >>> from jaxact.analysis.graded import tokens
      >>> x = tokens(jax.random.normal(keys[4], (6, 8)))
      >>> for _ in range(8):
      ...     before, x = x.log_residual, jax.jit(attention)(x, *w)
      >>> print(f"{x.log_residual / before:.1f}")
      3.0

    Reference:
      Vaswani et al. 2017, "Attention is all you need", section 3.2; the collapse: Dong, Cordonnier
      & Loukas 2021, "Attention is not all you need", theorem 2.2.
    """
    n, dtype = len(x.deviation), x.mean.dtype
    _check(x, query, key, value, output)
    allowed = _allowed(mask, n)
    heads = query.shape[1]

    def repeated(a: Array, axis: int) -> Array:
        return jnp.repeat(a.astype(dtype), heads // a.shape[axis], axis)

    weights = [repeated(w, 1) for w in (query, key, value)]
    biases = [
        repeated(jnp.zeros(w.shape[1:]) if b is None else _shaped(name, b, w.shape[1:]), 0)
        for name, b, w in (
            ("query_bias", query_bias, query),
            ("key_bias", key_bias, key),
            ("value_bias", value_bias, value),
        )
    ]
    if scale is not None:
        number("scale", scale)
    factor = 1 / math.sqrt(query.shape[2]) if scale is None else scale

    def head(query, key, value, output, query_bias, key_bias, value_bias):
        q, k = linear(x, query, query_bias), linear(x, key, key_bias)
        q = q if query_norm is None else query_norm(q)
        k = k if key_norm is None else key_norm(k)
        q = q._replace(mean=q.mean * factor, deviation=q.deviation * factor)
        common, apart, exponent = _logits(q, k, positions)
        parts = common, apart, exponent, x.deviation
        found = _shared(*parts) if allowed is None else _masked(*parts, allowed)
        if allowed is not None and not isinstance(mask, str):
            # Rows that all attend to the same tokens differ as little as without a mask.
            alike = jnp.all(allowed == allowed[:1])
            of_alike = _shared(*parts, allowed[0])
            found = tuple(jnp.where(alike, a, b) for a, b in zip(of_alike, found, strict=True))
        base, deviation, exponent = found
        deviation, exponent = normalized(deviation, exponent + x.exponent)
        mean = x.mean + power(x.exponent, dtype) * base
        mean = _product(_product(mean, value) + value_bias, output)
        return mean, _product(_product(deviation, value), output), exponent

    each = (*weights, output.astype(dtype), *biases)
    means, deviations, exponents = jax.vmap(head, (1, 1, 1, 0, 0, 0, 0))(*each)
    mean = jnp.sum(means, axis=0)
    if output_bias is not None:
        mean = mean + _shaped("output_bias", output_bias, mean.shape).astype(dtype)
    return collected(mean, deviations, exponents)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _logits(q: GradedTokens, k: GradedTokens, positions) -> tuple[Array, Array, Array]:
    """Logits as s_j + 2^exponent apart_ij, up to a constant of each row."""
    both = q.exponent + k.exponent
    if positions is None:
        terms, exponents = _product(q.deviation, k.deviation.T)[None], both[None]
        shared = jnp.stack([_product(k.deviation, q.mean), jnp.mean(terms[0], axis=0)])
        scales = jnp.stack([k.exponent, both])
    else:
        shape = k.deviation.shape
        q0, k0 = (positions(jnp.broadcast_to(t.mean[None], shape)) for t in (q, k))
        u, v = positions(q.deviation), positions(k.deviation)
        pairs = ((q0, k0.T), (q0, v.T), (u, k0.T), (u, v.T))
        terms = jnp.stack([_product(a, b) for a, b in pairs])
        scales = exponents = jnp.stack([0 * both, k.exponent, q.exponent, both])
        shared = jnp.mean(terms, axis=1)
    common, scale = combined(shared[:, None], scales)
    apart, exponent = combined(terms - shared[-len(terms) :, None], exponents)
    # Beyond, a softmax is saturated whatever the scale.
    most = jnp.finfo(common.dtype).maxexp - 28
    over = jnp.maximum(jnp.maximum(scale, exponent) - most, 0)
    return common[0] * power(scale - over, common.dtype), apart, exponent - over


def _shared(common: Array, apart: Array, exponent: Array, r: Array, used: Array | None = None):
    """The row sum_j q_j r_j, and sum_j (p_ij - q_j) r_j as a graded array."""
    common = common if used is None else jnp.where(used, common, -jnp.inf)
    most = jnp.argmax(common)
    apart, exponent = normalized(apart - apart[:, most][:, None], exponent)
    e = power(exponent, r.dtype)
    over = 1 / jnp.where(e == 0, 1, e)
    log_q = jax.nn.log_softmax(common)
    q, delta = jnp.exp(log_q)[None], e * apart
    large = delta > 1
    whole = jnp.minimum(log_q[None] + delta, 60)
    total = jnp.where(large, (jnp.exp(whole) - q) * over, q * apart * _expm1_over(delta, ~large))
    total = jnp.sum(total, axis=1, keepdims=True)
    # z_i over e; where it is not small the rows differ enough to be subtracted.
    close = (e * total < 1) & (e * total > -0.5)
    total = jnp.where(close, total, 0)
    rise = apart - total * _log1p_over(e * total)
    above = e * rise
    large = ~close | (above > 1)
    log_p = jax.nn.log_softmax(log_q[None] + delta, axis=1)
    size, direction = _directions(r, most)
    log_p, log_q = log_p + jnp.log(size)[None], log_q[None] + jnp.log(size)[None]
    log_p = jnp.where(close, log_q + above, log_p)
    out, shift, left = _taken_out(jnp.where(large, jnp.maximum(log_p, log_q), log_q))
    # Before the sum, where the logits are so large that it would round them away.
    log_q = log_q - out
    log_p = jnp.minimum(jnp.where(close, log_q + above, log_p - out), 60)
    small = jnp.exp(log_q) * rise * _expm1_over(above, ~large)
    weights = jnp.where(large, (jnp.exp(log_p) - jnp.exp(log_q)) * over, small)
    return _product(q[0], r), left * _product(weights, direction), exponent + shift


def _masked(common: Array, apart: Array, exponent: Array, r: Array, allowed: Array):
    """The same about the token attended most, where rows attend to different tokens."""
    logits = common[None] + power(exponent, r.dtype) * apart
    log_p = jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf), axis=1)
    most = jnp.argmax(jnp.sum(jnp.exp(log_p), axis=0))
    size, direction = _directions(r, most)
    level = log_p + jnp.log(size)[None]
    out, shift, left = _taken_out(level)
    return r[most], left * _product(jnp.exp(level - out), direction), shift


def _directions(r: Array, most: Array) -> tuple[Array, Array]:
    """How far every token is from one, and in which direction."""
    r = r - r[most][None]
    size = lax.stop_gradient(jnp.max(jnp.abs(r), axis=1))
    return size, r / jnp.where(size == 0, 1, size)[:, None]


def _taken_out(log: Array) -> tuple[Array, Array, Array]:
    """The largest of natural logarithms, its exponent of two, and the factor left of it."""
    largest = jnp.max(lax.stop_gradient(log))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    exponent = jnp.floor(largest / math.log(2))
    return largest, exponent, jnp.exp2(largest / math.log(2) - exponent)


def _expm1_over(x: Array, where: Array) -> Array:
    """(e^x - 1) / x, itself differentiable at 0; 1 elsewhere."""
    x = jnp.where(where, x, 0)
    near = jnp.abs(x) < 1e-2
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    x = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.expm1(x) / x)


def _log1p_over(x: Array) -> Array:
    """log(1 + x) / x, itself differentiable at 0."""
    near = jnp.abs(x) < 1e-2
    y = jnp.where(near, -x, 0)
    series = 1 + y * (1 / 2 + y * (1 / 3 + y * (1 / 4 + y * (1 / 5 + y * (1 / 6 + y / 7)))))
    x = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.log1p(x) / x)


def _allowed(mask, n: int) -> Array | None:
    if mask is None:
        return None
    if isinstance(mask, str):
        one_of("mask", mask, ("causal",))
        return jnp.tril(jnp.ones((n, n), bool))
    mask = jnp.asarray(mask)
    if mask.shape != (n, n) or mask.dtype != bool:
        raise ValueError(
            f"mask must be None, 'causal' or booleans of shape {(n, n)}; "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _shaped(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {value.shape}")
    return value


def _check(x, query, key, value, output) -> None:
    d = x.mean.shape[-1]
    for name, w in (("query", query), ("key", key), ("value", value)):
        if w.ndim != 3 or w.shape[0] != d or w.shape[1] == 0:
            raise ValueError(f"{name} must have shape ({d}, heads, width); got {w.shape}")
    if key.shape[2] != query.shape[2] or query.shape[1] % key.shape[1]:
        raise ValueError(
            f"key must have the width of query {query.shape} and a number of heads that divides "
            f"its; got shape {key.shape}"
        )
    _shaped("value", value, (d, key.shape[1], value.shape[2]))
    if output.ndim != 3 or output.shape[:2] != (query.shape[1], value.shape[2]):
        raise ValueError(
            f"output must have shape ({query.shape[1]}, {value.shape[2]}, any); got {output.shape}"
        )
