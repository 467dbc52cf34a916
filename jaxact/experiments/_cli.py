"""Command lines of studies: a frozen dataclass in, one clear sentence out when it cannot run."""

import argparse
import dataclasses
import inspect
import math
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import tyro
from tqdm import tqdm

from jaxact.experiments._store import FULL, StudyError

C = TypeVar("C")

WIDTH = 100
"""Characters in a line for a terminal."""


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as it stands, as types are
class Must:
    """What the values of a config's field must be, in the field's ``Annotated`` type.

    Attributes:
      be: in words, after "must"; "be among WORDS" by default.
      holds: whether a value is so (or a ValueError whose sentence says why not); of a tuple each
        entry is asked.
      words: the words there are, which the help lists; read when they are asked for.
    """

    be: str
    holds: Callable[[Any], Any]
    words: Iterable[str] = ()


def at_least(least: int) -> Must:
    """Numbers from a least one on."""
    return Must(f"be at least {least}", lambda value: value >= least)


def among(words: Iterable[str]) -> Must:
    """One of some words, or several of them."""
    return Must("", lambda value: value in words, words)


def known(get: Callable[[Any], Any], words: Iterable[str] = ()) -> Must:
    """What a function of the library takes; its ValueError is the sentence."""
    return Must("", lambda value: get(value) is not None, words)


class Words:
    """The words that a function gives, asked anew each time."""

    def __init__(self, get: Callable[[], Iterable[str]]):
        self._get = get

    def __iter__(self) -> Iterator[str]:
        return iter(self._get())


POSITIVE = Must("be positive and finite", lambda value: 0 < value < math.inf)
INSIDE = Must("be between 0 and 1", lambda value: 0 < value < 1)
BELOW_ONE = Must("be from 0 to below 1", lambda value: 0 <= value < 1)


def validate(config: Any, /) -> None:
    """Refuses a config whose fields are not as their types say; fields that are None are not given.

    Args:
      config: a dataclass whose fields may have types ``Annotated[TYPE, Must(...), ...]``. A field
        that is a tuple then has no entry twice, and at least one where its default has one.

    Raises:
      StudyError: one sentence that names the field, its value and what is allowed.
    """
    for name, rules in _rules(type(config)).items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if value is None:
            continue
        if not values and getattr(type(config), name):
            raise StudyError(f"{name}: must name at least one; got none")
        for entry in values:
            for rule in rules:
                check(name, entry, rule)
        if len(set(values)) < len(values):
            raise StudyError(f"{name}: must not repeat; got {' '.join(map(str, values))}")


def _rules(config: type) -> dict[str, list[Must]]:
    hints = typing.get_type_hints(config, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    rules = {name: [r for r in each if isinstance(r, Must)] for name, each in found.items()}
    return {name: each for name, each in rules.items() if each}


def check(name: str, value: Any, rule: Must) -> None:
    """Refuses one value of a field."""
    try:
        holds = rule.holds(value)
    except ValueError as error:
        raise StudyError(f"{name}: {error}") from error
    if not holds:
        be = rule.be or f"be among {', '.join(rule.words)}"
        raise StudyError(f"{name}: must {be}; got {value!r}")


def description(config: type) -> str:
    """A config's docstring, and the words that its fields take."""
    lines = [
        f"{name}: {', '.join(map(str, rule.words))}"
        for name, rules in _rules(config).items()
        for rule in rules
        if list(rule.words)
    ]
    return "\n\n".join([inspect.cleandoc(config.__doc__ or ""), *lines])


def outcome_fields(config: Any, /, *others: str) -> dict[str, Any]:
    """The fields of a config that decide its results: all but ``others`` and how it is run."""
    hidden = {"preset", "out", "resume", "share", "distributed", *others}
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in hidden}


class Progress:
    """How far a study is: a bar on a terminal, one line for each cell where there is none."""

    def __init__(self, total: int, *, done: int = 0, unit: str = "cell", shown: bool = True):
        self.total, self.count, self.shown = total, done, shown
        self.bar = tqdm(total=total, initial=done, unit=unit, disable=None if shown else True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def done(self, name: str, count: int = 1) -> None:
        """Tells that something is finished."""
        self.count += count
        self.bar.set_description(name, refresh=False)
        self.bar.update(count)
        if self.bar.disable and self.shown:
            print(f"{name} ({self.count} of {self.total})", file=sys.stderr, flush=True)


def parse(
    config: type[C], presets: Mapping[str, Mapping[str, Any]], args: Sequence[str] | None = None
) -> C:
    """Reads a config from the command line, its defaults taken from the preset that is named.

    Args:
      config: a frozen dataclass; its docstrings are the help.
      presets: by value of its field ``preset``, if it has one, the fields in which a preset differs
        from the dataclass's defaults.
      args: the arguments; those of the process by default.

    Returns:
      The config. Wrong arguments end the process with exit code 2.
    """
    args = sys.argv[1:] if args is None else list(args)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    preset = first.parse_known_args(args)[0].preset
    changes = {"preset": preset, **presets[preset]} if preset in presets else {}
    default: Any = config(**changes) if presets else None
    return tyro.cli(config, default=default, args=args, description=description(config))


def as_text(frame: pd.DataFrame, *, digits: int, rows: int | None = None) -> str:
    """A frame for a terminal, at most `WIDTH` wide, its headers in two lines.

    Args:
      frame: of numbers, and of text that is cut in the middle where the lines were too long.
      digits: of numbers.
      rows: that are shown at most; those in the middle are left out.

    Returns:
      The lines.
    """
    frame = frame.copy()
    widths = {name: max(map(len, map(str, frame[name])), default=0) for name in _texts(frame)}

    def text() -> str:
        heads = [str(name).rpartition(" " if " " in str(name) else "_") for name in frame]
        shown = frame.set_axis(pd.MultiIndex.from_tuples([(a, b) for a, _, b in heads]), axis=1)
        return shown.to_string(
            index=False, sparsify=False, na_rep="-", max_rows=rows, float_format=f"%.{digits}g"
        )

    for name in sorted(widths, key=lambda name: -widths[name]):
        over = max(map(len, text().splitlines())) - WIDTH
        if over > 0:
            kept = max(widths[name] - over, 16)
            frame[name] = [_cut(str(value), kept) for value in frame[name]]
    return text()


def _texts(frame: pd.DataFrame) -> list[Any]:
    return [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)]


def _cut(text: str, width: int) -> str:
    head = (width - 1) // 3
    return text if len(text) <= width else f"{text[:head]}…{text[head + 1 - width :]}"


def paragraph(text: str, indent: str = "") -> str:
    """Text in lines of at most `WIDTH`, those after the first further in."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def command_line(run: Callable[[], int | None]) -> int:
    """Runs a study and turns what cannot run into a sentence and exit code 2.

    Args:
      run: the study; it may return an exit code.

    Returns:
      The process's exit code: 0 or the study's own, 2 for a `StudyError` and a full disk, 1 for a
      loss that is not finite, or 130 when interrupted.
    """
    try:
        return run() or 0
    except (StudyError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, StudyError) else 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: out: cannot write {error.filename} ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from what is finished", file=sys.stderr)
        return 130
