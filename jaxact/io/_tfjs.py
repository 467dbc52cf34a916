"""Models of TensorFlow.js: a JSON file with a manifest, beside shards of bytes."""

import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxact.io._mapped import DTYPES, TooLargeError, admit, mapped, view


def read(path: pathlib.Path, limit: int) -> dict[str, np.ndarray]:
    """The weights that a manifest lists; quantized ones are multiplied out, all else is mapped.

    Raises:
      FileNotFoundError: if a shard is missing.
      ValueError: if the manifest or a shard is damaged, or quantized weights exceed the limit.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
        entries = [entry for group in manifest for entry in group["weights"]]
        unpacked = [math.prod(e["shape"]) * 4 for e in entries if "quantization" in e]
        admit(path, sum(unpacked), limit)
        for group in manifest:
            arrays |= _group(path.parent, group)
    except TooLargeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path must be a whole model of TensorFlow.js; {path}: {error}") from error
    return arrays


def _group(folder: pathlib.Path, group: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    shards = []
    for name in group["paths"]:
        if pathlib.PurePath(name).name != name:
            raise ValueError(f"{name!r} is no name of a file")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"path must be a whole model; {folder} lacks {name}")
        shards.append(mapped(folder / name))
    ends = list(itertools.accumulate(shard.size for shard in shards))
    start = 0
    for entry in group["weights"]:
        quantization = entry.get("quantization")
        dtype = DTYPES.get((quantization or entry)["dtype"])
        if dtype is None:  # texts, whose length is not told
            raise ValueError(f"{entry['name']} has the dtype {entry['dtype']}, which is not read")
        size = math.prod(entry["shape"]) * dtype.itemsize
        if not ends or start + size > ends[-1]:
            raise ValueError(f"{entry['name']} reaches beyond {', '.join(group['paths'])}")
        data = _span(shards, ends, start, start + size)
        array = view(data, dtype.newbyteorder("<"), entry["shape"])
        start += size
        if quantization and "scale" in quantization:
            scale, least = np.float32(quantization["scale"]), np.float32(quantization["min"])
            array = array.astype(np.float32) * scale + least
        elif quantization:
            array = array.astype(np.float32)
        yield entry["name"].replace("/", "."), array


def _span(shards: list[np.ndarray], ends: list[int], start: int, end: int) -> np.ndarray:
    """Bytes of the shards put end to end; a view where they lie in one."""
    parts = []
    for shard, stop in zip(shards, ends, strict=True):
        first = stop - shard.size
        if start < stop and first < end:
            parts.append(shard[max(start - first, 0) : end - first])
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.uint8), *parts])
