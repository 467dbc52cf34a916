"""A folder of images: its files by class."""

import pathlib
from typing import Any

import numpy as np

from jaxact.training._records import Images, RecordSource

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


def image_folder(
    path: pathlib.Path, /, *, size: int, test_share: float = 0.2, seed: int = 0
) -> Images:
    """A folder of images.

    Args:
      path: of a folder that holds either a folder for each class, or ``train`` and one of ``test``,
        ``val`` and ``validation``, each of which holds a folder for each class. Images may lie at
        any depth in their class's folder.
      size: pixels a side, as in `RecordSource`.
      test_share: the share of each class that is held out where the folder is not split.
      seed: of that split.

    Returns:
      The images, sorted by class and path; the records hold paths.

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
        train, test = _files(path / "train", classes), _files(held[0], classes)
        return _images(train, test, classes, size)
    classes = _classes(path)
    files = _files(path, classes)
    try:
        from sklearn.model_selection import train_test_split  # slow to import

        train, test = train_test_split(
            np.arange(len(files)),
            test_size=test_share,
            random_state=seed,
            stratify=[record["label"] for record in files],
        )
    except ValueError as error:
        raise ValueError(f"dataset {path} cannot be split: {error}") from error
    held_in, held_out = ([files[i] for i in np.sort(part)] for part in (train, test))
    return _images(held_in, held_out, classes, size)


def _images(train: Any, test: Any, classes: tuple[str, ...], size: int) -> Images:
    return Images(RecordSource(train, size=size), RecordSource(test, size=size), classes)


def _classes(path: pathlib.Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "."))
    if len(names) < 2:
        raise ValueError(
            f"dataset {path} must hold a folder of images for each of at least two classes; "
            f"got {', '.join(names) or 'none'}"
        )
    return names


def _files(path: pathlib.Path, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (path / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"dataset {path}: class {name} has no image ({', '.join(SUFFIXES)})")
        records += [{"image": file, "label": label} for file in found]
    return records
