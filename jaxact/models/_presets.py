"""Networks by name."""

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxact import activations
from jaxact.models._dense import DenseNet, DualPathNet
from jaxact.models._invertible import IResNet
from jaxact.models._one_neuron import OneNeuronResNet
from jaxact.models._resnet import ConvResNet, MLPResNet, ResNet
from jaxact.models._reversible import RevNet

Preset = tuple[Callable[..., Any], dict[str, Any]]

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
_WRN = re.compile(r"wrn_(\d+)_(\d+)")


def _imagenet(depth: int, **options: Any) -> Preset:
    block = "basic" if depth < 50 else "bottleneck"
    return ResNet, {"block": block, "depths": _DEPTHS[depth], **options}


def _wide(depth: int, width: int) -> Preset:
    """WRN-d-k of Zagoruyko & Komodakis 2016, two 3x3 convolutions a block."""
    if depth % 6 != 4 or depth < 10 or width < 1:
        raise ValueError(
            f"name must be wrn_d_k with d = 6 n + 4 and k at least 1; got 'wrn_{depth}_{width}'"
        )
    options = _CIFAR | {"widths": (16 * width, 32 * width, 64 * width), "stem_width": 16}
    blocks = ((depth - 4) // 6,) * 3
    return ResNet, {"block": "basic", "norm_placement": "pre", "depths": blocks, **options}


def _table() -> dict[str, Preset]:
    table: dict[str, Preset] = {
        "resnet": (ResNet, {}),
        "mlp_resnet": (MLPResNet, {}),
        "conv_resnet": (ConvResNet, {}),
        "densenet": (DenseNet, {}),
        "dual_path_net": (DualPathNet, {}),
        "revnet": (RevNet, {}),
        "one_neuron_resnet": (OneNeuronResNet, {}),
        "i_resnet": (IResNet, {}),
    }
    for depth in _DEPTHS:
        for suffix, options in _VARIANTS.items():
            if depth >= 50 or suffix not in ("_v1", "b"):
                table[f"resnet{depth}{suffix}"] = _imagenet(depth, **options)
    for depth in (50, 101):
        table[f"wide_resnet{depth}_2"] = _imagenet(depth, base_width=128)
        normalizer_free: dict[str, Any] = dict(
            norm="none",
            norm_placement="none",
            skip="normalizer_free",
            weights="scaled_standardized",
        )
        table[f"nf_resnet{depth}"] = _imagenet(depth, **normalizer_free)
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        options = dict(groups=groups, base_width=width)
        table[f"resnext{depth}_{groups}x{width}d"] = _imagenet(depth, **options)
        table[f"seresnext{depth}_{groups}x{width}d"] = _imagenet(
            depth, squeeze_excitation=16, **options
        )
    for depth in (18, 34, 50, 101, 152):
        table[f"seresnet{depth}"] = _imagenet(depth, squeeze_excitation=16)
    for depth, width, scale in sorted(_RES2NET):
        table[f"res2net{depth}_{width}w_{scale}s"] = _imagenet(
            depth, base_width=width, res2net_scale=scale
        )
    for depth in (20, 32, 44, 56, 110, 1202):
        options = _CIFAR | {"depths": ((depth - 2) // 6,) * 3, "shortcut": "A"}
        table[f"cifar_resnet{depth}"] = ResNet, {"block": "basic", **options}
    for depth, block, layers in (
        (110, "basic", 6),
        (164, "bottleneck", 9),
        (1001, "bottleneck", 9),
    ):
        options = _CIFAR | {"depths": ((depth - 2) // layers,) * 3}
        table[f"cifar_preact_resnet{depth}"] = (
            ResNet,
            {"block": block, "norm_placement": "pre", **options},
        )
    for depth, width in ((16, 4), (16, 8), (28, 2), (28, 10), (40, 2), (40, 4), (40, 8)):
        table[f"wrn_{depth}_{width}"] = _wide(depth, width)
    for depths, growth, stem_width in (
        ((6, 12, 24, 16), 32, 64),
        ((6, 12, 32, 32), 32, 64),
        ((6, 12, 48, 32), 32, 64),
        ((6, 12, 36, 24), 48, 96),
    ):
        layers = 2 * sum(depths) + 5
        options = dict(depths=depths, growth=growth, stem_width=stem_width)
        table[f"densenet{layers}"] = DenseNet, options
    for layers, growth in ((100, 12), (250, 24), (190, 40)):
        options = dict(depths=((layers - 4) // 6,) * 3, growth=growth, stem="cifar")
        table[f"cifar_densenet{layers}_{growth}"] = DenseNet, {"num_classes": 10, **options}
    table |= {
        "dpn68": (
            DualPathNet,
            dict(
                depths=(3, 4, 12, 3),
                widths=(64, 128, 256, 512),
                inner=128,
                appended=(16, 32, 32, 64),
                stem_width=10,
                stem_size=3,
            ),
        ),
        "dpn92": (DualPathNet, {}),
    }
    for name, depths, stem_width in (("dpn98", (3, 6, 20, 3), 96), ("dpn131", (4, 8, 28, 3), 128)):
        options = dict(depths=depths, inner=160, appended=(16, 32, 32, 128), groups=40)
        table[name] = DualPathNet, {"stem_width": stem_width, **options}
    table |= {
        "cifar_revnet38": (RevNet, {}),
        "cifar_revnet110": (RevNet, {"depths": (9, 9, 9), "widths": (32, 64, 128)}),
    }
    return table


_PRESETS = _table()


def presets() -> tuple[str, ...]:
    """The names that `create` knows, sorted.

    ``wrn_d_k`` stands for every Wide ResNet of depth d = 6 n + 4 and width k, listed or not.

    Example:
      >>> [name for name in presets() if name.startswith("resnet50")]
      ['resnet50', 'resnet50_v1', 'resnet50_v2', 'resnet50b', 'resnet50c', 'resnet50d']
    """
    return tuple(sorted(_PRESETS))


def create(name: str, /, *, rngs: nnx.Rngs, **overrides: Any) -> Any:
    """A network by name, freshly initialized, in training mode.

    ``docs/models.md`` lists the names with their sources and parameter counts. A bare family name
    (``"resnet"``, ``"mlp_resnet"``, ...) is its class with its own defaults. The network keeps what
    it was made of, so that `save` can write it.

    Args:
      name: one of `presets`.
      rngs: Flax's PRNG keys.
      overrides: arguments of the network's class that are to differ from the preset's, such as
        ``num_classes=10``, ``norm_placement="pre"``, ``activation="gelu"``.

    Returns:
      The network: a `ResNet`, `DenseNet`, `DualPathNet`, `RevNet`, ...

    Raises:
      ValueError: if the name is unknown (the nearest ones are given), or a choice is refused.
      TypeError: if the class has no such argument.

    Example:
      >>> sizes = dict(in_features=4, out_features=3, width=8, depth=100)
      >>> net = create("mlp_resnet", **sizes, norm_placement="post", rngs=nnx.Rngs(0))
      >>> net(jnp.ones((2, 4))).shape
      (2, 3)

      Under `nnx.eval_shape` nothing is computed; here the width of ResNet-50's features:

      >>> net = nnx.eval_shape(lambda: create("resnet50", activation="silu", rngs=nnx.Rngs(0)))
      >>> net.head.linear.kernel.get_value().shape
      (2048, 1000)
    """
    make, options = _find(name)
    network = make(**options | overrides, rngs=rngs)
    network.made_of = json.dumps({"preset": name, "overrides": _plain(overrides)})
    return network


def recreate(made_of: str, /, *, rngs: nnx.Rngs, **changes: Any) -> Any:
    """The network again, from what `create` wrote into ``made_of``."""
    given = json.loads(made_of)
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in given["overrides"].items()}
    unnamed = [k for k, v in overrides.items() if isinstance(v, dict) and k not in changes]
    if unnamed:
        raise ValueError(
            f"the network was made with {', '.join(unnamed)} that have no name; give them again as "
            "keyword arguments"
        )
    return create(given["preset"], rngs=rngs, **overrides | changes)


def _find(name: str) -> Preset:
    if name in _PRESETS:
        return _PRESETS[name]
    wide = _WRN.fullmatch(name)
    if wide:
        return _wide(int(wide[1]), int(wide[2]))
    near = difflib.get_close_matches(name, _PRESETS, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"unknown preset {name!r}{hint}; see jaxact.models.presets()")


def _plain(overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides as JSON values; what has no name becomes an object that says so."""
    return {name: _as_json(value) for name, value in overrides.items()}


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(
        isinstance(v, bool | int | float | str) for v in value
    ):
        return list(value)
    name = getattr(value, "__name__", "")
    if name in activations.names() and activations.get(name) is value:
        return name
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        return value.item()
    try:
        return jnp.dtype(value).name
    except TypeError:
        return {"unnamed": repr(value)}
