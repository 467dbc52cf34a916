"""What a study is: a claim, what it predicts, what is measured, and the rule that decides."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments._store import StudyError

Cell = Mapping[str, Any]
"""One point of a study's grid: a value for each factor."""

PRESETS = ("quick", "default", "paper")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a study spends under one preset.

    Attributes:
      seeds: number of seeds, 0, 1, ...; each is shared by all cells, so that effects are paired.
      grid: the values of each factor; the cells are their product.
      settings: what does not vary within the study (width, training steps, ...), as JSON values.
    """

    seeds: int
    grid: Mapping[str, tuple[Any, ...]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Batch(NamedTuple):
    """Cells that are measured in one call, over all seeds.

    Attributes:
      cells: the cells, which agree in the study's ``together`` factors.
      seeds: the seeds.
      settings: the budget's.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a claim predicts of a study's table, with the rule fixed before the data.

    The prediction is confirmed if the corrected interval of the median effect lies wholly on the
    side of ``bound`` that it names, refuted if wholly on the other, and undecided otherwise.

    Attributes:
      name: a few words, unique in the study.
      statement: what is predicted, as a sentence.
      effect: from the study's table to one paired effect for each seed. If ``exact``, to one number
        or several that chance has no part in, each of which must satisfy the rule.
      bound: the smallest effect of interest; for ``below`` the largest deviation allowed.
      side: ``"above"`` or ``"below"``: on which side of ``bound`` the claim puts the effect.
      unit: of the effect.
      exact: whether the effect depends on no seed.
    """

    name: str
    statement: str
    effect: Callable[[pd.DataFrame], Any]
    bound: float
    side: str = "above"
    unit: str = ""
    exact: bool = False

    def __post_init__(self):
        if self.side not in ("above", "below"):
            raise ValueError(f"side must be 'above' or 'below'; got {self.side!r}")


class Plot(NamedTuple):
    """A figure of a study, drawn from its table alone.

    Attributes:
      name: of its file.
      draw: from the study's table to a figure.
      caption: what it shows.
    """

    name: str
    draw: Callable[[pd.DataFrame], Figure]
    caption: str


@dataclasses.dataclass(frozen=True)
class Study:
    """A claim of the literature and the measurement that decides on it.

    Attributes:
      name: an identifier.
      number: the claim's place on the page.
      claim: the claim in its source's meaning.
      source: who claims it.
      hypothesis: the claim made precise.
      measurement: what is measured, on what.
      theory: what theory says, or "".
      predictions: what the claim predicts. It is confirmed if all are, refuted if all are, and
        depends on ``depends`` if some are and others are not.
      depends: what divides the predictions, named when the verdict differs between them.
      budgets: by preset.
      measure: from a `Batch` to, for each of its cells in order, a frame with the columns
        ``quantity`` and ``value``, ``seed``, and any others (``layer``, ``step``, ...).
      together: the factors in which the cells of a batch agree; all cells are one batch by default.
      plots: the figures.
      keep: whether a cell of the product is part of the study.
      uses: names of studies whose rows are appended to the table; they are run first.
    """

    name: str
    number: int
    claim: str
    source: str
    hypothesis: str
    measurement: str
    theory: str
    predictions: tuple[Prediction, ...]
    depends: str
    budgets: Mapping[str, Budget]
    measure: Callable[[Batch], Sequence[pd.DataFrame]]
    together: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    keep: Callable[[Cell], bool] = lambda cell: True
    uses: tuple[str, ...] = ()

    def budget(self, preset: str) -> Budget:
        """The budget of a preset.

        Raises:
          StudyError: if the study has none of that name.
        """
        if preset not in self.budgets:
            raise StudyError(
                f"preset: study {self.name} has budgets for {', '.join(self.budgets)}; "
                f"got {preset!r}"
            )
        return self.budgets[preset]

    def cells(self, preset: str) -> list[Cell]:
        """The cells under a preset, in the order of the product."""
        grid = self.budget(preset).grid
        cells = (
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        )
        return [cell for cell in cells if self.keep(cell)]

    def batches(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
        """The cells in groups that agree in ``together``."""

        def key(cell: Cell) -> tuple[str, ...]:
            return tuple(str(cell[factor]) for factor in self.together)

        for _, group in itertools.groupby(sorted(cells, key=key), key=key):
            yield tuple(group)

    def cell_name(self, cell: Cell) -> str:
        """The name of a cell's file, without suffix."""
        values = "".join(f"-{value}" for value in cell.values())
        return f"{self.name}{values}".replace("/", "_").replace(" ", "_")

    def protocol(self, preset: str) -> dict[str, Any]:
        """What was fixed before the data, as JSON values."""
        budget = self.budget(preset)
        return {
            "claim": self.claim,
            "source": self.source,
            "hypothesis": self.hypothesis,
            "measurement": self.measurement,
            "predictions": [
                {
                    "name": p.name,
                    "statement": p.statement,
                    "side": p.side,
                    "bound": p.bound,
                    "unit": p.unit,
                    "exact": p.exact,
                }
                for p in self.predictions
            ],
            "seeds": list(range(budget.seeds)),
            "grid": {factor: list(values) for factor, values in budget.grid.items()},
            "cells": len(self.cells(preset)),
            "settings": dict(budget.settings),
        }
