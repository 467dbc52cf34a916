"""Write the table of constants into docs/theory.md, computed in float64.

python scripts/theory_tables.py [--check]
"""

import sys

import jax
import jax.numpy as jnp
from _pages import DOCS, asked_to_check, filled

from jaxact import activations, theory

PAGE = DOCS / "theory.md"
HEADER = (
    "| activation | E f | E f² | gain | E f'² | χ₁ | V'(1) | C(0) | c* | dead | Lipschitz |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def row(name: str) -> str:
    """The constants of one activation at q = 1, with weights of variance gain^2."""
    s = theory.statistics(name)
    chi = s.gain**2 * s.squared_slope
    slope = jax.jacfwd(lambda q: theory.variance_map(name, q))(jnp.ones(()))
    zero = theory.correlation_map(name, 0.0)
    fixed = theory.fixed_point(name).correlation
    values = (s.mean, s.second_moment, s.gain, s.squared_slope, chi, slope, zero, fixed)
    values = (*values, s.dead_fraction, s.lipschitz)
    return f"| {name} | " + " | ".join(_show(float(v)) for v in values) + " |\n"


def _show(value: float) -> str:
    if abs(value - round(value, 2)) < 1e-12:
        value = round(value, 2) + 0.0
        return "∞" if value == float("inf") else f"{value:g}"
    return "∞" if value == float("inf") else f"{value:.6f}"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    check = asked_to_check(__doc__)
    jax.config.update("jax_enable_x64", True)
    text = PAGE.read_text(encoding="utf-8")
    rows = "".join(row(name) for name in sorted(activations.names()) if not _skipped(name))
    page = filled(text, "constants", HEADER + rows)
    if check:
        return int(page != text)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def _skipped(name: str) -> bool:
    """Functions of several arrays, or that are not elementwise, have no such constants."""
    x = jnp.linspace(-1.0, 1.0, 4)
    try:
        y = activations.get(name)(x)
    except TypeError:
        return True
    return y.shape != x.shape or not bool(jnp.allclose(activations.get(name)(x[:2]), y[:2]))


if __name__ == "__main__":
    sys.exit(main())
