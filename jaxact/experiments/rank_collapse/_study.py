# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportAttributeAccessIssue=false, reportReturnType=false
"""The study: cells to rows, rows to one table, the table to figures and a report."""

import concurrent.futures
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from tqdm import tqdm

from jaxact import analysis, training
from jaxact.experiments import _cli
from jaxact.experiments._plots import rendered
from jaxact.experiments._report import Section, report
from jaxact.experiments._store import Run, StudyError, manifest, to_parquet
from jaxact.experiments.rank_collapse import _config, _figures, _programs
from jaxact.experiments.rank_collapse._config import Cell, RankCollapse
from jaxact.io import write_whole

DEFINITIONS = {
    "weight": "A weight matrix, outputs by inputs; a convolution's kernel unfolded, outputs by "
    "(height x width x inputs).",
    "weight_product": "The product of the blocks' weights up to a depth, W_l ... W_1, without "
    "skips; convolutions as circular operators on the network's feature map.",
    "block_product": "The product up to a depth of the blocks' linear maps, activations and norms "
    "left out: I + s W for a residual block with branch scale s, W for a plain one.",
    "features": "What blocks put out on training images, uncentred: samples by units; positions of "
    "a feature map count as samples.",
    "jacobian": "The derivative of a block's output in the network's input at one training image; "
    "ranks are means over images.",
    "gradient": "The gradient of the mean cross-entropy over the measured images in a weight, in "
    "the weight's shape.",
    "network": "The whole network: loss and accuracy.",
    "stable_rank": "Sum of s_i^2 over s_1^2.",
    "effective_rank": "exp(-sum p_i log p_i) with p_i = s_i / sum s (Roy & Vetterli 2007).",
    "numerical_rank": "How many s_i exceed max(m, n) * eps * s_1, eps = 2^-23 of float32.",
    "participation_ratio": "(sum s_i^2)^2 / sum s_i^4.",
    "log_singular_value": "Natural logarithm of s_index, largest first, -inf for an exact zero; of "
    "the first seed, for the Jacobian at the first image.",
    "norm": "Frobenius norm.",
    "cosine_similarity": "Mean cosine between the features of two different images.",
    "loss": "Mean cross-entropy on the measured training images, in nats.",
    "accuracy": "Share of the test images that are classified rightly.",
    "training_loss": "Mean cross-entropy of one step's batch before its update, in nats.",
}

COLUMNS = {
    "network": "category",
    "placement": "category",
    "norm": "category",
    "activation": "category",
    "depth": "int32",
    "phase": "category",
    "object": "category",
    "parameter": "category",
    "quantity": "category",
    "seed": "int64",
    "layer": "int32",
    "index": "int32",
    "step": "int32",
    "value": "float64",
}
"""The table's columns. ``layer`` counts blocks from 1 (0 is the input of the first; weights of stem
and head have 0), ``index`` counts singular values from 1 and is 0 elsewhere, ``step`` counts
training steps done."""


def run(config: RankCollapse) -> pathlib.Path:
    """Runs the study, or what is left of it, and writes its folder.

    Args:
      config: what to run.

    Returns:
      The folder: ``config.json``, ``manifest.json``, ``definitions.json``, ``table.parquet``,
      ``figures/`` (PNG and SVG), ``report.html``, and ``cells/``.

    Raises:
      StudyError: if the config or the folder does not serve, before anything is compiled.
    """
    _config.validate(config)
    try:
        data = training.load(config.dataset)
    except ValueError as error:
        raise StudyError(f"dataset: {error}") from error
    _fits(config, data)
    fields = _config.outcome_fields(config)
    index, count = config.share or (jax.process_index(), jax.process_count())
    if index == 0:
        folder = Run.open(config.out, fields, resume=config.resume)
    else:
        folder = Run.join(config.out, fields)
    cells = list(_config.cells(config))
    groups = [list(group) for _, group in itertools.groupby(cells, key=lambda cell: cell[:3])]
    share = [cell for group in groups[index::count] for cell in group]
    left = [cell for cell in share if not folder.finished(cell.name)]
    with tqdm(total=len(share), initial=len(share) - len(left), unit="cell") as bar:
        for cell, program in _compiled(config, data, left):
            bar.set_description(cell.name)
            folder.store(cell.name, measure(config, program, cell))
            bar.update()

    def whole() -> bool:
        return all(folder.finished(cell.name) for cell in cells)

    while jax.process_count() > 1 and not whole():
        time.sleep(0.5)  # A process that leaves early would end the others.
    if whole() and (config.share is not None or index == 0):
        _write(folder, config, cells)
    return folder.folder


def _write(folder: Run, config: RankCollapse, cells: Sequence[Cell]) -> None:
    """The table of all cells, and what is made of it."""
    table = folder.table([cell.name for cell in cells]).astype(COLUMNS)
    write_whole(folder.folder / "table.parquet", to_parquet(table))
    write_whole(folder.folder / "definitions.json", json.dumps(DEFINITIONS, indent=2).encode())
    facts = manifest()
    write_whole(folder.folder / "manifest.json", json.dumps(facts, indent=2).encode())
    write_report(folder.folder, config, table, facts)


def _compiled(
    config: RankCollapse, data: training.Dataset, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, _programs.Program]]:
    """Cells with their programs; the next program compiles while the cells of one are measured."""
    groups = [list(group) for _, group in itertools.groupby(cells, key=lambda cell: cell[:3])]
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:

        def start(group: list[Cell]) -> concurrent.futures.Future[_programs.Program]:
            first = group[0]
            program = _programs.Program(config, data, first.network, first.placement, first.depth)
            return thread.submit(program.compile)

        waiting = start(groups[0]) if groups else None
        for number, group in enumerate(groups, start=1):
            assert waiting is not None
            program = waiting.result()
            waiting = start(groups[number]) if number < len(groups) else None
            yield from ((cell, program) for cell in group)


def _fits(config: RankCollapse, data: training.Dataset) -> None:
    for name in ("examples", "batch_size", "jacobian_examples"):
        if getattr(config, name) > len(data.train_x):
            raise StudyError(
                f"{name}: must be at most the {len(data.train_x)} training examples; "
                f"got {getattr(config, name)}"
            )


def measure(config: RankCollapse, program: _programs.Program, cell: Cell) -> pd.DataFrame:
    """Measures one cell at initialization and, if it trains, after training.

    Args:
      config: the study's config.
      program: the compiled program that serves the cell.
      cell: what to measure.

    Returns:
      The cell's rows, with the columns of the study's table.
    """
    index = jnp.asarray(config.activations.index(cell.activation), jnp.int32)
    seeds = program.seeds
    leaves = program.initialize(index, seeds)
    frames = _phase(config, program, program.observe(index, leaves), "initial", 0)
    if config.steps:
        fit = program.train(index, leaves, seeds)
        frames += _phase(
            config, program, program.observe(index, fit.params), "trained", config.steps
        )
        frames += [
            analysis.tidy(
                fit.losses,
                {"seed": config.seeds, "step": range(config.steps)},
                phase="training",
                object="network",
                quantity="training_loss",
            )
        ]
    rows = pd.concat(frames, ignore_index=True).assign(
        network=cell.network,
        placement=cell.placement,
        norm=config.norm if cell.placement in ("post", "pre") else "none",
        activation=cell.activation,
        depth=cell.depth,
    )
    rows = rows.fillna({"parameter": "", "layer": 0, "index": 0, "step": 0})
    return rows[list(COLUMNS)].astype({k: v for k, v in COLUMNS.items() if v != "category"})


def _phase(
    config: RankCollapse,
    program: _programs.Program,
    seen: _programs.Observations,
    phase: str,
    step: int,
) -> list[pd.DataFrame]:
    """The rows of one measurement of all seeds."""
    frames: list[pd.DataFrame] = []
    common: dict[str, object] = {"phase": phase, "step": step}
    seeds = list(config.seeds)
    grid = list(program.grid)

    def add(values: Any, axes: Mapping[str, Sequence[Any]], **constants: object) -> None:
        frames.append(analysis.tidy(values, axes, **common, **constants))

    def add_ranks(ranks: analysis.Ranks, axes: Mapping[str, Sequence[Any]], **constants: object):
        for quantity, values in ranks._asdict().items():
            add(values, axes, quantity=quantity, **constants)

    for parameter, stack in seen.weights.items():
        axes = {"seed": seeds, "layer": _layers(parameter, stack.shape[1])}
        gradient = seen.gradients[parameter]
        add_ranks(_programs.matrix_ranks(stack), axes, object="weight", parameter=parameter)
        add_ranks(_programs.matrix_ranks(gradient), axes, object="gradient", parameter=parameter)
        norm = jnp.linalg.norm(gradient, axis=(-2, -1))
        add(norm, axes, object="gradient", parameter=parameter, quantity="norm")

    blocks = {"seed": seeds, "layer": range(seen.features.shape[1])}
    add_ranks(_programs.matrix_ranks(seen.features), blocks, object="features")
    add(seen.cosine, blocks, object="features", quantity="cosine_similarity")

    depths = {"seed": seeds, "layer": grid}
    for name, maps in (("weight_product", seen.weight_maps), ("block_product", seen.block_maps)):
        per_block = maps.shape[1] // program.depth
        logs = _programs.product_logs(maps, tuple(per_block * d for d in grid))
        add_ranks(_programs.log_ranks(logs), depths, object=name)
        add(
            logs[:1],
            {"seed": seeds[:1], "layer": grid, "index": _from_one(logs)},
            object=name,
            quantity="log_singular_value",
        )

    logs = _programs.jacobian_logs(seen.jacobian)
    ranks = _programs.log_ranks(logs)
    for quantity, values in ranks._asdict().items():
        means = np.mean(np.asarray(values, np.float64), axis=1)
        add(means, depths, object="jacobian", quantity=quantity)
    add(
        logs[:1, 0],
        {"seed": seeds[:1], "layer": grid, "index": _from_one(logs)},
        object="jacobian",
        quantity="log_singular_value",
    )

    add(seen.loss, {"seed": seeds}, object="network", quantity="loss")
    add(seen.accuracy, {"seed": seeds}, object="network", quantity="accuracy")
    return frames


def _layers(parameter: str, count: int) -> Sequence[int]:
    return range(1, count + 1) if parameter.startswith("blocks") else [0] * count


def _from_one(logs: jax.Array) -> range:
    return range(1, logs.shape[-1] + 1)


def write_report(
    folder: pathlib.Path, config: RankCollapse, table: pd.DataFrame, facts: dict[str, Any]
) -> None:
    """Draws the figures and writes the report.

    Args:
      folder: the study's folder; ``figures/`` and ``report.html`` are written in it.
      config: the study's config.
      table: its table.
      facts: its manifest.
    """
    (folder / "figures").mkdir(exist_ok=True)
    sections = []
    for drawing in _figures.draw(table, config):
        svg = rendered(drawing.figure, "svg")
        write_whole(folder / "figures" / f"{drawing.name}.svg", svg)
        write_whole(folder / "figures" / f"{drawing.name}.png", rendered(drawing.figure, "png"))
        sections.append(Section(drawing.name, svg, drawing.caption, drawing.numbers))
    when = f"at initialization and after {config.steps} training steps"
    wirings = "; ".join(f"{name} ({_config.PLACEMENTS[name]})" for name in config.placements)
    page = report(
        "How rank degrades with depth",
        [
            "Networks that differ in one choice only - the skip, the norm and its placement - were "
            f"measured on {config.dataset} {when if config.steps else 'at initialization'}. "
            f"Placements: {wirings}."
        ],
        sections,
        summary=summary(table),
        definitions=DEFINITIONS,
        facts={
            "Config": json.dumps(_config.outcome_fields(config), indent=2),
            "Versions and device": json.dumps(facts, indent=2),
        },
    )
    write_whole(folder / "report.html", page.encode())


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Effective ranks at the last block, and losses: medians over seeds, a row for each cell.

    Args:
      table: the study's table.

    Returns:
      A frame with the columns network, placement, activation, depth, and one for each measurement.
    """
    last = table[(table.layer == table.depth) & (table.quantity == "effective_rank")]
    last = last[last.object.isin(["block_product", "features", "jacobian"])]
    last = last.assign(column=last.object.astype(str) + ", " + last.phase.astype(str))
    whole = table[table.quantity.isin(["loss", "accuracy"])]
    whole = whole.assign(column=whole.quantity.astype(str) + ", " + whole.phase.astype(str))
    rows = pd.concat([last, whole])
    keys = ["network", "placement", "activation", "depth"]
    order = list(dict.fromkeys(rows.column))
    wide = rows.pivot_table(
        index=keys, columns="column", values="value", aggfunc="median", observed=True, sort=False
    )
    return wide[order].reset_index().rename_axis(columns=None)


def main() -> int:
    """The command line of ``scripts/rank_collapse.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(RankCollapse, _config.PRESETS)

    def study() -> None:
        start = time.monotonic()
        if config.distributed:
            jax.distributed.initialize()
        folder = run(config)
        seconds = time.monotonic() - start
        if not (folder / "report.html").exists():
            print(f"this share of the study is finished ({seconds:.0f} s)")
            return
        print(summary(pd.read_parquet(folder / "table.parquet")).to_string(float_format="%.3g"))
        print(f"\n{folder / 'report.html'} ({seconds:.0f} s)")

    return _cli.main(study)
