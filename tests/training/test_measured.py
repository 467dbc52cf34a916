"""Training measured on the way is the same training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxact import training

X = jax.random.normal(jax.random.key(0), (20, 3))
Y = jnp.arange(20) % 2
PARAMS = {"w": jax.random.normal(jax.random.key(1), (3, 2))}
OPTIONS = dict(optimizer=optax.sgd(0.1), batch_size=4, key=jax.random.key(2))


def loss(params, x, y):
    return training.cross_entropy(x @ params["w"], y)


def test_measuring_changes_nothing_of_the_training():
    fit = jax.jit(lambda p: training.fit(loss, p, X, Y, steps=11, **OPTIONS))(PARAMS)
    followed = jax.jit(
        lambda p: training.fit(loss, p, X, Y, steps=11, measure=lambda p: p["w"], **OPTIONS)
    )(PARAMS)
    chex.assert_trees_all_close(tuple(followed)[:2], tuple(fit)[:2], rtol=1e-5)


@pytest.mark.parametrize("at", [(0, 1, 2, 4, 7), (3,), (0, 5)])
def test_it_measures_after_the_steps_named(at):
    followed = jax.jit(
        lambda p: training.fit(loss, p, X, Y, steps=7, measure=dict, at=at, **OPTIONS)
    )(PARAMS)
    for number, steps in enumerate(at):
        # The order of an epoch's batches does not depend on how many steps are taken.
        alone = training.fit(loss, PARAMS, X, Y, steps=steps, **OPTIONS)
        np.testing.assert_allclose(followed.measured["w"][number], alone.params["w"], rtol=1e-5)


@pytest.mark.parametrize("at", [(), (1, 1), (2, 1), (-1, 2), (0, 8)])
def test_steps_out_of_order_or_range_are_refused(at):
    with pytest.raises(ValueError, match="at must be increasing steps from 0 to 7"):
        training.fit(loss, PARAMS, X, Y, steps=7, measure=dict, at=at, **OPTIONS)


def test_logarithmic_steps():
    assert training.log_steps(0) == (0,)
    assert training.log_steps(1) == (0, 1)
    assert training.log_steps(8) == (0, 1, 2, 4, 8)
    dense = training.log_steps(1000, per_octave=4)
    assert dense[0] == 0
    assert dense[-1] == 1000
    assert max(np.diff(np.log2(dense[8:]))) < 0.5
    for steps, per_octave in ((-1, 1), (4, 0)):
        with pytest.raises(ValueError, match="must be at least"):
            training.log_steps(steps, per_octave=per_octave)
