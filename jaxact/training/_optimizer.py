"""Schedules and optimizers by name, built of optax's."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

SCHEDULES = ("constant", "cosine", "linear", "step")
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lion")
_DECAYED = ("kernel", "weight", "embedding", "w")


def schedule(
    name: str,
    /,
    *,
    peak: float,
    steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """The learning rate by step: a linear warm-up from zero, then a schedule by name.

    Args:
      name: ``"constant"``; ``"cosine"`` (to zero); ``"linear"`` (to zero); ``"step"`` (multiplied
        by ``factor`` at each milestone).
      peak: the largest rate, positive.
      steps: of the whole run, warm-up included, at least 1.
      warmup_steps: steps of the linear rise from 0 to ``peak``, fewer than ``steps``.
      milestones: of ``"step"``, as increasing shares of ``steps``, between 0 and 1.
      factor: of ``"step"``, positive.

    Returns:
      An optax schedule, a function of the step.

    Raises:
      ValueError: if the name is unknown or a value is out of its range.

    Example:
      >>> rate = schedule("step", peak=1.0, steps=8)
      >>> [round(float(rate(s)), 4) for s in (0, 3, 4, 6)]
      [1.0, 1.0, 0.1, 0.01]
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {name!r}")
    if not 0 < peak < np.inf:
        raise ValueError(f"peak must be positive and finite; got {peak}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps must be from 0 to steps - 1 = {steps - 1}; got {warmup_steps}"
        )
    rest = steps - warmup_steps
    if name == "constant":
        after = optax.constant_schedule(peak)
    elif name == "cosine":
        after = optax.cosine_decay_schedule(peak, rest)
    elif name == "linear":
        after = optax.linear_schedule(peak, 0.0, rest)
    else:
        shares = list(milestones)
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError(
                f"milestones must be increasing shares between 0 and 1; got {tuple(milestones)}"
            )
        if not 0 < factor < np.inf:
            raise ValueError(f"factor must be positive and finite; got {factor}")
        edges = {round(share * steps) - warmup_steps: factor for share in shares}
        if min(edges, default=1) < 1:
            raise ValueError(
                f"milestones must come after the {warmup_steps} warm-up steps; "
                f"got {tuple(milestones)} of {steps}"
            )
        after = optax.piecewise_constant_schedule(peak, edges)
    if not warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([rise, after], [warmup_steps])


def decay_mask(params: PyTree, /) -> PyTree[bool]:
    """Which parameters weight decay acts on: kernels and embeddings, not biases, scales or gains.

    Chosen by name, since in a stack of layers a bias has two axes too.

    Args:
      params: the parameters.

    Returns:
      The same tree of booleans, True where the last name in a leaf's path is ``kernel``,
      ``weight``, ``embedding`` or ``w``.

    Example:
      >>> decay_mask({"kernel": np.ones((2, 2)), "bias": np.ones(2)})
      {'bias': False, 'kernel': True}
    """

    def decayed(path, leaf):
        names = [_name(entry) for entry in path]
        names = [name for name in names if isinstance(name, str) and name != "value"]
        return bool(names) and names[-1] in _DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def _name(entry: Any) -> Any:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return None


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    /,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    mask: Callable[[PyTree], PyTree] = decay_mask,
) -> optax.GradientTransformation:
    """An optax optimizer with weight decay and clipping of the gradient's norm.

    Decay is added to the gradient for ``"sgd"`` and ``"adam"`` (L2 regularization, as He et al.
    2015 train) and to the update for the others (decoupled, Loshchilov & Hutter 2019).

    Args:
      name: ``"sgd"``, ``"adam"``, ``"adamw"``, ``"lamb"`` or ``"lion"``.
      learning_rate: a number or an optax schedule.
      weight_decay: its factor, zero or more.
      clip_norm: the largest global norm of the gradient, positive; None for no clipping.
      momentum: of ``"sgd"``, from 0 to below 1.
      nesterov: of ``"sgd"``.
      mask: from parameters to the tree of those that decay.

    Returns:
      An optax transformation.

    Raises:
      ValueError: if the name is unknown or a value is out of its range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {name!r}")
    if not 0 <= weight_decay < np.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite; got {weight_decay}")
    if clip_norm is not None and not 0 < clip_norm < np.inf:
        raise ValueError(f"clip_norm must be positive and finite, or None; got {clip_norm}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be from 0 to below 1; got {momentum}")
    chain = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if name in ("sgd", "adam"):
        if weight_decay:
            chain.append(optax.add_decayed_weights(weight_decay, mask))
        chain.append(
            optax.sgd(learning_rate, momentum or None, nesterov=nesterov)
            if name == "sgd"
            else optax.adam(learning_rate)
        )
    else:
        decoupled = {"adamw": optax.adamw, "lamb": optax.lamb, "lion": optax.lion}[name]
        chain.append(decoupled(learning_rate, weight_decay=weight_decay, mask=mask))
    return optax.chain(*chain)
