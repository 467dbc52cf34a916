"""Data sets of labelled images that lie in memory and need no download."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jaxact.training._cifar import is_cifar, read_cifar


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


def load(name: str, /, *, test_share: float = 0.2, seed: int = 0) -> Dataset:
    """Loads a data set, and splits it if it is not split already.

    The split is stratified by class; images are standardized by one mean and one standard deviation
    over all training pixels, those of CIFAR by one of each for every channel.

    Args:
      name: ``"digits"`` (scikit-learn's 1,797 images of 8 x 8, shipped with it); the path of an
        ``.npz`` file with ``x`` (n, height, width[, channels]) and integer labels ``y`` (n,); or
        the path of CIFAR-10 or CIFAR-100 as their authors publish them, python or binary version,
        archive or unpacked folder. Their pickles are read without running code from them.
      test_share: the share of examples held out, between 0 and 1; CIFAR has its own test set.
      seed: of the split.

    Returns:
      A `Dataset` of NumPy arrays.

    Raises:
      ValueError: if the name is unknown, or the file's arrays do not fit.

    Example:
      >>> data = load("digits")
      >>> data.train_x.shape, data.test_x.shape, data.num_classes
      ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1; got {test_share}")
    if name == "digits":
        bunch = load_digits()
        x, y = bunch.images, bunch.target  # pyright: ignore[reportAttributeAccessIssue]
    elif name.endswith(".npz") and pathlib.Path(name).is_file():
        with np.load(name, allow_pickle=False) as file:
            if not {"x", "y"} <= set(file.files):
                raise ValueError(f"dataset {name} must hold arrays x and y; got {file.files}")
            x, y = file["x"], file["y"]
    elif is_cifar(pathlib.Path(name)):
        train, test = read_cifar(pathlib.Path(name))
        mean = train.x.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
        deviation = train.x.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
        if not np.all(deviation > 0):
            raise ValueError(f"dataset {name} has a channel that is the same in all images")
        return Dataset(
            (train.x - mean) / deviation,
            train.y,
            (test.x - mean) / deviation,
            test.y,
            int(train.y.max()) + 1,
        )
    else:
        raise ValueError(
            "dataset must be 'digits' or the path of an existing .npz file, or of a CIFAR archive "
            f"or folder; got {name!r}"
        )
    x = x.astype(np.float32)
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"dataset {name} must have x of shape (n, height, width[, channels]) and integer "
            f"labels y of shape (n,); got {x.shape} and {y.shape} of {y.dtype}"
        )
    if not np.all(np.isfinite(x)):
        raise ValueError(f"dataset {name} has images with NaN or infinity")
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
