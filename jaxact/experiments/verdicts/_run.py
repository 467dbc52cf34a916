# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportReturnType=false
"""Runs studies: cells to tables, tables to verdicts, verdicts to a page."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import pandas as pd
from tqdm import tqdm

from jaxact.experiments import _cli
from jaxact.experiments._store import Run, StudyError, manifest, to_parquet
from jaxact.experiments.verdicts import _page, studies
from jaxact.experiments.verdicts._protocol import Batch, Study
from jaxact.experiments.verdicts._statistics import (
    ALPHA,
    Outcome,
    Test,
    Verdict,
    decide,
    verdict,
)
from jaxact.io import write_whole


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What the literature claims of activations, skips, norms and rank, with a verdict for each."""

    preset: Literal["quick", "default", "paper"] = "default"
    """Budget: quick (2 cores, minutes), default (2 cores, about an hour), paper (an
    accelerator)."""
    claims: tuple[int, ...] = ()
    """Numbers of the claims to study; all by default. The correction for several tests is over
    those that are run."""
    alpha: float = ALPHA
    """Probability of any wrong decision in the run, at most."""
    out: pathlib.Path = pathlib.Path("runs/verdicts")
    """Folder of the results; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on with a run that was stopped, without redoing its finished cells."""
    docs: pathlib.Path | None = None
    """Folder of documentation to write the page into as well: verdicts.md, and its figures in
    images/verdicts/."""


TIMES = ("seconds", "processor_seconds")

PRESETS: dict[str, dict[str, Any]] = {"quick": {}, "default": {}, "paper": {}}


class Result(NamedTuple):
    """A study with its data and what they say.

    Attributes:
      study: the study.
      table: its rows, those of the studies that it uses included.
      outcomes: of its predictions.
      verdict: on its claim.
      seconds: that its cells took to measure, in the runs that measured them.
      processor_seconds: the same, of the host's processors.
    """

    study: Study
    table: pd.DataFrame
    outcomes: list[Outcome]
    verdict: Verdict
    seconds: float
    processor_seconds: float


def run(config: Verdicts, /, *, extra: Sequence[Study] = ()) -> list[Result]:
    """Runs studies, or what is left of them, and writes their folder.

    Args:
      config: what to run.
      extra: studies beside those of `studies.STUDIES`; their numbers may be named in ``claims``.

    Returns:
      The results in the order of the claims. The folder holds ``config.json`` (the protocol, which
      is fixed before anything is measured), ``manifest.json``, ``cells/``, ``tables/``,
      ``verdicts.parquet``, ``figures/``, ``report.html`` and ``verdicts.md``.

    Raises:
      StudyError: if the config or the folder does not serve, before anything is compiled.
    """
    chosen = choose(config, extra)
    names = {study.name for study in chosen}
    needed = [*_used(chosen, [*studies.STUDIES, *extra]), *chosen]
    protocol = {
        "preset": config.preset,
        "alpha": config.alpha,
        "studies": {study.name: study.protocol(config.preset) for study in needed},
    }
    folder = Run.open(config.out, protocol, resume=config.resume)
    facts = _manifest(folder.folder / "manifest.json")
    tables: dict[str, pd.DataFrame] = {}
    total = sum(len(study.cells(config.preset)) for study in needed)
    with tqdm(total=total, unit="cell") as bar:
        for study in needed:
            own = _measure(study, config.preset, folder, bar)
            tables[study.name] = pd.concat(
                [own, *(tables[name] for name in study.uses)], ignore_index=True
            )
            # Compiled programs are not used again, and a long run holds many.
            jax.clear_caches()
    chosen = [study for study in needed if study.name in names]
    results = conclude(chosen, tables, preset=config.preset, alpha=config.alpha)
    _write(folder.folder, config, results, facts)
    return results


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    """The manifest, written to its file; of a run that goes on it names the commits before."""
    facts = manifest()
    if path.exists():
        before = json.loads(path.read_text())
        commits = [*before.get("earlier_commits", []), before["commit"]]
        facts["earlier_commits"] = [
            commit for commit in dict.fromkeys(commits) if commit != facts["commit"]
        ]
    write_whole(path, json.dumps(facts, indent=2).encode())
    return facts


def choose(config: Verdicts, extra: Sequence[Study] = ()) -> list[Study]:
    """The studies that a config names, each after those that it uses.

    Raises:
      StudyError: if a claim is unknown or named twice, or ``alpha`` is out of its range.
    """
    if not 0 < config.alpha < 1:
        raise StudyError(f"alpha: must be between 0 and 1; got {config.alpha}")
    known = {study.number: study for study in (*studies.STUDIES, *extra)}
    numbers = config.claims or tuple(known)
    if len(set(numbers)) < len(numbers):
        raise StudyError(f"claims: must not repeat; got {' '.join(map(str, numbers))}")
    for number in numbers:
        if number not in known:
            raise StudyError(
                f"claims: must be among {', '.join(map(str, sorted(known)))}; got {number}"
            )
    found = [known[number] for number in sorted(numbers)]
    for study in found:
        study.budget(config.preset)
    return sorted(found, key=lambda study: bool(study.uses))


def _used(chosen: Sequence[Study], known: Sequence[Study]) -> list[Study]:
    """The studies whose tables are needed though they were not chosen."""
    have = {study.name for study in chosen}
    wanted = {name for study in chosen for name in study.uses} - have
    return [study for study in known if study.name in wanted]


def _measure(study: Study, preset: str, folder: Run, bar: Any) -> pd.DataFrame:
    """Measures the cells of a study that are not stored, and gives the rows of all."""
    budget = study.budget(preset)
    cells = study.cells(preset)
    left = [cell for cell in cells if not folder.finished(study.cell_name(cell))]
    bar.update(len(cells) - len(left))
    for batch in study.batches(left):
        bar.set_description(study.cell_name(batch[0]))
        clocks = (time.monotonic, time.process_time)
        start = [clock() for clock in clocks]
        frames = study.measure(Batch(batch, tuple(range(budget.seeds)), budget.settings))
        spent = [(clock() - begun) / len(batch) for clock, begun in zip(clocks, start, strict=True)]
        times = pd.DataFrame({"quantity": TIMES, "value": spent, "seed": -1})
        for cell, rows in zip(batch, frames, strict=True):
            labels = {factor: value for factor, value in cell.items() if factor not in rows}
            rows = pd.concat([rows, times], ignore_index=True).assign(study=study.name, **labels)
            folder.store(study.cell_name(cell), rows)
            bar.update()
    return folder.table([study.cell_name(cell) for cell in cells])


def conclude(
    chosen: Sequence[Study],
    tables: Mapping[str, pd.DataFrame],
    /,
    *,
    preset: str,
    alpha: float = ALPHA,
) -> list[Result]:
    """From tables to verdicts, all predictions corrected together.

    Args:
      chosen: the studies.
      tables: by name of the study.
      preset: the budget's name.
      alpha: the probability of any wrong decision, at most.

    Returns:
      A result for each study, in the order of the claims.
    """
    chosen = sorted(chosen, key=lambda study: study.number)
    data = {study.name: tables[study.name] for study in chosen}
    spent = {
        name: [
            float(table[(table.quantity == time) & (table.study == name)].value.sum())
            for time in TIMES
        ]
        for name, table in data.items()
    }
    data = {
        name: table[~table.quantity.isin(TIMES)].reset_index(drop=True)
        for name, table in data.items()
    }
    tests = [
        Test(
            prediction.effect(data[study.name]), prediction.bound, prediction.side, prediction.exact
        )
        for study in chosen
        for prediction in study.predictions
    ]
    outcomes = iter(decide(tests, alpha=alpha))
    results = []
    for study in chosen:
        own = [next(outcomes) for _ in study.predictions]
        names = [prediction.name for prediction in study.predictions]
        word = verdict(names, own, depends=study.depends, budget=preset)
        results.append(Result(study, data[study.name], own, word, *spent[study.name]))
    return results


def summary(results: Sequence[Result]) -> pd.DataFrame:
    """The outcome of every prediction, a row each.

    Args:
      results: of a run.

    Returns:
      A frame with the columns claim, study, prediction, verdict, effect, low, high, level, p,
      seeds, bound, side and unit.
    """
    rows = [
        {
            "claim": study.number,
            "study": study.name,
            "prediction": prediction.name,
            **outcome._asdict(),
            "bound": prediction.bound,
            "side": prediction.side,
            "unit": prediction.unit,
            "verdict": word.word,
        }
        for study, _, outcomes, word, *_ in results
        for prediction, outcome in zip(study.predictions, outcomes, strict=True)
    ]
    return pd.DataFrame(rows)


def _write(
    folder: pathlib.Path, config: Verdicts, results: Sequence[Result], facts: Mapping[str, Any]
) -> None:
    for name in ("tables", "figures"):
        (folder / name).mkdir(exist_ok=True)
    for result in results:
        write_whole(folder / "tables" / f"{result.study.name}.parquet", to_parquet(result.table))
    write_whole(folder / "verdicts.parquet", to_parquet(summary(results)))
    blocks = _page.page(results, preset=config.preset, alpha=config.alpha, facts=facts)
    for figure in _page.figures(blocks):
        write_whole(folder / "figures" / f"{figure.name}.svg", figure.svg)
        write_whole(folder / "figures" / f"{figure.name}.png", figure.png)
    write_whole(folder / "verdicts.md", _page.markdown(blocks, "figures").encode())
    write_whole(folder / "report.html", _page.html(blocks).encode())
    if config.docs is not None:
        images = config.docs / "images" / "verdicts"
        images.mkdir(parents=True, exist_ok=True)
        for figure in _page.figures(blocks):
            write_whole(images / f"{figure.name}.svg", figure.svg)
        page = _page.markdown(blocks, "images/verdicts").encode()
        write_whole(config.docs / "verdicts.md", page)


def main() -> int:
    """The command line of ``scripts/verdicts.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(Verdicts, PRESETS)

    def study() -> None:
        start = time.monotonic()
        for result in run(config):
            print(f"{result.study.number:2d}. {result.study.claim}\n    {result.verdict.sentence}")
        print(f"\n{config.out / 'report.html'} ({time.monotonic() - start:.0f} s)")

    return _cli.main(study)
