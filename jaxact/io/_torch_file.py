"""PyTorch's files (.pth, .pt), read without PyTorch and without running code from them.

Both of PyTorch's formats hold a pickle in which tensors are calls of a few rebuilding functions on
storages that lie beside it. The pickle is read with these functions, ordered dicts and plain
containers allowed; at any other name that it asks for, reading stops.
"""

import collections
import io
import math
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxact.io._mapped import DTYPES, TooLargeError, admit, mapped, member, packed, view

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    **{"BoolStorage": "bool", "BFloat16Storage": "bfloat16", "HalfStorage": "float16"},
    **{"FloatStorage": "float32", "DoubleStorage": "float64"},
    **{"ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16"},
    **{"IntStorage": "int32", "LongStorage": "int64"},
    **{"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"},
    "UntypedStorage": "uint8",
}


class _Storage(NamedTuple):
    key: str
    dtype: str
    elements: int


class _Tensor(NamedTuple):
    """A tensor before its storage is at hand; sizes are in elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: pathlib.Path, limit: int) -> dict[str, np.ndarray]:
    """The tensors of a file of `torch.save`, by their path in its containers, mapped.

    Raises:
      ValueError: if the file is damaged, of another kind, asks for anything but tensors in plain
        containers, or unpacks to more than the limit.
    """
    try:
        if zipfile.is_zipfile(path):
            content, storage = _zipped(path, limit)
        else:
            _refuse_what_is_cut_short(path)
            content, storage = _legacy(path)
        tensors: dict[str, _Tensor] = {}
        _collect(content, "", tensors)
        return {name: _array(name, tensor, storage(tensor)) for name, tensor in tensors.items()}
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"path must be a whole file of torch.save; {path}: {error}") from error


def _refuse_what_is_cut_short(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise ValueError("it is cut short: the end of the archive is missing")
    if start[:1] != b"\x80":  # what a pickle begins with
        raise ValueError("it is no checkpoint: it does not begin as PyTorch's files do")


def _zipped(path: pathlib.Path, limit: int) -> tuple[Any, Callable[[_Tensor], np.ndarray]]:
    file = mapped(path)
    with zipfile.ZipFile(path) as archive:
        admit(path, packed(archive), limit)
        names = archive.namelist()
        pickles = [name for name in names if pathlib.PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} files data.pkl where there must be one")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise ValueError("it is a TorchScript program; save the module's state_dict instead")
        order = "little"
        if f"{folder}byteorder" in names:
            order = archive.read(f"{folder}byteorder").decode().strip()
        content = _Tensors(io.BytesIO(archive.read(pickles[0]))).load()
        parts = {
            name.removeprefix(f"{folder}data/"): member(file, archive, name)
            for name in names
            if name.startswith(f"{folder}data/")
        }
    if order != sys.byteorder:
        raise ValueError(f"its tensors are {order}-endian, and this machine is not")
    return content, lambda tensor: parts[tensor.storage.key]


def _legacy(path: pathlib.Path) -> tuple[Any, Callable[[_Tensor], np.ndarray]]:
    """The format before PyTorch 1.6, in which many published weights still are."""
    with path.open("rb") as file:
        if _Tensors(file).load() != _LEGACY_MAGIC:
            raise ValueError("it does not begin as PyTorch's files do")
        for _ in range(2):  # version of the protocol, sizes of the writer's integers
            _Tensors(file).load()
        reader = _Tensors(file)
        content = reader.load()
        keys = _Tensors(file).load()
        whole = mapped(path)
        parts = {key: _legacy_storage(file, whole, reader.storages[key]) for key in keys}
    return content, lambda tensor: parts[tensor.storage.key]


def _legacy_storage(file: io.BufferedIOBase, whole: np.ndarray, storage: _Storage) -> np.ndarray:
    count = file.read(8)
    elements = int.from_bytes(count, "little")
    start = file.tell()
    end = start + elements * DTYPES[storage.dtype].itemsize
    if len(count) < 8 or elements != storage.elements or end > whole.size:
        raise ValueError(f"storage {storage.key} is cut off")
    file.seek(end)
    return whole[start:end]


def _collect(content: Any, name: str, into: dict[str, _Tensor]) -> None:
    if isinstance(content, _Tensor):
        into[name or "tensor"] = content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            _collect(value, f"{name}.{key}" if name else str(key), into)


def _array(name: str, tensor: _Tensor, data: np.ndarray) -> np.ndarray:
    dtype = DTYPES[tensor.dtype]
    shape, strides = tensor.shape, tensor.strides
    if any(not isinstance(n, int) or n < 0 for n in (tensor.offset, *shape, *strides)):
        raise ValueError(f"tensor {name} has no proper shape")
    elements = math.prod(shape)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if elements and last >= data.size // dtype.itemsize:
        raise ValueError(f"tensor {name} reaches beyond its storage")
    if not elements:
        return np.zeros(shape, dtype)
    flat = view(data[: data.size // dtype.itemsize * dtype.itemsize], dtype, (-1,))
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], shape, [s * dtype.itemsize for s in strides]
    )


class _Dtype(str):
    """A dtype by name, as a pickle refers to it."""


def _rebuild_v2(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, storage.dtype, offset, tuple(size), tuple(stride))


def _rebuild_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> _Tensor:
    return _Tensor(storage, str(dtype), offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> _Tensor:
    return data


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Tensors(pickle.Unpickler):
    """Reads pickles of tensors in plain containers, and refuses anything else."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in _FUNCTIONS:
            return _FUNCTIONS[module_name, global_name]
        if module_name in ("torch", "torch.storage") and global_name in _STORAGES:
            return _Dtype(_STORAGES[global_name])
        if module_name == "torch" and global_name in DTYPES:
            return _Dtype(global_name)
        raise pickle.UnpicklingError(
            f"it asks for {module_name}.{global_name}, and only tensors in plain containers are "
            "read; save the module's state_dict"
        )

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _location, elements, *view_of = pid
        if kind != "storage" or not isinstance(dtype, _Dtype) or not isinstance(elements, int):
            raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage")
        if any(part is not None for part in view_of):
            raise pickle.UnpicklingError("it holds views of storages, as PyTorch below 0.4 did")
        storage = _Storage(str(key), str(dtype), elements)
        self.storages[storage.key] = storage
        return storage
