"""Records of images: any sequence of mappings, and Hugging Face's `datasets` on this machine."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import training

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)


class Columns:
    """A map-style source that is not a list, as tfds and `datasets` have them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"id": i, "image": self.images[i], "label": self.labels[i]}


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_every_form_of_an_image_gives_the_same_pixels():
    forms = [PIXELS[0], Image.fromarray(PIXELS[0]), _png(PIXELS[0]), {"bytes": _png(PIXELS[0])}]
    source = training.RecordSource(Columns(forms, range(4)), size=6)
    assert len(source) == 4
    for number in range(4):
        image, label = source[np.int64(number)]
        np.testing.assert_array_equal(image, PIXELS[0])
        assert label == number
    gray = training.RecordSource(
        ({"pixels": image, "class": 1} for image in (PIXELS[0, ..., 0], PIXELS[0, ..., :1])),
        size=6,
        image_column="pixels",
        label_column="class",
    )
    for image, _ in (gray[0], gray[1]):
        np.testing.assert_array_equal(image, np.repeat(PIXELS[0, ..., :1], 3, axis=-1))


def test_a_feed_of_records_gives_every_image_once_an_epoch_and_resumes_anywhere():
    source = training.RecordSource(Columns(PIXELS, np.arange(12)), size=6)
    feed = training.ImageFeed(source, batch_size=4, seed=2, threads=3)
    x, y = feed.fetch(0, 6, 6)
    assert x.dtype == jnp.uint8
    np.testing.assert_array_equal(x, PIXELS[np.asarray(y)])
    for epoch in np.asarray(y).reshape(2, 12):
        assert sorted(epoch.tolist()) == list(range(12))
    other = training.ImageFeed(source, batch_size=4, seed=2, threads=1)
    np.testing.assert_array_equal(other.fetch(4, 2, 2)[1], y[4:])
    batches = list(training.image_batches(source, batch_size=5))
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(12))


def test_bad_records():
    with pytest.raises(ValueError, match="records must hold at least one; got none"):
        training.RecordSource([], size=4)
    good = Columns(PIXELS, np.arange(12))
    with pytest.raises(ValueError, match="image_column must be one of id, image, label; got 'img'"):
        training.RecordSource(good, size=4, image_column="img")
    with pytest.raises(ValueError, match=r"record 1 must have a label of at least 0; got -1"):
        training.RecordSource(Columns(PIXELS, [0, -1]), size=4)[1]
    for bad, told in ((PIXELS[0] / 255, r"float64 of shape \(6, 6, 3\)"), ("a.png", "a str")):
        with pytest.raises(ValueError, match=f"record 0 must have a Pillow image.* got {told}"):
            training.RecordSource(Columns([bad], [0]), size=4)[0]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The package, kept from the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        module = pytest.importorskip("datasets")
        module.disable_progress_bars()
        yield module


@pytest.fixture(scope="module")
def table(datasets):
    """Twelve images of two sorts of classes."""
    features = datasets.Features(
        picture=datasets.Image(),
        fine=datasets.ClassLabel(names=["a", "b", "c"]),
        coarse=datasets.ClassLabel(names=["x", "y"]),
    )
    columns = {"picture": list(PIXELS), "fine": [0, 1, 2] * 4, "coarse": [0, 1] * 6}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_dataset_in_memory_is_a_source(table):
    columns = {"image_column": "picture", "label_column": "fine"}
    feed = training.ImageFeed(training.RecordSource(table, size=6, **columns), batch_size=12)
    x, y = feed.fetch(0, 1, 1)
    equal = (np.asarray(x[0])[:, None] == PIXELS).all((2, 3, 4))
    assert (equal.sum(1) == 1).all()
    order = equal.argmax(1).tolist()
    assert sorted(order) == list(range(12))
    assert np.asarray(y[0]).tolist() == [i % 3 for i in order]


def test_a_dataset_that_was_saved_is_split_by_class(table, tmp_path):
    table.save_to_disk(tmp_path / "saved")
    name = str(tmp_path / "saved")
    found = training.hub_dataset(name, size=4, label_column="fine", test_share=0.25)
    assert found.classes == ("a", "b", "c")
    assert (len(found.train), len(found.test)) == (9, 3)
    assert sorted(int(found.test[i][1]) for i in range(3)) == [0, 1, 2]
    for label, got in ((None, "None"), ("middle", "'middle'")):
        with pytest.raises(
            ValueError, match=f"label_column must be one of fine, coarse; got {got}"
        ):
            training.hub_dataset(name, size=4, label_column=label)


def test_a_published_split_stays(datasets, table, tmp_path):
    splits = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
    for split, rows in splits.items():
        table.select(rows).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    found = training.hub_dataset(str(tmp_path), size=6, label_column="coarse")
    assert (len(found.train), len(found.test), found.classes) == (8, 2, ("x", "y"))
    np.testing.assert_array_equal(found.test[1][0], PIXELS[9])


def test_what_cannot_be_loaded(datasets, table, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="dataset nobody/nothing cannot be loaded: "):
        training.hub_dataset("nobody/nothing", size=4)
    table.remove_columns(["fine", "coarse"]).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match=r"columns of Image and ClassLabel; got picture of Image"):
        training.hub_dataset(str(tmp_path / "unlabelled"), size=4)
    with pytest.raises(ValueError, match="test_share must be between 0 and 1; got 1"):
        training.hub_dataset("nobody/nothing", size=4, test_share=1.0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError):
        training.hub_dataset("nobody/nothing", size=4)
