"""Networks of stages: stacked and unrolled, pure and stateful, as a chain."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models, training

SMALL = dict(
    depths=(2, 3), widths=(4, 8), strides=(1, 2), block="basic", stem="cifar", num_classes=3
)
NETS = {
    "original": {},
    "pre, option A": dict(norm_placement="pre", shortcut="A", zero_init=False),
    "option C, dropped": dict(shortcut="C", stochastic_depth=0.5),
    "two streams": dict(norm_placement="residual_dual", norm="layer"),
    "bottleneck, SE": dict(
        block="bottleneck", expansion=2, squeeze_excitation=2, stem="deep", pool_shortcut=True
    ),
    "Res2Net": dict(block="bottleneck", expansion=2, res2net_scale=2, base_width=32),
    "normalizer-free": dict(
        norm_placement="norm_free", skip="normalizer_free", weights="scaled_standardized"
    ),
}


@functools.cache
def made(name):
    return models.ResNet(**{**SMALL, **NETS[name]}, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (4, 9, 8, 3))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "bottleneck, SE" else name
        for name in NETS
    ],
)
def test_stacked_and_unrolled_give_the_same_numbers(name, x):
    net = made(name)
    flat = models.unroll(net)
    assert [len(stage.blocks) for stage in flat.stages] == [2, 3]

    @jax.jit
    def both():
        def run(params_of, net):
            def loss(net):
                out = models.apply(net, x, train=True, key=jax.random.key(1), trace=True)
                return jnp.sum(jnp.sin(out.logits)), out

            gradient, out = jax.grad(loss, has_aux=True)(net)
            return params_of(gradient), out.logits, out.traces

        return run(lambda g: g, net), run(models.stack, flat)

    found, expected = both()
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_equal(models.stack(flat), net)


def test_scan_off_is_the_unrolled_network(x):
    flat = models.ResNet(**SMALL, scan=False, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(flat, models.unroll(made("original")))


def test_a_pure_call_changes_nothing_and_returns_what_a_stateful_one_changes(x):
    net = made("original")
    before = jax.tree.map(np.asarray, net)
    out = models.apply(net, x, train=True)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, net), before)
    again = jax.tree.map(lambda leaf: leaf, net)
    again.train()
    np.testing.assert_allclose(again(x), out.logits, rtol=1e-6)
    chex.assert_trees_all_equal(nnx.state(again, nnx.Not(nnx.Param)), out.stats)
    assert not np.array_equal(again.stages[1].rest.norms[0].mean[...], np.zeros((2, 8), "f4"))
    evaluated = models.apply(net, x, train=False)
    chex.assert_trees_all_equal(evaluated.stats, nnx.state(net, nnx.Not(nnx.Param)))


def test_traces_are_input_branch_and_output_of_every_block(x):
    traces = models.apply(made("original"), x, train=True, trace=True).traces
    assert list(traces) == ["stage1", "stage2.first", "stage2"]
    first, rest = traces["stage2.first"], traces["stage2"]
    assert rest.branch.shape == (2, 4, 5, 4, 8)
    np.testing.assert_array_equal(traces["stage1"].output[-1], first.input)
    np.testing.assert_array_equal(first.output, rest.input[0])
    expected = jax.nn.relu(rest.input + rest.branch)
    np.testing.assert_allclose(rest.output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "batch"])
@pytest.mark.parametrize("name", ["original", "two streams"])
def test_segments_compose_to_the_network(name, train, x):
    net = made(name)
    expected = models.apply(net, x, train=train).logits
    for form in (net, models.unroll(net)):
        chain = analysis.as_chain(form.segments(train=train))
        names = [segment.name for segment in chain.segments]
        assert names == ["stem", "stage1", "stage2.first", "stage2", "head"]
        found = jax.jit(functools.partial(analysis.run, chain))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["full", "conv", jax.checkpoint_policies.dots_saveable])
def test_remat_changes_no_gradient(remat, x):
    def gradient(net):
        return jax.grad(lambda net: jnp.sum(jnp.sin(models.apply(net, x, train=True).logits)))(net)

    net = models.ResNet(**SMALL, remat=remat, rngs=nnx.Rngs(0))
    found, expected = jax.jit(lambda: (gradient(net), gradient(made("original"))))()
    chex.assert_trees_all_close(
        jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-3, atol=1e-4
    )


def test_hessian_vector_products_both_ways(x):
    net = made("pre, option A")
    structure, params, stats = nnx.split(net, nnx.Param, ...)

    def loss(params):
        out = models.apply(nnx.merge(structure, params, stats), x, train=True)
        return jnp.mean(jnp.square(out.logits))

    @jax.jit
    def products(v):
        gradient = jax.grad(loss)
        forward = jax.jvp(gradient, (params,), (v,))[1]

        def inner(params):
            pairs = zip(jax.tree.leaves(gradient(params)), jax.tree.leaves(v), strict=True)
            return sum(jnp.vdot(a, b) for a, b in pairs)

        return forward, jax.grad(inner)(params)

    v = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape), params)
    forward, reverse = products(v)
    chex.assert_trees_all_close(forward, reverse, rtol=5e-3, atol=5e-3)


def test_bfloat16_computes_and_float32_stores(x):
    net = models.ResNet(**SMALL, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    out = jax.eval_shape(lambda: models.apply(net, x, train=True, trace=True))
    assert out.logits.dtype == jnp.bfloat16
    assert {t.dtype for t in jax.tree.leaves(out.traces)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(out.stats)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(jnp.float32)}


def test_functional_hands_the_key_to_stochastic_depth(x):
    network = training.functional(made("option C, dropped"))

    @jax.jit
    def run(key):
        return network.apply(network.params, network.stats, x, train=True, key=key)

    first, stats = run(jax.random.key(0))
    assert not np.allclose(first, run(jax.random.key(1))[0])
    np.testing.assert_array_equal(first, run(jax.random.key(0))[0])
    chex.assert_trees_all_equal_shapes(stats, network.stats)


def test_drop_rates_grow_over_all_stages():
    flat = models.unroll(made("option C, dropped"))
    rates = [block.drop[...] for stage in flat.stages for block in stage.blocks]
    np.testing.assert_allclose(rates, 0.5 * np.arange(1, 6) / 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 25_557_032),
        ({"stride_at": "1x1"}, 25_557_032),
        ({"block": "basic", "depths": (2, 2, 2, 2)}, 11_689_512),
        ({"groups": 32, "base_width": 4}, 25_028_904),
        ({"base_width": 128}, 68_883_240),
    ],
    ids=["50", "50 v1", "18", "ResNeXt-50 32x4d", "Wide 50-2"],
)
def test_published_parameter_counts(options, count):
    net = jax.eval_shape(lambda: models.ResNet(**options, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 2)}, "one entry for each stage"),
        ({"expansion": 0}, "expansion must be an integer of at least 1; got 0"),
        ({"stem_width": -3}, "stem_width must be an integer of at least 1; got -3"),
        ({"squeeze_excitation": 0}, "squeeze_excitation must be an integer of at least 1; got 0"),
        ({"widths": (4, 0)}, r"widths\[1\] must be an integer of at least 1; got 0"),
        ({"stem": "patch"}, "stem must be one of cifar, imagenet, deep; got 'patch'"),
        ({"block": "wide"}, "block must be one of basic, bottleneck; got 'wide'"),
        ({"remat": "some"}, "remat must be one of full, conv; got 'some'"),
        ({"block": "basic", "stride_at": "1x1"}, "stride_at='1x1' and block='basic' conflict"),
        ({"block": "basic", "res2net_scale": 4}, "res2net_scale=4 and block='basic' conflict"),
        ({"block": "bottleneck", "res2net_scale": 4, "norm_placement": "pre"},
         "res2net_scale=4 and norm_placement='pre' conflict"),
    ],
)  # fmt: skip
def test_refusals(options, message):
    base = {"depths": (1, 1), "widths": (4, 4), "strides": (1, 2)}
    if "depths" in options:
        base = {}
    with pytest.raises(ValueError, match=message):
        models.ResNetConfig(**{**base, **options})


def test_a_monotone_activation_changes_places_with_the_maximum():
    """Named, its monotony is known; as a function of the caller's it is not."""
    small = dict(depths=(1,), widths=(4,), strides=(1,), block="basic", num_classes=3)
    x = jax.random.normal(jax.random.key(0), (2, 18, 18, 3))

    def value(activation):
        net = models.ResNet(**small, activation=activation, gain=1.0, rngs=nnx.Rngs(0))
        structure, params, stats = nnx.split(net, nnx.Param, ...)

        def loss(params):
            logits = models.apply(nnx.merge(structure, params, stats), x, train=True).logits
            return jnp.sum(jnp.square(logits))

        return net.stem.pool_first, jax.value_and_grad(loss)(params)

    (named, ours), (called, plain) = value("relu"), value(lambda x: jax.nn.relu(x))
    assert (named, called) == (True, False)
    chex.assert_trees_all_close(ours, plain, rtol=1e-5, atol=1e-5)
