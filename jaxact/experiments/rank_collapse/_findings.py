"""What the study found, in sentences computed from its table."""

from typing import Any

import pandas as pd

from jaxact.experiments._plots import values_of, where

OBJECTS = {"jacobian": "Jacobian", "features": "features"}
"""By object its word in a sentence; ranks are those at the last block."""

LEARNED = 0.5
"""Test accuracy under which a network is said to lag behind."""


def findings(table: pd.DataFrame) -> dict[str, str]:
    """What keeps rank, what loses it and what learned, at the greatest depth of each network.

    Args:
      table: the study's table.

    Returns:
      Sentences by the name of the figure that shows them. Ranks are medians over the seeds, with
      their range; a table without effective ranks has none.
    """
    found = {}
    for network in values_of(table, "network"):
        rows = where(table, network=network)
        rows = where(rows, depth=int(rows.depth.max()))
        for of in OBJECTS:
            if text := _of_ranks(rows, of):
                found[f"{network}_{of}_effective_rank"] = text
        if text := _apart(rows):
            found[f"{network}_features_effective_rank"] += text
        if text := _of_training(rows):
            found[f"{network}_training_loss"] = text
    return found


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Median, least and largest value of each wiring and activation, the greatest median first."""
    found = rows.groupby(["wiring", "activation"], observed=True, sort=False).value
    return found.agg(["median", "min", "max"]).sort_values("median", ascending=False)


def _ranks(rows: pd.DataFrame, of: str) -> pd.DataFrame:
    """Effective ranks at the last block when last measured."""
    rows = where(rows, rows.layer == rows.depth, object=of, quantity="effective_rank")
    return _over_seeds(where(rows, step=rows.step.max()))


def _of_ranks(rows: pd.DataFrame, of: str) -> str:
    found = _ranks(rows, of)
    if found.empty:
        return ""
    when = "after training" if rows.step.max() else "at initialization"
    seeds = rows.seed.nunique()
    spread = f"range over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{rows.network.iloc[0]}, {rows.depth.iloc[0]} blocks, {when}: the effective rank of the "
        f"{OBJECTS[of]} after the last block is greatest with {_named(found, 0)} and least with "
        f"{_named(found, -1)} ({spread})."
    )


def _named(found: pd.DataFrame, place: int) -> str:
    word, activation = found.index.to_list()[place]
    row = found.iloc[place]
    return f"{word}, {activation}: {row['median']:.3g} [{row['min']:.3g}, {row['max']:.3g}]"


def _apart(rows: pd.DataFrame) -> str:
    """Where features keep directions that the input hardly reaches."""
    features, jacobian = _ranks(rows, "features"), _ranks(rows, "jacobian")
    if features.empty or jacobian.empty:
        return ""
    ratios: dict[Any, float] = (features["median"] / jacobian["median"]).to_dict()
    (word, activation), ratio = max(ratios.items(), key=lambda item: item[1])
    if ratio < 2:
        return ""
    return (
        f" With {word}, {activation} it is {ratio:.1f} times that of the Jacobian: the "
        "examples still differ in many directions, of which a small change of one example reaches "
        "few."
    )


def _of_training(rows: pd.DataFrame) -> str:
    rows = where(rows, rows.step > 0, object="network", quantity="test_accuracy")
    if rows.empty:
        return ""
    found = _over_seeds(rows)
    medians: dict[Any, float] = found["median"].to_dict()
    low = [f"{word}, {activation}" for (word, activation), m in medians.items() if m < LEARNED]
    of, steps = f"{rows.network.iloc[0]}, {rows.depth.iloc[0]} blocks", rows.step.max()
    text = f"{of}: test accuracy after {steps} steps is greatest with {_named(found, 0)}"
    if len(low) == len(found):
        return f"{text}; none reaches {LEARNED:g}."
    if not low:
        return f"{text} and least with {_named(found, -1)}."
    return f"{text}; under {LEARNED:g} with {'; '.join(low)}."
