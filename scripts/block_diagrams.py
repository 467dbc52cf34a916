"""Draws the block of every norm placement, from the table by which blocks are built.

Run ``python scripts/block_diagrams.py --out docs/images/blocks``.
"""

import argparse
import itertools
import pathlib

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from jaxact.models._wiring import PLACEMENTS, Placement

COLOURS = {"W": "#cfe0f5", "N": "#f9dfb5", "a": "#d4ecd0", "+": "#ffffff"}


def steps(place: Placement) -> tuple[list[str], list[str]]:
    """The parts of a branch of two layers, and those after the addition."""
    branch = []
    for number in (1, 2):
        if place.before:
            branch.append(f"N{number}")
        if number > 1 or place.activation_first:
            branch.append("a")
        branch.append(f"W{number}")
        if place.between and (number == 1 or place.end):
            branch.append(f"N{number}")
    if place.end and not place.between:
        branch.append("N")
    if place.activation_at == "branch":
        branch.append("a")
    after = ["N"] if place.after_addition else []
    if place.activation_at == "addition":
        after.append("a")
    return branch, after


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


def draw(name: str, place: Placement) -> plt.Figure:
    """One block: the skip at the left, the branch at the right."""
    branch, after = steps(place)
    dual = name == "residual_dual"
    height = len(branch) + len(after) + 4.0
    canvas = Canvas(name, height)
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
    if name == "deepnorm":
        canvas.axes.text(-0.5, addition / 2, r"$\alpha$", ha="right", va="center", fontsize=10)
    canvas.box(0, addition, "+")
    y = addition
    for part in after:
        canvas.arrow((0, y - 0.2), (0, y - 0.8))
        y -= 1.0
        canvas.box(0, y, part)
    canvas.arrow((0, y - 0.2), (0, y - 0.85))
    canvas.axes.text(0, y - 1.05, "$y$", ha="center", va="center", fontsize=10)
    if dual:
        canvas.axes.text(-1.5, 0, "$d$", ha="center", va="center", fontsize=10)
        level = addition + 0.5
        canvas.arrow((-1.5, -0.2), (-1.5, level + 0.22))
        canvas.box(-1.5, level, "+")
        canvas.arrow((right, level), (-1.28, level))
        canvas.arrow((-1.5, level - 0.2), (-1.5, y - 0.85))
        canvas.axes.text(-1.5, y - 1.05, "$d'$", ha="center", va="center", fontsize=10)
    return canvas.figure


def main() -> None:
    """Writes one file for each placement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/images/blocks"))
    parser.add_argument("--format", default="svg", choices=["svg", "png"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "jaxact"
    for name, place in PLACEMENTS.items():
        figure = draw(name, place)
        file = options.out / f"{name}.{options.format}"
        metadata = {"Date": None} if options.format == "svg" else None
        figure.savefig(file, bbox_inches="tight", dpi=110, metadata=metadata)
        plt.close(figure)
        print(file)


if __name__ == "__main__":
    main()
