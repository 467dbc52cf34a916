"""The command line of the figures: which to draw, how large, and where to."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import pandas as pd

from jaxact.experiments import _cli
from jaxact.experiments._cli import among
from jaxact.experiments._networks import DataSet, load_arrays
from jaxact.experiments._plots import Drawing, rendered
from jaxact.experiments._store import StudyError, write_table
from jaxact.experiments.figures import (
    _layers,
    _networks,
    _products,
    _theory,
    _tokens,
    _transformers,
)
from jaxact.experiments.figures._sizes import PRESETS, Sizes
from jaxact.io import write_whole


class PaperFigure(NamedTuple):
    """A figure of the paper: ``draw(measure(sizes))``."""

    measure: Callable[[Sizes], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Drawing]


FIGURES: Mapping[str, PaperFigure] = {
    name: PaperFigure(getattr(module, f"measure_{name}"), getattr(module, f"draw_{name}"))
    for module, names in (
        (_products, ("product_spectrum", "rank_tolerance", "naive_graded")),
        (_networks, ("rank_by_depth", "four_objects", "phase_diagram", "trajectory")),
        (_theory, ("correlation", "jacobian_law", "flips")),
        (_layers, ("convolutions", "batch_norm")),
        (_transformers, ("transformer_signal",)),
        (_tokens, ("attention_collapse",)),
    )
    for name in names
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """The paper's figures, each from its own measurement."""

    figure: Annotated[tuple[str, ...], among(FIGURES)] = tuple(FIGURES)
    """Which figures to draw; all by default."""
    preset: Literal["small", "paper"] = "small"
    """How large the networks are: small (two minutes on two cores), paper (an accelerator)."""
    dataset: DataSet = "digits"
    """What is shown to networks: a name in jaxact.training.DATASETS, or the path of an .npz file or
    of a CIFAR archive."""
    out: pathlib.Path = pathlib.Path("runs/figures")
    """Folder of the results: for each figure NAME.png, NAME.svg, NAME.txt (its caption) and
    NAME.parquet (its numbers). Figures that lie there are replaced."""


def draw(name: str, sizes: Sizes = PRESETS["small"], /) -> Drawing:
    """Measures and draws one figure.

    Args:
      name: one of `FIGURES`.
      sizes: how large its networks are.

    Returns:
      The figure, its caption and its numbers.

    Raises:
      ValueError: if there is no figure of that name.
    """
    if name not in FIGURES:
        raise ValueError(f"name must be one of {', '.join(FIGURES)}; got {name!r}")
    figure = FIGURES[name]
    return figure.draw(figure.measure(sizes))


def run(config: Figures) -> dict[str, Drawing]:
    """Draws figures and writes them.

    Args:
      config: which, how large, and where to.

    Returns:
      The drawings by name.

    Raises:
      StudyError: if a figure is unknown or the folder cannot be written.
    """
    _cli.validate(config)
    load_arrays(config.dataset)
    sizes = PRESETS[config.preset]._replace(dataset=config.dataset)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"out: cannot write to {config.out} ({error.strerror})") from error
    drawings = {}
    with _cli.Progress(len(config.figure), unit="figure") as bar:
        for name in config.figure:
            drawings[name] = drawing = draw(name, sizes)
            for kind in ("png", "svg"):
                write_whole(config.out / f"{name}.{kind}", rendered(drawing.figure, kind))
            write_table(config.out / f"{name}.parquet", drawing.numbers)
            write_whole(config.out / f"{name}.txt", f"{drawing.caption}\n".encode())
            bar.done(name)
    return drawings


def main() -> int:
    """The command line of ``scripts/figures.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(Figures, {})

    def study() -> None:
        start = time.monotonic()
        run(config)
        print(f"{len(config.figure)} figures in {config.out} ({time.monotonic() - start:.0f} s)")

    return _cli.command_line(study)
