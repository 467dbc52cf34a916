"""A folder of images, read from the disk while the device trains, by grain."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8
from sklearn.model_selection import train_test_split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Files(NamedTuple):
    """Image files and the index of each one's class."""

    paths: tuple[pathlib.Path, ...]
    labels: tuple[int, ...]


class ImageFolder(NamedTuple):
    """The files of a data set.

    Attributes:
      train: training files.
      test: test files.
      classes: names of the classes, in the order of their labels.
    """

    train: Files
    test: Files
    classes: tuple[str, ...]


def image_folder(path: pathlib.Path, /, *, test_share: float = 0.2, seed: int = 0) -> ImageFolder:
    """Lists a folder of images.

    Args:
      path: of a folder that holds either a folder for each class, or ``train`` and one of ``test``,
        ``val`` and ``validation``, each of which holds a folder for each class. Images may lie at
        any depth in their class's folder.
      test_share: the share of each class that is held out where the folder is not split.
      seed: of that split.

    Returns:
      The files, sorted by class and path.

    Raises:
      ValueError: if there is no such folder, fewer than two classes, or a class without images.
    """
    if not path.is_dir():
        raise ValueError(f"dataset {path} is not a folder")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1; got {test_share}")
    if (path / "train").is_dir():
        held = [path / name for name in ("test", "val", "validation") if (path / name).is_dir()]
        if len(held) != 1:
            raise ValueError(
                f"dataset {path} must have one of test, val and validation beside train; "
                f"got {', '.join(p.name for p in held) or 'none'}"
            )
        classes = _classes(path / "train")
        if (others := _classes(held[0])) != classes:
            raise ValueError(
                f"dataset {path} must have the same classes in train and {held[0].name}; "
                f"{sorted(set(classes) ^ set(others))} are in one only"
            )
        return ImageFolder(_files(path / "train", classes), _files(held[0], classes), classes)
    classes = _classes(path)
    files = _files(path, classes)
    try:
        train, test = train_test_split(
            np.arange(len(files.paths)),
            test_size=test_share,
            random_state=seed,
            stratify=files.labels,
        )
    except ValueError as error:
        raise ValueError(f"dataset {path} cannot be split: {error}") from error
    return ImageFolder(_some(files, np.sort(train)), _some(files, np.sort(test)), classes)


class FolderFeed:
    """Shuffled batches of images that are read from files by threads, ahead of the device.

    Images are 8-bit RGB, (size, size, 3): the shorter side is scaled to ``size``, the middle is cut
    out. Every epoch is a fresh permutation; what is left over at its end is not used in it.
    """

    def __init__(
        self, files: Files, /, *, size: int, batch_size: int, seed: int = 0, threads: int = 8
    ):
        """Makes the feed.

        Args:
          files: training files.
          size: pixels a side.
          batch_size: images a batch, at most as many as there are files.
          seed: of the order.
          threads: that read files.

        Raises:
          ValueError: if a batch is larger than the data.
          ModuleNotFoundError: if grain or Pillow is not installed.
        """
        if not 1 <= batch_size <= len(files.paths):
            raise ValueError(
                f"batch_size must be from 1 to the {len(files.paths)} images; got {batch_size}"
            )
        import grain

        self.steps_per_epoch = len(files.paths) // batch_size
        self._shape = (batch_size, size, size, 3)
        self._batches = (
            grain.MapDataset.source(_Images(files, size))
            .seed(seed)
            .shuffle()
            .slice(slice(self.steps_per_epoch * batch_size))
            .repeat()
            .batch(batch_size)
        )
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
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


def folder_batches(
    files: Files, /, *, size: int, batch_size: int, threads: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of images in order, each file once; the last may be smaller.

    Args:
      files: image files.
      size: pixels a side, as in `FolderFeed`.
      batch_size: images a batch, at least 1.
      threads: that read files.

    Returns:
      An iterator of 8-bit images (n, size, size, 3) and labels (n,).
    """
    import grain

    batches = grain.MapDataset.source(_Images(files, size)).batch(batch_size)
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


class _Images:
    """Files by index, decoded; grain's random access source."""

    def __init__(self, files: Files, size: int):
        self._files = files
        self._size = size

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: Any) -> tuple[np.ndarray, np.int32]:
        from PIL import Image, ImageOps

        with Image.open(self._files.paths[int(index)]) as image:
            image.draft("RGB", (self._size, self._size))  # JPEGs decode at a fraction of their size
            whole = image.convert("RGB")
        side = (self._size, self._size)
        fitted = ImageOps.fit(whole, side, method=Image.Resampling.BILINEAR)
        return np.asarray(fitted), np.int32(self._files.labels[int(index)])


def _classes(path: pathlib.Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "."))
    if len(names) < 2:
        raise ValueError(
            f"dataset {path} must hold a folder of images for each of at least two classes; "
            f"got {', '.join(names) or 'none'}"
        )
    return names


def _files(path: pathlib.Path, classes: tuple[str, ...]) -> Files:
    paths: list[pathlib.Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (path / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"dataset {path}: class {name} has no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    return Files(tuple(paths), tuple(labels))


def _some(files: Files, index: np.ndarray) -> Files:
    return Files(*(tuple(column[i] for i in index) for column in files))
