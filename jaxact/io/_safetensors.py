"""The safetensors format: a JSON header, then the bytes of each array."""

import json
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Shaped

from jaxact._extras import require
from jaxact.io._mapped import DTYPES, mapped, view
from jaxact.io._write import replacing

_NAMES = {
    **{"BOOL": "bool", "BF16": "bfloat16", "C64": "complex64"},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
    **{"F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu"},
}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped.

    Raises:
      ValueError: if the file is damaged, or holds a dtype that NumPy has no equal of.
    """
    header = _header(path)
    file = mapped(path)
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _NAMES:
            raise ValueError(f"{name} has the dtype {entry['dtype']}, which NumPy does not know")
        first, end = entry["data_offsets"]
        dtype = DTYPES[_NAMES[entry["dtype"]]].newbyteorder("<")
        arrays[name] = view(file[start + first : start + end], dtype, entry["shape"])
    return arrays


def read_metadata(path: str | pathlib.Path, /) -> dict[str, str]:
    """The texts that stand in the header of a safetensors file.

    Args:
      path: of the file.

    Returns:
      The texts by name; empty if there are none.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no whole safetensors file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing file; got {path}")
    return _header(path).get("__metadata__", {})


def write_safetensors(
    path: str | pathlib.Path,
    arrays: Mapping[str, Shaped[np.ndarray, "..."] | Shaped[Array, "..."]],
    /,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a safetensors file, which is whole or absent at every moment.

    Args:
      path: of the file; what stood there is replaced. Its folder must exist.
      arrays: of NumPy or JAX, by name, bfloat16 and float8 included.
      metadata: texts for the header.

    Raises:
      ValueError: if the format has no place for a dtype (complex128, object).

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_safetensors(f"{folder}/a.safetensors", {"w": np.ones((2, 3), np.float32)})
      ...     read(pathlib.Path(folder) / "a.safetensors")["w"].shape
      (2, 3)
    """
    whole: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        plain = np.asarray(array, order="C")
        if plain.dtype.name not in _NAMES.values():
            raise ValueError(
                f"arrays must have a dtype of safetensors; got {name!r} of {plain.dtype}"
            )
        whole[name] = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    require("studies", "safetensors")
    from safetensors import SafetensorError, TensorSpec, serialize_file

    specs = {
        name: TensorSpec(
            dtype=array.dtype.name,
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in whole.items()
    }
    with replacing(pathlib.Path(path)) as temporary:
        try:
            serialize_file(specs, temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            if (code := re.search(r"os error (\d+)", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _header(path: pathlib.Path) -> dict:
    require("studies", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # checks names, shapes, offsets and the file's length
            pass
    except SafetensorError as error:
        raise ValueError(
            f"path must be a whole safetensors file; {path} is not ({error})"
        ) from error
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))
