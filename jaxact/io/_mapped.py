"""Arrays that are read from a file when they are used: views into a memory map."""

import pathlib
import zipfile
from collections.abc import Sequence

import ml_dtypes
import numpy as np
from jaxtyping import Shaped, UInt8


def mapped(path: pathlib.Path) -> UInt8[np.ndarray, "_"]:
    """A file's bytes, read when they are used; what is written to them stays in memory."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="c")


class TooLargeError(ValueError):
    """What a file unpacks to exceeds the limit.

    Attributes:
      size: bytes that it unpacks to.
    """

    size: int = 0


def admit(path: pathlib.Path, size: int, limit: int) -> None:
    """Refuses what unpacks to more than a limit, before it is unpacked.

    Raises:
      TooLargeError: if it does.
    """
    if size > limit:
        error = TooLargeError(
            f"limit must be at least {size} bytes to unpack {path} into memory; got {limit}"
        )
        error.size = size
        raise error


def packed(archive: zipfile.ZipFile) -> int:
    """Bytes of an archive's compressed files once they are unpacked; none is, beyond that."""
    return sum(
        info.file_size for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED
    )


def view(
    data: UInt8[np.ndarray, "_"], dtype: np.dtype, shape: Sequence[int]
) -> Shaped[np.ndarray, "..."]:
    """Bytes as an array in the machine's byte order, copied only if they stand askew or swapped."""
    if data.ctypes.data % dtype.itemsize and data.size:
        data = data.copy()
    array = np.asarray(data).view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def member(
    file: UInt8[np.ndarray, "_"], archive: zipfile.ZipFile, name: str
) -> UInt8[np.ndarray, "_"]:
    """A file in a zip archive: a view if it is stored plainly, its unpacked bytes if not.

    Raises:
      zipfile.BadZipFile: if it does not lie within the archive.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(bytearray(archive.read(info)), np.uint8)
    # a local header: 26 bytes, two lengths, a name and an extra field of these lengths, the data
    lengths = file[info.header_offset + 26 : info.header_offset + 30]
    if lengths.size < 4:
        raise zipfile.BadZipFile(f"{name} has no local header")
    start = info.header_offset + 30 + int(np.sum(lengths.copy().view("<u2"), dtype=np.int64))
    if start + info.file_size > file.size:
        raise zipfile.BadZipFile(f"{name} ends after the file")
    return file[start : start + info.file_size]


# dtypes under the names that NumPy and PyTorch share; NumPy itself has no bfloat16 and float8
DTYPES: dict[str, np.dtype] = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        *(bool, np.int8, np.int16, np.int32, np.int64),
        *(np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz),
        *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu),
    )
}
