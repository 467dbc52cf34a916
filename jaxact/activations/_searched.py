"""What a search over functions found, and powers: the lists of Ramachandran 2017 and Eger 2018."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import elementwise, pick, ruled
from jaxact.activations._math import _coefficients as fits
from jaxact.activations._math import _special as sp
from jaxact.activations._periodic import sinc_slope, sinc_value, unit_sine_slope
from jaxact.activations._table import INF, NAN, known

Out = Float[Array, "..."]

_MAXSIG_ROOT = 0.65904606840740665
_maxsig = elementwise(
    lambda x: jnp.where(sp.above(x, _MAXSIG_ROOT), x, sp.sigmoid(x)),
    lambda x: jnp.where(sp.above(x, _MAXSIG_ROOT), 1.0, sp.bell(x)),
    name="maxsig",
)


@known(
    "searched",
    r"\max(x, \sigma(x))",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Ramachandran et al.",
    year=2017,
    breakpoints=(_MAXSIG_ROOT,),
)
def maxsig(x: Any, /) -> Out:
    """The greater of identity and sigmoid, f(x) = max(x, sigmoid(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Positive values. The derivative jumps from 0.22 to 1 at x = 0.659.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1; named by Eger et
        al. 2018, "Is it Time to Swish?"
    """
    return _maxsig(x)


_maxtanh = elementwise(
    lambda x: jnp.where(x > 0, x, sp.tanh(x)),
    lambda x: jnp.where(x > 0, 1.0, sp.sech2(sp.negative_part(x))),
    name="maxtanh",
)


@known(
    "searched",
    r"\max(x, \tanh x)",
    range=(-1.0, INF),
    lipschitz=1.0,
    paper="Ramachandran et al.",
    year=2017,
    breakpoints=(0.0,),
)
def maxtanh(x: Any, /) -> Out:
    """The greater of identity and tanh, f(x) = max(x, tanh(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -1. Two derivatives are continuous at 0.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1; named by Eger et
        al. 2018, "Is it Time to Swish?"
    """
    return _maxtanh(x)


_minsin = elementwise(
    lambda x: jnp.where(x > 0, jnp.sin(x), x),
    lambda x: jnp.where(x > 0, jnp.cos(x), jnp.where(x != x, x, 1.0)),
    name="minsin",
)


@known(
    "searched",
    r"\min(x, \sin x)",
    range=(-INF, 1.0),
    lipschitz=1.0,
    paper="Ramachandran et al.",
    year=2017,
    monotone=False,
    breakpoints=(0.0,),
    limits=(-INF, NAN),
)
def minsin(x: Any, /) -> Out:
    """The lesser of identity and sine, f(x) = min(x, sin(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values up to 1; NaN at infinity, where there is no limit.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1; named by Eger et
        al. 2018, "Is it Time to Swish?"
    """
    return _minsin(x)


def _about(x: Array, name: str, further: Array) -> Array:
    """Within reach of a centre, a fit in the distance from it; elsewhere ``further``."""
    centre, reach = getattr(fits, f"{name}_CENTRE"), getattr(fits, f"{name}_REACH")
    d = x - centre
    fitted = sp.horner(jnp.clip(d, -reach, reach), sp.fit(x, name))
    return jnp.where(jnp.abs(d) < reach, fitted, further)


def _about_zero(x: Array, name: str, further: Array) -> Array:
    """Within reach of the value's zero, the distance times a fit; elsewhere ``further``."""
    root, rest = sp.fit(x, f"{name}_ROOT")
    left, right = getattr(fits, f"{name}_REACH")
    d = sp.from_root(x, (root, rest), x == x)
    inside = jnp.clip(d, -left, right)
    return jnp.where(
        d == inside, inside * sp.horner(inside, sp.fit(x, f"{name}_QUOTIENT")), further
    )


def _cosid_value(x: Array) -> Array:
    return _about_zero(x, "COSID", jnp.where(jnp.isinf(x), 0.0, jnp.cos(x)) - x)


_cosid = elementwise(_cosid_value, lambda x: -unit_sine_slope(x))


@known(
    "searched",
    r"\cos x - x",
    range=(-INF, INF),
    lipschitz=2.0,
    paper="Ramachandran et al.",
    year=2017,
    monotone=False,
    limits=(INF, -INF),
)
def cosid(x: Any, /) -> Out:
    """Cosine less identity, f(x) = cos(x) - x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; it never increases.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1; named by Eger et
        al. 2018, "Is it Time to Swish?"
    """
    return _cosid(x)


def _arctid_value(x: Array) -> Array:
    """The square takes up to 0.65 of x: there x times a fit of what is left."""
    y = sp.arctan(x)
    ratio = _about(x, "ARCTID", jnp.zeros_like(x))
    square = y * y
    further = (square - x) + sp.product_error(y, y, square)
    return jnp.where(ratio == 0, further, -x * ratio)


def _arctid_slope(x: Array) -> Array:
    r = 1.0 / (1.0 + x * x)
    return _about(x, "ARCTID_RISE", 2.0 * sp.arctan(x) * r - 1.0)


def _arctid_curvature(x: Array) -> Array:
    y = jnp.clip(x, -1e9, 1e9)
    r = 1.0 / (1.0 + y * y)
    return 2.0 * r * r * (1.0 - 2.0 * y * sp.arctan(y))


_arctid = elementwise(_arctid_value, ruled(_arctid_slope, _arctid_curvature))


@known(
    "searched",
    r"\arctan(x)^2 - x",
    range=(-INF, INF),
    lipschitz=1.8238985596831419,
    paper="Ramachandran et al.",
    year=2017,
    monotone=False,
    limits=(INF, -INF),
)
def arctid(x: Any, /) -> Out:
    """Squared inverse tangent less identity, f(x) = arctan(x)^2 - x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; it never increases.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1; named by Eger et
        al. 2018, "Is it Time to Swish?"
    """
    return _arctid(x)


def _sincid_value(x: Array) -> Array:
    return _about_zero(x, "SINCID", x + sinc_value(x))


_sincid = elementwise(_sincid_value, lambda x: 1.0 + sinc_slope(x))


@known(
    "searched",
    r"\sin(x) / x + x",
    range=(-INF, INF),
    lipschitz=1.4361818172714584,
    paper="Ramachandran et al.",
    year=2017,
)
def sincid(x: Any, /) -> Out:
    """Cardinal sine and identity, f(x) = sin(x)/x + x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1.
    """
    return _sincid(x)


def _arcsinh_of(a: Array) -> Array:
    """The inverse hyperbolic sine of a >= 0."""
    small = jnp.minimum(a, 1.0)
    z = small * small
    near = small + small * z * sp.horner(z, sp.fit(a, "ARCSINH"))
    b = jnp.maximum(a, 1.0)
    r = 1.0 / b
    # log(2 b) and a small rest, log((1 + sqrt(1 + r^2))/2)
    rest = jnp.log1p(0.5 * r * r / (1.0 + jnp.sqrt(1.0 + r * r)))
    far = sp.log_plus(jnp.minimum(b, float(jnp.finfo(b.dtype).max)), rest)
    return jnp.where(a < 1.0, near, jnp.where(jnp.isinf(a), a, far))


_arcsinh = ruled(_arcsinh_of, lambda a: 1.0 / jnp.sqrt(1.0 + a * a))


def _arcsinh_gated_value(x: Array) -> Array:
    y = _arcsinh(jnp.abs(x))
    return x * y * y


def _arcsinh_gated_slope(x: Array) -> Array:
    a = jnp.abs(x)
    y = _arcsinh(a)
    b = jnp.maximum(a, 1.0)
    share = jnp.where(a < 1.0, a / jnp.sqrt(1.0 + a * a), 1.0 / jnp.sqrt(1.0 + 1.0 / b / b))
    return y * (y + 2.0 * share)


def _arcsinh_gated_curvature(x: Array) -> Array:
    """The derivative 2 s (y (1 + s^2) + x s) with s = 1/sqrt(1 + x^2), odd."""
    a = sp.capped(jnp.abs(x), 1e9)
    y, s = _arcsinh(a), 1.0 / jnp.sqrt(1.0 + a * a)
    bend = 2.0 * s * (y * (1.0 + s * s) + a * s)
    return jnp.where(x < 0, -bend, bend)


_arcsinh_gated = elementwise(
    _arcsinh_gated_value, ruled(_arcsinh_gated_slope, _arcsinh_gated_curvature)
)


@known(
    "searched",
    r"x\, \mathrm{arcsinh}(x)^2",
    range=(-INF, INF),
    lipschitz=INF,
    paper="Ramachandran et al.",
    year=2017,
)
def arcsinh_gated(x: Any, /) -> Out:
    """Identity gated by a squared inverse hyperbolic sine, f(x) = x arcsinh(x)^2.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions", table 1.
    """
    return _arcsinh_gated(x)


_cube = elementwise(lambda x: x * x * x, lambda x: 3.0 * x * x, name="cube")


@known(
    "searched",
    r"x^3",
    range=(-INF, INF),
    lipschitz=INF,
    paper="Chen and Manning",
    year=2014,
)
def cube(x: Any, /) -> Out:
    """The cube, f(x) = x^3.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x.

    Reference:
        Chen and Manning 2014, "A Fast and Accurate Dependency Parser using Neural Networks".
    """
    return _cube(x)


def _flat(x: Array, t: Array) -> Array:
    return pick(x, t)


_step = elementwise(
    lambda x: jnp.where(x != x, x, jnp.where(x >= 0, 1.0, 0.0)),
    tangent=_flat,
    name="step",
    selects=True,
)


@known(
    "searched",
    r"1 \text{ if } x \ge 0 \text{ else } 0",
    range=(0.0, 1.0),
    lipschitz=INF,
    paper="McCulloch and Pitts",
    year=1943,
    breakpoints=(0.0,),
    aliases=("heaviside", "binary_step"),
)
def step(x: Any, /) -> Out:
    """Heaviside's step, f(x) = 1 for x >= 0, else 0.

    Args:
        x: Real floating array of any shape.

    Returns:
        0 or 1, in the dtype of x. The derivative is 0 everywhere, at the jump too.

    Reference:
        McCulloch and Pitts 1943, "A Logical Calculus of the Ideas Immanent in Nervous Activity".
    """
    return _step(x)


_sign = elementwise(lambda x: jnp.sign(x), tangent=_flat, name="sign", selects=True)


@known(
    "searched",
    r"\mathrm{sign}(x)",
    range=(-1.0, 1.0),
    lipschitz=INF,
    paper="Rosenblatt",
    year=1958,
    breakpoints=(0.0,),
)
def sign(x: Any, /) -> Out:
    """The sign, f(x) = -1, 0 or 1.

    Args:
        x: Real floating array of any shape.

    Returns:
        -1, 0 or 1, in the dtype of x. The derivative is 0 everywhere, at the jump too.

    Reference:
        Rosenblatt 1958, "The Perceptron".
    """
    return _sign(x)
