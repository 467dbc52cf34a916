"""A study's folder: its config, its finished cells, and files that are whole or absent."""

import errno
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import pandas as pd

import jaxact
from jaxact.io import write_whole


class StudyError(ValueError):
    """A config or a folder with which a study cannot run; the message is one sentence."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says where no file can be written any more."""


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file, whole or absent."""
    write_whole(path, json.dumps(value, indent=2, default=str).encode())


def write_table(path: pathlib.Path, frame: pd.DataFrame) -> None:
    """Writes a frame as parquet, whole or absent."""
    write_whole(path, frame.to_parquet(index=False, compression="zstd"))


def manifest() -> dict[str, Any]:
    """What a result depends on beside its config: versions, device and default dtype."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        # A source tree that is on the path but not installed has no metadata.
        "packages": {"jaxact": jaxact.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
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

    ``config.json`` and ``manifest.json`` lie in it, and ``cells/``, which holds a parquet file for
    each finished cell; nothing else tells what is finished.
    """

    def __init__(self, folder: pathlib.Path, facts: Mapping[str, Any] | None = None):
        self.folder = folder
        self.cells = folder / "cells"
        self.facts = manifest() if facts is None else facts

    @classmethod
    def open(
        cls,
        folder: str | pathlib.Path,
        config: Mapping[str, Any],
        *,
        resume: bool,
        changes: Collection[str] = (),
    ) -> "Run":
        """Starts a study in a new folder, or goes on in one that exists.

        Args:
          folder: where the study lies.
          config: what decides its results, as JSON values.
          resume: whether to go on where the folder holds a study already.
          changes: fields of the config that may differ from those it was started with.

        Returns:
          The run, with its config and manifest written. The manifest of a run that goes on names
          the commits before, and the values before of fields that have changed.

        Raises:
          StudyError: if the folder cannot be written, holds a study while ``resume`` is off, one
            with another config, or something else.
        """
        folder = pathlib.Path(folder)
        path, about = folder / "config.json", folder / "manifest.json"
        config = json.loads(json.dumps(config, default=str))
        facts = manifest()
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"out: must be a folder; {folder} is a file")
        if resume and not path.exists():
            print(f"no study in {folder} to go on with: a new one starts", file=sys.stderr)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = [p for p in folder.iterdir() if p.name != "cells" and p.suffix != ".tmp"]
            if path.exists() and not resume:
                raise StudyError(
                    f"out: {folder} holds a study; pass --resume to go on with it, or --out with "
                    "another folder"
                )
            old = _read_json(path) if path.exists() else {}
            if old:
                _same_config(folder, old, config, changes)
            elif others:
                raise StudyError(f"out: {folder} is not empty and holds no study to resume")
            for leftover in folder.rglob(".*.tmp"):
                # A younger one may be what another process of this study is writing.
                if time.time() - leftover.stat().st_mtime > 60:
                    leftover.unlink()
            if about.exists():
                before = _read_json(about)
                commits = dict.fromkeys([*before.get("earlier_commits", []), before.get("commit")])
                facts = {k: v for k, v in before.items() if k.startswith("earlier_")} | facts
                facts["earlier_commits"] = [c for c in commits if c != facts["commit"]]
                for name in changes:
                    values = dict.fromkeys([*facts.get(f"earlier_{name}", []), old[name]])
                    facts[f"earlier_{name}"] = [v for v in values if v != config[name]]
            write_json(about, facts)
            write_json(path, config)
        except OSError as error:
            raise StudyError(f"out: cannot write to {folder} ({error.strerror})") from error
        return cls(folder, facts)

    @classmethod
    def join(
        cls,
        folder: str | pathlib.Path,
        config: Mapping[str, Any],
        *,
        patience: float = 120,
        changes: Collection[str] = (),
    ) -> "Run":
        """Takes part in a study that another process starts.

        Args:
          folder: where the study lies, or soon will.
          config: what decides its results, as JSON values.
          patience: seconds to wait for the other process.
          changes: see `open`.

        Returns:
          The run.

        Raises:
          StudyError: if there is no study in time, or it has another config.
        """
        folder = pathlib.Path(folder)
        path = folder / "config.json"
        deadline = time.monotonic() + patience
        while not path.exists():
            if time.monotonic() > deadline:
                raise StudyError(f"out: no study was started in {folder} in {patience:g} seconds")
            time.sleep(0.1)
        _same_config(folder, _read_json(path), json.loads(json.dumps(config)), changes)
        return cls(folder)

    def finished(self, cell: str) -> bool:
        """Whether a cell's rows are stored."""
        return (self.cells / f"{cell}.parquet").exists()

    def store(self, cell: str, rows: pd.DataFrame) -> None:
        """Stores a finished cell.

        Raises:
          StudyError: if it cannot be written; what is stored already stays.
        """
        try:
            self.cells.mkdir(exist_ok=True)
            write_table(self.cells / f"{cell}.parquet", rows)
        except OSError as error:
            raise StudyError(f"out: cannot write {error.filename} ({error.strerror})") from error

    def set_aside_damaged(self, cells: Sequence[str]) -> list[str]:
        """Renames the files of stored cells that cannot be read, so that they are not finished.

        Returns:
          Their names; each file's name now ends in ``.corrupt``.
        """
        damaged = []
        for cell in filter(self.finished, cells):
            path = self.cells / f"{cell}.parquet"
            try:
                pd.read_parquet(path)
            except (OSError, ValueError):  # of which pyarrow's errors are kinds
                path.replace(path.with_name(f"{path.name}.corrupt"))
                damaged.append(cell)
        return damaged

    def table(self, cells: Sequence[str]) -> pd.DataFrame:
        """The rows of the given cells, in their order."""
        frames = [pd.read_parquet(self.cells / f"{cell}.parquet") for cell in cells]
        return pd.concat(frames, ignore_index=True)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object of names and values")
        return found
    except ValueError as error:
        raise StudyError(
            f"out: {path} is damaged ({error}); --out with another folder starts anew"
        ) from error


def _same_config(
    folder: pathlib.Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    changes: Collection[str],
) -> None:
    for name in {**new, **old}:
        if name not in changes and old.get(name) != new.get(name):
            raise StudyError(
                f"{name}: the study in {folder} was started with {old.get(name)} and cannot be "
                f"resumed with {new.get(name)}"
            )
