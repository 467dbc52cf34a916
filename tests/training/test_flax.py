"""Flax NNX modules as pure functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxact import training


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs, momentum=0.9)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


def test_statistics_are_explicit_and_the_module_stays(data, standard_promotion):
    module = Net(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    apply, params, stats, merge = training.functional(module)
    key = jax.random.key(0)
    _, after = jax.jit(lambda p, s, x: apply(p, s, x, train=True, key=key))(params, stats, data[0])
    h = data[0] @ module.linear.kernel[...] + module.linear.bias[...][None]
    norm = after["norm"]
    np.testing.assert_allclose(norm["mean"][...], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm["var"][...], 0.9 + 0.1 * h.var(0), rtol=1e-4)
    now = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    chex.assert_trees_all_equal(before, now)
    module.eval()
    logits, same = apply(params, stats, data[0], train=False, key=key)
    np.testing.assert_allclose(logits, module(data[0]), rtol=1e-6)
    chex.assert_trees_all_equal(same["norm"], stats["norm"])
    again = merge(params, stats)
    again.eval()
    np.testing.assert_array_equal(again(data[0]), logits)


def test_a_module_trains_in_the_compiled_loop(data, standard_promotion):
    apply, params, stats, _ = training.functional(Net(nnx.Rngs(0)))
    recipe = training.Recipe(apply, training.optimizer("adamw", 0.05), ema_decay=0.9)
    state = training.init(recipe, params, stats, key=jax.random.key(0))
    feed = training.ArrayFeed(*data, batch_size=25, key=jax.random.key(1))
    state = training.train(recipe, state, feed, steps=150)
    score = training.evaluate(recipe, state.params, state.stats, *data, batch_size=50)
    assert score.accuracy > 0.9
    assert jnp.any(state.stats["norm"]["mean"][...] != 0)
