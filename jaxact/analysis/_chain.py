"""A network as a chain of pure functions: the one view of it that every measurement takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
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


class Chain(NamedTuple):
    """Segments in the order in which they act."""

    segments: tuple[Segment, ...]


def as_chain(network: Any) -> Chain:
    """Reads a network as a chain of pure functions.

    Args:
      network: one of

        * a `Chain`, returned as it is;
        * an object with a method ``segments()`` that returns tuples
          ``(name, apply, params, depth)``, such as every network of `jaxact.models`;
        * a sequence of such tuples;
        * a sequence of functions ``x -> y``, one a layer (Linen, Equinox, Haiku or plain);
        * one function ``x -> y``.

    Returns:
      The chain. Functions become segments named ``layer_1``, ``layer_2``, ... without parameters.

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
        network = network.segments()
    elif callable(network):
        network = [network]
    if not isinstance(network, Sequence):
        raise TypeError(
            "network must be a chain, an object with a method segments(), a function x -> y or a "
            f"sequence of layer functions; got {type(network).__name__}"
        )
    segments = tuple(_segment(item, number) for number, item in enumerate(network, start=1))
    if not segments:
        raise ValueError("network must have at least one layer; got none")
    return Chain(segments)


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
    if callable(item):
        return Segment(f"layer_{number}", lambda params, x: item(x), (), None)
    raise TypeError(
        f"layer {number} must be a function x -> y or a tuple (name, apply, params, depth); "
        f"got {type(item).__name__}"
    )


def run(chain: Chain, x: PyTree[Array]) -> PyTree[Array]:
    """The network's output on a batch.

    Args:
      chain: a network, from `as_chain`.
      x: a batch, as the first segment takes it.

    Returns:
      The last segment's output.
    """
    return scan_layers(chain, lambda layer, h: (layer(h), None), x)[0]


def scan_layers(
    chain: Chain, visit: Callable[[Callable[[Any], Any], Any], tuple[Any, Any]], carry: Any
) -> tuple[Any, dict[str, Any]]:
    """Visits every layer in order, in one `lax.scan` per stacked segment.

    Args:
      chain: a network, from `as_chain`.
      visit: ``visit(layer, carry) -> (carry, out)``, where ``layer`` is the function ``x -> y`` of
        the layer visited. The carry's shape may change from segment to segment only.
      carry: what the first visit is given.

    Returns:
      The last carry, and by segment name what the visits put out, with a leading layer axis.

    Raises:
      ValueError: if two segments have one name.
    """
    outs: dict[str, Any] = {}
    for segment in chain.segments:
        if segment.name in outs:
            raise ValueError(f"segments must have different names; {segment.name!r} occurs twice")
        apply = segment.apply

        def step(carry, params, apply=apply):
            return visit(lambda h: apply(params, h), carry)

        if segment.depth is None:
            carry, out = step(carry, segment.params)
            outs[segment.name] = jax.tree.map(lambda leaf: leaf[None], out)
        else:
            carry, outs[segment.name] = lax.scan(step, carry, segment.params)
    return carry, outs


def ravel_example(h: PyTree[Array]) -> tuple[Array, Callable[[Array], PyTree[Array]]]:
    """One example's state, of batch size 1, as a vector, and the way back."""
    return ravel_pytree(h)
