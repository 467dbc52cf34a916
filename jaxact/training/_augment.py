"""Augmentation of image batches, as pure functions of a key."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Key, Shaped

Augment = Callable[[Key[Array, ""], Shaped[Array, "n h w c"]], Shaped[Array, "n h w c"]]


def flip(key: Key[Array, ""], x: Shaped[Array, "n h w c"], /) -> Shaped[Array, "n h w c"]:
    """Mirrors each image left to right with probability one half.

    Args:
      key: PRNG key.
      x: images.

    Returns:
      Images of the same shape and dtype.
    """
    mirrored = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)


def pad_crop(
    key: Key[Array, ""], x: Shaped[Array, "n h w c"], /, *, padding: int = 4
) -> Shaped[Array, "n h w c"]:
    """Pads each image with zeros on every side and crops it at random to its size.

    Standardized images are padded with their mean, as in the reference.

    Args:
      key: PRNG key.
      x: images.
      padding: pixels a side, zero or more.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: if ``padding`` is negative.

    Reference:
      He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0; got {padding}")
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (x.shape[0], 2), 0, 2 * padding + 1)

    def crop(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, corners)


def compose(*augments: Augment) -> Augment:
    """One augmentation that applies several in order, each with its own key.

    Args:
      *augments: functions ``(key, x) -> x``.

    Returns:
      A function ``(key, x) -> x``; the identity if none is given.
    """

    def augment(key, x):
        for number, function in enumerate(augments):
            x = function(jax.random.fold_in(key, number), x)
        return x

    return augment
