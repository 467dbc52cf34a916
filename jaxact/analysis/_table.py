"""From arrays to one tidy table: a row for each measurement."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


def tidy(
    values: npt.ArrayLike, axes: Mapping[str, Sequence[Any]], /, **constants: object
) -> pd.DataFrame:
    """An array as rows, one for each entry.

    Args:
      values: array of any shape.
      axes: for each axis in order, the name of its column and its labels.
      **constants: further columns that have one value throughout.

    Returns:
      A frame with the columns of ``constants``, those of ``axes``, and ``value`` (float64).

    Raises:
      ValueError: if the axes do not fit the shape of ``values``.

    Example:
      >>> tidy([[1.0, 2.0]], {"seed": [0], "layer": [1, 2]}, quantity="stable_rank")
            quantity  seed  layer  value
      0  stable_rank     0      1    1.0
      1  stable_rank     0      2    2.0
    """
    values = np.asarray(values, dtype=np.float64)
    shape = tuple(len(labels) for labels in axes.values())
    if values.shape != shape:
        given = ", ".join(f"{name}: {len(labels)}" for name, labels in axes.items())
        raise ValueError(f"axes must fit values of shape {values.shape}; got {{{given}}}")
    grid = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    columns = {
        name: np.asarray(labels)[index.ravel()]
        for (name, labels), index in zip(axes.items(), grid, strict=True)
    }
    rows = {**dict.fromkeys(constants), **columns, "value": values.ravel()}
    return pd.DataFrame(rows).assign(**constants)
