"""A network of any library as a pure function of its arrays, what its modules put out marked."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxact.analysis._chain import Chain, as_chain, in_full_precision, scan_layers, split_arrays
from jaxact.analysis._tags import mark_module

OUTPUT = "output"
"""Name of what the whole network puts out."""


class Foreign(NamedTuple):
    """A network as a pure function.

    Attributes:
      names: of its arrays.
      arrays: those of the network, in the order of the names.
      apply: ``apply(arrays, x) -> outputs`` on a batch, with what every module puts out marked
        under the module's path, and the network's own output as ``output``.
      channels_first: whether features of four axes or more have the units as second one.
      alike: as ``apply``, for networks that stack the trees of their modules, which for this must
        be of one class; modules are then named by it.
    """

    names: tuple[str, ...]
    arrays: list[Array]
    apply: Callable[[list[Array], Any], Any]
    channels_first: bool = False
    alike: Callable[[list[Array], Any], Any] | None = None


def foreign(network: Any, /) -> Foreign:
    """Reads a network of any library, with all its modules.

    Args:
      network: see `measure`.

    Returns:
      The network as a pure function.

    Raises:
      TypeError: if it is none of what `measure` takes.
    """
    network = _unjitted(network)
    first = network[0] if isinstance(network, tuple) and network else network
    if _is_a(first, "torch.nn", "Module"):
        raise TypeError(
            f"network must compute in JAX; got {type(first).__name__} of PyTorch. Its weights: "
            "measure_matrices(module.state_dict()); networks of timm and torchvision: "
            "jaxact.models.load_timm, load_torchvision"
        )
    if isinstance(network, Chain) or hasattr(network, "segments"):
        return _of_chain(as_chain(network))
    if _is_a(network, "flax.linen", "Module") and getattr(network, "scope", None) is None:
        raise TypeError(
            "network must be a pair (module, variables) where the module is of Linen; got "
            f"{type(network).__name__} alone"
        )
    if isinstance(network, tuple) and (read := _of_tuple(*network)) is not None:
        return read
    if is_equinox(network):
        network = _unbatched(network)
        return _read(network, lambda module, x: jax.vmap(module)(x))._replace(channels_first=True)
    if callable(network):
        return _read(network, lambda module, x: module(x))
    return _of_chain(as_chain(network))


def _is_a(network: Any, package: str, name: str) -> bool:
    """Whether it is of a class of a package, which whoever made the object has then loaded."""
    found = getattr(sys.modules.get(package), name, None)
    return found is not None and isinstance(network, found)


def is_equinox(network: Any) -> bool:
    """Whether it is a module of Equinox, where kernels have their outputs first."""
    return _is_a(network, "equinox", "Module")


def is_torch(value: Any) -> bool:
    """Whether it is a tensor of PyTorch, whose kernels have their outputs first."""
    return _is_a(value, "torch", "Tensor")


def arrays_of(network: Any) -> dict[str, Array]:
    """The arrays of a module by path."""
    return dict(_named(network)[0])


def _of_tuple(first: Any, second: Any = None, *rest: Any) -> Foreign | None:
    if _is_a(first, "haiku", "Transformed") or _is_a(first, "haiku", "TransformedWithState"):
        return _of_haiku(first, second, *rest)
    if rest or second is None:
        return None
    if hasattr(first, "apply") and isinstance(second, Mapping):
        return _as_modules_are_called(_read(second, functools.partial(_apply, first)))
    if inspect.isroutine(first) or hasattr(first, "__wrapped__"):
        with contextlib.suppress(ValueError):  # a function of C shows no signature
            if len(inspect.signature(first).parameters) > 1:
                read = _read(second, lambda params, x: _unjitted(first)(params, x))
                variables = isinstance(second, Mapping) and "params" in second
                return _as_modules_are_called(read) if variables else read
    return None


def _apply(module: Any, variables: Any, x: Any) -> Any:
    """What a module of Linen puts out, its variables left as they are."""
    try:
        return module.apply(variables, x)
    except Exception as error:
        way = _WAYS.get(type(error).__name__)
        if way is None:
            raise
        why = str(error).partition(" (http")[0]
        raise ValueError(f"network must {way}; {type(module).__name__}: {why}") from error


_EVALUATED = (
    "run as in evaluation, which changes no variable and needs no key: pass its arguments by "
    "(lambda variables, x: module.apply(variables, x, train=False), variables)"
)
_WHOLE = "come with the variables that module.init gives, all collections of them"
_WAYS = {
    "ModifyScopeVariableError": _EVALUATED,
    "InvalidRngError": _EVALUATED,
    "ApplyScopeInvalidVariablesTypeError": _WHOLE,
    "ScopeCollectionNotFound": _WHOLE,
    "ScopeParamNotFoundError": _WHOLE,
}
"""By the name of an error of Flax what a network must do instead."""


def _as_modules_are_called(read: Foreign) -> Foreign:
    """Names of arrays as those of modules are, which know of no collection."""
    names = (name.removeprefix("params.").replace("/~/", "/") for name in read.names)
    return read._replace(names=tuple(names))


def _of_haiku(transformed: Any, params: Any, state: Any = None) -> Foreign:
    rng = (None,) if "rng" in inspect.signature(transformed.apply).parameters else ()

    def apply(given: Any, x: Any) -> Any:
        if state is None:
            return transformed.apply(given["params"], *rng, x)
        return transformed.apply(given["params"], given["state"], *rng, x)[0]

    return _as_modules_are_called(_read({"params": params, "state": state}, apply))


def _of_chain(chain: Chain) -> Foreign:
    leaves, rebuild = split_arrays(chain)
    paths = [path for s in chain.segments for path in _paths(s.params, s.name)]

    def apply(arrays: list[Array], x: Any) -> Any:
        for segment in rebuild(arrays).segments:

            def visit(layer: Any, h: Any, _: Any, name: str = segment.name) -> tuple[Any, None]:
                return _mark(layer(h), name), None

            x = scan_layers(Chain((segment,)), visit, x)[0]
        return x

    return Foreign(tuple(name for name, _ in paths), leaves, apply)


def _read(network: Any, call: Callable[[Any, Any], Any]) -> Foreign:
    paths, rebuild = _named(network)

    def apply(by_path: bool, arrays: list[Array], x: Any) -> Any:
        fresh = rebuild(arrays)
        _record(fresh, by_path)
        with _intercepted():
            return _mark(in_full_precision(call, fresh, x), OUTPUT)

    names = tuple(name for name, _ in paths)
    arrays = [jnp.asarray(array) for _, array in paths]
    by_path, alike = (functools.partial(apply, each) for each in (True, False))
    return Foreign(names, arrays, by_path, alike=alike)


def _unjitted(function: Any) -> Any:
    """A jitted function's own, since a trace that is remembered from before shows no module.

    Of Equinox's transformations too those that change no value.
    """
    wrapped = type(function).__name__ in ("PjitFunction", "_JitWrapper", "_CheckpointWrapper")
    return _unjitted(function.__wrapped__) if wrapped else function


def _unbatched(network: Any) -> Any:
    """A network that Equinox maps over the examples as its user would: the one of an example."""
    if type(network).__name__ != "_VmapWrapper":
        return network
    axes = network._in_axes, network._out_axes
    if any(repr(axis) not in ("0", "if_array(axis=0)") for axis in axes):
        raise ValueError(
            "network must map over its first axis, the examples, where it is of eqx.filter_vmap; "
            f"got in_axes={axes[0]}, out_axes={axes[1]}"
        )
    return _unjitted(network.__wrapped__)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _paths(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Arrays by the path to them, as a user would write it."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_array(leaf):
            own = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            found.append((".".join(part for part in (prefix, own) if part) or "params", leaf))
    return found


def _named(network: Any) -> tuple[list[tuple[str, Any]], Callable[[list[Array]], Any]]:
    """The arrays of a network by path, and a fresh network from them."""
    merge: Callable[[Any], Any] = lambda tree: tree  # noqa: E731
    if _is_a(network, "flax.nnx", "Module"):
        from flax import nnx

        graph, network = nnx.split(network)
        merge = functools.partial(nnx.merge, graph)
    leaves, structure = jax.tree.flatten(network)
    for path, leaf in jax.tree_util.tree_leaves_with_path(network):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            raise TypeError(
                f"network must hold arrays; {name} is abstract, of shape {leaf.shape}, as "
                "jax.eval_shape gives it: initialize the network, or load its arrays"
            )

    def rebuild(arrays: list[Array]) -> Any:
        given = iter(arrays)
        whole = [next(given) if _is_array(leaf) else leaf for leaf in leaves]
        return merge(jax.tree.unflatten(structure, whole))

    return _paths(network), rebuild


def _mark(out: Any, name: str) -> Any:
    """What a module puts out with its first array of floats marked."""
    leaves, structure = jax.tree.flatten(out)
    for number, leaf in enumerate(leaves):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
            leaves[number] = mark_module(leaf, name)
            break
    return jax.tree.unflatten(structure, leaves)


_inside: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("inside", default=())


def _record(network: Any, by_path: bool) -> None:
    """Gives every module of a fresh copy a class that marks what its calls put out.

    The copy is the measurement's own, so that nothing of the user's changes; and a class it must
    be, since Python looks a call up there. It holds the path too, since a module's copies, as
    transformations make them, keep its class.
    """
    for path, module in _modules(network, "", set()):
        # One that cannot take another class shows what its own modules put out.
        with contextlib.suppress(TypeError, AttributeError):
            kind = _recording(type(module), path if by_path else None)
            object.__setattr__(module, "__class__", kind)


def _modules(part: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Callable modules inside by path, each once, in the order of their fields."""
    plain = type | types.GenericAlias | str | int | float  # an alias holds itself, without end
    if id(part) in seen or _is_array(part) or isinstance(part, plain):
        return
    seen.add(id(part))
    if isinstance(part, Mapping):
        fields = dict(part)
    elif is_module(part):
        if callable(part) and path:  # what the whole puts out is marked as such
            yield path, part
        fields = {k: v for k, v in vars(part).items() if not k.startswith("_pytree")}
    elif hasattr(part, "__iter__") and hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        fields = dict(enumerate(part))
    else:
        return
    for name, field in fields.items():
        yield from _modules(field, f"{path}.{name}" if path else str(name), seen)


def is_module(part: Any) -> bool:
    """Whether it is a module of Flax NNX or Equinox, or a dataclass that is a pytree."""
    return (
        _is_a(part, "flax.nnx", "Module")
        or is_equinox(part)
        or (dataclasses.is_dataclass(part) and not jax.tree_util.all_leaves([part]))
    )


@functools.cache
def _recording(kind: type, path: str | None) -> type:
    def call(self: Any, *args: Any, **options: Any) -> Any:
        within = _inside.get()
        name = path or ".".join((*within[-1:], kind.__name__.lower()))
        token = _inside.set((*within, name))
        try:
            return _mark(kind.__call__(self, *args, **options), name)
        finally:
            _inside.reset(token)

    space = {"__call__": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    recording = type(kind)(kind.__name__, (kind,), space)
    return recording


@contextlib.contextmanager
def _intercepted() -> Iterator[None]:
    """While it lasts, modules of Linen and Haiku mark what they put out, by the libraries' ways."""

    def marking(path_of: Callable[[Any], str]) -> Callable[..., Any]:
        def call(function: Any, args: Any, options: Any, context: Any) -> Any:
            out = function(*args, **options)
            path = path_of(context.module)
            return _mark(out, path) if context.method_name == "__call__" and path else out

        return call

    with contextlib.ExitStack() as stack:
        if (linen := sys.modules.get("flax.linen")) is not None:
            of_linen = marking(lambda module: ".".join(module.path))
            stack.enter_context(linen.intercept_methods(of_linen))
        if (haiku := sys.modules.get("haiku")) is not None:
            of_haiku = marking(lambda module: module.module_name.replace("/~/", "/"))
            stack.enter_context(haiku.intercept_methods(of_haiku))
        yield
