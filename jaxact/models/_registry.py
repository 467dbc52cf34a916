"""Networks by name: every family registers its own."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxact import activations

Preset = tuple[Callable[..., Any], dict[str, Any]]

_PRESETS: dict[str, Preset] = {}
_SERIES: list[tuple[re.Pattern[str], Callable[..., Preset]]] = []


def register(
    family: Callable[..., Any],
    table: Mapping[str, dict[str, Any]],
    *,
    series: Mapping[str, Callable[..., dict[str, Any]]] | None = None,
) -> None:
    """Adds names of a family to those that `create` knows.

    Args:
      family: the network's class.
      table: by name, the arguments in which a preset differs from the class's defaults.
      series: by a regular expression whose groups are integers, the arguments made of them.
    """
    for name, options in table.items():
        _PRESETS[name] = family, options
    for pattern, make in (series or {}).items():
        _SERIES.append((re.compile(pattern), lambda *n, make=make: (family, make(*n))))


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
    missing = [name for name in unnamed(made_of) if name not in changes]
    if missing:
        raise ValueError(
            f"the network was made with {', '.join(missing)} that have no name; give them again as "
            "keyword arguments"
        )
    return create(given["preset"], rngs=rngs, **overrides | changes)


def unnamed(made_of: str, /) -> list[str]:
    """The arguments of `create` that could not be written."""
    return [k for k, v in json.loads(made_of)["overrides"].items() if isinstance(v, dict)]


def _find(name: str) -> Preset:
    if name in _PRESETS:
        return _PRESETS[name]
    for pattern, make in _SERIES:
        if found := pattern.fullmatch(name):
            return make(*map(int, found.groups()))
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
        name = jnp.dtype(value).name
    except TypeError:
        name = "object"
    return {"unnamed": repr(value)} if name == "object" else name  # as which NumPy takes a class
