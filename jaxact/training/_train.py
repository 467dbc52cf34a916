"""A training run: compiled chunks of steps, and what is done between them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh
from tqdm import tqdm

from jaxact.training import _mesh
from jaxact.training._feed import Feed
from jaxact.training._log import Row
from jaxact.training._step import Apply, Metrics, Recipe, State, step


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
    shard_state: bool = False,
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
      mesh: devices over which each batch is split along the first axis, which may belong to several
        processes that all make this call; its axes auto or explicit (a step is compiled as on auto
        ones). Batch statistics are those of the whole batch. None for
        one device.
      shard_state: whether the state is split over the mesh as `place` says, instead of replicated:
        each step gathers the parameters, in the recipe's ``compute_dtype``, and spreads the
        gradient. The numbers are the same to rounding.
      progress: whether to show a progress bar, where there is a terminal.

    Returns:
      The state after the last step.

    Raises:
      ValueError: if an interval does not serve, or ``shard_state`` is asked for without a mesh.
      FloatingPointError: if the loss is not finite; the row that shows it is logged first.
    """
    _check(steps, log_every, chunk, observers, checkpoint, checkpoint_every)
    if shard_state and mesh is None:
        raise ValueError("mesh must be given with shard_state=True; got None")
    done = int(state.step)
    if mesh is not None:
        state = _mesh.place(state, mesh, shard_state=shard_state)
    advance = _advance(recipe, feed, chunk, mesh, state)
    spread = (lambda batches: batches) if mesh is None else _mesh.Spreader(mesh, feed.split)
    emit = log or (lambda row: None)

    def observe(due: Sequence[Observer]) -> None:
        seen = _mesh.local(state) if due else state
        for observer in due:
            emit({"step": done, **observer.measure(seen)})

    if done == 0:
        observe(observers)
    if done >= steps:
        return state
    saved_every = checkpoint_every or steps
    intervals = [log_every, saved_every, *(observer.every for observer in observers)]

    def upcoming(start: int) -> int:
        """How many steps the chunk has that begins at ``start``."""
        return min(min(k - start % k for k in intervals), steps - start, chunk)

    window: list[dict[str, np.ndarray]] = []
    count = upcoming(done)
    batches = spread(feed.fetch(done, count, chunk))
    with tqdm(total=steps, initial=done, unit="step", disable=None if progress else True) as bar:
        while done < steps:
            state, metrics = advance(state, batches, np.int32(count))
            done += count
            following = upcoming(done) if done < steps else 0
            # the host prepares the next batches while the device computes
            batches = spread(feed.fetch(done, following, chunk)) if following else None
            window.append({k: np.asarray(v)[:count] for k, v in metrics._asdict().items()})
            bar.update(count)
            if done % log_every == 0 or done == steps:
                _tell(_row(done, window), emit, bar, log_every)
                window = []
            observe([o for o in observers if done % o.every == 0 or done == steps])
            if checkpoint is not None and (done % saved_every == 0 or done == steps):
                checkpoint(state)
            count = following
    return state


def _advance(
    recipe: Recipe, feed: Feed, chunk: int, mesh: Mesh | None, placed: State
) -> Callable[..., tuple[State, Metrics]]:
    """Compiles ``(state, batches, count) -> (state, metrics)``; the state is donated."""
    split = out = None
    if mesh is not None:
        inside = _mesh.untyped(mesh)
        split, whole = _mesh.along(inside, 0), _mesh.along(inside, None)
        out = (jax.tree.map(lambda leaf: leaf.sharding, placed), _mesh.along(mesh, None))
        recipe = dataclasses.replace(recipe, apply=_gathered(recipe.apply, whole))

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

    run: Any = advance
    if mesh is not None and out is not None and AxisType.Explicit in mesh.axis_types:
        rows: list[Any] = [out[1]] * len(Metrics._fields)
        metrics = Metrics(*rows)
        run = jax.sharding.auto_axes(advance, out_sharding=(out[0], metrics))
    return jax.jit(run, donate_argnums=0, out_shardings=out)


def _gathered(apply: Apply, whole: Any) -> Apply:
    """The network, its parameters replicated before they are used.

    Left to itself, the compiler would split the network's arithmetic as the parameters are split,
    and communicate in every layer.
    """

    def gathered(params, stats, x, /, *, train, key):
        params, stats = lax.with_sharding_constraint((params, stats), whole)
        return apply(params, stats, x, train=train, key=key)

    return gathered


def _tell(row: Row, emit: Callable[[Row], None], bar: Any, log_every: int) -> None:
    """Logs a row, and refuses to go on where its loss is not finite."""
    emit(row)
    bar.set_postfix(loss=f"{row['loss']:.4g}", accuracy=f"{row['accuracy']:.3f}")
    if not math.isfinite(row["loss"]):
        raise FloatingPointError(
            f"the loss is {row['loss']} in the {log_every} steps up to {row['step']}"
        )


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
