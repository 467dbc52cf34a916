"""Power-law fits against the powerlaw package, NumPy's least squares and planted exponents."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral


def pareto(alpha, k, seed):
    return np.random.default_rng(seed).pareto(alpha - 1, k) + 1


class TestPowerLaw:
    @pytest.mark.parametrize(("alpha", "k"), [(1.8, 100), (2.2, 150), (2.5, 333)])
    def test_is_the_powerlaw_packages(self, alpha, k):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            powerlaw = pytest.importorskip("powerlaw")
            rng = np.random.default_rng(k)
            eigenvalues = np.concatenate([pareto(alpha, k, k), rng.uniform(0.05, 1, k // 2)])
            fit = powerlaw.Fit(eigenvalues, verbose=False)
            expected = fit.power_law.alpha, fit.power_law.xmin, fit.power_law.D
        found = spectral.power_law(jnp.asarray(np.sqrt(eigenvalues), jnp.float32))
        np.testing.assert_allclose(found.alpha, expected[0], rtol=1e-4)
        np.testing.assert_allclose(jnp.exp(found.log_minimum), expected[1], rtol=1e-4)
        np.testing.assert_allclose(found.distance, expected[2], atol=1e-4)
        assert found.count == np.sum(eigenvalues >= expected[1] * (1 - 1e-6))

    def test_steep_tail_by_search(self):
        """The package keeps to exponents up to 3 by default: every start tried, in NumPy."""
        rng = np.random.default_rng(200)
        eigenvalues = np.sort(np.concatenate([pareto(4.0, 200, 200), rng.uniform(0.05, 1, 100)]))
        fits = []
        for i, start in enumerate(eigenvalues[:-1]):
            tail = eigenvalues[i:]
            alpha = 1 + len(tail) / np.sum(np.log(tail / start))
            law = 1 - (tail / start) ** (1 - alpha)
            fits.append((np.max(np.abs(law - np.arange(len(tail)) / len(tail))), alpha, len(tail)))
        found = spectral.power_law(jnp.asarray(np.sqrt(eigenvalues), jnp.float32))
        np.testing.assert_allclose((found.distance, found.alpha, found.count), min(fits), rtol=1e-4)

    def test_error_and_batch_and_logs(self):
        s = jnp.asarray(np.stack([pareto(3.0, 400, seed) for seed in range(3)]) ** 0.5, jnp.float32)
        found = spectral.power_law(s)
        chex.assert_shape(found, (3,))
        assert np.all(np.abs(found.alpha - 3) < 4 * found.standard_error)
        for row, one in zip(s, zip(*found, strict=True), strict=True):
            chex.assert_trees_all_close(tuple(spectral.power_law(row[::-1])), one, rtol=1e-5)
        logs = spectral.power_law(jnp.log(s) + 5e3, log=True)
        np.testing.assert_allclose(logs.alpha, found.alpha, rtol=2e-2)

    def test_gradient_at_a_fixed_start(self):
        s = np.sqrt(pareto(2.5, 30, 1))
        gradient = jax.grad(lambda s: spectral.power_law(s).alpha)(jnp.asarray(s, jnp.float32))
        start = np.exp(float(spectral.power_law(jnp.asarray(s, jnp.float32)).log_minimum))

        def value(s):
            x = np.sort(s**2)
            x = x[x >= start * (1 - 1e-4)]
            return 1 + len(x) / np.sum(np.log(x / x[0]))

        for i in np.argsort(s)[-5:]:
            e = 1e-5 * np.eye(30)[i]
            difference = (value(s + e) - value(s - e)) / 2e-5
            np.testing.assert_allclose(gradient[i], difference, rtol=1e-2, atol=1e-4)

    @pytest.mark.parametrize("s", [[0.0, 0.0], [1.0, 0.0], [2.0, 2.0, 2.0]])
    def test_without_a_tail(self, s):
        found, gradient = (
            spectral.power_law(jnp.array(s)),
            jax.grad(lambda s: spectral.power_law(s).alpha)(jnp.array(s)),
        )
        assert found.alpha == jnp.inf
        assert found.count == 0
        assert found.distance == 1
        chex.assert_tree_all_finite(gradient)
        assert not any(np.any(np.isnan(leaf)) for leaf in found)


class TestAlphaReQ:
    @pytest.mark.parametrize(("start", "stop"), [(1, None), (5, 30)])
    def test_is_least_squares(self, start, stop):
        s = np.sort(np.random.default_rng(0).exponential(size=40))[::-1]
        j = np.arange(start, (stop or 40) + 1)
        y = 2 * np.log(s[j - 1])
        slope = np.polyfit(np.log(j), y, 1)[0]
        found = spectral.alpha_req(jnp.asarray(s, jnp.float32), start=start, stop=stop)
        np.testing.assert_allclose(found.alpha, -slope, rtol=1e-4)
        r = np.corrcoef(np.log(j), y)[0, 1]
        np.testing.assert_allclose(found.r_squared, r**2, rtol=1e-4)

    def test_zeros_are_left_out(self):
        s = jnp.arange(1.0, 21.0) ** -0.75
        padded = jnp.pad(s, (0, 5))
        found = spectral.alpha_req(padded)
        np.testing.assert_allclose(found.alpha, 1.5, rtol=1e-5)
        np.testing.assert_allclose(found.r_squared, 1, rtol=1e-5)
        assert found.count == 20
        logs = spectral.alpha_req(jnp.log(padded) - 9e3, log=True)
        np.testing.assert_allclose(logs.alpha, 1.5, rtol=1e-3)

    @pytest.mark.parametrize("s", [[0.0, 0.0], [1.0, 0.0], [2.0, 2.0, 2.0]])
    def test_degenerate(self, s):
        found = spectral.alpha_req(jnp.array(s))
        np.testing.assert_allclose(found.alpha, 0, atol=1e-6)
        chex.assert_tree_all_finite(tuple(found))
        chex.assert_tree_all_finite(
            jax.jacobian(lambda s: jnp.stack(spectral.alpha_req(s)[:2]))(jnp.array(s))
        )

    def test_bad_range(self):
        with pytest.raises(ValueError, match="start < stop"):
            spectral.alpha_req(jnp.ones(4), start=4)
