"""Batches of 8-bit images from any random access source, read by grain while the device trains."""

from collections.abc import Iterator
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@runtime_checkable
class ImageSource(Protocol):
    """Images by index, all of one shape, each with its label; `grain` reads it from threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, np.int32]:
        """An 8-bit image (height, width, channels), and its class."""
        ...


class ImageFeed:
    """Shuffled batches of 8-bit images that threads read ahead of the device.

    Every epoch is a fresh permutation; what is left over at its end is not used in it.
    """

    split: int | None = 1

    def __init__(
        self,
        source: ImageSource,
        /,
        *,
        batch_size: int,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        threads: int = 8,
    ):
        """Makes the feed.

        Args:
          source: training images, such as a `RecordSource`.
          batch_size: images a batch, at most as many as there are.
          seed: of the order.
          share: ``(index, count)``: of every batch, the process with that index among ``count``
            reads its part alone.
          threads: that read images.

        Raises:
          ValueError: if a batch is larger than the data, or ``count`` does not divide it.
          ModuleNotFoundError: if grain or Pillow is not installed.
        """
        if not 1 <= batch_size <= len(source):
            raise ValueError(
                f"batch_size must be from 1 to the {len(source)} images; got {batch_size}"
            )
        index, count = share
        if not 0 <= index < count:
            raise ValueError(f"share must be (index, count) with 0 <= index < count; got {share}")
        if batch_size % count:
            raise ValueError(
                f"batch_size must be a multiple of the {count} processes; got {batch_size}"
            )
        import grain

        self.steps_per_epoch = len(source) // batch_size
        own = batch_size // count
        self._shape = (own, *source[0][0].shape)
        self._batches = (
            grain.MapDataset.source(source)
            .seed(seed)
            .shuffle()
            .slice(slice(self.steps_per_epoch * batch_size))
            .repeat()
            .slice(slice(index, None, count))
            .batch(own)
        )
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * own)
        self._iterator: Iterator[Any] = iter(())
        self._next = -1

    def fetch(self, start: int, count: int, size: int, /) -> tuple[Array, Array]:
        """Stacked batches; see `Feed`."""
        if start != self._next:
            ahead = self._batches[start:]
            self._iterator = iter(ahead.to_iter_dataset(self._options))
        x = np.zeros((size, *self._shape), np.uint8)
        y = np.zeros((size, self._shape[0]), np.int32)
        for i in range(count):
            x[i], y[i] = next(self._iterator)
        self._next = start + count
        return jnp.asarray(x), jnp.asarray(y)

    def take(self, batches: Any, i: Any, /) -> tuple[Array, Array]:
        """One batch of the stack; see `Feed`."""
        x, y = batches
        return x[i], y[i]


def image_batches(
    source: ImageSource, /, *, batch_size: int, threads: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of images in order, each once; the last may be smaller.

    Args:
      source: images, such as a `RecordSource`.
      batch_size: images a batch, at least 1.
      threads: that read images.

    Returns:
      An iterator of 8-bit images (n, height, width, channels) and labels (n,).
    """
    import grain

    batches = grain.MapDataset.source(source).batch(batch_size)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
    return iter(batches.to_iter_dataset(options))


def standardize(
    x: UInt8[Array, "n h w 3"],
    /,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION,
) -> Float[Array, "n h w 3"]:
    """8-bit images as float32, (x / 255 - mean) / deviation by channel.

    Args:
      x: images, uint8.
      mean: of each channel; ImageNet's by default.
      deviation: of each channel; ImageNet's by default.

    Returns:
      float32 images.
    """
    scale = np.reciprocal(255 * np.asarray(deviation, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(deviation, np.float32)
    x = lax.convert_element_type(x, jnp.float32)
    return x * scale.reshape(1, 1, 1, 3) - shift.reshape(1, 1, 1, 3)


def fit_image(image: Any, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A Pillow image in RGB, its shorter side scaled to ``size`` and the middle cut out."""
    from PIL import Image, ImageOps

    side = (size, size)
    return np.asarray(ImageOps.fit(image.convert("RGB"), side, method=Image.Resampling.BILINEAR))
