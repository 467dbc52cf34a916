"""What checkpoints show, in sentences computed from their table."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxact import analysis, theory
from jaxact.experiments._plots import values_of, where

LOW = 0.5
"""Share of a random matrix's effective rank, or of the first layer's, under which one is named."""

CIRCUITS = {"query_key": "what heads compare (query_key)", "value_output": "what they move "
            "(value_output)"}  # fmt: skip


def findings(table: pd.DataFrame) -> dict[str, str]:
    """Where rank is low, what is dead, and what heads use of their width.

    Args:
      table: the study's table.

    Returns:
      Sentences by the name of the figure that shows them; none of a table without effective ranks.
    """
    found = {}
    files = values_of(table, "file")
    if text := _changes(where(table, object="weight", quantity="effective_rank")):
        found["compared"] = text
    for file in files:
        rows = where(table, file=file)
        ending = f"_{file}" if len(files) > 1 else ""
        lead = f"{file}: " if len(files) > 1 else ""
        weights = where(rows, object="weight")
        ranks = by_kind(where(weights, quantity="effective_rank"))
        if ranks.empty:
            continue
        squared = where(weights, quantity="effective_rank_squared")
        said = " ".join(filter(None, (_in_words(rows), _below_random(squared), _rounded(rows))))
        found[f"ranks{ending}"] = lead + said
        if text := _along(ranks):
            found[f"layers{ending}"] = lead + text
        if text := _of_heads(rows):
            found[f"heads{ending}"] = lead + text
    return found


def by_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of weights with their kind, the name without the layer's number, and that number."""
    number = r"(?<=[._a-zA-Z])\d+(?=\.)|^\d+(?=\.)"
    found = [re.search(number, name) for name in rows.name]
    kinds = [
        f"{name[: m.start()]}#{name[m.end() :]}" if m else name
        for name, m in zip(rows.name, found, strict=True)
    ]
    return rows.assign(kind=kinds, number=[int(m[0]) if m else -1 for m in found])


def _in_words(rows: pd.DataFrame) -> str:
    """`jaxact.analysis.summary` of the weights of one file."""
    rows = where(rows, rows["index"] == 0, object="weight")
    measured: list[analysis.Measurement] = []
    for quantity in ("effective_rank", "numerical_rank"):
        own = where(rows, quantity=quantity)
        if not own.empty:
            measured.append(_measurement(own, quantity))
    text = analysis.summary(measured)
    return " ".join(text.replace("weight: ", "The ", 1).split())


def _measurement(rows: pd.DataFrame, quantity: str) -> analysis.Measurement:
    """Rows of one quantity as the measurement that they come from."""
    return analysis.Measurement(
        value=jnp.asarray(rows.value.to_numpy(np.float32)),
        standard_error=None,
        tolerance=None,
        valid=jnp.ones(len(rows), bool),
        object="weight",
        quantity=quantity,
        centring="none",
        dtype="float32",
        layers=tuple(rows.name),
        shapes=tuple((int(m), int(n)) for m, n in zip(rows["rows"], rows["columns"], strict=True)),
    )


def _below_random(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    share = rows.value / random_rank(rows)
    low = where(rows.assign(of=share), share < LOW).sort_values("of")
    if low.empty:
        return (
            f"None has less than {LOW:.0%} of the effective rank (of s^2) of a random matrix of "
            "its shape; "
            f"the median has {share.median():.0%}."
        )
    named = [f"{name} ({of:.0%})" for name, of in zip(low.name, low.of, strict=True)]
    return (
        f"Less than {LOW:.0%} of the effective rank (of s^2) of a random matrix of the same shape: "
        f"{_listed(named)}; the median has {share.median():.0%}."
    )


def _rounded(rows: pd.DataFrame) -> str:
    floors = where(rows, rows.value > 0, quantity="rounding_floor")
    if floors.empty:
        return ""
    of_all = where(rows, object="weight", quantity="non_finite").name.nunique()
    counted = where(rows, quantity="numerical_rank", object="weight")
    shares = where(counted, counted.name.isin(floors.name)).tolerance
    least, most = (f"{value:.2g}" for value in (shares.min(), shares.max()))
    return (
        f"{len(floors)} of {of_all} matrices take few distinct values: they are quantized. Their "
        "numerical rank counts what exceeds the largest singular value of the rounding, "
        f"{least} to {most} of s_1."
    )


def random_rank(rows: pd.DataFrame) -> np.ndarray:
    """Effective rank of s^2 of large random matrices of the rows' shapes."""
    shapes = rows.filter(["rows", "columns"]).to_numpy(np.float32)
    least = shapes.min(axis=1)
    ranks = theory.marchenko_pastur_ranks(jnp.asarray(least / shapes.max(axis=1)))
    return np.asarray(ranks.effective_rank_squared, np.float64) * least


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest


def _changes(rows: pd.DataFrame) -> str:
    """How effective ranks differ between the first and the last file, by name and shape."""
    if rows.file.nunique() < 2:
        return ""
    files = values_of(rows, "file")
    keys = ["name", "rows", "columns"]
    first, last = (where(rows, file=file).set_index(keys).value for file in (files[0], files[-1]))
    ratio: Any = (last / first).replace([np.inf, -np.inf], np.nan).dropna()
    if ratio.empty:
        return ""
    fall, rise = (f"{place[0]} ({ratio[place]:.2f})" for place in (ratio.idxmin(), ratio.idxmax()))
    return (
        f"From {files[0]} to {files[-1]} the effective rank of the {len(ratio)} matrices in both "
        f"is multiplied by {ratio.median():.2f} at the median, least in {fall} and most in {rise}."
    )


def _along(rows: pd.DataFrame) -> str:
    """Where rank falls below half of that of the first layer, by kind of matrix."""
    named = []
    kinds = [kind for kind in values_of(rows, "kind") if "#" in kind]
    several = 0
    for kind in kinds:
        own = where(rows, kind=kind).sort_values("number")
        if len(own) < 3:
            continue
        several += 1
        share = (own.value / own.possible).to_numpy()
        low = np.flatnonzero(share < LOW * share[0])
        if len(low):
            number = own.number.to_numpy()
            named.append(f"{kind} at {number[low[0]]} ({share[low[0]]:.0%} after {share[0]:.0%})")
    if not several:
        return ""
    if not named:
        return "Along the layers no kind of matrix falls below half of its first layer's share."
    return f"Along the layers the share of the possible halves in {_listed(named)}."


def _of_heads(rows: pd.DataFrame) -> str:
    rows = where(rows, object="circuit", quantity="effective_rank")
    if rows.empty:
        return ""
    text = []
    for part, words in CIRCUITS.items():
        own = where(rows, part=part)
        share: Any = own.value / own.possible
        least = own.loc[share.idxmin()]
        text.append(
            f"{words} has on average an effective rank of {share.mean():.0%} of the head's width, "
            f"least with {share.min():.0%} in head {least['head']} of {least['attention']}"
        )
    return f"Over {len(rows) // 2} heads, {'; '.join(text)}."
