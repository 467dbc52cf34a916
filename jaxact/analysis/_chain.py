"""A network as a chain of pure functions: the one view of it that every measurement takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree


class Segment(NamedTuple):
    """A run of layers of one kind.

    Attributes:
      name: what the layers are called in tables and figures.
      apply: ``apply(params, x) -> x``, a pure function of one layer on a batch.
      params: a pytree of arrays; with ``depth`` given, every leaf has it as leading axis.
      depth: the number of layers, or None for a single layer without a leading axis.
    """

    name: str
    apply: Callable[[Any, Any], Any]
    params: Any
    depth: int | None

    def __repr__(self) -> str:
        sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(self.params)]
        times = "" if self.depth is None else f" x {self.depth}"
        return f"{self.name}{times} ({sum(sizes):,} numbers)"


class Chain(NamedTuple):
    """Segments in the order in which they act."""

    segments: tuple[Segment, ...]

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.segments))})"


def as_chain(network: Any) -> Chain:
    """Reads a network as a chain of pure functions.

    Args:
      network: one of

        * a `Chain`, returned as it is;
        * an object with a method ``segments()`` that returns tuples
          ``(name, apply, params, depth)``, such as every network of `jaxact.models`;
        * a sequence whose items are such tuples, functions ``x -> y``, Flax NNX or Equinox modules
          (pytrees that can be called), or pairs ``(module, variables)`` of Flax Linen;
        * a ``Sequential`` of NNX, Equinox, or (with its variables, as a pair) Linen: one layer for
          each of its layers;
        * one function, module or pair.

    Returns:
      The chain. Layers become segments named ``layer_1``, ``layer_2``, ...; the arrays of a module
      are the segment's parameters, a function has none. What a module writes to its own state
      while it is called (batch statistics, say) is dropped.

    Raises:
      TypeError: if ``network`` is none of these.
      ValueError: if it has no layer, or a stacked leaf's leading axis is not the depth.

    Example:
      >>> import jax.numpy as jnp
      >>> chain = as_chain([jnp.tanh, lambda x: 2 * x])
      >>> [segment.name for segment in chain.segments]
      ['layer_1', 'layer_2']
    """
    if isinstance(network, Chain):
        return network
    if hasattr(network, "segments"):
        items = network.segments()
    elif _is_linen(network):
        items = _linen_layers(*network)
    elif _is_sequential(network):
        items = network.layers
    elif callable(network):
        items = [network]
    else:
        items = network
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise TypeError(
            "network must be a chain, an object with a method segments(), a function x -> y, a "
            "module, a pair (Linen module, variables) or a sequence of layers; "
            f"got {type(network).__name__}"
        )
    segments = tuple(_segment(item, number) for number, item in enumerate(items, start=1))
    if not segments:
        raise ValueError("network must have at least one layer; got none")
    return Chain(segments)


def _is_sequential(network: Any) -> bool:
    return type(network).__name__ == "Sequential" and isinstance(network.layers, Sequence)


def _is_linen(item: Any) -> bool:
    return (
        isinstance(item, tuple)
        and len(item) == 2
        and hasattr(item[0], "apply")
        and isinstance(item[1], Mapping)
    )


def _linen_layers(module: Any, variables: Mapping[str, Any]) -> list[Any]:
    """The layers of a Linen ``Sequential``, each with its share of the variables; else the pair."""
    if not _is_sequential(module):
        return [(module, variables)]
    layers: list[Any] = []
    for number, layer in enumerate(module.layers):
        if hasattr(layer, "apply"):
            name = f"layers_{number}"
            layers.append((layer, {c: v[name] for c, v in variables.items() if name in v}))
        else:
            layers.append(layer)
    return layers


def _call(module: Any, x: Any) -> Any:
    """A module on a batch; a fresh copy is called, so that what it writes to itself is dropped."""
    leaves, structure = jax.tree.flatten(module)
    return jax.tree.unflatten(structure, leaves)(x)


def _segment(item: Any, number: int) -> Segment:
    if isinstance(item, tuple) and len(item) == 4:
        segment = Segment(*item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(segment.params):
            if segment.depth is not None and leaf.shape[:1] != (segment.depth,):
                raise ValueError(
                    f"segment {segment.name!r} has depth {segment.depth}, so every leaf of its "
                    f"params must have leading axis {segment.depth}; "
                    f"{jax.tree_util.keystr(path)} has shape {leaf.shape}"
                )
        return segment
    name = f"layer_{number}"
    if _is_linen(item):
        module, variables = item
        return Segment(name, lambda v, x: module.apply(v, x), variables, None)
    if callable(item):
        if jax.tree_util.all_leaves([item]):
            return Segment(name, lambda params, x: item(x), (), None)
        return Segment(name, _call, item, None)
    raise TypeError(
        f"layer {number} must be a function x -> y, a module, a pair (Linen module, variables) or "
        f"a tuple (name, apply, params, depth); got {type(item).__name__}"
    )


def until(chain: Chain, name: str, /) -> Chain:
    """The network up to and with the segment of a name.

    Args:
      chain: a network, from `as_chain`.
      name: of one of its segments.

    Returns:
      The chain of the segments up to it.

    Raises:
      ValueError: if no segment has the name.
    """
    names = [segment.name for segment in chain.segments]
    if name not in names:
        raise ValueError(f"name must be among the segments ({', '.join(names)}); got {name!r}")
    return Chain(chain.segments[: names.index(name) + 1])


def split_arrays(chain: Chain) -> tuple[list[Array], Callable[[list[Array]], Chain]]:
    """A chain's arrays, to be arguments of a compiled program, and the chain again from them.

    Arrays that a compiled function closes over are copied into the program; and a module may hold
    what is no array, which cannot be an argument.
    """
    leaves, structure = jax.tree.flatten([segment.params for segment in chain.segments])
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]

    def rebuild(arrays: list[Array]) -> Chain:
        whole = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            whole[i] = array
        params = jax.tree.unflatten(structure, whole)
        pairs = zip(chain.segments, params, strict=True)
        return Chain(tuple(segment._replace(params=own) for segment, own in pairs))

    return [jnp.asarray(leaves[i]) for i in places], rebuild


def run(chain: Chain, x: PyTree[Array]) -> PyTree[Array]:
    """The network's output on a batch, its products in full precision.

    This and every measure of a chain take ``"highest"`` for `jax.default_matmul_precision` where no
    context sets it: a TPU's default would round the factors to bfloat16.

    Args:
      chain: a network, from `as_chain`.
      x: a batch, as the first segment takes it.

    Returns:
      The last segment's output.
    """
    return scan_layers(chain, lambda layer, h, _: (layer(h), None), x)[0]


def scan_layers(
    chain: Chain,
    visit: Callable[[Callable[[Any], Any], Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Visits every layer in order, in one `lax.scan` per stacked segment.

    Args:
      chain: a network, from `as_chain`.
      visit: ``visit(layer, carry, input) -> (carry, out)``, where ``layer`` is the function
        ``x -> y`` of the layer visited. The carry's shape may change from segment to segment only.
      carry: what the first visit is given.
      inputs: by segment name what else each visit is given, with a leading layer axis; a visit
        is given None by default.
      reverse: whether to begin with the last layer.

    Returns:
      The last carry, and by segment name what the visits put out, with a leading layer axis.

    Raises:
      ValueError: if two segments have one name.
    """
    names = [segment.name for segment in chain.segments]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"segments must have different names; {name!r} occurs twice")
    outs: dict[str, Any] = dict.fromkeys(names)
    for segment in reversed(chain.segments) if reverse else chain.segments:
        apply = segment.apply

        def step(carry, layer, apply=apply):
            params, extra = layer
            return visit(lambda h: in_full_precision(apply, params, h), carry, extra)

        extra = None if inputs is None else inputs[segment.name]
        if segment.depth is None:
            carry, out = step(carry, (segment.params, jax.tree.map(lambda leaf: leaf[0], extra)))
            outs[segment.name] = jax.tree.map(lambda leaf: leaf[None], out)
        else:
            carry, outs[segment.name] = lax.scan(
                step, carry, (segment.params, extra), reverse=reverse
            )
    return carry, outs


def in_full_precision(apply: Callable[[Any, Any], Any], params: Any, h: Any) -> Any:
    """A layer's output, its products rounded to its dtype only, unless a context asks for less.

    By default a TPU multiplies in bfloat16, and a GPU in TF32: small singular values were noise.
    """
    with jax.default_matmul_precision(jax.config.jax_default_matmul_precision or "highest"):
        return apply(params, h)


def ravel_example(h: PyTree[Array]) -> tuple[Array, Callable[[Array], PyTree[Array]]]:
    """One example's state, of batch size 1, as a vector, and the way back."""
    return ravel_pytree(h)
