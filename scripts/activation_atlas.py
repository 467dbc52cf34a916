"""Draw every activation with its derivative, and write the table of their constants.

Writes `docs/images/activation_atlas.png`, and the table between its markers in
`docs/activations.md`.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from _pages import DOCS, filled

from jaxact import activations
from jaxact._compat import enable_x64

FAMILIES = ("rectified", "exponential", "sigmoidal", "self_gated", "periodic", "searched")
# Where a curve is drawn; the slope of log1mexp has a pole at 0.
SPANS = {"periodic": 9.0}


def curves(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, values and slopes of an activation, in float64; NaN breaks the line at a jump."""
    row = activations.info(name)
    span = SPANS.get(row.family, 4.0)
    x = np.linspace(0.02 if name == "log1mexp" else -span, span, 1200)
    with enable_x64(True):
        f, at = activations.get(name), jnp.asarray(x)
        y, slope = jax.jit(lambda v: jax.jvp(f, (v,), (jnp.ones_like(v),)))(at)
    y, slope = np.array(y), np.array(slope)
    for point in row.breakpoints:
        i = np.searchsorted(x, point)
        if 0 < i < len(x):
            for values in (y, slope):
                if abs(values[i] - values[i - 1]) > 0.05:
                    values[i] = np.nan
    return x, y, slope


def draw(path: pathlib.Path) -> None:
    """One panel for each activation, by family."""
    names = [n for family in FAMILIES for n in activations.names(family=family)]
    columns = 8
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(16, 1.9 * rows), layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for name, axis in zip(names, axes.flat, strict=False):
        x, y, slope = curves(name)
        axis.axhline(0, color="0.8", linewidth=0.6)
        axis.axvline(0, color="0.8", linewidth=0.6)
        axis.plot(x, y, color="C0", linewidth=1.4, label="f")
        axis.plot(x, slope, color="C1", linewidth=1.1, linestyle="--", label="f'")
        shown = np.concatenate([y, slope])
        shown = shown[np.isfinite(shown)]
        axis.set_ylim(max(shown.min() * 1.1, -4.2) - 0.1, min(shown.max() * 1.1, 4.2) + 0.1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=6)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def number(value: float) -> str:
    """Four digits, as text."""
    if math.isnan(value):
        return "none"
    return f"{value:.4g}".replace("inf", "∞")


def table() -> str:
    """A row for each activation: what `jaxact.activations.info` knows of it."""
    lines = [
        "| function | f(x) | range | sup \\|f'\\| | monotone | breakpoints | limits | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family in FAMILIES:
        for name in activations.names(family=family):
            row = activations.info(name)
            definition = row.definition.replace("|", r"\vert ")
            cells = (
                name,
                f"${definition}$",
                ", ".join(map(number, row.range)),
                number(row.lipschitz),
                "yes" if row.monotone else "no",
                ", ".join(map(number, row.breakpoints)),
                ", ".join(map(number, row.limits)),
                f"{row.paper} {row.year}" if row.year else row.paper,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write both."""
    draw(DOCS / "images" / "activation_atlas.png")
    page = DOCS / "activations.md"
    page.write_text(
        filled(page.read_text(encoding="utf-8"), "constants", table() + "\n"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
