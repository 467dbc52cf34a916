"""Image networks of stages, and networks of equal blocks for analysis."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import DTypeLike

from jaxact._checks import conflict, one_of, whole
from jaxact.models._block import Layer
from jaxact.models._config import BlockConfig
from jaxact.models._layers import Conv, Dense
from jaxact.models._network import Network, StagePlan
from jaxact.models._parts import Head, Res2Conv, SqueezeExcitation, Stem
from jaxact.models._stage import Remat, check_run

STEMS = ("cifar", "imagenet", "deep")
BLOCKS = ("basic", "bottleneck")
EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclasses.dataclass(frozen=True)
class ResNetConfig(BlockConfig):
    """All that defines a `ResNet`; see also the choices of every block in `BlockConfig`.

    Attributes:
      in_channels: channels of an image.
      num_classes: logits; with 0 a call gives the pooled features.
      depths: blocks of each stage.
      widths: of each stage, the block's channels before expansion.
      strides: of each stage's first block.
      block: ``"basic"``, two 3x3 convolutions, or ``"bottleneck"``, 1x1, 3x3, 1x1.
      expansion: a block's outputs over its width; 1 for basic and 4 for bottleneck if None.
      groups: of the 3x3 convolutions.
      base_width: a bottleneck's inner channels are ``int(width * base_width / 64) * groups``.
      stride_at: the bottleneck's layer that strides: ``"3x3"`` (v1.5) or ``"1x1"`` (He 2015).
      stem: ``"cifar"``, one 3x3 convolution; ``"imagenet"``, 7x7 of stride 2 and a 3x3 maximum;
        ``"deep"``, three 3x3, the first of stride 2, and the maximum (ResNet-C).
      stem_width: channels out of the stem; the first width if None. The deep stem's inner layers
        have half of them.
      pool_shortcut: whether shortcuts average where they stride (ResNet-D).
      squeeze_excitation: the reduction of a gate at the end of each branch, or None.
      squeeze_divisor: the gate's inner channels are rounded to a multiple of it, as timm rounds: at
        least one, and none by more than a tenth down.
      res2net_scale: parts of Res2Net's hierarchy in place of the 3x3; 1 for none.
      scan: whether blocks of one shape are stacked and scanned.
      remat: what the backward pass recomputes: None for nothing, ``"full"`` for all of a block,
        ``"conv"`` for all but the results of its weight layers and the statistics of batch norms
        (the names ``"weighted"`` and ``"statistics"``), or a policy of `jax.checkpoint_policies`.
        In bfloat16 a scan without it stacks the norms' float32 copies: prefer ``"conv"`` there.
      dtype: that images are cast to, and computed in; None keeps theirs. Norms compute their
        statistics in at least float32, and parameters keep ``param_dtype``.
    """

    norm_placement: str = "original"
    in_channels: int = 3
    num_classes: int = 1000
    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (64, 128, 256, 512)
    strides: Sequence[int] = (1, 2, 2, 2)
    block: str = "bottleneck"
    expansion: int | None = None
    groups: int = 1
    base_width: int = 64
    stride_at: str = "3x3"
    stem: str = "imagenet"
    stem_width: int | None = None
    pool_shortcut: bool = False
    squeeze_excitation: int | None = None
    squeeze_divisor: int = 1
    res2net_scale: int = 1
    scan: bool = True
    remat: Remat = None
    dtype: DTypeLike | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("depths", "widths", "strides"):  # a list would make the network unhashable
            object.__setattr__(self, name, tuple(getattr(self, name)))
        one_of("stem", self.stem, STEMS)
        one_of("block", self.block, BLOCKS)
        one_of("stride_at", self.stride_at, ("3x3", "1x1"))
        check_run(self.remat, self.dtype)
        if not len(self.depths) == len(self.widths) == len(self.strides) > 0:
            raise ValueError(
                "depths, widths and strides must have one entry for each stage; got "
                f"{self.depths}, {self.widths}, {self.strides}"
            )
        whole("num_classes", self.num_classes, 0)
        for name in ("in_channels", "groups", "base_width", "res2net_scale", "squeeze_divisor"):
            whole(name, getattr(self, name))
        for name in ("expansion", "stem_width", "squeeze_excitation"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        for name in ("depths", "widths", "strides"):
            for number, size in enumerate(getattr(self, name)):
                whole(f"{name}[{number}]", size)
        if self.block == "basic" and self.stride_at == "1x1":
            raise conflict("stride_at='1x1'", "block='basic'", "a basic block has no such layer")
        if self.res2net_scale > 1:
            res2net = f"res2net_scale={self.res2net_scale}"
            if self.block == "basic":
                raise conflict(res2net, "block='basic'", "a basic block has no 3x3 to replace")
            if self.norm_placement != "original":
                placement = f"norm_placement={self.norm_placement!r}"
                raise conflict(res2net, placement, "each part has its norm after its convolution")
            if self.stride_at == "1x1":
                raise conflict(res2net, "stride_at='1x1'", "Res2Net strides at the 3x3")

    def inner(self, width: int) -> int:
        """Channels inside a block."""
        return int(width * (self.base_width / 64)) * self.groups * self.res2net_scale

    def outer(self, width: int) -> int:
        """Channels out of a block."""
        return width * (self.expansion or EXPANSION[self.block])

    def layers(self, inputs: int, width: int, stride: int, first: bool) -> list[Layer]:
        """A block's weight layers."""
        inner, outputs = self.inner(width), self.outer(width)
        spatial = functools.partial(Conv, groups=self.groups)
        if self.block == "basic":
            return [
                Layer(functools.partial(spatial, stride=stride), inputs, inner),
                Layer(Conv, inner, outputs),
            ]
        at_1x1 = self.stride_at == "1x1"
        middle = Layer(functools.partial(spatial, stride=1 if at_1x1 else stride), inner, inner)
        if self.res2net_scale > 1:
            make = functools.partial(
                Res2Conv,
                config=self,
                scale=self.res2net_scale,
                stride=stride,
                groups=self.groups,
                first=first,
            )
            middle = Layer(make, inner, inner, complete=True)
        entry = functools.partial(Conv, size=1, stride=stride if at_1x1 else 1)
        exit_ = functools.partial(Conv, size=1)
        return [Layer(entry, inputs, inner), middle, Layer(exit_, inner, outputs)]

    def plans(self) -> list[StagePlan]:
        """The stages."""
        plans, inputs = [], self.stem_width or self.widths[0]
        excite = None
        if self.squeeze_excitation is not None:
            excite = functools.partial(
                SqueezeExcitation,
                config=self,
                reduction=self.squeeze_excitation,
                divisor=self.squeeze_divisor,
            )
        for depth, width, stride in zip(self.depths, self.widths, self.strides, strict=True):
            outputs = self.outer(width)
            first = self.layers(inputs, width, stride, True)
            rest = self.layers(outputs, width, 1, False)
            plans.append(StagePlan(first, rest, depth, stride, self.pool_shortcut, excite))
            inputs = outputs
        return plans

    def make_stem(self, rngs: nnx.Rngs) -> Stem:
        """The stem."""
        width = self.stem_width or self.widths[0]
        layers = {
            "cifar": [Layer(Conv, self.in_channels, width)],
            "imagenet": [Layer(functools.partial(Conv, size=7, stride=2), self.in_channels, width)],
            "deep": [
                Layer(functools.partial(Conv, stride=2), self.in_channels, width // 2),
                Layer(Conv, width // 2, width // 2),
                Layer(Conv, width // 2, width),
            ],
        }[self.stem]
        finish = self.wiring.placed.weights_first
        pool = self.stem != "cifar"
        return Stem(layers, self, finish=finish, gain=1.0, pool=pool, rngs=rngs)


class ResNet(Network):
    """An image network: stem, stages of blocks, mean over positions, logits. NHWC.

    Args:
      config: a `ResNetConfig`; its defaults, which are ResNet-50 v1.5, if None.
      rngs: Flax's PRNG keys.
      changes: fields of the config that are to differ from it.

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.

    Example:
      >>> import jax.numpy as jnp
      >>> net = ResNet(
      ...     depths=(3, 3, 3), widths=(16, 32, 64), strides=(1, 2, 2), block="basic",
      ...     stem="cifar", shortcut="A", num_classes=10, rngs=nnx.Rngs(0),
      ... )
      >>> net(jnp.ones((2, 32, 32, 3))).shape
      (2, 10)
    """

    def __init__(self, config: ResNetConfig | None = None, /, *, rngs: nnx.Rngs, **changes: Any):
        config = dataclasses.replace(config or ResNetConfig(), **changes)
        self.config = config
        super().__init__(
            config.make_stem,
            config.plans(),
            functools.partial(Head, outputs=config.num_classes, config=config),
            config,
            scan=config.scan,
            remat=config.remat,
            dtype=config.dtype,
            rngs=rngs,
        )


class _Uniform(Network):
    """Stem, equal blocks, head; see `MLPResNet`."""

    layer: Any
    layers: int
    inputs: str

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        depth: int,
        block_layers: int | None = None,
        norm_placement: str = "pre",
        norm: Any = None,
        bias: bool = True,
        scan: bool = True,
        remat: Remat = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **choices: Any,
    ):
        block_layers = self.layers if block_layers is None else block_layers
        for name, size in (
            (self.inputs, in_features),
            ("width", width),
            ("depth", depth),
            ("block_layers", block_layers),
        ):
            whole(name, size)
        whole("out_features", out_features, 0)
        check_run(remat, dtype)
        if norm is None and norm_placement != "norm_free":
            norm = "layer"
        config = BlockConfig(norm_placement=norm_placement, norm=norm, bias=bias, **choices)
        make = self.layer
        if make is Dense and config.chosen_norm == "instance":
            raise conflict("norm='instance'", "an MLP", "a vector has no positions to average over")
        # A plain block applies its weights first: what they put out is to have variance one.
        first = config.wiring.plain and config.wiring.placed.weights_first
        gain = 1 / config.weight_gain if first else 1.0

        def stem(rngs):
            layers = [Layer(make, in_features, width)]
            return Stem(layers, config, finish=False, gain=gain, rngs=rngs)

        layers = [Layer(make, width, width)] * block_layers
        plans = [StagePlan(layers, layers, depth)]
        options: dict[str, Any] = dict(scan=scan, remat=remat, dtype=dtype, rngs=rngs)
        head = functools.partial(Head, outputs=out_features, config=config)
        super().__init__(stem, plans, head, config, **options)


class MLPResNet(_Uniform):
    """A residual or plain MLP of equal blocks: stem, ``depth`` blocks of width x width, head.

    Args:
      in_features: length of an input.
      out_features: number of logits; with 0 a call gives the pooled features.
      width: units of every block.
      depth: number of blocks.
      block_layers: weight layers a block; 1 if None.
      norm_placement: as in `BlockConfig`, ``"pre"`` by default.
      norm: as there, but ``"layer"`` by default.
      bias: whether weight layers have biases.
      scan: whether the blocks are stacked and scanned.
      remat: as in `ResNetConfig`.
      dtype: as in `ResNetConfig`.
      rngs: Flax's PRNG keys.
      choices: further fields of `BlockConfig`: ``skip``, ``activation``, ``gain``, ...

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.
    """

    layer, layers, inputs = Dense, 1, "in_features"


class ConvResNet(_Uniform):
    """A residual or plain convolutional network of constant resolution and channels, NHWC.

    A stem convolution, ``depth`` blocks of ``block_layers`` (2 if None) 3x3 convolutions with zero
    padding, the mean over positions, and a dense head. Arguments are those of `MLPResNet`, with
    ``in_channels`` for ``in_features``.

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.
    """

    layer, layers, inputs = Conv, 2, "in_channels"

    def __init__(self, in_channels: int, out_features: int, **options: Any):
        super().__init__(in_channels, out_features, **options)
