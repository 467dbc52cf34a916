"""Networks against plain loops in NumPy, the wiring's published equations, and lax."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models, theory

WIRINGS = [
    {"norm_placement": "pre"},
    {"norm_placement": "pre", "norm": "rms"},
    {"norm_placement": "original"},
    {"norm_placement": "original", "skip": "plain"},
    {"norm_placement": "pre", "skip": "scaled"},
    {"norm_placement": "post"},
    {"norm_placement": "norm_free"},
    {"norm_placement": "norm_free", "norm": "none", "skip": "scaled"},
    {"norm_placement": "norm_free", "skip": "plain"},
]


def name(wiring):
    return "-".join(map(str, wiring.values()))


def mlp(key=0, **options):
    options = {"width": 6, "depth": 5, "rngs": nnx.Rngs(key)} | options
    return models.MLPResNet(4, 3, **options)


def layer_norm(x, norm):
    x = x.astype(np.float64)
    if norm == "rms":
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def expected(net, x, wiring):
    """The published equations, one block after another, in float64."""
    norm, placement = wiring.get("norm", "layer"), wiring["norm_placement"]
    skip = wiring.get("skip", "identity")
    scale = 5**-0.5 if skip == "scaled" else 1.0

    def act(h):
        return np.maximum(h, 0)

    x = np.asarray(x, np.float64) @ np.asarray(net.stem.layers[0].kernel[...], np.float64)
    kernels = [np.asarray(layer.kernel[...], np.float64) for layer in net.blocks.layers]
    for block in range(5):
        h = x
        for number, kernel in enumerate(kernels):
            w = kernel[block]
            if placement == "pre":
                h = act(layer_norm(h, norm)) @ w
            elif placement == "original":
                h = layer_norm((act(h) if number else h) @ w, norm)
            elif skip == "plain":
                h = (act(h) if number else h) @ w
            else:
                h = act(h) @ w
        if skip != "plain":
            h = x + scale * h
        if placement == "post":
            h = layer_norm(h, norm)
        x = act(h) if placement == "original" or skip == "plain" else h
    if placement == "pre":
        x = layer_norm(x, norm)
    if placement == "pre" or (placement in ("post", "norm_free") and skip != "plain"):
        x = act(x)
    return x @ np.asarray(net.head.linear.kernel[...], np.float64)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("wiring", WIRINGS, ids=name)
def test_wirings(wiring, layers):
    net = mlp(block_layers=layers, **wiring)
    x = jax.random.normal(jax.random.key(1), (7, 4))
    found = net(x)
    assert found.shape == (7, 3)
    np.testing.assert_allclose(found, expected(net, x, wiring), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wiring", WIRINGS, ids=name)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_segments_compose_to_the_network(kind, wiring):
    make = {"mlp": models.MLPResNet, "conv": models.ConvResNet}[kind]
    net = make(2, 3, width=4, depth=3, rngs=nnx.Rngs(0), **wiring)
    x = jax.random.normal(jax.random.key(1), (5, 2) if kind == "mlp" else (5, 4, 4, 2))
    chain = analysis.as_chain(net)
    assert [s.name for s in chain.segments] == ["stem", "blocks", "head"]
    chex.assert_trees_all_close(analysis.run(chain, x), net(x), rtol=1e-5, atol=1e-6)


def test_a_network_is_a_pytree():
    net = mlp()
    x, y = jnp.ones((2, 4)), jnp.ones((2, 3))

    def loss(net):
        return jnp.mean(jnp.square(net(x) - y))

    gradient = jax.jit(jax.grad(loss))(net)
    chex.assert_trees_all_equal_shapes(gradient, net)
    chex.assert_tree_all_finite(gradient)
    assert gradient.blocks.layers[0].kernel[...].shape == (5, 6, 6)
    _, tangent = jax.jvp(loss, (net,), (gradient,))
    squared = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(tangent, squared, rtol=1e-4)


def test_an_ensemble_is_one_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    nets = jax.vmap(lambda key: mlp(key))(keys)
    x = jnp.ones((2, 4))
    outputs = jax.vmap(lambda net: net(x))(nets)
    chex.assert_trees_all_close(outputs[2], mlp(keys[2])(x), rtol=1e-5)


def test_compiled_program_does_not_grow_with_depth():
    def size(depth):
        net = jax.eval_shape(lambda: mlp(depth=depth))
        x = jnp.ones((2, 4))
        return len(str(jax.make_jaxpr(jax.grad(lambda net: jnp.sum(net(x))))(net)).splitlines())

    assert size(4) == size(400)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_gain_keeps_the_second_moment_of_a_plain_network(activation):
    """E f(z)^2 = 1 / gain^2 in every layer; one layer of width 512 strays by about 10%."""
    gain = float(theory.gain(activation))
    x = jax.random.normal(jax.random.key(1), (64, 512))

    def moments(key):
        net = models.MLPResNet(
            512,
            10,
            width=512,
            depth=3,
            norm_placement="norm_free",
            skip="plain",
            activation=activation,
            rngs=nnx.Rngs(key),
        )
        features = analysis.features(analysis.as_chain(net), x)["blocks"]
        kernel = net.blocks.layers[0].kernel[...]
        return jnp.mean(jnp.square(features), axis=(1, 2)), jnp.std(kernel)

    found, deviation = jax.vmap(moments)(jax.random.split(jax.random.key(0), 12))
    np.testing.assert_allclose(deviation * 512**0.5, gain, rtol=0.005)
    np.testing.assert_allclose(np.mean(found, axis=0) * gain**2, 1, atol=0.15)


def test_bfloat16_stays():
    net = models.ConvResNet(1, 2, width=3, depth=2, norm="batch", rngs=nnx.Rngs(0))
    assert net(jnp.ones((1, 4, 4, 1), jnp.bfloat16)).dtype == jnp.bfloat16


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm_placement": "before"}, "norm_placement must be one of pre, post, original,"),
            ({"skip": "dense"}, "skip must be one of identity, .*, plain; got 'dense'"),
            ({"norm": "batchnorm"}, "norm must be one of"),
            ({"norm": "none"}, "norm='none' and norm_placement='pre' conflict"),
            (
                {"norm_placement": "norm_free", "norm": "layer"},
                "norm='layer' and norm_placement='norm_free'",
            ),
            ({"depth": 0}, "depth must be an integer of at least 1; got 0"),
            ({"width": -1}, "width must be an integer of at least 1; got -1"),
            ({"activation": "rleu"}, "rleu"),
            ({"depth": True}, "depth must be an integer of at least 1; got True"),
            ({"skip": math.nan}, "skip must be finite or one of identity, .*; got nan"),
            ({"gain": 0.0}, "gain must be a positive finite number; got 0.0"),
            ({"gain": jnp.inf}, "gain must be a positive finite number; got inf"),
            ({"layer_scale": math.nan}, "layer_scale must be a finite number; got nan"),
            ({"dtype": "floaty"}, "dtype must be a floating dtype; got 'floaty'"),
            ({"param_dtype": jnp.int32}, "param_dtype must be a floating dtype"),
        ],
    )
    def test_bad_choices(self, options, message):
        with pytest.raises(ValueError, match=message):
            mlp(**options)
