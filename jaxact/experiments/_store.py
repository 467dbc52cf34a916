"""A study's folder: its config, its finished cells, and files that are whole or absent."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import pandas as pd

from jaxact.io import write_whole


class StudyError(ValueError):
    """A config or a folder with which a study cannot run; the message is one sentence."""


def to_parquet(frame: pd.DataFrame) -> bytes:
    """A frame as the bytes of a parquet file."""
    return frame.to_parquet(index=False, compression="zstd")


def manifest() -> dict[str, Any]:
    """What a result depends on beside its config: versions, device and default dtype."""
    device = jax.devices()[0]
    packages = ("jaxact", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "dtype": "float32",
    }


def _commit() -> str | None:
    """The revision of the checkout that the package lies in; None where it lies in none."""
    git = ("git", "-C", str(pathlib.Path(__file__).parent))

    def ask(*command: str) -> str | None:
        try:
            found = subprocess.run(
                (*git, *command), capture_output=True, check=False, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return found.stdout.strip() or None

    # An installed package may lie within the checkout of something else.
    if ask("ls-files", pathlib.Path(__file__).name) is None:
        return None
    return ask("describe", "--always", "--dirty", "--abbrev=12")


class Run:
    """The folder of one study.

    ``config.json`` and ``manifest.json`` lie beside ``cells/``, which holds a parquet file for each
    finished cell; nothing else tells what is finished.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.cells = folder / "cells"

    @classmethod
    def open(cls, folder: str | pathlib.Path, config: Mapping[str, Any], *, resume: bool) -> "Run":
        """Starts a study in a new folder, or goes on in one that exists.

        Args:
          folder: where the study lies.
          config: what decides its results, as JSON values.
          resume: whether to go on where the folder holds a study already.

        Returns:
          The run, with its config written.

        Raises:
          StudyError: if the folder cannot be written, holds anything while ``resume`` is off, or
            holds a study with another config.
        """
        run = cls(pathlib.Path(folder))
        path = run.folder / "config.json"
        config = json.loads(json.dumps(config))
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            if any(run.folder.iterdir()):
                if not resume:
                    raise StudyError(
                        f"out: {folder} is not empty; pass --resume to go on with the study in it, "
                        "or --out with another folder"
                    )
                if path.exists():
                    _same_config(folder, json.loads(path.read_text()), config)
                elif any(p.name != "cells" and p.suffix != ".tmp" for p in run.folder.iterdir()):
                    raise StudyError(f"out: {folder} is not empty and holds no study to resume")
            run.cells.mkdir(exist_ok=True)
            for leftover in run.folder.rglob(".*.tmp"):
                # A younger one may be what another process of this study is writing.
                if time.time() - leftover.stat().st_mtime > 60:
                    leftover.unlink()
            write_whole(path, json.dumps(config, indent=2).encode())
        except OSError as error:
            raise StudyError(f"out: cannot write to {folder} ({error.strerror})") from error
        return run

    @classmethod
    def join(
        cls, folder: str | pathlib.Path, config: Mapping[str, Any], *, patience: float = 120
    ) -> "Run":
        """Takes part in a study that another process starts.

        Args:
          folder: where the study lies, or soon will.
          config: what decides its results, as JSON values.
          patience: seconds to wait for the other process.

        Returns:
          The run.

        Raises:
          StudyError: if there is no study in time, or it has another config.
        """
        run = cls(pathlib.Path(folder))
        path = run.folder / "config.json"
        deadline = time.monotonic() + patience
        while not path.exists():
            if time.monotonic() > deadline:
                raise StudyError(f"out: no study was started in {folder} in {patience:g} seconds")
            time.sleep(0.1)
        _same_config(folder, json.loads(path.read_text()), json.loads(json.dumps(config)))
        return run

    def finished(self, cell: str) -> bool:
        """Whether a cell's rows are stored."""
        return (self.cells / f"{cell}.parquet").exists()

    def store(self, cell: str, rows: pd.DataFrame) -> None:
        """Stores a finished cell."""
        write_whole(self.cells / f"{cell}.parquet", to_parquet(rows))

    def table(self, cells: Sequence[str]) -> pd.DataFrame:
        """The rows of the given cells, in their order."""
        frames = [pd.read_parquet(self.cells / f"{cell}.parquet") for cell in cells]
        return pd.concat(frames, ignore_index=True)


def _same_config(
    folder: str | pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    for name in new:
        if old.get(name) != new[name]:
            raise StudyError(
                f"{name}: the study in {folder} was started with {old.get(name)} and cannot be "
                f"resumed with {new[name]}"
            )
