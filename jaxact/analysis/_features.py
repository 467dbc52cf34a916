"""Features of a data set after every layer."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxact.analysis._chain import Chain, scan_layers


def features(chain: Chain, x: PyTree[Array]) -> dict[str, PyTree[Array]]:
    """What every layer puts out on a batch.

    Args:
      chain: a network, from `as_chain`.
      x: a batch, as the first segment takes it.

    Returns:
      By segment name the outputs, with a leading layer axis before the batch axis.
    """

    def visit(layer, h):
        h = layer(h)
        return h, h

    return scan_layers(chain, visit, x)[1]


def feature_matrix(
    h: Float[Array, "layer n *space c"], /, *, centred: bool = False
) -> Float[Array, "layer samples c"]:
    """Features as matrices with a row for each sample and a column for each unit.

    Positions of a convolution's feature map count as samples, so that the rank is at most the
    number of channels.

    Args:
      h: features by layer, from `features`.
      centred: whether each unit's mean over the samples is subtracted.

    Returns:
      Matrices (layers, samples, units).
    """
    h = h.reshape(h.shape[0], -1, h.shape[-1])
    return h - jnp.mean(h, axis=1, keepdims=True) if centred else h


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
    h = h.reshape(layers, n, -1)
    norm = jnp.linalg.norm(h, axis=-1, keepdims=True)
    unit = h / jnp.where(norm > 0, norm, 1)
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=1)), axis=-1)
    own = jnp.sum(jnp.square(unit), axis=(1, 2))
    return (total - own) / (n * (n - 1))
