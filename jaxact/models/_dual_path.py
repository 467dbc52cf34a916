"""Dual path networks: a residual stream and one that grows, in one network."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from jaxact._checks import whole
from jaxact.models._config import Activation, BlockConfig
from jaxact.models._densenet import (
    ClassifierHead,
    Concatenating,
    Unit,
    config_of,
    first_convolution,
)
from jaxact.models._norms import BatchNorm, Norm
from jaxact.models._registry import register


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
        config: BlockConfig,
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
            project = Unit(inputs, outputs, config, size=1, stride=stride, rngs=rngs)
        self.project = project
        self.reduce = Unit(inputs, inner, config, size=1, rngs=rngs)
        self.spatial = Unit(inner, inner, config, groups=groups, stride=stride, rngs=rngs)
        self.expand = Unit(inner, added + appended, config, size=1, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        skip = x if self.project is None else self.project(x)
        h = self.expand(self.spatial(self.reduce(x)))
        residual = skip[..., : self.added] + h[..., : self.added]
        return jnp.concatenate([residual, skip[..., self.added :], h[..., self.added :]], -1)


class DualPathNet(Concatenating):
    """A dual path network for images, NHWC: residual in one part of the channels, dense in another.

    Each bottleneck adds to the first channels, as in ResNeXt, and appends to the last, as in
    DenseNet. As there, no two blocks of a stage have one shape, and compile time grows with depth.

    Args:
      in_channels: of an image.
      num_classes: logits; with 0 a call gives the pooled features.
      depths: blocks of each stage.
      widths: channels of each stage that are added to.
      inner: channels inside a bottleneck of the first stage; twice as many in each next one.
      appended: channels that each block of a stage appends.
      groups: of the 3x3 convolutions.
      stem_width: channels out of the stem, a convolution of stride 2 and a 3x3 maximum.
      stem_size: of that convolution, odd.
      norm: as in `BlockConfig`; ``"batch"`` has epsilon 1e-3 here, as the authors' networks do.
      activation: as in `BlockConfig`.
      gain: as in `BlockConfig`.
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
        sizes = {"in_channels": in_channels, "stem_width": stem_width}
        sizes |= {"depths": min(depths), "widths": min(widths), "appended": min(appended)}
        whole("groups", groups)
        if inner < 1 or inner % groups:
            raise ValueError(f"inner must be a multiple of groups={groups}; got {inner}")
        if stem_size < 1 or stem_size % 2 == 0:
            raise ValueError(f"stem_size must be odd; got {stem_size}")
        if norm == "batch":
            norm = functools.partial(BatchNorm, epsilon=1e-3, param_dtype=param_dtype)
        config = config_of(sizes, norm, activation, gain, param_dtype)
        start = first_convolution(in_channels, stem_width, "imagenet", stem_size, config, rngs)
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
                    config,
                    groups=groups,
                    stride=2 if first and stage else 1,
                    first=first,
                    rngs=rngs,
                )
                channels = width + 3 * more if first else channels + more
        head = ClassifierHead(channels, num_classes, config, rngs=rngs)
        super().__init__(start, layers, head, dtype)


register(
    DualPathNet,
    {
        "dual_path_net": {},
        "dpn68": dict(
            depths=(3, 4, 12, 3), widths=(64, 128, 256, 512), inner=128,
            appended=(16, 32, 32, 64), stem_width=10, stem_size=3,
        ),
        "dpn92": {},
        "dpn98": dict(
            depths=(3, 6, 20, 3), inner=160, appended=(16, 32, 32, 128), groups=40, stem_width=96,
        ),
        "dpn131": dict(
            depths=(4, 8, 28, 3), inner=160, appended=(16, 32, 32, 128), groups=40, stem_width=128,
        ),
    },
)  # fmt: skip
