"""The page of verdicts, as blocks."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from jaxact.experiments._plots import Drawing
from jaxact.experiments._report import Block, Code, Heading, Paragraph, Table, picture
from jaxact.experiments.verdicts._protocol import Prediction
from jaxact.experiments.verdicts._published import Made
from jaxact.experiments.verdicts._statistics import Outcome, detectable

METHOD = (
    "Measurements, smallest effects of interest and rules are fixed in the code before the data; "
    "where a rule was restated after them, the last section says so. The verdicts are computed "
    "from the data by the rules; descriptions and lines of practice are written by hand. An "
    "effect is paired: it compares networks of the same seed. Its median over seeds is tested "
    "against the smallest effect of interest by the sign test, and shown with its interval of "
    "order statistics; both are exact for any distribution. Holm's procedure corrects over all "
    "{tests} predictions of the page that chance has a part in, so that the probability of any "
    "wrong decision is at most {alpha:g}; an interval is shown at the confidence at which it was "
    "tested. A prediction is confirmed if its interval lies wholly on its side of the bound, "
    "refuted if wholly on the other, undecided otherwise. Where a condition is given that the "
    "networks must meet (they train; the task is not one that all solve alike) and do not, the "
    "prediction is not informative, whatever its effect. A claim is confirmed if all its "
    "predictions are, refuted if all are, and depends on what divides them where some are "
    "confirmed and others refuted. Effects marked exact have no part in chance. Seeds vary weights "
    "and batches, not the data set."
)
SIGNS = {"above": ">", "below": "<"}
COUNTED = {
    "confirmed": "confirmed",
    "refuted": "refuted",
    "depends": "that depend on a condition",
    "undecided": "undecided",
    "not informative": "on which these networks say nothing",
}


def page(results: Sequence[Any], /, *, alpha: float, made: Mapping[str, Made]) -> list[Block]:
    """The page as blocks.

    Args:
      results: of a run (`Result`). Studies whose right decisions are known test the protocol, and
        are shown apart.
      alpha: the probability of any wrong decision.
      made: by name of the study how its table came to be.
    """
    claims = [result for result in results if not result.study.known]
    words = [result.verdict.word for result in claims]
    counts = ", ".join(f"{words.count(w)} {label}" for w, label in COUNTED.items() if w in words)
    tests = sum(not p.exact for result in results for p in result.study.predictions)
    blocks: list[Block] = [
        Heading(1, "Claims and verdicts"),
        Paragraph(
            f"{len(claims)} claims of the literature on activations, skips, norms and rank, each "
            f"put to the test by a study: {counts}."
        ),
        Paragraph(_budget(results, made), "Budget."),
        Heading(2, "In short"),
        Table(
            pd.DataFrame(
                {
                    "": [result.study.number for result in claims],
                    "claim": [result.study.claim for result in claims],
                    "verdict": [result.verdict.sentence for result in claims],
                    "in practice": [result.study.practice for result in claims],
                }
            )
        ),
        Heading(2, "How it is decided"),
        Paragraph(METHOD.format(alpha=alpha, tests=tests)),
    ]
    for result in results:
        if result.study.known:
            blocks += _control(result)
    for result in claims:
        blocks += _claim(result)
    blocks += [
        Heading(2, "How it was made"),
        Paragraph(
            "`python scripts/verdicts.py --rebuild --docs docs` makes this page again from the "
            "tables in `docs/data/verdicts/`; `--claims NUMBERS --docs docs` measures some claims "
            "anew. Seeds suffice to find, with probability 0.9 and after Holm's correction at its "
            "strictest, an effect that lies on one side of its bound in the share of all seeds "
            "that the last column gives."
        ),
        Table(_budgets(results, made, alpha, tests)),
    ]
    for facts, names in _by_facts(results, made):
        blocks += [Paragraph(f"{names}:", "Made by."), Code(json.dumps(facts, indent=2))]
    return blocks


BUDGETS = {
    "quick": "The budget `quick` is the small one that continuous integration runs: networks are "
    "narrow, training is short, and a verdict holds for these networks and this data. Where it "
    "says undecided, a larger budget is needed.",
    "default": "A verdict holds for these networks and this data.",
    "paper": "A verdict holds for these networks and this data.",
}


def _budget(results: Sequence[Any], made: Mapping[str, Made]) -> str:
    presets = [made[result.study.name].preset for result in results]
    named = " and ".join(f"`{preset}`" for preset in dict.fromkeys(presets))
    pairs = list(zip(results, presets, strict=True))
    cells = sum(len(result.study.cells(preset)) for result, preset in pairs)
    seeds = max(result.study.budget(preset).seeds for result, preset in pairs)
    minutes = sum(result.seconds for result in results) / 60
    processor = sum(result.processor_seconds for result in results) / 60
    facts = (made[result.study.name].facts for result in results)
    devices = " and ".join(dict.fromkeys(f"{f['devices']} {f['device']}" for f in facts))
    return (
        f"This page comes from the budget {named}: {cells} cells of up to {seeds} seeds, "
        f"{minutes:.1f} minutes of measuring ({processor:.1f} minutes of processor time) on "
        f"{devices} device(s). {' '.join(dict.fromkeys(BUDGETS[preset] for preset in presets))}"
    )


def _control(result: Any) -> list[Block]:
    study, _, outcomes, *_ = result
    decided = {p.name: o.decision for p, o in zip(study.predictions, outcomes, strict=True)}
    wrong = [name for name, right in study.known.items() if decided[name] != right]
    told = (
        "It passes: each is decided as it should be."
        if not wrong
        else f"IT FAILS, and with it all verdicts of this page: {', '.join(wrong)}."
    )
    return [
        Heading(3, "The protocol's own test"),
        Paragraph(f"{study.hypothesis} {study.measurement} {told}"),
        _outcomes(study, outcomes, {"should be": list(study.known.values())}),
    ]


def _claim(result: Any) -> list[Block]:
    study, table, outcomes, verdict, *_ = result
    told = {
        "Verdict.": verdict.sentence,
        "In practice.": study.practice,
        "Source.": study.source + "." if study.source else "",
        "In its words.": study.sentence,
        "Hypothesis.": study.hypothesis,
        "Measured.": study.measurement,
        "Theory.": study.theory,
    }
    blocks: list[Block] = [
        Heading(2, f"{study.number}. {study.claim}"),
        *(Paragraph(text, lead) for lead, text in told.items() if text),
        _outcomes(study, outcomes),
    ]
    if bounds := _reasons(study.predictions):
        blocks.append(Paragraph(bounds, "Why these bounds."))
    if gates := _gates(study.predictions):
        blocks.append(Paragraph(gates, "Informative only if."))
    for plot in study.plots:
        blocks.append(picture(Drawing(plot.name, plot.draw(table), plot.caption, pd.DataFrame())))
    return blocks


def _outcomes(study: Any, outcomes: Sequence[Outcome], more: Mapping[str, Any] = {}) -> Table:
    rows = [_row(p, o) for p, o in zip(study.predictions, outcomes, strict=True)]
    return Table(pd.DataFrame(rows).assign(**more))


def _reasons(predictions: Sequence[Prediction]) -> str:
    """Why the bounds are what they are, each reason once."""
    of: dict[str, list[str]] = {}
    for prediction in predictions:
        if prediction.reason:
            of.setdefault(prediction.reason, []).append(prediction.name)
    if len(of) == 1:
        return f"{next(iter(of))}."
    return _joined(f"{', '.join(names)}: {reason}" for reason, names in of.items())


def _gates(predictions: Sequence[Prediction]) -> str:
    gates = [gate for prediction in predictions for gate in prediction.gates]
    return _joined(dict.fromkeys(f"{g.name} ({SIGNS[g.side]} {g.bound:g})" for g in gates))


def _joined(parts: Iterable[str]) -> str:
    text = "; ".join(parts)
    return f"{text}." if text else ""


def _row(prediction: Prediction, outcome: Outcome) -> dict[str, str]:
    sign = SIGNS[prediction.side]
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
        "decision": outcome.decision + (f" ({outcome.missed})" if outcome.missed else ""),
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


def _budgets(
    results: Sequence[Any], made: Mapping[str, Made], alpha: float, tests: int
) -> pd.DataFrame:
    rows = []
    for result in results:
        study, how = result.study, made[result.study.name]
        budget = study.budget(how.preset)
        grid = "; ".join(f"{k}: {', '.join(map(str, v))}" for k, v in budget.grid.items())
        settings = ", ".join(
            f"{k} {v}" for k, v in budget.settings.items() if not isinstance(v, list)
        )
        restated = how.restated(study)
        chance = not all(prediction.exact for prediction in study.predictions)
        share = detectable(budget.seeds, tests, alpha=alpha)
        rows.append(
            {
                "claim": str(study.number),
                "cells": str(len(study.cells(how.preset))),
                "seeds": str(budget.seeds),
                "factors": grid,
                "settings": settings,
                "seconds": f"{result.seconds:.0f}",
                "processor seconds": f"{result.processor_seconds:.0f}",
                "commit": str(how.facts["commit"]),
                "rules": f"restated after the data: {', '.join(restated)}"
                if restated
                else "before the data",
                "share of seeds found": f"{share:.2f}" if chance else "-",
            }
        )
    return pd.DataFrame(rows)


def _by_facts(
    results: Sequence[Any], made: Mapping[str, Made]
) -> list[tuple[Mapping[str, Any], str]]:
    """Manifests, each once, with the claims that they made."""
    found: dict[str, list[str]] = {}
    for result in results:
        facts = json.dumps(made[result.study.name].facts)
        found.setdefault(facts, []).append(str(result.study.number))
    return [(json.loads(facts), f"claims {', '.join(n)}") for facts, n in found.items()]
