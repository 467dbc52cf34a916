"""From arrays to one tidy table: a row for each measurement."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jaxact._extras import require
from jaxact.analysis._measurement import Measurement
from jaxact.analysis._measures import MEASURES

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "object",
    "layer",
    "name",
    "quantity",
    "index",
    "value",
    "standard_error",
    "tolerance",
    "centring",
    "dtype",
    "rows",
    "columns",
    "unit",
    "definition",
)
"""Of the frame that `table` makes."""


def tidy(
    values: npt.ArrayLike, axes: Mapping[str, Sequence[Any] | np.ndarray], /, **constants: object
) -> "pandas.DataFrame":
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
    return _pandas().DataFrame(rows).assign(**constants)


def table(measurements: Iterable[Measurement] | Mapping[str, Measurement], /) -> "pandas.DataFrame":
    """Measurements as one tidy table, a row for each number, ready for parquet.

    Args:
      measurements: from any function of `jaxact.analysis`, of different objects if need be.

    Returns:
      A frame with the columns object, layer (from 1), name, quantity, index (from 1 where a layer
      has several values, else 0), value (float64), standard_error and tolerance (missing where
      there is none), centring, dtype, rows, columns (0 where the object is no matrix), unit and
      definition. Layers that are not valid have no row, except for ``non_finite``, which says why.
      No value is NaN.

    Raises:
      ValueError: if a value that should be valid is NaN, with the layer and quantity.

    Example:
      >>> import numpy as np
      >>> from jaxact.analysis import measure_matrices
      >>> frame = table(measure_matrices({"fc": np.eye(3), "broken": np.full((2, 2), np.nan)}))
      >>> frame[["name", "quantity", "value"]].query("quantity == 'non_finite'")
            name    quantity  value
      42      fc  non_finite    0.0
      43  broken  non_finite    4.0
    """
    if isinstance(measurements, Mapping):
        measurements = measurements.values()
    frames = [_rows(m) for m in measurements]
    if not frames:
        return _pandas().DataFrame(columns=list(COLUMNS))
    return _pandas().concat(frames, ignore_index=True)


def _pandas() -> Any:
    """Only tables need it, and it is slow to load."""
    require("studies", "pandas")
    import pandas

    return pandas


def _rows(m: Measurement) -> "pandas.DataFrame":
    value = np.asarray(m.value, np.float64)
    valid = np.asarray(m.valid)
    for name, entries, ok in zip(m.layers, value, valid, strict=True):
        if ok and np.isnan(entries).any():
            raise ValueError(f"{m.quantity} of {m.object} {name!r} is NaN")
    layers = len(m.layers)
    value = value.reshape(layers, -1)
    entries = value.shape[1]
    error = np.full(value.shape, np.nan) if m.standard_error is None else m.standard_error
    tolerance = np.full(layers, np.nan) if m.tolerance is None else m.tolerance
    shapes = np.zeros((layers, 2), np.int64) if m.shapes is None else np.asarray(m.shapes)

    def each(column: Any) -> np.ndarray:
        return np.repeat(np.asarray(column), entries)

    frame = _pandas().DataFrame(
        {
            "object": m.object,
            "layer": each(np.arange(1, layers + 1, dtype=np.int32)),
            "name": each(m.layers),
            "quantity": m.quantity,
            "index": np.tile(np.arange(entries, dtype=np.int32) + (entries > 1), layers),
            "value": value.ravel(),
            "standard_error": np.asarray(error, np.float64).ravel(),
            "tolerance": each(np.asarray(tolerance, np.float64)),
            "centring": m.centring,
            "dtype": m.dtype,
            "rows": each(shapes[:, 0]),
            "columns": each(shapes[:, 1]),
            "unit": MEASURES[m.quantity].unit,
            "definition": m.definition,
        }
    )
    return frame.loc[each(valid)]
