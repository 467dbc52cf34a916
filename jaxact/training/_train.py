"""A training run: compiled chunks of steps, and what is done between them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxact.training._feed import Feed
from jaxact.training._log import Row
from jaxact.training._step import Metrics, Recipe, State, step


class Observer(NamedTuple):
    """A measurement that a run makes every so many steps.

    Attributes:
      every: it is made before the first step, after each multiple of ``every`` steps, and at the
        end.
      measure: from the state to numbers by name, which become a row of the log.
    """

    every: int
    measure: Callable[[State], Mapping[str, Any]]


def train(
    recipe: Recipe,
    state: State,
    feed: Feed,
    /,
    *,
    steps: int,
    log: Callable[[Row], None] | None = None,
    log_every: int = 50,
    observers: Sequence[Observer] = (),
    checkpoint: Callable[[State], None] | None = None,
    checkpoint_every: int | None = None,
    chunk: int = 50,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> State:
    """Trains until a number of steps is done, counted from the beginning of the run.

    The step is compiled once, in a loop over as many steps as lie before the next thing to do, at
    most ``chunk``. The run is a function of the state and the step: going on from a checkpoint
    gives the same bits as not having stopped.

    Args:
      recipe: how to train.
      state: where to go on from, as `init` or `Checkpoints.restore` gives it; its buffers are
        donated.
      feed: the training batches.
      steps: updates of the whole run; nothing is done if the state has as many.
      log: takes rows: the mean `Metrics` of every ``log_every`` steps (``step``, ``loss``,
        ``accuracy``, ``grad_norm``, ``learning_rate`` of the last of them), and what the observers
        measure. Rows hold no times.
      log_every: steps a row, at least 1.
      observers: measurements.
      checkpoint: takes the state every ``checkpoint_every`` steps and at the end, after the log's
        rows up to it.
      checkpoint_every: a multiple of ``log_every``, so that no row spans a checkpoint.
      chunk: the most steps in one compiled call; 1 compiles the step without a loop.
      mesh: devices over which each batch is split along the first axis; the state is replicated.
        Batch statistics are then those of the whole batch. None for one device.
      progress: whether to show a progress bar.

    Returns:
      The state after the last step.

    Raises:
      ValueError: if an interval does not serve.
      FloatingPointError: if the loss is not finite; the row that shows it is logged first.
    """
    _check(steps, log_every, chunk, observers, checkpoint, checkpoint_every)
    done = int(state.step)
    advance = _advance(recipe, feed, chunk, mesh)
    if mesh is not None:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    emit = log or (lambda row: None)
    if done == 0:
        for observer in observers:
            emit({"step": 0, **observer.measure(state)})
    if done >= steps:
        return state
    saved_every = checkpoint_every or steps
    intervals = [log_every, saved_every, *(observer.every for observer in observers)]

    def upcoming(start: int) -> int:
        """How many steps the chunk has that begins at ``start``."""
        return min(min(k - start % k for k in intervals), steps - start, chunk)

    window: list[dict[str, np.ndarray]] = []
    count = upcoming(done)
    batches = feed.fetch(done, count, chunk)
    with tqdm(total=steps, initial=done, unit="step", disable=not progress) as bar:
        while done < steps:
            state, metrics = advance(state, batches, np.int32(count))
            done += count
            following = upcoming(done) if done < steps else 0
            # the host prepares the next batches while the device computes
            batches = feed.fetch(done, following, chunk) if following else None
            window.append({k: np.asarray(v)[:count] for k, v in metrics._asdict().items()})
            bar.update(count)
            if done % log_every == 0 or done == steps:
                row = _row(done, window)
                window = []
                emit(row)
                bar.set_postfix(loss=f"{row['loss']:.4g}", accuracy=f"{row['accuracy']:.3f}")
                if not math.isfinite(row["loss"]):
                    raise FloatingPointError(
                        f"the loss is {row['loss']} in the {log_every} steps up to {done}"
                    )
            for observer in observers:
                if done % observer.every == 0 or done == steps:
                    emit({"step": done, **observer.measure(state)})
            if checkpoint is not None and (done % saved_every == 0 or done == steps):
                checkpoint(state)
            count = following
    return state


def _advance(
    recipe: Recipe, feed: Feed, chunk: int, mesh: Mesh | None
) -> Callable[..., tuple[State, Metrics]]:
    """Compiles ``(state, batches, count) -> (state, metrics)``; the state is donated."""
    split = None if mesh is None else NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def advance(state: State, batches: Any, count: Any) -> tuple[State, Metrics]:
        def one(state, i):
            batch = feed.take(batches, i)
            if split is not None:
                batch = lax.with_sharding_constraint(batch, split)
            return step(recipe, state, *batch)

        if chunk == 1:
            state, metrics = one(state, 0)
            return state, Metrics(*(m[None] for m in metrics))

        def body(i, carry):
            state, rows = carry
            state, metrics = one(state, i)
            return state, jax.tree.map(lambda row, m: row.at[i].set(m), rows, metrics)

        like = jax.eval_shape(lambda: one(state, 0)[1])
        rows = jax.tree.map(lambda m: jnp.zeros((chunk, *m.shape), m.dtype), like)
        return lax.fori_loop(0, count, body, (state, rows))

    return jax.jit(advance, donate_argnums=0, out_shardings=whole)


def _row(done: int, window: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": done}
    for name in Metrics._fields:
        values = np.concatenate([part[name] for part in window]).astype(np.float64)
        if name != "learning_rate":
            row[name] = float(np.mean(values))
        elif not math.isnan(values[-1]):
            row[name] = float(values[-1])
    return row


def _check(
    steps: int,
    log_every: int,
    chunk: int,
    observers: Sequence[Observer],
    checkpoint: Callable[[State], None] | None,
    checkpoint_every: int | None,
) -> None:
    if steps < 0:
        raise ValueError(f"steps must be at least 0; got {steps}")
    for name, value in (
        ("log_every", log_every),
        ("chunk", chunk),
        *(("observer's every", observer.every) for observer in observers),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if (checkpoint is None) != (checkpoint_every is None):
        raise ValueError("checkpoint and checkpoint_every must be given together")
    if checkpoint_every is not None and (
        checkpoint_every < log_every or checkpoint_every % log_every
    ):
        raise ValueError(
            f"checkpoint_every must be a multiple of log_every={log_every}; got {checkpoint_every}"
        )
