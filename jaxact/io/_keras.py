"""Keras's files: HDF5 (.h5), and the zip archive around it (.keras)."""

import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxact._extras import require
from jaxact.io._mapped import TooLargeError, admit, mapped, member, view

_WEIGHTS = "model.weights.h5"
_SKIPPED = ("optimizer", "optimizer_weights")


def read(path: pathlib.Path, limit: int) -> dict[str, np.ndarray]:
    """The weights in an HDF5 file or a .keras archive, without the optimizer's state.

    Raises:
      ValueError: if the file is damaged, refers to other files, or unpacks to more than the limit.
      ModuleNotFoundError: if h5py is not installed.
    """
    require("keras", "h5py")
    import h5py

    try:
        if path.suffix != ".keras":
            with h5py.File(path, "r") as file:
                return _arrays(path, file, mapped(path), limit)
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(_WEIGHTS)
            if info.compress_type != zipfile.ZIP_STORED:
                admit(path, info.file_size, limit)
            data = member(mapped(path), archive, _WEIGHTS)
            with archive.open(_WEIGHTS) as stream, h5py.File(stream, "r") as file:
                return _arrays(path, file, data, limit)
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # of a damaged file h5py and zipfile may raise anything
        raise ValueError(f"path must be a whole file of Keras; {path}: {error}") from error


def _arrays(path: pathlib.Path, file: Any, data: np.ndarray, limit: int) -> dict[str, np.ndarray]:
    found = dict(_datasets(file, ""))
    packed = [d for d in found.values() if d.size and d.id.get_offset() is None]
    admit(path, sum(d.size * d.dtype.itemsize for d in packed), limit)
    return {name: _array(name, d, data) for name, d in found.items()}


def _array(name: str, dataset: Any, data: np.ndarray) -> np.ndarray:
    offset = dataset.id.get_offset()
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} lies in another file")
    if offset is None:
        return np.asarray(dataset[()])
    end = offset + dataset.size * dataset.dtype.itemsize
    if end > data.size:
        raise ValueError(f"{name} ends after the file")
    return view(data[offset:end], dataset.dtype, dataset.shape)


def _datasets(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Datasets of numbers, in the order that the file's layers are said to have."""
    import h5py

    told = [word for key in ("layer_names", "weight_names") for word in group.attrs.get(key, ())]
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in told]
    order = [key for key in (word.split("/")[0] for word in words) if key in group]
    for key in dict.fromkeys([*order, *group]):
        # Other links may lead to other files.
        if key in _SKIPPED or not isinstance(group.get(key, getlink=True), h5py.HardLink):
            continue
        item, word = group[key], key.removesuffix(":0")
        own = f"{name}.{word}" if name else word
        if isinstance(item, h5py.Group):
            yield from _datasets(item, own)
        elif isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
            yield own, item
