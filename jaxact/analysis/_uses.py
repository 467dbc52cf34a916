"""How a network uses its arrays: which multiply, in which order, and over which of their axes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Float, PyTree

from jaxact._compat import scan_counts
from jaxact.analysis._foreign import Foreign
from jaxact.analysis._tags import inner_programs


def numbered(name: str, steps: int | None, /) -> tuple[str, ...]:
    """The names of what occurs in so many steps, itself where that is None."""
    return (name,) if steps is None else tuple(f"{name}.{i}" for i in range(1, steps + 1))


class Use(NamedTuple):
    """An array that multiplies what depends on the input: a stack of weight matrices.

    Attributes:
      name: of the array.
      shape: of the array.
      outputs: its axes that count outputs.
      inputs: its axes that are summed over.
      loop: the number of the loop over its steps, where it is stacked for one; else None.
    """

    name: str
    shape: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    loop: int | None

    @property
    def layers(self) -> list[int]:
        """Its axes that count layers."""
        return [a for a in range(len(self.shape)) if a not in (*self.outputs, *self.inputs)]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its matrices."""
        steps = math.prod(self.shape[a] for a in self.layers)
        return numbered(self.name, steps if self.layers else None)

    def matrices(self, array: Float[Array, "..."]) -> Float[Array, "layer o i"]:
        """The weight matrices."""
        rows, columns = (
            math.prod(array.shape[a] for a in axes) for axes in (self.outputs, self.inputs)
        )
        moved = jnp.transpose(array, (*self.layers, *self.outputs, *self.inputs))
        return moved.reshape(-1, rows, columns)


class _Place(NamedTuple):
    """A value that is an array of the network, its axes in some order.

    Attributes:
      name: of the array.
      axes: which of the array's each of the value's is; None where a reshape has mixed them.
      shape: of the array.
      loop: see `Use`.
    """

    name: str
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]
    loop: int | None


def uses(network: Foreign, x: PyTree[Array], /) -> list[Use]:
    """The arrays that multiply, in the order of their first use.

    The program says it, whatever the library: kernels of matrix products and convolutions, the
    tables of embeddings; neither biases nor the scales of norms.

    Args:
      network: as a pure function.
      x: a batch.

    Returns:
      A `Use` of each.
    """
    jaxpr = jax.make_jaxpr(network.apply)(network.arrays, x).jaxpr
    count = len(network.arrays)
    places = {
        variable: _Place(name, tuple(range(array.ndim)), array.shape, None)
        for variable, name, array in zip(
            jaxpr.invars[:count], network.names, network.arrays, strict=True
        )
    }
    found: dict[str, Use] = {}
    _walk(jaxpr, places, set(jaxpr.invars[count:]), found)
    return list(found.values())


def _walk(
    jaxpr: Any, places: dict[Any, _Place], active: set[Any], found: dict[str, Use]
) -> list[_Place | None]:
    """Follows arrays through a program, and says which of them it puts out.

    ``active`` are the values that depend on the input; both are filled up.
    """
    for equation in jaxpr.eqns:
        given = [None if isinstance(v, Literal) else v for v in equation.invars]
        held = [places.get(v) for v in given]
        kind, params = equation.primitive.name, equation.params
        moving = any(v in active for v in given)
        outs: list[_Place | None] = []
        for inner in inner_programs(params):
            outs = _enter(equation, inner.jaxpr, held, [v in active for v in given], found)
        if moving:
            active.update(equation.outvars)
            for position, place in enumerate(held):
                if place is not None and place.name not in found and kind in _AXES:
                    axes = _AXES[kind](params, position, len(equation.invars[position].aval.shape))
                    if axes is not None:
                        found[place.name] = _use(place, *axes)
        elif kept := [place for place in held if place is not None]:
            if kind in _AXES:  # a product of arrays alone is no array of the network
                continue
            if kind == "scan" or len(outs) != len(equation.outvars):
                axes = _followed(equation, kept[0].axes, given[held.index(kept[0])])
                outs = [kept[0]._replace(axes=axes)] * len(equation.outvars)
            places.update((v, p) for v, p in zip(equation.outvars, outs, strict=True) if p)
    return [None if isinstance(v, Literal) else places.get(v) for v in jaxpr.outvars]


def _enter(
    equation: Any,
    jaxpr: Any,
    held: list[_Place | None],
    active: list[bool],
    found: dict[str, Use],
) -> list[_Place | None]:
    count, shift = len(equation.invars), max(len(equation.invars) - len(jaxpr.invars), 0)
    stacked = count
    if equation.primitive.name == "scan":
        fixed, carried = scan_counts(equation.params)
        stacked = fixed + carried
        # What is carried depends on the input after the first step.
        active = [a or (any(active) and fixed <= i < stacked) for i, a in enumerate(active)]
    places = {}
    for i in range(shift, count):
        place = held[i]
        if place is not None and i >= stacked:
            axes = None if place.axes is None else place.axes[1:]
            loop = id(equation) if place.loop is None else place.loop
            place = place._replace(axes=axes, loop=loop)
        if place is not None:
            places[jaxpr.invars[i - shift]] = place
    moving = {jaxpr.invars[i - shift] for i in range(shift, count) if active[i]}
    return _walk(jaxpr, places, moving, found)


def _followed(equation: Any, axes: tuple[int, ...] | None, variable: Any) -> Any:
    """The axes of what an equation makes of an array alone."""
    params, out, kind = equation.params, equation.outvars[0].aval, equation.primitive.name
    if axes is None:
        return None
    if kind == "transpose":
        return tuple(axes[i] for i in params["permutation"])
    if kind in ("squeeze", "unstack"):
        dropped = params["dimensions"] if kind == "squeeze" else (params["axis"],)
        return tuple(a for i, a in enumerate(axes) if i not in dropped)
    elementwise = out.shape == variable.aval.shape and kind not in (*_AXES, "reshape")
    return axes if elementwise or kind in ("slice", "dynamic_slice") else None


def _use(place: _Place, outputs: Any, inputs: Any) -> Use:
    if place.axes is None:
        # As Flax lays kernels out: outputs last.
        last = len(place.shape) - 1
        into = range(0 if place.loop is None else 1, last)
        return Use(place.name, place.shape, (last,), tuple(into), place.loop)
    outputs, inputs = (tuple(place.axes[i] for i in axes) for axes in (outputs, inputs))
    return Use(place.name, place.shape, outputs, inputs, place.loop)


def _of_product(params: Any, position: int, ndim: int) -> Any:
    contracted, batched = (sides[position] for sides in params["dimension_numbers"])
    return [i for i in range(ndim) if i not in (*contracted, *batched)], list(contracted)


def _of_convolution(params: Any, position: int, ndim: int) -> Any:
    out, into, *space = params["dimension_numbers"].rhs_spec
    return ([out], [*space, into]) if position == 1 else None


def _of_our_convolution(params: Any, position: int, ndim: int) -> Any:
    return ([ndim - 1], list(range(ndim - 1))) if position == 1 else None


def _of_lookup(params: Any, position: int, ndim: int) -> Any:
    return (list(range(1, ndim)), [0]) if position == 0 and ndim > 1 else None


_AXES: dict[str, Callable[[Any, int, int], Any]] = {
    "dot_general": _of_product,
    "conv_general_dilated": _of_convolution,
    "jaxact_convolution": _of_our_convolution,
    "gather": _of_lookup,
}
"""By primitive, an operand's axes of outputs and of inputs."""
