"""Gradients of a loss, by layer, in the shape of the network they belong to."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from jaxact.analysis._chain import Chain, run


def gradients(
    chain: Chain, loss: Callable[[Any], Float[Array, ""]], x: PyTree[Array], /
) -> tuple[Float[Array, ""], Chain]:
    """A loss and its gradient in every parameter.

    Args:
      chain: a network, from `as_chain`.
      loss: ``loss(outputs) -> scalar``, of the network's output on the batch.
      x: a batch, as the first segment takes it.

    Returns:
      The loss, and a chain whose ``params`` are the gradients, so that
      ``weight_matrices(gradient)`` gives the gradient of every weight matrix by layer.
    """

    def value(params):
        segments = (s._replace(params=p) for s, p in zip(chain.segments, params, strict=True))
        return loss(run(Chain(tuple(segments)), x))

    out, grads = jax.value_and_grad(value)(tuple(s.params for s in chain.segments))
    segments = (s._replace(params=g) for s, g in zip(chain.segments, grads, strict=True))
    return out, Chain(tuple(segments))
