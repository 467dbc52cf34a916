# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportArgumentType=false
"""The study of a checkpoint: a file to one table, figures and a report."""

import dataclasses
import functools
import json
import pathlib
import re
from typing import Annotated, Literal

import pandas as pd
import tyro
from tqdm import tqdm

from jaxact import analysis, io
from jaxact.experiments import _cli
from jaxact.experiments._plots import rendered
from jaxact.experiments._report import Section, report
from jaxact.experiments._store import StudyError, manifest, to_parquet
from jaxact.experiments.checkpoint import _figures
from jaxact.io import write_whole

FILES = ("table.parquet", "manifest.json", "report.html")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint's weights carry their rank, layer by layer."""

    file: tyro.conf.Positional[pathlib.Path]
    """The checkpoint: .safetensors, .pth, .pt, .bin, .ckpt, .onnx, .npz, or a folder of orbax."""
    layout: Literal["auto", "hwio", "oihw"] = "auto"
    """Axes of convolution kernels: hwio (Flax), oihw (PyTorch, ONNX); auto goes by the file."""
    match: Annotated[str, tyro.conf.arg(metavar="REGEX")] = ""
    """Measure only arrays whose name this regular expression finds."""
    out: pathlib.Path = pathlib.Path("runs/checkpoint")
    """Folder of the results; must be new or empty unless --overwrite is given."""
    overwrite: bool = False
    """Replace the results of an earlier run in the folder."""


def run(config: Checkpoint) -> pd.DataFrame:
    """Measures a checkpoint and writes the study's folder.

    Args:
      config: what to read and where to write.

    Returns:
      The table, as `jaxact.analysis.table` gives it. The folder holds it as ``table.parquet``,
      beside ``figures/`` (PNG and SVG), ``report.html`` and ``manifest.json``; each file is whole
      or absent.

    Raises:
      StudyError: if the file cannot be read or holds no matrix, or the folder does not serve.
    """
    arrays = _read(config)
    _open(config)
    try:
        measured = analysis.measure_matrices(
            arrays,
            layout=_layout(config),
            progress=functools.partial(tqdm, desc=config.file.name, unit="shape"),
        )
    except ValueError as error:
        raise StudyError(f"file: {error}") from error
    table = analysis.table(measured)
    write_whole(config.out / "table.parquet", to_parquet(table))
    facts = manifest()
    write_whole(config.out / "manifest.json", json.dumps(facts, indent=2).encode())
    sections = []
    for drawing in _figures.draw(table):
        for kind in ("svg", "png"):
            path = config.out / "figures" / f"{drawing.name}.{kind}"
            write_whole(path, rendered(drawing.figure, kind))
        svg = rendered(drawing.figure, "svg")
        sections.append(Section(drawing.name, svg, drawing.caption, drawing.numbers))
    definitions = table.drop_duplicates("quantity").set_index("quantity").definition
    page = report(
        f"The weights of {config.file.name}",
        [_headline(table)],
        sections,
        summary=summary(table),
        definitions=definitions.to_dict(),
        facts={
            "Arguments": json.dumps(dataclasses.asdict(config), indent=2, default=str),
            "Versions and device": json.dumps(facts, indent=2),
        },
    )
    write_whole(config.out / "report.html", page.encode())
    return table


def _layout(config: Checkpoint) -> str:
    if config.layout != "auto":
        return config.layout
    foreign = config.file.suffix in analysis.OUTPUTS_FIRST
    return "oihw" if foreign else "hwio"


def _read(config: Checkpoint) -> dict:
    try:
        arrays = io.read_arrays(config.file)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise StudyError(f"file: {error}") from error
    try:
        chosen = {name: a for name, a in arrays.items() if re.search(config.match, name)}
    except re.error as error:
        raise StudyError(f"match: {config.match!r} is no regular expression ({error})") from error
    try:
        analysis.as_matrices(chosen, layout=_layout(config))
    except (ValueError, TypeError) as error:
        which = f" matching {config.match!r}" if config.match else ""
        raise StudyError(f"file: {config.file}{which}: {error}") from error
    return chosen


def _open(config: Checkpoint) -> None:
    try:
        (config.out / "figures").mkdir(parents=True, exist_ok=True)
        found = [name for name in FILES if (config.out / name).exists()]
    except OSError as error:
        raise StudyError(f"out: cannot write to {config.out} ({error.strerror})") from error
    if found and not config.overwrite:
        raise StudyError(
            f"out: {config.out} holds {found[0]} already; pass --overwrite, or --out with another "
            "folder"
        )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each layer: its shape, ranks, norm, and what is wrong with it.

    Args:
      table: the study's table.

    Returns:
      A frame with the columns layer, name, rows, columns, one for each rank, spectral_norm,
      eliminated_outputs and non_finite; a layer that is not finite has no ranks.
    """
    single = table[table["index"] == 0]
    wide = single.pivot_table(
        index=["layer", "name", "rows", "columns"],
        columns="quantity",
        values="value",
        aggfunc="first",
    )
    columns = [
        "stable_rank",
        "effective_rank",
        "participation_ratio",
        "numerical_rank",
        "spectral_norm",
        "eliminated_outputs",
        "non_finite",
    ]
    wide = wide.reindex(columns=columns).reset_index().rename_axis(columns=None)
    counts = ["numerical_rank", "eliminated_outputs", "non_finite"]
    return wide.astype(dict.fromkeys(counts, "Int64"))


def _headline(table: pd.DataFrame) -> str:
    rows = summary(table)
    dead = rows[rows.eliminated_outputs > 0]
    broken = rows[rows.non_finite > 0]
    text = [f"{len(rows)} weight matrices."]
    if len(dead):
        text.append(
            f"{dead.eliminated_outputs.sum()} output units without incoming weights in "
            f"{len(dead)} of them: "
            + ", ".join(f"{r.name_} ({r.count_})" for r in _named(dead, "eliminated_outputs"))
            + "."
        )
    if len(broken):
        text.append(
            "NaN or infinity in "
            + ", ".join(f"{r.name_} ({r.count_} entries)" for r in _named(broken, "non_finite"))
            + "; these are not measured."
        )
    return " ".join(text)


def _named(rows: pd.DataFrame, column: str):
    return rows.rename(columns={"name": "name_", column: "count_"}).itertuples()


def main() -> int:
    """The command line of ``scripts/analyze_checkpoint.py``.

    Returns:
      The process's exit code.
    """
    config = tyro.cli(Checkpoint)

    def study() -> None:
        table = run(config)
        with pd.option_context("display.width", 200, "display.max_rows", None):
            print(summary(table).to_string(index=False, float_format="%.4g", na_rep="-"))
        print(f"\n{_headline(table)}\n{config.out / 'report.html'}")

    return _cli.main(study)
