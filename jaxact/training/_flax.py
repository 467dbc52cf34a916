"""A Flax NNX module as a pure function of parameters and statistics."""

from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, PyTree

from jaxact.training._step import Apply


class Functional(NamedTuple):
    """A network taken apart.

    Attributes:
      apply: the pure function; see `Apply`.
      params: every `nnx.Param`.
      stats: every other variable (batch statistics).
    """

    apply: Apply
    params: PyTree[Array]
    stats: PyTree[Array]


def functional(module: nnx.Module, /) -> Functional:
    """Takes a Flax NNX module apart.

    Calling the module in training may change its statistics, as `nnx.BatchNorm` does; the module
    itself is left as it is.

    Args:
      module: any NNX module that is called with a batch.

    Returns:
      The pure function, its parameters, and its other variables. The function ignores ``key``: a
      module draws from streams of its own, whose counts are among its variables.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> apply, params, stats = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      >>> apply(params, stats, jnp.ones((4, 3)), train=True, key=jax.random.key(0))[0].shape
      (4, 2)
    """
    structure, params, stats = nnx.split(module, nnx.Param, ...)

    def apply(params, stats, x, /, *, train, key):
        del key
        network = nnx.merge(structure, params, stats, copy=True)
        network.train() if train else network.eval()
        logits = network(x)
        return logits, nnx.split(network, nnx.Param, ...)[2]

    return Functional(apply, params, stats)
