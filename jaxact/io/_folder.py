"""Folders of one model, as language models are published: weights in shards, beside a config."""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_SUFFIXES = (".safetensors", ".bin", ".pth", ".msgpack", ".h5", ".keras")
"""Of weights in a folder, the first that is there."""

_MANIFEST = "model.json"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)")
# What lies beside the weights and is none: states of optimizers and schedules, arguments.
_OTHER = re.compile(r"training_args|optimizer|scheduler|rng_state\w*|adapter_\w+|tokenizer\w*")


def weight_files(folder: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    """The files of a folder's weights, with the names of the arrays that each must hold, if told.

    Raises:
      FileNotFoundError: if a shard is missing.
      ValueError: if an index is damaged, or there are weights of several models.
    """
    manifest = folder / _MANIFEST
    if manifest.is_file():  # of TensorFlow.js, whose shards end in .bin
        return {manifest: []}
    for suffix in _SUFFIXES:
        indices = sorted(folder.glob(f"*{suffix}.index.json"))
        if indices:
            _one(folder, indices)
            return _indexed(indices[0], folder)
        files = [p for p in sorted(folder.glob(f"*{suffix}")) if not _OTHER.fullmatch(p.stem)]
        if files:
            _numbered(folder, files)
            return {file: [] for file in files}
    return {}


def _one(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    if len(files) > 1:
        raise ValueError(
            f"path must be of one model; {folder} holds {', '.join(p.name for p in files)}"
        )


def _numbered(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    """Refuses a set of shards that has no index and is not whole."""
    shards = [_SHARD.fullmatch(file.stem) for file in files]
    if not all(shards):
        return _one(folder, files)
    names = {file.name for file in files}
    for shard in filter(None, shards):
        stem, number, count = shard.groups()
        for i in range(1, int(count) + 1):
            wanted = f"{stem}-{i:0{len(number)}}-of-{count}{files[0].suffix}"
            if wanted not in names:
                raise FileNotFoundError(f"path must be a whole model; {folder} lacks {wanted}")


def _indexed(index: pathlib.Path, folder: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, shard in places.items():
            if pathlib.PurePath(shard).name != shard:
                raise ValueError(f"{shard!r} is no name of a file")
            shards.setdefault(shard, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path must have a whole index; {index} is not ({error})") from error
    for shard in shards:
        if not (folder / shard).is_file():
            raise FileNotFoundError(
                f"path must be a whole model; {folder} lacks {shard}, which {index.name} names"
            )
    return {folder / shard: shards[shard] for shard in sorted(shards)}


def read(
    files: Mapping[pathlib.Path, list[str]],
    reader: Callable[[pathlib.Path], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The arrays of all files.

    Raises:
      ValueError: if one lacks an array that the index says it has.
    """
    arrays: dict[str, np.ndarray] = {}
    for file, names in files.items():
        found = reader(file)
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(
                f"path must be a whole model; {file} lacks {missing[0]}, which the index names"
            )
        arrays |= found
    return arrays


def read_config(path: str | pathlib.Path, /) -> dict[str, Any]:
    """What stands in the ``config.json`` of a model's folder.

    Args:
      path: of the folder, or of a file of weights in it.

    Returns:
      Its values by name; empty if there is none.

    Raises:
      ValueError: if it is no JSON object.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = (pathlib.Path(folder) / "config.json").write_text('{"num_attention_heads": 8}')
      ...     read_config(folder)
      {'num_attention_heads': 8}
    """
    path = pathlib.Path(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"path must have a config.json of JSON; {file}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"path must have a config.json that is an object; {file} is none")
    return found
