"""Arrays come back from every kind of file as they were; nothing pickled is run."""

import errno
import fcntl
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxact import io

DATA = pathlib.Path(__file__).parent / "data"

ARRAYS = {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.asarray([1.5, -2.0], ml_dtypes.bfloat16),
    "eighth": np.asarray([1.5, -2.0], ml_dtypes.float8_e4m3fn),
    "count": np.asarray(7, np.int64),
    "flags": np.asarray([True, False, True]),
    "none": np.zeros((0, 3), np.float32),
    "wave": np.asarray([1 + 2j], np.complex64),
}
NUMBERS = {k: v for k, v in ARRAYS.items() if k not in ("half", "eighth")}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def test_safetensors_come_back_and_are_mapped(tmp_path):
    path = tmp_path / "a.safetensors"
    io.write_safetensors(path, ARRAYS, metadata={"config": "{}"})
    found = io.read_arrays(path)
    assert_same(found, dict(sorted(ARRAYS.items())) | ARRAYS)
    assert is_mapped(found["kernel"])
    assert io.read_metadata(path) == {"config": "{}"}
    found["kernel"][0, 0, 0] = 9  # in memory only
    assert io.read_arrays(path)["kernel"][0, 0, 0] == 0


def test_safetensors_are_read_by_the_formats_own_library(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "a.safetensors"
    some = {k: v for k, v in ARRAYS.items() if k != "eighth"}
    io.write_safetensors(path, some | {"jax": jnp.arange(3, dtype=jnp.bfloat16)})
    assert_same(load_file(path), some | {"jax": np.arange(3).astype(ml_dtypes.bfloat16)})


def test_big_endian_arrays_are_written_in_the_formats_order(tmp_path):
    io.write_safetensors(tmp_path / "a.safetensors", {"w": np.arange(3, dtype=">f4")})
    found = io.read_arrays(tmp_path / "a.safetensors")["w"]
    np.testing.assert_array_equal(found, np.arange(3, dtype=np.float32), strict=True)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    io.write_safetensors(path, {"w": np.ones(2)})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        io.write_safetensors(path, {"w": np.zeros(2)})
    with pytest.raises(KeyboardInterrupt):
        io.write_whole(path, b"new")
    assert io.read_arrays(path)["w"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: io.write_whole(path, bytes(2000)),
        lambda path: io.write_safetensors(path, {"w": np.zeros(2000)}),
    ],
)
def test_what_has_no_room_is_named_and_leaves_nothing(tmp_path, write):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # Python ignores the signal
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / "large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "large")
    assert not any(tmp_path.iterdir())


def test_what_stops_a_writer_is_raised_though_its_file_is_gone(tmp_path):
    def stopped():
        with io.replacing(tmp_path / "file") as temporary:
            temporary.unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not any(tmp_path.iterdir())


def test_a_dtype_without_a_place_in_safetensors(tmp_path):
    with pytest.raises(ValueError, match=r"got 'w' of complex128"):
        io.write_safetensors(tmp_path / "a.safetensors", {"w": np.ones(2, np.complex128)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "a.npz", **NUMBERS, swapped=np.arange(3, dtype=">i4"))
    found = io.read_arrays(tmp_path / "a.npz")
    assert_same(found, NUMBERS | {"swapped": np.arange(3, dtype=np.int32)})
    assert is_mapped(found["kernel"]) == (save is np.savez)


def test_npz_with_objects_or_without_a_dtype_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.asarray([{}], object))
    with pytest.raises(ValueError, match=r"w\.npy has the dtype object"):
        io.read_arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", w=ARRAYS["half"])
    with pytest.raises(ValueError, match=r"of bfloat16 an \.npz file keeps no name"):
        io.read_arrays(tmp_path / "b.npz")


# torch 2.13 wrote these of one object, in its present and in its legacy format:
#   base = torch.arange(24, dtype=torch.float32)
#   state = OrderedDict(weight=base.reshape(4, 6).t(), tail=base[5:8], steps=torch.tensor(7),
#       half=torch.tensor([1.5, -2.0], dtype=torch.bfloat16), flag=torch.tensor([True, False]))
#   {"state_dict": state, "epoch": 3, "name": "x",
#    "list": [torch.zeros(2, 0), torch.nn.Parameter(torch.ones(2))]}
@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
def test_files_of_torch_without_torch(file):
    found = io.read_arrays(DATA / file)
    assert_same(
        found,
        {
            "state_dict.weight": np.arange(24, dtype=np.float32).reshape(4, 6).T,
            "state_dict.half": np.asarray([1.5, -2.0], ml_dtypes.bfloat16),
            "state_dict.tail": np.asarray([5, 6, 7], np.float32),
            "state_dict.steps": np.asarray(7, np.int64),
            "state_dict.flag": np.asarray([True, False]),
            "list.0": np.zeros((2, 0), np.float32),
            "list.1": np.ones(2, np.float32),
        },
    )


WRITE_WITH_TORCH = """
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(torch.bfloat16)
state = net.state_dict()
folder = sys.argv[1]
torch.save(state, f"{folder}/a.pth")
torch.save(state, f"{folder}/b.pth", _use_new_zipfile_serialization=False)
torch.save(net, f"{folder}/module.pth")
torch.save({"w": torch.ones(3).to(torch.float8_e4m3fn)}, f"{folder}/eighth.pth")
torch.jit.save(torch.jit.script(net), f"{folder}/program.pt")
save_file(state, f"{folder}/c.safetensors")
"""


def test_files_that_torch_writes_now(tmp_path):
    pytest.importorskip("torch", exc_type=ImportError)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITE_WITH_TORCH, str(tmp_path)], check=True
    )
    expected = dict(sorted(io.read_arrays(tmp_path / "c.safetensors").items()))
    assert expected["0.weight"].dtype == ml_dtypes.bfloat16
    for name in ("a.pth", "b.pth"):
        assert_same(dict(sorted(io.read_arrays(tmp_path / name).items())), expected)
    assert io.read_arrays(tmp_path / "eighth.pth")["w"].dtype == ml_dtypes.float8_e4m3fn
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.container\.Sequential"):
        io.read_arrays(tmp_path / "module.pth")
    with pytest.raises(ValueError, match="is a TorchScript program"):
        io.read_arrays(tmp_path / "program.pt")


def zipped(path, pickled, **storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in storages.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


class Attack:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_pickled_code_is_not_run(tmp_path, form):
    target = tmp_path / "made"
    data = pickle.dumps({"w": Attack(str(target))}, protocol=2)
    path = tmp_path / "evil.pth"
    if form == "zip":
        zipped(path, data)
    else:
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})))
        path.write_bytes(path.read_bytes() + data)
    with pytest.raises(ValueError, match=r"it asks for .*mkdir"):
        io.read_arrays(path)
    assert not target.exists()


def tensor_pickle(elements, offset, shape, stride):
    """The pickle of one float32 tensor as torch writes it, by opcode."""
    number = lambda n: b"J" + n.to_bytes(4, "little", signed=True)  # noqa: E731
    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s.encode()  # noqa: E731
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("key") + text("cpu")
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
        + (storage + number(elements) + b"tQ" + number(offset))
        + (number(shape) + b"\x85" + number(stride) + b"\x85" + b"\x89}tR.")
    )


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    good = zipped(tmp_path / "a.pth", tensor_pickle(4, 1, 2, 2), key=data)
    assert io.read_arrays(good)["tensor"].tolist() == [1, 3]
    for offset, shape, stride in ((2, 3, 1), (0, 2, 4), (5, 1, 1)):
        path = zipped(tmp_path / "b.pth", tensor_pickle(4, offset, shape, stride), key=data)
        with pytest.raises(ValueError, match="reaches beyond its storage"):
            io.read_arrays(path)
    for offset, shape, stride in ((-1, 2, 1), (0, -2, 1), (3, 2, -1)):
        path = zipped(tmp_path / "b.pth", tensor_pickle(4, offset, shape, stride), key=data)
        with pytest.raises(ValueError, match="no proper shape"):
            io.read_arrays(path)


def onnx_model(path):
    onnx = pytest.importorskip("onnx", exc_type=ImportError)
    names = ("kernel", "half", "count", "flags")
    initializers = [onnx.numpy_helper.from_array(ARRAYS[n], n) for n in names]
    graph = onnx.helper.make_graph([], "g", [], [], initializer=initializers)
    onnx.save(onnx.helper.make_model(graph), str(path))
    return {name: ARRAYS[name] for name in names}


def test_onnx_initializers(tmp_path):
    expected = onnx_model(tmp_path / "a.onnx")
    assert_same(io.read_arrays(tmp_path / "a.onnx"), expected)


def test_onnx_that_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxact\[onnx\]'"):
        io.read_arrays(tmp_path / "a.onnx")


def test_orbax(tmp_path):
    import orbax.checkpoint as ocp

    tree = {"a": {"w": ARRAYS["kernel"]}, "b": [ARRAYS["half"], jnp.ones((2, 3))]}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "whole", tree)
    expected = {"a.w": ARRAYS["kernel"], "b.0": ARRAYS["half"], "b.1": np.ones((2, 3), np.float32)}
    assert_same(io.read_arrays(tmp_path / "whole"), expected)
    with ocp.CheckpointManager(tmp_path / "many") as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(jnp.asarray, tree)))
    assert_same(io.read_arrays(tmp_path / "many" / "2"), expected)
    with pytest.raises(ValueError, match=r"of one checkpoint; .* holds 1, 2"):
        io.read_arrays(tmp_path / "many")


def test_missing_and_unknown(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be an existing file or folder; got .*x"
    ):
        io.read_arrays(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match=r"path must be an existing file; got .*x"):
        io.read_metadata(tmp_path / "x.safetensors")
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path must end in \.safetensors, .*; got .*x\.txt"):
        io.read_arrays(tmp_path / "x.txt")


@pytest.mark.parametrize("kind", ["safetensors", "npz", "onnx", "zip.pth", "legacy.pth"])
def test_every_cut_of_a_file_is_told(tmp_path, kind):
    whole = tmp_path / f"whole.{kind}"
    if kind == "safetensors":
        io.write_safetensors(whole, ARRAYS)
    elif kind == "npz":
        np.savez(whole, **NUMBERS)
    elif kind == "onnx":
        onnx_model(whole)
    else:
        whole.write_bytes((DATA / kind).read_bytes())
    data = whole.read_bytes()
    assert io.read_arrays(whole)
    cut = tmp_path / f"cut.{kind}"
    for length in range(0, len(data) - 1, 7):
        cut.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"path must be a whole .*cut\."):
            io.read_arrays(cut)


def test_what_is_wrong_with_a_file_of_torch_is_said(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes((DATA / "zip.pth").read_bytes()[:-30])
    with pytest.raises(
        ValueError, match=r"a\.pth: it is cut short: the end of the archive is missing"
    ):
        io.read_arrays(path)
    path.write_text("a page that says 404")
    with pytest.raises(ValueError, match=r"a\.pth: it is no checkpoint: it does not begin as"):
        io.read_arrays(path)


@pytest.mark.parametrize(
    "kind", ["safetensors", "npz", "packed.npz", "onnx", "zip.pth", "legacy.pth"]
)
def test_a_flipped_byte_gives_arrays_or_a_sentence(tmp_path, kind):
    """No checksum is asked for where arrays are mapped, so that a changed number may pass."""
    whole = tmp_path / f"whole.{kind}"
    if kind == "safetensors":
        io.write_safetensors(whole, ARRAYS)
    elif kind == "onnx":
        onnx_model(whole)
    elif kind.endswith("npz"):
        (np.savez_compressed if kind == "packed.npz" else np.savez)(whole, **NUMBERS)
    else:
        whole.write_bytes((DATA / kind).read_bytes())
    data = whole.read_bytes()
    path, messages = tmp_path / f"flipped.{kind}", []
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            found = io.read_arrays(path)
        except ValueError as error:
            messages.append(str(error))
            continue
        for array in found.values():
            assert np.asarray(array).copy().size == array.size
    assert messages
    assert all(text.startswith(("path must be", "limit must be")) for text in messages)


def test_what_is_written_is_synced_and_replaced_as_windows_allows(tmp_path, monkeypatch):
    """It syncs no handle that was opened for reading, and replaces no file that is mapped."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"before")

    def sync(handle):
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(os, "fsync", sync)
    io.write_whole(path, b"after")
    assert path.read_bytes() == b"after"
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match=r"Access is denied: '.*a.txt'"):
        io.write_whole(path, b"never")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.txt", b"after")]
