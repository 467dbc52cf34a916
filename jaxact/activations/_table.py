"""The table of activations: what each is, where it comes from, and its constants."""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

from jax import Array

from jaxact.activations import _exponential as exponential
from jaxact.activations import _gated as gated
from jaxact.activations import _periodic as periodic
from jaxact.activations import _rectified as rectified
from jaxact.activations import _self_gated as self_gated
from jaxact.activations import _shrink as shrink
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


add(rectified.identity, "rectified", r"x", "", 0, (-INF, INF), 1.0, aliases=("linear",))
add(
    rectified.relu,
    "rectified",
    r"\max(x, 0)",
    "Nair and Hinton",
    2010,
    (0.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    rectified.relu6,
    "rectified",
    r"\min(\max(x, 0), 6)",
    "Krizhevsky",
    2010,
    (0.0, 6.0),
    1.0,
    breakpoints=(0.0, 6.0),
)
add(
    rectified.leaky_relu,
    "rectified",
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
    "rectified",
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
    "rectified",
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
    "rectified",
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
add(
    shrink.shifted_relu,
    "rectified",
    r"\max(x, -1)",
    "Clevert et al.",
    2016,
    (-1.0, INF),
    1.0,
    breakpoints=(-1.0,),
)
add(
    shrink.star_relu,
    "rectified",
    r"0.8944 \max(x, 0)^2 - 0.4472",
    "Yu et al.",
    2022,
    (-0.4472, INF),
    INF,
    breakpoints=(0.0,),
    aliases=("starrelu",),
)
add(
    shrink.threshold,
    "rectified",
    r"x \text{ if } x > 0 \text{ else } 0",
    "",
    0,
    (0.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    shrink.rrelu,
    "rectified",
    r"\max(x, 0) + \tfrac{11}{48} \min(x, 0)",
    "Xu et al.",
    2015,
    (-INF, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    shrink.hard_shrink,
    "rectified",
    r"x \text{ if } |x| > 1/2 \text{ else } 0",
    "Donoho and Johnstone",
    1994,
    (-INF, INF),
    INF,
    breakpoints=(-0.5, 0.5),
    aliases=("hardshrink",),
)
add(
    shrink.soft_shrink,
    "rectified",
    r"\mathrm{sign}(x) \max(|x| - 1/2, 0)",
    "Donoho",
    1995,
    (-INF, INF),
    1.0,
    breakpoints=(-0.5, 0.5),
    aliases=("softshrink",),
)
add(
    shrink.tanh_shrink,
    "rectified",
    r"x - \tanh x",
    "",
    0,
    (-INF, INF),
    1.0,
    aliases=("tanhshrink",),
)
add(
    shrink.sparse_plus,
    "rectified",
    r"\int_{-\infty}^x \min(\max((t + 1)/2, 0), 1)\, dt",
    "Blondel et al.",
    2020,
    (0.0, INF),
    1.0,
    breakpoints=(-1.0, 1.0),
)
add(
    shrink.sparse_sigmoid,
    "rectified",
    r"\min(\max((x + 1)/2, 0), 1)",
    "Blondel et al.",
    2020,
    (0.0, 1.0),
    0.5,
    breakpoints=(-1.0, 1.0),
)
add(
    exponential.elu,
    "exponential",
    r"x \text{ if } x > 0 \text{ else } e^x - 1",
    "Clevert et al.",
    2016,
    (-1.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    exponential.celu,
    "exponential",
    r"x \text{ if } x > 0 \text{ else } \alpha (e^{x/\alpha} - 1),\ \alpha = 1",
    "Barron",
    2017,
    (-1.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(
    exponential.selu,
    "exponential",
    r"s x \text{ if } x > 0 \text{ else } s \alpha (e^x - 1)",
    "Klambauer et al.",
    2017,
    (-1.7580993408473766, INF),
    1.7580993408473768,
    breakpoints=(0.0,),
)
add(
    exponential.softplus,
    "exponential",
    r"\log(1 + e^x)",
    "Dugas et al.",
    2001,
    (0.0, INF),
    1.0,
    aliases=("soft_plus",),
)
add(
    exponential.soft_relu,
    "exponential",
    r"\log(1 + e^{\min(\max(x, -40), 40)})",
    "",
    0,
    (4.248354255291589e-18, 40.0),
    1.0,
    breakpoints=(-40.0, 40.0),
)
add(
    exponential.squareplus,
    "exponential",
    r"(x + \sqrt{x^2 + 4}) / 2",
    "Barron",
    2021,
    (0.0, INF),
    1.0,
)
add(
    exponential.log_sigmoid,
    "exponential",
    r"-\log(1 + e^{-x})",
    "",
    0,
    (-INF, 0.0),
    1.0,
    aliases=("logsigmoid",),
)
add(
    exponential.log1mexp,
    "exponential",
    r"\log(1 - e^{-x})",
    "Mächler",
    2012,
    (-INF, 0.0),
    INF,
    breakpoints=(0.0,),
    limits=(NAN, 0.0),
)
add(
    sigmoidal.sigmoid,
    "sigmoidal",
    r"1 / (1 + e^{-x})",
    "Verhulst",
    1845,
    (0.0, 1.0),
    0.25,
    aliases=("logistic",),
)
add(
    sigmoidal.hard_sigmoid,
    "sigmoidal",
    r"\min(\max(x + 3, 0), 6) / 6",
    "Howard et al.",
    2019,
    (0.0, 1.0),
    0.16666666666666666,
    breakpoints=(-3.0, 3.0),
    aliases=("hardsigmoid",),
)
add(sigmoidal.tanh, "sigmoidal", r"\tanh x", "", 0, (-1.0, 1.0), 1.0)
add(
    sigmoidal.lecun_tanh,
    "sigmoidal",
    r"1.7159 \tanh(2x/3)",
    "LeCun et al.",
    1998,
    (-1.7159, 1.7159),
    1.1439333333333335,
)
add(
    sigmoidal.penalized_tanh,
    "sigmoidal",
    r"\tanh x \text{ if } x > 0 \text{ else } 0.25 \tanh x",
    "Xu et al.",
    2016,
    (-0.25, 1.0),
    1.0,
    breakpoints=(0.0,),
)
add(
    sigmoidal.symmetrical_sigmoid,
    "sigmoidal",
    r"\tanh(x/2)",
    "",
    0,
    (-1.0, 1.0),
    0.5,
    aliases=("bipolar_sigmoid",),
)
add(sigmoidal.erf, "sigmoidal", r"\mathrm{erf}(x)", "", 0, (-1.0, 1.0), 1.1283791670955126)
add(
    sigmoidal.arctan,
    "sigmoidal",
    r"\arctan x",
    "",
    0,
    (-1.5707963267948966, 1.5707963267948966),
    1.0,
    aliases=("atan",),
)
add(
    sigmoidal.soft_sign,
    "sigmoidal",
    r"x / (1 + |x|)",
    "Bergstra et al.",
    2009,
    (-1.0, 1.0),
    1.0,
    breakpoints=(0.0,),
    aliases=("softsign",),
)
add(sigmoidal.isru, "sigmoidal", r"x / \sqrt{1 + x^2}", "Carlile et al.", 2017, (-1.0, 1.0), 1.0)
add(
    sigmoidal.isrlu,
    "sigmoidal",
    r"x \text{ if } x > 0 \text{ else } x / \sqrt{1 + x^2}",
    "Carlile et al.",
    2017,
    (-1.0, INF),
    1.0,
    breakpoints=(0.0,),
)
add(sigmoidal.bent_identity, "sigmoidal", r"(\sqrt{x^2 + 1} - 1)/2 + x", "", 0, (-INF, INF), 1.5)
add(
    sigmoidal.log_log,
    "sigmoidal",
    r"1 - \exp(-e^x)",
    "Gomes and Ludermir",
    2008,
    (0.0, 1.0),
    0.36787944117144233,
    aliases=("cloglog",),
)
add(
    sigmoidal.gaussian,
    "sigmoidal",
    r"e^{-x^2}",
    "",
    0,
    (0.0, 1.0),
    0.8577638849607067,
    monotone=False,
    limits=(0.0, 0.0),
)
add(
    sigmoidal.sqnl,
    "sigmoidal",
    r"x - \mathrm{sign}(x) x^2/4 \text{ on } [-2, 2]",
    "Wuraola and Patel",
    2018,
    (-1.0, 1.0),
    1.0,
    breakpoints=(-2.0, 0.0, 2.0),
)
add(
    self_gated.gelu,
    "self_gated",
    r"x \Phi(x)",
    "Hendrycks and Gimpel",
    2016,
    (-0.16997120747990363, INF),
    1.128904145185155,
    monotone=False,
    limits=(0.0, INF),
)
add(
    gated.quick_gelu,
    "self_gated",
    r"x \sigma(1.702 x)",
    "Hendrycks and Gimpel",
    2016,
    (-0.16361018963635357, INF),
    1.099839320128867,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.silu,
    "self_gated",
    r"x \sigma(x)",
    "Elfwing et al.",
    2018,
    (-0.2784645427610738, INF),
    1.099839320128867,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.swish,
    "self_gated",
    r"x \sigma(\beta x),\ \beta = 1",
    "Ramachandran et al.",
    2017,
    (-0.2784645427610738, INF),
    1.099839320128867,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.mish,
    "self_gated",
    r"x \tanh(\log(1 + e^x))",
    "Misra",
    2019,
    (-0.3088434130172504, INF),
    1.088498161251728,
    monotone=False,
    limits=(0.0, INF),
)
add(
    self_gated.hard_silu,
    "self_gated",
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
add(
    gated.hard_mish,
    "self_gated",
    r"x \min(\max(x + 2, 0), 2) / 2",
    "",
    0,
    (-0.5, INF),
    1.0,
    monotone=False,
    breakpoints=(-2.0, 0.0),
    limits=(0.0, INF),
    aliases=("hardmish",),
)
add(
    gated.eswish,
    "self_gated",
    r"1.375 x \sigma(x)",
    "Alcaide",
    2018,
    (-0.38288874629647646, INF),
    1.512279065177192,
    monotone=False,
    limits=(0.0, INF),
    aliases=("e_swish",),
)
add(
    gated.su,
    "self_gated",
    r"\max(x, x e^{-|x|})",
    "Su",
    0,
    (-0.36787944117144233, INF),
    1.0,
    monotone=False,
    breakpoints=(0.0,),
    limits=(0.0, INF),
)
add(
    gated.serf,
    "self_gated",
    r"x\, \mathrm{erf}(\log(1 + e^x))",
    "Nag and Bhattacharyya",
    2021,
    (-0.3484374587596064, INF),
    1.086125444150997,
    monotone=False,
    limits=(0.0, INF),
)
add(
    gated.logish,
    "self_gated",
    r"x \log(1 + \sigma(x))",
    "Zhu et al.",
    2021,
    (-0.25276881678944035, INF),
    0.7463111804127397,
    monotone=False,
    limits=(0.0, INF),
)
add(
    gated.phish,
    "self_gated",
    r"x \tanh(\mathrm{gelu}(x))",
    "Naveen",
    2022,
    (0.0, INF),
    1.2983066733058117,
    monotone=False,
)
add(
    gated.tanhexp,
    "self_gated",
    r"x \tanh(e^x)",
    "Liu and Di",
    2020,
    (-0.3532857778482113, INF),
    1.061975308717916,
    monotone=False,
    limits=(0.0, INF),
    aliases=("tanh_exp",),
)
add(
    gated.smelu,
    "self_gated",
    r"(x + 1)^2/4 \text{ on } [-1, 1],\ 0 \text{ below},\ x \text{ above}",
    "Shamir et al.",
    2020,
    (0.0, INF),
    1.0,
    breakpoints=(-1.0, 1.0),
)
add(
    periodic.sine,
    "periodic",
    r"\sin x",
    "Sitzmann et al.",
    2020,
    (-1.0, 1.0),
    1.0,
    monotone=False,
    limits=(NAN, NAN),
    aliases=("sin",),
)
add(
    periodic.cosine,
    "periodic",
    r"\cos x",
    "",
    0,
    (-1.0, 1.0),
    1.0,
    monotone=False,
    limits=(NAN, NAN),
    aliases=("cos",),
)
add(periodic.snake, "periodic", r"x + \sin^2 x", "Ziyin et al.", 2020, (-INF, INF), 2.0)
add(
    periodic.sinc,
    "periodic",
    r"\sin(x) / x",
    "",
    0,
    (-0.21723362821122166, 1.0),
    0.4361818172714585,
    monotone=False,
    limits=(0.0, 0.0),
)
add(
    periodic.gcu,
    "periodic",
    r"x \cos x",
    "Noel et al.",
    2021,
    (-INF, INF),
    INF,
    monotone=False,
    limits=(NAN, NAN),
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
