"""Images and labels in records: Hugging Face `datasets`, tfds, or any sequence of mappings."""

import io
import operator
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np

from jaxact.training._images import ImageSource, fit_image


@runtime_checkable
class Records(Protocol):
    """Mappings from column to value, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """One record."""
        ...


class RecordSource:
    """Records by index, decoded: `grain`'s protocol of a random access source.

    An item is an 8-bit RGB image (size, size, 3) and its label. The image's shorter side is scaled
    to ``size``, and the middle is cut out.

    Args:
      records: mappings from column to value by index, such as a ``datasets.Dataset``, what
        ``tfds.data_source`` gives, or a list; another iterable is read whole, once, and kept.
      size: pixels a side.
      image_column: of images: Pillow's, arrays of uint8 (height, width) or
        (height, width, 1 or 3), or encoded files as paths, as bytes or as ``{"bytes": ...}``.
      label_column: of classes, integers from 0.

    Raises:
      ValueError: if there is no record, or the first has no such column; of an item, if its image
        or its label is none of these.

    Example:
      >>> records = [{"image": np.zeros((8, 6), np.uint8), "label": 3}]
      >>> image, label = RecordSource(records, size=4)[0]
      >>> image.shape, int(label)
      ((4, 4, 3), 3)
    """

    def __init__(
        self,
        records: Records | Iterable[Mapping[str, Any]],
        /,
        *,
        size: int,
        image_column: str = "image",
        label_column: str = "label",
    ):
        self.records = records if isinstance(records, Records) else list(records)
        self._size = size
        self._image = image_column
        self._label = label_column
        if not len(self.records):
            raise ValueError("records must hold at least one; got none")
        columns = list(self.records[0])
        for name, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in columns:
                raise ValueError(f"{name} must be one of {', '.join(columns)}; got {column!r}")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, np.int32]:
        """The image and the label at ``index``."""
        number = operator.index(index)
        record = self.records[number]
        label = operator.index(record[self._label])
        if label < 0:
            raise ValueError(f"record {number} must have a label of at least 0; got {label}")
        image = _opened(record[self._image], number, self._size)
        return fit_image(image, self._size), np.int32(label)


class Images(NamedTuple):
    """Images that are decoded when asked for, split.

    Attributes:
      train: training images.
      test: test images.
      classes: names of the classes, in the order of their labels.
    """

    train: ImageSource
    test: ImageSource
    classes: tuple[str, ...]


def hub_dataset(
    name: str,
    /,
    *,
    size: int,
    label_column: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> Images:
    """A labelled image data set through Hugging Face's `datasets`.

    It has the split ``train``; the test images are those of ``validation``, else of ``test`` (which
    some publish without labels), else a stratified share of ``train``. The images are those of its
    first column of type Image.

    Args:
      name: as ``datasets.load_dataset`` takes it, ``"uoft-cs/cifar10"`` or the path of a folder,
        with ``":CONFIGURATION"`` after it if it has several; or the path of a folder that
        ``save_to_disk`` wrote.
      size: pixels a side, as in `RecordSource`.
      label_column: of type ClassLabel; the only such column if None.
      test_share: the share of each class that is held out where the data is not split.
      seed: of that split.

    Raises:
      ModuleNotFoundError: if `datasets` is not installed.
      ValueError: if it cannot be loaded, or has no such splits and columns.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1; got {test_share}")
    import datasets

    splits: dict[str, Any] = _load(name)
    if "train" not in splits:
        raise ValueError(f"dataset {name} must have a split train; got {', '.join(splits)}")
    train = splits["train"]
    kinds = train.features
    images = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        found = ", ".join(f"{column} of {type(kind).__name__}" for column, kind in kinds.items())
        raise ValueError(f"dataset {name} must have columns of Image and ClassLabel; got {found}")
    chosen = labels if label_column is None else [c for c in labels if c == label_column]
    if len(chosen) != 1:
        raise ValueError(f"label_column must be one of {', '.join(labels)}; got {label_column!r}")
    (label,) = chosen
    held = next((splits[split] for split in ("validation", "test") if split in splits), None)
    if held is None:
        parts = train.train_test_split(test_share, seed=seed, stratify_by_column=label)
        train, held = parts["train"], parts["test"]
    columns = {"image_column": images[0], "label_column": label}
    train, held = (RecordSource(split, size=size, **columns) for split in (train, held))
    return Images(train, held, tuple(kinds[label].names))


def _load(name: str) -> dict[str, Any]:
    import datasets

    try:
        if any((pathlib.Path(name) / f).is_file() for f in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(name)
        else:
            path, _, configuration = name.partition(":")
            found = datasets.load_dataset(path, configuration or None)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"dataset {name} cannot be loaded: {reason}") from error
    if isinstance(found, datasets.Dataset):
        return {"train": found}
    return {str(split): rows for split, rows in found.items()}


def _opened(image: Any, number: int, size: int) -> Any:
    """A column's value as a Pillow image."""
    from PIL import Image

    if isinstance(image, pathlib.Path):
        image = Image.open(image)
        image.draft("RGB", (size, size))  # JPEGs decode at a fraction of their size
    if isinstance(image, Mapping):
        image = image.get("bytes")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3):
            return Image.fromarray(image)
        if image.ndim == 3 and image.shape[-1] == 1:
            return Image.fromarray(image[..., 0])
    raise ValueError(
        f"record {number} must have a Pillow image, its path or bytes, or an array of uint8 "
        f"(h, w), (h, w, 1) or (h, w, 3); got {_told(image)}"
    )


def _told(image: Any) -> str:
    if isinstance(image, np.ndarray):
        return f"{image.dtype} of shape {image.shape}"
    return f"a {type(image).__name__}"
