"""Values inside a function, such as a layer's units, marked where they arise; collected purely."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

MARK = "jaxact."
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
    return checkpoint_name(h, MARK + name)


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
        y, found = tapped(function)(x)
        return y, [value for name, value in found.items() if name.split("_")[0] == UNITS]

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
        closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
        outs, found = _evaluate(closed, jax.tree.leaves(x), dict(push or {}), {})
        return jax.tree.unflatten(jax.tree.structure(shape), outs), found

    return tapping


def inner_programs(params: Mapping[str, Any]) -> Iterator[ClosedJaxpr]:
    """The programs that an equation calls: bodies of calls, loops and branches."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item
            elif hasattr(item, "eqns"):
                yield ClosedJaxpr(item, [])


def _marked(closed: ClosedJaxpr) -> bool:
    return any(
        str(equation.params.get("name", "")).startswith(MARK)
        if equation.primitive.name == "name"
        else any(map(_marked, inner_programs(equation.params)))
        for equation in closed.jaxpr.eqns
    )


def _evaluate(
    closed: ClosedJaxpr, arguments: list[Any], push: dict[str, Array], seen: dict[str, int]
) -> tuple[list[Any], dict[str, Array]]:
    """The outputs of a program and what is marked in it; ``seen`` counts the names so far."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    found: dict[str, Array] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        values = [read(variable) for variable in equation.invars]
        kind, params = equation.primitive.name, equation.params
        if kind == "name" and params["name"].startswith(MARK):
            name = _numbered(params["name"][len(MARK) :], seen)
            outs = [values[0] + push[name] if name in push else values[0]]
            found[name] = outs[0]
        elif kind in INLINED and _marked(inner := next(inner_programs(params))):
            outs, more = _evaluate(inner, values, push, seen)
            found |= more
        elif kind == "scan" and _marked(params["jaxpr"]):
            outs, more = _scan(params, values, push, seen)
            found |= more
        else:
            bound = equation.primitive.get_bind_params(params)
            outs = equation.primitive.bind(*values, **bound)
            outs = outs if equation.primitive.multiple_results else [outs]
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(variable) for variable in jaxpr.outvars], found


def _numbered(name: str, seen: dict[str, int]) -> str:
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name}_{seen[name]}"


def _scan(
    params: dict[str, Any], values: list[Any], push: dict[str, Array], seen: dict[str, int]
) -> tuple[list[Any], dict[str, Array]]:
    """A loop that also puts out what is marked in its body, and takes pushes step by step."""
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = values[:fixed], values[fixed : fixed + carried], values[fixed + carried :]
    before = dict(seen)

    def body(carry: list[Any], step: Any) -> tuple[list[Any], Any]:
        # A loop may trace its body more than once, and each time the names are counted anew.
        names = dict(before)
        outs, found = _evaluate(params["jaxpr"], [*consts, *carry, *step[0]], step[1], names)
        seen.update(names)
        return outs[:carried], (outs[carried:], found)

    def first(leaves: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), leaves)

    names = jax.eval_shape(body, carry, (first(xs), {}))[1][1]
    inside = {name: push[name] for name in names if name in push}
    carry, (ys, found) = lax.scan(
        body,
        carry,
        (xs, inside),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys], found


INLINED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)
"""Calls that are entered where they hold a mark; their derivative rules are not needed here."""


def responses(layer: Callable[[Any], Any], h: Any) -> tuple[Any, list[Array]]:
    """A layer's output and what its units answer: what is tagged in it, else the output."""
    y, marked = collect(layer)(h)
    return y, marked or [y]
