"""The reversible residual network, whose activations need not be kept for its gradient."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxact._checks import whole
from jaxact._compat import module_list
from jaxact.models._block import BlockTrace
from jaxact.models._config import BlockConfig
from jaxact.models._densenet import ClassifierHead, Unit
from jaxact.models._family import Part, Parts
from jaxact.models._layers import Conv, average_pool
from jaxact.models._norms import Norm
from jaxact.models._registry import register

Halves = tuple[Array, Array]


class _Branch(nnx.Module):
    """Two 3 x 3 convolutions, each after its norm and activation."""

    def __init__(self, inputs: int, outputs: int, config: BlockConfig, stride: int, rngs: nnx.Rngs):
        self.units = module_list(
            [
                Unit(inputs, outputs, config, stride=stride, rngs=rngs),
                Unit(outputs, outputs, config, rngs=rngs),
            ]
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        for unit in self.units:
            x = unit(x)
        return x


class _Coupled(nnx.Module):
    """A reversible block: branches f and g on the halves of the channels, which swap roles."""

    def __init__(
        self, inputs: int, outputs: int, config: BlockConfig, *, stride: int = 1, rngs: nnx.Rngs
    ):
        self.f = _Branch(inputs, outputs, config, stride, rngs)
        self.g = _Branch(outputs, outputs, config, 1, rngs)
        self.stride = stride
        self.more = outputs - inputs

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        x1, x2 = _split(x)
        y1 = self._skip(x1) + self.f(x2)
        y2 = self._skip(x2) + self.g(y1)
        return jnp.concatenate([y1, y2], -1)

    def _skip(self, x: Array) -> Array:
        """The half itself; where the block halves the resolution, pooled and continued by zeros."""
        if self.stride == 1:
            return x
        return jnp.pad(average_pool(x, 2), ((0, 0), (0, 0), (0, 0), (0, self.more)))


class ReversibleStage(nnx.Module):
    r"""Reversible blocks of equal shape, stacked over depth, whose gradient keeps no activations.

    On halves x_1, x_2 of the channels, with branches f and g:

    .. math:: y_1 = x_1 + f(x_2), \quad y_2 = x_2 + g(y_1)
       \qquad\Longleftrightarrow\qquad x_2 = y_2 - g(y_1), \quad x_1 = y_1 - f(x_2)

    The gradient reconstructs each block's input from its output, so that memory for activations
    does not grow with depth, for one more evaluation of each branch. Reconstruction rounds, a
    little more with every block: use float32 for it. Forward mode (`jax.jvp`, `jax.jacfwd`) is not
    supported with ``reconstruct`` on and raises `TypeError`.

    Args:
      width: channels, an even number.
      depth: number of blocks, at least 1.
      norm: a name or a callable ``make(features, *, rngs)``. Batch statistics are updated once, by
        the forward pass.
      activation: a name or callable of `jaxact.activations`.
      gain: weights have variance gain^2 / fan_in; `jaxact.theory.gain` of the activation if None.
      reconstruct: whether the gradient reconstructs activations; else it keeps them.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if ``width`` is not even, ``depth`` is less than 1, or a name is unknown.

    Reference:
      Gomez et al. 2017, "The Reversible Residual Network", eq. 6 to 8, algorithm 1.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        norm: str | Norm = "batch",
        activation: str | Callable[..., Any] = "relu",
        gain: float | Array | None = None,
        reconstruct: bool = True,
        rngs: nnx.Rngs,
    ):
        whole("depth", depth)
        _even("width", width)
        config = BlockConfig(norm=norm, activation=activation, gain=gain)

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def units(rngs):
            return _Coupled(width // 2, width // 2, config, rngs=rngs)

        self.depth = depth
        self.reconstruct = reconstruct
        self.units = units(rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        structure, params, stats = nnx.split(self.units, nnx.Param, ...)
        run = _reconstructing if self.reconstruct else _run
        (y1, y2), after = run(_Coupling(structure), params, stats, _split(x))
        nnx.update(self.units, after)
        return jnp.concatenate([y1, y2], -1)

    def inverse(self, y: Float[Array, "n h w c"], /) -> Float[Array, "n h w c"]:
        """The input with a given output, exact up to rounding.

        Batch norms in training use the statistics of ``y``'s reconstruction, which are those of the
        forward pass on the same batch; running ones are left alone.
        """
        structure, params, stats = nnx.split(self.units, nnx.Param, ...)
        coupling = _Coupling(structure)

        def unblock(y, scanned):
            y1, y2 = y
            params, stats = scanned
            x2 = y2 - coupling.g(params, stats, y1)
            return (y1 - coupling.f(params, stats, x2), x2), None

        x, _ = lax.scan(unblock, _split(y), (params, stats), reverse=True)
        return jnp.concatenate(x, -1)


@dataclasses.dataclass(frozen=True)
class _Coupling:
    """The branches of a block as pure functions, with the statistics of its norms left alone."""

    structure: Any

    def unit(self, params: Any, stats: Any) -> Any:
        return nnx.merge(self.structure, params, stats, copy=True)

    def f(self, params: Any, stats: Any, x: Array) -> Array:
        return self.unit(params, stats).f(x)

    def g(self, params: Any, stats: Any, x: Array) -> Array:
        return self.unit(params, stats).g(x)


def _run(coupling: _Coupling, params: Any, stats: Any, x: Halves) -> tuple[Halves, Any]:
    """The blocks in turn: the output, and the statistics after."""

    def block(x, scanned):
        unit = coupling.unit(*scanned)
        y1 = x[0] + unit.f(x[1])
        y2 = x[1] + unit.g(y1)
        return (y1, y2), nnx.split(unit, nnx.Param, ...)[2]

    return lax.scan(block, x, (params, stats))


_reconstructing = jax.custom_vjp(_run, nondiff_argnums=(0,))


def _forward(coupling: _Coupling, params: Any, stats: Any, x: Halves) -> Any:
    y, after = _run(coupling, params, stats, x)
    return (y, after), (params, stats, y)


def _backward(coupling: _Coupling, kept: Any, cotangents: Any) -> Any:
    params, stats, y = kept
    dy, _ = cotangents  # statistics are constants to every loss

    def block(carry, scanned):
        (y1, y2), (d1, d2) = carry
        params, stats = scanned
        g, pull_g = jax.vjp(lambda p, h: coupling.g(p, stats, h), params, y1)
        x2 = y2 - g
        by_g, at_y1 = pull_g(d2)
        d1 = d1 + at_y1
        f, pull_f = jax.vjp(lambda p, h: coupling.f(p, stats, h), params, x2)
        x1 = y1 - f
        by_f, at_x2 = pull_f(d1)
        gradient = jax.tree.map(jnp.add, by_f, by_g)  # each is zero where it has no part
        return ((x1, x2), (d1, d2 + at_x2)), gradient

    (_, dx), gradients = lax.scan(block, (y, dy), (params, stats), reverse=True)
    return gradients, None, dx


_reconstructing.defvjp(_forward, _backward)


class RevNet(Parts):
    r"""A reversible residual network for images of some ten pixels a side, such as CIFAR's.

    A 3 x 3 stem, stages of reversible blocks, and norm, activation, mean over positions and a dense
    head. From stage to stage one ordinary block of the same form halves the resolution (average
    pool and zero channels on the skips). See `ReversibleStage` for the blocks and their gradient.

    With widths (32, 64, 112) it is RevNet-38 at depths (3, 3, 3), 0.46 M parameters; with
    (32, 64, 128) RevNet-110 at (9, 9, 9), 1.7 M.

    Args:
      in_channels: of an image.
      num_classes: number of logits; with 0 a call gives the pooled features.
      widths: channels of each stage, even and not decreasing; the stem has as many as the first.
      depths: blocks of each stage, with the one that halves the resolution.
      norm: as for `ReversibleStage`.
      activation: as for `ReversibleStage`.
      gain: as for `ReversibleStage`.
      reconstruct: as for `ReversibleStage`.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if widths or depths do not fit, or a name is unknown.

    Example:
      >>> network = RevNet(3, 10, widths=(8,), depths=(5,), rngs=nnx.Rngs(0))
      >>> network(jnp.ones((2, 8, 8, 3))).shape
      (2, 10)

    Reference:
      Gomez et al. 2017, "The Reversible Residual Network", table 2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        widths: Sequence[int] = (32, 64, 112),
        depths: Sequence[int] = (3, 3, 3),
        norm: str | Norm = "batch",
        activation: str | Callable[..., Any] = "relu",
        gain: float | Array | None = None,
        reconstruct: bool = True,
        rngs: nnx.Rngs,
    ):
        if len(widths) != len(depths) or not widths:
            raise ValueError(f"depths must be one for each of widths={widths}; got {depths}")
        whole("in_channels", in_channels)
        for width, before in zip(widths, (widths[0], *widths), strict=False):
            _even("widths", width)
            if width < before:
                raise ValueError(f"widths must not decrease; got {widths}")
        for number, depth in enumerate(depths):
            whole(f"depths[{number}]", depth)
        config = BlockConfig(norm=norm, activation=activation, gain=gain)
        self.stem = Conv(in_channels, widths[0], gain=1.0, bias=False, rngs=rngs)
        stages: list[nnx.Module] = []
        names: list[str] = []
        options: dict[str, Any] = dict(norm=norm, activation=activation, gain=config.weight_gain)
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if number:
                halves = widths[number - 1] // 2, width // 2
                stages.append(_Coupled(*halves, config, stride=2, rngs=rngs))
                names.append(f"stage{number + 1}.first")
                depth -= 1
            if depth:
                stage = ReversibleStage(width, depth, reconstruct=reconstruct, rngs=rngs, **options)
                stages.append(stage)
                names.append(f"stage{number + 1}")
        self.names = tuple(names)
        self.stages = module_list(stages)
        self.head = ClassifierHead(widths[-1], num_classes, config, rngs=rngs)

    def parts(self) -> list[Part]:
        """Stem, the blocks of each stage, head."""
        parts = [Part("stem", self.stem)]
        for name, stage in zip(self.names, self.stages, strict=True):
            stacked = isinstance(stage, ReversibleStage)
            parts.append(Part(name, stage.units, stage.depth) if stacked else Part(name, stage))
        return [*parts, Part("head", self.head)]

    def _to_head(
        self, x: Array, key: Array | None, record: bool
    ) -> tuple[Array, dict[str, BlockTrace]]:
        """As every network's; recorded, the gradient keeps the activations that are returned."""
        if record:
            return super()._to_head(x, key, True)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x, {}


register(
    RevNet,
    {
        "revnet": {},
        "cifar_revnet38": {},
        "cifar_revnet110": {"depths": (9, 9, 9), "widths": (32, 64, 128)},
    },
)


def _split(x: Array) -> Halves:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _even(name: str, width: int) -> None:
    if width < 2 or width % 2:
        raise ValueError(f"{name} must be even and at least 2; got {width}")
