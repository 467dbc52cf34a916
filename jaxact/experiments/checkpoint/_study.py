"""The study of checkpoints: files to one table, figures and a report."""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from jaxact import analysis, io
from jaxact.experiments import _cli
from jaxact.experiments._cli import POSITIVE, Words, among, at_least
from jaxact.experiments._columns import write_definitions
from jaxact.experiments._grid import Grid, run_grid
from jaxact.experiments._plots import where
from jaxact.experiments._report import study_report, write_report
from jaxact.experiments._store import Run, StudyError, write_table
from jaxact.experiments.checkpoint import _figures
from jaxact.experiments.checkpoint._findings import findings, random_rank

SPECTRA = Words(lambda: [measure.name for measure in analysis.taking("spectrum")])
ROWS = 60
"""Of what a terminal is shown."""
OF_RANDOM = "effective_rank_squared_of_random_share"
COUNTS = ("eliminated_outputs", "non_finite")
COLUMNS = ("file", *analysis.COLUMNS, "possible", "share", "attention", "part", "head")
"""Of the table: those of `jaxact.analysis.table`, and what a matrix is in its network."""


NAMED = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda texts: pathlib.Path(texts[0] or "''"),
    is_instance=lambda value: isinstance(value, pathlib.Path),
    str_from_instance=lambda path: [str(path)],
)
"""A path. An empty text, which pathlib takes for the current folder, names nothing."""


class Weights(NamedTuple):
    """What a file holds: matrices, and the attentions among them."""

    matrices: dict[str, analysis.Matrix]
    layers: dict[str, analysis.Attention]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where the weights of checkpoints carry their rank, layer by layer; several are compared."""

    files: tyro.conf.Positional[tuple[Annotated[pathlib.Path, NAMED], ...]]
    """The checkpoints: .safetensors, .pth, .pt, .bin, .ckpt, .onnx, .npz, .h5, .keras, .msgpack,
    the model.json of TensorFlow.js, or folders: of a model in shards, or of orbax."""
    layout: Literal["auto", "hwio", "oihw"] = "auto"
    """Axes of convolution kernels: hwio (Flax), oihw (PyTorch, ONNX); auto goes by the file."""
    heads: Annotated[int | None, at_least(1)] = None
    """Heads of every attention; by default as many as the config.json beside the weights says."""
    by_head: bool = True
    """Measure heads apart, and what they compare (W_Q^T W_K) and move (W_O W_V)."""
    limit: Annotated[float, POSITIVE] = 4.0
    """GiB that a file may be unpacked to in memory; what is not compressed is mapped."""
    match: Annotated[str, tyro.conf.arg(metavar="REGEX")] = ""
    """Measure only arrays whose name this regular expression finds."""
    measures: Annotated[tuple[str, ...], among(SPECTRA)] = ()
    """Which measures of spectra are taken; all of jaxact.analysis.MEASURES by default."""
    out: pathlib.Path = pathlib.Path("runs/checkpoint")
    """Folder of the results; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on with a study that was stopped, without measuring its finished files again."""


def run(config: Checkpoint) -> pd.DataFrame:
    """Measures checkpoints and writes the study's folder.

    Args:
      config: what to read and where to write.

    Returns:
      The table, as `jaxact.analysis.table` gives it, with a first column ``file`` and of every
      matrix its ``possible`` rank, of a rank its ``share`` of that, and the ``attention``, ``part``
      and ``head`` (-1: all) that the matrix is of. Objects are ``weight``, and of attentions whose
      heads are known ``head`` and ``circuit``. The folder holds it as ``table.parquet``, beside
      ``cells/`` (a table for each file), ``figures/`` (PNG and SVG), ``report.html``,
      ``definitions.json``, ``config.json`` and ``manifest.json``; each file is whole or absent.

    Raises:
      StudyError: if a file cannot be read or holds no matrix, two have one name, or the folder does
        not serve.
    """
    _cli.validate(config)
    if not config.files:
        raise StudyError("files: must name at least one; got none")
    for file in config.files:
        _read(config, file)
    fields = _cli.outcome_fields(config)
    folder = Run.open(config.out, fields, resume=config.resume)
    names = _names(config.files)
    grid = Grid(
        [{"file": file} for file in config.files],
        ["file"],
        name=lambda cell: names[cell["file"]],
        prepare=lambda cells: _read(config, cells[0]["file"]),
        measure=lambda cells, weights: [_measured(config, weights)],
        finish=lambda cell, rows, spent: rows.assign(file=names[cell["file"]]),
    )
    with _cli.Progress(len(grid.cells), unit="file") as bar:
        run_grid(grid, folder, bar)
    table = folder.table(grid.names).reindex(columns=[*COLUMNS])
    write_table(config.out / "table.parquet", table)
    write_definitions(config.out / "definitions.json", table)
    blocks = study_report(
        f"The weights of {' and '.join(file.name for file in config.files)}",
        _headline(table),
        _figures.draw(table),
        findings=findings(table),
        summary=summary(table),
        more={"By attention": by_attention(table)},
        names=[*table.object.unique(), *table.quantity.unique()],
        config=fields,
        facts=folder.facts,
    )
    write_report(config.out, blocks)
    return table


def _names(files: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """The shortest ends of the files' paths that tell them apart, as names of cells."""
    paths = {file: file.absolute() for file in files}
    # A folder's name may have a point in it that begins no ending.
    whole = {f: (p if p.is_dir() else p.with_suffix("")).parts[1:] for f, p in paths.items()}
    for length in range(1, max(map(len, whole.values())) + 1):
        names = {file: "_".join(parts[-length:]) for file, parts in whole.items()}
        if len(set(names.values())) == len(files):
            return names
    raise StudyError(
        f"files: must differ in more than their ending; got {' '.join(map(str, files))}"
    )


def _measured(config: Checkpoint, weights: Weights) -> pd.DataFrame:
    bar = functools.partial(tqdm, unit="batch", leave=False, disable=None)
    found = [analysis.measure_matrices(weights.matrices, quantized=True, progress=bar)]
    heads = analysis.head_matrices(weights.layers) if config.by_head else {}
    if heads:
        found.append(analysis.measure_matrices(heads, object="head", progress=bar))
        found.append(analysis.measure_circuits(weights.layers, progress=bar))
    left_out = set(SPECTRA) - set(config.measures or SPECTRA)
    rows = analysis.table([m for of in found for q, m in of.items() if q not in left_out])
    labels = analysis.labels(weights.matrices, weights.layers)
    what = pd.DataFrame([labels[name] for name in rows.name], rows.index)
    rows = rows.join(what.astype({"head": np.int32, "possible": np.int32}))
    ranks = rows["quantity"].isin([name for name in SPECTRA if analysis.MEASURES[name].scale_free])
    return rows.assign(share=(rows["value"] / rows["possible"]).where(ranks))


def _layout(config: Checkpoint, file: pathlib.Path) -> str:
    if config.layout != "auto":
        return config.layout
    return "oihw" if io.outputs_first(file) else "hwio"


def _read(config: Checkpoint, file: pathlib.Path) -> Weights:
    try:
        arrays = io.read_arrays(file, limit=math.ceil(config.limit * 2**30))
        about = io.read_config(file)
    except io.TooLargeError as error:
        raise StudyError(
            f"limit: must be at least {error.size / 2**30:.4g} GiB to unpack {file} into memory; "
            f"got {config.limit:g}"
        ) from error
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise StudyError(f"files: {error}") from error
    try:
        chosen = {name: a for name, a in arrays.items() if re.search(config.match, name)}
    except re.error as error:
        raise StudyError(f"match: {config.match!r} is no regular expression ({error})") from error
    try:
        matrices = analysis.unread_matrices(chosen, layout=_layout(config, file))
    except (ValueError, TypeError) as error:
        which = f" matching {config.match!r}" if config.match else ""
        raise StudyError(f"files: {file}{which}: {error}") from error
    try:
        return Weights(*analysis.attention_layers(matrices, config=about, heads=config.heads))
    except ValueError as error:
        raise StudyError(str(error).replace("heads must", "heads: must", 1)) from error


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each layer: its shape, ranks, norm, and what is wrong with it.

    Args:
      table: the study's table.

    Returns:
      A frame with the columns file, layer, name, rows, columns, one for each measure, beside each
      rank its share of min(rows, columns), beside the effective rank of s^2 also its share of that
      of a large random matrix of the same shape, rounding_floor if any is quantized,
      eliminated_outputs and non_finite; a layer that is not finite has no ranks.
    """
    measured = set(table.quantity)
    spectra = [name for name in SPECTRA if name in measured]
    counts = [*(name for name in spectra if name == "numerical_rank"), *COUNTS]
    rounded = where(table, table.value > 0, quantity="rounding_floor")
    columns = [*spectra, *(["rounding_floor"] if len(rounded) else []), *COUNTS]
    rows = _figures.wide(table, columns).astype(dict.fromkeys(counts, "Int64"))
    possible, order = np.minimum(rows["rows"], rows["columns"]), []
    for name in list(rows):
        order.append(name)
        if name in spectra and analysis.MEASURES[name].scale_free:
            rows[f"{name}_share"] = rows[name].astype(float) / possible
            order.append(f"{name}_share")
        if name == "effective_rank_squared":
            rows[OF_RANDOM] = rows[name] / random_rank(rows)
            order.append(OF_RANDOM)
    return rows.filter(order)


def by_attention(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each attention and part of it: means over its heads.

    Args:
      table: the study's table.

    Returns:
      A frame with the columns file, attention, part, heads, possible, the mean of each rank over
      the heads and of its share of the possible, and the least share of the effective rank with its
      head; empty where no heads are known.
    """
    rows = where(table, table.share.notna(), object=("head", "circuit"))
    keys = ["file", "attention", "part", "possible"]
    if rows.empty:
        return pd.DataFrame(columns=keys)
    means: Any = rows.pivot_table(
        index=keys, columns="quantity", values=["value", "share"], aggfunc="mean", sort=False
    )
    heads = rows.groupby(keys, sort=False)["head"].nunique()
    found = pd.DataFrame({"heads": heads})
    for name in (name for name in SPECTRA if ("value", name) in means):
        found[name], found[f"{name}_share"] = means["value", name], means["share", name]
    effective = where(rows, quantity="effective_rank")
    if not effective.empty:
        least = effective.loc[effective.groupby(keys, sort=False)["share"].idxmin()].set_index(keys)
        found["least_share"], found["least_head"] = least["share"], least["head"]
    return found.reset_index()


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """What of the `summary` a terminal has room for.

    Args:
      table: the study's table.

    Returns:
      A frame with a row for each layer.
    """
    rows = summary(table)
    kept = ["file", "name", "rows", "columns", "numerical_rank", "stable_rank", "effective_rank"]
    kept += [
        "effective_rank_share",
        OF_RANDOM,
        *(name for name in COUNTS if rows[name].fillna(0).to_numpy().any()),
    ]
    rows = rows.filter(kept if rows.file.nunique() > 1 else kept[1:])
    short = {"effective_rank_share": "share", OF_RANDOM: "of_random"}
    return rows.rename(columns={**short, "eliminated_outputs": "dead"})


def _headline(table: pd.DataFrame) -> str:
    rows = summary(table)
    files = rows.groupby("file", sort=False).size()
    if len(files) > 1:
        rows["name"] = rows["file"] + " " + rows["name"]
    text = ["; ".join(f"{n} weight matrices in {file}" for file, n in files.items()) + "."]
    dead, broken = (
        [(name, n) for name, n in zip(rows["name"], rows[count].fillna(0), strict=True) if n]
        for count in COUNTS
    )
    if dead:
        units = ", ".join(f"{name} ({n})" for name, n in dead)
        total = sum(n for _, n in dead)
        text.append(
            f"{total} output units without incoming weights in {len(dead)} of them: {units}."
        )
    if broken:
        entries = ", ".join(f"{name} ({n} entries)" for name, n in broken)
        text.append(f"NaN or infinity in {entries}; these are not measured.")
    return " ".join(text)


def main() -> int:
    """The command line of ``scripts/analyze_checkpoint.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(Checkpoint, {})

    def study() -> None:
        table = run(config)
        rows = brief(table)
        print(_cli.as_text(rows, digits=4, rows=ROWS))
        if len(rows) > ROWS:
            print(f"({len(rows)} rows; all of them are in the report)")
        print(f"\n{_cli.paragraph(_headline(table))}")
        for text in findings(table).values():
            print(_cli.paragraph(text))
        print(f"\n{config.out / 'report.html'}")

    return _cli.command_line(study)
