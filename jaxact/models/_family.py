"""Networks that are parts in a row: called, traced and taken apart alike."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Key

from jaxact._segment import Segment
from jaxact.models._block import BlockTrace
from jaxact.models._stage import changed_state, fresh


class Part(NamedTuple):
    """A part of a network.

    Attributes:
      name: of its segment.
      module: what is called; with ``depth``, blocks of one shape stacked over a leading axis.
      depth: the number of blocks, or None.
    """

    name: str
    module: Any
    depth: int | None = None


class Family(nnx.Module):
    """How every network of this package is called.

    A key, or Flax's ``rngs`` whose stream ``dropout`` draws one, is needed in training where
    branches are dropped, and not used elsewhere.
    """

    head: Any

    def __call__(
        self, x: Array, *, key: Key[Array, ""] | None = None, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Logits of a batch; in training mode the network's own statistics are updated.

        Args:
          x: vectors, or images NHWC.
          key: PRNG key of stochastic depth.
          rngs: in its place, Flax's keys.
        """
        return self.trace(x, key=_drawn(key, rngs))[0]

    def forward_features(
        self, x: Array, *, key: Key[Array, ""] | None = None, rngs: nnx.Rngs | None = None
    ) -> Any:
        """What the head is given, as timm calls it; arguments as in a call."""
        return self._to_head(x, _drawn(key, rngs), False)[0]

    def features(
        self, x: Array, *, key: Key[Array, ""] | None = None, rngs: nnx.Rngs | None = None
    ) -> Array:
        """The pooled features from which the head makes logits; arguments as in a call."""
        h = self.forward_features(x, key=key, rngs=rngs)
        return self.head.pooled(h) if hasattr(self.head, "pooled") else h

    def trace(
        self, x: Array, *, key: Key[Array, ""] | None = None, record: bool = False
    ) -> tuple[Array, dict[str, BlockTrace]]:
        """Logits, and if asked what passes through the blocks, by segment."""
        h, traces = self._to_head(x, key, record)
        return self._finish(h), traces

    def _finish(self, h: Any) -> Array:
        """Logits of what the head is given."""
        return self.head(h)

    def _to_head(
        self, x: Array, key: Array | None, record: bool
    ) -> tuple[Any, dict[str, BlockTrace]]:
        raise NotImplementedError

    def set_view(
        self, deterministic: bool | None = None, use_running_average: bool | None = None
    ) -> None:
        """For `nnx.view`: every network knows both modes, though not all have parts that act so."""


def _drawn(key: Array | None, rngs: nnx.Rngs | None) -> Array | None:
    return rngs.dropout() if key is None and rngs is not None else key


class Parts(Family):
    """A network of parts in a row, the first a stem or a block, the last the head."""

    dtype: DTypeLike | None = None

    def parts(self) -> list[Part]:
        """The parts, in the order in which they act."""
        raise NotImplementedError

    def _to_head(
        self, x: Array, key: Array | None, record: bool
    ) -> tuple[Array, dict[str, BlockTrace]]:
        """What the head is given, and the traces of the parts before it.

        A trace's ``branch`` is what the part adds to its input, continued by zero channels; where
        it changes the resolution, its whole output. ``key`` is not used: nothing is random.
        """
        h = x if self.dtype is None else x.astype(self.dtype)
        traces: dict[str, BlockTrace] = {}
        for name, module, depth in self.parts()[:-1]:
            if depth is not None:
                h, found = _scanned(module, h, record)
            elif not record or name == "stem":
                h, found = module(h), None
            else:
                h, found = _recorded(h, module(h))
            if found is not None:
                traces[name] = found
        return h, traces

    def segments(self) -> tuple[Segment, ...]:
        """The network as a chain of pure functions, batch norms with their running statistics."""
        network = fresh(self)
        network.eval()
        dtype = self.dtype

        def run(module: Any, x: Any) -> Any:
            return fresh(module)(x)

        def enter(module: Any, x: Any) -> Any:
            return run(module, x if dtype is None else x.astype(dtype))

        return tuple(
            Segment(name, run if number else enter, module, depth)
            for number, (name, module, depth) in enumerate(network.parts())
        )


def _recorded(x: Array, y: Array) -> tuple[Array, BlockTrace]:
    if x.shape[:-1] != y.shape[:-1] or x.shape[-1] > y.shape[-1]:
        return y, BlockTrace(x, y, y)
    missing = [(0, 0)] * (x.ndim - 1) + [(0, y.shape[-1] - x.shape[-1])]
    return y, BlockTrace(x, y - jnp.pad(x, missing), y)


def _scanned(blocks: Any, x: Array, record: bool) -> tuple[Array, BlockTrace | None]:
    """Stacked blocks in turn; their statistics are updated."""

    def step(x: Array, given: Any) -> tuple[Array, Any]:
        block = fresh(given)
        y, found = _recorded(x, block(x))
        return y, (changed_state(given, block), found if record else None)

    y, (stats, found) = lax.scan(step, x, blocks)
    nnx.update(blocks, stats)
    return y, found
