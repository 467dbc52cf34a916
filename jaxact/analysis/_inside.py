"""What a network shows inside: its layers' values, their derivatives, its weight matrices."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxact._compat import gathered
from jaxact.analysis._chain import ravel_example
from jaxact.analysis._foreign import OUTPUT, Foreign
from jaxact.analysis._scopes import scoped
from jaxact.analysis._stream import LayerState, at_least_single, start_layers, update_layer
from jaxact.analysis._tags import Mark, marked
from jaxact.analysis._tokens import start_means, update_means
from jaxact.analysis._uses import Use, numbered, uses
from jaxact.analysis._weights import observe


class Cut(NamedTuple):
    """A value inside a network, seen on a batch.

    Attributes:
      name: of the module or tag.
      steps: how often it occurs, run by loops; None where it lies in no loop.
      loop: the number of the outermost.
      axis: of the examples, in one occurrence.
      shape: of one occurrence, as `values` gives it: examples, positions, units.
      dtype: of the value.
    """

    name: str
    steps: int | None
    loop: int | None
    axis: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def names(self) -> tuple[str, ...]:
        """Of its occurrences."""
        return numbered(self.name, self.steps)


class Inside(NamedTuple):
    """A network taken apart.

    Attributes:
      network: as a pure function.
      cuts: its values, in the order in which they act.
      uses: its arrays that multiply, in that order.
    """

    network: Foreign
    cuts: tuple[Cut, ...]
    uses: tuple[Use, ...]

    @property
    def layers(self) -> list[str]:
        """Names of the cuts, in the order in which they act."""
        return in_order([(cut.names, cut.loop) for cut in self.cuts])

    @property
    def weights(self) -> list[str]:
        """Names of the weight matrices, in the order in which they act."""
        return in_order([(use.names, use.loop) for use in self.uses])


def look_inside(network: Foreign, x: PyTree[Array], /) -> Inside:
    """Takes a network apart, without running it.

    Args:
      network: as a pure function.
      x: a batch. Values without an axis of examples are not seen.

    Returns:
      What is inside.

    Raises:
      ValueError: if a tagged value is not of floats.
    """
    try:
        marks = _marks(network, x, 0)
    except ValueError:
        if network.alike is None:
            raise
        network = network._replace(apply=network.alike)
        marks = _marks(network, x, 0)
    if {mark.name for mark in marks} == {OUTPUT}:
        inner = network._replace(apply=scoped(network.apply))
        if len(seen := _marks(inner, x, 0)) > 1:
            network, marks = inner, seen
    try:
        more = _marks(network, x, 1)
    except Exception:  # made for batches of one size: whatever the network raises then
        more = None
    cuts = []
    for i, mark in enumerate(marks):
        shape = mark.value.shape[len(mark.loops) :]
        if more is None:
            axes = [0] if shape[:1] == jax.tree.leaves(x)[0].shape[:1] else []
        else:  # the axis that grows with the batch, wherever the network has put it
            grown = more[i].value.shape[len(mark.loops) :]
            axes = [axis for axis in range(len(shape)) if shape[axis] != grown[axis]]
        if len(axes) != 1 or len(shape) < 2:
            continue
        if not jnp.issubdtype(mark.value.dtype, jnp.floating):
            raise ValueError(
                f"values tagged in a network must be of floats; {mark.name!r} is of "
                f"{mark.value.dtype}. Of complex h tag jnp.concatenate([h.real, h.imag], -1)"
            )
        value = jax.eval_shape(
            lambda v, m=mark, axis=axes[0]: _arranged(network, m._replace(value=v), axis),
            mark.value,
        )
        steps, loop = (len(value), mark.loops[0][0]) if mark.loops else (None, None)
        cuts.append(Cut(mark.name, steps, loop, axes[0], value.shape[1:], value.dtype))
    return Inside(network, tuple(cuts), tuple(uses(network, x)))


def _marks(network: Foreign, x: PyTree[Array], more: int) -> list[Mark]:
    """The shapes of what is marked, with more examples than there are."""
    seen: list[Mark] = []

    def look(arrays: list[Array], x: Any) -> None:
        seen[:] = marked(lambda given: network.apply(*given), (arrays, x))[1]

    sizes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(leaf) + more, *leaf.shape[1:]), leaf.dtype), x
    )
    jax.eval_shape(look, network.arrays, sizes)
    return seen


def _arranged(network: Foreign, mark: Mark, axis: int) -> Array:
    """A marked value as (steps, examples, ..., units)."""
    value = gathered(mark.value)
    value = value.reshape(-1, *value.shape[len(mark.loops) :])
    value = jnp.moveaxis(value, 1 + axis, 1)
    return jnp.moveaxis(value, 2, -1) if network.channels_first and value.ndim > 4 else value


def in_order(parts: Iterable[tuple[Sequence[str], int | None]], /) -> list[str]:
    """Names in the order in which they act: of what one loop runs, step after step.

    Args:
      parts: names of what belongs together, and the number of its loop.

    Example:
      >>> in_order([(["a"], None), (["b.1", "b.2"], 0), (["c.1", "c.2"], 0)])
      ['a', 'b.1', 'c.1', 'b.2', 'c.2']
    """
    order: list[str] = []
    for loop, group in itertools.groupby(parts, key=lambda part: part[1]):
        stacks = [names for names, _ in group]
        steps = 1 if loop is None else math.gcd(*map(len, stacks))
        for step in range(steps):
            for names in stacks:
                each = len(names) // steps
                order += names[step * each : (step + 1) * each]
    return order


def values(
    inside: Inside, arrays: list[Array], x: PyTree[Array], push: Mapping[str, Array] | None = None
) -> tuple[Any, dict[str, Float[Array, "step n ..."]]]:
    """A network's output, and by name the values of its cuts, with an axis of steps first."""
    y, marks = marked(lambda given: inside.network.apply(*given), (arrays, x), push)
    axes = {cut.name: cut.axis for cut in inside.cuts}
    return y, {
        mark.name: _arranged(inside.network, mark, axes[mark.name])
        for mark in marks
        if mark.name in axes
    }


def groups(inside: Inside) -> list[list[Cut]]:
    """The cuts of one shape together, in the order in which the first of each acts."""
    found: dict[Any, list[Cut]] = {}
    for cut in inside.cuts:
        found.setdefault((cut.shape, cut.dtype), []).append(cut)
    return list(found.values())


def start_features(inside: Inside, form: str = "root") -> list[LayerState]:
    """For each of the `groups` the states of a stream of features that has seen nothing."""
    return [
        start_layers(
            (sum(cut.steps or 1 for cut in group), *group[0].shape),
            group[0].dtype,
            group[0].shape[-1],
            form=form,
        )
        for group in groups(inside)
    ]


def update_features(
    inside: Inside, arrays: list[Array], states: list[LayerState], x: PyTree[Array]
) -> list[LayerState]:
    """The states with one more batch seen."""
    update = jax.vmap(lambda state, h: update_layer(state, h, [h]))
    _, found = values(inside, arrays, x)
    return [
        update(state, jnp.concatenate([found[cut.name] for cut in group]))
        for group, state in zip(groups(inside), states, strict=True)
    ]


def token_groups(inside: Inside) -> list[list[Cut]]:
    """The `groups` that have tokens between examples and units."""
    return [group for group in groups(inside) if len(group[0].shape) > 2]


def start_tokens(inside: Inside, names: list[str]) -> list[dict[str, Array]]:
    """For each of the `token_groups` the sums of measures that have seen nothing."""
    return [
        start_means(sum(cut.steps or 1 for cut in group), names, at_least_single(group[0].dtype))
        for group in token_groups(inside)
    ]


def update_tokens(
    inside: Inside, arrays: list[Array], sums: list[dict[str, Array]], x: PyTree[Array]
) -> list[dict[str, Array]]:
    """The sums with one more batch seen."""
    _, found = values(inside, arrays, x)
    more = []
    for group, before in zip(token_groups(inside), sums, strict=True):
        h = jnp.concatenate([found[cut.name] for cut in group])
        more.append(update_means(before, h.reshape(*h.shape[:2], -1, h.shape[-1])))
    return more


def weight_stacks(inside: Inside, arrays: list[Array]) -> dict[str, Float[Array, "layer o i"]]:
    """The weight matrices, by the name of their array."""
    known = dict(zip(inside.network.names, arrays, strict=True))
    return {use.name: use.matrices(known[use.name]) for use in inside.uses}


def gradient_stacks(
    inside: Inside,
    loss: Callable[[Any, Any], Float[Array, ""]],
    arrays: list[Array],
    x: PyTree[Array],
    y: Any,
) -> dict[str, Float[Array, "layer o i"]]:
    """The gradient of a batch's loss in every weight matrix."""
    names = inside.network.names
    places = [names.index(use.name) for use in inside.uses]

    def cost(chosen: list[Array]) -> Array:
        whole = list(arrays)
        for place, array in zip(places, chosen, strict=True):
            whole[place] = array
        return loss(inside.network.apply(whole, x), y)

    gradients = jax.grad(cost)([arrays[place] for place in places])
    return {use.name: use.matrices(g) for use, g in zip(inside.uses, gradients, strict=True)}


def jacobians(
    inside: Inside, arrays: list[Array], x: PyTree[Array], basis: Float[Array, "r k"]
) -> dict[str, tuple[Float[Array, "step s"], Int[Array, " step"]]]:
    """The derivatives of the cuts in the input at one example, along the rows of a basis.

    Args:
      inside: the network.
      arrays: its arrays.
      x: a batch of one.
      basis: orthonormal, k counting the input's numbers.

    Returns:
      By cut the singular values at every step, and how many entries are not finite.
    """
    flat, unravel = ravel_example(x)

    def inner(v: Array) -> dict[str, Array]:
        found = values(inside, arrays, unravel(v))[1]
        return {name: value.reshape(len(value), -1) for name, value in found.items()}

    _, tangent = jax.linearize(inner, flat)
    columns = jax.vmap(tangent)(basis)
    return _spectra({name: jnp.swapaxes(j, 0, 1) for name, j in columns.items()})


def output_jacobians(
    inside: Inside, arrays: list[Array], x: PyTree[Array], basis: Float[Array, "r k"]
) -> dict[str, tuple[Float[Array, "step s"], Int[Array, " step"]]]:
    """The derivatives of the output in the cuts, as `jacobians`; k counts its `real_parts`."""
    _, marks = marked(lambda given: inside.network.apply(*given), (arrays, x))
    steps = {cut.name: cut.steps or 1 for cut in inside.cuts}
    zeros = {mark.name: jnp.zeros_like(mark.value) for mark in marks if mark.name in steps}

    def output(push: dict[str, Array]) -> Array:
        return ravel_example(real_parts(values(inside, arrays, x, push)[0]))[0]

    _, transpose = jax.vjp(output, zeros)
    rows = jax.vmap(lambda v: transpose(v)[0])(basis)
    split = {name: row.reshape(len(basis), steps[name], -1) for name, row in rows.items()}
    return _spectra({name: jnp.swapaxes(j, 0, 1) for name, j in split.items()})


def real_parts(outputs: PyTree[Any], /) -> list[Array]:
    """Of a network's outputs what has a derivative: floats, and complex numbers as two of them."""
    parts = []
    for leaf in jax.tree.leaves(outputs):
        kind = jnp.result_type(leaf)
        if jnp.issubdtype(kind, jnp.complexfloating):
            parts += [leaf.real, leaf.imag]
        elif jnp.issubdtype(kind, jnp.floating):
            parts.append(leaf)
    return parts


def _spectra(stacks: dict[str, Float[Array, "step m n"]]) -> dict[str, tuple[Array, Array]]:
    groups: dict[Any, list[str]] = {}
    for name, stack in stacks.items():
        groups.setdefault((*stack.shape[1:], at_least_single(stack.dtype)), []).append(name)
    found = {}
    for group in groups.values():
        wide = [stacks[name].astype(at_least_single(stacks[name].dtype)) for name in group]
        s, missing, _ = observe(jnp.concatenate(wide))
        s = jnp.where(missing[:, None] == 0, s, jnp.nan)
        last = 0
        for name in group:
            first, last = last, last + len(stacks[name])
            found[name] = s[first:last], missing[first:last]
    return found
