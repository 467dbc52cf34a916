"""Training that is measured on the way, inside one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxact.training._loop import batch_order, update


class Followed(NamedTuple):
    """What a followed training run gives.

    Attributes:
      params: the parameters after the last step.
      losses: the loss on each step's batch before its update, (steps,).
      measured: what ``measure`` gave, with a leading axis over ``at``.
    """

    params: PyTree[Array]
    losses: Float[Array, " steps"]
    measured: PyTree[Array]


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


def follow(
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
    measure: Callable[[PyTree[Array]], Any],
    at: tuple[int, ...] | None = None,
) -> Followed:
    """Trains parameters as `fit` does, and measures them at given steps without leaving the device.

    Step and measurement are each compiled once, whatever the number of either: a scan over the
    stretches between measurements, with a loop over the steps of a stretch inside. Pure: it can be
    jitted, and vmapped over keys and parameters.

    Args:
      loss: ``loss(params, x, y) -> scalar``, the mean over a batch.
      params: a pytree of float arrays.
      x: inputs.
      y: labels.
      optimizer: an optax transformation.
      steps: the number of updates, zero or more.
      batch_size: examples a step.
      key: PRNG key of the batches' order, which is that of `fit`.
      measure: from parameters to any pytree of arrays.
      at: numbers of steps done when it is called, increasing; `log_steps` of the run by default.

    Returns:
      `Followed`.

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
        params, state, value = update(loss, optimizer, params, state, x[order[i]], y[order[i]])
        return params, state, losses.at[i].set(value)

    def stretch(carry, ends):
        carry = lax.fori_loop(ends[0], ends[1], step, carry)
        return carry, measure(carry[0])

    dtype = jax.eval_shape(loss, params, x[:batch_size], y[:batch_size]).dtype
    carry = (params, optimizer.init(params), jnp.zeros(steps, dtype))
    ends = jnp.asarray(list(zip((0, *marks[:-1]), marks, strict=True)), jnp.int32)
    carry, measured = lax.scan(stretch, carry, ends)
    if marks[-1] < steps:
        carry = lax.fori_loop(marks[-1], steps, step, carry)
    return Followed(carry[0], carry[2], measured)
