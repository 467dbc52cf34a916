"""Metrics as lines of JSON, and as single numbers for other writers."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxact.io import of_file, write_whole

Row = Mapping[str, Any]


class JsonLines:
    """A file of rows, one JSON object a line, each with a ``step``.

    A line is appended by one write, so that a run that is killed leaves whole lines; when it
    resumes, the lines after its checkpoint are dropped, to be written again. Since rows hold no
    times, the file of a run that was interrupted equals that of one that was not, byte for byte.
    Numbers that are not finite become null.
    """

    def __init__(self, path: pathlib.Path, /, *, after: int | None = None):
        """Opens the file.

        Args:
          path: of the file.
          after: the step from which the run goes on: later lines are dropped; None drops all.
        """
        self.path = path
        kept = b""
        if after is not None and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = b"".join(
                line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= after
            )
        write_whole(path, kept)
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __call__(self, row: Row, /) -> None:
        """Appends one row.

        Args:
          row: with ``step``; numbers, strings, arrays and lists.
        """
        data = json.dumps(_plain(dict(row)), allow_nan=False).encode() + b"\n"
        with of_file(self.path):
            while data:
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Makes sure that all rows are on the disk."""
        os.fsync(self._file.fileno())


def read_log(path: pathlib.Path, /) -> list[dict[str, Any]]:
    """The rows of a file that `JsonLines` wrote, or is writing.

    Args:
      path: of the file.

    Returns:
      Its whole lines, in order.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def scalars(writer: Any, /) -> Callable[[Row], None]:
    """A sink of rows for whatever takes single numbers, such as a writer of TensorBoard's events.

    Args:
      writer: with a method ``add_scalar(name, value, step)``.

    Returns:
      A function of a row, which adds a scalar for each number and for each entry of an array.
    """

    def write(row: Row) -> None:
        for name, value in row.items():
            if name == "step" or isinstance(value, str):
                continue
            for index, entry in np.ndenumerate(np.asarray(value, np.float64)):
                place = "_".join(str(i + 1) for i in index)
                writer.add_scalar(f"{name}/{place}" if place else name, entry, int(row["step"]))

    return write


def tee(sinks: Sequence[Callable[[Row], None]], /) -> Callable[[Row], None]:
    """One sink of rows that passes each to several.

    Args:
      sinks: functions of a row, such as `JsonLines` and `scalars`.

    Returns:
      A function of a row.
    """

    def write(row: Row) -> None:
        for sink in sinks:
            sink(row)

    return write


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 8:
        # the shortest decimals that give the same bits, such as 0.1 and not 0.10000000149011612
        array = array.astype(np.float32).astype(str).astype(np.float64)
    return _plain(array.tolist())
