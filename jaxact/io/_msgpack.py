"""Flax's msgpack files: nested maps whose leaves are arrays as extensions of the format."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxact._extras import require
from jaxact.io._mapped import DTYPES, mapped

_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `flax.serialization`, by their path.

    Raises:
      ValueError: if the file is damaged, or holds something else.
      ModuleNotFoundError: if msgpack is not installed.
    """
    require("models", "msgpack")
    import msgpack

    try:
        content = msgpack.unpackb(memoryview(mapped(path)), ext_hook=_extension)
        if not isinstance(content, dict):
            raise ValueError("it holds no map of names")
        return dict(_leaves(content, ""))
    # ExtraData, FormatError, StackError and OutOfData are kinds of ValueError
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise ValueError(f"path must be a whole msgpack file of Flax; {path}: {error}") from error


def _extension(code: int, data: bytes) -> Any:
    import msgpack

    if code not in (_ARRAY, _SCALAR):
        return None
    shape, name, body = msgpack.unpackb(data)
    if name not in DTYPES:
        raise ValueError(f"an array has the dtype {name}, which is not known")
    return np.frombuffer(bytearray(body), DTYPES[name]).reshape(shape)


def _leaves(content: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(content, dict) and _CHUNKED in content:
        shape, chunks = (
            [value for _, value in sorted(content[key].items(), key=lambda item: int(item[0]))]
            for key in ("shape", "chunks")
        )
        yield name, np.concatenate([np.ravel(chunk) for chunk in chunks]).reshape(shape)
    elif isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, np.ndarray):
        yield name, content
