"""The runner of grids: every study's cells, measured once, stored, resumed and shared."""

import concurrent.futures
import dataclasses
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import pandas as pd

from jaxact.experiments._cli import Progress
from jaxact.experiments._store import FULL, Run, StudyError

Cell = Mapping[str, Any]
"""One point of a study's grid: a value for each factor."""


class FailedCellsError(StudyError):
    """Some cells of a grid could not be measured."""


class Spent(NamedTuple):
    """What a cell took: seconds by the clock, and of the host's processors."""

    seconds: float
    processor_seconds: float


def _as_measured(cell: Cell, rows: pd.DataFrame, spent: Spent) -> pd.DataFrame:
    return rows


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells, and how they are measured.

    Attributes:
      cells: in the order of the table.
      together: the factors in which the cells of a group agree; a group is prepared as one.
      name: of a cell's file, without suffix.
      measure: from a group's cells and what ``prepare`` gave to the rows of each, in order.
      prepare: what may be done beside the measuring of the group before, such as compiling.
      finish: what is stored, from a cell, its rows, and what they took.
    """

    cells: Sequence[Cell]
    together: Sequence[str]
    name: Callable[[Cell], str]
    measure: Callable[[tuple[Cell, ...], Any], Iterable[pd.DataFrame]]
    prepare: Callable[[tuple[Cell, ...]], Any] = lambda cells: None
    finish: Callable[[Cell, pd.DataFrame, Spent], pd.DataFrame] = _as_measured

    def __post_init__(self):
        if not self.cells:
            raise ValueError("cells must be at least one; got none")
        twice = [name for name in set(self.names) if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"name must tell cells apart; {min(twice)!r} is of several")

    @property
    def names(self) -> list[str]:
        """The cells' names, in their order."""
        return [self.name(cell) for cell in self.cells]


def product(factors: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """The cells of a grid: every choice of a value for each factor, the last varying fastest."""
    values = itertools.product(*factors.values())
    return [dict(zip(factors, chosen, strict=True)) for chosen in values]


def groups(cells: Iterable[Cell], together: Sequence[str]) -> list[tuple[Cell, ...]]:
    """Cells in groups that agree in some factors, in the order of their first cells."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple(str(cell[factor]) for factor in together), []).append(cell)
    return [tuple(group) for group in found.values()]


def shares(share: tuple[int, int] | None) -> tuple[int, int]:
    """Which of how many processes this one is: as told, or as `jax.distributed` has it.

    Raises:
      StudyError: if it is none of them.
    """
    if share is None:
        return jax.process_index(), jax.process_count()
    if not 0 <= share[0] < share[1]:
        raise StudyError(f"share: must be I N with 0 <= I < N; got {share}")
    return share


def open_run(
    out: Any,
    config: Mapping[str, Any],
    *,
    resume: bool,
    share: tuple[int, int] | None,
    changes: Collection[str] = (),
) -> Run:
    """The study's folder, opened by the first process and joined by the others."""
    if shares(share)[0] == 0:
        return Run.open(out, config, resume=resume, changes=changes)
    return Run.join(out, config, changes=changes)


def run_grid(grid: Grid, run: Run, bar: Progress, *, share: tuple[int, int] | None = None) -> bool:
    """Measures the cells of a grid that are not stored, or this process's share of them.

    The next group is prepared, in another thread, while the cells of one are measured.

    Args:
      grid: what to measure.
      run: where cells are stored.
      bar: how far it is.
      share: (index, count) of the processes that share the grid; those of `jax.distributed`, which
        wait for each other, by default.

    Returns:
      Whether every cell is stored.

    Raises:
      FailedCellsError: at the end, if cells could not be measured; all others are stored.
      StudyError, FloatingPointError: of a cell, at once; so is OSError where the disk is full.
    """
    index, count = shares(share)
    own = [cell for group in groups(grid.cells, grid.together)[index::count] for cell in group]
    for name in run.set_aside_damaged([grid.name(cell) for cell in own]):
        print(f"cell {name} is damaged: set aside as .corrupt, measured again", file=sys.stderr)
    left = [cell for cell in own if not run.finished(grid.name(cell))]
    bar.count += len(own) - len(left)
    bar.bar.update(len(own) - len(left))
    last = time.monotonic(), time.process_time()

    def store(cell: Cell, rows: pd.DataFrame) -> None:
        nonlocal last
        now = time.monotonic(), time.process_time()
        spent, last = Spent(now[0] - last[0], now[1] - last[1]), now
        run.store(grid.name(cell), grid.finish(cell, rows, spent))
        bar.done(grid.name(cell))

    failed: dict[str, Exception] = {}
    for group, prepared in _prepared(groups(left, grid.together), grid.prepare):
        for cell, error in _measured(grid, group, prepared, store):
            if error not in failed.values():
                traceback.print_exception(error)
            failed[grid.name(cell)] = error
    if failed:
        name, error = next(iter(failed.items()))
        raise FailedCellsError(
            f"{len(failed)} of {len(grid.cells)} cells could not be measured, {name} first "
            f"({type(error).__name__}: {error}); --resume tries them again"
        ) from error

    def whole() -> bool:
        return all(run.finished(name) for name in grid.names)

    while share is None and count > 1 and not whole():
        time.sleep(0.5)  # A process that leaves early would end the others.
    return whole()


def _measured(
    grid: Grid,
    group: tuple[Cell, ...],
    prepared: concurrent.futures.Future[Any],
    store: Callable[[Cell, pd.DataFrame], None],
) -> Iterator[tuple[Cell, Exception]]:
    """Measures and stores a group, and gives the cells that fail: they cost no other cell."""
    while group:
        done, begun = 0, False
        try:
            found = grid.measure(group, prepared.result())
            begun = True
            for cell, rows in zip(group, found, strict=True):
                store(cell, rows)
                done += 1
            return
        except (StudyError, FloatingPointError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            # Before the first rows it is the group that fails, afterwards one cell of it.
            bad = group[min(done, len(group) - 1) :][: 1 if begun else None]
            yield from ((cell, error) for cell in bad)
            group = group[done + len(bad) :]


def _prepared(
    groups: Sequence[tuple[Cell, ...]], prepare: Callable[[tuple[Cell, ...]], Any]
) -> Iterator[tuple[tuple[Cell, ...], concurrent.futures.Future[Any]]]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        waiting = [thread.submit(prepare, group) for group in groups[:1]]
        for group, following in itertools.zip_longest(groups, groups[1:]):
            prepared = waiting.pop()
            concurrent.futures.wait([prepared])
            if following is not None:
                waiting.append(thread.submit(prepare, following))
            yield group, prepared
