"""Further self-gated functions, of the search for what follows SiLU and GELU."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import Number, as_number, elementwise, ruled
from jaxact.activations._math import _special as sp
from jaxact.activations._self_gated import bounded, bounded_below, swish
from jaxact.activations._table import INF, known

Out = Float[Array, "..."]


@known(
    "self_gated",
    r"x \sigma(1.702 x)",
    range=(-0.16361018963635357, INF),
    lipschitz=1.099839320128867,
    paper="Hendrycks and Gimpel",
    year=2016,
    monotone=False,
    limits=(0.0, INF),
)
def quick_gelu(x: Any, /) -> Out:
    """Sigmoid form of GELU, f(x) = x sigmoid(1.702 x).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.1636; 0 at minus infinity.

    Reference:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    return swish(x, beta=1.702)


def _eswish_value(x: Array, beta: float) -> Array:
    y = bounded_below(x)
    z, error = (beta * y, 0.0) if sp.exact(beta) else sp.scaled_product(y, beta)
    parts = sp.negative_parts(-jnp.abs(x))
    top = jnp.where(x < 0, sp.times_exp(z, parts, error), z)
    return top / (1.0 + sp.of_parts(parts))


def _eswish_slope(x: Array, beta: float) -> Array:
    return sp.silu_slope(x, beta)


_eswish = elementwise(_eswish_value, _eswish_slope)


@known(
    "self_gated",
    r"1.375 x \sigma(x)",
    range=(-0.38288874629647646, INF),
    lipschitz=1.512279065177192,
    paper="Alcaide",
    year=2018,
    monotone=False,
    limits=(0.0, INF),
    aliases=("e_swish",),
)
def eswish(x: Any, /, *, beta: Number = 1.375) -> Out:
    """E-swish, f(x) = beta x sigmoid(x).

    Args:
        x: Real floating array of any shape.
        beta: Scale; the paper takes 1 to 2.

    Returns:
        Values of the shape and dtype of x; 0 at minus infinity.

    Reference:
        Alcaide 2018, "E-swish: Adjusting Activations to Different Network Depths".
    """
    return _eswish(x, as_number(beta, "beta"))


def _hard_mish_value(x: Array) -> Array:
    return jnp.where(x <= -2, 0.0, jnp.where(x >= 0, x, x * (0.5 * x + 1.0)))


def _hard_mish_slope(x: Array) -> Array:
    return jnp.where(x <= -2, 0.0, jnp.where(x > 0, 1.0, x + 1.0))


_hard_mish = elementwise(_hard_mish_value, _hard_mish_slope)


@known(
    "self_gated",
    r"x \min(\max(x + 2, 0), 2) / 2",
    range=(-0.5, INF),
    lipschitz=1.0,
    monotone=False,
    breakpoints=(-2.0, 0.0),
    limits=(0.0, INF),
    aliases=("hardmish",),
)
def hard_mish(x: Any, /) -> Out:
    """Piecewise quadratic Mish, f(x) = x min(max(x + 2, 0), 2) / 2.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.5.

    Reference:
        H-Mish, timm's hard_mish.
    """
    return _hard_mish(x)


def _su_value(x: Array) -> Array:
    y = jnp.maximum(sp.negative_part(x), -2000.0)
    return jnp.where(x > 0, x, sp.times_decay(y, y))


def _su_slope(x: Array) -> Array:
    y = jnp.maximum(sp.negative_part(x), -2000.0)
    return jnp.where(x > 0, 1.0, sp.times_decay(1.0 + y, y))


def _su_curvature(x: Array) -> Array:
    y = jnp.maximum(sp.negative_part(x), -2000.0)
    return jnp.where(x > 0, 0.0, sp.times_decay(2.0 + y, y))


_su = elementwise(_su_value, ruled(_su_slope, _su_curvature))


@known(
    "self_gated",
    r"\max(x, x e^{-|x|})",
    range=(-0.36787944117144233, INF),
    lipschitz=1.0,
    paper="Su",
    monotone=False,
    breakpoints=(0.0,),
    limits=(0.0, INF),
)
def su(x: Any, /) -> Out:
    """Su's function, f(x) = max(x, x exp(-|x|)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of at least -1/e. The second derivative at 0 is 2, from the left.

    Reference:
        J. Su.
    """
    return _su(x)


def _gate_fit(e: Array, name: str) -> Array:
    """The fit of this name at e = exp(-|x|)."""
    return sp.horner(e - 0.75, sp.fit(e, name))


def _near_zero(x: Array, middle: float, name: str, further: Array) -> Array:
    """X times its gate, whose value at 0 is ``middle``; from |x| = 3/4 on, ``further``."""
    near = jnp.abs(x) < 0.75
    rest = sp.horner(x, sp.fit(x, f"{name}_NEAR"))
    return jnp.where(near, x * (middle + x * rest), further)


def _serf_value(x: Array) -> Array:
    """With e = exp(x), where x < 0 the gate is e times a fit, else 1 - erfc(log(1 + exp(x)))."""
    below = sp.times_decay(bounded_below(x) * _gate_fit(sp.decay(x), "SERF"), x)
    above = x - sp.capped(x, 2000.0) * sp.erfc_tail(sp.softplus(x))
    return _near_zero(x, math.erf(math.log(2)), "SERF", jnp.where(x < 0, below, above))


_ERF_SLOPE = 1.1283791670955125739


def _serf_slope(x: Array) -> Array:
    """erf(y) + 2/sqrt(pi) x exp(-y^2) sigmoid(x), y = log(1 + exp(x)); e is a factor, x < 0."""
    e, y, z = sp.decay(x), sp.softplus(x), bounded(x)
    rise = _gate_fit(e, "SERF") + z * _gate_fit(e, "SERF_RISE")
    below = sp.times_decay(rise, x)
    above = sp.erf(y) + _ERF_SLOPE * (z * sp.gaussian(y)) * sp.sigmoid(x)
    return sp.through_root(x, jnp.where(x < 0, below, above), "SERF")


def _serf_curvature(x: Array) -> Array:
    s, y, z = sp.sigmoid(x), sp.softplus(x), bounded(x)
    rest = sp.sigmoid_of_minus(x) - 2.0 * jnp.minimum(y, 60.0) * s
    return _ERF_SLOPE * sp.gaussian(y) * s * (2.0 + z * rest)


_serf = elementwise(_serf_value, ruled(_serf_slope, _serf_curvature))


@known(
    "self_gated",
    r"x\, \mathrm{erf}(\log(1 + e^x))",
    range=(-0.3484374587596064, INF),
    lipschitz=1.086125444150997,
    paper="Nag and Bhattacharyya",
    year=2021,
    monotone=False,
    limits=(0.0, INF),
)
def serf(x: Any, /) -> Out:
    """Serf, f(x) = x erf(log(1 + exp(x))).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.3484; 0 at minus infinity.

    Reference:
        Nag and Bhattacharyya 2021, "SERF".
    """
    return _serf(x)


def _logish_value(x: Array) -> Array:
    """With e = exp(-|x|), log(1 + sigmoid(x)) is e + e^2 times a fit where x < 0.

    Elsewhere it is log(2) + e times another.
    """
    e, y = sp.decay(x), bounded_below(x)
    below = sp.times_decay(y, x)
    below = below + below * (e * _gate_fit(e, "LOGISH"))
    above = y * (math.log(2) + e * _gate_fit(e, "LOGISH_REST"))
    return _near_zero(x, math.log(1.5), "LOGISH", jnp.where(x < 0, below, above))


def _logish_slope(x: Array) -> Array:
    """log(1 + s) + x s (1 - s)/(1 + s), s = sigmoid(x); e = exp(x) is a factor where x < 0."""
    e, y = sp.decay(x), bounded(x)
    rise = y / jnp.where(x < 0, 1.0 + e * (3.0 + 2.0 * e), (1.0 + e) * (2.0 + e))
    below = 1.0 + e * _gate_fit(e, "LOGISH") + rise
    above = math.log(2) + e * (_gate_fit(e, "LOGISH_REST") + rise)
    below = sp.times_decay(below, x)
    return sp.through_root(x, jnp.where(x < 0, below, above), "LOGISH")


def _logish_curvature(x: Array) -> Array:
    s = sp.sigmoid(x)
    rest = sp.sigmoid_of_minus(x)
    ratio = rest / (1.0 + s)
    return s * ratio * (2.0 + bounded(x) * (rest - s * (1.0 + s)) / (1.0 + s))


_logish = elementwise(_logish_value, ruled(_logish_slope, _logish_curvature))


@known(
    "self_gated",
    r"x \log(1 + \sigma(x))",
    range=(-0.25276881678944035, INF),
    lipschitz=0.7463111804127397,
    paper="Zhu et al.",
    year=2021,
    monotone=False,
    limits=(0.0, INF),
)
def logish(x: Any, /) -> Out:
    """Logish, f(x) = x log(1 + sigmoid(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; 0 at minus infinity.

    Reference:
        Zhu et al. 2021, "Logish: A New Nonlinear Nonmonotonic Activation Function".
    """
    return _logish(x)


def _phish_slope(x: Array) -> Array:
    y, z = sp.gelu(x), bounded(x)
    slope = sp.tanh(y) + z * sp.sech2(y) * sp.gelu_slope(x)
    # Far down tanh(y) = y, whose slope is the density's, and what they share comes last.
    slope = jnp.where(jnp.abs(x) < 1e-20, x, slope)
    slope = jnp.where(x < _PHISH_FAR, sp.gelu_tail(x, lambda y, y_slope: y + z * y_slope), slope)
    return sp.through_root(x, slope, "PHISH")


_PHISH_FAR = -6.0


def _phish_value(x: Array) -> Array:
    y = sp.gelu(x)
    further = bounded_below(x) * jnp.where(y < 1.0, y - sp.tanh_defect(y), sp.tanh(y))
    further = jnp.where(x < _PHISH_FAR, sp.gelu_tail(x, lambda y, _: bounded(x) * y), further)
    return _near_zero(x, 0.0, "PHISH", further)


def _phish_curvature(x: Array) -> Array:
    y, y_slope, z = sp.gelu(x), sp.gelu_slope(x), bounded(x)
    bend = (2.0 - z * z) * sp.normal_pdf(z) - 2.0 * sp.tanh(y) * y_slope * y_slope
    return sp.sech2(y) * (2.0 * y_slope + z * bend)


_phish = elementwise(_phish_value, ruled(_phish_slope, _phish_curvature))


@known(
    "self_gated",
    r"x \tanh(\mathrm{gelu}(x))",
    range=(0.0, INF),
    lipschitz=1.2983066733058117,
    paper="Naveen",
    year=2022,
    monotone=False,
)
def phish(x: Any, /) -> Out:
    """Phish, f(x) = x tanh(gelu(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; 0 at minus infinity.

    Reference:
        Naveen 2022, "Phish: A Novel Hyper-Optimizable Activation Function".
    """
    return _phish(x)


def _tanh_over(e: Array) -> Array:
    """tanh(e)/e, e at most 1."""
    return sp.horner(e * e, sp.fit(e, "TANH_UNIT"))


def _tanhexp_value(x: Array) -> Array:
    """With e = exp(x) it is x e (tanh(e)/e) where x < 0, else x - 2 x q/(1 + q), q = exp(-2e)."""
    below = sp.times_decay(bounded_below(x) * _tanh_over(sp.decay(x)), x)
    q = sp.exp_negative(-2.0 * jnp.exp(jnp.minimum(x, 4.0)))
    return jnp.where(x < 0, below, x - sp.capped(x, 4.0) * (2.0 * q / (1.0 + q)))


def _tanhexp_slope(x: Array) -> Array:
    """tanh(e) + x e/cosh(e)^2, e = exp(x), with the parts of the value."""
    small, e, y = sp.decay(x), jnp.exp(jnp.minimum(x, 4.0)), bounded(x)
    ratio = _tanh_over(small)
    tanh = small * ratio
    below = sp.times_decay(ratio + y * (1.0 - tanh * tanh), x)
    q = sp.exp_negative(-2.0 * e)
    double = 2.0 / (1.0 + q)
    above = 1.0 - q * (double * (1.0 - y * e * double))
    return sp.through_root(x, jnp.where(x < 0, below, above), "TANHEXP")


def _tanhexp_curvature(x: Array) -> Array:
    e, y = jnp.exp(jnp.minimum(x, 4.0)), bounded(x)
    return e * sp.sech2(e) * (2.0 + y - 2.0 * y * e * sp.tanh(e))


_tanhexp = elementwise(_tanhexp_value, ruled(_tanhexp_slope, _tanhexp_curvature))


@known(
    "self_gated",
    r"x \tanh(e^x)",
    range=(-0.3532857778482113, INF),
    lipschitz=1.061975308717916,
    paper="Liu and Di",
    year=2020,
    monotone=False,
    limits=(0.0, INF),
    aliases=("tanh_exp",),
)
def tanhexp(x: Any, /) -> Out:
    """TanhExp, f(x) = x tanh(exp(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.3532; 0 at minus infinity.

    Reference:
        Liu and Di 2020, "TanhExp: A Smooth Activation Function with High Convergence Speed".
    """
    return _tanhexp(x)


def _smelu_value(x: Array, beta: float) -> Array:
    """The square of y = x + beta over 4 beta, with what rounding took from y and from y/4 beta."""
    inside = jnp.clip(x, -beta, beta)
    near = float(np.asarray(beta, x.dtype))
    y = inside + near
    part = y - inside
    error = (inside - (y - part)) + (near - part) + jnp.where(x == x, beta - near, 0.0)
    whole = y + error
    error = error - (whole - y)
    z, low = sp.scaled_product(whole, 0.25 / beta)
    square = jnp.maximum(whole * z + (whole * low + 2.0 * z * error), 0.0)
    return jnp.where(sp.below(x, beta), jnp.where(sp.above(x, -beta), square, 0.0), x)


def _smelu_slope(x: Array, beta: float) -> Array:
    y = jnp.maximum(sp.minus(sp.capped(x, beta), -beta), 0.0)
    return jnp.where(sp.below(x, beta), y / (2.0 * beta), jnp.where(x != x, x, 1.0))


_smelu = elementwise(_smelu_value, _smelu_slope)


@known(
    "self_gated",
    r"(x + 1)^2/4 \text{ on } [-1, 1],\ 0 \text{ below},\ x \text{ above}",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Shamir et al.",
    year=2020,
    breakpoints=(-1.0, 1.0),
)
def smelu(x: Any, /, *, beta: Number = 1.0) -> Out:
    """Smooth ReLU, f(x) = 0 below -beta, (x + beta)^2/(4 beta) to beta, then x.

    Args:
        x: Real floating array of any shape.
        beta: Half the width of the bend, positive.

    Returns:
        Non-negative values.

    Reference:
        Shamir et al. 2020, "Smooth Activations and Reproducibility in Deep Networks".
    """
    return _smelu(x, as_number(beta, "beta", positive=True))
