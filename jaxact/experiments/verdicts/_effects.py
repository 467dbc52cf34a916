# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportReturnType=false, reportAttributeAccessIssue=false
"""From a study's table to one number for each seed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxact.experiments.verdicts._statistics import rank_correlation

CHANCE = math.log(10)
"""The loss of a guess among the ten digits, in nats."""


def select(table: pd.DataFrame, quantity: str, /, **where: Any) -> pd.DataFrame:
    """The rows of a quantity where columns have given values.

    Args:
      table: a study's table.
      quantity: what was measured.
      **where: by column a value, ``"first"`` or ``"last"`` (the smallest or largest of a numeric
        column), or a tuple of values.

    Returns:
      The rows.

    Raises:
      KeyError: if there are none.
    """
    rows = table[table.quantity == quantity]
    for column, value in where.items():
        if isinstance(value, str) and value in ("first", "last"):
            value = rows[column].min() if value == "first" else rows[column].max()
        rows = rows[rows[column].isin(value if isinstance(value, tuple) else (value,))]
    if rows.empty:
        raise KeyError(f"no {quantity} where {where}")
    return rows


def by_seed(table: pd.DataFrame, quantity: str, /, **where: Any) -> pd.Series:
    """A quantity for each seed, the mean over what ``where`` leaves open.

    A mean over anything not finite is not finite.
    """
    return select(table, quantity, **where).groupby("seed").value.agg(_mean).sort_index()


def _mean(values: pd.Series) -> float:
    return float(np.mean(values.to_numpy()))


def remaining(table: pd.DataFrame, /, **where: Any) -> pd.Series:
    """The training loss at the end over that of a guess, at most 1; 1 where training diverged.

    Where ``where`` leaves several step sizes open, that with the smallest median is taken.
    """
    rows = select(table, "loss", step="last", **where)
    share = (rows.value / CHANCE).where(np.isfinite(rows.value), 1.0).clip(upper=1.0)
    rows = rows.assign(value=share)
    if "rate" in rows and rows.rate.nunique() > 1:
        medians = rows.groupby("rate").value.median()
        rows = rows[rows.rate == medians.idxmin()]
    return rows.groupby("seed").value.mean().sort_index()


def correlation(
    rows: Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]],
    keys: Sequence[str],
) -> Callable[[pd.DataFrame], np.ndarray]:
    """An effect: for each seed the rank correlation of two quantities over the rows they share.

    Args:
      rows: from the table to the rows of one and of the other.
      keys: the columns by which, within a seed, rows belong together.
    """

    def effect(table: pd.DataFrame) -> np.ndarray:
        a, b = rows(table)
        both = a.merge(b, on=["seed", *keys], suffixes=("_a", "_b"))
        return np.array(
            [rank_correlation(of.value_a, of.value_b) for _, of in both.groupby("seed")]
        )

    return effect
