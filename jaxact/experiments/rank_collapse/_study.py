"""The study: its grid, what is measured of each network, and one table of all."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Num

from jaxact import activations, analysis, spectral, training, wiring
from jaxact.experiments import _cli, _grid
from jaxact.experiments._blocks import linear_maps
from jaxact.experiments._cli import POSITIVE, Must, Words, among, at_least, known
from jaxact.experiments._columns import write_definitions
from jaxact.experiments._depths import depth_grid
from jaxact.experiments._grid import Cell, Grid
from jaxact.experiments._networks import (
    HEADS,
    NETWORKS,
    TOKENS,
    Arm,
    DataSet,
    Spec,
    Trial,
    Trials,
    load_arrays,
    takes,
)
from jaxact.experiments._plots import FIRST, values_of, where
from jaxact.experiments._report import study_report, write_report
from jaxact.experiments._store import write_table
from jaxact.experiments.rank_collapse import _figures
from jaxact.experiments.rank_collapse._findings import findings

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "quick": {
        "activations": ("relu", "tanh"),
        "depths": (16,),
        "conv_depths": (4,),
        "seeds": (0, 1),
        "steps": 20,
        "examples": 64,
    },
    "paper": {
        "activations": ("relu", "leaky_relu", "tanh", "gelu", "silu", "selu"),
        "depths": (8, 32, 128, 512, 1000),
        "conv_depths": (4, 16, 64),
        "conv_width": 32,
        "seeds": tuple(range(10)),
        "steps": 2000,
        "examples": 512,
        "jacobian_examples": 8,
    },
}

LOGS = "log_singular_value"


def _of_one_stream(word: str) -> bool:
    return not wiring.get(word).placement.dual


def _measurable() -> list[str]:
    known = [m for m in analysis.MEASURES.values() if m.object != "attention"]
    return [m.name for m in known if m.function is not None or m.name == LOGS]


Count = Annotated[int, at_least(1)]
Wirings = Annotated[
    tuple[str, ...],
    known(wiring.get, Words(lambda: filter(_of_one_stream, wiring.names()))),
    Must("pass one array from block to block", _of_one_stream),
]
Activations = Annotated[tuple[str, ...], known(activations.get, Words(activations.names))]


@dataclasses.dataclass(frozen=True)
class RankCollapse:
    """How rank degrades with depth in plain and residual networks, on real images."""

    preset: Literal["default", "quick", "paper"] = "default"
    """Where the values come from that are not given: default (some minutes on 2 cores), quick
    (about a minute), paper (an accelerator)."""
    networks: Annotated[tuple[str, ...], among(NETWORKS)] = ("mlp", "conv")
    """Kinds of network: mlp (one square weight a block), conv (two 3 x 3 convolutions a block),
    transformer (a block is a layer of attention and feed-forward, each wired by itself, on 16
    patches of an image; wirings whose activations are outside of the sublayers are left out)."""
    wirings: Wirings = FIRST
    """Words of jaxact.wiring: a placement of the norm, a skip of a network without norm, or both as
    in pre+layerscale."""
    activations: Activations = ("relu", "tanh", "gelu")
    """Names of activation functions in jaxact.activations."""
    depths: Annotated[tuple[int, ...], at_least(1)] = (8, 64)
    """Numbers of blocks of the mlp networks."""
    conv_depths: Annotated[tuple[int, ...], at_least(1)] = (6,)
    """Numbers of blocks of the conv networks."""
    transformer_depths: Annotated[tuple[int, ...], at_least(1)] = (24,)
    """Numbers of layers of the transformers."""
    seeds: Annotated[
        tuple[int, ...], at_least(0), Must("be less than 2**32", lambda seed: seed < 2**32)
    ] = (0, 1, 2)
    """Seeds of weights and batches; a seed is shared by all wirings and activations, so that
    comparisons are paired."""
    norm: Annotated[str, among(("layer", "rms"))] = "layer"
    """Norm of the wirings that have one: layer or rms."""
    width: Count = 64
    """Units of the mlp networks."""
    conv_width: Count = 8
    """Channels of the conv networks."""
    transformer_width: Annotated[
        int, Must(f"be a multiple of the {HEADS} heads", lambda width: width % HEADS == 0)
    ] = 16
    """Units of a token of the transformers."""
    dataset: DataSet = "digits"
    """A name in jaxact.training.DATASETS, such as digits (shipped with scikit-learn), the path of
    an .npz file with arrays x and y, or of a CIFAR archive."""
    steps: Annotated[int, at_least(0)] = 100
    """Training steps between the two measurements (Adam); 0 measures at initialization only."""
    batch_size: Count = 64
    """Examples a training step."""
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Adam's step size."""
    examples: Annotated[int, at_least(2)] = 256
    """Training examples on which features and the loss's gradient are measured."""
    jacobian_examples: Count = 2
    """Examples at which the input-to-layer Jacobian is measured."""
    grid: Count = 12
    """At how many depths, spaced by ratio, products and Jacobians are measured."""
    measures: Annotated[tuple[str, ...], among(Words(_measurable))] = (
        *analysis.RANKS,
        LOGS,
        "frobenius_norm",
        "cosine_similarity",
        "token_cosine",
        "loss",
    )
    """Names in jaxact.analysis.MEASURES. Those of a spectrum are taken of weights, gradients and
    features, and, if they do not depend on scale, of products and Jacobians too."""
    out: pathlib.Path = pathlib.Path("runs/rank_collapse")
    """Folder of the results; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on with a study that was stopped, without redoing its finished cells."""
    share: tuple[int, int] | None = None
    """I N: measure only this process's part of the study, the I-th of N from 0; the others run the
    same command elsewhere, with the same --out. The last one to end, or --resume without --share,
    writes table and report."""
    distributed: bool = False
    """Join the processes of a cluster that JAX detects, such as the hosts of a TPU pod."""


COLUMNS = {
    "network": "category",
    "wiring": "category",
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


def grid(config: RankCollapse, data: training.Dataset) -> Grid:
    """The study's grid: a cell for each network, wiring, depth and activation, over all seeds.

    Args:
      config: of the study.
      data: its data set.

    Returns:
      The grid; the activations of one network, wiring and depth share a compiled program.
    """
    depths = {
        "mlp": config.depths,
        "conv": config.conv_depths,
        "transformer": config.transformer_depths,
    }
    cells = [
        {"network": network, **cell}
        for network in config.networks
        for cell in _grid.product(
            {
                "wiring": [word for word in config.wirings if takes(network, word)],
                "depth": depths[network],
                "activation": config.activations,
            }
        )
    ]

    def compiled(cells: tuple[Cell, ...]) -> Trials:
        return trials(config, data, cells[0]).compile(config.seeds)

    def measured(cells: tuple[Cell, ...], found: Trials) -> Iterator[pd.DataFrame]:
        return (measure(config, found, cell) for cell in cells)

    together = ("network", "wiring", "depth")
    return Grid(cells, together, lambda c: "-".join(map(str, c.values())), measured, compiled)


def trials(config: RankCollapse, data: training.Dataset, cell: Cell) -> Trials:
    """The program that builds, trains and observes a cell's networks, with any activation."""
    spec = Spec(
        cell["wiring"],
        cell["depth"],
        kind=cell["network"],
        width={
            "mlp": config.width,
            "conv": config.conv_width,
            "transformer": config.transformer_width,
        }[cell["network"]],
        activations=config.activations,
        norm=config.norm,
        marks="ends",
        **{name: getattr(config, name) for name in ("steps", "batch_size", "examples")},
    )
    return Trials(spec, data, functools.partial(observe, config, spec))


def observe(config: RankCollapse, spec: Spec, view: analysis.View) -> dict[str, Any]:
    """What a network shows on data, before any spectrum is taken.

    Args:
      config: of the study.
      spec: of the network.
      view: the network with its data.

    Returns:
      ``weight`` and ``gradient``, by parameter the matrices of all layers (layer, o, i);
      ``products``, ``weight_product`` and ``block_product``, the factors of each as linear maps
      (layer, f, o, i), f counting the frequencies of a circular convolution (none of a
      transformer, whose attention is no linear map); ``features`` (block + 1, samples, c);
      ``jacobian``, factored, at the depths of the grid; and ``values``, by measure a number or one
      for each block.
    """
    trunk = analysis.until(view.chain, view.blocks)
    start = jax.random.orthogonal(jax.random.key(0), view.x[0].size)
    jacobians = jax.vmap(lambda x: analysis.input_jacobians(trunk, x, start=start)[view.blocks])(
        view.x[: config.jacobian_examples]
    )
    depths = np.array(depth_grid(spec.depth, config.grid)) - 1
    _, gradient = analysis.gradients(view.chain, view.cost, view.x)
    products = {}
    if spec.kind != "transformer":
        maps = linear_maps(spec, view.body.params, view.x.shape[1:3])
        products = dict(zip(("weight_product", "block_product"), maps, strict=True))
    return {
        "weight": _by_parameter(view.chain),
        "gradient": _by_parameter(gradient),
        "products": products,
        "features": analysis.feature_matrix(view.hidden),
        "jacobian": jax.tree.map(lambda leaf: leaf[:, depths], jacobians),
        "values": {
            of.name: _value(of, view)
            for of in map(analysis.MEASURES.__getitem__, config.measures)
            if of.function and of.takes != "spectrum"
            if of.takes != "tokens" or spec.kind == "transformer"
        },
    }


def _value(of: analysis.Measure, view: analysis.View) -> Array:
    """A measure that is none of a spectrum; of tokens the mean over the examples."""
    function: Any = of.function
    if of.takes == "tokens":
        h = view.hidden
        return jnp.mean(function(h.reshape(*h.shape[:2], -1, h.shape[-1])), axis=1)
    return function(view.hidden) if of.takes == "features" else function(view)


def _by_parameter(chain: analysis.Chain) -> dict[str, Array]:
    return {
        f"{segment}.{name}": stack
        for segment, stacks in analysis.weight_matrices(chain).items()
        for name, stack in stacks.items()
    }


@functools.partial(jax.jit, static_argnames="names")
def matrix_measures(
    stack: Float[Array, "seed mark layer m n"], names: tuple[str, ...]
) -> dict[str, Array]:
    """Measures of stacked matrices."""
    return analysis.matrix_measures(stack, names)


@functools.partial(jax.jit, static_argnames="names")
def log_measures(logs: Float[Array, "*batch k"], names: tuple[str, ...]) -> dict[str, Array]:
    """Measures of square products, from the logarithms of their singular values."""
    k = logs.shape[-1]
    return analysis.spectrum_measures(logs, names, shape=(k, k), log=True)


@functools.partial(jax.jit, static_argnames="prefixes")
def product_logs(
    maps: Num[Array, "seed mark layer f n n"], prefixes: tuple[int, ...]
) -> Float[Array, "seed mark prefix fn"]:
    """Log singular values of the products of the first layers, over all frequencies together."""

    def one(stack):
        return spectral.product_spectrum(stack, prefixes=prefixes, errors=False).log_singular_values

    logs = jax.vmap(jax.vmap(jax.vmap(one, in_axes=1, out_axes=1)))(maps)
    return -jnp.sort(-logs.reshape(*logs.shape[:3], -1), axis=-1)


@jax.jit
def jacobian_logs(product: spectral.GradedProduct) -> Float[Array, "seed mark example depth k"]:
    """Log singular values of factored Jacobians."""
    over = jax.vmap(jax.vmap(jax.vmap(jax.vmap(spectral.graded_spectrum))))
    return over(product)


def measure(config: RankCollapse, program: Trials, cell: Cell) -> pd.DataFrame:
    """Measures one cell at initialization and, if it trains, after training.

    Args:
      config: the study's config.
      program: the program that serves the cell.
      cell: what to measure.

    Returns:
      The cell's rows, with the columns of the study's table.
    """
    (trial,) = program.run(cell["activation"], config.seeds, [Arm(config.learning_rate)])
    frames = list(_rows(config, program, trial))
    rows = pd.concat(frames, ignore_index=True).assign(
        **cell, norm=config.norm if wiring.get(cell["wiring"]).normed else "none"
    )
    phases = {0: "initial", config.steps: "trained"} if config.steps else {0: "initial"}
    training_loss = rows.quantity == "training_loss"
    rows["phase"] = rows.step.map(phases).where(~training_loss, "training")
    for column, value in {"parameter": "", "layer": 0, "index": 0}.items():
        rows[column] = rows[column].fillna(value) if column in rows else value
    return rows.filter(list(COLUMNS)).astype({k: v for k, v in COLUMNS.items() if v != "category"})


def _rows(config: RankCollapse, program: Trials, trial: Trial) -> Iterator[pd.DataFrame]:
    """The rows of all that was observed: spectra are taken here, by programs that depth shares."""
    seen, depth = trial.observed, program.spec.depth
    both = {"seed": list(config.seeds), "step": program.at}
    depths = depth_grid(depth, config.grid)
    spectrum = [m for m in analysis.taking("spectrum") if m.name in config.measures]
    names = tuple(m.name for m in spectrum)
    scale_free = tuple(m.name for m in spectrum if m.scale_free)

    def rows(found: Mapping[str, Any], layers: Sequence[int], **constants: object):
        for name, values in found.items():
            axes = {**both, "layer": layers}
            yield analysis.tidy(values, axes, quantity=name, **constants)

    for of in ("weight", "gradient"):
        for parameter, stack in seen[of].items():
            inside = parameter.startswith("blocks")
            layers = range(1, stack.shape[2] + 1) if inside else [0] * stack.shape[2]
            yield from rows(matrix_measures(stack, names), layers, object=of, parameter=parameter)
    features = seen["features"]
    yield from rows(matrix_measures(features, names), range(features.shape[2]), object="features")
    logs = {
        of: product_logs(maps, tuple(maps.shape[2] // depth * d for d in depths))[:, :, None]
        for of, maps in seen["products"].items()
    }
    for of, found in {**logs, "jacobian": jacobian_logs(seen["jacobian"])}.items():
        means = {
            name: np.mean(np.asarray(values, np.float64), axis=2)
            for name, values in log_measures(found, scale_free).items()
        }
        yield from rows(means, depths, object=of)
        if LOGS in config.measures:
            axes = {"step": program.at, "layer": depths, "index": range(1, found.shape[-1] + 1)}
            first = found[0, :, 0]
            yield analysis.tidy(first, axes, seed=config.seeds[0], object=of, quantity=LOGS)
    for name, values in {**seen["values"], "test_accuracy": seen["test_accuracy"]}.items():
        of = analysis.MEASURES[name].object
        if values.ndim == 2:
            yield analysis.tidy(values, both, object=of, quantity=name)
        else:
            first = values.shape[2] != depth + 1
            layers = range(first, values.shape[2] + first)
            yield from rows({name: values}, layers, object=of)
    if config.steps:
        axes = {"seed": both["seed"], "step": range(config.steps)}
        yield analysis.tidy(trial.losses, axes, object="network", quantity="training_loss")


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
    _cli.validate(config)
    _grid.shares(config.share)
    data = load_arrays(config.dataset)
    for name in ("examples", "batch_size", "jacobian_examples"):
        most = Must(
            f"be at most the {len(data.train_x)} training examples", len(data.train_x).__ge__
        )
        _cli.check(name, getattr(config, name), most)
    if "transformer" in config.networks:
        sides = data.train_x.shape[1:3]
        patched = Must(
            f"be of square images whose sides {TOKENS} divides for transformers; got {sides}",
            lambda _: len(sides) == 2 and sides[0] == sides[1] and sides[0] % TOKENS == 0,
        )
        _cli.check("dataset", config.dataset, patched)
        some = Must(
            "hold one that transformers have",
            lambda _: any(takes("transformer", word) for word in config.wirings),
        )
        _cli.check("wirings", " ".join(config.wirings), some)
    fields = _cli.outcome_fields(config)
    folder = _grid.open_run(config.out, fields, resume=config.resume, share=config.share)
    cells = grid(config, data)
    with _cli.Progress(len(cells.cells)) as bar:
        whole = _grid.run_grid(cells, folder, bar, share=config.share)
    if whole and (config.share is not None or jax.process_index() == 0):
        table = folder.table(cells.names).astype(COLUMNS)
        names = dict.fromkeys([*table.object.unique(), *table.quantity.unique()])
        write_table(folder.folder / "table.parquet", table)
        write_definitions(folder.folder / "definitions.json", table)
        when = f"at initialization and after {config.steps} training steps"
        equations = "; ".join(f"{w} ({wiring.get(w).equation()})" for w in config.wirings)
        report = study_report(
            "How rank degrades with depth",
            "Networks that differ in their wiring - the skip, the norm, and where norm and "
            f"activation stand - were measured on {config.dataset} "
            f"{when if config.steps else 'at initialization'}. Wirings: {equations}. Each finding "
            "gives the median over the seeds, and in brackets the least and the greatest.",
            _figures.draw(table, config),
            findings=findings(table),
            summary=summary(table),
            names=names,
            config=fields,
            facts=folder.facts,
        )
        write_report(folder.folder, report)
    return folder.folder


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Effective ranks at the last block, and losses: medians over seeds, a row for each cell.

    Args:
      table: the study's table.

    Returns:
      A frame with the columns network, wiring, activation, depth, and one for each measurement.
    """
    objects = ("block_product", "features", "jacobian")
    last = where(table, table.layer == table.depth, quantity="effective_rank", object=objects)
    last = last.assign(column=last.object.astype(str) + ", " + last.phase.astype(str))
    whole = where(table, table.phase != "training", object="network", layer=0)
    whole = whole.assign(column=whole.quantity.astype(str) + ", " + whole.phase.astype(str))
    rows = pd.concat([last, whole])
    keys = ["network", "wiring", "activation", "depth"]
    order = list(dict.fromkeys(rows.column))
    wide = rows.pivot_table(
        index=keys, columns="column", values="value", aggfunc="median", observed=True, sort=False
    )
    return wide[order].reset_index().rename_axis(columns=None)


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """What of the `summary` a terminal has room for: ranks and accuracy when last measured.

    Args:
      table: the study's table.

    Returns:
      A frame with a row for each cell.
    """
    whole = summary(table)
    phase = values_of(where(table, object="features"), "phase")[-1]
    chosen = [f"{of}, {phase}" for of in ("jacobian", "features", "test_accuracy")]
    kept = [name for name in chosen if name in whole]
    return whole.filter([*whole.columns[:4], *kept])


def main() -> int:
    """The command line of ``scripts/rank_collapse.py``.

    Returns:
      The process's exit code.
    """
    config = _cli.parse(RankCollapse, PRESETS)

    def study() -> None:
        start = time.monotonic()
        if config.distributed:
            jax.distributed.initialize()
        folder = run(config)
        seconds = time.monotonic() - start
        if not (folder / "report.html").exists():
            print(f"this share of the study is finished ({seconds:.0f} s)")
            return
        table = pd.read_parquet(folder / "table.parquet")
        print("Effective ranks after the last block, and accuracy: medians over seeds.\n")
        print(f"{_cli.as_text(brief(table), digits=3)}\n")
        for text in findings(table).values():
            print(_cli.paragraph(text))
        print(f"\n{folder / 'report.html'} ({seconds:.0f} s)")

    return _cli.command_line(study)
