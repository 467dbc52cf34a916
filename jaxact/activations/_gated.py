"""Further self-gated functions, of the search for what follows SiLU and GELU."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations import _special as sp
from jaxact.activations._core import Number, as_number, elementwise
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
    return beta * sp.sigmoid(x) * (1.0 + bounded(x) * sp.sigmoid_of_minus(x))


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


def _serf_gate(x: Array) -> Array:
    return sp.erf(sp.softplus(x))


def _serf_slope(x: Array) -> Array:
    y = jnp.minimum(sp.softplus(x), 60.0)
    gate_slope = 1.1283791670955125739 * sp.gaussian(y) * sp.sigmoid(x)
    return _serf_gate(x) + bounded(x) * gate_slope


_serf = elementwise(lambda x: bounded_below(x) * _serf_gate(x), _serf_slope, name="serf")


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


def _logish_slope(x: Array) -> Array:
    s = sp.sigmoid(x)
    return jnp.log1p(s) + bounded(x) * s * sp.sigmoid_of_minus(x) / (1.0 + s)


_logish = elementwise(
    lambda x: bounded_below(x) * jnp.log1p(sp.sigmoid(x)), _logish_slope, name="logish"
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


def _gelu_at(x: Array) -> Array:
    return bounded_below(x) * sp.normal_cdf(x)


def _phish_slope(x: Array) -> Array:
    y = _gelu_at(x)
    y_slope = sp.normal_cdf(x) + bounded(x) * sp.normal_pdf(x)
    return sp.tanh(y) + bounded(x) * sp.sech2(y) * y_slope


_phish = elementwise(lambda x: bounded_below(x) * sp.tanh(_gelu_at(x)), _phish_slope, name="phish")


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
    return sp.tanh(y) + bounded(x) * y * sp.sech2(y)


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
