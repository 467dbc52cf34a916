"""State dicts of torchvision and timm, in and out."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from jaxact import io
from jaxact._compat import value_of
from jaxact.models._densenet import DenseNet
from jaxact.models._dual_path import DualPathNet
from jaxact.models._layers import SCALED_EPSILON, Constant
from jaxact.models._registry import create
from jaxact.models._resnet import ResNet
from jaxact.models._stage import fresh

AnyNetwork = TypeVar("AnyNetwork", bound=nnx.Module)
Source = str | pathlib.Path | Mapping[str, Shaped[np.ndarray, "..."] | Shaped[Array, "..."]]
Path = tuple[Any, ...]

_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_HEADS = ("fc.", "classifier.", "head.fc.")
_DEEP_STEM = (("conv1.0", "conv1.3", "conv1.6"), ("conv1.1", "conv1.4", "bn1"))
_NF_GAMMA, _NF_EPSILON = 1.7139588594436646, 1e-5  # of timm's relu and standardized weights
_DUAL_PATH = {"reduce": "c1x1_a", "spatial": "c3x3_b", "expand": "c1x1_c"}


class _Entry(NamedTuple):
    """One array of a state dict.

    Attributes:
      key: its name there.
      path: of our variable.
      index: along the depth axis of a stacked variable, or None.
      shape: there.
      flat: whether it is a 1 x 1 convolution there, and a dense layer here.
    """

    key: str
    path: Path
    index: int | None
    shape: tuple[int, ...]
    flat: bool


def load_torchvision(
    network: AnyNetwork | str, source: Source, /, *, head: bool = True
) -> AnyNetwork:
    """A network with the weights of a state dict in torchvision's names.

    For `ResNet` of the placement ``original`` (wide and grouped too; basic and bottleneck) and
    `DenseNet`. Norms keep our epsilon, 1e-5, which is torchvision's.

    Args:
      network: of the same architecture, such as ``create("resnet50", rngs=...)``; it is not
        changed. Inside ``nnx.eval_shape(lambda: create(...))`` it costs no initialization. Or a
        name that `create` takes, for that network as it is by default.
      source: a file that `jaxact.io.read_arrays` reads (``.safetensors``, ``.pth``, ...; nothing
        pickled is run), or its arrays. Wrappings (``state_dict.``, ``model.``, ``module.``) are
        taken off, and ``num_batches_tracked`` is passed over.
      head: whether the last layer is loaded too; without it, as for another number of classes, it
        stays as it is.

    Returns:
      A new network, in the given one's dtypes, stacked or unrolled as that is.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the architecture has no names there, or arrays are missing, left over or of
        another shape; all of them are listed.

    Example:
      >>> from jaxact import models
      >>> small = dict(depths=(1,), widths=(8,), strides=(1,))
      >>> net = models.create("resnet18", **small, rngs=nnx.Rngs(0))
      >>> state = models.to_torchvision(net)
      >>> state["conv1.weight"].shape
      (8, 3, 7, 7)
      >>> same = models.load_torchvision(net, state)
    """
    return _load(network, source, "torchvision", head)


def load_timm(network: AnyNetwork | str, source: Source, /, *, head: bool = True) -> AnyNetwork:
    """A network with the weights of a state dict in timm's names.

    For all that `load_torchvision` takes, deep stems, pooled shortcuts, squeeze-and-excitation and
    Res2Net (timm's ``resnet``), pre-activation `ResNet` (its ``resnetv2`` with batch norms),
    `DualPathNet` (its ``dpn``, whose norms have epsilon 1e-3) and normalizer-free bottlenecks with
    relu (its ``nf_resnet``, whose shortcuts pool: ``create("nf_resnet50", pool_shortcut=True)``).
    timm divides standardized weights by sqrt(variance + 1e-5), and takes 1.71396 for relu's gain:
    both go into the learned gains, so that the functions are the same, and gains come back to
    rounding. Gradients differ along one direction: timm leaves the share
    1e-5 / (variance + 1e-5) of a gradient's part along its kernel, where ours leaves none.
    Arguments, result and errors are those of `load_torchvision`.
    """
    return _load(network, source, "timm", head)


def to_torchvision(network: nnx.Module, /) -> dict[str, np.ndarray]:
    """A network's weights as a state dict in torchvision's names and layouts.

    Args:
      network: as `load_torchvision` takes it.

    Returns:
      Arrays by name, which `jaxact.io.write_safetensors` writes; PyTorch's ``load_state_dict``
      takes them after ``torch.from_numpy``.

    Raises:
      ValueError: if the architecture has no names there.
    """
    return _export(network, "torchvision")


def to_timm(network: nnx.Module, /) -> dict[str, np.ndarray]:
    """A network's weights as a state dict in timm's names and layouts; see `to_torchvision`."""
    return _export(network, "timm")


def _load(network: Any, source: Source, library: str, head: bool) -> Any:
    if isinstance(network, str):
        network = create(network, rngs=nnx.Rngs(0))
    variables = _variables(network)
    entries = _entries(network, variables, library)
    given = _unwrapped(source)
    if not head:
        entries = [e for e in entries if not e.key.startswith(_HEADS)]
        given = {k: v for k, v in given.items() if not k.startswith(_HEADS)}
    _check(entries, given)
    found: dict[Path, dict[int | None, np.ndarray]] = {}
    constants = _constants(network)
    for entry in entries:
        value = np.asarray(given[entry.key])
        if entry.key.endswith(".gain"):
            kernel = np.asarray(given[entry.key.removesuffix("gain") + "weight"])
            gamma = constants[(*entry.path[:-1], "gamma")]
            value = value.ravel() * _gain_ratio(kernel, _at(gamma, entry.index))
        found.setdefault(entry.path, {})[entry.index] = _ours(value, entry)
    values = []
    for path, parts in found.items():
        whole = parts[None] if None in parts else np.stack([parts[i] for i in range(len(parts))])
        variable = variables[path]
        values.append(
            (path, variable.replace(jnp.asarray(np.array(whole), value_of(variable).dtype)))
        )
    loaded = fresh(network)
    values += [(path, Constant(value)) for path, value in constants.items()]
    nnx.update(loaded, nnx.from_flat_state(values))
    return loaded


def _export(network: nnx.Module, library: str) -> dict[str, np.ndarray]:
    variables = _variables(network)
    values = {path: np.asarray(variable[...]) for path, variable in variables.items()}
    constants = _constants(network)
    state = {}
    for entry in _entries(network, variables, library):
        value = _theirs(_at(values[entry.path], entry.index), entry)
        if entry.key.endswith(".gain"):
            # the kernel is written before its gain
            kernel = state[entry.key.removesuffix("gain") + "weight"]
            gamma = _at(constants[(*entry.path[:-1], "gamma")], entry.index)
            value = (value / _gain_ratio(kernel, gamma)).astype(value.dtype).reshape(entry.shape)
        state[entry.key] = value
    return state


def _at(value: Any, index: int | None) -> Any:
    return value if index is None else value[index]


def _constants(network: nnx.Module) -> dict[Path, Array]:
    """What no optimizer trains, made anew where the network has placeholders."""
    state = nnx.state(network, Constant)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state)):
        make: Any = type(network)
        config = getattr(network, "config", None)
        # under jit only what is asked for is computed: no kernel is drawn
        state = jax.jit(lambda: nnx.state(make(config, rngs=nnx.Rngs(0)), Constant))()
    return {path: variable[...] for path, variable in nnx.to_flat_state(state)}


def _gain_ratio(kernel: Shaped[np.ndarray, "o i h w"], gamma: Any) -> Shaped[np.ndarray, " o"]:
    """Our gains over timm's, for the same weights: the two guard the variance differently."""
    rows = kernel.reshape(len(kernel), -1).astype(np.float64)
    fan_in, variance = rows.shape[1], rows.var(axis=1)
    ours = np.maximum(fan_in * variance, SCALED_EPSILON)
    return _NF_GAMMA / float(gamma) * np.sqrt(ours / (fan_in * (variance + _NF_EPSILON)))


def _variables(network: nnx.Module) -> dict[Path, Any]:
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    return dict(nnx.to_flat_state(nnx.state(network, kinds)))


def _unwrapped(source: Source) -> dict[str, Any]:
    arrays = io.read_arrays(source) if isinstance(source, str | pathlib.Path) else source
    given = dict(arrays)
    for prefix in ("state_dict.", "model."):
        wrapped = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        given = wrapped or given
    if given and all(key.startswith("module.") for key in given):
        given = {key.removeprefix("module."): value for key, value in given.items()}
    return {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}


def _check(entries: list[_Entry], given: Mapping[str, Any]) -> None:
    wanted = {entry.key: entry.shape for entry in entries}
    missing = [key for key in wanted if key not in given]
    extra = [key for key in given if key not in wanted]
    misshapen = [
        f"{key} is {tuple(given[key].shape)} where {shape} is needed"
        for key, shape in wanted.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    lists = {"missing": missing, "left over": extra, "misshapen": misshapen}
    wrong = [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]
    if wrong:
        raise ValueError(f"source does not fit the network; {'; '.join(wrong)}")


def _entries(network: nnx.Module, variables: Mapping[Path, Any], library: str) -> list[_Entry]:
    """Every array of the state dict, with the variable that holds it."""
    name = _naming(network, library)
    entries = []
    for path, variable in variables.items():
        stacked = "rest" in path
        whole = value_of(variable).shape
        shape = whole[stacked:]
        indices = range(whole[0]) if stacked else [None]
        for index in indices:
            owner = name(path[:-1], index)
            leaf = "weight" if path[-1] == "kernel" else _LEAVES.get(path[-1])
            if "weights" in path:
                leaf = "gain"
            if owner is None or leaf is None:
                raise ValueError(
                    f"network must be one that {library} has; it has no name for "
                    f"{'.'.join(map(str, path))}"
                )
            # timm's gates, and the heads of its pre-activation and dual path networks
            dual = isinstance(network, DualPathNet) and path[0] == "head"
            preact = owner == "head.fc" and not _normalizer_free(network)
            flat = "excite" in path or preact or dual
            shape_there = _their_shape(shape, path, flat)
            entries.append(_Entry(f"{owner}.{leaf}", path, index, shape_there, flat))
    return entries


def _their_shape(shape: tuple[int, ...], path: Path, flat: bool) -> tuple[int, ...]:
    if "weights" in path:
        return (*shape, 1, 1, 1)
    if path[-1] != "kernel":
        return shape
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return (shape[1], shape[0], 1, 1) if flat else (shape[1], shape[0])


def _ours(value: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.path[-1] != "kernel":
        return value
    if value.ndim == 4 and not entry.flat:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(value.shape[:2]).T


def _theirs(value: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.path[-1] != "kernel":
        return value.copy()
    theirs = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(theirs).reshape(entry.shape)


def _naming(network: nnx.Module, library: str) -> Callable[[Path, int | None], str | None]:
    """``name(path of a layer, index in the stack) -> its name there``, None where there is none."""
    if isinstance(network, DenseNet):
        return lambda path, _: _dense_name(network, path)
    if isinstance(network, DualPathNet) and library == "timm":
        return lambda path, _: _dual_path_name(network, path)
    if isinstance(network, ResNet):
        placement = network.config.norm_placement
        if placement == "original":
            return lambda path, index: _resnet_name(network, path, index, library)
        if placement == "pre" and library == "timm":
            return lambda path, index: _preact_name(network, path, index)
        if _normalizer_free(network) and library == "timm":
            return lambda path, index: _normalizer_free_name(network, path, index)
    raise ValueError(
        f"network must be one that {library} has, such as create('resnet50'), or for timm "
        f"create('nf_resnet50', pool_shortcut=True); got a {type(network).__name__}"
        + (f" with norm_placement={placement!r}" if isinstance(network, ResNet) else "")
    )


def _block(network: ResNet, path: Path, index: int | None) -> tuple[int, int, Path]:
    """Stage, block, and path in the block."""
    stage = path[1]
    if path[2] == "first":
        return stage, 0, path[3:]
    if path[2] == "rest":
        return stage, int(network.stages[stage].leads) + (index or 0), path[3:]
    return stage, path[3], path[4:]


def _resnet_name(network: ResNet, path: Path, index: int | None, library: str) -> str | None:
    config = network.config
    if path[0] == "stem":
        if config.stem != "deep":
            return {"layers": "conv1", "norms": "bn1"}.get(path[1])
        return _DEEP_STEM[path[1] == "norms"][path[2]] if library == "timm" else None
    if path[0] == "head":
        return "fc" if path[1] == "linear" else None
    stage, block, inner = _block(network, path, index)
    prefix = f"layer{stage + 1}.{block}"
    extended = library == "timm"
    match inner:
        case ("layers", int(i)):
            return f"{prefix}.conv{i + 1}"
        case ("norms", int(i)):
            return f"{prefix}.bn{i + 1}"
        case ("layers", 1, "layers", int(i)) if extended:
            return f"{prefix}.convs.{i}"
        case ("layers", 1, "norms", int(i)) if extended:
            return f"{prefix}.bns.{i}"
        case ("shortcut", ("layer" | "norm") as part) if extended or not config.pool_shortcut:
            return f"{prefix}.downsample.{config.pool_shortcut + (part == 'norm')}"
        case ("excite", ("reduce" | "expand") as part) if extended:
            return f"{prefix}.se.{'fc1' if part == 'reduce' else 'fc2'}"
    return None


def _preact_name(network: ResNet, path: Path, index: int | None) -> str | None:
    if path[0] == "stem":
        return "stem.conv" if path[1] == "layers" and network.config.stem != "deep" else None
    if path[0] == "head":
        return {"linear": "head.fc", "norm": "norm"}.get(path[1])
    stage, block, inner = _block(network, path, index)
    prefix = f"stages.{stage}.blocks.{block}"
    match inner:
        case ("layers", int(i)):
            return f"{prefix}.conv{i + 1}"
        case ("norms", int(i)):
            return f"{prefix}.norm{i + 1}"
        case ("shortcut", "layer"):
            return f"{prefix}.downsample.conv"
    return None


def _normalizer_free(network: nnx.Module) -> bool:
    """Whether it is one of timm's ``nf_resnet``."""
    if not isinstance(network, ResNet):
        return False
    config = network.config
    return (
        (config.skip, config.weights) == ("normalizer_free", "scaled_standardized")
        and (config.block, config.activation, config.stem) == ("bottleneck", "relu", "imagenet")
        and config.pool_shortcut
        and config.squeeze_excitation is None
    )


def _normalizer_free_name(network: ResNet, path: Path, index: int | None) -> str | None:
    if path[0] == "stem":
        return "stem.conv"
    if path[0] == "head":
        return "head.fc"
    stage, block, inner = _block(network, path, index)
    layer = "downsample.conv" if inner[0] == "shortcut" else f"conv{inner[1] + 1}"
    return f"stages.{stage}.{block}.{layer}"


def _dense_name(network: DenseNet, path: Path) -> str | None:
    match path:
        case ("stem", ("layers" | "norms") as part, 0):
            return "features.conv0" if part == "layers" else "features.norm0"
        case ("head", ("linear" | "norm") as part):
            return "classifier" if part == "linear" else "features.norm5"
        case ("layers", int(i), ("reduce" | "grow") as unit, ("layer" | "norm") as part):
            kind = "conv" if part == "layer" else "norm"
            where, _, layer = network.names[i].partition(".")
            if where.startswith("transition"):
                return f"features.{where}.{kind}"
            number = 1 if unit == "reduce" else 2
            return f"features.dense{where}.denselayer{layer}.{kind}{number}"
    return None


def _dual_path_name(network: DualPathNet, path: Path) -> str | None:
    match path:
        case ("stem", ("layers" | "norms") as part, 0):
            return f"features.conv1_1.{'conv' if part == 'layers' else 'bn'}"
        case ("head", ("linear" | "norm") as part):
            return "classifier" if part == "linear" else "features.conv5_bn_ac.bn"
        case ("layers", int(i), unit, ("layer" | "norm") as part):
            stage, block = network.names[i].removeprefix("stage").split(".")
            name = _DUAL_PATH.get(unit, f"c1x1_w_s{1 if stage == '1' else 2}")
            kind = "conv" if part == "layer" else "bn"
            return f"features.conv{int(stage) + 1}_{block}.{name}.{kind}"
    return None
