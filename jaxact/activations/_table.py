"""The table of activations: what each is, where it comes from, and its constants."""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

from jax import Array

from jaxact.activations import _exponential as exponential
from jaxact.activations import _periodic as periodic
from jaxact.activations import _rectified as rectified
from jaxact.activations import _self_gated as self_gated
from jaxact.activations import _sigmoidal as sigmoidal

INF = math.inf
NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of an elementwise activation, at its default arguments."""

    name: str
    family: str
    """"rectified", "exponential", "sigmoidal", "self_gated" or "periodic"."""
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


def add(
    function: Callable[..., Array],
    family: str,
    definition: str,
    paper: str,
    year: int,
    range: tuple[float, float],
    lipschitz: float,
    *,
    monotone: bool = True,
    breakpoints: tuple[float, ...] = (),
    limits: tuple[float, float] | None = None,
    aliases: tuple[str, ...] = (),
) -> None:
    """Enter a row; a monotone function has its range for limits."""
    limits = range if limits is None else limits
    name = function.__name__
    row = (name, family, definition, paper, year, range, monotone, lipschitz, breakpoints, limits)
    TABLE[name] = Info(*row, aliases, function)
    for alias in (name, *aliases):
        assert alias not in ALIASES, alias
        ALIASES[alias] = name


R = "rectified"
add(rectified.identity, R, r"x", "", 0, (-INF, INF), 1.0, aliases=("linear",))
add(rectified.relu, R, r"\max(x, 0)", "Nair and Hinton", 2010, (0.0, INF), 1.0, breakpoints=(0.0,))
add(
    rectified.relu6,
    R,
    r"\min(\max(x, 0), 6)",
    "Krizhevsky",
    2010,
    (0.0, 6.0),
    1.0,
    breakpoints=(0.0, 6.0),
)
add(
    rectified.leaky_relu,
    R,
    r"\max(x, 0) + 0.01 \min(x, 0)",
    "Maas et al.",
    2013,
    (-INF, INF),
    1.0,
    breakpoints=(0.0,),
    aliases=("lrelu",),
)
add(
    rectified.squared_relu,
    R,
    r"\max(x, 0)^2",
    "So et al.",
    2021,
    (0.0, INF),
    INF,
    breakpoints=(0.0,),
    aliases=("relu_squared", "relu2"),
)
add(
    rectified.hard_tanh,
    R,
    r"\min(\max(x, -1), 1)",
    "Collobert",
    2004,
    (-1.0, 1.0),
    1.0,
    breakpoints=(-1.0, 1.0),
    aliases=("hardtanh", "relu1"),
)
add(
    rectified.abs,
    R,
    r"|x|",
    "Jarrett et al.",
    2009,
    (0.0, INF),
    1.0,
    monotone=False,
    breakpoints=(0.0,),
    limits=(INF, INF),
    aliases=("absolute",),
)

E = "exponential"
add(
    exponential.elu,
    E,
    r"x \text{ if } x > 0 \text{ else } e^x - 1",
    "Clevert et al.",
    2016,
    (-1.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    exponential.celu,
    E,
    r"x \text{ if } x > 0 \text{ else } \alpha (e^{x/\alpha} - 1),\ \alpha = 1",
    "Barron",
    2017,
    (-1.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    exponential.selu,
    E,
    r"s x \text{ if } x > 0 \text{ else } s \alpha (e^x - 1)",
    "Klambauer et al.",
    2017,
    (-1.7580993408473766, INF),
    1.7580993408473766,
    breakpoints=(0.0,),
)
add(exponential.softplus, E, r"\log(1 + e^x)", "Dugas et al.", 2001, (0.0, INF), 1.0)

S = "sigmoidal"
add(
    sigmoidal.sigmoid,
    S,
    r"1 / (1 + e^{-x})",
    "Verhulst",
    1845,
    (0.0, 1.0),
    0.25,
    aliases=("logistic",),
)
add(sigmoidal.tanh, S, r"\tanh x", "", 0, (-1.0, 1.0), 1.0)
add(sigmoidal.erf, S, r"\mathrm{erf}(x)", "", 0, (-1.0, 1.0), 1.1283791670955126)
add(
    sigmoidal.soft_sign,
    S,
    r"x / (1 + |x|)",
    "Bergstra et al.",
    2009,
    (-1.0, 1.0),
    1.0,
    breakpoints=(0.0,),
    aliases=("softsign",),
)

G = "self_gated"
add(
    self_gated.gelu,
    G,
    r"x \Phi(x)",
    "Hendrycks and Gimpel",
    2016,
    (-0.16997120747990369, INF),
    1.1289041451851548,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.silu,
    G,
    r"x \sigma(x)",
    "Elfwing et al.",
    2018,
    (-0.27846454276107379, INF),
    1.0998393201288226,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.swish,
    G,
    r"x \sigma(\beta x),\ \beta = 1",
    "Ramachandran et al.",
    2017,
    (-0.27846454276107379, INF),
    1.0998393201288226,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.mish,
    G,
    r"x \tanh(\log(1 + e^x))",
    "Misra",
    2019,
    (-0.30884341273420087, INF),
    1.0885,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.hard_silu,
    G,
    r"x \min(\max(x + 3, 0), 6) / 6",
    "Howard et al.",
    2019,
    (-0.375, INF),
    1.5,
    monotone=False,
    breakpoints=(-3.0, 3.0),
    limits=(0.0, INF),
    aliases=("hard_swish", "hardswish"),
)

P = "periodic"
add(
    periodic.sine,
    P,
    r"\sin x",
    "Sitzmann et al.",
    2020,
    (-1.0, 1.0),
    1.0,
    monotone=False,
    limits=(NAN, NAN),
    aliases=("sin",),
)


def _resolve(name: str) -> Info:
    key = name.strip().lower().replace("-", "_")
    if key not in ALIASES:
        near = difflib.get_close_matches(key, ALIASES, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"unknown activation {name!r}{hint}; see jaxact.activations.names()")
    return TABLE[ALIASES[key]]


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
        family: "rectified", "exponential", "sigmoidal", "self_gated" or "periodic".

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
