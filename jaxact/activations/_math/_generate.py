"""Generates `_coefficients.py`: Chebyshev fits made by mpmath at 60 digits."""

import functools
import pathlib

import mpmath as mp
import numpy as np

mp.mp.dps = 60
TARGET = pathlib.Path(__file__).parent / "_coefficients.py"


def fit(function, low, high, degree):
    """Coefficients, highest power first, and the largest error, of the Chebyshev interpolant."""
    coefficients, error = mp.chebyfit(function, [low, high], degree + 1, error=True)
    return [float(c) for c in coefficients], float(error)


# Of the Möbius variable of a tail, by precision.
CENTRES = {32: mp.mpf(2.25), 64: mp.mpf(2.5)}


def in_moebius(function, bits, end, degree, *, start=0.0):
    """A fit of function(a) in t = (a - c)/(a + c), for a in [start, end]."""
    c = CENTRES[bits]

    def of_t(t):
        return function(c * (1 + t) / (1 - t))

    return fit(of_t, (start - c) / (start + c), (end - c) / (end + c), degree)


def about(centre, function, degree):
    """A fit of function(e), e in [0, 1], in e - centre: rounding does least about the middle."""
    return fit(lambda u: function(centre + u), -mp.mpf(centre), 1 - mp.mpf(centre), degree)


def arcsinh_rest(z):
    """(arcsinh(x)/x - 1)/x^2, z = x^2."""
    x = mp.sqrt(z)
    return (mp.asinh(x) / x - 1) / z if z > mp.mpf("1e-15") else -mp.mpf(1) / 6 + 3 * z / 40


def shifted(function, centre):
    """The function of the distance from a centre."""
    return lambda d: function(centre + d)


# What cancels, about where it is least: the function, that centre, the reach, degrees.
CENTRED_FITS = {
    "SNAKE": (lambda x: 1 + mp.sin(x) ** 2 / x, -1.171875, 0.75, 12, 26),
    "ARCTID": (lambda x: 1 - mp.atan(x) ** 2 / x, 1.75, 1.0, 14, 32),
    "ARCTID_RISE": (lambda x: 2 * mp.atan(x) / (1 + x * x) - 1, 1.0, 0.8125, 15, 34),
}


def normal_tail(a):
    """exp(a^2/2) Phi(-a)."""
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


def gelu_tail(a):
    """exp(a^2/2) times -gelu(-a)."""
    return a * normal_tail(a)


def gelu_slope_excess(a):
    """The slope of gelu at -a over exp(-a^2/2)."""
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2 - a / mp.sqrt(2 * mp.pi)


def gelu_slope(a):
    """The same, over a - a0, where a0 is its root."""
    root = roots()["GELU"]
    if abs(a - root) < mp.mpf("1e-25"):
        return mp.diff(gelu_slope_excess, root)
    return gelu_slope_excess(a) / (a - root)


def erfc_tail(a):
    """exp(a^2) erfc(a)."""
    return mp.exp(a * a) * mp.erfc(a)


def normal_near(z):
    """(Phi(x) - 1/2)/x as a function of z = x^2."""
    x = mp.sqrt(z)
    return mp.erf(x / mp.sqrt(2)) / (2 * x) if z > 0 else 1 / mp.sqrt(2 * mp.pi)


def erf_near(z):
    """erf(x)/x as a function of z = x^2."""
    return mp.erf(mp.sqrt(z)) / mp.sqrt(z) if z > 0 else 2 / mp.sqrt(mp.pi)


def serf_gate(e):
    """The gate of serf over e, e = exp(x)."""
    return mp.erf(mp.log1p(e)) / e if e else 2 / mp.sqrt(mp.pi)


def serf_gate_slope(e):
    """The slope of the gate of serf in e = exp(x)."""
    return 2 / mp.sqrt(mp.pi) * mp.exp(-(mp.log1p(e) ** 2)) / (1 + e)


def logish_gate(e):
    """The gate of logish over e, e = exp(x), less 1, over e."""
    return (mp.log1p(e / (1 + e)) / e - 1) / e if e else -mp.mpf(3) / 2


def logish_rest(e):
    """The gate of logish less log(2), over e = exp(-x)."""
    return mp.log1p(-e / (2 + 2 * e)) / e if e else -mp.mpf(1) / 2


def serf_near(x):
    """The gate of serf less its value at 0, over x."""
    slope = 2 / mp.sqrt(mp.pi) * mp.exp(-(mp.log(2) ** 2)) / 2
    return (mp.erf(softplus(x)) - mp.erf(mp.log(2))) / x if abs(x) > 1e-25 else slope


def logish_near(x):
    """The gate of logish less its value at 0, over x."""
    return (mp.log1p(sigmoid(x)) - mp.log(1.5)) / x if abs(x) > 1e-25 else mp.mpf(1) / 6


def phish_near(x):
    """The gate of phish over x."""
    return mp.tanh(x * mp.ncdf(x)) / x if x else mp.mpf(1) / 2


def arctan_beyond(z):
    """(arctan(x)/x - 1)/x^2 as a function of z = x^2."""
    x = mp.sqrt(z)
    return (mp.atan(x) / x - 1) / z if z > 1e-25 else -mp.mpf(1) / 3


def tanh_over(z):
    """tanh(x)/x as a function of z = x^2."""
    x = mp.sqrt(z)
    return mp.tanh(x) / x if z > 0 else mp.mpf(1)


def tanh_defect(z):
    """(x - tanh(x))/x^3 as a function of z = x^2."""
    x = mp.sqrt(z)
    return (x - mp.tanh(x)) / x**3 if z > 0 else mp.mpf(1) / 3


def over_x(function):
    """function(x)/x, for a function of slope 1 that is 0 at 0."""
    return lambda x: function(x) / x if x else mp.mpf(1)


def beyond_x(function):
    """(function(x) - x)/x^2, for a function of slope 1 that is 0 at 0."""
    return lambda x: (function(x) - x) / x**2 if x else mp.diff(function, 0, 2) / 2


def sigmoid(x):
    """The logistic sigmoid."""
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    """log(1 + exp(x))."""
    return mp.log1p(mp.exp(x))


def gelu_tanh_gate(x):
    """The gate of gelu's tanh form, with the cubic coefficient as float64 has it."""
    return sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3))


SLOPES = {  # of functions whose slope crosses zero
    "GELU_TANH": lambda x: mp.diff(lambda v: v * gelu_tanh_gate(v), x),
    "LOGISH": lambda x: mp.diff(lambda v: v * mp.log1p(sigmoid(v)), x),
    "MISH": lambda x: mp.diff(lambda v: v * mp.tanh(softplus(v)), x),
    "PHISH": lambda x: mp.diff(lambda v: v * mp.tanh(v * mp.ncdf(v)), x),
    "SERF": lambda x: mp.diff(lambda v: v * mp.erf(softplus(v)), x),
    "SILU": lambda x: mp.diff(lambda v: v * sigmoid(v), x),
    "TANHEXP": lambda x: mp.diff(lambda v: v * mp.tanh(mp.exp(v)), x),
}


@functools.cache
def roots():
    """Where the slopes cross zero; of gelu, minus that."""
    return {
        "GELU": mp.findroot(gelu_slope_excess, 0.75),
        **{
            name: mp.findroot(slope, -0.75 if name == "GELU_TANH" else -1.2)
            for name, slope in SLOPES.items()
        },
    }


# How far a fit reaches to the left and to the right of a root, and the degrees of the two fits.
ROOTS = {
    "GELU_TANH": (1.25, 0.5, 13, 28),
    "LOGISH": (1.25, 0.75, 10, 22),
    "MISH": (0.375, 1.1875, 9, 22),
    "PHISH": (1.0, 0.5, 12, 28),
    "SERF": (2.25, 0.75, 12, 28),
    "SILU": (0.4, 0.8, 7, 17),
    "TANHEXP": (0.875, 0.875, 11, 26),
}


# Values that cross zero as differences: the function, near its zero, reaches, degrees.
ZEROS = {
    "COSID": (lambda x: mp.cos(x) - x, 0.74, 0.75, 0.75, 9, 21),
    "SINCID": (lambda x: mp.sinc(x) + x, -0.88, 0.75, 0.75, 9, 21),
}


def zeros():
    """Where these values cross zero."""
    return {name: mp.findroot(f, start) for name, (f, start, *_) in ZEROS.items()}


def about_zero(name, degree):
    """A fit of f(x)/d, x = zero + d."""
    (f, _, left, right, *_), zero = ZEROS[name], zeros()[name]

    def quotient(d):
        return mp.diff(f, zero) if abs(d) < mp.mpf("1e-25") else f(zero + d) / d

    return fit(quotient, -left, right, degree)


def about_root(name, degree):
    """A fit of exp(-x) slope(x)/d, x = root + d, which hardly changes over a wide interval."""
    root, slope, (left, right, *_) = roots()[name], SLOPES[name], ROOTS[name]

    def ratio(d):
        x = root + d
        return mp.exp(-x) * (slope(x) / d if abs(d) > 1e-20 else mp.diff(slope, root))

    return fit(ratio, -left, right, degree)


HALF_LOG2 = mp.log(2) / 2
MOEBIUS = "t = (a - c)/(a + c)"
CENTRED = "e - 3/4, e in [0, 1]"
TABLES = {
    "TANH_DEFECT_32": ("z = x^2 in [0, 1]", lambda: fit(tanh_defect, 0, 1, 7)),
    "TANH_DEFECT_64": ("z = x^2 in [0, 1]", lambda: fit(tanh_defect, 0, 1, 16)),
    "NORMAL_NEAR_32": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 5)),
    "NORMAL_NEAR_64": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 12)),
    "GELU_SLOPE_32": (MOEBIUS, lambda: in_moebius(gelu_slope, 32, 14.5, 10)),
    "GELU_SLOPE_64": (MOEBIUS, lambda: in_moebius(gelu_slope, 64, 39.0, 28)),
    "GELU_TAIL_32": (MOEBIUS, lambda: in_moebius(gelu_tail, 32, 14.5, 9, start=0.7)),
    "GELU_TAIL_64": (MOEBIUS, lambda: in_moebius(gelu_tail, 64, 39.0, 27, start=0.7)),
    "GELU_TAIL_16": (MOEBIUS, lambda: in_moebius(gelu_tail, 32, 14.5, 6, start=0.7)),
    "NORMAL_NEAR_16": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 3)),
    "ERF_FAR_32": (
        "x - 5/2, x in [1, 63/16]",
        lambda: fit(lambda u: mp.erf(2.5 + u), -1.5, 1.4375, 12),
    ),
    "ARCTAN_16": ("z = x^2 in [0, 1]", lambda: fit(arctan_beyond, 0, 1, 5)),
    "ARCTAN_32": ("z = x^2 in [0, 1]", lambda: fit(arctan_beyond, 0, 1, 8)),
    "ARCTAN_64": ("z = x^2 in [0, 1]", lambda: fit(arctan_beyond, 0, 1, 21)),
    "ERFC_TAIL_32": (MOEBIUS, lambda: in_moebius(erfc_tail, 32, 10.5, 12)),
    "ERFC_TAIL_64": (MOEBIUS, lambda: in_moebius(erfc_tail, 64, 27.5, 30)),
    "ERF_NEAR_32": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 6)),
    "ERF_NEAR_64": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 14)),
    "EXP_16": ("|x| < log(2)/2", lambda: fit(mp.exp, -HALF_LOG2, HALF_LOG2, 4)),
    "EXPM1_32": ("|x| < log(2)/2", lambda: fit(beyond_x(mp.expm1), -HALF_LOG2, HALF_LOG2, 4)),
    "EXPM1_64": ("|x| < log(2)/2", lambda: fit(beyond_x(mp.expm1), -HALF_LOG2, HALF_LOG2, 10)),
    "LOG1P_32": ("x in [0, 1]", lambda: fit(over_x(mp.log1p), 0, 1, 9)),
    "LOG1P_64": ("x in [0, 1]", lambda: fit(over_x(mp.log1p), 0, 1, 22)),
    "LOG1M_32": ("x in [-1/2, 0]", lambda: fit(over_x(mp.log1p), -0.5, 0, 9)),
    "LOG1M_64": ("x in [-1/2, 0]", lambda: fit(over_x(mp.log1p), -0.5, 0, 22)),
    "LOG_32": ("x in [-0.3, 0.415]", lambda: fit(over_x(mp.log1p), -0.3, 0.415, 9)),
    "LOG_64": ("x in [-0.3, 0.415]", lambda: fit(over_x(mp.log1p), -0.3, 0.415, 22)),
    "SERF_32": (CENTRED, lambda: about(0.75, serf_gate, 9)),
    "SERF_64": (CENTRED, lambda: about(0.75, serf_gate, 22)),
    "SERF_RISE_32": (CENTRED, lambda: about(0.75, serf_gate_slope, 10)),
    "SERF_RISE_64": (CENTRED, lambda: about(0.75, serf_gate_slope, 24)),
    "LOGISH_32": (CENTRED, lambda: about(0.75, logish_gate, 13)),
    "LOGISH_64": (CENTRED, lambda: about(0.75, logish_gate, 29)),
    "LOGISH_REST_32": (CENTRED, lambda: about(0.75, logish_rest, 9)),
    "LOGISH_REST_64": (CENTRED, lambda: about(0.75, logish_rest, 22)),
    **{
        f"{name}_NEAR_{bits}": ("|x| < 3/4", functools.partial(fit, function, -0.75, 0.75, degree))
        for name, function, *degrees in (
            ("SERF", serf_near, 9, 22),
            ("LOGISH", logish_near, 8, 20),
            ("PHISH", phish_near, 13, 30),
        )
        for bits, degree in zip((32, 64), degrees, strict=True)
    },
    **{
        f"{name}_{bits}": (
            f"d = x - {centre} in [-{reach}, {reach}]",
            functools.partial(fit, shifted(function, centre), -reach, reach, degree),
        )
        for name, (function, centre, reach, *degrees) in CENTRED_FITS.items()
        for bits, degree in zip((32, 64), degrees, strict=True)
    },
    **{
        f"{name}_QUOTIENT_{bits}": (
            f"d = x - root in [-{left}, {right}]",
            functools.partial(about_zero, name, degree),
        )
        for name, (_, _, left, right, *degrees) in ZEROS.items()
        for bits, degree in zip((32, 64), degrees, strict=True)
    },
    "ARCSINH_32": ("z = x^2 in [0, 1]", lambda: fit(arcsinh_rest, 0, 1, 11)),
    "ARCSINH_64": ("z = x^2 in [0, 1]", lambda: fit(arcsinh_rest, 0, 1, 24)),
    "TANH_UNIT_32": ("z = x^2 in [0, 1]", lambda: fit(tanh_over, 0, 1, 7)),
    "TANH_UNIT_64": ("z = x^2 in [0, 1]", lambda: fit(tanh_over, 0, 1, 16)),
    **{
        f"{name}_SLOPE_{bits}": (
            f"d = x - root in [-{left}, {right}]",
            functools.partial(about_root, name, degree),
        )
        for name, (left, right, *degrees) in ROOTS.items()
        for bits, degree in zip((32, 64), degrees, strict=True)
    },
}


def main() -> None:
    """Write the file."""
    lines = [
        '"""Polynomials, highest power first; written by _generate.py."""',
        "",
    ]
    for name, (variable, make) in TABLES.items():
        coefficients, error = make()
        lines += [f"# In {variable}; error of the fit {error:.1e}.", f"{name} = ("]
        lines += [f"    {c!r}," for c in coefficients] + [")", ""]
    for name, root in (roots() | zeros()).items():
        high = float(root)
        high_32 = float(np.float32(high))
        pairs = ((32, high_32, float(root - high_32)), (64, high, float(root - high)))
        for bits, upper, lower in pairs:
            lines += [f"{name}_ROOT_{bits} = ({upper!r}, {lower!r})"]
    lines += [""]
    for name, (_, centre, reach, *_) in CENTRED_FITS.items():
        lines += [f"{name}_CENTRE, {name}_REACH = {centre}, {reach}"]
    lines += ["", *(f"CENTRE_{bits} = {float(c)!r}" for bits, c in CENTRES.items())]
    reaches = {name: reach[:2] for name, reach in ROOTS.items()}
    reaches |= {name: reach for name, (_, _, *reach) in ZEROS.items()}
    lines += ["", *(f"{name}_REACH = {tuple(r[:2])}" for name, r in reaches.items()), ""]
    TARGET.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
