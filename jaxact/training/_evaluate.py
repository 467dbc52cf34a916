"""Loss and accuracy on a whole data set."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from jaxact.training._loop import is_right
from jaxact.training._step import Recipe, State, forward


class Score(NamedTuple):
    """Means over a data set.

    Attributes:
      loss: mean cross-entropy in nats, without label smoothing.
      accuracy: the share that is classified rightly.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def evaluate(
    recipe: Recipe,
    params: PyTree[Array],
    stats: PyTree[Array],
    x: Shaped[Array, "n ..."],
    y: Int[Array, " n"],
    /,
    *,
    batch_size: int,
) -> Score:
    """Scores a network on arrays, batch by batch in one scan; every example counts once.

    Args:
      recipe: how the network is applied.
      params: its parameters.
      stats: its statistics, which are used and not updated.
      x: inputs.
      y: labels.
      batch_size: examples at a time, at least 1; the last batch is filled up and masked.

    Returns:
      The `Score`.

    Raises:
      ValueError: if ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    n = len(x)
    batch_size = min(batch_size, n)
    missing = -n % batch_size

    def batches(a):
        filled = jnp.concatenate([a, jnp.repeat(a[:1], missing, axis=0)]) if missing else a
        return filled.reshape(-1, batch_size, *a.shape[1:])

    counted = (jnp.arange(n + missing) < n).reshape(-1, batch_size)

    def add(total, batch):
        x, y, counted = batch
        return jax.tree.map(jnp.add, total, _sums(recipe, params, stats, x, y, counted)), None

    total, _ = lax.scan(add, _ZERO, (batches(x), batches(y), counted))
    return Score(total.loss / n, total.accuracy / n)


def evaluate_batches(
    recipe: Recipe,
    params: PyTree[Array],
    stats: PyTree[Array],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    /,
) -> Score:
    """Scores a network on batches from the host, such as a folder's; every example counts once.

    Args:
      recipe: how the network is applied.
      params: its parameters.
      stats: its statistics, which are used and not updated.
      batches: pairs of inputs and labels, none larger than the first.

    Returns:
      The `Score`.

    Raises:
      ValueError: if there is no batch.
    """
    total, n, size = _ZERO, 0, 0
    for x, y in batches:
        n += len(x)
        size = size or len(x)
        missing = [(0, size - len(x))]
        counted = np.arange(size) < len(x)
        x = np.pad(x, missing + [(0, 0)] * (x.ndim - 1))
        total = jax.tree.map(
            jnp.add, total, _compiled_sums(recipe, params, stats, x, np.pad(y, missing), counted)
        )
    if not n:
        raise ValueError("batches must hold at least one; got none")
    return Score(total.loss / n, total.accuracy / n)


_ZERO = Score(np.zeros((), np.float32), np.zeros((), np.float32))  # pyright: ignore


def _sums(recipe: Recipe, params: Any, stats: Any, x: Array, y: Array, counted: Array) -> Score:
    logits, _ = forward(recipe, params, stats, x, train=False, key=jax.random.key(0))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    right = is_right(logits, y)
    return Score(
        jnp.sum(jnp.where(counted, losses, 0)).astype(jnp.float32),
        jnp.sum(counted & right).astype(jnp.float32),
    )


_compiled_sums = jax.jit(_sums, static_argnums=0)


def scorer(
    recipe: Recipe,
    x: Shaped[Array, "n ..."] | Shaped[np.ndarray, "n ..."],
    y: Int[Array, " n"] | Int[np.ndarray, " n"],
    /,
    *,
    batch_size: int,
) -> Callable[[State], dict[str, np.floating]]:
    """A measurement of a run: the test score of its parameters, and of their moving averages.

    Args:
      recipe: how to train.
      x: test inputs.
      y: their labels.
      batch_size: examples at a time.

    Returns:
      A function from a `State` to ``test_loss`` and ``test_accuracy``, with ``ema_test_loss`` and
      ``ema_test_accuracy`` where averages are kept. It compiles once.
    """
    score = jax.jit(lambda p, s, x, y: evaluate(recipe, p, s, x, y, batch_size=batch_size))
    x, y = jnp.asarray(x), jnp.asarray(y)
    return by_average(lambda params, stats: score(params, stats, x, y))


def by_average(score: Callable[[Any, Any], Score], /) -> Callable[[State], dict[str, np.floating]]:
    """A measurement of a run from a function of parameters and statistics.

    Args:
      score: ``score(params, stats) -> Score``.

    Returns:
      A function from a `State`, as `scorer` gives.
    """

    def measure(state: State) -> dict[str, np.floating]:
        found = {}
        for prefix, holder in (("", state), ("ema_", state.ema)):
            if holder is not None:
                for name, value in score(holder.params, holder.stats)._asdict().items():
                    found[f"{prefix}test_{name}"] = np.asarray(value)[()]
        return found

    return measure
