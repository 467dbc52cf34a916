"""Values inside a function, such as a layer's units, marked where they arise; collected purely."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

from jaxact._compat import bind, scan_counts

MARK = "jaxact."
MODULE = MARK + "module."
"""Of marks that `mark_module` sets; a value has one name, and the user's own goes before it."""
UNITS = "units"


def tag(h: Array, name: str, /) -> Array:
    """A value that the analysis can see inside a function, under a name.

    Args:
      h: any array.
      name: what it is called in tables; a second value of the same name becomes ``name_2``.

    Returns:
      The same array; the mark costs nothing and changes no derivative.

    Example:
      >>> import jax.numpy as jnp
      >>> def f(x):
      ...     h = tag(2 * x, "hidden")
      ...     return jnp.sum(h)
      >>> y, inner = tapped(f)(jnp.ones(3))
      >>> float(y), inner["hidden"].tolist()
      (6.0, [2.0, 2.0, 2.0])
    """
    return _marking(MARK + name)(h)


def mark_module(h: Array, path: str, /) -> Array:
    """What a module puts out, under its path, unless the value has a name already."""
    return _marking(MODULE + path)(h)


@functools.cache
def _marking(mark: str) -> Callable[[Array], Array]:
    """Marks a value, whose axes that `jax.vmap` adds come first, so that its units stay last."""

    @jax.custom_batching.custom_vmap
    def marking(h: Array) -> Array:
        return checkpoint_name(h, mark)

    @marking.def_vmap
    def _(axis_size: int, in_batched: list[bool], h: Array) -> tuple[Array, bool]:
        return marking(h), in_batched[0]

    # `jax.custom_batching` alone has no transpose.
    outer = jax.custom_jvp(lambda h: marking(h))
    outer.defjvp(lambda primals, tangents: (outer(*primals), tangents[0]))
    return outer


def tag_units(activation: Callable[[Any], Any], /) -> Callable[[Any], Any]:
    """An activation whose outputs the analysis can see inside a layer.

    Without it a residual block shows only its output, the sum with the skip; with it `stream` and
    `flips` look at the units themselves.

    Args:
      activation: any function of an array.

    Returns:
      The same function, its outputs marked by `tag`.

    Example:
      >>> import jax.numpy as jnp
      >>> relu = tag_units(lambda x: jnp.maximum(x, 0))
      >>> y, units = collect(lambda x: x + relu(-x))(jnp.array([1.0, -2.0]))
      >>> y.tolist(), [u.tolist() for u in units]
      ([1.0, 0.0], [[0.0, 2.0]])
    """
    return lambda x: tag(activation(x), UNITS)


def collect(function: Callable[[Any], Any], /) -> Callable[[Any], tuple[Any, list[Array]]]:
    """A function that also returns what `tag_units` has marked while it ran.

    Args:
      function: of one pytree of arrays.

    Returns:
      ``x -> (function(x), marked)``, the marked arrays in the order in which they arise, those of a
      loop with its steps as leading axis. Marks in a branch of control flow are not seen.
    """

    def collecting(x: Any) -> tuple[Any, list[Array]]:
        y, marks = marked(function, x)
        return y, [mark.value for mark in marks if mark.name.split("_")[0] == UNITS]

    return collecting


def tapped(function: Callable[[Any], Any], /) -> Callable[..., tuple[Any, dict[str, Array]]]:
    """A function that also returns every value that `tag` has marked in it, and lets one be moved.

    Args:
      function: of one pytree of arrays.

    Returns:
      ``(x, push=None) -> (function(x), marked)``: the marked arrays by name in the order in which
      they arise, those of a `lax.scan` with its steps as leading axis. ``push`` holds by name what
      is added to a marked value before the function goes on, so that the derivative of the output
      in ``push`` (at zeros) is that in the marked value. Marks in a branch of control flow or a
      ``while_loop`` are not seen.
    """

    def tapping(x: Any, push: Mapping[str, Array] | None = None) -> tuple[Any, dict[str, Array]]:
        y, marks = marked(function, x, push)
        return y, {mark.name: mark.value for mark in marks}

    return tapping


class Mark(NamedTuple):
    """A marked value.

    Attributes:
      name: its own among those of the function.
      value: with an axis of steps first for each loop that it lies in.
      loops: the loops, outermost first, each a number of its own and its steps.
    """

    name: str
    value: Any
    loops: tuple[tuple[int, int], ...]


def marked(
    function: Callable[[Any], Any], x: Any, push: Mapping[str, Array] | None = None, /
) -> tuple[Any, list[Mark]]:
    """What a function returns and the values marked in it, in the order in which they arise."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
    run = _Run(dict(push or {}), {}, [], [], itertools.count())
    outs = run.evaluate(closed, jax.tree.leaves(x))
    return jax.tree.unflatten(jax.tree.structure(shape), outs), run.marks


def inner_programs(params: Mapping[str, Any]) -> Iterator[ClosedJaxpr]:
    """The programs that an equation calls: bodies of calls, loops and branches."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item
            elif hasattr(item, "eqns"):
                yield ClosedJaxpr(item, [])


def replay(
    closed: ClosedJaxpr,
    arguments: list[Any],
    compute: Callable[[Any, list[Any]], list[Any] | None],
    change: Callable[[Any, Any], Any] = lambda variable, value: value,
) -> list[Any]:
    """Evaluates a program equation by equation.

    Args:
      closed: the program.
      arguments: its inputs.
      compute: what an equation puts out of values; None for what it does by itself.
      change: what a variable holds instead of the value that was computed for it.

    Returns:
      Its outputs.
    """
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        values = [read(variable) for variable in equation.invars]
        outs = compute(equation, values)
        outs = bind(equation, values) if outs is None else outs
        for variable, value in zip(equation.outvars, outs, strict=True):
            known[variable] = change(variable, value)
    return [read(variable) for variable in jaxpr.outvars]


def _holds_marks(closed: ClosedJaxpr) -> bool:
    return any(
        str(equation.params.get("name", "")).startswith(MARK)
        if equation.primitive.name == "name"
        else any(map(_holds_marks, inner_programs(equation.params)))
        for equation in closed.jaxpr.eqns
    )


class _Run(NamedTuple):
    """One evaluation of a program, which collects its marks.

    Attributes:
      push: by name what is added to a marked value.
      seen: how often a name has come so far.
      marks: those so far.
      turned: marked values transposed, which are the same ones, as `jax.vmap` leaves them.
      loops: gives each loop a number.
    """

    push: dict[str, Array]
    seen: dict[str, int]
    marks: list[Mark]
    turned: list[Any]
    loops: Iterator[int]

    def evaluate(self, closed: ClosedJaxpr, arguments: list[Any]) -> list[Any]:
        def compute(equation: Any, values: list[Any]) -> list[Any] | None:
            kind, params = equation.primitive.name, equation.params
            if kind == "name" and params["name"].startswith(MARK):
                return [self.note(params["name"], values[0])]
            if kind in INLINED and _holds_marks(inner := next(inner_programs(params))):
                return self.evaluate(inner, values)
            if kind == "scan" and _holds_marks(params["jaxpr"]):
                return self.scan(params, values)
            if kind == "transpose" and self.is_marked(values[0]):
                self.turned.extend(outs := bind(equation, values))
                return outs
            return None

        return replay(closed, arguments, compute)

    def note(self, mark: str, value: Any) -> Any:
        """A marked value, moved where it is pushed."""
        of_module = mark.startswith(MODULE)
        if of_module and self.is_marked(value):
            return value
        name = mark.removeprefix(MODULE if of_module else MARK)
        self.seen[name] = self.seen.get(name, 0) + 1
        if self.seen[name] > 1:
            name = f"{name}_{self.seen[name]}"
        value = value + self.push[name] if name in self.push else value
        self.marks.append(Mark(name, value, ()))
        return value

    def is_marked(self, value: Any) -> bool:
        return any(value is known for known in (*self.turned, *(m.value for m in self.marks)))

    def scan(self, params: dict[str, Any], values: list[Any]) -> list[Any]:
        """A loop that also puts out what is marked in its body, and takes pushes step by step."""
        fixed, carried = scan_counts(params)
        consts, carry, xs = (
            values[:fixed],
            values[fixed : fixed + carried],
            values[fixed + carried :],
        )
        inside: list[Mark] = []
        number, seen = next(self.loops), {}

        def body(carry: list[Any], step: Any) -> tuple[list[Any], Any]:
            # A loop may trace its body more than once, and each time the names are counted anew.
            run = _Run(step[1], dict(self.seen), [], [], itertools.count(number + 1))
            outs = run.evaluate(params["jaxpr"], [*consts, *carry, *step[0]])
            inside[:] = run.marks
            seen.update(run.seen)
            return outs[:carried], (outs[carried:], [mark.value for mark in run.marks])

        def first(leaves: Any) -> Any:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), leaves
            )

        jax.eval_shape(body, carry, (first(xs), {}))
        push = {mark.name: self.push[mark.name] for mark in inside if mark.name in self.push}
        carry, (ys, found) = lax.scan(
            body,
            carry,
            (xs, push),
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        self.seen.update(seen)
        for mark, value in zip(inside, found, strict=True):
            loops = ((number, params["length"]), *mark.loops)
            self.marks.append(Mark(mark.name, value, loops))
        return [*carry, *ys]


INLINED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vmap_call",
)
"""Calls that are entered where they hold a mark; their derivative rules are not needed here."""


def responses(layer: Callable[[Any], Any], h: Any) -> tuple[Any, list[Array]]:
    """A layer's output and what its units answer: what is tagged in it, else the output."""
    y, units = collect(layer)(h)
    return y, units or [y]
