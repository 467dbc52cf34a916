"""The training loop, measured on the way if asked, inside one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree


class Fit(NamedTuple):
    """What a training run gives.

    Attributes:
      params: the trained parameters.
      losses: the loss on each step's batch before its update, (steps,).
      measured: what ``measure`` gave, with a leading axis over ``at``; None without it.
    """

    params: PyTree[Array]
    losses: Float[Array, " steps"]
    measured: PyTree[Array] = None


def log_steps(steps: int, /, *, per_octave: int = 1) -> tuple[int, ...]:
    """Steps at which to measure a run: 0, then spaced by ratio, and the last.

    Args:
      steps: of the run, zero or more.
      per_octave: measurements for each doubling of the step, at least 1.

    Returns:
      Different steps in order, from 0 to ``steps``.

    Raises:
      ValueError: if ``steps`` is negative or ``per_octave`` below 1.

    Example:
      >>> log_steps(100)
      (0, 1, 2, 4, 8, 16, 32, 64, 100)
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0; got {steps}")
    if per_octave < 1:
        raise ValueError(f"per_octave must be at least 1; got {per_octave}")
    count = int(np.log2(max(steps, 1)) * per_octave) + 1
    spaced = {round(2 ** (i / per_octave)) for i in range(count)}
    return tuple(sorted({0, steps} | {step for step in spaced if step < steps}))


def batch_order(
    key: Key[Array, ""], /, n: int, *, steps: int, batch_size: int
) -> Int[Array, "s b"]:
    """The examples of each step's batch: every epoch is a fresh permutation.

    Args:
      key: PRNG key.
      n: the number of examples.
      steps: the number of batches.
      batch_size: examples a batch, at most ``n``.

    Returns:
      Indices (steps, batch_size); those left over at the end of an epoch are not used in it.

    Raises:
      ValueError: if a batch is larger than the data set.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be from 1 to the {n} examples; got {batch_size}")
    per_epoch = n // batch_size
    epochs = -(-steps // per_epoch)
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, max(epochs, 1)))
    return orders[:, : per_epoch * batch_size].reshape(-1, batch_size)[:steps]


def fit(
    loss: Callable[[PyTree[Array], Array, Array], Float[Array, ""]],
    params: PyTree[Array],
    x: Float[Array, "n ..."],
    y: Int[Array, " n"],
    /,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    key: Key[Array, ""],
    measure: Callable[[PyTree[Array]], Any] | None = None,
    at: tuple[int, ...] | None = None,
) -> Fit:
    """Trains parameters by stochastic gradients, and measures them on the way if asked.

    Pure: it can be jitted, and vmapped over keys and parameters (an ensemble is one vmap). Step and
    measurement are each compiled once, whatever the number of either: a scan over the stretches
    between measurements, with a loop over the steps of a stretch inside.

    Args:
      loss: ``loss(params, x, y) -> scalar``, the mean over a batch.
      params: a pytree of float arrays.
      x: inputs.
      y: labels.
      optimizer: an optax transformation.
      steps: the number of updates, zero or more.
      batch_size: examples a step.
      key: PRNG key of the batches' order.
      measure: from parameters to any pytree of arrays; nothing is measured by default.
      at: numbers of steps done when it is called, increasing; `log_steps` of the run by default.

    Returns:
      `Fit`: the parameters after the last step, the loss of each step, and what was measured.

    Raises:
      ValueError: if ``steps`` is negative, ``at`` is not increasing from 0 to ``steps`` at most, or
        a batch is larger than the data set.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0; got {steps}")
    marks = log_steps(steps) if at is None else at
    if not marks or list(marks) != sorted(set(marks)) or marks[0] < 0 or marks[-1] > steps:
        raise ValueError(f"at must be increasing steps from 0 to {steps}; got {marks}")
    order = batch_order(key, len(x), steps=steps, batch_size=batch_size)

    def step(i, carry):
        params, state, losses = carry
        value, grads = jax.value_and_grad(loss)(params, x[order[i]], y[order[i]])
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, losses.at[i].set(value)

    dtype = jax.eval_shape(loss, params, x[:batch_size], y[:batch_size]).dtype
    carry = (params, optimizer.init(params), jnp.zeros(steps, dtype))
    measured, done = None, 0
    if measure is not None:

        def stretch(carry, ends):
            carry = lax.fori_loop(ends[0], ends[1], step, carry)
            return carry, measure(carry[0])

        ends = jnp.asarray(list(zip((0, *marks[:-1]), marks, strict=True)), jnp.int32)
        carry, measured = lax.scan(stretch, carry, ends)
        done = marks[-1]
    if done < steps:
        carry = lax.fori_loop(done, steps, step, carry)
    return Fit(carry[0], carry[2], measured)


def cross_entropy(
    logits: Float[Array, "n c"], labels: Int[Array, " n"], /, *, label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Mean cross-entropy of a batch, in nats.

    With smoothing a, the target is 1 - a + a / c on the label and a / c on each other class.

    Args:
      logits: unnormalized log probabilities.
      labels: integer classes.
      label_smoothing: a, from 0 to below 1.

    Returns:
      The mean of ``-sum(target * log softmax(logits))``.

    Raises:
      ValueError: if ``label_smoothing`` is out of its range.

    Reference:
      Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be from 0 to below 1; got {label_smoothing}")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        # mean over classes of -log softmax
        uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    return jnp.mean(losses)


def accuracy(logits: Float[Array, "n c"], labels: Int[Array, " n"], /) -> Float[Array, ""]:
    """The share of a batch whose largest logit is the label's; none is where a logit is NaN.

    Args:
      logits: unnormalized log probabilities.
      labels: integer classes.

    Returns:
      A number from 0 to 1, in the dtype of ``logits``.
    """
    return jnp.mean(is_right(logits, labels).astype(logits.dtype))


def is_right(logits: Float[Array, "n c"], labels: Int[Array, " n"]) -> Bool[Array, " n"]:
    """Whether each largest logit is the label's; not where a logit is NaN."""
    return (jnp.argmax(logits, axis=-1) == labels) & ~jnp.isnan(jnp.max(logits, axis=-1))
