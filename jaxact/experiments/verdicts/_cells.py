"""Cells that are networks: the ``prepare`` and ``measure`` of every study that trains."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from jaxact import analysis
from jaxact.experiments._networks import Arm, Spec, Trial, Trials
from jaxact.experiments.verdicts._protocol import Batch


def trials(batch: Batch) -> Trials:
    """The compiled program that serves a batch of cells.

    Factors of a cell, or settings of the budget, are the fields of `Spec` (``activation`` for one
    of its activations, ``start`` for one of its starts), ``rate`` and ``warmup``, and ``exponent``:
    the initial branch is multiplied by depth ** -exponent. The cells agree in all but these five.
    What is measured are the settings' ``measures``, names of `jaxact.analysis.MEASURES`.

    Args:
      batch: the cells.

    Returns:
      The program.
    """
    first = {**batch.settings, **batch.cells[0]}
    names = tuple(dict.fromkeys(_fields(batch, cell)["activation"] for cell in batch.cells))
    fields = {name: first[name] for name in Spec._fields if name in first}
    observe = functools.partial(
        lambda names, view: analysis.measure_view(view, names), tuple(first["measures"])
    )
    spec = Spec(**fields, activations=names, starts=_starts(batch))
    made = Trials(spec, batch.data, observe)
    return made.compile(batch.seeds, list(_arms(batch, names[0]).values()))


def train_cells(batch: Batch) -> list[pd.DataFrame]:
    """Trains and measures cells that are networks.

    Args:
      batch: the cells; its program is that of `trials`, which is made if need be.

    Returns:
      A frame for each cell, with the columns seed, step, layer (0 for a value of the whole
      network), quantity, value, and chance, the loss of a guess among the classes.
    """
    program = batch.program or trials(batch)
    frames: dict[int, pd.DataFrame] = {}
    for name in program.spec.activations:
        arms = _arms(batch, name)
        for i, trial in zip(arms, program.run(name, batch.seeds, list(arms.values())), strict=True):
            frames[i] = rows(trial, batch.seeds, program)
    return [frames[i] for i in range(len(batch.cells))]


def _starts(batch: Batch) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell["start"] for cell in batch.cells if "start" in cell))


def _fields(batch: Batch, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {**batch.settings, **cell}


def _arms(batch: Batch, activation: str) -> dict[int, Arm]:
    """By number of the cell what differs between those of an activation."""
    starts = _starts(batch)
    return {
        i: Arm(
            fields.get("rate", 1e-3),
            fields.get("warmup", 0.0),
            fields["depth"] ** -fields.get("exponent", 0.0),
            starts.index(cell["start"]) if "start" in cell else 0,
        )
        for i, cell in enumerate(batch.cells)
        if (fields := _fields(batch, cell))["activation"] == activation
    }


def rows(trial: Trial, seeds: Sequence[int], program: Trials) -> pd.DataFrame:
    """Measured arrays (seed, mark[, layer]) as one tidy frame; layer 0 is the whole network."""
    frames = []
    for name, values in trial.observed.items():
        axes: dict[str, Any] = {"seed": list(seeds), "step": program.at}
        if values.ndim > 2:
            axes["layer"] = range(1, values.shape[2] + 1)
        frames.append(analysis.tidy(values, axes, quantity=name))
    table = pd.concat(frames, ignore_index=True).assign(chance=math.log(program.classes))
    return table.fillna({"layer": 0}) if "layer" in table else table.assign(layer=0)
