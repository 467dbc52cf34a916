"""Augmentations: what they may return, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import training


def _images(n=400, dtype=jnp.float32):
    return jnp.arange(n * 5 * 6 * 2).reshape(n, 5, 6, 2).astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_flip_mirrors_half_of_the_images(dtype):
    x = _images(dtype=dtype)
    y = jax.jit(training.flip)(jax.random.key(0), x)
    assert y.dtype == dtype
    same = np.all(np.asarray(y == x), axis=(1, 2, 3))
    mirrored = np.all(np.asarray(y == x[:, :, ::-1]), axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert abs(same.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_pad_crop_gives_every_shift_of_the_padded_image():
    x = _images() + 1
    y = np.asarray(jax.jit(lambda k, x: training.pad_crop(k, x, padding=1))(jax.random.key(1), x))
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.zeros((3, 3), int)
    for i in range(len(x)):
        shifts = [
            (a, b)
            for a in range(3)
            for b in range(3)
            if np.array_equal(y[i], padded[i, a : a + 5, b : b + 6])
        ]
        assert len(shifts) == 1
        seen[shifts[0]] += 1
    assert np.all(np.abs(seen - 400 / 9) < 4 * np.sqrt(400 / 9))


def test_no_padding_changes_nothing():
    x = _images(4)
    np.testing.assert_array_equal(training.pad_crop(jax.random.key(0), x, padding=0), x)
    with pytest.raises(ValueError, match="padding must be at least 0; got -1"):
        training.pad_crop(jax.random.key(0), x, padding=-1)


def test_random_resized_crop_is_a_window_on_the_image():
    height, width, n = 12, 20, 300
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x = jnp.tile(jnp.stack([rows, columns], axis=-1)[None], (n, 1, 1, 1))
    crop = jax.jit(lambda k, x: training.random_resized_crop(k, x, area=(0.2, 0.5)))
    y = np.asarray(crop(jax.random.key(0), x))
    inner = y[:, 3:-3, 3:-3]  # away from the edges, where there is nothing to interpolate with
    down, right = np.diff(inner[..., 0], axis=1), np.diff(inner[..., 1], axis=2)
    np.testing.assert_allclose(down, np.broadcast_to(down[:, :1, :1], down.shape), atol=1e-4)
    np.testing.assert_allclose(right, np.broadcast_to(right[:, :1, :1], right.shape), atol=1e-4)
    sides = np.stack([down[:, 0, 0] * height, right[:, 0, 0] * width], axis=-1)
    assert np.all(sides <= np.array([height, width]) + 1e-3)
    share = sides.prod(axis=-1) / (height * width)
    assert share.max() <= 0.5 + 1e-4
    assert share.min() < 0.25
    assert share.max() > 0.45
    whole = sides[:, 0] < height - 1e-3  # not cut to the image's height
    aspect = (sides[:, 1] / sides[:, 0])[whole]
    assert aspect.min() >= 3 / 4 - 1e-3
    assert aspect.max() <= 4 / 3 + 1e-3
    assert np.ptp(np.log(aspect)) > 0.5
    assert y[..., 0].min() >= 0
    assert y[..., 1].max() <= width - 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_the_whole_image_is_itself(dtype):
    x = _images(4).astype(dtype)
    x = x[:, :5, :5]
    y = training.random_resized_crop(jax.random.key(0), x, area=(1.0, 1.0), ratio=(1.0, 1.0))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(area=(0.0, 1.0)), "area must be a range from above 0 to 1"),
        (dict(area=(0.6, 0.5)), "area must be a range"),
        (dict(area=(0.5, 1.5)), "area must be a range"),
        (dict(ratio=(0.0, 1.0)), "ratio must be a range of positive numbers"),
        (dict(ratio=(2.0, 1.0)), "ratio must be a range of positive numbers"),
    ],
)
def test_bad_crops(options, message):
    with pytest.raises(ValueError, match=message):
        training.random_resized_crop(jax.random.key(0), _images(4), **options)


def test_compose_gives_each_its_own_key():
    keys = []
    both = training.compose(lambda k, x: keys.append(k) or x + 1, lambda k, x: keys.append(k) or -x)
    assert both(jax.random.key(0), jnp.ones((1, 1, 1, 1))) == -2
    assert keys[0] != keys[1]
