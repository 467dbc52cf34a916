"""Bounded, odd or monotone squashing functions."""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxact.activations._core import Number, as_number, elementwise, pick, ruled
from jaxact.activations._math import _special as sp
from jaxact.activations._table import INF, known

Out = Float[Array, "..."]

_sigmoid = elementwise(
    lambda x: sp.sigmoid(x), lambda x: sp.bell(x), brief=lambda x: 1.0 / (1.0 + sp.brief_exp(-x))
)


@known(
    "sigmoidal",
    r"1 / (1 + e^{-x})",
    range=(0.0, 1.0),
    lipschitz=0.25,
    paper="Verhulst",
    year=1845,
    aliases=("logistic",),
)
def sigmoid(x: Any, /) -> Out:
    """Logistic sigmoid, f(x) = 1 / (1 + exp(-x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 1]; f'(x) = f(x) f(-x) keeps every digit in both tails.
    """
    return _sigmoid(x)


def _tanh_value(x: Array) -> Array:
    """Some operations fewer than ``sp.tanh``."""
    m = sp.expm1_saturating(jnp.clip(2.0 * x, -40.0, 40.0))
    return jnp.where(x == 0, x, m / (2.0 + m))


_tanh = elementwise(_tanh_value, lambda x: sp.sech2(x), brief=jnp.tanh)


@known("sigmoidal", r"\tanh x", range=(-1.0, 1.0), lipschitz=1.0)
def tanh(x: Any, /) -> Out:
    """Hyperbolic tangent.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]; the derivative 1/cosh(x)^2 keeps every digit in the tails.
    """
    return _tanh(x)


_erf = elementwise(lambda x: sp.erf(x), lambda x: sp.erf_slope(x), brief=lax.erf)


@known("sigmoidal", r"\mathrm{erf}(x)", range=(-1.0, 1.0), lipschitz=1.1283791670955126)
def erf(x: Any, /) -> Out:
    """Error function, f(x) = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1].
    """
    return _erf(x)


def _soft_sign_value(x: Array) -> Array:
    big = 1e300 if sp.is_double(x) else 1e30
    y = jnp.clip(x, -big, big)
    return y / (1.0 + jnp.abs(y))


def _soft_sign_slope(x: Array) -> Array:
    root = 1.0 / (1.0 + jnp.abs(x))
    return root * root


def _soft_sign_curvature(x: Array) -> Array:
    root = 1.0 / (1.0 + jnp.abs(x))
    return -2.0 * jnp.sign(x) * root * root * root


_soft_sign = elementwise(_soft_sign_value, ruled(_soft_sign_slope, _soft_sign_curvature))


@known(
    "sigmoidal",
    r"x / (1 + |x|)",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    paper="Bergstra et al.",
    year=2009,
    breakpoints=(0.0,),
    aliases=("softsign",),
)
def soft_sign(x: Any, /) -> Out:
    """Soft sign, f(x) = x / (1 + |x|).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]. The second derivative jumps at 0 and is given as 0 there.

    Reference:
        Bergstra et al. 2009, "Quadratic Polynomials Learn Better Image Features".
    """
    return _soft_sign(x)


def _hard_sigmoid_value(x: Array, half: float) -> Array:
    return jnp.where(x <= -half, 0.0, jnp.where(x >= half, 1.0, (x + half) / (2.0 * half)))


def _hard_sigmoid_tangent(x: Array, t: Array, half: float) -> Array:
    return pick(x, t, ((x > -half) & (x < half), 0.5 / half))


_hard_sigmoid = elementwise(_hard_sigmoid_value, tangent=_hard_sigmoid_tangent)
_HARD_SIGMOID_FORMS = {"relu6": 3.0, "linear": 2.5}


@known(
    "sigmoidal",
    r"\min(\max(x + 3, 0), 6) / 6",
    range=(0.0, 1.0),
    lipschitz=0.16666666666666666,
    paper="Howard et al.",
    year=2019,
    breakpoints=(-3.0, 3.0),
    aliases=("hardsigmoid",),
)
def hard_sigmoid(x: Any, /, *, form: str = "relu6") -> Out:
    """Piecewise linear sigmoid, f(x) = min(max(x + 3, 0), 6)/6, or min(max(0.2 x + 0.5, 0), 1).

    Args:
        x: Real floating array of any shape.
        form: "relu6" (MobileNetV3, jax.nn, PyTorch) or "linear" (Theano, Keras before 3). A
            widely copied 0.2 x without the 0.5 is discontinuous, and is neither.

    Returns:
        Values in [0, 1]. The derivative at the joins is 0.

    Raises:
        ValueError: No such form.

    Reference:
        Courbariaux et al. 2015, "BinaryConnect"; Howard et al. 2019, "Searching for MobileNetV3".
    """
    if form not in _HARD_SIGMOID_FORMS:
        raise ValueError(f"form must be one of {sorted(_HARD_SIGMOID_FORMS)}, got {form!r}")
    return _hard_sigmoid(x, _HARD_SIGMOID_FORMS[form])


_TWO_THIRDS = (2 / 3, float(Fraction(2, 3) - Fraction(2 / 3)))
_FOUR_THIRDS = (2 * _TWO_THIRDS[0], 2 * _TWO_THIRDS[1])


def _lecun_tanh_value(x: Array) -> Array:
    """With m = exp(4x/3) - 1 it is m/(2/1.7159 + m/1.7159): the scale is not rounded once more."""
    z, low = sp.scaled_product(jnp.clip(x, -30.0, 30.0), *_FOUR_THIRDS)
    m = sp.expm1_saturating(z, low)
    first = float(np.asarray(2 / 1.7159, x.dtype))
    y = m / (first + (m * (1 / 1.7159) + (2 / 1.7159 - first)))
    return jnp.where(x == 0, x, jnp.clip(y, -1.7159, 1.7159))


def _lecun_bell(x: Array) -> Array:
    def bell(z: Array) -> Array:
        return sp.sech2(z, 1.7159 * 2 / 3)

    return sp.at_scaled(bell, lambda z: -2.0 * sp.tanh(z) * bell(z), x, *_TWO_THIRDS)


lecun_bell = ruled(_lecun_bell, lambda x: (-4 / 3) * sp.tanh(x * (2 / 3)) * lecun_bell(x))
_lecun_tanh = elementwise(_lecun_tanh_value, lecun_bell)


@known(
    "sigmoidal",
    r"1.7159 \tanh(2x/3)",
    range=(-1.7159, 1.7159),
    lipschitz=1.1439333333333335,
    paper="LeCun et al.",
    year=1998,
)
def lecun_tanh(x: Any, /) -> Out:
    """Scaled tanh, f(x) = 1.7159 tanh(2x/3).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1.7159, 1.7159]; f(1) = 1.

    Reference:
        LeCun et al. 1998, "Efficient BackProp", section 4.4.
    """
    return _lecun_tanh(x)


def _penalized_tanh_value(x: Array, a: float) -> Array:
    """With m = exp(2x) - 1 it is m/(2 + m), below 0 a m/(2 + m), the scale in two parts."""
    m = sp.expm1_negative(-2.0 * jnp.abs(x))
    y = -m / (2.0 + m)
    scaled, low = sp.scaled_product(y, a)
    # What rounding took from the quotient, too.
    low = low - jnp.where(y > 1e-20, a * sp.product_error(y, 2.0 + m, -m) / (2.0 + m), 0.0)
    return jnp.where(x > 0, y, jnp.where(x == 0, x * a, -(scaled + low)))


def _penalized_tanh_slope(x: Array, a: float) -> Array:
    return jnp.where(x > 0, sp.sech2(x), sp.sech2(x, a))


_penalized_tanh = elementwise(_penalized_tanh_value, _penalized_tanh_slope)


@known(
    "sigmoidal",
    r"\tanh x \text{ if } x > 0 \text{ else } 0.25 \tanh x",
    range=(-0.25, 1.0),
    lipschitz=1.0,
    paper="Xu et al.",
    year=2016,
    breakpoints=(0.0,),
)
def penalized_tanh(x: Any, /, *, a: Number = 0.25) -> Out:
    """Penalized tanh, f(x) = tanh(x) for x > 0, else a tanh(x).

    Args:
        x: Real floating array of any shape.
        a: Slope at 0 from the left.

    Returns:
        Values in [-a, 1]. The derivative at 0 is a.

    Reference:
        Xu et al. 2016, "Revise Saturated Activation Functions".
    """
    return _penalized_tanh(x, as_number(a, "a"))


_arctan = elementwise(
    lambda x: sp.arctan(x),
    ruled(lambda x: 1.0 / (1.0 + x * x), lambda x: _bump(x)),
    brief=sp.brief_arctan,
    name="arctan",
)


def _bump(x: Array) -> Array:
    r = 1.0 / (1.0 + x * x)
    big = 1e150 if sp.is_double(x) else 1e15
    return -2.0 * jnp.clip(x, -big, big) * r * r


@known(
    "sigmoidal",
    r"\arctan x",
    range=(-1.5707963267948966, 1.5707963267948966),
    lipschitz=1.0,
    aliases=("atan",),
)
def arctan(x: Any, /) -> Out:
    """Inverse tangent.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-pi/2, pi/2].
    """
    return _arctan(x)


def _clip(x: Array) -> Array:
    big = 1e150 if sp.is_double(x) else 1e15
    return jnp.clip(x, -big, big)


def _one_plus_square(x: Array, alpha: float) -> Array:
    """The sum 1 + alpha x^2, rounded about once."""
    root = math.sqrt(alpha)
    z, low = sp.scaled_product(
        _clip(x), root, float((Fraction(alpha) - Fraction(root) ** 2) / 2) / root
    )
    square = z * z
    return 1.0 + (square + (sp.product_error(z, z, square) + 2.0 * z * low))


def _isru_value(x: Array, alpha: float) -> Array:
    return _clip(x) / jnp.sqrt(_one_plus_square(x, alpha))


def _isru_slope(x: Array, alpha: float) -> Array:
    s = _one_plus_square(x, alpha)
    return 1.0 / s / jnp.sqrt(s)


_isru = elementwise(_isru_value, _isru_slope)


@known(
    "sigmoidal",
    r"x / \sqrt{1 + x^2}",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    paper="Carlile et al.",
    year=2017,
)
def isru(x: Any, /, *, alpha: Number = 1.0) -> Out:
    """Inverse square root unit, f(x) = x / sqrt(1 + alpha x^2).

    Args:
        x: Real floating array of any shape.
        alpha: Positive.

    Returns:
        Values in [-1, 1]/sqrt(alpha).

    Reference:
        Carlile et al. 2017, "Improving Deep Learning by Inverse Square Root Linear Units".
    """
    return _isru(x, as_number(alpha, "alpha", positive=True))


def _isrlu_value(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, x, _isru_value(sp.negative_part(x), alpha))


def _isrlu_slope(x: Array, alpha: float) -> Array:
    return jnp.where(x > 0, 1.0, _isru_slope(sp.negative_part(x), alpha))


_isrlu = elementwise(_isrlu_value, _isrlu_slope)


@known(
    "sigmoidal",
    r"x \text{ if } x > 0 \text{ else } x / \sqrt{1 + x^2}",
    range=(-1.0, INF),
    lipschitz=1.0,
    paper="Carlile et al.",
    year=2017,
    breakpoints=(0.0,),
)
def isrlu(x: Any, /, *, alpha: Number = 1.0) -> Out:
    """Inverse square root linear unit, f(x) = x for x > 0, else x / sqrt(1 + alpha x^2).

    Args:
        x: Real floating array of any shape.
        alpha: Positive.

    Returns:
        Values above -1/sqrt(alpha). Two derivatives are continuous at 0.

    Reference:
        Carlile et al. 2017, "Improving Deep Learning by Inverse Square Root Linear Units".
    """
    return _isrlu(x, as_number(alpha, "alpha", positive=True))


def _bent_identity_value(x: Array) -> Array:
    y = _clip(x)
    root = jnp.sqrt(y * y + 1.0)
    return x * (1.0 + 0.5 * y / (root + 1.0))


def _bent_identity_slope(x: Array) -> Array:
    y = _clip(x)
    return 1.0 + 0.5 * y / jnp.sqrt(y * y + 1.0)


_bent_identity = elementwise(_bent_identity_value, _bent_identity_slope)


@known("sigmoidal", r"(\sqrt{x^2 + 1} - 1)/2 + x", range=(-INF, INF), lipschitz=1.5)
def bent_identity(x: Any, /) -> Out:
    """Bent identity, f(x) = (sqrt(x^2 + 1) - 1)/2 + x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x; slopes from 1/2 to 3/2.
    """
    return _bent_identity(x)


def _log_log_value(x: Array) -> Array:
    return -sp.expm1_negative(-jnp.exp(sp.capped(x, 7.0)))


def _log_log_slope(x: Array) -> Array:
    # The outer exponential magnifies the error of the inner one, which is therefore in two parts.
    y, low = sp.exp_pair(sp.capped(x, 7.0))
    parts = sp.exp_parts(-sp.capped(y, -sp.lowest(x)), low=-low)
    return sp.times_exp(y, parts, low)


def _log_log_curvature(x: Array) -> Array:
    return log_log_slope(x) * (1.0 - jnp.exp(sp.capped(x, 7.0)))


log_log_slope = ruled(_log_log_slope, _log_log_curvature)
_log_log = elementwise(_log_log_value, log_log_slope)


@known(
    "sigmoidal",
    r"1 - \exp(-e^x)",
    range=(0.0, 1.0),
    lipschitz=0.36787944117144233,
    paper="Gomes and Ludermir",
    year=2008,
    aliases=("cloglog",),
)
def log_log(x: Any, /) -> Out:
    """Complementary log-log, f(x) = 1 - exp(-exp(x)).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 1].

    Reference:
        Gomes and Ludermir 2008, "Complementary Log-Log and Probit: Activation Functions".
    """
    return _log_log(x)


_gaussian = elementwise(
    lambda x: sp.gaussian(x),
    lambda x: sp.gaussian_slope(x),
    name="gaussian",
)


@known(
    "sigmoidal",
    r"e^{-x^2}",
    range=(0.0, 1.0),
    lipschitz=0.8577638849607067,
    monotone=False,
    limits=(0.0, 0.0),
)
def gaussian(x: Any, /) -> Out:
    """Gaussian, f(x) = exp(-x^2).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 1].
    """
    return _gaussian(x)


_symmetrical_sigmoid = elementwise(
    lambda x: sp.tanh(0.5 * x), lambda x: 0.5 * sp.sech2(0.5 * x), name="symmetrical_sigmoid"
)


@known("sigmoidal", r"\tanh(x/2)", range=(-1.0, 1.0), lipschitz=0.5, aliases=("bipolar_sigmoid",))
def symmetrical_sigmoid(x: Any, /) -> Out:
    """Symmetrical sigmoid, f(x) = (1 - exp(-x))/(1 + exp(-x)) = tanh(x/2).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1].
    """
    return _symmetrical_sigmoid(x)


def _sqnl_value(x: Array) -> Array:
    y = jnp.clip(x, -2.0, 2.0)
    return y * (1.0 - 0.25 * jnp.abs(y))


def _sqnl_slope(x: Array) -> Array:
    return jnp.where(jnp.abs(x) >= 2, 0.0, 1.0 - 0.5 * jnp.abs(x))


def _sqnl_curvature(x: Array) -> Array:
    return jnp.where(jnp.abs(x) >= 2, 0.0, -0.5 * jnp.sign(x))


_sqnl = elementwise(_sqnl_value, ruled(_sqnl_slope, _sqnl_curvature))


@known(
    "sigmoidal",
    r"x - \mathrm{sign}(x) x^2/4 \text{ on } [-2, 2]",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    paper="Wuraola and Patel",
    year=2018,
    breakpoints=(-2.0, 0.0, 2.0),
)
def sqnl(x: Any, /) -> Out:
    """Square nonlinearity, f(x) = x - sign(x) x^2/4 within [-2, 2], else sign(x).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]. The second derivative jumps at 0 and is given as 0 there.

    Reference:
        Wuraola and Patel 2018, "SQNL: A New Computationally Efficient Activation Function".
    """
    return _sqnl(x)
