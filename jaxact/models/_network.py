"""Networks of stages: called, taken apart, stacked and unrolled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key, Shaped

from jaxact._compat import module_list
from jaxact._segment import Segment
from jaxact.models._block import Block, BlockSequence, BlockTrace, Layer, LayerTrace
from jaxact.models._config import BlockConfig
from jaxact.models._family import Family
from jaxact.models._layers import wide_dtype
from jaxact.models._stage import NOT_PARAMS, Remat, Stage, fresh, stack_stage, unroll_stage
from jaxact.wiring import SKIPS


class StagePlan(NamedTuple):
    """A stage to be made.

    Attributes:
      first: weight layers of its first block; or, by name, sublayers that each have a block.
      rest: of the others.
      depth: the number of blocks, or of layers of sublayers.
      stride: of the first block.
      pool: whether its shortcut averages instead of striding.
      excite: of every block; see `Block`.
    """

    first: Sequence[Layer] | Mapping[str, Layer]
    rest: Sequence[Layer] | Mapping[str, Layer]
    depth: int
    stride: int = 1
    pool: bool = False
    excite: Any = None

    @property
    def leads(self) -> bool:
        """Whether the first block differs from the rest."""
        layers = _list(self.first)
        return self.stride > 1 or layers[0].inputs != layers[-1].outputs

    @property
    def outputs(self) -> int:
        """Channels out."""
        return _list(self.rest)[-1].outputs


def _list(layers: Sequence[Layer] | Mapping[str, Layer]) -> list[Layer]:
    return list(layers.values() if isinstance(layers, Mapping) else layers)


class Network(Family):
    """Stem, stages of blocks, head.

    A pytree: `jax.jit`, `jax.grad` and `jax.vmap` take it directly. A call gives logits, and in
    training mode (``network.train()``, the mode a network is made in) it updates the network's own
    batch statistics, as Flax's modules do. `apply` is the pure form.

    Attributes:
      stem: `Stem`.
      stages: a list of `Stage`.
      head: `Head`.
      config: what a network of one config was made from, else None.
      equation: of a block, by `jaxact.wiring`.
    """

    config: Any = None

    def __init__(
        self,
        stem: Callable[[nnx.Rngs], Any],
        plans: Sequence[StagePlan],
        head: Callable[[int, nnx.Rngs], Any],
        config: BlockConfig,
        *,
        scan: bool = True,
        remat: Remat = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        wired, rest = config.wiring, plans[0].rest
        sublayer = isinstance(rest, Mapping)
        equation = wired.equation(layers=1 if sublayer else len(rest), sublayer=sublayer)
        self.equation = f"{wired.label}: {equation}"
        depth = sum(plan.depth for plan in plans)
        numbers = {
            "beta": _betas(plans),
            "drop": config.drop_rates(depth),
            "norm_scale": [wired.placed.norm_scale(block + 1) for block in range(depth)],
        }
        self.stem = stem(rngs)
        stages, done = [], 0
        for plan in plans:
            span = slice(done, done + plan.depth)
            own = {name: values[span] for name, values in numbers.items()}
            stage = _make_stage(plan, config, depth, own, remat=remat, rngs=rngs)
            stages.append(stage if scan else unroll_stage(stage))
            done += plan.depth
        self.stages = module_list(stages)
        self.head = head(plans[-1].outputs, rngs)

    @property
    def blocks(self) -> Any:
        """Of a network of one stage, its blocks: stacked, or a list where unrolled."""
        stage = self.stages[0]
        return stage.rest if stage.stacked else stage.blocks

    def _to_head(
        self, x: Array, key: Array | None, record: bool
    ) -> tuple[Any, dict[str, BlockTrace]]:
        h = self.stem(self._enter(x))
        traces: dict[str, BlockTrace] = {}
        for number, stage in enumerate(self.stages):
            own = None if key is None else jax.random.fold_in(key, number)
            h, found = stage.trace(h, key=own, record=record)
            for part, trace in found.items():
                name = self._name(number, part)
                if isinstance(trace, LayerTrace):
                    traces |= {f"{name}.{own}": block for own, block in trace.parts.items()}
                else:
                    traces[name] = trace
        return h, traces

    def _enter(self, x: Array) -> Array:
        return x if self.dtype is None else x.astype(self.dtype)

    def _name(self, stage: int, part: str) -> str:
        name = f"stage{stage + 1}" if len(self.stages) > 1 else "blocks"
        return f"{name}.first" if part == "first" else name

    def segments(self, *, train: bool = False) -> tuple[Segment, ...]:
        """The network as a chain of pure functions: stem, blocks of each stage, head.

        Blocks of one shape are one stacked segment, ``"stage1"``, ``"stage2"``, ... (``"blocks"``
        where there is one stage); a first block that changes the shape is ``"stage1.first"``. An
        unrolled network gives the same segments as its stacked form.

        Args:
          train: whether batch norms use the batch's statistics, instead of the running ones. No
            branch is dropped in either mode, and statistics are not updated.
        """
        network = stack(self)
        network.eval()
        if train:
            network.set_attributes(use_running_average=False, raise_if_not_found=False)
        enter = self._enter
        found = [Segment("stem", lambda stem, x: fresh(stem)(enter(x)), network.stem, None)]
        for number, stage in enumerate(network.stages):
            if stage.leads:
                found.append(Segment(self._name(number, "first"), _run, stage.first, None))
            if stage.rest is not None:
                count = stage.depth - stage.leads
                found.append(Segment(self._name(number, "rest"), _run, stage.rest, count))
        found.append(network._last_segment())
        return tuple(found)

    def _last_segment(self) -> Segment:
        return Segment("head", _run, self.head, None)


def _run(module: Any, x: Any) -> Any:
    return fresh(module)(x)


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def stack(network: AnyNetwork, /) -> AnyNetwork:
    """The network with its blocks of one shape stacked and scanned; numbers are the same."""
    return _restage(network, stack_stage)


def unroll(network: AnyNetwork, /) -> AnyNetwork:
    """The network with every block by itself (``network.stages[i].blocks[j]``)."""
    return _restage(network, unroll_stage)


def _restage(network: AnyNetwork, change: Callable[[Stage], Stage]) -> AnyNetwork:
    network = fresh(network)
    network.stages = module_list([change(stage) for stage in network.stages])
    if network.config is not None:
        network.config = dataclasses.replace(network.config, scan=change is stack_stage)
    return network


class Outputs(NamedTuple):
    """What a pure call gives.

    Attributes:
      logits: (n, classes), or (n, t, classes).
      stats: every variable of the network but its parameters, after the call: an `nnx.State`, as
        ``nnx.state(network, nnx.Not(nnx.Param))`` gives it before.
      traces: by segment the `BlockTrace` of its blocks (input, branch, output), with a leading
        depth axis where the segment is stacked; empty unless asked for.
    """

    logits: Float[Array, "n *t o"]
    stats: nnx.State
    traces: dict[str, BlockTrace]


def apply(
    network: Any,
    x: Shaped[Array, "n ..."],
    /,
    *,
    train: bool,
    key: Key[Array, ""] | None = None,
    trace: bool = False,
) -> Outputs:
    """A network as a pure function: nothing of ``network`` is changed.

    Args:
      network: any network of this package.
      x: vectors (n, features), images (n, height, width, channels) or tokens (n, t).
      train: whether batch statistics are used and updated, and branches dropped.
      key: PRNG key of stochastic depth, needed if ``train`` and it is used.
      trace: whether to return what passes through the blocks.

    Returns:
      `Outputs`.

    Raises:
      ValueError: if a key is needed and not given.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxact import models
      >>> net = models.ConvResNet(3, 10, width=8, depth=4, norm="batch", rngs=nnx.Rngs(0))
      >>> out = models.apply(net, jnp.ones((2, 8, 8, 3)), train=True, trace=True)
      >>> out.logits.shape, out.traces["blocks"].branch.shape
      ((2, 10), (4, 2, 8, 8, 8))
      >>> trained = nnx.merge(*nnx.split(net, nnx.Param, ...)[:2], out.stats)
    """
    if not hasattr(network, "trace"):
        raise TypeError(
            "network must be one of jaxact.models, with a method trace; "
            f"got {type(network).__name__}"
        )
    network = fresh(network)
    network.train() if train else network.eval()
    logits, traces = network.trace(x, key=key, record=trace)
    return Outputs(logits, nnx.state(network, NOT_PARAMS), traces)


def _make_stage(
    plan: StagePlan,
    config: BlockConfig,
    depth: int,
    numbers: dict[str, list[float]],
    *,
    remat: Remat,
    rngs: nnx.Rngs,
) -> Stage:
    make: Any = functools.partial(Block, config=config, depth=depth, excite=plan.excite)
    if isinstance(plan.rest, Mapping):
        make = functools.partial(BlockSequence, config=config, depth=depth)
    leads = plan.leads
    first = rest = None
    if leads:
        first = make(
            plan.first,
            stride=plan.stride,
            pool=plan.pool,
            rngs=rngs,
            **{name: values[0] for name, values in numbers.items()},
        )
    count = plan.depth - leads
    if count:

        @nnx.split_rngs(splits=count)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs, own):
            return make(plan.rest, **own, rngs=rngs)

        dtype = wide_dtype(config.param_dtype)
        own = {name: jnp.asarray(values[leads:], dtype) for name, values in numbers.items()}
        rest = stacked(rngs, own)
    return Stage(first=first, rest=rest, depth=plan.depth, leads=leads, remat=remat)


def _betas(plans: Sequence[StagePlan]) -> list[float]:
    """The standard deviation of each block's input that a normalizer-free network predicts.

    A block that changes the shape starts anew from variance one, since its skip projects the
    normalized input; each block adds the square of the branch's scale (Brock et al. 2021, sec. 3).
    """
    betas, variance = [], 1.0
    for plan in plans:
        for number in range(plan.depth):
            betas.append(variance**0.5)
            variance = 1.0 if number == 0 and plan.leads else variance
            variance += SKIPS["normalizer_free"].factor(len(betas)) ** 2
    return betas
