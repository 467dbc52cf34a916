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


def test_compose_gives_each_its_own_key():
    keys = []
    both = training.compose(lambda k, x: keys.append(k) or x + 1, lambda k, x: keys.append(k) or -x)
    assert both(jax.random.key(0), jnp.ones((1, 1, 1, 1))) == -2
    assert keys[0] != keys[1]
