"""Augmentation of image batches, as pure functions of a key."""

import math
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


def random_resized_crop(
    key: Key[Array, ""],
    x: Shaped[Array, "n h w c"],
    /,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Shaped[Array, "n h w c"]:
    """Cuts a random rectangle out of each image and scales it to the image's size.

    The share of the area is uniform, the aspect log-uniform, the place uniform; a side that is
    longer than the image's is cut to it. Interpolation is linear.

    Args:
      key: PRNG key.
      x: images; integers are rounded.
      area: smallest and largest share, from above 0 to 1.
      ratio: smallest and largest width over height, positive.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: if a range is empty or out of its bounds.

    Reference:
      Szegedy et al., Going Deeper with Convolutions, 2015, section 6.
    """
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area must be a range from above 0 to 1; got {area}")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio must be a range of positive numbers; got {ratio}")
    n, height, width, _ = x.shape
    size = jnp.array([height, width], jnp.float32)
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    pixels = jax.random.uniform(area_key, (n,), minval=area[0], maxval=area[1]) * height * width
    low, high = map(math.log, ratio)
    root = jnp.exp(jax.random.uniform(ratio_key, (n,), minval=low, maxval=high) / 2)
    sides = jnp.sqrt(pixels)[:, None] * jnp.stack([1 / root, root], axis=-1)
    sides = jnp.minimum(sides, size[None])
    corners = jax.random.uniform(place_key, (n, 2)) * (size[None] - sides)
    scale = size[None] / sides

    def crop(image, scale, corner):
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -corner * scale, "linear", antialias=False
        )

    cropped = jax.vmap(crop)(x.astype(jnp.float32), scale, corners)
    return (cropped if jnp.issubdtype(x.dtype, jnp.floating) else jnp.round(cropped)).astype(
        x.dtype
    )


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
