"""DenseNet, and what networks that concatenate share."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from jaxact._checks import one_of, whole
from jaxact._compat import module_list
from jaxact.models._block import Layer
from jaxact.models._config import Activation, BlockConfig
from jaxact.models._family import Part, Parts
from jaxact.models._layers import Conv, Dense, average_pool
from jaxact.models._norms import Norm
from jaxact.models._parts import Stem
from jaxact.models._registry import register


class Unit(nnx.Module):
    """Norm, activation, convolution."""

    def __init__(
        self, inputs: int, outputs: int, config: BlockConfig, *, rngs: nnx.Rngs, **convolution: int
    ):
        self.norm = config.make_norm(inputs, rngs)
        self.activation = config.make_activation(inputs, rngs)
        self.layer = Conv(inputs, outputs, **convolution, **config.layer_options(), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        return self.layer(self.activation(self.norm(x)))


class ClassifierHead(nnx.Module):
    """Norm, activation, mean over positions, logits."""

    def __init__(self, features: int, outputs: int, config: BlockConfig, *, rngs: nnx.Rngs):
        self.norm = config.make_norm(features, rngs)
        self.activation = config.make_activation(features, rngs)
        whole("num_classes", outputs, 0)
        options = config.layer_options(gain=1.0) | {"bias": True, "weights": None}
        self.linear = Dense(features, outputs, **options, rngs=rngs) if outputs else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n o"]:
        x = self.pooled(x)
        return x if self.linear is None else self.linear(x)

    def pooled(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        """The features from which the logits are made."""
        return jnp.mean(self.activation(self.norm(x)), (1, 2))


class _DenseLayer(nnx.Module):
    """[x, W_2 a(N(W_1 a(N x)))]: a bottleneck whose output is appended."""

    def __init__(
        self, inputs: int, growth: int, inner: int, config: BlockConfig, *, rngs: nnx.Rngs
    ):
        self.reduce = Unit(inputs, inner, config, size=1, rngs=rngs)
        self.grow = Unit(inner, growth, config, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
        return jnp.concatenate([x, self.grow(self.reduce(x))], -1)


class _Transition(nnx.Module):
    """A 1 x 1 convolution to fewer channels, and means of 2 x 2 positions."""

    def __init__(self, inputs: int, outputs: int, config: BlockConfig, *, rngs: nnx.Rngs):
        self.reduce = Unit(inputs, outputs, config, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        x = self.reduce(x)
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        return average_pool(x[:, :height, :width], 2)


class Concatenating(Parts):
    """A stem, layers that each see all that those before them put out, a head."""

    def __init__(
        self, stem: nnx.Module, layers: dict[str, nnx.Module], head: nnx.Module, dtype: Any
    ):
        self.dtype = dtype
        self.stem = stem
        self.names = tuple(layers)
        self.layers = module_list(list(layers.values()))
        self.head = head

    def parts(self) -> list[Part]:
        """Stem, layers, head."""
        layers = zip(self.names, self.layers, strict=True)
        return [Part("stem", self.stem), *(Part(*p) for p in layers), Part("head", self.head)]


def config_of(
    sizes: dict[str, int],
    norm: str | Norm,
    activation: str | Activation,
    gain: float | Array | None,
    param_dtype: DTypeLike,
) -> BlockConfig:
    """The choices that both networks have, after a look at their sizes."""
    for name, size in sizes.items():
        whole(name, size)
    return BlockConfig(norm=norm, activation=activation, gain=gain, param_dtype=param_dtype)


def first_convolution(
    inputs: int, outputs: int, kind: str, size: int, config: BlockConfig, rngs: nnx.Rngs
) -> nnx.Module:
    """The first convolution; for large images of stride 2, with norm, activation and maximum."""
    large = kind == "imagenet"

    def make(inputs: int, outputs: int, **options: Any) -> Conv:
        return Conv(inputs, outputs, size=size if large else 3, stride=2 if large else 1, **options)

    layers = [Layer(make, inputs, outputs)]
    return Stem(layers, config, finish=large, gain=1.0, pool=large, rngs=rngs)


class DenseNet(Concatenating):
    """A densely connected network for images, NHWC, with bottlenecks and compression (DenseNet-BC).

    In a dense block each layer sees the outputs of all before it, concatenated. The channels grow
    with every layer, so that no two layers have one shape; they are not stacked, and compile time
    grows with depth.

    Args:
      in_channels: of an image.
      num_classes: logits; with 0 a call gives the pooled features.
      depths: layers of each dense block.
      growth: channels that a layer adds.
      stem: ``"imagenet"``, 7x7 of stride 2 and a 3x3 maximum, or ``"cifar"``, one 3x3 convolution.
      stem_width: channels out of the stem; twice the growth if None.
      bottleneck: channels inside a layer over the growth.
      compression: channels after a transition over those before, above 0 and at most 1.
      norm: as in `BlockConfig`.
      activation: as in `BlockConfig`.
      gain: as in `BlockConfig`.
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
        sizes = {"in_channels": in_channels, "growth": growth}
        sizes |= {"bottleneck": bottleneck, "depths": min(depths)}
        one_of("stem", stem, ("imagenet", "cifar"))
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1; got {compression}")
        config = config_of(sizes, norm, activation, gain, param_dtype)
        channels = 2 * growth if stem_width is None else stem_width
        start = first_convolution(in_channels, channels, stem, 7, config, rngs)
        layers: dict[str, nnx.Module] = {}
        for block, depth in enumerate(depths, 1):
            if block > 1:
                reduced = int(channels * compression)
                layers[f"transition{block - 1}"] = _Transition(channels, reduced, config, rngs=rngs)
                channels = reduced
            for layer in range(1, depth + 1):
                layers[f"block{block}.{layer}"] = _DenseLayer(
                    channels, growth, bottleneck * growth, config, rngs=rngs
                )
                channels += growth
        head = ClassifierHead(channels, num_classes, config, rngs=rngs)
        super().__init__(start, layers, head, dtype)


def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {"densenet": {}}
    for depths, growth, stem_width in (
        ((6, 12, 24, 16), 32, 64),
        ((6, 12, 32, 32), 32, 64),
        ((6, 12, 48, 32), 32, 64),
        ((6, 12, 36, 24), 48, 96),
    ):
        layers = 2 * sum(depths) + 5
        table[f"densenet{layers}"] = dict(depths=depths, growth=growth, stem_width=stem_width)
    for layers, growth in ((100, 12), (250, 24), (190, 40)):
        options = dict(depths=((layers - 4) // 6,) * 3, growth=growth, stem="cifar")
        table[f"cifar_densenet{layers}_{growth}"] = {"num_classes": 10, **options}
    return table


register(DenseNet, _table())
