"""The run: data and network to a folder of metrics and checkpoints."""

import contextlib
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxact import models, training
from jaxact.experiments import _cli
from jaxact.experiments._store import StudyError, manifest
from jaxact.experiments.train_resnet import _config, _network
from jaxact.experiments.train_resnet._config import TrainResNet
from jaxact.io import write_whole

HUB = "hf:"


class Data(NamedTuple):
    """A data set as a run takes it.

    Attributes:
      shape: of one image, (height, width, channels).
      classes: how many there are.
      feed: the training batches.
      sample: the first training images, as the network takes them.
      score: ``score(recipe) -> (params, stats) -> Score`` on the test set.
      prepare: what every batch goes through before the network.
    """

    shape: tuple[int, ...]
    classes: int
    feed: training.Feed
    sample: Callable[[int], jax.Array]
    score: Callable[[training.Recipe], Callable[[Any, Any], training.Score]]
    prepare: Callable[[jax.Array], jax.Array] | None


def run(config: TrainResNet) -> dict[str, Any]:
    """Runs what is left of a run, and writes its folder.

    Args:
      config: what to run.

    Returns:
      The summary: steps, parameters, the last test scores, and the seconds this process took. The
      folder holds it as ``summary.json`` beside ``config.json``, ``manifest.json``,
      ``metrics.jsonl``, ``network.safetensors``, ``checkpoints/``, and ``tensorboard/`` if asked
      for.

    Raises:
      StudyError: if the config, the data or the folder does not serve, before anything is compiled.
      FloatingPointError: if the loss is not finite.
    """
    began = time.monotonic()
    _config.validate(config)
    data = load(config)
    network = training.functional(_network.build(config, data.shape, data.classes))
    recipe = make_recipe(config, network, data)
    writes = jax.process_index() == 0
    folder = _open(config) if writes else config.out
    _together("open")
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            training.Checkpoints(folder / "checkpoints", keep=config.keep)
        )
        mesh = _mesh(config)
        state = training.init(recipe, network.params, network.stats, key=_key(config, 1))
        if mesh is not None:
            state = training.place(state, mesh, shard_state=config.shard_state)
        latest = checkpoints.latest()
        if latest is not None:
            try:
                state = checkpoints.restore(state)
            except ValueError as error:
                raise StudyError(f"out: {error}") from error
        sinks: list[Callable[[training.Row], None]] = []
        if writes:
            lines = training.JsonLines(folder / "metrics.jsonl", after=latest)
            sinks.append(stack.enter_context(lines))
        if writes and config.tensorboard:
            board = training.TensorBoard(folder / "tensorboard", after=latest)
            sinks.append(stack.enter_context(board))

        def checkpoint(state: training.State) -> None:
            if writes:
                lines.sync()
            checkpoints.save(state)

        observers = [training.Observer(config.eval_every, training.by_average(data.score(recipe)))]
        if config.measure_every is not None:
            measure = _network.ranks(network, data.sample(config.measure_examples))
            observers.append(training.Observer(config.measure_every, measure))
        state = training.train(
            recipe,
            state,
            data.feed,
            steps=config.steps,
            log=training.tee(sinks),
            log_every=config.log_every,
            observers=observers,
            checkpoint=checkpoint,
            checkpoint_every=config.checkpoint_every,
            chunk=config.chunk,
            mesh=mesh,
            shard_state=config.shard_state,
            progress=config.progress and writes,
        )
        params, stats = training.local((state.params, state.stats))
    if not writes:
        _together("written")
        return json.loads((folder / "summary.json").read_text())
    models.save(folder / "network.safetensors", network.merge(params, stats))
    rows = training.read_log(folder / "metrics.jsonl")
    tests = [row for row in rows if "test_accuracy" in row]
    summary = {
        **tests[-1],
        "train_loss": [row["loss"] for row in rows if "loss" in row][-1],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_whole(folder / "summary.json", json.dumps(summary, indent=2).encode())
    _together("written")
    return summary


def load(config: TrainResNet) -> Data:
    """Finds the data set of a config: in memory, a folder of images, or Hugging Face's.

    Raises:
      StudyError: if there is none, or it is too small.
    """
    path = pathlib.Path(config.dataset)
    flatten = (lambda x: x.reshape(len(x), -1)) if config.model == "mlp" else None
    try:
        split: dict[str, Any] = {"test_share": config.test_share, "seed": config.seed}
        size = config.image_size
        if config.dataset.startswith(HUB):
            name = config.dataset.removeprefix(HUB)
            found = training.hub_dataset(name, size=size, label_column=config.label_column, **split)
            return _images(config, found.train, found.test, len(found.classes), flatten)
        if path.is_dir() and not training.is_cifar(path):
            files = training.image_folder(path, **split)
            train, test = (training.FileSource(f, size=size) for f in (files.train, files.test))
            return _images(config, train, test, len(files.classes), flatten)
        arrays = training.load(config.dataset, **split)
        feed = training.ArrayFeed(
            arrays.train_x, arrays.train_y, batch_size=config.batch_size, key=_key(config, 0)
        )
    except ValueError as error:
        raise _config.as_field(error, "dataset") from error
    except ModuleNotFoundError as error:
        extra = "hub" if error.name == "datasets" else "train"
        install = f"install it by pip install 'jaxact[{extra}]'"
        raise StudyError(f"dataset: {error}; {install}") from error
    _enough(config, len(arrays.train_x))
    x, y = jnp.asarray(arrays.test_x), jnp.asarray(arrays.test_y)

    def sample(n: int) -> jax.Array:
        return _prepared(flatten, jnp.asarray(arrays.train_x[:n]))

    def score(recipe: training.Recipe) -> Callable[[Any, Any], training.Score]:
        compiled = jax.jit(
            functools.partial(training.evaluate, recipe, batch_size=config.eval_batch_size)
        )
        return lambda params, stats: compiled(params, stats, x, y)

    return Data(arrays.train_x.shape[1:], arrays.num_classes, feed, sample, score, flatten)


def _images(
    config: TrainResNet,
    train: training.ImageSource,
    test: training.ImageSource,
    classes: int,
    flatten: Any,
) -> Data:
    """Images that are decoded while the device trains."""
    share = (jax.process_index(), jax.process_count())
    feed = training.ImageFeed(train, batch_size=config.batch_size, seed=config.seed, share=share)
    _enough(config, len(train))

    def prepare(x: jax.Array) -> jax.Array:
        return _prepared(flatten, training.standardize(x))

    def sample(n: int) -> jax.Array:
        some = np.linspace(0, len(train) - 1, n).astype(int)  # of all classes
        return prepare(jnp.asarray(np.stack([train[i][0] for i in some])))

    def score(recipe: training.Recipe) -> Callable[[Any, Any], training.Score]:
        def scored(params: Any, stats: Any) -> training.Score:
            batches = training.image_batches(test, batch_size=config.eval_batch_size)
            return training.evaluate_batches(recipe, params, stats, batches)

        return scored

    size = config.image_size
    return Data((size, size, 3), classes, feed, sample, score, prepare)


def make_recipe(config: TrainResNet, network: training.Functional, data: Data) -> training.Recipe:
    """How a config trains its network."""
    rate = training.schedule(
        config.schedule,
        peak=config.learning_rate,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        milestones=config.milestones,
    )
    augments: list[training.Augment] = [training.flip] if config.flip else []
    if config.resized_crop:
        augments.append(training.random_resized_crop)
    if config.pad:
        augments.append(functools.partial(training.pad_crop, padding=config.pad))
    return training.Recipe(
        network.apply,
        training.optimizer(
            config.optimizer,
            rate,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            momentum=config.momentum,
        ),
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
    code = 0

    def study() -> None:
        nonlocal code
        if config.distributed:
            jax.distributed.initialize()
        try:
            summary = run(config)
        except FloatingPointError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            print("interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
            code = 130
        else:
            print(json.dumps(summary, indent=2))
            print(config.out / "metrics.jsonl")

    return _cli.main(study) or code


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


def _open(config: TrainResNet) -> pathlib.Path:
    """The run's folder, new or of the same run.

    Raises:
      StudyError: if it cannot be written, holds anything while ``resume`` is off, or holds another
        run.
    """
    fields = json.loads(json.dumps(_config.outcome_fields(config)))
    path = config.out / "config.json"
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not config.resume:
                raise StudyError(
                    f"out: {config.out} holds a run; pass --resume to go on with it, or --out with "
                    "another folder"
                )
            before = json.loads(path.read_text())
            for name, value in fields.items():
                if before.get(name) != value:
                    raise StudyError(
                        f"{name}: the run in {config.out} was started with {before.get(name)} and "
                        f"cannot be resumed with {value}"
                    )
        elif any(p.suffix != ".tmp" for p in config.out.iterdir()):
            raise StudyError(f"out: {config.out} is not empty and holds no run to resume")
        for leftover in config.out.glob(".*.tmp"):
            leftover.unlink()
        facts = json.dumps(manifest(), indent=2).encode()
        write_whole(config.out / "manifest.json", facts)
        write_whole(path, json.dumps(fields, indent=2).encode())
    except OSError as error:
        raise StudyError(f"out: cannot write to {config.out} ({error.strerror})") from error
    return config.out
