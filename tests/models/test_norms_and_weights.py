"""Norms and what is done to weights, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import models


@pytest.fixture(scope="module")
def x():
    return 1.5 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 6, 8))


AXES = {  # of the statistics, on (n, h, w, groups, channels of a group)
    "layer": (8, (3, 4), 1e-6),
    "rms": (8, (3, 4), 1e-6),
    "group": (2, (1, 2, 4), 1e-5),
    "instance": (8, (1, 2, 4), 1e-5),
    "batch": (8, (0, 1, 2, 4), 1e-5),
}


@pytest.mark.parametrize("name", AXES)
def test_norms(name, x):
    from jaxact.models._norms import NORMS

    norm = NORMS[name](8, groups=2) if name == "group" else NORMS[name](8)
    norm.scale[...] = jnp.linspace(0.5, 2, 8)
    groups, axes, epsilon = AXES[name]
    h = np.asarray(x, np.float64).reshape(4, 5, 6, groups, -1)
    if name in ("layer", "rms"):
        h = h.reshape(4, 5, 6, 1, 8)
    mean = 0 if name == "rms" else h.mean(axes, keepdims=True)
    var = np.square(h - mean).mean(axes, keepdims=True)
    expected = ((h - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * np.linspace(0.5, 2, 8)
    if name != "rms":
        norm.bias[...] = jnp.arange(8.0)
        expected = expected + np.arange(8)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-4, atol=1e-4)
    low = norm(x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, rtol=0.02, atol=0.05)


class TestBatchNorm:
    def test_running_statistics_are_those_of_algorithm_2(self, x):
        norm = models.BatchNorm(8, momentum=0.75)
        norm(x)
        flat = np.asarray(x, np.float64).reshape(-1, 8)
        np.testing.assert_allclose(norm.mean[...], 0.25 * flat.mean(0), rtol=1e-5)
        unbiased = flat.var(0, ddof=1)
        np.testing.assert_allclose(norm.var[...], 0.75 + 0.25 * unbiased, rtol=1e-5)
        norm.eval()
        y = norm(x)
        mean, var = (np.asarray(s[...], np.float64) for s in (norm.mean, norm.var))
        expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch(self, x):
        def both(x):
            norm = models.BatchNorm(8, axis_name="data")
            return norm(x), norm.mean[...], norm.var[...]

        parts = jax.vmap(both, axis_name="data")(x.reshape(2, 2, *x.shape[1:]))
        whole = models.BatchNorm(8)
        np.testing.assert_allclose(parts[0].reshape(x.shape), whole(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(parts[1][0], whole.mean[...], rtol=1e-5)
        np.testing.assert_allclose(parts[2][1], whole.var[...], rtol=1e-5)

    def test_one_example_keeps_finite_statistics(self):
        norm = models.BatchNorm(3)
        y = norm(jnp.ones((1, 3)))
        assert np.all(np.isfinite(y))
        assert np.all(np.isfinite(norm.var[...]))


def kernel(shape=(3, 3, 4, 6)):
    return 0.3 + jax.random.normal(jax.random.key(2), shape)


def test_standardized_weights():
    w = np.asarray(kernel(), np.float64)
    flat = w.reshape(-1, 6)
    expected = (w - flat.mean(0)) / (flat.std(0) + 1e-5)
    layer = models.StandardizedWeights((3, 3, 4, 6))
    np.testing.assert_allclose(layer(kernel()), expected, rtol=1e-4, atol=1e-5)
    constant = jnp.ones((3, 3, 4, 6))
    gradient = jax.grad(lambda w: jnp.sum(layer(w) * kernel()))(constant)
    assert np.all(np.isfinite(gradient))


def test_scaled_standardized_weights():
    w = np.asarray(kernel(), np.float64)
    flat = w.reshape(-1, 6)
    layer = models.ScaledStandardizedWeights((3, 3, 4, 6), gain=1.7)
    layer.scale[...] = jnp.linspace(0.5, 1, 6)
    expected = np.linspace(0.5, 1, 6) * 1.7 * (w - flat.mean(0)) / (flat.std(0) * 36**0.5)
    np.testing.assert_allclose(layer(kernel()), expected, rtol=1e-4, atol=1e-5)


class TestSpectralWeights:
    def make(self, **options):
        return models.SpectralWeights((5, 7), rngs=nnx.Rngs(0), kernel=kernel((5, 7)), **options)

    def test_norm_is_the_coefficient(self):
        layer = self.make(coefficient=0.9, warmup=100)
        w = layer(kernel((5, 7)))
        np.testing.assert_allclose(np.linalg.norm(w, 2), 0.9, rtol=1e-5)
        small = 0.01 * kernel((5, 7))
        kept = self.make(coefficient=0.9, only_above=True)(small)
        np.testing.assert_array_equal(kept, small)

    def test_training_iterates_and_evaluation_does_not(self):
        layer = self.make(warmup=0)
        before = layer.u[...]
        layer.eval()
        layer(kernel((5, 7)))
        np.testing.assert_array_equal(layer.u[...], before)
        layer.train()
        for _ in range(60):
            layer(kernel((5, 7)))
        u = np.linalg.svd(np.asarray(kernel((5, 7))))[2][0]
        np.testing.assert_allclose(abs(np.vdot(layer.u[...], u)), 1, rtol=1e-5)

    def test_gradient_is_that_of_w_over_its_norm(self):
        """At convergence, d s_1 = u' dW v makes it exact."""
        layer = self.make(warmup=200)
        layer.eval()
        weights = jax.random.normal(jax.random.key(3), (5, 7))
        w = kernel((5, 7))
        found = jax.grad(lambda w: jnp.sum(layer(w) * weights))(w)
        exact = jax.grad(lambda w: jnp.sum(w / jnp.linalg.norm(w, 2) * weights))(w)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)
