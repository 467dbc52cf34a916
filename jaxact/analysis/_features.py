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

    def visit(layer, h, _):
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
