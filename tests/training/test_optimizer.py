"""Schedules and optimizers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import training


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("constant", lambda t: 1.0),
        ("cosine", lambda t: (1 + np.cos(np.pi * t)) / 2),
        ("linear", lambda t: 1 - t),
    ],
)
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules(name, formula, warmup):
    rate = training.schedule(name, peak=0.5, steps=20, warmup_steps=warmup)
    found = [float(rate(s)) for s in range(20)]
    expected = [
        0.5 * (s / warmup if s < warmup else formula((s - warmup) / (20 - warmup)))
        for s in range(20)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 4])
def test_step_schedule_falls_at_the_milestones(warmup):
    rate = training.schedule(
        "step", peak=1.0, steps=20, warmup_steps=warmup, milestones=(0.5, 0.75), factor=0.1
    )
    found = np.array([float(rate(s)) for s in range(warmup, 20)])
    s = np.arange(warmup, 20)
    np.testing.assert_allclose(found, np.where(s < 10, 1, np.where(s < 15, 0.1, 0.01)), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="exponential"), "schedule must be one of constant, .* got 'exponential'"),
        (dict(peak=0.0), "peak must be positive and finite; got 0.0"),
        (dict(peak=float("nan")), "peak must be positive and finite; got nan"),
        (dict(steps=0), "steps must be at least 1; got 0"),
        (dict(warmup_steps=20), "warmup_steps must be from 0 to steps - 1 = 19; got 20"),
        (dict(milestones=(0.7, 0.5)), "milestones must be increasing shares"),
        (dict(milestones=(1.0,)), "milestones must be increasing shares"),
        (dict(milestones=(0.1,), warmup_steps=4), "milestones must come after the 4 warm-up"),
        (dict(factor=0.0), "factor must be positive"),
    ],
)
def test_bad_schedules(options, message):
    options = {"name": "step", "peak": 1.0, "steps": 20} | options
    with pytest.raises(ValueError, match=message):
        training.schedule(options.pop("name"), **options)


def _params():
    return {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((4, 3), 2.0)}


def _update(optimizer, grads):
    params = _params()
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_sgd_adds_decay_to_the_gradient_of_kernels_only():
    optimizer = training.optimizer("sgd", 0.1, weight_decay=0.5, momentum=0.0)
    updates = _update(optimizer, jax.tree.map(jnp.ones_like, _params()))
    np.testing.assert_allclose(updates["kernel"], -0.1 * (1 + 0.5 * 2), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_decoupled_decay_acts_on_kernels_only(name, standard_promotion):
    grads = jax.tree.map(jnp.zeros_like, _params())
    updates = _update(training.optimizer(name, 0.1, weight_decay=0.5), grads)
    assert np.all(updates["kernel"] < 0)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_clipping_scales_the_whole_gradient():
    optimizer = training.optimizer("sgd", 1.0, clip_norm=1.0, momentum=0.0)
    updates = _update(optimizer, jax.tree.map(lambda p: 10 * p, _params()))
    norm = np.sqrt(sum(np.sum(np.square(u)) for u in updates.values()))
    np.testing.assert_allclose(norm, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="adamax"), "optimizer must be one of sgd, .* got 'adamax'"),
        (dict(weight_decay=-1.0), "weight_decay must be at least 0"),
        (dict(clip_norm=0.0), "clip_norm must be positive"),
        (dict(momentum=1.0), "momentum must be from 0 to below 1"),
    ],
)
def test_bad_optimizers(options, message):
    options = {"name": "sgd"} | options
    with pytest.raises(ValueError, match=message):
        training.optimizer(options.pop("name"), 0.1, **options)
