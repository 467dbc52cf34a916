"""Further self-gated functions, of the search for what follows SiLU and GELU."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import Number, as_number, elementwise, ruled
from jaxact.activations._self_gated import bounded, bounded_below, swish

Out = Float[Array, "..."]


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
    return beta * bounded_below(x) * sp.sigmoid(x)


def _eswish_slope(x: Array, beta: float) -> Array:
    return beta * sp.silu_slope(x)


_eswish = elementwise(_eswish_value, _eswish_slope)


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
    return jnp.where(x <= -2, 0.0, jnp.where(x >= 0, x, 0.5 * x * (x + 2.0)))


def _hard_mish_slope(x: Array) -> Array:
    return jnp.where(x <= -2, 0.0, jnp.where(x > 0, 1.0, x + 1.0))


_hard_mish = elementwise(_hard_mish_value, _hard_mish_slope)


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
    return jnp.where(x > 0, x, y * jnp.exp(y))


def _su_slope(x: Array) -> Array:
    y = jnp.maximum(sp.negative_part(x), -2000.0)
    return jnp.where(x > 0, 1.0, (1.0 + y) * jnp.exp(y))


_su = elementwise(_su_value, _su_slope)


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


def _serf_value(x: Array) -> Array:
    e, y, z = sp.decay(x), sp.softplus(x), bounded_below(x)
    parts = sp.negative_parts(-jnp.abs(x))
    below = sp.times_exp(z * (sp.log1p_ratio(e) * sp.erf_ratio(y)), parts)
    return jnp.where(x < -1, below, z * sp.erf(y))


_ERF_SLOPE = 1.1283791670955125739


def _serf_slope(x: Array) -> Array:
    """erf(y) + 2/sqrt(pi) x exp(-y^2) s, s = sigmoid(x); s is a factor of y, where x < 0."""
    e, y, z = sp.decay(x), sp.softplus(x), bounded(x)
    s, bell = sp.sigmoid(x), z * sp.gaussian(y)
    # Where x < 0, y < log(2): erf(y) = y erf_ratio(y), y = e log1p_ratio(e), and s = e (1 - s).
    ratio = sp.log1p_ratio(e) * sp.erf_ratio(y, _ERF_SLOPE)
    below = (_ERF_SLOPE * e) * (ratio + (bell - bell * s))
    above = sp.erf(y) + _ERF_SLOPE * bell * s
    return sp.through_root(x, jnp.where(x < 0, below, above), "SERF")


def _serf_curvature(x: Array) -> Array:
    s, y, z = sp.sigmoid(x), sp.softplus(x), bounded(x)
    rest = sp.sigmoid_of_minus(x) - 2.0 * jnp.minimum(y, 60.0) * s
    return _ERF_SLOPE * sp.gaussian(y) * s * (2.0 + z * rest)


_serf = elementwise(_serf_value, ruled(_serf_slope, _serf_curvature))


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
    e, s = sp.decay(x), sp.sigmoid(x)
    # The same as s, with fewer roundings where e is small.
    return bounded_below(x) * sp.log1p(jnp.where(x < 0, e - e * s, s))


def _logish_slope(x: Array) -> Array:
    """log(1 + s) + x s (1 - s)/(1 + s), s = sigmoid(x); s is a factor where x < 0."""
    e, s, y = sp.decay(x), sp.sigmoid(x), bounded(x)
    below = s * (sp.log1p_ratio(s) + y / (1.0 + 2.0 * e))
    above = sp.log1p(s) + y * e / ((1.0 + e) * (2.0 + e))
    return sp.through_root(x, jnp.where(x < 0, below, above), "LOGISH")


def _logish_curvature(x: Array) -> Array:
    s = sp.sigmoid(x)
    rest = sp.sigmoid_of_minus(x)
    ratio = rest / (1.0 + s)
    return s * ratio * (2.0 + bounded(x) * (rest - s * (1.0 + s)) / (1.0 + s))


_logish = elementwise(_logish_value, ruled(_logish_slope, _logish_curvature))


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
    y = sp.gelu(x)
    y_slope = sp.gelu_slope(x)
    return sp.through_root(x, sp.tanh(y) + bounded(x) * sp.sech2(y) * y_slope, "PHISH")


def _phish_value(x: Array) -> Array:
    y = sp.gelu(x)
    return bounded_below(x) * jnp.where(y < 0.5, y - sp.tanh_defect(y), sp.tanh(y))


_phish = elementwise(_phish_value, _phish_slope)


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


def _tanhexp_slope(x: Array) -> Array:
    y = jnp.exp(jnp.minimum(x, 8.0))
    return sp.through_root(x, sp.tanh(y) + bounded(x) * y * sp.sech2(y), "TANHEXP")


_tanhexp = elementwise(
    lambda x: bounded_below(x) * sp.tanh(jnp.exp(jnp.minimum(x, 8.0))),
    _tanhexp_slope,
    name="tanhexp",
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
    y = jnp.clip(x, -beta, beta) + beta
    return jnp.where(x >= beta, x, y * y / (4.0 * beta))


def _smelu_slope(x: Array, beta: float) -> Array:
    middle = (x + beta) / (2.0 * beta)
    return jnp.where(x <= -beta, 0.0, jnp.where(x >= beta, 1.0, middle))


_smelu = elementwise(_smelu_value, _smelu_slope)


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
