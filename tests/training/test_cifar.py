"""CIFAR in its four published forms, made small here."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from jaxact import training

N = 6


def _data(seed, classes):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels = rng.permutation(np.r_[np.arange(N - 1), classes - 1])
    return images, labels


def _rows(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(N, 3072)


def _files(form):
    """Folder, and each file's bytes with what it holds."""
    classes = 100 if "100" in form else 10
    if classes == 10:
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    else:
        names = ["train", "test"]
    files, truth = {}, []
    for seed, name in enumerate(names):
        images, labels = _data(seed, classes)
        truth.append((images, labels))
        rows = _rows(images)
        if form.endswith(("bin", "binary")):
            coarse = [labels // 5] if classes == 100 else []
            table = np.column_stack([*coarse, labels, rows]).astype(np.uint8)
            files[f"{name}.bin"] = table.tobytes()
        else:
            kind = b"fine_labels" if classes == 100 else b"labels"
            batch = {b"data": rows, kind: labels.tolist(), b"coarse_labels": [0] * N}
            files[name] = pickle.dumps(batch, protocol=2)
    return files, truth


def _archive(path, form, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{form}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


FORMS = ["cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [True, False])
def test_every_form_gives_its_images(tmp_path, form, packed):
    files, truth = _files(form)
    path = tmp_path / form
    if packed:
        path = tmp_path / "cifar.tar.gz"
        _archive(path, form, files)
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    data = training.load(str(path))
    train = np.concatenate([images for images, _ in truth[:-1]]).astype(np.float64)
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    np.testing.assert_allclose(data.train_x, (train - mean) / deviation, atol=1e-5)
    np.testing.assert_allclose(data.test_x, (truth[-1][0] - mean) / deviation, atol=1e-5)
    np.testing.assert_array_equal(data.train_y, np.concatenate([y for _, y in truth[:-1]]))
    np.testing.assert_array_equal(data.test_y, truth[-1][1])
    assert data.num_classes == (100 if "100" in form else 10)
    assert data.train_x.dtype == np.float32


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_pickles_run_no_code(tmp_path):
    form = FORMS[0]
    files, _ = _files(form)
    files["data_batch_3"] = pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2)
    _archive(tmp_path / "evil.tar.gz", form, files)
    with pytest.raises(ValueError, match=r"data_batch_3 is damaged \(it asks for .*exec"):
        training.load(str(tmp_path / "evil.tar.gz"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files.update({"data_batch_2.bin": b"x" * 100}), "100 bytes are no whole"),
        (lambda files: files.pop("data_batch_2.bin"), "lacks cifar-10-batches-bin/data_batch_2"),
        (lambda files: files.pop("test_batch.bin"), "holds none of cifar-10-batches-py"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, damage, message):
    files, _ = _files(FORMS[1])
    damage(files)
    _archive(tmp_path / "x.tar.gz", FORMS[1], files)
    with pytest.raises(ValueError, match=message):
        training.load(str(tmp_path / "x.tar.gz"))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is damaged or no archive"):
        training.load(str(tmp_path / "x.tar.gz"))
    files, _ = _files(FORMS[0])
    _archive(tmp_path / "whole.tar.gz", FORMS[0], files)
    data = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.tar\.gz is damaged"):
        training.load(str(tmp_path / "half.tar.gz"))
