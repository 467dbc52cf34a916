"""Inputs multiplied by a gate of themselves: f(x) = x g(x)."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import Number, as_number, elementwise, ruled
from jaxact.activations._math import _special as sp
from jaxact.activations._table import INF, known

Out = Float[Array, "..."]


def bounded_below(x: Array) -> Array:
    """x, no lower than where every gate is 0: x g(x) is then 0 at minus infinity, not NaN."""
    return jnp.maximum(x, -2000.0)


def bounded(x: Array) -> Array:
    """x, within where every derivative of a gate is 0."""
    return jnp.clip(x, -2000.0, 2000.0)


def _silu_value(x: Array) -> Array:
    y = bounded_below(x)
    top = jnp.where(x < 0, sp.times_decay(y, x), y)
    return top / (1.0 + sp.decay(x))


def _swish_brief(x: Array, beta: float = 1.0) -> Array:
    return _times_sigmoid_brief(x, x * beta)


def _times_sigmoid_brief(x: Array, z: Array) -> Array:
    e, rest = sp.brief_tail(-jnp.abs(z))
    top = jnp.where(z < 0, (jnp.where(z < -2000, 0.0, x) * e) * rest, x)
    return top / (1.0 + e * rest)


_silu = elementwise(_silu_value, sp.silu_slope, brief=_swish_brief)


@known(
    "self_gated",
    r"x \sigma(x)",
    range=(-0.2784645427610738, INF),
    lipschitz=1.099839320128867,
    paper="Elfwing et al.",
    year=2018,
    monotone=False,
    limits=(0.0, INF),
)
def silu(x: Any, /) -> Out:
    """Sigmoid linear unit, f(x) = x sigmoid(x).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.2785; 0 at minus infinity.

    Reference:
        Elfwing et al. 2018, "Sigmoid-Weighted Linear Units for Neural Network Function
        Approximation in Reinforcement Learning".
    """
    return _silu(x)


@known(
    "self_gated",
    r"x \sigma(\beta x),\ \beta = 1",
    range=(-0.2784645427610738, INF),
    lipschitz=1.099839320128867,
    paper="Ramachandran et al.",
    year=2017,
    monotone=False,
    limits=(0.0, INF),
)
def swish(x: Any, /, *, beta: Number = 1.0) -> Out:
    """Swish, f(x) = x sigmoid(beta x).

    Args:
        x: Real floating array of any shape.
        beta: Sharpness: 0 gives x/2, and a large beta relu.

    Returns:
        Values of the shape and dtype of x.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions".
    """
    beta = as_number(beta, "beta")
    return _silu(x) if beta == 1.0 else _swish(x, beta)


_swish = elementwise(sp.swish, sp.swish_slope, brief=_swish_brief, name="swish")


_gelu = elementwise(sp.gelu, sp.gelu_slope, brief=sp.gelu_brief, name="gelu")

# 2 sqrt(2/pi), and that times 0.044715, each with what float64 leaves.
_LINEAR = (1.5957691216057308, -9.96930880911092e-17)
_CUBIC = (0.07135481627260025, -4.1218577217431825e-18)


def _gelu_tanh_argument(x: Array) -> tuple[Array, Array]:
    """2 sqrt(2/pi) (x + 0.044715 x^3), |x| <= 40, in two parts: a tail magnifies its error."""
    square = x * x
    cube = square * x
    error = sp.product_error(square, x, cube) + sp.product_error(x, x, square) * x
    linear, linear_error = sp.scaled_product(x, *_LINEAR)
    cubic, cubic_error = sp.scaled_product(cube, *_CUBIC)
    z = linear + cubic
    part = z - linear
    low = (linear - (z - part)) + (cubic - part)
    return z, low + (linear_error + (cubic_error + _CUBIC[0] * error))


def _gelu_tanh_value(x: Array) -> Array:
    return sp.times_sigmoid(x, *_gelu_tanh_argument(jnp.clip(x, -40.0, 40.0)))


def _gelu_tanh_slope(x: Array) -> Array:
    """With z the argument, e = exp(-|z|) and p = x z' it is e (1 + e + p)/(1 + e)^2, x < 0."""
    y = jnp.clip(x, -40.0, 40.0)
    z, low = _gelu_tanh_argument(y)
    a = sp.magnitude(z)
    low = jnp.where(jnp.abs(z) > a, 0.0, jnp.where(z < 0, low, -low))
    parts = sp.exp_parts(-a, low=low)
    e = sp.of_parts(parts)
    p = y * (_LINEAR[0] + 3.0 * _CUBIC[0] * (y * y))
    top = jnp.where(x < 0, sp.times_exp(1.0 + e + p, parts), 1.0 + e + p * e)
    return sp.through_root(x, top / (1.0 + e * (2.0 + e)), "GELU_TANH")


def _gelu_tanh_curvature(x: Array) -> Array:
    x = jnp.clip(x, -40.0, 40.0)
    z = _LINEAR[0] * x + _CUBIC[0] * (x * x * x)
    slope = _LINEAR[0] + 3.0 * _CUBIC[0] * (x * x)
    bend = 6.0 * _CUBIC[0] * (x * x)
    return sp.bell(z) * (2.0 * slope + bend - x * slope * slope * sp.tanh(0.5 * z))


def _gelu_tanh_brief(x: Array) -> Array:
    y = jnp.clip(x, -40.0, 40.0)
    z = _LINEAR[0] * y + _CUBIC[0] * (y * y * y)
    return _times_sigmoid_brief(x, z)


_gelu_tanh = elementwise(
    _gelu_tanh_value, ruled(_gelu_tanh_slope, _gelu_tanh_curvature), brief=_gelu_tanh_brief
)
_GELU_FORMS = {"none": _gelu, False: _gelu, "tanh": _gelu_tanh, True: _gelu_tanh}


@known(
    "self_gated",
    r"x \Phi(x)",
    range=(-0.16997120747990363, INF),
    lipschitz=1.128904145185155,
    paper="Hendrycks and Gimpel",
    year=2016,
    monotone=False,
    limits=(0.0, INF),
)
def gelu(x: Any, /, *, approximate: str | bool = "none") -> Out:
    """Gaussian error linear unit, f(x) = x Phi(x), Phi the standard normal distribution function.

    Args:
        x: Real floating array of any shape.
        approximate: "none" (exact, the default; also False), "tanh" (also True):
            x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), or "sigmoid": x sigmoid(1.702 x).

    Returns:
        Values above -0.17; 0 at minus infinity.

    Raises:
        ValueError: ``approximate`` is none of these.

    Reference:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    if approximate == "sigmoid":
        return _swish(x, 1.702)
    if approximate not in _GELU_FORMS:
        raise ValueError(
            f'approximate must be "none", "tanh", "sigmoid" or a boolean, got {approximate!r}'
        )
    return _GELU_FORMS[approximate](x)


@known(
    "self_gated",
    r"x \sigma\big(2 \sqrt{2/\pi} (x + 0.044715 x^3)\big)",
    range=(-0.17004075057125406, INF),
    lipschitz=1.1289930686587717,
    paper="Hendrycks and Gimpel",
    year=2016,
    monotone=False,
    limits=(0.0, INF),
    aliases=("gelu_new", "gelu_pytorch_tanh"),
)
def gelu_tanh(x: Any, /) -> Out:
    """GELU by tanh, f(x) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): ``approximate="tanh"``.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.1701; 0 at minus infinity.

    Reference:
        Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    return _gelu_tanh(x)


def _mish_gate(x: Array) -> Array:
    e = sp.decay(x)
    h = e + 0.5 * e * e
    top = jnp.where(x < 0, h, 1.0 + 2.0 * e)
    return top / jnp.where(x < 0, 1.0 + h, 1.0 + 2.0 * (e + e * e))


def _mish_gate_slope(x: Array) -> Array:
    e = sp.decay(x)
    d = jnp.where(x < 0, e * (e + 2.0) + 2.0, 1.0 + 2.0 * e * (1.0 + e))
    return 4.0 * jnp.where(x < 0, e, e * e) * (1.0 + e) / (d * d)


def _mish_gate_curvature(x: Array) -> Array:
    return mish_gate_slope(x) * (sp.sigmoid_of_minus(x) - 2.0 * mish_gate(x) * sp.sigmoid(x))


mish_gate_slope = ruled(_mish_gate_slope, _mish_gate_curvature)
mish_gate = ruled(_mish_gate, mish_gate_slope)


def _mish_value(x: Array) -> Array:
    """With h = e (1 + e/2), e = exp(-|x|), it is x - x/(1 + h), or x h/(1 + h), where x < 0."""
    e, y = sp.decay(x), bounded_below(x)
    far = x < -0.5
    below = sp.times_decay(y + y * (0.5 * e), x)
    top = jnp.where(far, below, jnp.where(x < 0, -y, -2.0 * sp.capped(y, 2000.0) * (e * e)))
    bottom = jnp.where(x < 0, 1.0 + (e + 0.5 * e * e), 1.0 + 2.0 * (e + e * e))
    # A small x is not the difference of itself and what may be flushed.
    return jnp.where(jnp.abs(x) < 1e-20, 0.6 * y, jnp.where(far, 0.0, y) + top / bottom)


def _mish_slope(x: Array) -> Array:
    """With e = exp(x) it is e (4(x + 1) + e (4x + 6 + e (4 + e)))/(e^2 + 2e + 2)^2, x < 0.

    For x > 0 both are divided by e^4.
    """
    e = sp.decay(x)
    y = bounded(x)
    p, q = 4.0 * y + 4.0, 4.0 * y + 6.0
    below = sp.times_decay(p + e * (q + e * (4.0 + e)), x)
    top = jnp.where(x < 0, below, 1.0 + e * (4.0 + e * (q + e * p)))
    left, right = 8.0 + e * (4.0 + e), 8.0 + e * (8.0 + 4.0 * e)
    bottom = jnp.where(x < 0, 4.0 + e * (8.0 + e * left), 1.0 + e * (4.0 + e * right))
    return sp.through_root(x, top / bottom, "MISH")


def _mish_curvature(x: Array) -> Array:
    return 2.0 * mish_gate_slope(x) + bounded(x) * _mish_gate_curvature(x)


def _mish_brief(x: Array) -> Array:
    y, (power, rest) = sp.capped(x, 20.0), sp.brief_tail(jnp.minimum(x, 0.0))
    e = jnp.where(x < 0, power * rest, sp.brief_exp(y))
    n = 2.0 + e
    return jnp.where(
        x < 0,
        (bounded_below(x) * (n / (2.0 + e * n)) * power) * rest,
        x * (e * n / (2.0 + e * n)),
    )


_mish = elementwise(_mish_value, ruled(_mish_slope, _mish_curvature), brief=_mish_brief)


@known(
    "self_gated",
    r"x \tanh(\log(1 + e^x))",
    range=(-0.3088434130172504, INF),
    lipschitz=1.088498161251728,
    paper="Misra",
    year=2019,
    monotone=False,
    limits=(0.0, INF),
)
def mish(x: Any, /) -> Out:
    """Mish, f(x) = x tanh(softplus(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.3089; 0 at minus infinity.

    Reference:
        Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation Function".
    """
    return _mish(x)


def _hard_silu_value(x: Array) -> Array:
    return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, x, x * (x + 3.0) / 6.0))


def _hard_silu_slope(x: Array) -> Array:
    return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, 1.0, (2.0 * x + 3.0) / 6.0))


_hard_silu = elementwise(_hard_silu_value, _hard_silu_slope)


@known(
    "self_gated",
    r"x \min(\max(x + 3, 0), 6) / 6",
    range=(-0.375, INF),
    lipschitz=1.5,
    paper="Howard et al.",
    year=2019,
    monotone=False,
    breakpoints=(-3.0, 3.0),
    limits=(0.0, INF),
    aliases=("hard_swish", "hardswish"),
)
def hard_silu(x: Any, /) -> Out:
    """Piecewise quadratic SiLU, f(x) = x min(max(x + 3, 0), 6) / 6.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values above -0.375. The derivative is 0 at -3 and 1 at 3.

    Reference:
        Howard et al. 2019, "Searching for MobileNetV3", eq. 3.
    """
    return _hard_silu(x)
