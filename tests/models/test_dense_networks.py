"""DenseNet and dual path networks: what each layer sees, in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models

SMALL = {
    "densenet": {"depths": (2, 2), "growth": 3, "stem": "cifar", "num_classes": 4},
    "dual_path_net": {
        "depths": (2, 1),
        "widths": (6, 8),
        "inner": 4,
        "appended": (2, 3),
        "groups": 2,
        "stem_width": 4,
        "stem_size": 3,
        "num_classes": 4,
    },
}


@pytest.fixture(scope="module", params=SMALL)
def case(request):
    net = nnx.eval_shape(
        lambda: models.create(request.param, rngs=nnx.Rngs(0), **SMALL[request.param])
    )
    draw = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) ** 2 + 0.1, leaf.dtype),
        nnx.state(net),
    )
    nnx.update(net, values)
    net.eval()
    return net, jnp.asarray(draw.normal(size=(2, 12, 12, 3)), jnp.float32)


def unit(part, x):
    """Norm by running statistics, ReLU, and the convolution as a sum over its taps."""
    norm, layer = part.norm, part.layer
    scale = np.asarray(norm.scale[...]) / np.sqrt(
        np.asarray(norm.var[...], np.float64) + norm.epsilon
    )
    x = np.maximum((x - np.asarray(norm.mean[...])) * scale + np.asarray(norm.bias[...]), 0)
    kernel, s = np.asarray(layer.kernel[...], np.float64), layer.stride
    size, groups = kernel.shape[0], layer.groups
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    height, width = (-(-(n - size + 1) // s) for n in x.shape[1:3])
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            tap = x[:, i : i + s * height : s, j : j + s * width : s]
            for g in range(groups):
                to = slice(g * outputs, (g + 1) * outputs)
                part_of = tap[..., g * inputs : (g + 1) * inputs]
                y[..., to] += part_of @ kernel[i, j, :, to]
    return y


def expected(net, x):
    for layer in net.layers:
        if hasattr(layer, "grow"):
            x = np.concatenate([x, unit(layer.grow, unit(layer.reduce, x))], -1)
        elif hasattr(layer, "spatial"):
            skip = x if layer.project is None else unit(layer.project, x)
            h = unit(layer.expand, unit(layer.spatial, unit(layer.reduce, x)))
            added = skip[..., : layer.added] + h[..., : layer.added]
            x = np.concatenate([added, skip[..., layer.added :], h[..., layer.added :]], -1)
        else:
            x = unit(layer.reduce, x)
            n, height, width, c = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, c).mean((2, 4))
    return x


def test_layers_see_what_they_are_to_see(case):
    net, x = case
    start = net.stem(x)
    h = start
    for layer in net.layers:
        h = layer(h)
    wanted = expected(net, np.asarray(start, np.float64))
    np.testing.assert_allclose(h, wanted, rtol=2e-4)


def test_as_a_chain(case):
    net, x = case
    chain = analysis.as_chain(net)
    h = x
    for segment in chain.segments:
        h = segment.apply(segment.params, h)
    np.testing.assert_allclose(h, jax.jit(lambda net, x: net(x))(net, x), rtol=1e-4)
    assert chain.segments[1].name in ("block1.1", "stage1.1")


def test_gradients_through_pooling():
    net = models.DenseNet(depths=(1, 1), growth=2, num_classes=2, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 32, 32, 3))
    gradient = jax.jit(jax.grad(lambda net, x: jnp.sum(jax.tree.map(jnp.asarray, net)(x)[0] ** 2)))
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient(net, x)))


@pytest.mark.parametrize(
    ("make", "choices", "message"),
    [
        (models.DenseNet, {"compression": 0.0}, "compression must be above 0 and at most 1; got 0"),
        (models.DenseNet, {"stem": "deep"}, "stem must be one of imagenet, cifar; got 'deep'"),
        (models.DualPathNet, {"inner": 33}, "inner must be a multiple of groups=32; got 33"),
        (models.DualPathNet, {"stem_size": 4}, "stem_size must be odd; got 4"),
        (models.DualPathNet, {"depths": (1,)}, "must have one entry for each stage"),
    ],
)
def test_bad_choices(make, choices, message):
    with pytest.raises(ValueError, match=message):
        make(**choices, rngs=nnx.Rngs(0))
