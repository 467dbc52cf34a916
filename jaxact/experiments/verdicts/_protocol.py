"""What a study is: a claim, what it predicts, what is measured, and the rule that decides."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import training
from jaxact.experiments._grid import Cell, Grid, Spent, product
from jaxact.experiments._store import StudyError

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


def budgets(
    seeds: Mapping[str, int], grid: Mapping[str, Any], settings: Mapping[str, Any], /
) -> dict[str, Budget]:
    """The budgets of a study, side by side.

    Args:
      seeds: by preset the number of seeds.
      grid: by factor its values: a tuple, or by preset a tuple.
      settings: by name what does not vary within the study: a value, or by preset a value.

    Returns:
      A `Budget` for each preset.
    """

    def of(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v[preset] if isinstance(v, Mapping) else v for k, v in given.items()}

    return {
        preset: Budget(n, of(preset, grid), of(preset, settings)) for preset, n in seeds.items()
    }


def by_preset(quick: Any, default: Any, paper: Any) -> dict[str, Any]:
    """What differs between the presets."""
    return {"quick": quick, "default": default, "paper": paper}


class Batch(NamedTuple):
    """Cells that are measured in one call, over all seeds.

    Attributes:
      cells: the cells, which agree in the study's ``together`` factors.
      seeds: the seeds.
      settings: the budget's.
      data: the data set.
      program: what the study's ``prepare`` gave.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    data: training.Dataset
    program: Any = None


class Gate(NamedTuple):
    """What must hold of the networks before a prediction about them can be decided.

    A network that does not beat a guess, or a task that all arms solve alike, is evidence for
    nothing.

    Attributes:
      name: what must hold, in a few words.
      value: from the study's table to a number, or one for each seed, whose median counts.
      bound: that it is compared with.
      side: ``"above"`` or ``"below"``: on which side of ``bound`` it must lie.
    """

    name: str
    value: Callable[[pd.DataFrame], Any]
    bound: float
    side: str

    def missed(self, table: pd.DataFrame, /) -> str:
        """What does not hold, in words; "" where the gate is passed."""
        found = float(np.median(np.asarray(self.value(table), np.float64)))
        passed = found > self.bound if self.side == "above" else found < self.bound
        return "" if passed else f"{self.name}: {found:.3g}, not {self.side} {self.bound:g}"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a claim predicts of a study's table, with the rule fixed before the data.

    The prediction is confirmed if the corrected interval of the median effect lies wholly on the
    side of ``bound`` that it names, refuted if wholly on the other, and undecided otherwise; it is
    not informative, whatever its effect, where one of its gates is missed.

    Attributes:
      name: a few words, unique in the study.
      statement: what is predicted, as a sentence.
      effect: from the study's table to one paired effect for each seed. If ``exact``, to one number
        or several that chance has no part in, each of which must satisfy the rule.
      bound: the smallest effect of interest; for ``below`` the largest deviation allowed.
      side: ``"above"`` or ``"below"``: on which side of ``bound`` the claim puts the effect.
      unit: of the effect.
      exact: whether the effect depends on no seed.
      reason: why the bound is what it is.
      gates: what must hold for the effect to say anything.
    """

    name: str
    statement: str
    effect: Callable[[pd.DataFrame], Any]
    bound: float
    side: str = "above"
    unit: str = ""
    exact: bool = False
    reason: str = ""
    gates: tuple[Gate, ...] = ()

    def __post_init__(self):
        if self.side not in ("above", "below"):
            raise ValueError(f"side must be 'above' or 'below'; got {self.side!r}")

    def missed(self, table: pd.DataFrame, /) -> str:
        """The gates that are missed, in words; "" for none."""
        return "; ".join(filter(None, (gate.missed(table) for gate in self.gates)))

    def rule(self) -> dict[str, Any]:
        """All of it but the functions, as JSON values."""
        fields = ("name", "statement", "side", "bound", "unit", "exact", "reason")
        gates = [[gate.name, gate.side, gate.bound] for gate in self.gates]
        return {**{field: getattr(self, field) for field in fields}, "gates": gates}


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


def predicts(name: str, /, **rule: Any) -> Callable[[Callable[[pd.DataFrame], Any]], Prediction]:
    """Makes a prediction of an effect, whose docstring is the statement.

    Args:
      name: see `Prediction`.
      **rule: the other fields of `Prediction`.
    """
    return lambda effect: Prediction(name, _said(effect), effect, **rule)


def plotted(name: str, /) -> Callable[[Callable[[pd.DataFrame], Figure]], Plot]:
    """Makes a figure of a function that draws, whose docstring is the caption."""
    return lambda draw: Plot(name, draw, _said(draw))


def _said(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split())


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
      prepare: from a batch to the ``program`` that ``measure`` finds in it, made beside the
        measuring of the batch before.
      together: the factors in which the cells of a batch agree; all are one batch by default.
      plots: the figures.
      keep: whether a cell of the product is part of the study.
      uses: names of studies whose rows are appended to the table; they are run first.
      sentence: the claim in the source's words, and where they stand.
      practice: what a practitioner should take from it.
      known: by prediction the decision that is known to be right, of a study that tests the
        protocol itself.
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
    prepare: Callable[[Batch], Any] = lambda batch: None
    together: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    keep: Callable[[Cell], bool] = lambda cell: True
    uses: tuple[str, ...] = ()
    sentence: str = ""
    practice: str = ""
    known: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        return [cell for cell in product(self.budget(preset).grid) if self.keep(cell)]

    def grid(self, preset: str, data: training.Dataset, measures: tuple[str, ...] = ()) -> Grid:
        """The study as the runner takes it; ``measures`` are taken beside those it names."""
        budget = self.budget(preset)
        settings = dict(budget.settings)
        if "measures" in settings:
            settings["measures"] = tuple(dict.fromkeys((*settings["measures"], *measures)))

        def batch(cells: tuple[Cell, ...], program: Any = None) -> Batch:
            return Batch(cells, tuple(range(budget.seeds)), settings, data, program)

        def finish(cell: Cell, rows: pd.DataFrame, spent: Spent) -> pd.DataFrame:
            times = pd.DataFrame({"quantity": Spent._fields, "value": spent, "seed": -1})
            labels = {factor: value for factor, value in cell.items() if factor not in rows}
            return pd.concat([rows, times], ignore_index=True).assign(study=self.name, **labels)

        return Grid(
            self.cells(preset),
            self.together,
            self.cell_name,
            lambda cells, program: self.measure(batch(cells, program)),
            lambda cells: self.prepare(batch(cells)),
            finish,
        )

    def cell_name(self, cell: Cell) -> str:
        """The name of a cell's file, without suffix."""
        values = "".join(f"-{value}" for value in cell.values())
        return f"{self.name}{values}".replace("/", "_").replace(" ", "_")

    def protocol(self, preset: str) -> dict[str, Any]:
        """What was fixed before the data, as JSON values."""
        budget = self.budget(preset)
        fixed = {
            "claim": self.claim,
            "source": self.source,
            "hypothesis": self.hypothesis,
            "measurement": self.measurement,
            "predictions": [prediction.rule() for prediction in self.predictions],
            "seeds": list(range(budget.seeds)),
            "grid": {factor: list(values) for factor, values in budget.grid.items()},
            "cells": len(self.cells(preset)),
            "settings": dict(budget.settings),
        }
        return json.loads(json.dumps(fixed))


WORDS = ("claim", "source", "sentence", "hypothesis", "measurement", "theory", "practice")


def words(text: str | None, /) -> dict[str, Any]:
    """The number and the words of a study, from the docstring of its file.

    Args:
      text: a first line ``Claim NUMBER: ...``, and after it a paragraph for each of `WORDS`, opened
        by the word and a colon; what it has no paragraph for is "".

    Returns:
      These fields of `Study`.

    Raises:
      ValueError: if there is no text (Python was told to drop docstrings), or no number.
    """
    first, _, rest = (text or "").partition("\n")
    number = re.match(r"Claim (\d+):", first)
    if number is None:
        raise ValueError(f"text must begin with 'Claim NUMBER:'; got {first!r}")
    found: dict[str, Any] = dict.fromkeys(WORDS, "")
    for paragraph in rest.strip().split("\n\n"):
        word, _, said = paragraph.partition(":")
        found[word.strip().lower()] = " ".join(said.split())
    return {"number": int(number[1]), **found}
