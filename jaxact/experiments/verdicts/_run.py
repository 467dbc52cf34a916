"""Runs studies: cells to tables, tables to verdicts, verdicts to a page."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import pandas as pd

from jaxact import analysis
from jaxact.experiments import _cli, _grid
from jaxact.experiments._cli import INSIDE, Must, Words, known
from jaxact.experiments._grid import Spent
from jaxact.experiments._networks import DataSet, load_arrays
from jaxact.experiments._plots import where
from jaxact.experiments._report import markdown, write_report
from jaxact.experiments._store import StudyError, manifest, write_table
from jaxact.experiments.verdicts import _page, _published, studies
from jaxact.experiments.verdicts._protocol import Study
from jaxact.experiments.verdicts._statistics import ALPHA, Outcome, Test, Verdict, decide, verdict
from jaxact.io import write_whole

OF_VIEW = known(analysis.resolve, Words(analysis.names_of_view))
CLAIMS = Must(
    "", lambda number: True, Words(lambda: [f"{s.number} {s.name}" for s in studies.STUDIES])
)


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What the literature claims of activations, skips, norms and rank, with a verdict for each."""

    preset: Literal["quick", "default", "paper"] = "default"
    """Budget: quick (2 cores, minutes), default (2 cores, about an hour), paper (an
    accelerator)."""
    claims: Annotated[tuple[int, ...], CLAIMS] = ()
    """Numbers of the claims to study; all that the preset has a budget for by default. The
    correction for several tests is over those that are run."""
    alpha: Annotated[float, INSIDE] = ALPHA
    """Probability of any wrong decision in the run, at most."""
    dataset: DataSet = "digits"
    """What networks are trained on: a name in jaxact.training.DATASETS, or the path of an .npz file
    or of a CIFAR archive."""
    measures: Annotated[tuple[str, ...], OF_VIEW] = ()
    """Names in jaxact.analysis.MEASURES that are taken of every network that is trained, beside
    those that the claims need; one of a spectrum as OBJECT/NAME. They are in tables/."""
    out: pathlib.Path = pathlib.Path("runs/verdicts")
    """Folder of the results; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on with a run that was stopped, without redoing its finished cells."""
    share: tuple[int, int] | None = None
    """I N: measure only this process's part of the cells, the I-th of N from 0. The last one to
    end, or --resume without --share, writes the page."""
    docs: pathlib.Path | None = None
    """Folder of documentation whose page to renew: verdicts.md, its figures in images/verdicts/,
    and the tables that it rests on in data/verdicts/, where claims that are not run keep theirs.
    Needs a work tree without changes, so that the page can name what made it."""
    rebuild: bool = False
    """Measure nothing: make the page of --docs again from its tables."""


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
    _cli.validate(config)
    known = [*studies.STUDIES, *extra]
    if config.rebuild:
        return _rebuild(config, known)
    chosen = choose(config, extra)
    if config.docs is not None:
        _check_clean()
    data = load_arrays(config.dataset)
    needed = [*_used(chosen, known), *chosen]
    protocols = {study.name: study.protocol(config.preset) for study in needed}
    protocol = {
        "preset": config.preset,
        "alpha": config.alpha,
        "dataset": config.dataset,
        "measures": config.measures,
        "studies": protocols,
    }
    folder = _grid.open_run(config.out, protocol, resume=config.resume, share=config.share)
    grids = {study.name: study.grid(config.preset, data, config.measures) for study in needed}
    whole, failed = True, None
    with _cli.Progress(sum(len(grid.cells) for grid in grids.values())) as bar:
        for grid in grids.values():
            try:
                whole &= _grid.run_grid(grid, folder, bar, share=config.share)
            except _grid.FailedCellsError as error:
                failed = failed or error
            # Compiled programs are not used again, and a long run holds many.
            jax.clear_caches()
    if failed is not None:
        raise failed
    if not whole or (config.share is None and jax.process_index() > 0):
        return []
    tables = {study.name: folder.table(grids[study.name].names) for study in needed}
    made = {
        name: _published.Made(config.preset, protocol, folder.facts)
        for name, protocol in protocols.items()
    }
    results = conclude(chosen, tables, made, alpha=config.alpha)
    _write(folder.folder, config, results, made)
    if config.docs is not None:
        _published.add_tables(config.docs, tables, made)
        _rebuild(config, known)
    return results


def _check_clean() -> None:
    commit = manifest()["commit"]
    if commit is None or commit.endswith("-dirty"):
        raise StudyError(
            f"docs: a page needs a commit that made it, of a work tree without changes; "
            f"got {commit or 'no repository'}"
        )


def _rebuild(config: Verdicts, known: Sequence[Study]) -> list[Result]:
    """Makes a page from the tables beside it."""
    if config.docs is None:
        raise StudyError("docs: must be the folder of a page to rebuild; got None")
    tables, made = _published.tables_of(config.docs, known)
    shown = [study for study in known if study.name in tables]
    results = conclude(shown, tables, made, alpha=config.alpha)
    blocks = _page.page(results, alpha=config.alpha, made=made)
    _published.write_page(config.docs, blocks)
    return results


def choose(config: Verdicts, extra: Sequence[Study] = ()) -> list[Study]:
    """The studies that a config names, each after those that it uses.

    If it names none, they are all for which its preset has a budget.

    Raises:
      StudyError: if a claim is unknown.
    """
    known = {study.number: study for study in (*studies.STUDIES, *extra)}
    affordable = tuple(number for number, study in known.items() if config.preset in study.budgets)
    numbers = config.claims or affordable
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


def conclude(
    chosen: Sequence[Study],
    tables: Mapping[str, pd.DataFrame],
    made: Mapping[str, _published.Made],
    /,
    *,
    alpha: float = ALPHA,
) -> list[Result]:
    """From tables to verdicts, all predictions corrected together.

    Args:
      chosen: the studies.
      tables: by name of the study its own rows; those of the studies that one uses among them.
      made: by name of the study how its table came to be.
      alpha: the probability of any wrong decision, at most.

    Returns:
      A result for each study, in the order of the claims.
    """
    chosen = sorted(chosen, key=lambda study: study.number)
    data = {
        study.name: pd.concat(
            [tables[study.name], *(tables[name] for name in study.uses)], ignore_index=True
        )
        for study in chosen
    }
    spent = {
        name: [float(where(table, quantity=time, study=name).value.sum()) for time in Spent._fields]
        for name, table in data.items()
    }
    data = {
        name: where(table, ~table.quantity.isin(Spent._fields)).reset_index(drop=True)
        for name, table in data.items()
    }
    tests = [
        Test(
            prediction.effect(data[study.name]),
            prediction.bound,
            prediction.side,
            prediction.exact,
            prediction.missed(data[study.name]),
        )
        for study in chosen
        for prediction in study.predictions
    ]
    outcomes = iter(decide(tests, alpha=alpha))
    results = []
    for study in chosen:
        own = [next(outcomes) for _ in study.predictions]
        names = [prediction.name for prediction in study.predictions]
        word = verdict(names, own, depends=study.depends, budget=made[study.name].preset)
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
    folder: pathlib.Path,
    config: Verdicts,
    results: Sequence[Result],
    made: Mapping[str, _published.Made],
) -> None:
    (folder / "tables").mkdir(exist_ok=True)
    for result in results:
        write_table(folder / "tables" / f"{result.study.name}.parquet", result.table)
    write_table(folder / "verdicts.parquet", summary(results))
    blocks = _page.page(results, alpha=config.alpha, made=made)
    write_report(folder, blocks)
    write_whole(folder / "verdicts.md", markdown(blocks, "figures").encode())


def main() -> int:
    """The command line of ``scripts/verdicts.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(Verdicts, PRESETS)

    def study() -> None:
        start = time.monotonic()
        results = run(config)
        for result in results:
            print(_cli.paragraph(f"{result.study.number}. {result.study.claim}"))
            print(_cli.paragraph(result.verdict.sentence, indent="    "))
        page = config.out / "report.html"
        if config.rebuild and config.docs is not None:
            page = config.docs / "verdicts.md"
        print(f"\n{page} ({time.monotonic() - start:.0f} s)")

    return _cli.command_line(study)
