"""Where training batches come from: a function of the step, so that a run can resume anywhere."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped


@runtime_checkable
class Feed(Protocol):
    """Batches by step: the same step always gives the same batch.

    Attributes:
      steps_per_epoch: batches in one pass over the data.
      split: on a mesh of devices, the axis of what `fetch` gives along which examples lie, so that
        each process fetches its share of every batch; None if every process fetches all of it.
    """

    steps_per_epoch: int
    split: int | None

    def fetch(self, start: int, count: int, size: int, /) -> Any:
        """The batches of the steps from ``start``, ``count`` of them, as a pytree of arrays.

        Its shapes depend on ``size >= count`` alone; what is beyond ``count`` is never taken.
        """
        ...

    def take(self, batches: Any, i: Any, /) -> tuple[Array, Array]:
        """Batch ``i`` of what `fetch` gave, as inputs and labels; traced under jit."""
        ...


class ArrayFeed:
    """Shuffled batches of arrays that lie whole in the device's memory.

    Every epoch is a fresh permutation; what is left over at its end is not used in it.

    Example:
      >>> feed = ArrayFeed(np.arange(10.0), np.arange(10), batch_size=4, key=jax.random.key(0))
      >>> feed.steps_per_epoch
      2
      >>> x, y = feed.take(feed.fetch(5, 1, 1), 0)
      >>> x.shape, bool(jnp.all(x == y))
      ((4,), True)
    """

    split: int | None = None

    def __init__(
        self,
        x: Shaped[Array, "n ..."] | Shaped[np.ndarray, "n ..."],
        y: Int[Array, " n"] | Int[np.ndarray, " n"],
        /,
        *,
        batch_size: int,
        key: Key[Array, ""],
    ):
        """Makes the feed.

        Args:
          x: inputs.
          y: labels.
          batch_size: examples a batch, at most n.
          key: PRNG key of the order.

        Raises:
          ValueError: if a batch is larger than the data.
        """
        if not 1 <= batch_size <= len(x):
            raise ValueError(
                f"batch_size must be from 1 to the {len(x)} examples; got {batch_size}"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(x) // batch_size
        self._key = key
        self._arrays = (jnp.asarray(x), jnp.asarray(y))
        self._epoch: tuple[int, np.ndarray] | None = None

    def fetch(self, start: int, count: int, size: int, /) -> Any:
        """The whole arrays, and the indices of each step's batch; see `Feed`."""
        order = np.zeros((size, self.batch_size), np.int32)
        for i in range(count):
            epoch, batch = divmod(start + i, self.steps_per_epoch)
            order[i] = self._permutation(epoch)[batch * self.batch_size :][: self.batch_size]
        return (*self._arrays, jnp.asarray(order))

    def take(self, batches: Any, i: Any, /) -> tuple[Array, Array]:
        """Gathers one batch; see `Feed`."""
        x, y, order = batches
        return x[order[i]], y[order[i]]

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            key = jax.random.fold_in(self._key, epoch)
            order = jax.random.permutation(key, len(self._arrays[0]))
            self._epoch = (epoch, np.asarray(order))
        return self._epoch[1]
