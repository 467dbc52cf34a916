"""Command lines of studies: a frozen dataclass in, one clear sentence out when it cannot run."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from jaxact.experiments._store import StudyError

C = TypeVar("C")


def parse(
    config: type[C], presets: Mapping[str, Mapping[str, Any]], args: Sequence[str] | None = None
) -> C:
    """Reads a config from the command line, its defaults taken from the preset that is named.

    Args:
      config: a frozen dataclass with a field ``preset``; its docstrings are the help.
      presets: by name, the fields in which a preset differs from the dataclass's defaults.
      args: the arguments; those of the process by default.

    Returns:
      The config. Wrong arguments end the process with exit code 2.
    """
    args = sys.argv[1:] if args is None else list(args)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    preset = first.parse_known_args(args)[0].preset
    default = config()
    if preset in presets:
        default = dataclasses.replace(default, preset=preset, **presets[preset])  # pyright: ignore
    return tyro.cli(config, default=default, args=args)


def main(run: Callable[[], object]) -> int:
    """Runs a study and turns what cannot run into a sentence and exit code 2.

    Args:
      run: the study.

    Returns:
      The process's exit code: 0, 2 for a `StudyError`, or 130 when interrupted.
    """
    try:
        run()
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the finished cells", file=sys.stderr)
        return 130
    return 0
