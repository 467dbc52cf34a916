"""Draws the block of every placement and writes docs/models.md's tables, from `jaxact.wiring`.

Run ``python scripts/wirings.py``; with ``--check`` it says whether the page is up to date.
"""

import itertools
import sys

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from _pages import DOCS, asked_to_check, filled

from jaxact import wiring
from jaxact.wiring import PLACEMENTS, SKIPS, Placement

COLOURS = {"W": "#cfe0f5", "N": "#f9dfb5", "a": "#d4ecd0", "+": "#ffffff"}


def steps(placement: Placement) -> tuple[list[str], list[str]]:
    """The parts of a branch of two layers, and those after the addition."""
    branch = [
        token if number is None or token == "a" else f"{token}{number}"
        for token, number in placement.numbered(2)
    ]
    return branch, list(placement.after)


def label(part: str) -> str:
    """The part as mathematics."""
    return f"${part[0]}_{part[1]}$" if len(part) > 1 else f"${part}$"


class Canvas:
    """Boxes from top to bottom."""

    def __init__(self, title: str, height: float):
        self.figure, self.axes = plt.subplots(figsize=(2.2, 0.42 * height))
        self.axes.set_xlim(-1.9, 1.5)
        self.axes.set_ylim(-height, 0.2)
        self.axes.axis("off")
        self.axes.set_title(title, fontsize=9, family="monospace")

    def box(self, x: float, y: float, part: str):
        """A part, its middle at (x, y)."""
        style = "circle,pad=0.12" if part == "+" else "round,pad=0.02,rounding_size=0.12"
        self.axes.text(
            x,
            y,
            "+" if part == "+" else f"{label(part)}".center(8),
            ha="center",
            va="center",
            fontsize=10,
            bbox={"boxstyle": style, "fc": COLOURS[part[0]], "ec": "#333333", "lw": 0.8},
        )

    def arrow(self, *points: tuple[float, float]):
        """A line through the points that ends in an arrow."""
        for start, end in itertools.pairwise(points[:-1]):
            self.axes.plot(*zip(start, end, strict=True), color="#333333", lw=0.9, zorder=0)
        self.axes.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={"arrowstyle": "->", "color": "#333333", "lw": 0.9, "shrinkA": 0},
            zorder=0,
        )


def draw(placement: Placement) -> plt.Figure:
    """One block: the skip at the left, the branch at the right."""
    branch, after = steps(placement)
    height = len(branch) + len(after) + 4.0
    canvas = Canvas(placement.name, height)
    canvas.axes.text(0, 0, "$x$", ha="center", va="center", fontsize=10)
    y = -1.0
    right = 0.7
    split = (0.0, -0.55)
    canvas.axes.plot([0, 0], [-0.2, split[1]], color="#333333", lw=0.9, zorder=0)
    canvas.arrow(split, (right, split[1]), (right, y - 0.25))
    for number, part in enumerate(branch):
        y = -1.3 - number
        canvas.box(right, y, part)
        if number:
            canvas.arrow((right, y + 0.8), (right, y + 0.2))
    addition = y - 1.0
    canvas.arrow((right, y - 0.2), (right, addition), (0.22, addition))
    canvas.arrow(split, (-0.45, split[1]), (-0.45, addition), (-0.2, addition))
    if placement.stream_scale(2) != 1:
        canvas.axes.text(-0.5, addition / 2, r"$\alpha$", ha="right", va="center", fontsize=10)
    canvas.box(0, addition, "+")
    y = addition
    for part in after:
        canvas.arrow((0, y - 0.2), (0, y - 0.8))
        y -= 1.0
        canvas.box(0, y, part)
    canvas.arrow((0, y - 0.2), (0, y - 0.85))
    canvas.axes.text(0, y - 1.05, "$y$", ha="center", va="center", fontsize=10)
    if placement.dual:
        canvas.axes.text(-1.5, 0, "$d$", ha="center", va="center", fontsize=10)
        level = addition + 0.5
        canvas.arrow((-1.5, -0.2), (-1.5, level + 0.22))
        canvas.box(-1.5, level, "+")
        canvas.arrow((right, level), (-1.28, level))
        canvas.arrow((-1.5, level - 0.2), (-1.5, y - 0.85))
        canvas.axes.text(-1.5, y - 1.05, "$d'$", ha="center", va="center", fontsize=10)
    return canvas.figure


def latex(equation: str) -> str:
    """An equation of `jaxact.wiring` as LaTeX."""
    signs = {
        "α": r"\alpha",
        "β": r"\beta",
        "√L": r"\sqrt{L}",
        "√ℓ": r"\sqrt{\ell}",
        "diag": r"\mathrm{diag}",
    }
    for sign, command in signs.items():
        equation = equation.replace(sign, command)
    return f"${equation}$"


def placements() -> str:
    """The table of placements, for blocks of two layers and a sublayer F, and their pictures."""
    rows = [
        "| `norm_placement` | a block of two layers; a sublayer F | label and source |",
        "| --- | --- | --- |",
    ]
    for name, placement in PLACEMENTS.items():
        found = wiring.get(name)
        whole = found.equation(layers=2)
        sublayer = f"<br>{latex(found.equation(sublayer=True))}" if placement.sublayers else ""
        source = f"{placement.label}: {placement.source}"
        rows.append(f"| `{name}` | {latex(whole)}{sublayer} | {source} |")
    pictures = "\n".join(f"![{name}](images/blocks/{name}.svg)" for name in PLACEMENTS)
    return "\n".join(rows) + f"\n\n{pictures}\n"


def skips() -> str:
    """The table of skips."""
    rows = ["| `skip` | y, with branch F | label and source |", "| --- | --- | --- |"]
    for name, skip in SKIPS.items():
        equation = latex(wiring.of("norm_free", name).equation(sublayer=True))
        rows.append(f'| `"{name}"` | {equation} | {skip.label}: {skip.source} |')
    return "\n".join(rows) + "\n"


def page() -> str:
    """docs/models.md with its tables written anew."""
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    for name, table in (("placements", placements()), ("skips", skips())):
        text = filled(text, name, table)
    return text


def main() -> int:
    """Writes the tables and one picture for each placement."""
    text = page()
    if asked_to_check(__doc__):
        return int(text != (DOCS / "models.md").read_text(encoding="utf-8"))
    (DOCS / "models.md").write_text(text, encoding="utf-8")
    plt.rcParams["svg.hashsalt"] = "jaxact"
    for name, placement in PLACEMENTS.items():
        figure = draw(placement)
        file = DOCS / "images" / "blocks" / f"{name}.svg"
        figure.savefig(file, bbox_inches="tight", dpi=110, metadata={"Date": None})
        plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
