"""The run: data and network to a folder of metrics and checkpoints."""

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.experimental import multihost_utils

from jaxact import models, training
from jaxact.experiments import _cli
from jaxact.experiments._grid import Grid, open_run, run_grid
from jaxact.experiments._store import StudyError, write_json, write_table
from jaxact.experiments.train_resnet import _config, _network
from jaxact.experiments.train_resnet._config import TrainResNet


class Data(NamedTuple):
    """A data set as a run takes it.

    Attributes:
      shape: of one image, (height, width, channels).
      classes: how many there are.
      feed: the training batches.
      sample: the first training images, as the network takes them.
      score: ``score(recipe)``, the measurement of a run on the test set.
      prepare: what every batch goes through before the network.
    """

    shape: tuple[int, ...]
    classes: int
    feed: training.Feed
    sample: Callable[[int], jax.Array]
    score: Callable[[training.Recipe], Callable[[training.State], Any]]
    prepare: Callable[[jax.Array], jax.Array] | None


def run(
    config: TrainResNet, /, *, sinks: Sequence[Callable[[training.Row], None]] = ()
) -> dict[str, Any]:
    """Runs what is left of a run, and writes its folder.

    Args:
      config: what to run.
      sinks: what takes the log's rows beside ``metrics.jsonl``, such as `training.scalars` of a
        writer.

    Returns:
      The summary: steps, parameters, the last test scores, and the seconds this process took. The
      folder holds it as ``summary.json`` beside ``config.json``, ``manifest.json``,
      ``metrics.jsonl``, ``table.parquet`` (the log as a tidy table: step, quantity, layer from 1 or
      0 of the whole network, value), ``network.safetensors``, ``checkpoints/`` and ``cells/``.

    Raises:
      StudyError: if the config, the data or the folder does not serve, before anything is compiled.
      FloatingPointError: if the loss is not finite.
    """
    _config.validate(config)
    data = load(config)
    network = training.functional(_network.build(config, data.shape, data.classes))
    recipe = make_recipe(config, network, data)
    fields = _cli.outcome_fields(config, *_config.NOT_OUTCOME)
    changes = ("steps",) if _prolongs(config) else ()
    folder = open_run(config.out, fields, resume=config.resume, share=None, changes=changes)
    grid = Grid(
        [{"model": config.model}],
        ["model"],
        name=lambda cell: _cell(config.steps),
        measure=lambda cells, _: [_trained(config, network, recipe, data, sinks)],
    )
    with _cli.Progress(1, unit="network", shown=False) as bar:
        # Every process takes part in the one cell.
        run_grid(grid, folder, bar, share=(0, 1))
    if jax.process_index() == 0:
        write_table(config.out / "table.parquet", folder.table(grid.names))
    _together("written")
    return json.loads((config.out / "summary.json").read_text(encoding="utf-8"))


def _cell(steps: int) -> str:
    """The name of the one cell: a run of more steps is another one."""
    return f"training-{steps}"


def _prolongs(config: TrainResNet) -> bool:
    """Whether the folder holds a finished run of fewer steps; says so."""
    try:
        steps = json.loads((config.out / "config.json").read_text(encoding="utf-8"))["steps"]
        finished = (config.out / "cells" / f"{_cell(steps)}.parquet").exists()
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if not (config.resume and finished and config.steps > steps):
        return False
    print(
        f"{config.out} holds a finished run of {steps} steps: it is prolonged to {config.steps}, "
        f"by the step sizes of a run of {config.steps} steps",
        file=sys.stderr,
    )
    return True


def _trained(
    config: TrainResNet,
    network: training.Functional,
    recipe: training.Recipe,
    data: Data,
    sinks: Sequence[Callable[[training.Row], None]],
) -> pd.DataFrame:
    """What is left of a run; writes its network and summary, and gives its log as a table."""
    began = time.monotonic()
    writes = jax.process_index() == 0
    with training.Checkpoints(config.out / "checkpoints", keep=config.keep) as checkpoints:
        params, stats = _train(
            config, network, recipe, data, checkpoints, sinks if writes else None
        )
    if writes:
        models.save(config.out / "network.safetensors", network.merge(params, stats))
        rows = training.read_log(config.out / "metrics.jsonl")
        summary = {
            **[row for row in rows if "test_accuracy" in row][-1],
            "train_loss": [row["loss"] for row in rows if "loss" in row][-1],
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.params)),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_json(config.out / "summary.json", summary)
    _together("trained")
    return pd.DataFrame(
        [
            {"step": row["step"], "quantity": name, "layer": sum(place) + len(place), "value": v}
            for row in training.read_log(config.out / "metrics.jsonl")
            for name, values in row.items()
            if name != "step"
            for place, v in np.ndenumerate(np.asarray(values, np.float64))
        ]
    )


def _train(
    config: TrainResNet,
    network: training.Functional,
    recipe: training.Recipe,
    data: Data,
    checkpoints: training.Checkpoints,
    sinks: Sequence[Callable[[training.Row], None]] | None,
) -> tuple[Any, Any]:
    """Trains from the newest checkpoint on; logs where there are sinks, and to metrics.jsonl."""
    mesh = _mesh(config)
    state = training.init(recipe, network.params, network.stats, key=_key(config, 1))
    if mesh is not None:
        state = training.place(state, mesh, shard_state=config.shard_state)
    latest = None
    if checkpoints.latest() is not None:
        try:
            state = checkpoints.restore(state)
        except ValueError as error:
            raise StudyError(f"out: {error}") from error
        latest = int(state.step)
    observers = [training.Observer(config.eval_every, data.score(recipe))]
    if config.measure_every is not None:
        x = data.sample(config.measure_examples)
        measure = _network.measurement(network, config.measures, x)
        observers.append(training.Observer(config.measure_every, measure))
    with contextlib.ExitStack() as stack:
        lines = None
        if sinks is not None:
            path = config.out / "metrics.jsonl"
            lines = stack.enter_context(training.JsonLines(path, after=latest))
            sinks = [lines, *sinks]

        def checkpoint(state: training.State) -> None:
            if lines is not None:
                lines.sync()
            checkpoints.save(state)

        state = training.train(
            recipe,
            state,
            data.feed,
            log=training.tee(sinks or ()),
            observers=observers,
            checkpoint=checkpoint,
            mesh=mesh,
            progress=config.progress and sinks is not None,
            **{name: getattr(config, name) for name in LOOP},
        )
    return training.local((state.params, state.stats))


LOOP = ("steps", "log_every", "checkpoint_every", "chunk", "shard_state")


def load(config: TrainResNet) -> Data:
    """Finds the data set of a config: in memory, a folder of images, or Hugging Face's.

    Raises:
      StudyError: if there is none, or it is too small.
    """
    flatten = (lambda x: x.reshape(len(x), -1)) if config.model == "mlp" else None
    try:
        found = training.load(
            config.dataset,
            test_share=config.test_share,
            seed=config.seed,
            size=config.image_size,
            label_column=config.label_column,
        )
        if isinstance(found, training.Images):
            return _images(config, found, flatten)
        feed = training.ArrayFeed(
            found.train_x, found.train_y, batch_size=config.batch_size, key=_key(config, 0)
        )
    except ValueError as error:
        raise _config.as_field(error, "dataset") from error
    except ModuleNotFoundError as error:
        extra = "hub" if error.name == "datasets" else "train"
        install = f"install it by pip install 'jaxact[{extra}]'"
        raise StudyError(f"dataset: {error}; {install}") from error
    _enough(config, len(found.train_x))

    def sample(n: int) -> jax.Array:
        return _prepared(flatten, jnp.asarray(found.train_x[:n]))

    def score(recipe: training.Recipe) -> Callable[[training.State], Any]:
        test = (found.test_x, found.test_y)
        return training.scorer(recipe, *test, batch_size=config.eval_batch_size)

    return Data(found.train_x.shape[1:], found.num_classes, feed, sample, score, flatten)


def _images(config: TrainResNet, images: training.Images, flatten: Any) -> Data:
    """Images that are decoded while the device trains."""
    train = images.train
    share = (jax.process_index(), jax.process_count())
    feed = training.ImageFeed(train, batch_size=config.batch_size, seed=config.seed, share=share)
    _enough(config, len(train))

    def prepare(x: jax.Array) -> jax.Array:
        return _prepared(flatten, training.standardize(x))

    def sample(n: int) -> jax.Array:
        some = np.linspace(0, len(train) - 1, n).astype(int)  # of all classes
        return prepare(jnp.asarray(np.stack([train[i][0] for i in some])))

    def score(recipe: training.Recipe) -> Callable[[training.State], Any]:
        def scored(params: Any, stats: Any) -> training.Score:
            batches = training.image_batches(images.test, batch_size=config.eval_batch_size)
            return training.evaluate_batches(recipe, params, stats, batches)

        return training.by_average(scored)

    size = config.image_size
    return Data((size, size, 3), len(images.classes), feed, sample, score, prepare)


def make_recipe(config: TrainResNet, network: training.Functional, data: Data) -> training.Recipe:
    """How a config trains its network."""
    augments: list[training.Augment] = [training.flip] if config.flip else []
    if config.resized_crop:
        augments.append(training.random_resized_crop)
    if config.pad:
        augments.append(functools.partial(training.pad_crop, padding=config.pad))
    optimizer, rate = _config.make_optimizer(config)
    return training.Recipe(
        network.apply,
        optimizer,
        loss=functools.partial(training.cross_entropy, label_smoothing=config.label_smoothing),
        augment=training.compose(*augments) if augments else None,
        prepare=data.prepare,
        compute_dtype=None if config.precision == "float32" else jnp.bfloat16,
        ema_decay=config.ema_decay,
        learning_rate=rate,
    )


def main() -> int:
    """The command line of ``scripts/train_resnet.py``.

    Returns:
      The process's exit code: 0; 1 if the loss became infinite or NaN; 2 if the run cannot start;
      130 when interrupted.
    """
    config = _cli.parse(TrainResNet, _config.PRESETS)

    def study() -> None:
        absl.logging.set_verbosity(absl.logging.FATAL)  # orbax raises what it logs
        if config.distributed:
            jax.distributed.initialize()
        print(json.dumps(run(config), indent=2))
        print(config.out / "metrics.jsonl")

    return _cli.command_line(study)


def _key(config: TrainResNet, number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), number)


def _together(where: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _mesh(config: TrainResNet) -> jax.sharding.Mesh | None:
    if config.devices == 1:
        return None
    return jax.sharding.Mesh(np.array(jax.devices()[: config.devices]), ("data",))


def _prepared(prepare: Any, x: jax.Array) -> jax.Array:
    return x if prepare is None else prepare(x)


def _enough(config: TrainResNet, examples: int) -> None:
    if config.measure_every is not None and config.measure_examples > examples:
        raise StudyError(
            f"measure_examples: must be at most the {examples} training examples; "
            f"got {config.measure_examples}"
        )
