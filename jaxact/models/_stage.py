"""Blocks in a row, stacked with a leading depth axis and scanned, or unrolled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Key, PyTree

from jaxact._checks import floating, one_of
from jaxact._compat import module_list, value_of
from jaxact.models._block import BlockTrace, LayerTrace

POLICIES = {
    "full": None,
    "conv": jax.checkpoint_policies.save_only_these_names("weighted", "statistics"),
}
Remat = str | Callable[..., Any] | None
NOT_PARAMS = nnx.Not(nnx.Param)


class Stage(nnx.Module):
    """Blocks of one resolution, each a `Block` or a `BlockSequence`.

    Attributes:
      depth: the number of blocks.
      leads: whether the first block differs from the rest.
      first: the block that changes the shape, or None where none does; None when unrolled.
      rest: the other blocks, each leaf with a leading axis over them, or None.
      blocks: every block by itself when unrolled, else None.
      remat: what is recomputed in the backward pass; see `ResNet`.
    """

    def __init__(
        self,
        *,
        depth: int,
        leads: bool,
        remat: Remat = None,
        first: Any = None,
        rest: Any = None,
        blocks: list[Any] | None = None,
    ):
        self.depth = depth
        self.leads = leads
        self.first = first
        self.rest = rest
        self.blocks = None if blocks is None else module_list(blocks)
        self.remat = remat

    @property
    def stacked(self) -> bool:
        """Whether the blocks are stacked."""
        return self.blocks is None

    def trace(
        self, x: PyTree[Array], *, key: Key[Array, ""] | None = None, record: bool = False
    ) -> tuple[PyTree[Array], dict[str, BlockTrace | LayerTrace]]:
        """The output, and if asked what passes through the blocks, by part of the stage.

        Statistics of the blocks are updated where they are in training mode.
        """
        keys = None if key is None else jax.random.split(key, self.depth)
        step = self._step(record)
        found: dict[str, Any] = {}
        if self.blocks is not None:
            traces = []
            for number, block in enumerate(self.blocks):
                x, (stats, trace) = step(x, (block, None if keys is None else keys[number]))
                nnx.update(block, stats)
                traces.append(trace)
            return x, self._by_part(traces) if record else {}
        if self.first is not None:
            x, (stats, found["first"]) = step(x, (self.first, None if keys is None else keys[0]))
            nnx.update(self.first, stats)
            keys = None if keys is None else keys[1:]
        if self.rest is not None:
            x, (stats, found["rest"]) = lax.scan(step, x, (self.rest, keys))
            nnx.update(self.rest, stats)
        return x, found if record else {}

    def _step(self, record: bool) -> Callable[..., Any]:
        def step(x, block_and_key):
            given, key = block_and_key
            block = fresh(given)
            trace = block.trace(x, key=key)
            return trace.output, (changed_state(given, block), trace if record else None)

        if self.remat is None:
            return step
        policy = POLICIES[self.remat] if isinstance(self.remat, str) else self.remat
        return jax.checkpoint(step, policy=policy, prevent_cse=not self.stacked)

    def _by_part(self, traces: list[Any]) -> dict[str, Any]:
        """Traces of unrolled blocks as stacked ones have them."""
        rest = traces[self.leads :]
        found = {"first": traces[0]} if self.leads else {}
        if rest:
            found["rest"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)
        return found


def unroll_stage(stage: Stage) -> Stage:
    """The stage with every block by itself."""
    if not stage.stacked:
        return fresh(stage)
    blocks = [fresh(stage.first)] if stage.leads else []
    for number in range(stage.depth - len(blocks)):
        blocks.append(jax.tree.map(lambda leaf, n=number: leaf[n], stage.rest))
    return Stage(blocks=blocks, **_settings(stage))


def stack_stage(stage: Stage) -> Stage:
    """The stage with its blocks of one shape stacked."""
    if stage.blocks is None:
        return fresh(stage)
    blocks = [fresh(block) for block in stage.blocks]
    first = blocks.pop(0) if stage.leads else None
    rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks) if blocks else None
    return Stage(first=first, rest=rest, **_settings(stage))


def _settings(stage: Stage) -> dict[str, Any]:
    return {"depth": stage.depth, "leads": stage.leads, "remat": stage.remat}


def fresh(module: Any) -> Any:
    """The module as new objects on the same arrays, so that a call leaves the old ones alone."""
    return jax.tree.map(lambda leaf: leaf, module)


def changed_state(before: nnx.Module, after: nnx.Module) -> Any:
    """The variables of ``after`` whose values are not those of ``before``, also what it sowed."""
    old, new = (
        dict(nnx.to_flat_state(nnx.state(module, NOT_PARAMS))) for module in (before, after)
    )
    return nnx.from_flat_state(
        [
            (path, leaf)
            for path, leaf in new.items()
            if path not in old or value_of(leaf) is not value_of(old[path])
        ]
    )


def check_run(remat: Remat, dtype: DTypeLike | None) -> None:
    """Refuses what is neither a policy nor the name of one, and a dtype that is not floating."""
    if isinstance(remat, str):
        one_of("remat", remat, tuple(POLICIES))
    elif not (remat is None or callable(remat)):
        raise ValueError(
            f"remat must be None, a policy, or one of {', '.join(POLICIES)}; got {remat!r}"
        )
    if dtype is not None:
        floating("dtype", dtype)
