"""Norms and what is done to weights, against NumPy in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import models
from jaxact._compat import enable_x64


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


@pytest.mark.parametrize("name", AXES)
def test_a_variance_that_overflows_is_nan_and_not_zero(name, x):
    from jaxact.models._norms import NORMS

    assert np.all(np.isnan(NORMS[name](8)(1e20 * x)))
    assert np.all(np.isfinite(NORMS[name](8)(1e15 * x)))


def test_kernels_are_drawn_in_a_row_and_compile_at_once():
    """XLA compiles a draw of a (3, 3, 16, 16) kernel for 30 times as long as of 2,304 numbers."""
    from jaxact.models._layers import normal_kernel

    key, shape = jax.random.key(3), (3, 3, 16, 24)
    program = str(jax.make_jaxpr(lambda key: normal_kernel(key, shape, 2.0))(key))
    assert re.findall(r"random_bits\[.*?shape=(\([^)]*\))", program, re.DOTALL) == ["(3456,)"]
    direct = jax.random.normal(key, shape) * 2 / (3 * 3 * 16) ** 0.5
    np.testing.assert_allclose(normal_kernel(key, shape, 2.0), direct, rtol=1e-5)


def normalized(x, cotangent, axes, epsilon):
    """The normalized x and the gradient of its product with a cotangent, in float64."""
    x, g = np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    d = x - x.mean(axes, keepdims=True)
    r = 1 / np.sqrt(np.square(d).mean(axes, keepdims=True) + epsilon)
    y = d * r
    return y, r * (g - g.mean(axes, keepdims=True) - y * (g * y).mean(axes, keepdims=True))


def far_inputs():
    """Maps whose mean is many deviations from 0, in structures that fool a shift or a sum."""
    noise = jax.random.normal(jax.random.key(3), (16, 6, 6, 8))
    ramp = jnp.linspace(-2, 2, noise.size).reshape(noise.shape)
    for mean in (0.0, 100.0, -1e4, 1e6):
        yield f"mean {mean}", noise + mean
    yield "tiny", 1e-3 * (noise + 1e4)
    yield "in order", ramp + 1e5
    yield "one channel", noise.at[..., 3].add(1e6)
    yield "first example apart", (noise + 1e4).at[0].set(0.0)
    yield "first pixel apart", (noise + 1e4).at[:, 0, 0].set(0.0)
    yield "two values", jnp.sign(noise) + 1e5


@pytest.mark.parametrize("name", ["layer", "group", "instance", "batch"])
def test_a_mean_of_many_deviations_costs_no_digits(name):
    """Against float64 on the same float32 numbers; the sum of squares would lose all of them."""
    from jaxact.models._norms import NORMS

    norm = NORMS[name](8, groups=2) if name == "group" else NORMS[name](8)
    groups, axes, epsilon = AXES[name]
    cotangent = jax.random.normal(jax.random.key(4), (16, 6, 6, 8))

    @jax.jit
    def both(x):
        y, pull = jax.vjp(lambda x: models_call(norm, x), x)
        return y, pull(cotangent)[0]

    for case, x in far_inputs():
        shape = (16, 6, 6, 1, 8) if name == "layer" else (16, 6, 6, groups, -1)
        wide = np.asarray(x).reshape(shape), np.asarray(cotangent).reshape(shape)
        expected = normalized(*wide, axes, epsilon)
        for found, true in zip(both(x), expected, strict=True):
            true = true.reshape(x.shape)
            error = np.max(np.abs(found - true)) / np.max(np.abs(true))
            assert error < 2e-6, (case, error)


def models_call(norm, x):
    """A call that leaves the norm's own statistics alone."""
    return jax.tree.map(lambda leaf: leaf, norm)(x)


class TestBatchNorm:
    def test_far_means_over_a_mapped_axis_that_devices_start_apart(self, x):
        """Each device's running mean is its own, and the batch's mean is far from all."""

        def one(x, start):
            norm = models.BatchNorm(8, axis_name="data")
            norm.mean[...] = start
            y = norm(x)
            return y, norm.mean[...] - 0.9 * start, norm.var[...]

        far = x + 1e5
        starts = jnp.stack([jnp.zeros(8), jnp.full(8, 3e4)])
        y, mean, var = jax.vmap(one, axis_name="data")(far.reshape(2, 2, *x.shape[1:]), starts)
        expected, _ = normalized(far, far, (0, 1, 2), 1e-5)
        np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-5, atol=1e-5)
        flat = np.asarray(far, np.float64).reshape(-1, 8)
        np.testing.assert_allclose(mean, [0.1 * flat.mean(0)] * 2, rtol=1e-5)
        np.testing.assert_allclose(var, [0.9 + 0.1 * flat.var(0, ddof=1)] * 2, rtol=1e-5)

    def test_statistics_have_the_precision_of_float64_parameters(self, x):
        with enable_x64(True):
            norm = models.BatchNorm(8, momentum=0.0, param_dtype=jnp.float64)
            wide = np.asarray(x, np.float64) + 1e9
            y = norm(jnp.asarray(wide))
            assert y.dtype == norm.mean[...].dtype == norm.var[...].dtype == jnp.float64
            flat = wide.reshape(-1, 8)
            np.testing.assert_allclose(norm.mean[...], flat.mean(0), rtol=1e-15)
            np.testing.assert_allclose(norm.var[...], flat.var(0, ddof=1), rtol=1e-9)

    def test_a_settled_mean_is_found_in_one_pass(self, x, monkeypatch):
        """What is read twice is read twice at a network's first steps only."""
        norm = models.BatchNorm(8, momentum=0.0)
        took = []
        monkeypatch.setattr(
            "jaxact.models._norms.lax.cond", lambda far, a, b: took.append(bool(far)) or b()
        )
        for start in (0.0, 100.0):
            norm.mean[...] = jnp.full(8, start)
            norm(x + 100)
        norm(jnp.broadcast_to(jnp.arange(8.0), x.shape))
        norm(jnp.broadcast_to(jnp.arange(8.0) + 1e-4, x.shape))
        assert took == [True, False, True, False]

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


def test_timms_epsilon_differs_along_the_kernel_only():
    """Where it is added to the variance, some of the gradient along the kernel is left."""
    with enable_x64(True):
        draw = np.random.default_rng(0)
        w, g = (jnp.asarray(draw.normal(size=(3, 3, 64, 5))) for _ in range(2))
        w = w / 576**0.5
        layer = models.ScaledStandardizedWeights((3, 3, 64, 5), param_dtype=jnp.float64)
        var = jnp.var(w, (0, 1, 2))
        layer.scale[...] = jnp.sqrt(var / (var + 1e-5))

        def timms(w):
            centred = w - jnp.mean(w, (0, 1, 2), keepdims=True)
            return centred / jnp.sqrt(576 * (jnp.var(w, (0, 1, 2), keepdims=True) + 1e-5))

        np.testing.assert_allclose(layer(w), timms(w), rtol=1e-12, atol=1e-14)
        ours, theirs = (jax.grad(lambda w, f=f: jnp.sum(f(w) * g))(w) for f in (layer, timms))
        unit = (w - jnp.mean(w, (0, 1, 2), keepdims=True)) / jnp.sqrt(576 * var)[None, None, None]
        left = jnp.sum(theirs * unit, (0, 1, 2))
        np.testing.assert_allclose(jnp.sum(ours * unit, (0, 1, 2)), 0.0, atol=1e-12)
        np.testing.assert_allclose(theirs - ours, left[None, None, None] * unit, atol=1e-12)
        along = jnp.sum(g * unit, (0, 1, 2)) / jnp.sqrt(576 * (var + 1e-5))
        np.testing.assert_allclose(left, along * 1e-5 / (var + 1e-5), rtol=1e-9)


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
