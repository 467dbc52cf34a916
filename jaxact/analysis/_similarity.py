"""How alike a layer answers different inputs, and how alike two layers answer the same ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxact.analysis._measures import measured


@measured("features", "features", unit="cosine", floor="-1", greatest="1")
def cosine_similarity(h: Float[Array, "layer n ..."], /) -> Float[Array, " layer"]:
    """Mean cosine between the features of different examples, by layer.

    At 1 every input is answered alike.

    Args:
      h: features by layer, from `features`, of at least two examples.

    Returns:
      The mean over all pairs of different examples; 0 where an example's features vanish.

    Raises:
      ValueError: if there are fewer than two examples.
    """
    layers, n = h.shape[:2]
    if n < 2:
        raise ValueError(f"h must hold at least two examples; got {n}")
    unit = _unit(h.reshape(layers, n, -1))
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=1)), axis=-1)
    own = jnp.sum(jnp.square(unit), axis=(1, 2))
    return (total - own) / (n * (n - 1))


def _unit(h: Array) -> Array:
    # The largest entry is divided out first: squares of small features would underflow.
    largest = jnp.max(jnp.abs(h), axis=-1, keepdims=True)
    h = h / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(jnp.square(h), axis=-1, keepdims=True)
    return h * lax.rsqrt(jnp.where(square > 0, square, 1))


def rank_one_residual(
    h: Float[Array, "layer n ..."], /, *, norm: str = "frobenius"
) -> Float[Array, " layer"]:
    r"""Relative distance of the features from answering every input alike.

    .. math:: \|H - \mathbf 1 \bar h^T\| / \|H\|

    with a row of H for each example and the mean row :math:`\bar h`, which is the nearest in
    Frobenius norm.

    Args:
      h: features by layer, from `features`, of at least two examples.
      norm: ``"frobenius"``, or ``"composite"`` for
        :math:`\sqrt{\|\cdot\|_1 \|\cdot\|_\infty}`, the norm of the paper's theorem.

    Returns:
      0 where every input is answered alike, and where all features vanish.

    Raises:
      ValueError: if there are fewer than two examples, or ``norm`` is unknown.

    Reference:
      Dong, Cordonnier & Loukas 2021, "Attention is not all you need: pure attention loses rank
      doubly exponentially with depth", section 2.
    """
    if norm not in ("frobenius", "composite"):
        raise ValueError(f"norm must be 'frobenius' or 'composite'; got {norm!r}")
    if h.shape[1] < 2:
        raise ValueError(f"h must hold at least two examples; got {h.shape[1]}")
    h = h.reshape(*h.shape[:2], -1)
    largest = jnp.max(jnp.abs(h), axis=(1, 2), keepdims=True)
    h = h / jnp.where(largest > 0, largest, 1)  # squares neither over- nor underflow

    def size(a: Array) -> Array:
        if norm == "frobenius":
            return jnp.linalg.norm(a, axis=(1, 2))
        a = jnp.abs(a)
        return jnp.sqrt(jnp.max(jnp.sum(a, axis=1), axis=-1) * jnp.max(jnp.sum(a, axis=2), axis=-1))

    whole = size(h)
    return size(h - jnp.mean(h, axis=1, keepdims=True)) / jnp.where(whole > 0, whole, 1)


class Similarity(NamedTuple):
    """Sums from which the similarity between inputs follows, over the examples seen so far.

    Attributes:
      count: number of examples.
      direction: sum of the examples' features, each at unit length, (features,).
      nonzero: how many examples had features that do not all vanish.
    """

    count: Float[Array, "*layer"]
    direction: Float[Array, "*layer d"]
    nonzero: Float[Array, "*layer"]


def start_similarity(size: int, dtype: Any = jnp.float32) -> Similarity:
    """No examples seen; ``size`` counts the features of one example, positions included."""
    return Similarity(jnp.zeros((), dtype), jnp.zeros(size, dtype), jnp.zeros((), dtype))


def update_similarity(
    state: Similarity, h: Float[Array, "n ..."], /, *, mask: Bool[Array, " n"] | None = None
) -> Similarity:
    """The sums with more examples seen.

    Args:
      state: from `start_similarity`.
      h: features, with a leading axis for the examples.
      mask: which examples count, all by default; the others may hold anything.

    Returns:
      The new state.
    """
    flat = h.reshape(h.shape[0], -1).astype(state.direction.dtype)
    count = jnp.asarray(len(flat), flat.dtype)
    if mask is not None:
        flat = jnp.where(mask[:, None], flat, 0)
        count = jnp.sum(mask.astype(flat.dtype))
    unit = _unit(flat)
    return Similarity(
        state.count + count,
        state.direction + jnp.sum(unit, axis=0),
        state.nonzero + jnp.sum(jnp.square(unit)),
    )


def mean_cosine(state: Similarity, /) -> Float[Array, "*layer"]:
    """Mean cosine over all pairs of different examples, as `cosine_similarity` of all at once.

    Args:
      state: sums over at least two examples; a leading layer axis is kept.

    Returns:
      From -1 to 1; 0 where fewer than two examples were seen.
    """
    pairs = state.count * (state.count - 1)
    total = jnp.sum(jnp.square(state.direction), axis=-1) - state.nonzero
    return jnp.where(pairs > 0, total / jnp.where(pairs > 0, pairs, 1), 0)


def example_gram(h: Float[Array, "n ..."], /) -> Float[Array, "n n"]:
    """Inner products of the features of all pairs of examples, less their mean.

    `hsic` is the same with the mean and without, but for rounding, which a large mean would make
    large.
    """
    flat = h.reshape(h.shape[0], -1)
    flat = flat - jnp.mean(flat, axis=0, keepdims=True)
    return jnp.matmul(flat, flat.T, precision="highest")


def hsic(grams: Float[Array, "layer n n"], /) -> Float[Array, "layer layer"]:
    r"""Unbiased Hilbert-Schmidt independence criterion between all pairs of layers.

    With the diagonals of K and L set to zero,

    .. math:: \frac{1}{n(n-3)} \left( \mathrm{tr}\,KL
       + \frac{\mathbf 1^T K \mathbf 1\, \mathbf 1^T L \mathbf 1}{(n-1)(n-2)}
       - \frac{2}{n-2} \mathbf 1^T K L \mathbf 1 \right).

    Args:
      grams: `example_gram` of each layer on the same n examples, n at least 4.

    Returns:
      (layers, layers). Means over batches stay unbiased, so that a data set can be streamed.

    Raises:
      ValueError: if there are fewer than four examples.

    Reference:
      Song et al. 2012, "Feature selection via dependence maximization", eq. 5; over batches:
      Nguyen, Raghu & Kornblith 2021, "Do wide and deep networks learn the same things?", eq. 3.
    """
    n = grams.shape[-1]
    if n < 4:
        raise ValueError(f"grams must be of at least four examples; got {n}")
    grams = jnp.where(jnp.eye(n, dtype=bool)[None], 0, grams)
    rows = jnp.sum(grams, axis=-1)
    total = jnp.sum(rows, axis=-1)
    flat = grams.reshape(len(grams), -1)
    inner = jnp.matmul(flat, flat.T, precision="highest")
    middle = jnp.matmul(rows, rows.T, precision="highest")
    outer = total[:, None] * total[None]
    return (inner + outer / ((n - 1) * (n - 2)) - 2 / (n - 2) * middle) / (n * (n - 3))


def cka(
    h: Float[Array, "layer n ..."] | Sequence[Float[Array, "n ..."]], /
) -> Float[Array, "layer layer"]:
    """Linear centred kernel alignment between all pairs of layers, debiased.

    Args:
      h: features of at least four examples: stacked by layer, or one array a layer, whose shapes
        after the examples may differ.

    Returns:
      (layers, layers), 1 on the diagonal, 0 for a layer that answers every input alike, NaN for one
      whose features hold NaN or infinity. The scale of the features changes nothing.

    Reference:
      Kornblith et al. 2019, "Similarity of neural network representations revisited", eq. 3, with
      the unbiased estimator `hsic`.
    """
    return align(hsic(jnp.stack([unit_gram(layer)[0] for layer in h])))


def unit_gram(h: Float[Array, "n ..."]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """`example_gram` of features over their largest size, and that size.

    `hsic` sums fourth powers of features: of 1e10 they would overflow, of 1e-10 vanish.
    """
    centred = h - jnp.mean(h, axis=0, keepdims=True)
    largest = jnp.max(jnp.abs(centred))
    largest = jnp.where(largest == 0, 1, largest)
    return example_gram(centred / largest), largest


def align(criterion: Float[Array, "layer layer"], /) -> Float[Array, "layer layer"]:
    """CKA from the HSIC of all pairs of layers, or its mean over batches; NaN stays NaN."""
    own = jnp.diagonal(criterion)
    size = jnp.sqrt(jnp.where(own > 0, own, 1))
    alive = (own > 0)[:, None] & (own > 0)[None]
    found = jnp.where(alive, criterion / (size[:, None] * size[None]), 0)
    broken = jnp.isnan(own)
    return jnp.where(broken[:, None] | broken[None], jnp.nan, found)


def angular_distance(h: Float[Array, "layer n ..."], /) -> Float[Array, "layer layer"]:
    r"""Mean angle between the features of one example after two layers, over pi.

    .. math:: \frac1\pi \arccos \frac{h_k \cdot h_l}{\|h_k\| \|h_l\|}

    Args:
      h: features by layer, from `features`: (layers, n, ...).

    Returns:
      (layers, layers), from 0 (same direction) to 1 (opposite): means over examples. A layer whose
      features vanish is at 1/2.

    Reference:
      Gromov et al. 2024, "The unreasonable ineffectiveness of the deeper layers", eq. 7.
    """
    unit = _unit(h.reshape(*h.shape[:2], -1))

    def pair(a: Array, b: Array) -> Array:
        # By the half-angle: arccos has no digits left near 0.
        chord = jnp.linalg.norm(a - b, axis=-1)
        sum_ = jnp.linalg.norm(a + b, axis=-1)
        return jnp.mean(2 * jnp.arctan2(chord, sum_)) / jnp.pi

    return lax.map(lambda a: jax.vmap(lambda b: pair(a, b))(unit), unit)
