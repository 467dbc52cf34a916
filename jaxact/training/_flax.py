"""A Flax NNX module as a pure function of parameters and statistics."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, PyTree

from jaxact.training._step import Apply


class Functional(NamedTuple):
    """A network taken apart.

    Attributes:
      apply: the pure function; see `Apply`.
      params: every `nnx.Param`.
      stats: every other variable (batch statistics).
      merge: ``merge(params, stats)`` puts the network together again.
    """

    apply: Apply
    params: PyTree[Array]
    stats: PyTree[Array]
    merge: Callable[[Any, Any], Any]


def functional(module: nnx.Module, /) -> Functional:
    """Takes a Flax NNX module apart.

    Calling the module in training may change its statistics, as `nnx.BatchNorm` does; the module
    itself is left as it is.

    Args:
      module: any NNX module that is called with a batch.

    Returns:
      The pure function, its parameters, its other variables, and the way back. A module whose call
      takes ``key``, as the networks of `jaxact.models` do, is given the step's; any other draws
      from streams of its own, whose counts are among its variables.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      >>> x = jnp.ones((4, 3))
      >>> logits, stats = net.apply(net.params, net.stats, x, train=True, key=jax.random.key(0))
      >>> logits.shape
      (4, 2)
    """
    structure, params, stats = nnx.split(module, nnx.Param, ...)
    takes_key = "key" in inspect.signature(module.__call__).parameters

    def merge(params, stats):
        return nnx.merge(structure, params, stats, copy=True)

    def apply(params, stats, x, /, *, train, key):
        network = merge(params, stats)
        network.train() if train else network.eval()
        logits = network(x, key=key) if takes_key else network(x)
        return logits, nnx.split(network, nnx.Param, ...)[2]

    return Functional(apply, params, stats, merge)
