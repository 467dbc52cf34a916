"""Generate `jaxact/activations/_coefficients.py`: Chebyshev fits made by mpmath at 60 digits."""

import pathlib

import mpmath as mp

mp.mp.dps = 60
TARGET = pathlib.Path(__file__).parent.parent / "jaxact" / "activations" / "_coefficients.py"


def fit(function, low, high, degree):
    """Coefficients, highest power first, and the largest error, of the Chebyshev interpolant."""
    coefficients, error = mp.chebyfit(function, [low, high], degree + 1, error=True)
    return [float(c) for c in coefficients], float(error)


def in_moebius(function, centre, end, degree):
    """A fit in t = (a - centre)/(a + centre), for a in [0, end]."""
    last = (end - centre) / (end + centre)
    return fit(lambda t: function(centre * (1 + t) / (1 - t)), -1, last, degree)


def normal_tail(a):
    """(1 + 2a) exp(a^2/2) Phi(-a)."""
    return (1 + 2 * a) * mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


def erfc_tail(a):
    """(1 + 2a) exp(a^2) erfc(a)."""
    return (1 + 2 * a) * mp.exp(a * a) * mp.erfc(a)


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


TABLES = {
    "TANH_NEAR_32": ("z = x^2 in [0, 0.4]", lambda: fit(tanh_defect, 0, 0.4, 5)),
    "TANH_NEAR_64": ("z = x^2 in [0, 0.4]", lambda: fit(tanh_defect, 0, 0.4, 14)),
    "TANH_WIDE_32": ("z = x^2 in [0, 1.5]", lambda: fit(tanh_defect, 0, 1.5, 9)),
    "TANH_WIDE_64": ("z = x^2 in [0, 1.5]", lambda: fit(tanh_defect, 0, 1.5, 24)),
    "NORMAL_TAIL_32": ("t = (a - 3)/(a + 3)", lambda: in_moebius(normal_tail, mp.mpf(3), 14.5, 11)),
    "NORMAL_TAIL_64": ("t = (a - 4)/(a + 4)", lambda: in_moebius(normal_tail, mp.mpf(4), 39.0, 23)),
    "NORMAL_NEAR_32": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 5)),
    "NORMAL_NEAR_64": ("z = x^2 in [0, 0.5]", lambda: fit(normal_near, 0, 0.5, 12)),
    "ERFC_TAIL_32": ("t = (a - 2)/(a + 2)", lambda: in_moebius(erfc_tail, mp.mpf(2), 10.5, 11)),
    "ERFC_TAIL_64": ("t = (a - 3)/(a + 3)", lambda: in_moebius(erfc_tail, mp.mpf(3), 27.5, 24)),
    "ERF_NEAR_32": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 7)),
    "ERF_NEAR_64": ("z = x^2 in [0, 1]", lambda: fit(erf_near, 0, 1, 14)),
    "EXPM1_32": (
        "x in [-1/2, 1/2], (expm1(x) - x)/x^2",
        lambda: fit(lambda x: (mp.expm1(x) - x) / x**2 if x else mp.mpf(1) / 2, -0.5, 0.5, 6),
    ),
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
    TARGET.write_text("\n".join(lines[:-1]) + "\n")


if __name__ == "__main__":
    main()
