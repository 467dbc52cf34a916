"""Building blocks at working precision (float32, float64), each with its exact derivative.

Everything of the exponential family is written with exp(-|x|), which neither overflows nor cancels;
XLA merges the copies, so that a value and its derivative share one exponential. The exponential is
our own: it takes an argument in two parts, and gives its result as 2^n (1 + w), so that what
cancels can be joined before it is rounded. It is also the faster one on CPU.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core.primitives import convert_element_type_p

from jaxact.activations._core import Raw, ruled
from jaxact.activations._math import _coefficients as fits


def horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    """The polynomial with these coefficients, highest power first."""
    y = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = y * x + c
    return y


def is_double(x: Array) -> bool:
    """Whether the polynomials of float64 serve."""
    return x.dtype == jnp.float64


def negative_part(x: Array) -> Array:
    """min(x, 0), whose derivative at 0 is that from the left (minimum's would be 1/2)."""
    return jnp.where(x > 0, jnp.zeros_like(x), x)


def fit(x: Array, name: str) -> tuple[float, ...]:
    """The coefficients of this name, or the two parts of a root, for the precision of x."""
    return getattr(fits, f"{name}_{64 if is_double(x) else 32}")


# The mask of the upper half of a significand and that of the sign; the bits of an exponent start.
_LAYOUT = {
    4: (np.int32(-(1 << 12)), np.int32(-(1 << 31)), np.int32(23)),
    8: (np.int64(-(1 << 27)), np.int64(-(1 << 63)), np.int64(52)),
}


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.int64 if is_double(x) else jnp.int32)


def _from_bits(bits: Array, like: Array) -> Array:
    """The floating number of these bits; weakly typed where ``like`` is."""
    x = lax.bitcast_convert_type(bits, like.dtype)
    if like.weak_type:
        x = convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)
    return x


def high_part(x: Array) -> Array:
    """The upper half of the significand of x: its square is exact, and so is x less it."""
    mask, _, _ = _LAYOUT[x.dtype.itemsize]
    return _from_bits(_bits(x) & mask, x)


def with_sign(y: Array, x: Array) -> Array:
    """The value y >= 0, and -y where x has its sign bit set."""
    _, sign, _ = _LAYOUT[x.dtype.itemsize]
    return _from_bits(_bits(y) | (_bits(x) & sign), x)


def product_error(x: Array, y: Array, product: Array) -> Array:
    """What rounding took from the product x y, where nothing overflows."""
    x_high, y_high = high_part(x), high_part(y)
    x_low, y_low = x - x_high, y - y_high
    error = (x_high * y_high - product) + x_high * y_low
    return (error + x_low * y_high) + x_low * y_low


# The exponential

_LOG2E = 1.4426950408889634074
# log(2) in two parts; a product of the first with an exponent is exact.
_LOG2 = {
    32: (0.693359375, -2.1219444005469057e-4),
    64: (0.6931471803691238, 1.9082149292705877e-10),
}


def lowest(x: Array) -> float:
    """Where the exponential of this precision is 0, times a number of some thousands too."""
    return -745.0 if is_double(x) else -104.0


# Powers of two are kept so much larger: a product with one is not flushed before it is done.
_SPARE = {32: 24.0, 64: 52.0}


def _spare(x: Array) -> float:
    return _SPARE[64 if is_double(x) else 32]


def capped(x: Array, limit: float) -> Array:
    """min(x, limit); NaN stays."""
    return jnp.where(x > limit, limit, x)


def magnitude(x: Array) -> Array:
    """|x|, no more than where exp(-|x|) is 0."""
    return capped(jnp.abs(x), -lowest(x))


def _power_of_two(n: Array) -> Array:
    """2^n, for whole numbers n among the exponents."""
    # An integer added to this is seen in its lowest bits, from where it becomes the exponent.
    magic = 1.5 * 2.0**52 + 1023 if is_double(n) else 1.5 * 2.0**23 + 127
    _, _, width = _LAYOUT[n.dtype.itemsize]
    return _from_bits(_bits(n + magic) << width, n)


def _halvings(x: Array) -> Array:
    """x/log(2), to the nearest whole number."""
    return lax.round(x * _LOG2E, lax.RoundingMethod.TO_NEAREST_EVEN)


def _reduced(x: Array) -> tuple[Array, Array, Array]:
    """N and r, in two parts, with x = n log(2) + r, |r| < 0.35."""
    upper, lower = _LOG2[64 if is_double(x) else 32]
    n = _halvings(x)
    return n, x - n * upper, -n * lower


def _beyond(r: Array) -> Array:
    """(exp(r) - 1 - r)/r^2."""
    return horner(r, fit(r, "EXPM1"))


def _expm1_reduced(r: Array) -> Array:
    # Beside r the rest is small, and so is what rounding does to it.
    return r + r * r * _beyond(r)


def exp_parts(x: Array, low: Array | float = 0.0) -> tuple[Array, Array]:
    """The parts of exp(x + low) = 2^n (1 + w), for lowest(x) <= x <= 0: w, and 2^n with spare."""
    n, r, rest = _reduced(x)
    return _power_of_two(n + _spare(x)), _expm1_reduced(r + (rest + low))


def expm1_saturating(x: Array, low: Array | float = 0.0) -> Array:
    """exp(x + low) - 1, for |x| <= 40, of which what is used saturates as tanh does.

    The argument's error of n/2 units in the last place of log(2) then does no harm.
    """
    n = _halvings(x)
    power, r = _power_of_two(n), x - n * math.log(2)
    w = r + (low + r * r * _beyond(r))
    return (power - 1.0) + power * w


def times_exp(y: Array, parts: tuple[Array, Array], error: Array | float = 0.0) -> Array:
    """The product of y + error and an exponential, rounded but once; a power of two is exact."""
    power, w = parts
    # The power of two comes last: nothing is flushed to zero before the result is.
    return (y + (y * w + error)) * power * 2.0 ** -_spare(w)


def of_parts(parts: tuple[Array, Array]) -> Array:
    """The exponential itself."""
    power, w = parts
    return (1.0 + w) * power * 2.0 ** -_spare(w)


def negative_parts(x: Array) -> tuple[Array, Array]:
    """The parts of exp(x), for any x <= 0."""
    return exp_parts(jnp.where(x < lowest(x), lowest(x), x))


def times_decay(y: Array, x: Array) -> Array:
    """The product of y and exp(-|x|), rounded but once."""
    return times_exp(y, negative_parts(-jnp.abs(x)))


def _exp_negative(x: Array) -> Array:
    return of_parts(negative_parts(x))


def _expm1_negative(x: Array) -> Array:
    power, w = negative_parts(x)
    power = power * 2.0 ** -_spare(x)
    return (power - 1.0) + power * w


exp_negative = ruled(_exp_negative, lambda x: exp_negative(x))
expm1_negative = ruled(_expm1_negative, exp_negative)


def _exp(x: Array) -> Array:
    n, r, rest = _reduced(jnp.clip(x, lowest(x), 710.0 if is_double(x) else 89.0))
    # In two steps, each a normal number: 2^n may be none where the result is.
    half = lax.round(0.5 * n, lax.RoundingMethod.TO_NEAREST_EVEN)
    return (1.0 + _expm1_reduced(r + rest)) * _power_of_two(half) * _power_of_two(n - half)


exp = ruled(_exp, lambda x: exp(x))


def _exp_for_cpu(x: Array) -> Array:
    n = _halvings(jnp.clip(x, -88.0, 88.0))
    y = horner(x - n * math.log(2), fits.EXP_16) * _power_of_two(n)
    return jnp.where(jnp.abs(x) > 88.0, jnp.where(x > 0, jnp.inf, 0.0), y)


def brief_exp(x: Array) -> Array:
    """exp(x) in float32, right to 1e-5: for 16-bit results, where XLA's own takes a CPU longer."""
    return lax.platform_dependent(x, cpu=_exp_for_cpu, default=jnp.exp)


def brief_tail(q: Array) -> tuple[Array, Array]:
    """Two factors of exp(q), q <= 0, to be multiplied by what keeps it from being flushed first."""
    low = q < -60.0
    return brief_exp(jnp.where(low, q + 20.0, q)), jnp.where(low, math.exp(-20.0), 1.0)


def exp_pair(x: Array) -> tuple[Array, Array]:
    """exp(x) as the sum of two parts, 0 where x is too low, for x <= 80."""
    bottom = -709.0 if is_double(x) else -88.0
    n, upper, lower = _reduced(jnp.where(x < bottom, bottom, x))
    power = _power_of_two(n)
    r = upper + lower
    error = (upper - r) + lower
    square = r * r
    half = 0.5 * square
    terms = tuple(1 / math.factorial(k) for k in range(15 if is_double(x) else 8, 2, -1))
    small = 0.5 * product_error(r, r, square) + error * (1.0 + r) + r * square * horner(r, terms)
    first = r + half
    small = small + ((r - first) + half)
    second = first + small
    small = (first - second) + small
    third = 1.0 + second
    return power * third, power * (((1.0 - third) + second) + small)


def decay(x: Array) -> Array:
    """exp(-|x|)."""
    return exp_negative(-jnp.abs(x))


# The distance from where a slope crosses zero


def from_root(a: Array, root: tuple[float, ...], there: Array) -> Array:
    """The distance from a root given in two parts: right to the last place, where it matters.

    Were both parts constant, XLA would add them up first (it does in jax 0.10).
    """
    return (a - root[0]) - jnp.where(there, root[1], 0.0)


def near_root(x: Array, low: Array | float, name: str, scale: float = 1.0) -> tuple[Array, Array]:
    """Whether x + low is within reach of a slope's root, and there scale slope exp(-x)."""
    root, rest = fit(x, f"{name}_ROOT")
    coefficients = tuple(scale * c for c in fit(x, f"{name}_SLOPE"))
    left, right = getattr(fits, f"{name}_REACH")
    d = (x - root) + low
    near = jnp.abs(d - (right - left) / 2) < (left + right) / 2
    # What the root leaves to its second part matters next to it only, where the fit is constant.
    return near, d * horner(d, coefficients) - rest * coefficients[-1]


# The logistic family


def _sigmoid(x: Array) -> Array:
    e = decay(x)
    return jnp.where(x < 0, e, 1.0) / (1.0 + e)


def _sigmoid_of_minus(x: Array) -> Array:
    e = decay(x)
    return jnp.where(x < 0, 1.0, e) / (1.0 + e)


def _bell(x: Array) -> Array:
    e = decay(x)
    return e / (1.0 + e * (2.0 + e))


def _log1p(x: Array) -> Array:
    """log(1 + x), 0 <= x <= 1."""
    return x * horner(x, fit(x, "LOG1P"))


def _log1m(x: Array) -> Array:
    """log(1 - x), 0 <= x <= 1/2."""
    return -x * horner(-x, fit(x, "LOG1M"))


def _softplus(x: Array) -> Array:
    return jnp.maximum(x, 0.0) + _log1p(decay(x))


def log_plus(b: Array, rest: Array) -> Array:
    """log(2 b) + rest, for b >= 1 and a small rest, rounded little more than once."""
    n = _halvings(jnp.log(b))
    half = lax.round(0.5 * n, lax.RoundingMethod.TO_NEAREST_EVEN)
    u = b * _power_of_two(-half) * _power_of_two(half - n) - 1.0
    upper, lower = _LOG2[64 if is_double(b) else 32]
    fraction = u * horner(u, fit(b, "LOG"))
    n = n + 1.0
    return n * upper + (fraction + (n * lower + rest))


log1m = ruled(_log1m, lambda x: -1.0 / (1.0 - x))
# The derivative of the bell is e (e - 1)/(1 + e)^3, of the sign of -x.
bell = ruled(_bell, lambda x: -bell(x) * tanh(0.5 * x))
sigmoid = ruled(_sigmoid, bell)
sigmoid_of_minus = ruled(_sigmoid_of_minus, lambda x: -bell(x))
softplus = ruled(_softplus, sigmoid)


def _silu_slope(z: Array, low: Array | float = 0.0, scale: float = 1.0) -> Array:
    """The slope of scale z sigmoid(z) at z + low, |low| small; those at z and -z sum to scale.

    At -a it is e (1 - a + e)/(1 + e)^2 with e = exp(-a), and near its root e times a fit.
    """
    a = magnitude(z)
    if isinstance(low, Array):
        low = jnp.where(z < 0, low, -low)
        low = jnp.where(jnp.abs(z) > a, 0.0, low)
    parts = exp_parts(-a, low=low)
    e = of_parts(parts)
    near, about_root = near_root(-a, low, "SILU", scale)
    bottom = 1.0 / scale + e * (2.0 / scale + e * (1.0 / scale))
    lower = times_exp(jnp.where(near, about_root, ((1.0 - a) + (e + low)) / bottom), parts)
    return jnp.where(z < 0, lower, scale - lower)


def _silu_curvature(x: Array) -> Array:
    return bell(x) * (2.0 - jnp.clip(x, -2000.0, 2000.0) * tanh(0.5 * x))


silu_slope = ruled(
    lambda x, scale=1.0: _silu_slope(x, scale=scale),
    lambda x, scale=1.0: scale * _silu_curvature(x),
)


def _tanh(x: Array) -> Array:
    m = expm1_negative(-2.0 * jnp.abs(x))
    return with_sign(-m / (2.0 + m), x)


def tanh_defect(x: Array) -> Array:
    """The difference x - tanh(x), |x| <= 1."""
    z = jnp.minimum(x * x, 1.0)
    return x * z * horner(z, fit(x, "TANH_DEFECT"))


def _sech2(x: Array, scale: float = 1.0) -> Array:
    """The product scale / cosh(x)^2."""
    power, w = negative_parts(-jnp.abs(2.0 * x))
    spare, top = 2.0 ** -_spare(x), (1.0 + w) * power
    e = top * spare
    return top / (1.0 + e * (2.0 + e)) * (4.0 * scale * spare)


sech2 = ruled(_sech2, lambda x, scale=1.0: -2.0 * tanh(x) * sech2(x, scale))
tanh = ruled(_tanh, sech2)


# The normal family


def square_parts(x: Array, half: float = 1.0) -> tuple[Array, Array]:
    """The parts of exp(-half x^2), half a power of two, the rounding error of x^2 put back."""
    # Beyond this limit it is 0.
    limit = math.sqrt(-lowest(x) / half)
    x = jnp.clip(x, -limit, limit)
    square = x * x
    high = high_part(x)
    error = (high * high - square) + (x - high) * (x + high)
    return exp_parts(-half * square, low=-half * error)


def gaussian_of(half: float, scale: float = 1.0):
    """Of x, scale exp(-half x^2), for half a power of two."""

    def value(x):
        return times_exp(jnp.full_like(x, scale), square_parts(x, half))

    def slope(x):
        return times_exp(-2.0 * half * scale * jnp.clip(x, -60.0, 60.0), square_parts(x, half))

    def curvature(x):
        square = jnp.clip(2.0 * half * x * x, 0.0, 2000.0)
        return 2.0 * half * (square - 1.0) * function(x)

    block = ruled(slope, curvature)
    function = ruled(value, block)
    return function, block


gaussian, gaussian_slope = gaussian_of(1.0)
half_gaussian, _ = gaussian_of(0.5)
erf_slope, _ = gaussian_of(1.0, 1.1283791670955125739)


def _moebius(a: Array) -> Array:
    """The variable (a - c)/(a + c) of the fits to a tail."""
    if is_double(a):
        return (a - fits.CENTRE_64) / (a + fits.CENTRE_64)
    # A quotient would be rounded once less, but a CPU is faster with a reciprocal.
    return (a - fits.CENTRE_32) * (1.0 / (a + fits.CENTRE_32))


def _tail_fit(a: Array, name: str) -> Array:
    """The fit of this name to a tail, at a >= 0."""
    return horner(_moebius(a), fit(a, name))


def _normal_argument(x: Array) -> Array:
    return capped(jnp.abs(x), 39.0 if is_double(x) else 14.5)


def _gelu(x: Array) -> Array:
    a = _normal_argument(x)
    far = jnp.maximum(x, 0.0) - times_exp(_tail_fit(a, "GELU_TAIL"), square_parts(a, 0.5))
    z = jnp.minimum(x * x, 0.5)
    near = 0.5 * x + z * horner(z, fit(x, "NORMAL_NEAR"))
    return jnp.where(x * x < 0.5, near, far)


def gelu_brief(x: Array) -> Array:
    """The same, right to 1e-5, of an x whose square is exact."""
    a = _normal_argument(x)
    tail = horner(_moebius(a), fits.GELU_TAIL_16)
    e, rest = brief_tail(-0.5 * a * a)
    far = jnp.maximum(x, 0.0) - (tail * e) * rest
    z = jnp.minimum(x * x, 0.5)
    return jnp.where(x * x < 0.5, 0.5 * x + z * horner(z, fits.NORMAL_NEAR_16), far)


def normal_pdf(x: Array) -> Array:
    """The standard normal density."""
    return half_gaussian(x) * 0.3989422804014326779


def _gelu_slope(x: Array) -> Array:
    """The slope of gelu, a0 the root of that of gelu(-a); the slopes at x and -x sum to 1."""
    a = _normal_argument(x)
    d = from_root(a, fit(x, "GELU_ROOT"), x < 0)
    lower = times_exp(d * _tail_fit(a, "GELU_SLOPE"), square_parts(a, 0.5))
    return jnp.where(x < 0, lower, 1.0 - lower)


def gelu_tail(x: Array, combine: Callable[[Array, Array], Array]) -> Array:
    """Of gelu and its slope, x < 0, what ``combine`` makes of both, linear in them."""
    a = _normal_argument(x)
    slope = from_root(a, fit(x, "GELU_ROOT"), x < 0) * _tail_fit(a, "GELU_SLOPE")
    return times_exp(combine(-_tail_fit(a, "GELU_TAIL"), slope), square_parts(a, 0.5))


gelu_slope = ruled(_gelu_slope, lambda x: (2.0 - jnp.clip(x * x, 0.0, 2000.0)) * normal_pdf(x))
gelu = ruled(_gelu, gelu_slope)


def erfc_tail(a: Array) -> Array:
    """erfc(a), a >= 0."""
    b = capped(a, 27.5 if is_double(a) else 10.5)
    return times_exp(_tail_fit(b, "ERFC_TAIL"), square_parts(b))


def _erf_ratio(x: Array) -> Array:
    """erf(x)/x, |x| <= 1."""
    return horner(jnp.minimum(x * x, 1.0), fit(x, "ERF_NEAR"))


def _erf(x: Array) -> Array:
    a = jnp.abs(x)
    if is_double(x):
        far = 1.0 - erfc_tail(a)
    else:  # Beyond 63/16 it rounds to 1.
        far = jnp.minimum(horner(a - 2.5, fits.ERF_FAR_32), 1.0)
        far = jnp.where(a > 3.9375, 1.0, far)
    return jnp.where(a < 1.0, x * _erf_ratio(x), with_sign(far, x))


erf = ruled(_erf, erf_slope)


def through_root(x: Array, slope: Array, name: str) -> Array:
    """The slope; within reach of its root exp(x) times the distance times a fit of the rest."""
    near, about_root = near_root(x, 0.0, name)
    # There x < 0, and exp(-|x|) is at hand.
    return jnp.where(near, times_decay(about_root, x), slope)


def _arctan(x: Array, coefficients: tuple[float, ...]) -> Array:
    """The inverse tangent by (arctan(y)/y - 1)/y^2; beyond 1 from that of the reciprocal."""
    a = jnp.abs(x)
    far = a > 1.0
    y = jnp.where(far, 1.0 / jnp.maximum(a, 1.0), a)
    z = y * y
    angle = y + y * z * horner(z, coefficients)
    half = float(np.asarray(math.pi / 2, x.dtype))
    rest = 6.123233995736766e-17 if is_double(x) else math.pi / 2 - half
    return with_sign(jnp.where(far, half - (angle - rest), angle), x)


arctan = ruled(lambda x: _arctan(x, fit(x, "ARCTAN")), lambda x: 1.0 / (1.0 + x * x))


def brief_arctan(x: Array) -> Array:
    """The inverse tangent in float32, right to 1e-5."""
    return _arctan(x, fits.ARCTAN_16)


# Products rounded once too often


def scaled_product(x: Array, c: float, rest: float = 0.0) -> tuple[Array, Array]:
    """The rounded product (c + rest) x, and what rounding took from it."""
    z = x * c
    upper = float(jnp.finfo(x.dtype).max) / 8 / max(1.0, abs(c))
    y = jnp.clip(x, -upper, upper)
    rounded = float(np.asarray(c, x.dtype))
    error = product_error(y, jnp.full_like(x, rounded), z) + y * ((c - rounded) + rest)
    # Where z is small the parts of the error are flushed, some sooner than others.
    floor = float(jnp.finfo(x.dtype).tiny) / float(jnp.finfo(x.dtype).eps) ** 2
    return z, jnp.where((y == x) & (jnp.abs(z) > floor), error, 0.0)


def exact(c: float) -> bool:
    """Whether a product with c is not rounded: a power of two, or 0."""
    return abs(math.frexp(c)[0]) in (0.0, 0.5)


def at_scaled(value: Raw, slope: Raw, x: Array, c: float, rest: float = 0.0) -> Array:
    """value((c + rest) x), the product's rounding error put back: a tail would magnify it."""
    if exact(c):
        return value(x * c)
    z, error = scaled_product(x, c, rest)
    return value(z) + error * slope(z)


def above(x: Array, c: float) -> Array:
    """Whether x > c, for c itself, which may lie between two numbers of the dtype of x."""
    near = float(np.asarray(c, x.dtype))
    return x >= near if near > c else x > near


def below(x: Array, c: float) -> Array:
    """Whether x < c, likewise."""
    return above(-x, -c)


def minus(x: Array, c: float) -> Array:
    """The difference x - c, rounded once, for c itself."""
    near = float(np.asarray(c, x.dtype))
    return from_root(x, (near, c - near), x == x)


def softplus_scaled(x: Array, c: float) -> Array:
    """The value log(1 + exp(c x)) / c."""
    z, low = (x * c, jnp.zeros_like(x)) if exact(c) else scaled_product(x, c)
    a = magnitude(z)
    parts = exp_parts(-a, low=jnp.where(jnp.abs(z) > a, 0.0, jnp.where(z < 0, low, -low)))
    # The product c x may overflow where the value does not.
    tail = times_exp(horner(of_parts(parts), fit(x, "LOG1P")) / c, parts)
    return jnp.maximum(x, 0.0) + tail


def sigmoid_scaled(x: Array, c: float) -> Array:
    """The sigmoid of c x."""
    return _sigmoid_scaled(x, c)


_sigmoid_scaled = ruled(
    lambda x, c: at_scaled(_sigmoid, _bell, x, c),
    lambda x, c: c * sigmoid_scaled(x, c) * sigmoid_scaled(x, -c),
)


def times_sigmoid(x: Array, z: Array, low: Array) -> Array:
    """The product x sigmoid(z + low), |low| small, where z has the sign of x or of -x."""
    a = magnitude(z)
    low = jnp.where(jnp.abs(z) > a, 0.0, low)
    parts = exp_parts(-a, low=jnp.where(z < 0, low, -low))
    y = jnp.where(z < -a, jnp.where(x < 0, -a, a), x)
    return jnp.where(z < 0, times_exp(y, parts), y) / (1.0 + of_parts(parts))


def swish(x: Array, c: float) -> Array:
    """The value x sigmoid(c x)."""
    return times_sigmoid(x, *((x * c, jnp.zeros_like(x)) if exact(c) else scaled_product(x, c)))


def _swish_slope(x: Array, c: float) -> Array:
    return _silu_slope(x * c) if exact(c) else _silu_slope(*scaled_product(x, c))


# The slope of z sigmoid(z) at z = c x.
swish_slope = ruled(_swish_slope, lambda x, c: c * _silu_curvature(c * x))
