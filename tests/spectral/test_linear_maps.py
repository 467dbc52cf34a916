"""Estimates from a map's action, against its singular values and within their stated errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral

KEY = jax.random.key(1)
LIKE = jnp.zeros(40)


def matrix(decay):
    rng = np.random.default_rng(0)
    return jnp.asarray(
        rng.standard_normal((60, 40)) @ np.diag(np.exp(-decay * np.arange(40))), jnp.float32
    )


def linear(a):
    return lambda v: jnp.matmul(a, v, precision="highest")


def exact(a):
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


@pytest.mark.parametrize("shape", [(60, 40), (3, 40)])
def test_dense_matrix_of_a_pytree(shape):
    a = jax.random.normal(KEY, shape)

    def f(tree):
        return a @ jnp.concatenate([tree["x"].ravel(), tree["y"]])

    like = {"x": jnp.zeros((5, 6)), "y": jnp.zeros(10)}
    np.testing.assert_allclose(spectral.dense_matrix(f, like), a, atol=1e-6)


@pytest.mark.parametrize(("decay", "iterations"), [(0.15, 25), (0.0, 12), (0.0, 40)])
def test_top_values_lie_within_their_residuals(decay, iterations):
    a = matrix(decay)
    s = exact(a)
    top = spectral.top_singular_values(linear(a), LIKE, k=5, key=KEY, iterations=iterations)
    away = np.min(np.abs(np.asarray(top.values)[:, None] - s[None]), axis=1)
    assert np.all(away <= np.asarray(top.residuals) + 1e-5)
    if iterations == 40 or decay:
        np.testing.assert_allclose(top.values, s[:5], rtol=1e-4)
        image = jax.vmap(linear(a))(top.right)
        np.testing.assert_allclose(image, top.values[:, None] * top.left, atol=1e-4)
    else:  # a flat spectrum has not converged, and says so
        assert np.max(top.residuals) > 0.05


@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
def test_squared_frobenius_norm(method):
    a = matrix(0.3)
    found = spectral.squared_frobenius_norm(linear(a), LIKE, key=KEY, probes=16, method=method)
    total = np.sum(exact(a) ** 2)
    assert abs(float(found.value) - total) < 5 * float(found.standard_error) + 1e-3 * total
    if method == "xtrace":
        assert float(found.standard_error) < 1e-2 * total


def test_hutchinsons_error_is_calibrated():
    a = matrix(0.05)
    total = np.sum(exact(a) ** 2)
    keys = jax.random.split(KEY, 64)
    estimate = jax.jit(
        jax.vmap(lambda k: spectral.squared_frobenius_norm(linear(a), LIKE, key=k, probes=24))
    )(keys)
    z = (np.asarray(estimate.value) - total) / np.asarray(estimate.standard_error)
    assert 0.7 < np.std(z) < 1.4
    assert abs(np.mean(z)) < 0.5


def test_stable_and_effective_ranks():
    a = matrix(0.1)
    s = jnp.asarray(exact(a), jnp.float32)
    found = spectral.estimate_stable_rank(linear(a), LIKE, key=KEY, probes=64, iterations=20)
    expected = float(spectral.stable_rank(s))
    assert abs(float(found.value) - expected) < 5 * float(found.standard_error)
    density = spectral.spectral_density(linear(a), LIKE, key=KEY, probes=64, iterations=20)
    np.testing.assert_allclose(jnp.sum(density.weights, axis=1), 1, rtol=1e-5)
    ranks = spectral.estimate_ranks(density)
    for estimate, value in (
        (ranks.effective_rank, spectral.effective_rank(s)),
        (ranks.effective_rank_squared, spectral.effective_rank(s, power=2)),
        (ranks.participation_ratio, spectral.participation_ratio(s)),
        (ranks.squared_frobenius_norm, jnp.sum(s**2)),
    ):
        assert abs(float(estimate.value - value)) < 5 * float(estimate.standard_error)
        assert float(estimate.standard_error) < 0.1 * float(value)


def test_zero_and_rank_one():
    zero = lambda v: 0 * v  # noqa: E731
    assert np.all(spectral.top_singular_values(zero, LIKE, k=3, key=KEY).values == 0)
    chex.assert_tree_all_finite(spectral.estimate_stable_rank(zero, LIKE, key=KEY))
    assert spectral.estimate_stable_rank(zero, LIKE, key=KEY).value == 0
    density = spectral.spectral_density(zero, LIKE, key=KEY, iterations=4)
    assert spectral.estimate_ranks(density).effective_rank.value == 0

    def one(v):
        return jnp.ones(7) * jnp.sum(v)

    top = spectral.top_singular_values(one, LIKE, k=3, key=KEY, iterations=6)
    np.testing.assert_allclose(top.values, [280**0.5, 0, 0], atol=1e-4)
    chex.assert_tree_all_finite(top)


def test_gradient_of_a_value():
    a = matrix(0.3)

    def estimated(a):
        return spectral.top_singular_values(linear(a), LIKE, k=2, key=KEY, iterations=30).values[1]

    gradient = jax.jit(jax.grad(estimated))(a)
    expected = jax.grad(lambda a: spectral.singular_values(a)[1])(a)
    np.testing.assert_allclose(gradient, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: spectral.top_singular_values(f, LIKE, k=0, key=KEY), "k must be from 1 to"),
        (
            lambda f: spectral.top_singular_values(f, LIKE, k=9, key=KEY, iterations=3),
            "iterations must be from k=9",
        ),
        (
            lambda f: spectral.squared_frobenius_norm(f, LIKE, key=KEY, probes=1),
            "probes must be at least 2",
        ),
        (
            lambda f: spectral.squared_frobenius_norm(f, LIKE, key=KEY, probes=41, method="xtrace"),
            "at most the input's dimensions 40",
        ),
        (lambda f: spectral.spectral_density(f, LIKE, key=KEY, iterations=41), "from 1 to 40"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda v: 2 * v)


class TestLayerJacobians:
    """tanh layers: J_l = D_l W_l ... D_1 W_1, D of the derivatives."""

    n = 10

    def setup_class(self):
        rng = np.random.default_rng(0)
        self.w = rng.standard_normal((30, self.n, self.n)) / self.n**0.5
        h, product, self.logs = np.ones(self.n), np.eye(self.n), []
        for w in self.w[:9]:
            h = np.tanh(w @ h)
            product = np.diag(1 - h**2) @ w @ product
            self.logs.append(np.log(np.linalg.svd(product, compute_uv=False)))
        self.stack = jnp.asarray(self.w, jnp.float32)

    @staticmethod
    def layer(w, h):
        return jnp.tanh(jnp.matmul(w, h, precision="highest"))

    def test_whole_and_top(self):
        x = jnp.ones(self.n)
        whole = jax.jit(lambda w: spectral.layer_jacobian_spectra(self.layer, x, parameters=w))(
            self.stack
        ).log_singular_values
        np.testing.assert_allclose(whole[:9], self.logs, atol=1e-3)
        top = jax.jit(
            lambda w: spectral.layer_jacobian_spectra(self.layer, x, parameters=w, top=1, sweeps=3)
        )(self.stack).log_singular_values
        np.testing.assert_allclose(top[:, 0], whole[:, 0], atol=2e-3)

    def test_forward_only_would_be_off(self):
        """The diagonal of forward QR, Benettin's growth, is not the singular values."""
        product = spectral.graded_start(jnp.eye(self.n))
        h = jnp.ones(self.n)
        for w in self.stack[:9]:
            h = self.layer(w, h)
            matrix = (1 - h**2)[:, None] * w
            product = spectral.graded_step(product, matrix @ product.q)
        assert np.max(np.abs(product.log_scale - self.logs[-1])) > 0.1

    def test_sequences_of_changing_width(self):
        def narrow(h):
            return jnp.sin(h[:4])

        layers = [lambda h: self.layer(self.stack[0], h), narrow, lambda h: 2 * h]
        found = spectral.layer_jacobian_spectra(layers, jnp.ones(self.n))
        np.testing.assert_array_equal(found.structural_rank, [self.n, 4, 4])
        np.testing.assert_allclose(found.log_singular_values[0], self.logs[0], atol=1e-4)
        two, three = found.log_singular_values[1:, :4]
        np.testing.assert_allclose(three - two, np.log(2), atol=1e-5)
        top = spectral.layer_jacobian_spectra(layers, jnp.ones(self.n), top=2, sweeps=4)
        np.testing.assert_allclose(
            top.log_singular_values, found.log_singular_values[:, :2], atol=1e-3
        )

    def test_errors(self):
        with pytest.raises(ValueError, match="at least one layer"):
            spectral.layer_jacobian_spectra([], jnp.ones(3))
        with pytest.raises(ValueError, match="top must be from 1 to"):
            spectral.layer_jacobian_spectra([jnp.sin], jnp.ones(3), top=4)
