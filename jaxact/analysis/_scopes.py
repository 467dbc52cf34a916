"""Named scopes of a function without modules: the values that leave them, marked as layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from jaxact._compat import scan_counts
from jaxact.analysis._tags import INLINED, inner_programs, mark_module, replay


def scoped(function: Callable[..., Any], /) -> Callable[..., Any]:
    """A function that marks what leaves each `jax.named_scope` in it as a module's output is.

    A scope is one layer at each entry, named by its path: its value is the last matrix or larger
    array of floats computed inside that is used outside or returned. Of a value that is the last
    of nested scopes the innermost is the name. Scopes in a branch of control flow or a
    ``while_loop``, and in the backward pass of a derivative, are not seen.

    Args:
      function: of pytrees of arrays.

    Returns:
      The same function, to be taken apart by `marked`.
    """

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outs = _run(closed, jax.tree.leaves(arguments), ())
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return run


def _run(closed: ClosedJaxpr, arguments: list[Any], within: tuple[str, ...]) -> list[Any]:
    """Evaluates a program that lies inside the scopes ``within``."""
    leaving = _leaving(closed.jaxpr)

    def compute(equation: Any, values: list[Any]) -> list[Any] | None:
        path = (*within, *(entry.name for entry in _entries(equation)))
        kind, params = equation.primitive.name, equation.params
        if _is_backward(equation):
            return None
        if kind in INLINED and _holds_scopes(inner := next(inner_programs(params))):
            return _run(inner, values, path)
        if kind == "scan" and _holds_scopes(params["jaxpr"]):
            return _scan(params, values, path)
        return None

    def mark(variable: Any, value: Any) -> Any:
        names = leaving.get(variable)
        return value if names is None else mark_module(value, "/".join((*within, *names)))

    return replay(closed, arguments, compute, mark)


def _scan(params: Any, values: list[Any], within: tuple[str, ...]) -> list[Any]:
    fixed, carried = scan_counts(params)
    count = fixed + carried

    def body(carry: list[Any], step: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = _run(params["jaxpr"], [*values[:fixed], *carry, *step], within)
        return outs[:carried], outs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(body, values[fixed:count], values[count:], **options)
    return [*carry, *ys]


def _entries(equation: Any) -> tuple[Any, ...]:
    """The scopes that an equation lies in, outermost first: each entry has an object of its own."""
    if _is_backward(equation):
        return ()
    return tuple(part for part in equation.source_info.name_stack.stack if _is_scope(part))


def _is_backward(equation: Any) -> bool:
    stack = equation.source_info.name_stack.stack
    return any(part.name == "transpose" and not _is_scope(part) for part in stack)


def _is_scope(part: Any) -> bool:
    # `jnp.einsum` opens a scope named by its subscripts.
    own = "," in part.name or "->" in part.name
    return type(part).__name__ == "Scope" and not own


def _holds_scopes(closed: ClosedJaxpr) -> bool:
    return any(
        _entries(equation) or any(map(_holds_scopes, inner_programs(equation.params)))
        for equation in closed.jaxpr.eqns
    )


def _leaving(jaxpr: Any) -> dict[Any, tuple[str, ...]]:
    """By variable the names of the scope whose output it is."""
    entries = [_entries(equation) for equation in jaxpr.eqns]
    users: dict[Any, list[tuple[int, ...]]] = {}
    for equation, inside in zip(jaxpr.eqns, entries, strict=True):
        for variable in equation.invars:
            if not isinstance(variable, Literal):
                users.setdefault(variable, []).append(tuple(map(id, inside)))
    for variable in jaxpr.outvars:
        if not isinstance(variable, Literal):
            users.setdefault(variable, []).append(())
    last: dict[tuple[int, ...], tuple[Any, tuple[str, ...]]] = {}
    for equation, inside in zip(jaxpr.eqns, entries, strict=True):
        known = tuple(map(id, inside))
        for variable in equation.outvars:
            kind = variable.aval
            if kind.ndim < 2 or not jnp.issubdtype(kind.dtype, jnp.floating):
                continue
            for depth in range(1, len(inside) + 1):
                if any(user[:depth] != known[:depth] for user in users.get(variable, ())):
                    names = tuple(entry.name for entry in inside[:depth])
                    last[known[:depth]] = variable, names
    found: dict[Any, tuple[str, ...]] = {}
    for variable, names in sorted(last.values(), key=lambda each: len(each[1])):
        found[variable] = names
    return found
