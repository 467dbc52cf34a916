"""One step against the same written out, its parts, and what it composes with."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxact import training

SGD = optax.sgd(0.1)


def _begin(network, **options):
    recipe = training.Recipe(network.apply, SGD, **options)
    return recipe, training.init(recipe, network.params, network.stats, key=jax.random.key(0))


def _step(recipe):
    return jax.jit(functools.partial(training.step, recipe))


def test_step_is_gradient_descent_with_the_batch_statistics(network, data):
    recipe, state = _begin(network)
    after, metrics = _step(recipe)(state, *data)

    def loss(params):
        logits, stats = network.apply(
            params, network.stats, data[0], train=True, key=jax.random.key(9)
        )
        picked = jax.nn.log_softmax(logits)[jnp.arange(50), data[1]]
        return -jnp.mean(picked), stats

    (value, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(network.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, network.params, grads)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(after.stats, stats)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
    assert after.step == 1
    assert np.isnan(metrics.learning_rate)


def test_step_composes_with_jit_scan_and_vmap(network, data):
    recipe, state = _begin(network, augment=lambda key, x: x + jax.random.normal(key, x.shape))

    def twice(state):
        def body(state, _):
            return training.step(recipe, state, *data)

        return jax.lax.scan(body, state, length=2)

    one, _ = _step(recipe)(state, *data)
    two, last = _step(recipe)(one, *data)
    scanned, rows = jax.jit(twice)(state)
    chex.assert_trees_all_close(scanned._replace(key=0), two._replace(key=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows.loss[1], last.loss, rtol=1e-5)
    pair = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    both, _ = jax.jit(jax.vmap(lambda s: training.step(recipe, s, *data)))(pair)
    chex.assert_trees_all_close(
        jax.tree.map(lambda a: a[1], both.params), one.params, rtol=1e-4, atol=1e-6
    )


def test_augmentation_has_a_new_key_each_step_and_none_in_evaluation(network, data):
    recipe, state = _begin(network, augment=lambda key, x: x + jax.random.normal(key, x.shape))
    same = state._replace(step=jnp.ones((), jnp.int32))
    losses = [_step(recipe)(s, *data)[1].loss for s in (state, same, state)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
    plain, _ = _begin(network)
    scores = [
        training.evaluate(r, state.params, state.stats, *data, batch_size=50)
        for r in (recipe, plain)
    ]
    chex.assert_trees_all_equal(*scores)


def test_mixed_precision_keeps_what_is_stored_in_float32(network, data, standard_promotion):
    seen = []

    def apply(params, stats, x, /, **options):
        seen.append({a.dtype for a in jax.tree.leaves((params, x))})
        return network.apply(params, stats, x, **options)

    half = training.Recipe(apply, SGD, compute_dtype=jnp.bfloat16, ema_decay=0.9)
    state = training.init(half, network.params, network.stats, key=jax.random.key(0))
    after, metrics = _step(half)(state, *data)
    assert all(dtypes == {jnp.dtype(jnp.bfloat16)} for dtypes in seen)
    assert seen
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert metrics.loss.dtype == jnp.float32
    full, _ = _begin(network)
    whole, expected = _step(full)(_begin(network)[1], *data)
    np.testing.assert_allclose(metrics.loss, expected.loss, rtol=2e-2)
    chex.assert_trees_all_close(after.params, whole.params, atol=5e-3)


def test_moving_averages(network, data):
    recipe, state = _begin(network, ema_decay=0.5)
    mean = network.params
    step = _step(recipe)
    for t in range(8):
        state, _ = step(state, *data)
        keep = min(0.5, (1 + t) / (10 + t))
        mean = jax.tree.map(lambda m, p, k=keep: k * m + (1 - k) * p, mean, state.params)
    assert state.ema is not None
    chex.assert_trees_all_close(state.ema.params, mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(state.ema.params, state.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decay(network, decay):
    with pytest.raises(ValueError, match="ema_decay must be from 0 to below 1"):
        _begin(network, ema_decay=decay)


def test_bad_compute_dtype(network):
    with pytest.raises(ValueError, match="compute_dtype must be a floating dtype; got int8"):
        _begin(network, compute_dtype="int8")


def test_label_smoothing_is_cross_entropy_with_smoothed_targets():
    logits = jax.random.normal(jax.random.key(0), (6, 5)) * 3
    labels = jnp.array([0, 1, 2, 3, 4, 0])
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1)
    expected = jnp.mean(optax.softmax_cross_entropy(logits, targets))
    found = training.cross_entropy(logits, labels, label_smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"label_smoothing must be from 0 to below 1; got 1.0"):
        training.cross_entropy(logits, labels, label_smoothing=1.0)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_evaluation_counts_every_example_once(network, data, batch_size):
    recipe, state = _begin(network)
    logits, _ = network.apply(
        state.params, state.stats, data[0], train=False, key=jax.random.key(0)
    )
    expected = [training.cross_entropy(logits, data[1]), training.accuracy(logits, data[1])]
    found = training.evaluate(recipe, state.params, state.stats, *data, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    x, y = map(np.asarray, data)
    batches = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, 50, batch_size)]
    found = training.evaluate_batches(recipe, state.params, state.stats, batches)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_evaluation_of_nothing(network):
    recipe, state = _begin(network)
    with pytest.raises(ValueError, match="batches must hold at least one"):
        training.evaluate_batches(recipe, state.params, state.stats, [])
