"""One training step: a pure function from a state and a batch to the next state."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, DTypeLike, Float, Int, Key, PyTree, Shaped

from jaxact.training._augment import Augment
from jaxact.training._loop import accuracy, cross_entropy


@runtime_checkable
class Apply(Protocol):
    """A network as a pure function."""

    def __call__(
        self, params: PyTree, stats: PyTree, x: Array, /, *, train: bool, key: Key[Array, ""]
    ) -> tuple[Array, PyTree]:
        """The network's logits, and its statistics after this batch.

        Args:
          params: what the optimizer trains.
          stats: what it does not: running statistics of batch norms, or an empty tree.
          x: a batch of inputs.
          train: whether batch statistics are used and updated, and noise is drawn.
          key: PRNG key of that noise.
        """
        ...


class Average(NamedTuple):
    """Exponential moving averages of parameters and statistics."""

    params: PyTree[Array]
    stats: PyTree[Array]


class State(NamedTuple):
    """All that a training run carries from step to step, as one pytree.

    Attributes:
      step: updates done.
      key: PRNG key of the run; the step's own is derived from it and ``step``.
      params: the parameters, in the dtype they are stored in.
      stats: running statistics of batch norms; an empty tree where there are none.
      opt_state: optax's.
      ema: moving averages, or None.
    """

    step: Int[Array, ""]
    key: Key[Array, ""]
    params: PyTree[Array]
    stats: PyTree[Array]
    opt_state: Any
    ema: Average | None


class Metrics(NamedTuple):
    """What a step reports of its batch, before its update.

    Attributes:
      loss: the loss.
      accuracy: the share of the batch that is classified rightly.
      grad_norm: the Euclidean norm of the whole gradient, before clipping.
      learning_rate: of this step; NaN if the recipe does not tell it.
    """

    loss: Float[Array, "..."]
    accuracy: Float[Array, "..."]
    grad_norm: Float[Array, "..."]
    learning_rate: Float[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained; the static part of a run.

    Attributes:
      apply: the network.
      optimizer: an optax transformation.
      loss: ``loss(logits, labels) -> scalar``.
      augment: ``augment(key, x) -> x`` on training batches, or None.
      prepare: ``prepare(x) -> x`` on every batch, after augmentation (standardization, reshaping),
        or None.
      compute_dtype: the floating dtype that parameters and inputs are cast to for the network, such
        as ``jnp.bfloat16``; the parameters themselves, the statistics, the loss and the update keep
        theirs. None casts nothing.
      ema_decay: the decay of the moving averages, from 0 to below 1, or None for no averages. In
        step t it is at most (1 + t) / (10 + t), so that the first values fade.
      learning_rate: the schedule, only to be reported in the metrics.
    """

    apply: Apply
    optimizer: optax.GradientTransformation
    loss: Callable[[Float[Array, "n c"], Int[Array, " n"]], Float[Array, ""]] = cross_entropy
    augment: Augment | None = None
    prepare: Callable[[Shaped[Array, "n ..."]], Float[Array, "n ..."]] | None = None
    compute_dtype: DTypeLike | None = None
    ema_decay: float | None = None
    learning_rate: optax.Schedule | None = None

    def __post_init__(self):
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be from 0 to below 1, or None; got {self.ema_decay}")
        if self.compute_dtype is not None and not jnp.issubdtype(self.compute_dtype, jnp.floating):
            raise ValueError(f"compute_dtype must be a floating dtype; got {self.compute_dtype}")


def init(
    recipe: Recipe, params: PyTree[Array], stats: PyTree[Array], /, *, key: Key[Array, ""]
) -> State:
    """The state before the first step.

    Args:
      recipe: how to train.
      params: the network's parameters.
      stats: its statistics.
      key: PRNG key of the run.

    Returns:
      A `State` that shares no buffer with the arguments.
    """
    params, stats = jax.tree.map(lambda a: jnp.array(a, copy=True), (params, stats))
    ema = None
    if recipe.ema_decay is not None:
        ema = Average(*jax.tree.map(lambda a: jnp.array(a, copy=True), (params, stats)))
    return State(
        jnp.zeros((), jnp.int32),
        jax.random.clone(key),
        params,
        stats,
        recipe.optimizer.init(params),
        ema,
    )


def forward(
    recipe: Recipe,
    params: PyTree[Array],
    stats: PyTree[Array],
    x: Shaped[Array, "n ..."],
    /,
    *,
    train: bool,
    key: Key[Array, ""],
) -> tuple[Float[Array, "n c"], PyTree[Array]]:
    """Logits in at least float32 and the next statistics, computed in the recipe's dtype.

    Args:
      recipe: how to train.
      params: the network's parameters.
      stats: its statistics.
      x: a batch, as the data set gives it.
      train: as `Apply` takes it.
      key: as `Apply` takes it.

    Returns:
      The logits, and the statistics in the dtypes of ``stats``.
    """
    if recipe.prepare is not None:
        x = recipe.prepare(x)
    logits, after = recipe.apply(
        _cast(params, recipe.compute_dtype),
        stats,
        _cast(x, recipe.compute_dtype),
        train=train,
        key=key,
    )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return logits, jax.tree.map(_as_before, after, stats)


def step(
    recipe: Recipe, state: State, x: Shaped[Array, "n ..."], y: Int[Array, " n"], /
) -> tuple[State, Metrics]:
    """One update of the state.

    Pure: it can be jitted, scanned, and vmapped over states.

    Args:
      recipe: how to train.
      state: the state before.
      x: a batch of inputs.
      y: its labels.

    Returns:
      The state after, and the batch's `Metrics`.
    """
    augment_key, apply_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    if recipe.augment is not None:
        x = recipe.augment(augment_key, x)

    def objective(params):
        logits, stats = forward(recipe, params, state.stats, x, train=True, key=apply_key)
        return recipe.loss(logits, y), (logits, stats)

    (loss, (logits, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    rate = np.float32(np.nan) if recipe.learning_rate is None else recipe.learning_rate(state.step)
    metrics = Metrics(
        loss, accuracy(logits, y), optax.tree.norm(grads), jnp.asarray(rate, jnp.float32)
    )
    ema = _average(state, recipe.ema_decay, params, stats)
    return State(state.step + 1, state.key, params, stats, opt_state, ema), metrics


def _cast(tree: Any, dtype: DTypeLike | None) -> Any:
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def _as_before(new: Array, old: Array) -> Array:
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _average(
    state: State, decay: float | None, params: PyTree[Array], stats: PyTree[Array]
) -> Average | None:
    if decay is None or state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(jnp.float32(decay), (1 + t) / (10 + t))

    def mix(old, new):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        share = (1 - keep).astype(old.dtype)
        return old + share * (new - old)

    return Average(*jax.tree.map(mix, tuple(state.ema), (params, stats)))
