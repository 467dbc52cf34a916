"""Weight matrices of a network, by layer."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxact.analysis._chain import Chain


def unfold(kernel: Float[Array, "*batch i o"] | Float[Array, "*batch h w i o"], ndim: int) -> Array:
    """A kernel as the matrix that maps inputs (or patches) to outputs.

    Args:
      kernel: (..., inputs, outputs) with ``ndim=2``, (..., height, width, inputs, outputs) with
        ``ndim=4``: the layouts of Flax.
      ndim: axes of one kernel.

    Returns:
      Matrices (..., outputs, inputs), or the unfolded (..., outputs, height * width * inputs).
    """
    batch = kernel.shape[: kernel.ndim - ndim]
    return jnp.swapaxes(kernel.reshape(*batch, -1, kernel.shape[-1]), -1, -2)


def weight_matrices(chain: Chain) -> dict[str, dict[str, Float[Array, "layer o i"]]]:
    """Every weight matrix of a network.

    A leaf is a weight if one layer's share of it has two axes (a dense kernel) or four (a
    convolution's, taken unfolded).

    Args:
      chain: a network, from `as_chain`.

    Returns:
      By segment name and path of the leaf, a stack (layers, outputs, inputs), with one layer where
      the segment is not stacked.
    """
    found: dict[str, dict[str, Array]] = {}
    for segment in chain.segments:
        stacks = found.setdefault(segment.name, {})
        for path, leaf in jax.tree_util.tree_leaves_with_path(segment.params):
            stacked = leaf[None] if segment.depth is None else leaf
            if stacked.ndim in (3, 5):
                stacks[jax.tree_util.keystr(path, simple=True, separator=".")] = unfold(
                    stacked, stacked.ndim - 1
                )
    return found
