"""A folder of images: its files by class, and each of them decoded."""

import operator
import pathlib
from typing import NamedTuple, SupportsIndex

import numpy as np
from sklearn.model_selection import train_test_split

from jaxact.training._images import fit_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


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


class FileSource:
    """Image files by index, decoded: `grain`'s protocol of a random access source.

    An item is an 8-bit RGB image (size, size, 3) and its label. The image's shorter side is scaled
    to ``size``, and the middle is cut out.

    Args:
      files: image files.
      size: pixels a side.
    """

    def __init__(self, files: Files, /, *, size: int):
        self._files = files
        self._size = size

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, np.int32]:
        """The image and the label at ``index``."""
        from PIL import Image

        number = operator.index(index)
        with Image.open(self._files.paths[number]) as image:
            image.draft("RGB", (self._size, self._size))  # JPEGs decode at a fraction of their size
            return fit_image(image, self._size), np.int32(self._files.labels[number])


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
