"""Image networks of stages by the names of their papers."""

import itertools
from typing import Any

from jaxact.models._registry import register
from jaxact.models._resnet import ConvResNet, MLPResNet, ResNet

Options = dict[str, Any]

_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# what He et al. 2018 ("Bag of Tricks", sec. 4.1) and its successors call the variants
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "_v1": {"stride_at": "1x1"},
    "_v2": {"norm_placement": "pre"},
    "b": {},
    "c": {"stem": "deep"},
    "d": {"stem": "deep", "pool_shortcut": True},
}
_RES2NET = {(50, 26, 4), (50, 14, 8), (50, 48, 2), (101, 26, 4)}
_CIFAR = dict(widths=(16, 32, 64), strides=(1, 2, 2), stem="cifar", num_classes=10)


def _imagenet(depth: int, **options: Any) -> Options:
    block = "basic" if depth < 50 else "bottleneck"
    return {"block": block, "depths": _DEPTHS[depth], **options}


def _wide(depth: int, width: int) -> Options:
    """WRN-d-k of Zagoruyko & Komodakis 2016, two 3x3 convolutions a block."""
    if depth % 6 != 4 or depth < 10 or width < 1:
        raise ValueError(
            f"name must be wrn_d_k with d = 6 n + 4 and k at least 1; got 'wrn_{depth}_{width}'"
        )
    options = _CIFAR | {"widths": (16 * width, 32 * width, 64 * width), "stem_width": 16}
    blocks = ((depth - 4) // 6,) * 3
    return {"block": "basic", "norm_placement": "pre", "depths": blocks, **options}


def _imagenet_table() -> dict[str, Options]:
    table: dict[str, Options] = {"resnet": {}}
    for depth, (suffix, options) in itertools.product(_DEPTHS, _VARIANTS.items()):
        if depth >= 50 or suffix not in ("_v1", "b"):
            table[f"resnet{depth}{suffix}"] = _imagenet(depth, **options)
    for depth in (50, 101):
        table[f"wide_resnet{depth}_2"] = _imagenet(depth, base_width=128)
        table[f"nf_resnet{depth}"] = _imagenet(
            depth,
            norm_placement="norm_free",
            skip="normalizer_free",
            weights="scaled_standardized",
        )
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        options = _imagenet(depth, groups=groups, base_width=width)
        table[f"resnext{depth}_{groups}x{width}d"] = options
        table[f"seresnext{depth}_{groups}x{width}d"] = {**options, "squeeze_excitation": 16}
    for depth in (18, 34, 50, 101, 152):
        table[f"seresnet{depth}"] = _imagenet(depth, squeeze_excitation=16, squeeze_divisor=8)
    for depth, width, scale in sorted(_RES2NET):
        options = _imagenet(depth, base_width=width, res2net_scale=scale)
        table[f"res2net{depth}_{width}w_{scale}s"] = options
    return table


def _cifar_table() -> dict[str, Options]:
    table = {}
    for depth in (20, 32, 44, 56, 110, 1202):
        blocks = ((depth - 2) // 6,) * 3
        table[f"cifar_resnet{depth}"] = {
            **_CIFAR, "block": "basic", "depths": blocks, "shortcut": "A",
        }  # fmt: skip
    for depth, block, layers in (
        (110, "basic", 6),
        (164, "bottleneck", 9),
        (1001, "bottleneck", 9),
    ):
        blocks = ((depth - 2) // layers,) * 3
        table[f"cifar_preact_resnet{depth}"] = {
            **_CIFAR, "block": block, "depths": blocks, "norm_placement": "pre",
        }  # fmt: skip
    for depth, width in ((16, 4), (16, 8), (28, 2), (28, 10), (40, 2), (40, 4), (40, 8)):
        table[f"wrn_{depth}_{width}"] = _wide(depth, width)
    return table


register(ResNet, _imagenet_table() | _cifar_table(), series={r"wrn_(\d+)_(\d+)": _wide})
register(MLPResNet, {"mlp_resnet": {}})
register(ConvResNet, {"conv_resnet": {}})
