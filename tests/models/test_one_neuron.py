"""One neuron a block fits what a plain network of equal width cannot (Lin & Jegelka 2018)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxact import analysis, models

SEEDS = 16
pytestmark = pytest.mark.usefixtures("standard_promotion")


def ball(n, seed):
    """The unit disc (1), and the ring from radius 2 to 3 around it (0)."""
    draw = np.random.default_rng(seed)
    label = np.arange(n) % 2
    radius = np.where(label, np.sqrt(draw.uniform(size=n)), draw.uniform(2, 3, size=n))
    angle = draw.uniform(0, 2 * np.pi, size=n)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(label, jnp.float32)


def trained(make):
    """Logits of an ensemble of trained networks on fresh examples and on the circle."""
    x, y = ball(512, 0)
    optimizer = optax.adam(1e-2)
    graph = nnx.graphdef(make(nnx.Rngs(0)))

    def fit(key):
        params = nnx.state(make(nnx.Rngs(key)))

        def loss(params):
            logits = nnx.merge(graph, params)(x)[:, 0]
            return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, y))

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 2000)[0][0]

    params = jax.jit(jax.vmap(fit))(jax.random.split(jax.random.key(0), SEEDS))
    run = jax.jit(jax.vmap(lambda params, x: nnx.merge(graph, params)(x)[:, 0], (0, None)))
    return run(params, jnp.concatenate([ball(2000, 1)[0], circle()]))


def circle():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    return jnp.asarray(2.5 * np.stack([np.cos(angle), np.sin(angle)], -1), jnp.float32)


def plain(depth):
    return lambda rngs: models.MLPResNet(
        2, 1, width=2, depth=depth, skip="plain", norm_placement="norm_free", rngs=rngs
    )


@pytest.mark.parametrize("depth", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_ball_among_its_surroundings(depth):
    y = np.asarray(ball(2000, 1)[1]) > 0.5
    accuracy = {}
    for name, make in (
        ("one neuron", lambda rngs: models.OneNeuronResNet(2, 1, depth=depth, rngs=rngs)),
        ("plain", plain(depth)),
    ):
        logits = np.asarray(trained(make)) > 0
        accuracy[name] = np.mean(logits[:, :2000] == y, 1)
        if name == "plain":
            # The theorem: where the whole disc is right, the circle around it is somewhere wrong.
            inside = np.mean(logits[:, :2000][:, y], 1) > 0.9
            assert np.all(np.any(logits[inside][:, 2000:], 1))
    assert np.max(accuracy["one neuron"]) > 0.998
    assert np.median(accuracy["one neuron"]) > np.max(accuracy["plain"])
    if depth == 8:
        assert np.min(accuracy["one neuron"]) > 0.97
        assert np.max(accuracy["plain"]) < 0.8


def test_a_block_is_its_equation():
    net = models.OneNeuronResNet(3, 2, depth=4, activation="tanh", rngs=nnx.Rngs(1))
    x = np.asarray(jax.random.normal(jax.random.key(0), (5, 3)), np.float64)
    h = x
    block = net.blocks
    for u, b, v in zip(block.into[...], block.bias[...], block.out[...], strict=True):
        h = h + np.tanh(h @ np.asarray(u) + np.asarray(b))[:, None] * np.asarray(v)
    expected = h @ np.asarray(net.head.kernel[...]) + np.asarray(net.head.bias[...])
    np.testing.assert_allclose(net(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-5)
    chain = analysis.as_chain(net)
    assert [segment.name for segment in chain.segments] == ["blocks", "head"]


def test_bad_sizes():
    with pytest.raises(ValueError, match="depth must be an integer of at least 1; got 0"):
        models.OneNeuronResNet(3, 2, depth=0, rngs=nnx.Rngs(1))
