"""i-ResNet: a strict Lipschitz bound, the inverse, and the log-determinant against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models

SHAPES = {"vectors": (3,), "images": (5, 4, 2)}


@pytest.fixture(scope="module", params=SHAPES)
def case(request):
    """A network whose weights are large enough to be bounded, and inputs."""
    shape = SHAPES[request.param]
    net = models.IResNet(shape, width=8, depth=3, rngs=nnx.Rngs(0))
    for kernel in net.kernels:
        kernel[...] = 3 * kernel[...]
    for bias in net.biases:
        bias[...] = 0.3 * jax.random.normal(jax.random.key(1), bias[...].shape)
    return net, jax.random.normal(jax.random.key(2), (4, *shape))


def jacobian(function, x):
    """Of one example, flat, in numpy's float64."""
    flat = jax.jacfwd(lambda v: function(v.reshape(1, *x.shape)).reshape(-1))(x.reshape(-1))
    return np.asarray(flat, np.float64)


def test_the_bound_is_strict(case):
    """Every weight's operator, as a dense matrix, has at most the norm that it may have."""
    net, x = case
    branch = net._bounded()
    norms = []
    for layer, kernel in enumerate(branch.kernels):
        size = (*net.shape[:-1], kernel.shape[-2])
        for block in range(net.depth):

            def linear(v, kernel=kernel[block]):
                return models.convolve(v, kernel) if kernel.ndim == 4 else v @ kernel

            matrix = jacobian(linear, jnp.zeros(size))
            norms.append(np.linalg.norm(matrix, 2))
            assert norms[-1] <= net.bound * (1 + 1e-5), (layer, block)
    assert np.max(norms) > 0.8 * net.bound  # and is used
    chain = analysis.as_chain(net)
    (segment,) = chain.segments
    for block in range(net.depth):
        params = jax.tree.map(lambda leaf, n=block: leaf[n], segment.params)
        whole = jacobian(lambda v, p=params: segment.apply(p, v) - v, x[0])
        assert np.linalg.norm(whole, 2) < net.coefficient


def test_inverse(case):
    net, x = case
    found = jax.jit(lambda net, y: net.inverse(y))(net, net(x))
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    assert found.error < 1e-5
    assert found.steps < 100
    few = net.inverse(net(x), max_steps=2)
    assert few.error > 1e-3
    assert few.steps == 2


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivative_of_the_inverse(case, mode):
    net, x = case
    y = net(x[:1])

    def back(flat):
        return net.inverse(flat.reshape(y.shape)).x.reshape(-1)

    product = np.asarray(mode(back)(y.reshape(-1)), np.float64) @ jacobian(net, x[0])
    np.testing.assert_allclose(product, np.eye(len(product)), atol=2e-5)


def test_log_determinant(case):
    net, x = case
    dense = net.log_det_dense(x)
    expected = [np.linalg.slogdet(jacobian(net, one))[1] for one in x]
    np.testing.assert_allclose(dense.log_det, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dense.y, net(x), rtol=1e-5, atol=1e-5)

    def estimates(terms):
        keys = jax.random.split(jax.random.key(3), 400)
        one = jax.jit(jax.vmap(lambda key: net.log_det(x, key=key, terms=terms, probes=4).log_det))
        return np.asarray(one(keys))

    found = estimates(30)
    noise = np.std(found, 0) / 20
    assert np.all(np.abs(np.mean(found, 0) - expected) < 4.5 * noise + 1e-4)
    few = net.log_det(x, key=jax.random.key(0), terms=1)
    truth = np.abs(np.mean(estimates(1), 0) - expected)
    assert np.all(truth < few.truncation + 4.5 * noise)
    assert net.log_det(x, key=jax.random.key(0), terms=80).truncation < 0.01 * few.truncation


def test_gradients_of_the_density(case):
    net, x = case

    def loss(net, dense):
        found = net.log_det_dense(x) if dense else net.log_det(x, key=key, terms=40, probes=300)
        return jnp.sum(found.log_det)

    key = jax.random.key(0)
    exact, estimate = (jax.jit(jax.grad(loss), static_argnums=1)(net, d) for d in (True, False))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(estimate), strict=True):
        assert jnp.linalg.norm(a - b) < 0.25 * jnp.linalg.norm(a) + 1e-3


def test_a_steep_activation_is_compensated():
    net = models.IResNet(
        (3,), width=8, depth=2, activation=lambda x: jnp.tanh(4 * x), rngs=nnx.Rngs(0)
    )
    for kernel in net.kernels:
        kernel[...] = 9 * kernel[...]
    x = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(net.inverse(net(x)).x, x, atol=1e-4)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"coefficient": 1.0}, "coefficient must be between 0 and 1; got 1.0"),
        ({"layers": 1}, "layers must be at least 2; got 1"),
        ({"shape": (3, 3)}, r"shape must be \(features,\) or .*; got \(3, 3\)"),
        ({"activation": lambda x: x * x}, "activation must have a finite Lipschitz constant"),
    ],
)
def test_bad_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        models.IResNet(**{"shape": (3,), "width": 4, "depth": 2} | choices, rngs=nnx.Rngs(0))
