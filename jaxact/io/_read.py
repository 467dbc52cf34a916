"""Named arrays from files of any known kind."""

import io
import pathlib
import zipfile
from typing import Any

import numpy as np

from jaxact._checks import whole
from jaxact.io import _folder, _keras, _msgpack, _safetensors, _tfjs, _torch_file
from jaxact.io._mapped import TooLargeError, admit, mapped, member, packed, view
from jaxact.io._order import by_depth

_TORCH = (".pth", ".pt", ".bin", ".ckpt")
_KNOWN = (
    ".safetensors, .pth, .pt, .bin, .ckpt, .onnx, .npz, .h5, .keras, .msgpack, .json, or a folder "
    "of a model or of orbax"
)
LIMIT = 2**32
"""Bytes that may be unpacked into memory by default."""


def read_arrays(path: str | pathlib.Path, /, *, limit: int = LIMIT) -> dict[str, np.ndarray]:
    """Reads the named arrays that a file holds.

    =============================== ============================================================
    ``.safetensors``                mapped: an array is read from the disk when it is used
    ``.pth .pt .bin .ckpt``         of ``torch.save``, either format; mapped. Nothing pickled is
                                    run: anything but tensors, ordered dicts and plain containers
                                    is refused
    ``.onnx``                       the initializers, in the order in which the graph uses them;
                                    needs ``pip install 'jaxact[onnx]'``
    ``.npz``                        mapped where it is stored without compression
    ``.h5 .keras``                  weights of Keras, mapped where stored without compression; needs
                                    ``pip install 'jaxact[keras]'``
    ``.msgpack``                    of Flax, at once
    ``.json``                       the manifest of a model of TensorFlow.js; its shards mapped,
                                    quantized weights multiplied out
    a folder                        the weights of one model, in one file or in shards with an
                                    index (``model.safetensors.index.json``), as language models
                                    are published; else a checkpoint of orbax
    =============================== ============================================================

    Names in nested containers are joined by dots (``state_dict.fc.weight``). Numbers and texts that
    stand beside the tensors of a ``.pth`` file are left out. Arrays keep their dtype, bfloat16
    included (as `ml_dtypes.bfloat16`), and are in the machine's byte order. Writing to a mapped
    array changes it in memory, not in the file.

    Args:
      path: of the file or folder.
      limit: bytes that may be unpacked into memory, where a file is not mapped. What would exceed
        it is refused by the sizes that the file tells, before it is unpacked.

    Returns:
      The arrays by name, in the file's order; where that is alphabetical (safetensors writes names
      so) in order of depth: 2 before 10, embeddings and stems first, heads last, attention (query,
      key, value, output) before the feed-forward part.

    Raises:
      FileNotFoundError: if there is nothing at ``path``, or a shard is missing.
      ValueError: if its kind is not known, or it is damaged, asks for code to be run, or would be
        unpacked to more than ``limit``.
      ModuleNotFoundError: if files of its kind are not supported by what is installed.

    Example:
      >>> import tempfile
      >>> from jaxact import io
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/w.npz", kernel=np.ones((2, 3), np.float32))
      ...     {name: w.shape for name, w in io.read_arrays(f"{folder}/w.npz").items()}
      {'kernel': (2, 3)}
    """
    path = pathlib.Path(path)
    whole("limit", limit)
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file or folder; got {path}")
    if not path.is_dir():
        return by_depth(_file(path, limit))
    if files := _folder.weight_files(path):
        kinds = {file.suffix for file in files}
        # Shards of safetensors follow depth, but the names in each are in alphabetical order.
        ordered = False if kinds == {".safetensors"} else None
        return by_depth(_folder.read(files, lambda file: _file(file, limit)), ordered=ordered)
    return by_depth(_orbax(path))


def outputs_first(path: str | pathlib.Path, /) -> bool:
    """Whether the kernels of a file have the axes outputs, inputs, space, as PyTorch's do.

    Args:
      path: of a file or folder, as `read_arrays` takes it.

    Returns:
      True of safetensors, PyTorch and ONNX; False of all else, which has space, inputs, outputs.
    """
    path = pathlib.Path(path)
    files = list(_folder.weight_files(path)) if path.is_dir() else [path]
    return bool(files) and files[0].suffix in (".safetensors", ".onnx", *_TORCH)


def _file(path: pathlib.Path, limit: int) -> dict[str, np.ndarray]:
    match path.suffix:
        case ".safetensors":
            return _safetensors.read(path)
        case ".pth" | ".pt" | ".bin" | ".ckpt":
            return _torch_file.read(path, limit)
        case ".onnx":
            return _onnx(path)
        case ".npz":
            return _npz(path, limit)
        case ".h5" | ".keras":
            return _keras.read(path, limit)
        case ".msgpack":
            admit(path, path.stat().st_size, limit)
            return _msgpack.read(path)
        case ".json":
            return _tfjs.read(path, limit)
    raise ValueError(f"path must end in {_KNOWN}; got {path}")


def _npz(path: pathlib.Path, limit: int) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        file = mapped(path)
        with zipfile.ZipFile(path) as archive:
            admit(path, packed(archive), limit)
            for name in archive.namelist():
                arrays[name.removesuffix(".npy")] = _npy(name, member(file, archive, name))
    except (PermissionError, TooLargeError):
        raise
    except Exception as error:  # zipfile and NumPy's header parser may raise anything
        raise ValueError(f"path must be a whole .npz file of arrays; {path}: {error}") from error
    return arrays


def _npy(name: str, data: np.ndarray) -> np.ndarray:
    start = io.BytesIO(data[:65536].tobytes())
    version = np.lib.format.read_magic(start)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"{name} is of version {version} of the format")
    shape, fortran, dtype = headers[version](start)
    if dtype.kind in "OV":
        raise ValueError(
            f"{name} has the dtype {dtype}: numbers and booleans are read, and of bfloat16 an .npz "
            "file keeps no name; write it as .safetensors"
        )
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    body = data[start.tell() : start.tell() + size]
    array = view(body, dtype, shape[::-1] if fortran else shape)
    return array.T if fortran else array


def _onnx(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import checker, numpy_helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"path must not be an .onnx file where onnx is not installed; got {path}. Install it "
            "by pip install 'jaxact[onnx]'"
        ) from error
    try:
        model = onnx.load(str(path))
        if not model.ByteSize() or not model.HasField("graph"):
            raise ValueError("it holds no graph")
        if not all(isinstance(tensor.name, str) for tensor in model.graph.initializer):
            raise ValueError("the name of an array is no text")
        used = [name for node in model.graph.node for name in node.input]
        first = {name: number for number, name in reversed(list(enumerate(used)))}
        initializers = sorted(
            model.graph.initializer, key=lambda tensor: first.get(tensor.name, len(used))
        )
        return {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in initializers}
    except (DecodeError, checker.ValidationError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"path must be a whole ONNX model; {path}: {error}") from error


def _orbax(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A checkpoint, or the only item of one."""
    import jax
    import orbax.checkpoint as ocp  # slow to import, and only needed here

    folders = [path, *(p for p in sorted(path.iterdir()) if p.is_dir())]
    items = [p for p in folders if (p / "_METADATA").is_file()]
    if path in items:
        items = [path]
    if len(items) != 1:
        inside = ", ".join(p.name for p in folders[1:]) or "nothing"
        raise ValueError(
            f"path must be a file that ends in {_KNOWN} of one checkpoint; {path} holds {inside}"
        )
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata: Any = checkpointer.metadata(items[0].absolute()).item_metadata
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
            )
            tree = checkpointer.restore(items[0].absolute(), restore_args=as_numpy)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"path must be a whole checkpoint of orbax; {path}: {error}") from error
    return {
        jax.tree_util.keystr(place, simple=True, separator="."): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not isinstance(leaf, str)
    }
