"""What every network of the package can: the pure call, files, and being taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models

IMAGE, VECTOR = (2, 8, 8, 3), (2, 5)
SMALL = {
    "resnet": (
        IMAGE,
        dict(
            depths=(1, 2), widths=(4, 8), strides=(1, 2), block="basic", stem="cifar", num_classes=4
        ),
    ),
    "mlp_resnet": (VECTOR, dict(in_features=5, out_features=4, width=6, depth=3)),
    "conv_resnet": (IMAGE, dict(in_channels=3, out_features=4, width=4, depth=2)),
    "densenet": (IMAGE, dict(depths=(2, 1), growth=3, stem="cifar", num_classes=4)),
    "dual_path_net": (
        IMAGE,
        dict(
            depths=(2, 1),
            widths=(6, 8),
            inner=4,
            appended=(2, 3),
            groups=2,
            stem_width=4,
            stem_size=3,
            num_classes=4,
        ),
    ),
    "revnet": (IMAGE, dict(widths=(4, 8), depths=(3, 2), num_classes=4)),
    "one_neuron_resnet": (VECTOR, dict(in_features=5, out_features=4, depth=3)),
    "i_resnet": (VECTOR, dict(shape=(5,), width=6, depth=3)),
    "transformer": (
        (2, 5, 3),
        dict(stem="vectors", inputs=3, width=4, depth=3, heads=2, sublayers=("attention",)),
    ),
}
BLOCKS = {
    "resnet": ["stage1", "stage2.first", "stage2"],
    "mlp_resnet": ["blocks"],
    "conv_resnet": ["blocks"],
    "densenet": ["block1.1", "block1.2", "transition1", "block2.1"],
    "dual_path_net": ["stage1.1", "stage1.2", "stage2.1"],
    "revnet": ["stage1", "stage2.first", "stage2"],
    "one_neuron_resnet": ["blocks"],
    "i_resnet": ["blocks"],
    "transformer": ["blocks.attention"],
}


@pytest.fixture(scope="module", params=SMALL)
def case(request):
    shape, options = SMALL[request.param]
    net = models.create(request.param, **options, rngs=nnx.Rngs(0))
    return request.param, net, jax.random.normal(jax.random.key(1), shape)


def test_every_family_is_here():
    families = {make for make, _ in models._registry._PRESETS.values()}
    assert families == {models._registry._PRESETS[name][0] for name in SMALL}


def test_a_pure_call_is_the_call_and_leaves_the_network_alone(case):
    _, net, x = case
    before = jax.tree.leaves(net)
    out = models.apply(net, x, train=True)
    assert out.traces == {}
    for leaf, was in zip(jax.tree.leaves(net), before, strict=True):
        np.testing.assert_array_equal(leaf, was)
    twin = jax.tree.map(lambda leaf: leaf, net)
    np.testing.assert_allclose(out.logits, twin(x), rtol=1e-5, atol=1e-6)
    stats = nnx.state(twin, nnx.Not(nnx.Param))
    pairs = zip(jax.tree.leaves(out.stats), jax.tree.leaves(stats), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    moved = [
        bool(jnp.any(new != old))
        for new, old in zip(
            jax.tree.leaves(nnx.state(twin, nnx.BatchStat)),
            jax.tree.leaves(nnx.state(net, nnx.BatchStat)),
            strict=True,
        )
    ]
    assert all(moved)


@pytest.mark.parametrize("train", [False, True])
def test_traces_join_up(case, train):
    """Each part starts where the one before ended, and the logits are those of a plain call."""
    name, net, x = case
    out = models.apply(net, x, train=train, trace=True)
    plain = models.apply(net, x, train=train)
    np.testing.assert_allclose(out.logits, plain.logits, rtol=1e-5, atol=1e-6)
    pairs = zip(jax.tree.leaves(out.stats), jax.tree.leaves(plain.stats), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert list(out.traces) == BLOCKS[name]
    ends = None
    for trace in out.traces.values():
        stacked = trace.input.ndim > x.ndim
        first, last = (trace.input[0], trace.output[-1]) if stacked else (trace.input, trace.output)
        if ends is not None:
            np.testing.assert_array_equal(first, ends)
        if stacked:
            np.testing.assert_array_equal(trace.input[1:], trace.output[:-1])
        assert jnp.any(trace.branch != 0)
        ends = last


def test_a_chain_computes_the_network(case):
    name, net, x = case
    chain = analysis.as_chain(net)
    parts = [part.removesuffix(".attention") for part in BLOCKS[name]]
    assert [s.name for s in chain.segments if s.name not in ("stem", "head")] == parts
    h = x
    for segment in chain.segments:
        layers = [segment.params]
        if segment.depth is not None:
            layers = [
                jax.tree.map(lambda a, i=i: a[i], segment.params) for i in range(segment.depth)
            ]
        for params in layers:
            h = segment.apply(params, h)
    np.testing.assert_allclose(h, models.apply(net, x, train=False).logits, rtol=1e-5, atol=1e-6)


def test_files_give_the_network_back(case, tmp_path):
    _, net, x = case
    models.save(tmp_path / "net.safetensors", net)
    again = models.load(tmp_path / "net.safetensors")
    found, expected = (models.apply(n, x, train=False).logits for n in (again, net))
    np.testing.assert_array_equal(found, expected)


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"network must be one of jaxact\.models, .* got Linear"):
        models.apply(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 2)), train=False)
