"""What tokens of one example have in common: cosine, residual, rank, and what attention mixes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxact import spectral
from jaxact.analysis._measurement import Measurement
from jaxact.analysis._measures import SHARE, measured, spectrum_measures, taking
from jaxact.analysis._similarity import cosine_similarity, rank_one_residual
from jaxact.analysis._stream import at_least_single


@measured("tokens", "tokens", unit="cosine", floor="-1 / (tokens - 1)", greatest="1")
def token_cosine(h: Float[Array, "*batch t u"], /) -> Float[Array, "*batch"]:
    """Mean cosine of two different tokens: `cosine_similarity` of tokens, not of examples.

    Args:
      h: features by token.

    Returns:
      One for each matrix; a token that is zero has cosines of 0, and one alone NaN.

    Reference:
      Ethayarajh 2019, "How Contextual are Contextualized Word Representations?", sec. 3.3.
    """
    return _of_tokens(cosine_similarity, h)


@measured("tokens", "tokens", floor="eps of the dtype", greatest="1")
def token_residual(h: Float[Array, "*batch t u"], /) -> Float[Array, "*batch"]:
    """What tells tokens apart, |H - 1 mean^T|_F / |H|_F: `rank_one_residual` of tokens.

    Below the machine epsilon it is rounding; `jaxact.analysis.graded` follows it on.

    Args:
      h: features by token.

    Returns:
      One for each matrix; 0 where all tokens are alike, NaN of a token alone.
    """
    return _of_tokens(rank_one_residual, h)


def _of_tokens(measure: Callable[[Array], Array], h: Array) -> Array:
    """A measure of examples, of tokens."""
    *batch, t, u = h.shape
    h = h.astype(at_least_single(h.dtype))
    if t < 2:
        return jnp.full(batch, jnp.nan, h.dtype)
    return measure(h.reshape(-1, t, u)).reshape(batch)


@measured("tokens", "tokens", unit="of the entries")
def token_norm(h: Float[Array, "*batch t u"], /) -> Float[Array, "*batch"]:
    """Root of the mean square entry of the tokens: the size of the stream.

    Args:
      h: features by token.

    Returns:
      One for each matrix.
    """
    h = h.astype(at_least_single(h.dtype))
    largest = jnp.max(jnp.abs(h), axis=(-2, -1), keepdims=True)
    safe = jnp.where(largest > 0, largest, 1)
    return safe[..., 0, 0] * jnp.sqrt(jnp.mean(lax.square(h / safe), axis=(-2, -1)))


@measured("tokens", "tokens", floor="1")
def massive_activation(h: Float[Array, "*batch t u"], /) -> Float[Array, "*batch"]:
    """Largest entry over the median one, of absolute values.

    Args:
      h: features by token.

    Returns:
      One for each matrix; infinite where more than half of the entries are zero, NaN where all are.

    Reference:
      Sun et al. 2024, "Massive Activations in Large Language Models", sec. 2.
    """
    a = jnp.abs(h.astype(at_least_single(h.dtype)))
    return jnp.max(a, axis=(-2, -1)) / jnp.median(a, axis=(-2, -1))


@measured("attention", "tokens", unit="nats", greatest="ln of the tokens seen")
def attention_entropy(p: Float[Array, "*batch t s"], /) -> Float[Array, "*batch"]:
    """Mean over tokens of the entropy of what each takes, -sum_j p_ij ln p_ij.

    Args:
      p: rows that sum to one.

    Returns:
      One for each map.
    """
    p = p.astype(at_least_single(p.dtype))
    each = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), jnp.where(p == 0, 0, jnp.nan))
    return -jnp.mean(jnp.sum(each, axis=-1), axis=-1)


@measured("attention", "tokens", **SHARE)
def first_token_share(p: Float[Array, "*batch t s"], /) -> Float[Array, "*batch"]:
    """What tokens after the first take of the first, on average: an attention sink.

    Args:
      p: rows that sum to one.

    Returns:
      One for each map; NaN where there is one token.

    Reference:
      Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", sec. 3.
    """
    p = p.astype(at_least_single(p.dtype))
    if p.shape[-2] < 2:
        return jnp.full(p.shape[:-2], jnp.nan, p.dtype)
    return jnp.mean(p[..., 1:, 0], axis=-1)


def quantities(object: str, /) -> list[str]:
    """The names of what is measured of tokens, or of attention."""
    own = [m.name for m in taking("tokens") if m.object == object]
    return own + [m.name for m in taking("spectrum")]


def by_example(h: Float[Array, "*batch t u"], names: list[str], /) -> dict[str, Array]:
    """Measures of matrices, by quantity one for each; NaN where an entry is not finite."""
    h = h.astype(at_least_single(h.dtype))
    own = [m for m in taking("tokens") if m.name in names]
    found = {m.name: m.function(h) for m in own if m.function is not None}
    ranks = [name for name in names if name not in found]
    if ranks:
        s = spectral.singular_values(h)
        found |= spectrum_measures(s, ranks, shape=(h.shape[-2], h.shape[-1]))
    finite = jnp.all(jnp.isfinite(h), axis=(-2, -1))
    return {
        name: jnp.where(finite, value.astype(h.dtype), jnp.nan) for name, value in found.items()
    }


def start_means(layers: int, names: list[str], dtype: Any) -> dict[str, Float[Array, "layer 3"]]:
    """By quantity count, mean and sum of squared deviations over no example."""
    return {name: jnp.zeros((layers, 3), dtype) for name in names}


def update_means(
    sums: dict[str, Float[Array, "layer 3"]], h: Float[Array, "layer n t u"]
) -> dict[str, Float[Array, "layer 3"]]:
    """The sums with one more batch seen; what is not finite is left out."""
    found = by_example(h, list(sums))
    more = {}
    for name, before in sums.items():
        value = found[name].astype(before.dtype)
        known = jnp.isfinite(value)
        size = jnp.sum(known.astype(before.dtype), axis=1)
        mean = jnp.sum(jnp.where(known, value, 0), axis=1) / jnp.maximum(size, 1)
        apart = jnp.where(known, value - mean[:, None], 0)
        count, old, squares = before.T
        total = jnp.maximum(count + size, 1)
        shift = mean - old
        squares = squares + jnp.sum(lax.square(apart), axis=1)
        squares = squares + lax.square(shift) * count * size / total
        more[name] = jnp.stack([count + size, old + shift * size / total, squares], axis=-1)
    return more


def means(
    sums: dict[str, Float[Array, "layer 3"]],
    object: str,
    layers: tuple[str, ...],
    shapes: tuple[tuple[int, int], ...],
) -> dict[str, Measurement]:
    """Means over the examples, with their standard errors."""
    found = {}
    for name, each in sums.items():
        count, mean, squares = each.T
        error = jnp.sqrt(squares / jnp.maximum(count * (count - 1), 1))
        found[name] = Measurement(
            value=jnp.where(count > 0, mean, jnp.nan),
            standard_error=jnp.where(count > 1, error, jnp.nan),
            tolerance=None,
            valid=count > 0,
            object=object,
            quantity=name,
            centring="none",
            dtype=str(each.dtype),
            layers=layers,
            shapes=shapes,
        )
    return found


def measure_attention(
    maps: Float[Array, "layer n heads t s"], /, *, names: list[str] | None = None
) -> dict[str, Measurement]:
    """What attention mixes by layer: means over examples and heads.

    Args:
      maps: how much each token (rows) takes of each (columns), as
        ``models.Transformer.attention_maps`` gives it.
      names: of the layers; ``layer_1`` and so on if None.

    Returns:
      By quantity a `Measurement` of the object ``"attention"``: entropy, share of the first token,
      and every measure of a spectrum.

    Raises:
      ValueError: if ``maps`` has other axes, or ``names`` are more or fewer than its layers.

    Example:
      >>> maps = jnp.full((2, 1, 4, 8, 8), 1 / 8)
      >>> found = measure_attention(maps)
      >>> [f"{float(found[name].value[0]):.3f}" for name in ("attention_entropy", "stable_rank")]
      ['2.079', '1.000']
    """
    if maps.ndim != 5:
        raise ValueError(f"maps must be (layers, examples, heads, t, t); got {maps.shape}")
    if names is not None and len(names) != len(maps):
        raise ValueError(f"names must be {len(maps)}, one for each layer; got {names}")
    layers, n, heads, *shape = maps.shape
    given = names or [f"layer_{number + 1}" for number in range(layers)]
    wanted = quantities("attention")

    @jax.jit
    def sums(maps: Array) -> dict[str, Array]:
        start = start_means(layers, wanted, at_least_single(maps.dtype))
        return update_means(start, maps.reshape(layers, n * heads, *shape))

    return means(sums(maps), "attention", tuple(given), ((shape[0], shape[1]),) * layers)
