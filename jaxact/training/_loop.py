"""The training loop: one compiled scan over the steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree


class Fit(NamedTuple):
    """What a training run gives.

    Attributes:
      params: the trained parameters.
      losses: the loss on each step's batch before its update, (steps,).
    """

    params: PyTree[Array]
    losses: Float[Array, " steps"]


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


def update(
    loss: Callable[[PyTree[Array], Array, Array], Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    params: PyTree[Array],
    state: Any,
    x: Array,
    y: Array,
) -> tuple[Any, Any, Float[Array, ""]]:
    """Parameters and the optimizer's state after one batch, and the loss before."""
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


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
) -> Fit:
    """Trains parameters by stochastic gradients.

    Pure: it can be jitted, and vmapped over keys and parameters (an ensemble is one vmap).

    Args:
      loss: ``loss(params, x, y) -> scalar``, the mean over a batch.
      params: a pytree of float arrays.
      x: inputs.
      y: labels.
      optimizer: an optax transformation.
      steps: the number of updates, zero or more.
      batch_size: examples a step.
      key: PRNG key of the batches' order.

    Returns:
      `Fit`: the parameters after the last step and the loss of each step.

    Raises:
      ValueError: if ``steps`` is negative or a batch is larger than the data set.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0; got {steps}")
    order = batch_order(key, len(x), steps=steps, batch_size=batch_size)

    def step(carry, index):
        params, state = carry
        params, state, value = update(loss, optimizer, params, state, x[index], y[index])
        return (params, state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), order)
    return Fit(params, losses)


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
    """The share of a batch whose largest logit is the label's.

    Args:
      logits: unnormalized log probabilities.
      labels: integer classes.

    Returns:
      A number from 0 to 1, in the dtype of ``logits``.
    """
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype))
