"""Networks that concatenate what their layers put out: DenseNet and dual path networks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from jaxact.models._block import Layer
from jaxact.models._checks import at_least_one, one_of
from jaxact.models._layers import Conv, Dense, average_pool
from jaxact.models._norms import BatchNorm, Norm
from jaxact.models._parts import Stem
from jaxact.models._segments import Segment
from jaxact.models._stage import fresh
from jaxact.models._wiring import Activation, Wiring


class _Unit(nnx.Module):
    """Norm, activation, convolution."""

    def __init__(
        self, inputs: int, outputs: int, wiring: Wiring, *, rngs: nnx.Rngs, **convolution: int
    ):
        self.norm = wiring.make_norm(inputs, rngs)
        self.activation = wiring.make_activation(inputs, rngs)
        self.layer = Conv(inputs, outputs, **convolution, **wiring.layer_options(), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        return self.layer(self.activation(self.norm(x)))


class _Head(nnx.Module):
    """Norm, activation, mean over positions, logits."""

    def __init__(self, features: int, outputs: int, wiring: Wiring, *, rngs: nnx.Rngs):
        self.norm = wiring.make_norm(features, rngs)
        self.activation = wiring.make_activation(features, rngs)
        options = wiring.layer_options(gain=1.0) | {"bias": True, "weights": None}
        self.linear = Dense(features, outputs, **options, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n o"]:
        return self.linear(jnp.mean(self.activation(self.norm(x)), (1, 2)))


class _DenseLayer(nnx.Module):
    """[x, W_2 a(N(W_1 a(N x)))]: a bottleneck whose output is appended."""

    def __init__(self, inputs: int, growth: int, inner: int, wiring: Wiring, *, rngs: nnx.Rngs):
        self.reduce = _Unit(inputs, inner, wiring, size=1, rngs=rngs)
        self.grow = _Unit(inner, growth, wiring, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
        return jnp.concatenate([x, self.grow(self.reduce(x))], -1)


class _Transition(nnx.Module):
    """A 1 x 1 convolution to fewer channels, and means of 2 x 2 positions."""

    def __init__(self, inputs: int, outputs: int, wiring: Wiring, *, rngs: nnx.Rngs):
        self.reduce = _Unit(inputs, outputs, wiring, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        x = self.reduce(x)
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        return average_pool(x[:, :height, :width], 2)


class _DualPath(nnx.Module):
    """A bottleneck whose output is added to one part of the channels and appended to the other.

    Reference:
      Chen et al. 2017, "Dual Path Networks", eq. 5 to 8.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        added: int,
        appended: int,
        wiring: Wiring,
        *,
        groups: int,
        stride: int,
        first: bool,
        rngs: nnx.Rngs,
    ):
        self.added = added
        project = None
        if first:
            outputs = added + 2 * appended
            project = _Unit(inputs, outputs, wiring, size=1, stride=stride, rngs=rngs)
        self.project = project
        self.reduce = _Unit(inputs, inner, wiring, size=1, rngs=rngs)
        self.spatial = _Unit(inner, inner, wiring, groups=groups, stride=stride, rngs=rngs)
        self.expand = _Unit(inner, added + appended, wiring, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        skip = x if self.project is None else self.project(x)
        h = self.expand(self.spatial(self.reduce(x)))
        residual = skip[..., : self.added] + h[..., : self.added]
        return jnp.concatenate([residual, skip[..., self.added :], h[..., self.added :]], -1)


class _Concatenating(nnx.Module):
    """A stem, layers that each see all that those before them put out, a head."""

    def __init__(
        self, stem: nnx.Module, layers: dict[str, nnx.Module], head: nnx.Module, dtype: Any
    ):
        self.dtype = dtype
        self.stem = stem
        self.names = tuple(layers)
        self.layers = nnx.List(list(layers.values()))
        self.head = head

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n o"]:
        x = self.stem(x if self.dtype is None else x.astype(self.dtype))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def segments(self) -> tuple[Segment, ...]:
        """The network as a chain of pure functions, batch norms with their running statistics."""
        network = fresh(self)
        network.eval()
        parts = zip(
            ("stem", *self.names, "head"),
            (network.stem, *network.layers, network.head),
            strict=True,
        )
        return tuple(Segment(name, _run, part, None) for name, part in parts)


def _run(module: Any, x: Any) -> Any:
    return fresh(module)(x)


class DenseNet(_Concatenating):
    """A densely connected network for images, NHWC, with bottlenecks and compression (DenseNet-BC).

    In a dense block each layer sees the outputs of all before it, concatenated. The channels grow
    with every layer, so that no two layers have one shape; they are not stacked, and compile time
    grows with depth.

    Args:
      in_channels: of an image.
      num_classes: logits.
      depths: layers of each dense block.
      growth: channels that a layer adds.
      stem: ``"imagenet"``, 7x7 of stride 2 and a 3x3 maximum, or ``"cifar"``, one 3x3 convolution.
      stem_width: channels out of the stem; twice the growth if None.
      bottleneck: channels inside a layer over the growth.
      compression: channels after a transition over those before, above 0 and at most 1.
      norm: as in `Wiring`.
      activation: as in `Wiring`.
      gain: as in `Wiring`.
      dtype: that images are cast to, and computed in; None keeps theirs.
      param_dtype: of the parameters.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if a size is out of range or a choice unknown.

    Example:
      >>> net = DenseNet(
      ...     3, 10, depths=(1, 1), growth=4, stem="cifar", rngs=nnx.Rngs(0)
      ... )
      >>> net(jnp.ones((2, 8, 8, 3))).shape
      (2, 10)

    Reference:
      Huang et al. 2017, "Densely Connected Convolutional Networks", table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        depths: Sequence[int] = (6, 12, 24, 16),
        growth: int = 32,
        stem: str = "imagenet",
        stem_width: int | None = None,
        bottleneck: int = 4,
        compression: float = 0.5,
        norm: str | Norm = "batch",
        activation: str | Activation = "relu",
        gain: float | Array | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        sizes = {"in_channels": in_channels, "num_classes": num_classes, "growth": growth}
        sizes |= {"bottleneck": bottleneck, "depths": min(depths)}
        one_of("stem", stem, ("imagenet", "cifar"))
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1; got {compression}")
        wiring = _wired(sizes, norm, activation, gain, param_dtype)
        channels = 2 * growth if stem_width is None else stem_width
        start = _stem(in_channels, channels, stem, 7, wiring, rngs)
        layers: dict[str, nnx.Module] = {}
        for block, depth in enumerate(depths, 1):
            if block > 1:
                reduced = int(channels * compression)
                layers[f"transition{block - 1}"] = _Transition(channels, reduced, wiring, rngs=rngs)
                channels = reduced
            for layer in range(1, depth + 1):
                layers[f"block{block}.{layer}"] = _DenseLayer(
                    channels, growth, bottleneck * growth, wiring, rngs=rngs
                )
                channels += growth
        head = _Head(channels, num_classes, wiring, rngs=rngs)
        super().__init__(start, layers, head, dtype)


class DualPathNet(_Concatenating):
    """A dual path network for images, NHWC: residual in one part of the channels, dense in another.

    Each bottleneck adds to the first channels, as in ResNeXt, and appends to the last, as in
    DenseNet. As there, no two blocks of a stage have one shape, and compile time grows with depth.

    Args:
      in_channels: of an image.
      num_classes: logits.
      depths: blocks of each stage.
      widths: channels of each stage that are added to.
      inner: channels inside a bottleneck of the first stage; twice as many in each next one.
      appended: channels that each block of a stage appends.
      groups: of the 3x3 convolutions.
      stem_width: channels out of the stem, a convolution of stride 2 and a 3x3 maximum.
      stem_size: of that convolution, odd.
      norm: as in `Wiring`; ``"batch"`` has epsilon 1e-3 here, as the authors' networks do.
      activation: as in `Wiring`.
      gain: as in `Wiring`.
      dtype: that images are cast to, and computed in; None keeps theirs.
      param_dtype: of the parameters.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if a size is out of range or a choice unknown.

    Example:
      >>> net = DualPathNet(
      ...     3, 10, depths=(1,), widths=(8,), inner=4, appended=(2,), groups=2, stem_width=4,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> net(jnp.ones((2, 32, 32, 3))).shape
      (2, 10)

    Reference:
      Chen et al. 2017, "Dual Path Networks", table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        depths: Sequence[int] = (3, 4, 20, 3),
        widths: Sequence[int] = (256, 512, 1024, 2048),
        inner: int = 96,
        appended: Sequence[int] = (16, 32, 24, 128),
        groups: int = 32,
        stem_width: int = 64,
        stem_size: int = 7,
        norm: str | Norm = "batch",
        activation: str | Activation = "relu",
        gain: float | Array | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not len(depths) == len(widths) == len(appended) > 0:
            raise ValueError(
                "depths, widths and appended must have one entry for each stage; got "
                f"{depths}, {widths}, {appended}"
            )
        sizes = {"in_channels": in_channels, "num_classes": num_classes, "stem_width": stem_width}
        sizes |= {"depths": min(depths), "widths": min(widths), "appended": min(appended)}
        at_least_one("groups", groups)
        if inner < 1 or inner % groups:
            raise ValueError(f"inner must be a multiple of groups={groups}; got {inner}")
        if stem_size < 1 or stem_size % 2 == 0:
            raise ValueError(f"stem_size must be odd; got {stem_size}")
        if norm == "batch":
            norm = functools.partial(BatchNorm, epsilon=1e-3, param_dtype=param_dtype)
        wiring = _wired(sizes, norm, activation, gain, param_dtype)
        start = _stem(in_channels, stem_width, "imagenet", stem_size, wiring, rngs)
        layers: dict[str, nnx.Module] = {}
        channels = stem_width
        for stage, (depth, width, more) in enumerate(zip(depths, widths, appended, strict=True)):
            for number in range(depth):
                first = number == 0
                layers[f"stage{stage + 1}.{number + 1}"] = _DualPath(
                    channels,
                    inner * 2**stage,
                    width,
                    more,
                    wiring,
                    groups=groups,
                    stride=2 if first and stage else 1,
                    first=first,
                    rngs=rngs,
                )
                channels = width + 3 * more if first else channels + more
        head = _Head(channels, num_classes, wiring, rngs=rngs)
        super().__init__(start, layers, head, dtype)


def _wired(
    sizes: dict[str, int],
    norm: str | Norm,
    activation: str | Activation,
    gain: float | Array | None,
    param_dtype: DTypeLike,
) -> Wiring:
    """The choices that both networks have, after a look at their sizes."""
    for name, size in sizes.items():
        at_least_one(name, size)
    return Wiring(norm=norm, activation=activation, gain=gain, param_dtype=param_dtype)


def _stem(
    inputs: int, outputs: int, kind: str, size: int, wiring: Wiring, rngs: nnx.Rngs
) -> nnx.Module:
    """The first convolution; for large images of stride 2, with norm, activation and maximum."""
    large = kind == "imagenet"

    def make(inputs: int, outputs: int, **options: Any) -> Conv:
        return Conv(inputs, outputs, size=size if large else 3, stride=2 if large else 1, **options)

    layers = [Layer(make, inputs, outputs)]
    return Stem(layers, wiring, finish=large, gain=1.0, pool=large, rngs=rngs)
