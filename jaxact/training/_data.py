"""Data sets of labelled images: by name, from arrays, or from files."""

import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxact.training._cifar import is_cifar, read_cifar
from jaxact.training._folder import image_folder
from jaxact.training._records import Images, hub_dataset

HUB = "hf:"


class Dataset(NamedTuple):
    """Images and labels, split into training and test examples.

    Attributes:
      train_x: (n, height, width, channels), float32, standardized.
      train_y: (n,), int32, from 0 to ``num_classes - 1``.
      test_x: as ``train_x``, standardized by the training images' mean and deviation.
      test_y: as ``train_y``.
      num_classes: the number of classes.
    """

    train_x: Float[np.ndarray, "n h w c"]
    train_y: Int[np.ndarray, " n"]
    test_x: Float[np.ndarray, "m h w c"]
    test_y: Int[np.ndarray, " m"]
    num_classes: int


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import

    bunch: Any = load_digits()
    return bunch.images, bunch.target


DATASETS: dict[str, Callable[[], Any]] = {"digits": _digits}
"""Data sets by name: a function that gives images and labels, as `load` takes them from arrays. An
entry more, and every study and command line knows the name."""


def load(
    source: str | Dataset | Iterable[Any],
    /,
    *,
    test_share: float = 0.2,
    seed: int = 0,
    size: int = 224,
    label_column: str | None = None,
) -> Dataset | Images:
    """Finds a data set, and splits it if it is not split already.

    The split is stratified by class; images in memory are standardized by one mean and one standard
    deviation over all training pixels, those of CIFAR by one of each for every channel.

    Args:
      source: one of

        * a name in `DATASETS`: ``"digits"`` (scikit-learn's 1,797 images of 8 x 8, shipped with it)
          or one that was added;
        * arrays: a pair of ``x`` (n, height, width[, channels]) and integer labels ``y`` (n,), any
          iterable of such pairs, which are joined, or a `Dataset`, which is given back;
        * the path of an ``.npz`` file with ``x`` and ``y``;
        * the path of CIFAR-10 or CIFAR-100 as their authors publish them, python or binary version,
          archive or unpacked folder; their pickles are read without running code from them;
        * the path of a folder of images, as `image_folder` takes it;
        * ``"hf:NAME[:CONFIGURATION]"`` of Hugging Face, as `hub_dataset` takes it.
      test_share: the share of examples held out, between 0 and 1, where there is no test set.
      seed: of the split.
      size: pixels a side to which images of a folder or of Hugging Face are scaled and cut.
      label_column: see `hub_dataset`.

    Returns:
      A `Dataset` of NumPy arrays; of a folder or of Hugging Face `Images`, decoded when asked for.

    Raises:
      ValueError: if there is no such data set, or its arrays do not fit.
      ModuleNotFoundError: if what decodes the images is not installed.

    Example:
      >>> data = load("digits")
      >>> data.train_x.shape, data.test_x.shape, data.num_classes
      ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1; got {test_share}")
    split: dict[str, Any] = {"test_share": test_share, "seed": seed}
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str):
        return _split("of arrays", *_joined(source), **split)
    if source in DATASETS:
        return _split(source, *_joined(DATASETS[source]()), **split)
    if source.startswith(HUB):
        name = source.removeprefix(HUB)
        return hub_dataset(name, size=size, label_column=label_column, **split)
    path = pathlib.Path(source)
    if path.suffix == ".npz" and path.is_file():
        return _split(source, *_of_npz(path), **split)
    if is_cifar(path):
        return _cifar(path)
    if path.is_dir():
        return image_folder(path, size=size, **split)
    raise ValueError(
        f"dataset must be {', '.join(map(repr, DATASETS))} or the path of an existing .npz file, "
        f"of a CIFAR archive, or of a folder of images, or {HUB}NAME; got {source!r}"
    )


def _of_npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not {"x", "y"} <= set(file.files):
                raise ValueError(f"dataset {path} must hold arrays x and y; got {file.files}")
            return file["x"], file["y"]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"dataset {path} must be a whole .npz file; {error}") from error


def _joined(source: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a pair of arrays, or of an iterable of such pairs."""
    parts = list(source)
    pairs = [tuple(parts)] if len(parts) == 2 and hasattr(parts[0], "ndim") else parts
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError("dataset must be a pair of arrays x and y, or an iterable of such pairs")
    x, y = (
        np.concatenate([np.asarray(array) for array in some]) for some in zip(*pairs, strict=True)
    )
    return x, y


def _cifar(path: pathlib.Path) -> Dataset:
    train, test = read_cifar(path)
    mean = train.x.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    deviation = train.x.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    if not np.all(deviation > 0):
        raise ValueError(f"dataset {path} has a channel that is the same in all images")
    x, test_x = ((some.x - mean) / deviation for some in (train, test))
    return Dataset(x, train.y, test_x, test.y, int(train.y.max()) + 1)


def _split(name: str, x: np.ndarray, y: np.ndarray, *, test_share: float, seed: int) -> Dataset:
    x = x.astype(np.float32)
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"dataset {name} must have x of shape (n, height, width[, channels]) and integer "
            f"labels y of shape (n,); got {x.shape} and {y.shape} of {y.dtype}"
        )
    if not np.all(np.isfinite(x)):
        raise ValueError(f"dataset {name} has images with NaN or infinity")
    from sklearn.model_selection import train_test_split  # slow to import

    classes, labels = np.unique(y, return_inverse=True)
    train_x, test_x, train_y, test_y = map(
        np.asarray,
        train_test_split(
            x, labels.astype(np.int32), test_size=test_share, random_state=seed, stratify=labels
        ),
    )
    mean, deviation = train_x.mean(), train_x.std()
    if deviation == 0:
        raise ValueError(f"dataset {name} has images that are all alike")
    return Dataset(
        (train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y, len(classes)
    )
