"""From a study's table to one number for each seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxact.experiments._plots import where as rows_where
from jaxact.experiments.verdicts._protocol import Gate
from jaxact.experiments.verdicts._statistics import rank_correlation


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
    rows = rows_where(table, quantity=quantity)
    for column, value in where.items():
        if isinstance(value, str) and value in ("first", "last"):
            value = rows[column].min() if value == "first" else rows[column].max()
        rows = rows_where(rows, **{column: value})
    if rows.empty:
        raise KeyError(f"no {quantity} where {where}")
    return rows


def by_seed(table: pd.DataFrame, quantity: str, /, **where: Any) -> pd.Series:
    """A quantity for each seed, the mean over what ``where`` leaves open.

    A mean over anything not finite is not finite.
    """
    return mean_by_seed(select(table, quantity, **where))


def mean_by_seed(rows: pd.DataFrame, /) -> pd.Series:
    """The mean of the values of each seed."""
    by_seed: Any = rows.groupby("seed").value
    return by_seed.agg(_mean).sort_index()


def _mean(values: pd.Series) -> float:
    return float(np.mean(values.to_numpy()))


def remaining(table: pd.DataFrame, /, *, step: Any = "last", **where: Any) -> pd.Series:
    """The training loss at a step over that of a guess, at most 1; 1 where training diverged.

    Where ``where`` leaves several step sizes open, that with the smallest median is taken.
    """
    rows = over_chance(select(table, "loss", step=step, **where))
    if "rate" in rows:
        rows = rows_where(rows, **best(rows, ("rate",)))
    return mean_by_seed(rows)


TRAINED = 0.5
"""Share of the loss of a guess below which a network counts as trained."""
CEILING = 0.01
"""Share of the loss of a guess below which a task says nothing of the networks that solve it."""
HALF_AGAIN = math.log(1.5)
"""A difference between logarithms of losses that `NOISE` gives the reason of."""
NOISE = "half again: twice by how much the same network's loss varies between seeds"


def log_left(table: pd.DataFrame, /, **where: Any) -> pd.Series:
    """Logarithm of what `remaining` gives."""
    return pd.Series(np.log(remaining(table, **where)))


def log_ratio(table: pd.DataFrame, activation: str, other: str, /) -> pd.Series:
    """Logarithm of the loss left with one activation over that left with another."""
    return log_left(table, activation=activation) - log_left(table, activation=other)


def trains(**where: Any) -> Gate:
    """Networks are trained: they keep less than `TRAINED` of the loss of a guess."""
    return _loss_left(where, TRAINED, "below")


def no_ceiling(**where: Any) -> Gate:
    """Networks have not all solved the task: they keep more than `CEILING` of a guess's loss."""
    return _loss_left(where, CEILING, "above")


def _loss_left(where: Mapping[str, Any], bound: float, side: str) -> Gate:
    values = ", ".join(map(str, where.values()))
    name = f"loss left in training ({values})" if values else "loss left in training"
    return Gate(name, lambda table: remaining(table, **where), bound, side)


def largest_trained_rate(
    table: pd.DataFrame, /, *, each: Sequence[str] = (), **where: Any
) -> float:
    """The largest step size at which networks train, in the median over seeds; NaN for none.

    Args:
      table: a study's table.
      each: columns by whose values networks are told apart; all of them must train.
      **where: as for `select`.
    """
    rows = over_chance(select(table, "loss", step="last", **where))
    medians: Any = rows.groupby(["rate", *each]).value.median()
    trained = (medians < TRAINED).groupby("rate").all()
    return float(trained.index[trained].max()) if trained.any() else math.nan


def over_chance(losses: pd.DataFrame, /) -> pd.DataFrame:
    """Losses over that of a guess, at most 1; 1 where training diverged."""
    share: Any = losses.value / losses.chance
    return losses.assign(value=share.where(np.isfinite(share), 1.0).clip(upper=1.0))


def best(losses: pd.DataFrame, columns: Sequence[str], /) -> dict[str, Any]:
    """The values of some columns with the smallest median over seeds."""
    medians: Any = losses.groupby(list(columns)).value.median()
    found = medians.idxmin()
    values = found if isinstance(found, tuple) else (found,)
    return dict(zip(columns, values, strict=True))


def at_best_rate(
    rows: pd.DataFrame, losses: pd.DataFrame, columns: Sequence[str], /
) -> pd.DataFrame:
    """The rows of each network at the step size of its smallest median loss.

    Args:
      rows: of any quantity.
      losses: by which step sizes are judged.
      columns: by whose values networks are told apart.
    """
    chosen = []
    networks: Any = rows.groupby(list(columns), sort=False)
    for values, own in networks:
        judged = rows_where(losses, **dict(zip(columns, values, strict=True)))
        chosen.append(rows_where(own, **best(judged, ("rate",))))
    return pd.concat(chosen)


def correlation(
    rows: Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]], keys: Sequence[str]
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
