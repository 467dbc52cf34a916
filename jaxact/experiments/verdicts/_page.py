"""The page of verdicts, as blocks."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from jaxact.experiments._plots import Drawing
from jaxact.experiments._report import Block, Code, Heading, Paragraph, Table, picture
from jaxact.experiments.verdicts._protocol import Prediction
from jaxact.experiments.verdicts._statistics import Outcome

METHOD = (
    "Claims, measurements, smallest effects of interest and rules were fixed in the code before "
    "the data; the verdicts are computed from the data by the rules, and no text here is written "
    "by hand after a run. An effect is paired: it compares networks of the same seed. Its median "
    "over seeds is tested against the smallest effect of interest by the sign test, and shown with "
    "its interval of order statistics; both are exact for any distribution. Holm's procedure "
    "corrects over all predictions of the run, so that the probability of any wrong decision is at "
    "most {alpha:g}; an interval is shown at the confidence at which it was tested. A prediction "
    "is confirmed if its interval lies wholly on its side of the bound, refuted if wholly on the "
    "other, undecided otherwise. A claim is confirmed if all its predictions are, refuted if all "
    "are, and depends on what divides them where some are confirmed and others refuted. Effects "
    "marked exact have no part in chance. Seeds vary weights and batches, not the data set."
)


def page(
    results: Sequence[Any], /, *, preset: str, alpha: float, facts: Mapping[str, Any]
) -> list[Block]:
    """The page as blocks.

    Args:
      results: of a run (`Result`).
      preset: the budget.
      alpha: the probability of any wrong decision.
      facts: the manifest.
    """
    words = [result.verdict.word for result in results]
    counts = ", ".join(
        f"{words.count(word)} {label}"
        for word, label in (
            ("confirmed", "confirmed"),
            ("refuted", "refuted"),
            ("depends", "that depend on a condition"),
            ("undecided", "undecided"),
        )
        if word in words
    )
    seconds = sum(result.seconds for result in results)
    processor = sum(result.processor_seconds for result in results)
    blocks: list[Block] = [
        Heading(1, "Claims and verdicts"),
        Paragraph(
            f"{len(results)} claims of the literature on activations, skips, norms and rank, each "
            f"put to the test by a study that was fixed before its data: {counts}."
        ),
        Paragraph(
            f"This page comes from the budget `{preset}`: {_scale(results, preset)}, "
            f"{seconds / 60:.1f} minutes of measuring ({processor / 60:.1f} minutes of processor "
            f"time) on {facts['devices']} {facts['device']} device(s). {BUDGETS[preset]}",
            "Budget.",
        ),
        Heading(2, "In short"),
        Table(
            pd.DataFrame(
                {
                    "": [result.study.number for result in results],
                    "claim": [result.study.claim for result in results],
                    "verdict": [result.verdict.sentence for result in results],
                }
            )
        ),
        Heading(2, "How it is decided"),
        Paragraph(METHOD.format(alpha=alpha)),
    ]
    for result in results:
        blocks += _claim(result)
    blocks += [
        Heading(2, "How it was made"),
        Paragraph(f"`python scripts/verdicts.py --preset {preset}`"),
        Table(_budgets(results, preset)),
        Code(json.dumps(facts, indent=2)),
    ]
    return blocks


BUDGETS = {
    "quick": "It is the small one that continuous integration runs: networks are narrow, training "
    "is short, and a verdict holds for these networks and this data. Where it says undecided, a "
    "larger budget is needed.",
    "default": "A verdict holds for these networks and this data.",
    "paper": "A verdict holds for these networks and this data.",
}


def _scale(results: Sequence[Any], preset: str) -> str:
    cells = sum(len(result.study.cells(preset)) for result in results)
    seeds = [result.study.budget(preset).seeds for result in results]
    return f"{cells} cells of up to {max(seeds)} seeds"


def _claim(result: Any) -> list[Block]:
    study, table, outcomes, verdict, *_ = result
    blocks: list[Block] = [
        Heading(2, f"{study.number}. {study.claim}"),
        Paragraph(verdict.sentence, "Verdict."),
        Paragraph(study.source + ".", "Source."),
        Paragraph(study.hypothesis, "Hypothesis."),
        Paragraph(study.measurement, "Measured."),
    ]
    if study.theory:
        blocks.append(Paragraph(study.theory, "Theory."))
    rows = [_row(p, o) for p, o in zip(study.predictions, outcomes, strict=True)]
    blocks.append(Table(pd.DataFrame(rows)))
    for plot in study.plots:
        blocks.append(picture(Drawing(plot.name, plot.draw(table), plot.caption, pd.DataFrame())))
    return blocks


def _row(prediction: Prediction, outcome: Outcome) -> dict[str, str]:
    sign = {"above": ">", "below": "<"}[prediction.side]
    if prediction.exact:
        sign += "="
        interval, seeds = "exact", "-"
    else:
        interval = f"[{number(outcome.low)}, {number(outcome.high)}] at {_percent(outcome.level)}"
        seeds = str(outcome.seeds)
    return {
        "prediction": prediction.name,
        "effect": number(outcome.effect),
        "interval": interval,
        "rule": f"{sign} {number(prediction.bound)}",
        "unit": prediction.unit,
        "seeds": seeds,
        "decision": outcome.decision,
    }


def number(value: float) -> str:
    """A number in three digits.

    Example:
      >>> [number(v) for v in (0.12345, -1e-9, 12345.0, float("inf"))]
      ['0.123', '-1e-09', '12345', '∞']
    """
    if math.isnan(value):
        return "no value"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.3g}"


def _percent(level: float) -> str:
    return f"{100 * level:.2f}%"


def _budgets(results: Sequence[Any], preset: str) -> pd.DataFrame:
    rows = []
    for result in results:
        budget = result.study.budget(preset)
        grid = "; ".join(f"{k}: {', '.join(map(str, v))}" for k, v in budget.grid.items())
        settings = ", ".join(
            f"{k} {v}" for k, v in budget.settings.items() if not isinstance(v, list)
        )
        rows.append(
            {
                "claim": str(result.study.number),
                "cells": str(len(result.study.cells(preset))),
                "seeds": str(budget.seeds),
                "factors": grid,
                "settings": settings,
                "seconds": f"{result.seconds:.0f}",
                "processor seconds": f"{result.processor_seconds:.0f}",
            }
        )
    return pd.DataFrame(rows)
