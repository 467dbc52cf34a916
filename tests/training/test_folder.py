"""Folders of images, made here with Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import training

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")


def folder(path, size=4, **options):
    return training.image_folder(path, size=size, **options)


def _make(root, classes, each, size=(6, 6)):
    """Images of one colour, by which each is known."""
    value = 0
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", size, (value, 255 - value, 7)).save(root / name / f"{i}.png")
            value += 5


def test_a_folder_is_split_by_class(tmp_path):
    _make(tmp_path, ("dog", "cat"), 10)
    found = folder(tmp_path, test_share=0.2)
    assert found.classes == ("cat", "dog")
    train, test = found.train.records, found.test.records
    assert np.bincount([record["label"] for record in train]).tolist() == [8, 8]
    assert np.bincount([record["label"] for record in test]).tolist() == [2, 2]
    assert not {record["image"] for record in train} & {record["image"] for record in test}
    for record in train:
        assert record["image"].parent.name == found.classes[record["label"]]
    assert train == folder(tmp_path, test_share=0.2).train.records


@pytest.mark.parametrize("held", ["test", "val", "validation"])
def test_a_split_folder_stays_so(tmp_path, held):
    _make(tmp_path / "train", ("a", "b"), 3)
    _make(tmp_path / held, ("a", "b"), 2)
    found = folder(tmp_path)
    assert (len(found.train), len(found.test)) == (6, 4)


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least two classes; got none"):
        folder(tmp_path)
    _make(tmp_path / "one", ("a", "b"), 2)
    (tmp_path / "one" / "empty").mkdir()
    with pytest.raises(ValueError, match="class empty has no image"):
        folder(tmp_path / "one")
    _make(tmp_path / "two" / "train", ("a", "b"), 2)
    with pytest.raises(ValueError, match=r"one of test, val and validation .* got none"):
        folder(tmp_path / "two")
    _make(tmp_path / "two" / "val", ("a", "c"), 2)
    with pytest.raises(ValueError, match="same classes in train and val"):
        folder(tmp_path / "two")
    with pytest.raises(ValueError, match="test_share must be between 0 and 1"):
        folder(tmp_path / "one", test_share=0.0)


def test_feed_gives_every_image_once_an_epoch_and_resumes_anywhere(tmp_path):
    _make(tmp_path, ("a", "b"), 5)
    source = folder(tmp_path, test_share=0.2).train
    feed = training.ImageFeed(source, batch_size=3, seed=1, threads=2)
    assert feed.steps_per_epoch == 2
    x, y = feed.fetch(0, 6, 7)
    assert x.shape == (7, 3, 4, 4, 3)
    assert x.dtype == jnp.uint8
    colours = np.asarray(x[:6, :, 0, 0, 0]).reshape(3, 6)
    for epoch in colours:
        assert len(set(epoch.tolist())) == 6
    assert not np.array_equal(colours[0], colours[1])
    expected = (colours.reshape(6, 3) >= 25).astype(int)  # class b has the brighter reds
    np.testing.assert_array_equal(y[:6], expected)
    np.testing.assert_array_equal(feed.fetch(6, 1, 1)[0], feed.fetch(6, 1, 1)[0])
    other = training.ImageFeed(source, batch_size=3, seed=1, threads=1)
    np.testing.assert_array_equal(other.fetch(3, 2, 2)[0], x[3:5])
    np.testing.assert_array_equal(other.fetch(5, 1, 1)[0], x[5:6])
    whole, *halves = (
        training.ImageFeed(source, batch_size=4, seed=1, share=share).fetch(0, 3, 3)[0]
        for share in ((0, 1), (0, 2), (1, 2))
    )
    np.testing.assert_array_equal(np.stack(halves, axis=2).reshape(whole.shape), whole)
    taken = jax.jit(feed.take)((x, y), 2)
    np.testing.assert_array_equal(taken[0], x[2])
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 8 images; got 9"):
        training.ImageFeed(source, batch_size=9)
    with pytest.raises(ValueError, match="multiple of the 2 processes; got 3"):
        training.ImageFeed(source, batch_size=3, share=(0, 2))
    with pytest.raises(ValueError, match=r"share must be .* got \(2, 2\)"):
        training.ImageFeed(source, batch_size=4, share=(2, 2))


def test_test_images_come_once_in_order(tmp_path):
    _make(tmp_path, ("a", "b"), 5)
    source = folder(tmp_path, test_share=0.5).test
    batches = list(training.image_batches(source, batch_size=2, threads=2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert np.concatenate([y for _, y in batches]).tolist() == [r["label"] for r in source.records]


def test_shorter_side_is_scaled_and_the_middle_cut(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "a" / "wide.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a" / "gray.png")
    records = [{"image": path, "label": 0} for path in sorted((tmp_path / "a").iterdir())]
    source = training.RecordSource(records, size=8)
    ((x, _),) = training.image_batches(source, batch_size=2)
    np.testing.assert_array_equal(x[1], pixels[:, 8:16])
    np.testing.assert_array_equal(x[0], np.repeat(pixels[:, 8:16, :1], 3, axis=-1))


def test_standardize():
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(training.standardize(jnp.asarray(x)), expected, atol=2e-6)
