"""Generate `jaxact/activations/_coefficients.py`: Chebyshev fits made by mpmath at 60 digits."""

import functools
import pathlib

import mpmath as mp
import numpy as np

mp.mp.dps = 60
TARGET = pathlib.Path(__file__).parent.parent / "jaxact" / "activations" / "_coefficients.py"


def fit(function, low, high, degree):
    """Coefficients, highest power first, and the largest error, of the Chebyshev interpolant."""
    coefficients, error = mp.chebyfit(function, [low, high], degree + 1, error=True)
    return [float(c) for c in coefficients], float(error)


# Of the Möbius variable of a tail, by precision.
CENTRES = {32: mp.mpf(2.25), 64: mp.mpf(2.5)}


def in_moebius(function, bits, end, degree, *, power=1):
    """A fit of (a + c)^power function(a) in t = (a - c)/(a + c), for a in [0, end]."""
    c = CENTRES[bits]

    def of_t(t):
        a = c * (1 + t) / (1 - t)
        return function(a) * (a + c) ** power

    return fit(of_t, -1, (end - c) / (end + c), degree)


def normal_tail(a):
    """exp(a^2/2) Phi(-a)."""
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


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


def tanh_defect(z):
    """(x - tanh(x))/x^3 as a function of z = x^2."""
    x = mp.sqrt(z)
    return (x - mp.tanh(x)) / x**3 if z > 0 else mp.mpf(1) / 3


def over_x(function):
    """function(x)/x, for a function of slope 1 that is 0 at 0."""
    return lambda x: function(x) / x if x else mp.mpf(1)


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
    "TANHEXP": lambda x: mp.diff(lambda v: v * mp.tanh(mp.exp(v)), x),
}


@functools.cache
def roots():
    """Where the slopes cross zero; of gelu and silu, minus that."""
    return {
        "GELU": mp.findroot(gelu_slope_excess, 0.75),
        "SILU": mp.findroot(lambda a: 1 + mp.exp(-a) - a, 1.28),
        **{
            name: mp.findroot(slope, -0.75 if name == "GELU_TANH" else -1.2)
            for name, slope in SLOPES.items()
        },
    }


# How far a fit reaches to the left and to the right of a root, and the degrees of the two fits.
ROOTS = {
    "GELU_TANH": (0.5, 0.5, 8, 18),
    "LOGISH": (1.25, 1.25, 11, 24),
    "MISH": (0.375, 0.375, 6, 15),
    "PHISH": (0.875, 0.5, 12, 26),
    "SERF": (2.25, 0.75, 12, 28),
    "TANHEXP": (0.875, 0.875, 11, 26),
}


def about_root(name, degree):
    """A fit of exp(-x) slope(x)/d, x = root + d, which hardly changes over a wide interval."""
    root, slope, (left, right, *_) = roots()[name], SLOPES[name], ROOTS[name]

    def ratio(d):
        x = root + d
        return mp.exp(-x) * (slope(x) / d if abs(d) > 1e-20 else mp.diff(slope, root))

    return fit(ratio, -left, right, degree)


HALF_LOG2 = mp.log(2) / 2
MOEBIUS = "t = (a - c)/(a + c)"
TABLES = {
    "TANH_WIDE_32": ("z = x^2 in [0, 2.2]", lambda: fit(tanh_defect, 0, 2.2, 10)),
    "TANH_WIDE_64": ("z = x^2 in [0, 2.2]", lambda: fit(tanh_defect, 0, 2.2, 24)),
    "NORMAL_TAIL_32": (MOEBIUS, lambda: in_moebius(normal_tail, 32, 14.5, 10)),
    "NORMAL_TAIL_64": (MOEBIUS, lambda: in_moebius(normal_tail, 64, 39.0, 28)),
    "NORMAL_NEAR_32": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 5)),
    "NORMAL_NEAR_64": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 12)),
    "GELU_SLOPE_32": (MOEBIUS, lambda: in_moebius(gelu_slope, 32, 14.5, 10, power=0)),
    "GELU_SLOPE_64": (MOEBIUS, lambda: in_moebius(gelu_slope, 64, 39.0, 28, power=0)),
    "ERFC_TAIL_32": (MOEBIUS, lambda: in_moebius(erfc_tail, 32, 10.5, 10)),
    "ERFC_TAIL_64": (MOEBIUS, lambda: in_moebius(erfc_tail, 64, 27.5, 28)),
    "ERF_NEAR_32": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 7)),
    "ERF_NEAR_64": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 14)),
    "EXPM1_32": ("|x| < log(2)/2", lambda: fit(over_x(mp.expm1), -HALF_LOG2, HALF_LOG2, 5)),
    "EXPM1_64": ("|x| < log(2)/2", lambda: fit(over_x(mp.expm1), -HALF_LOG2, HALF_LOG2, 11)),
    "LOG1P_32": ("x in [0, 1]", lambda: fit(over_x(mp.log1p), 0, 1, 9)),
    "LOG1P_64": ("x in [0, 1]", lambda: fit(over_x(mp.log1p), 0, 1, 22)),
    "LOG1M_32": ("x in [-1/2, 0]", lambda: fit(over_x(mp.log1p), -0.5, 0, 9)),
    "LOG1M_64": ("x in [-1/2, 0]", lambda: fit(over_x(mp.log1p), -0.5, 0, 22)),
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
        '"""Polynomials, highest power first; written by scripts/activation_coefficients.py."""',
        "",
    ]
    for name, (variable, make) in TABLES.items():
        coefficients, error = make()
        lines += [f"# In {variable}; error of the fit {error:.1e}.", f"{name} = ("]
        lines += [f"    {c!r}," for c in coefficients] + [")", ""]
    for name, root in roots().items():
        high = float(root)
        high_32 = float(np.float32(high))
        pairs = ((32, high_32, float(root - high_32)), (64, high, float(root - high)))
        for bits, upper, lower in pairs:
            lines += [f"{name}_ROOT_{bits} = ({upper!r}, {lower!r})"]
    lines += ["", *(f"CENTRE_{bits} = {float(c)!r}" for bits, c in CENTRES.items())]
    lines += ["", *(f"{name}_REACH = {reach[:2]}" for name, reach in ROOTS.items()), ""]
    TARGET.write_text("\n".join(lines[:-1]) + "\n")


if __name__ == "__main__":
    main()
