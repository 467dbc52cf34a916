"""Values inside a layer, such as its hidden units, marked where they arise and collected purely."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

UNITS = "jaxact.units"


def tag_units(activation: Callable[[Any], Any], /) -> Callable[[Any], Any]:
    """An activation whose outputs the analysis can see inside a layer.

    Without it a residual block shows only its output, the sum with the skip; with it `stream` and
    `flips` look at the units themselves.

    Args:
      activation: any function of an array.

    Returns:
      The same function; the mark costs nothing and changes no derivative.

    Example:
      >>> import jax.numpy as jnp
      >>> relu = tag_units(lambda x: jnp.maximum(x, 0))
      >>> y, units = collect(lambda x: x + relu(-x))(jnp.array([1.0, -2.0]))
      >>> y.tolist(), [u.tolist() for u in units]
      ([1.0, 0.0], [[0.0, 2.0]])
    """
    return lambda x: checkpoint_name(activation(x), UNITS)


def collect(function: Callable[[Any], Any], /) -> Callable[[Any], tuple[Any, list[Array]]]:
    """A function that also returns what `tag_units` has marked while it ran.

    Args:
      function: of one pytree of arrays.

    Returns:
      ``x -> (function(x), marked)``, the marked arrays in the order in which they arise. Marks
      inside a loop or a branch of control flow are not seen.
    """

    def collecting(x: Any) -> tuple[Any, list[Array]]:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
        if UNITS not in str(closed):
            return function(x), []
        marked: list[Array] = []
        outs = _evaluate(closed, jax.tree.leaves(x), marked)
        return jax.tree.unflatten(jax.tree.structure(shape), outs), marked

    return collecting


def _evaluate(closed: ClosedJaxpr, arguments: list[Any], marked: list[Array]) -> list[Any]:
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        values = [read(variable) for variable in equation.invars]
        name, params = equation.primitive.name, equation.params
        inner = params.get("call_jaxpr", params.get("jaxpr"))
        if name == "name" and params["name"] == UNITS:
            outs = values
            marked.append(values[0])
        elif name in INLINED and UNITS in str(inner):
            assert inner is not None
            inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])
            outs = _evaluate(inner, values, marked)
        else:
            params = equation.primitive.get_bind_params(params)
            outs = equation.primitive.bind(*values, **params)
            outs = outs if equation.primitive.multiple_results else [outs]
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


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
