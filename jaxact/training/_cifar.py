"""CIFAR-10 and CIFAR-100 as their authors publish them: python or binary version."""

import io
import pathlib
import pickle
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

# what the published pickles refer to, by module and name
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}

_PIXELS = 3 * 32 * 32


class _Version(NamedTuple):
    """One of the four published forms."""

    folder: str
    train: tuple[str, ...]
    test: str
    labels: int
    """Bytes of labels before each image; 0 for a pickle."""


_VERSIONS = (
    _Version("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", 0),
    _Version(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        1,
    ),
    _Version("cifar-100-python", ("train",), "test", 0),
    _Version("cifar-100-binary", ("train.bin",), "test.bin", 2),
)


class Split(NamedTuple):
    """Images of one split, (n, 32, 32, 3), and their classes (of CIFAR-100, the 100 fine ones)."""

    x: UInt8[np.ndarray, "n 32 32 3"]
    y: Int[np.ndarray, " n"]


def is_cifar(path: pathlib.Path, /) -> bool:
    """Whether a path is an archive, or a folder with the name and files of one of the forms."""
    if path.is_dir():
        return _version_of_folder(path) is not None
    return path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def read_cifar(path: pathlib.Path, /) -> tuple[Split, Split]:
    """Reads the training and the test set.

    Args:
      path: of the archive or the unpacked folder.

    Returns:
      Both splits.

    Raises:
      ValueError: if the archive is none of the four forms, or a file in it is damaged.
    """
    if path.is_dir():
        version = _version_of_folder(path)
        if version is None:
            raise ValueError(f"dataset {path} is not an unpacked CIFAR archive")
        return _splits(version, lambda name: (path / name).read_bytes(), path)
    try:
        with tarfile.open(path) as archive:
            members = {pathlib.PurePosixPath(m.name): m for m in archive.getmembers()}
            for version in _VERSIONS:
                if {pathlib.PurePosixPath(version.folder, version.test)} <= members.keys():

                    def read(name: str, folder: str = version.folder) -> bytes:
                        member = members.get(pathlib.PurePosixPath(folder, name))
                        file = None if member is None else archive.extractfile(member)
                        if file is None:
                            raise ValueError(f"dataset {path} lacks {folder}/{name}")
                        return file.read()

                    return _splits(version, read, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"dataset {path} is damaged or no archive ({error})") from error
    folders = ", ".join(version.folder for version in _VERSIONS)
    raise ValueError(f"dataset {path} holds none of {folders}")


def _version_of_folder(path: pathlib.Path) -> _Version | None:
    for version in _VERSIONS:
        files = [path / name for name in (*version.train, version.test)]
        if path.name == version.folder and all(file.is_file() for file in files):
            return version
    return None


def _splits(
    version: _Version, read: Callable[[str], bytes], path: pathlib.Path
) -> tuple[Split, Split]:
    parse = _binary if version.labels else _pickled
    parts = []
    for name in (*version.train, version.test):
        try:
            parts.append(parse(read(name), version.labels))
        except (pickle.UnpicklingError, KeyError, TypeError, EOFError, IndexError) as error:
            raise ValueError(f"dataset {path}: {name} is damaged ({error})") from error
    train = Split(*(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)))
    return train, parts[-1]


def _binary(data: bytes, labels: int) -> Split:
    if not data or len(data) % (labels + _PIXELS):
        raise pickle.UnpicklingError(f"{len(data)} bytes are no whole number of images")
    rows = np.frombuffer(data, np.uint8).reshape(-1, labels + _PIXELS)
    return Split(_images(rows[:, labels:]), rows[:, labels - 1].astype(np.int32))


def _pickled(data: bytes, _: int) -> Split:
    batch: dict[bytes, Any] = _Arrays(io.BytesIO(data), encoding="bytes").load()
    labels = batch[b"fine_labels"] if b"fine_labels" in batch else batch[b"labels"]
    return Split(_images(np.asarray(batch[b"data"], np.uint8)), np.asarray(labels, np.int32))


def _images(rows: np.ndarray) -> np.ndarray:
    """Planes of channels to images."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays in plain containers, and refuses anything else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        module_name = module_name.replace("numpy.core", "numpy._core")
        return super().find_class(module_name, global_name)
