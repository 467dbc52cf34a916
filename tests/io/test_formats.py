"""Files of Keras, Flax and TensorFlow.js; archives that unpack to more than their size."""

import json
import sys
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxact import io

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def hdf5(path, **options):
    h5py = pytest.importorskip("h5py", exc_type=ImportError)
    with h5py.File(path, "w") as file:
        layers = file.create_group("model_weights")
        layers.attrs["layer_names"] = [b"stem", b"conv_10", b"conv_2", b"nothing"]
        for name in (b"stem", b"conv_2", b"conv_10"):
            layer = layers.create_group(name)
            layer.attrs["weight_names"] = [name + b"/kernel:0", name + b"/bias:0"]
            layer.create_dataset(name + b"/kernel:0", data=KERNEL + len(name), **options)
            layer.create_dataset(name + b"/bias:0", data=np.zeros(4, np.float16))
        layers["stem"].attrs["words"] = "no weight"
        layers.create_dataset("stem/text", data="no number")
        file.create_group("optimizer_weights").create_dataset("m", data=KERNEL)
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/secret")
        file["again"] = h5py.SoftLink("/model_weights/stem")
    return path


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_keras_hdf5(tmp_path, options):
    found = io.read_arrays(hdf5(tmp_path / "a.h5", **options))
    assert list(found) == [
        f"model_weights.{layer}.{layer}.{part}"
        for layer in ("stem", "conv_10", "conv_2")
        for part in ("bias", "kernel")
    ]
    kernel = found["model_weights.conv_10.conv_10.kernel"]
    np.testing.assert_array_equal(kernel, KERNEL + 7, strict=True)
    assert not io.outputs_first(tmp_path / "a.h5")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_archive(tmp_path, packing):
    inner = hdf5(tmp_path / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "a.keras", "w", packing) as archive:
        archive.writestr("config.json", "{}")
        archive.write(inner, "model.weights.h5")
    found = io.read_arrays(tmp_path / "a.keras")
    expected = io.read_arrays(inner)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    if packing == zipfile.ZIP_DEFLATED:
        with pytest.raises(
            ValueError, match=r"limit must be at least \d+ bytes to unpack .*a\.kera"
        ):
            io.read_arrays(tmp_path / "a.keras", limit=1000)


def test_hdf5_that_claims_more_than_it_holds(tmp_path):
    """A chunked data set of 4 TiB, none of whose chunks is there, is a small file."""
    h5py = pytest.importorskip("h5py", exc_type=ImportError)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (2**20, 2**20), np.float32, chunks=(64, 64))
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"limit must be at least 4398046511104 bytes"):
        io.read_arrays(tmp_path / "a.h5")


def test_hdf5_whose_data_lie_in_another_file(tmp_path):
    h5py = pytest.importorskip("h5py", exc_type=ImportError)
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        secret = [(str(tmp_path / "secret"), 0, 64)]
        file.create_dataset("w", (4, 4), np.float32, external=secret)
    with pytest.raises(ValueError, match="w lies in another file"):
        io.read_arrays(tmp_path / "a.h5")


def test_flax_msgpack(tmp_path, monkeypatch):
    serialization = pytest.importorskip("flax.serialization")
    tree = {
        "params": {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "scale": np.float32(2)}},
        "half": jnp.asarray([1.5, -2], jnp.bfloat16),
        "list": {"0": np.arange(3), "1": np.zeros((0, 2), bool)},
        "step": 3,
    }
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 8)  # the kernel comes in pieces
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(tree))
    found = io.read_arrays(tmp_path / "a.msgpack")
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(found["params.dense.kernel"], kernel, strict=True)
    assert found["half"].dtype == ml_dtypes.bfloat16
    assert found["list.1"].shape == (0, 2)
    assert set(found) == {"params.dense.kernel", "params.dense.scale", "half", "list.0", "list.1"}
    with pytest.raises(ValueError, match="limit must be at least"):
        io.read_arrays(tmp_path / "a.msgpack", limit=10)


def tfjs(folder, cut=0):
    weights = [
        {"name": "stem/kernel", "shape": [2, 3, 4], "dtype": "float32"},
        {"name": "b1/kernel", "shape": [2, 3], "dtype": "float32",
         "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0,
                          "original_dtype": "float32"}},
        {"name": "b2/kernel", "shape": [2], "dtype": "float32",
         "quantization": {"dtype": "float16", "original_dtype": "float32"}},
    ]  # fmt: skip
    manifest = [{"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"], "weights": weights}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    data = KERNEL.tobytes() + bytes(range(6)) + np.asarray([1.5, -2], np.float16).tobytes()
    (folder / "group1-shard1of2.bin").write_bytes(data[:50])
    (folder / "group1-shard2of2.bin").write_bytes(data[50 : len(data) - cut])
    return folder


def test_tensorflow_js(tmp_path):
    tfjs(tmp_path)
    for path in (tmp_path, tmp_path / "model.json"):
        found = io.read_arrays(path)
        assert list(found) == ["stem.kernel", "b1.kernel", "b2.kernel"]
        np.testing.assert_array_equal(found["stem.kernel"], KERNEL, strict=True)
        expected = np.arange(6, dtype=np.float32).reshape(2, 3) / 2 - 1
        np.testing.assert_array_equal(found["b1.kernel"], expected, strict=True)
        expected = np.asarray([1.5, -2], np.float32)
        np.testing.assert_array_equal(found["b2.kernel"], expected, strict=True)
    with pytest.raises(ValueError, match="limit must be at least 32 bytes"):
        io.read_arrays(tmp_path, limit=31)
    tfjs(tmp_path, cut=1)
    with pytest.raises(ValueError, match=r"b2/kernel reaches beyond .*group1-shard2of2\.bin"):
        io.read_arrays(tmp_path)
    (tmp_path / "group1-shard2of2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks group1-shard2of2\.bin"):
        io.read_arrays(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace("group1-shard1", "../group1-shard1"))
    with pytest.raises(ValueError, match="is no name of a file"):
        io.read_arrays(tmp_path)


def test_an_archive_that_unpacks_to_much_more_is_refused_unread(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros((1000, 1000)), v=np.zeros(1000))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    assert io.read_arrays(tmp_path / "a.npz", limit=10**7)["w"].shape == (1000, 1000)
    read = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *a, **k: read.append(a))
    with pytest.raises(ValueError, match=r"limit must be at least 80082\d\d bytes .*; got 1000000"):
        io.read_arrays(tmp_path / "a.npz", limit=10**6)
    assert not read
    with pytest.raises(ValueError, match="limit must be an integer of at least 1; got 0"):
        io.read_arrays(tmp_path / "a.npz", limit=0)


def test_an_archive_that_lies_about_its_sizes(tmp_path):
    """The unpacked size in the directory is what is read at most."""
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(100_000))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    size = (800_128).to_bytes(4, "little")
    assert data.count(size) >= 1
    (tmp_path / "b.npz").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"whole \.npz"):
        io.read_arrays(tmp_path / "b.npz", limit=2000)


@pytest.mark.parametrize("kind", ["h5", "keras", "msgpack"])
def test_every_cut_and_flip_gives_arrays_or_a_sentence(tmp_path, kind):
    whole = tmp_path / f"whole.{kind}"
    if kind == "msgpack":
        serialization = pytest.importorskip("flax.serialization")
        whole.write_bytes(serialization.to_bytes({"a": {"w": KERNEL}, "b": np.arange(3)}))
    elif kind == "h5":
        hdf5(whole)
    else:
        with zipfile.ZipFile(whole, "w") as archive:
            archive.write(hdf5(tmp_path / "a.h5"), "model.weights.h5")
    data = whole.read_bytes()
    path = tmp_path / f"cut.{kind}"
    step = max(1, len(data) // 20)
    for length in range(0, len(data) - step, step):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"path must be a whole .*cut\."):
            io.read_arrays(path)
    for place in range(0, len(data), step):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            found = io.read_arrays(path, limit=10**6)
        except ValueError:
            continue
        for array in found.values():
            assert np.asarray(array).copy().size == array.size


@pytest.mark.parametrize(("package", "extra"), [("h5py", "keras"), ("msgpack", "models")])
def test_what_reads_a_kind_is_named_where_it_is_not_installed(
    tmp_path, monkeypatch, package, extra
):
    path = tmp_path / {"h5py": "a.h5", "msgpack": "a.msgpack"}[package]
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not .*'jaxact\[{extra}\]'"):
        io.read_arrays(path)
