"""The table of activations: what each is, where it comes from, and its constants."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from jax import Array

INF = math.inf
NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of an elementwise activation, at its default arguments."""

    name: str
    family: str
    """"rectified", "exponential", "sigmoidal", "self_gated", "periodic" or "searched"."""
    definition: str
    """In LaTeX, as a function of x."""
    paper: str
    year: int
    range: tuple[float, float]
    """Infimum and supremum of its values."""
    monotone: bool
    """Whether it never decreases."""
    lipschitz: float
    """The supremum of |f'|."""
    breakpoints: tuple[float, ...]
    """Where f or a derivative of it jumps."""
    limits: tuple[float, float]
    """At minus and at plus infinity; NaN where there is none."""
    aliases: tuple[str, ...]
    function: Callable[..., Array] = dataclasses.field(repr=False)


TABLE: dict[str, Info] = {}
ALIASES: dict[str, str] = {}

F = TypeVar("F", bound=Callable[..., Array])


def known(
    family: str,
    definition: str,
    *,
    range: tuple[float, float],
    lipschitz: float,
    paper: str = "",
    year: int = 0,
    monotone: bool = True,
    breakpoints: tuple[float, ...] = (),
    limits: tuple[float, float] | None = None,
    aliases: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Enters an activation in the table; a monotone function has its range for limits."""

    def enter(function: F) -> F:
        name = function.__name__
        TABLE[name] = Info(
            name=name,
            family=family,
            definition=definition,
            paper=paper,
            year=year,
            range=range,
            monotone=monotone,
            lipschitz=lipschitz,
            breakpoints=breakpoints,
            limits=range if limits is None else limits,
            aliases=aliases,
            function=function,
        )
        for alias in (name, *aliases):
            assert alias not in ALIASES, alias
            ALIASES[alias] = name
        return function

    return enter


def _resolve(name: str) -> Info:
    key = name.strip().lower().replace("-", "_")
    if key in ALIASES:
        return TABLE[ALIASES[key]]
    from jaxact import activations  # only now: it imports this file

    other = vars(activations).get(key)
    if inspect.isfunction(other) and not key.startswith("_"):
        raise ValueError(
            f"{name!r} is not a function of one array alone: jaxact.activations.{key}"
            f"{_arguments(other)}; hand in a callable of x, such as a lambda that calls it"
        )
    raise ValueError(f"unknown activation {name!r}{nearest(key)}; see jaxact.activations.names()")


def _arguments(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return "(" + ", ".join(map(str, bare)) + ")"


def nearest(name: str) -> str:
    """The names that are most like an unknown one, as a hint."""
    near = difflib.get_close_matches(name, ALIASES, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(near)}" if near else ""


def get(activation: str | Callable[..., Any], /) -> Callable[..., Any]:
    """The activation of that name or alias; a callable is returned as it is.

    Args:
        activation: A name such as "relu", an alias such as "hard_swish", or a callable.

    Returns:
        A function of one array.

    Raises:
        ValueError: The name is unknown; the message gives the nearest ones.
        TypeError: Neither a name nor a callable.

    Example:
        >>> get("swish").__name__
        'swish'
    """
    if isinstance(activation, str):
        return _resolve(activation).function
    if callable(activation):
        return activation
    raise TypeError(f"activation must be a name or a callable, got {activation!r}")


def names(*, family: str | None = None) -> tuple[str, ...]:
    """The names in the table, sorted; those of one family if one is given.

    Args:
        family: "rectified", "exponential", "sigmoidal", "self_gated", "periodic" or "searched".

    Raises:
        ValueError: No such family.
    """
    families = sorted({row.family for row in TABLE.values()})
    if family is not None and family not in families:
        raise ValueError(f"family must be one of {families}, got {family!r}")
    return tuple(sorted(n for n, row in TABLE.items() if family in (None, row.family)))


def info(name: str, /) -> Info:
    """What the table knows of an activation.

    Args:
        name: A name or an alias.

    Raises:
        ValueError: The name is unknown; the message gives the nearest ones.

    Example:
        >>> info("relu6").breakpoints
        (0.0, 6.0)
    """
    return _resolve(name)
