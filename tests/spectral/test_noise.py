"""Numerical rank and Marchenko-Pastur against NumPy, published constants and planted signals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral


class TestNumericalRank:
    def test_is_numpys(self):
        rng = np.random.default_rng(0)
        for rank in (0, 1, 4, 6):
            a = (rng.normal(size=(9, rank)) @ rng.normal(size=(rank, 6))).astype(np.float32)
            s = spectral.singular_values(jnp.asarray(a))
            assert spectral.numerical_rank(s, shape=a.shape) == np.linalg.matrix_rank(a) == rank

    def test_tolerances_are_strict(self):
        s = jnp.array([4.0, 2.0, 1.0, 0.0])
        assert spectral.numerical_rank(s, relative=0.25) == 2
        assert spectral.numerical_rank(s, relative=0.0) == 3
        assert spectral.numerical_rank(s, absolute=1.0) == 2
        logs = jnp.log(s)
        assert spectral.numerical_rank(logs, log=True, relative=0.2) == 3
        assert spectral.numerical_rank(logs, log=True, absolute=0.0) == 3
        assert spectral.numerical_rank(jnp.zeros(3), shape=(3, 3)) == 0

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"relative": 0.1, "absolute": 0.1},
            {"relative": 1.5},
            {"absolute": -1.0},
            {"relative": 0.1, "noise": 1.0},
            {"shape": (3, 3), "noise": 0.0},
            {"shape": (5, 4), "noise": "median"},
            {"shape": (0, 4)},
        ],
    )
    def test_bad_tolerances(self, options):
        with pytest.raises(ValueError, match=r"exactly one of|must|needs the shape"):
            spectral.numerical_rank(jnp.ones(3), **options)


class TestGavishDonoho:
    def test_published_constants(self):
        """4 / sqrt(3) and, for a square matrix of unknown noise, 2.858 (section I)."""
        k = 1001
        s = jnp.linspace(0.0, 2.0, k)  # its median is 1
        for value, rank in ((2.857, 0), (2.859, 1)):
            assert (
                spectral.numerical_rank(s.at[-1].set(value), shape=(k, k), noise="median") == rank
            )
        bound = 4 / 3**0.5 * 10
        s = jnp.array([bound * 1.001, bound * 0.999])
        assert spectral.numerical_rank(s, shape=(100, 100), noise=1.0) == 1
        assert spectral.numerical_rank(jnp.log(s), log=True, shape=(100, 100), noise=1.0) == 1

    @pytest.mark.parametrize(("ratio", "omega"), [(0.1, 1.6089), (0.5, 2.1711), (0.9, 2.7099)])
    def test_table_of_unknown_noise(self, ratio, omega):
        """Table IV of Gavish & Donoho 2014."""
        k, large = 901, round(901 / ratio)
        s = jnp.linspace(0.5, 1.5, k).at[-1].set(omega * (large * ratio / k) ** 0.5)
        below = s.at[-1].multiply(0.998)
        above = s.at[-1].multiply(1.002)
        assert spectral.numerical_rank(below, shape=(k, large), noise="median") == 0
        assert spectral.numerical_rank(above, shape=(large, k), noise="median") == 1

    def test_finds_planted_rank(self):
        keys = jax.random.split(jax.random.key(0), 3)
        signal = jax.random.orthogonal(keys[0], 60)[:, :4] * jnp.array([[90.0, 80.0, 70.0, 60.0]])
        a = signal @ jax.random.orthogonal(keys[1], 200)[:4] + jax.random.normal(keys[2], (60, 200))
        s = spectral.singular_values(a)
        assert spectral.numerical_rank(s, shape=a.shape, noise=1.0) == 4
        assert spectral.numerical_rank(s, shape=a.shape, noise="median") == 4
        assert spectral.numerical_rank(jnp.log(s), log=True, shape=a.shape, noise="median") == 4


class TestMarchenkoPastur:
    def test_noise_alone(self):
        """At the 99% quantile of Tracy and Widom's law 40 matrices have about 0.4 outliers."""
        a = 0.3 * jax.random.normal(jax.random.key(1), (40, 60, 150))
        found = spectral.marchenko_pastur(spectral.singular_values(a), shape=(60, 150))
        chex.assert_shape(found, (40,))
        assert int(jnp.sum(found.outliers)) <= 3
        np.testing.assert_allclose(found.noise, 0.3, rtol=0.05)
        np.testing.assert_allclose(jnp.mean(found.noise), 0.3, rtol=0.01)
        edges = 0.3 * (150**0.5 + np.array([-1, 1]) * 60**0.5)
        known = spectral.marchenko_pastur(jnp.ones((40, 60)), shape=(150, 60), noise=0.3)
        np.testing.assert_allclose(known.lower, edges[0], rtol=1e-6)
        np.testing.assert_allclose(known.upper, edges[1], rtol=1e-6)

    def test_planted_outliers(self):
        a = jax.random.normal(jax.random.key(2), (100, 100))
        a += 40 * jnp.diag((jnp.arange(100) < 5).astype(jnp.float32))
        s = spectral.singular_values(a)
        for noise in (1.0, "median"):
            assert spectral.marchenko_pastur(s, shape=a.shape, noise=noise).outliers == 5

    def test_zero_and_bad(self):
        found = spectral.marchenko_pastur(jnp.zeros(4), shape=(4, 4))
        assert found.outliers == 0
        assert found.upper == 0
        chex.assert_tree_all_finite(
            jax.grad(lambda s: spectral.marchenko_pastur(s, shape=(4, 4)).upper)(jnp.zeros(4))
        )
        with pytest.raises(ValueError, match="must hold all 4 values"):
            spectral.marchenko_pastur(jnp.ones(3), shape=(4, 4))
