"""Ranks of spectra against their formulas in multiprecision, closed forms, and at the edges."""

import chex
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxact import spectral

RANKS = {
    "stable_rank": spectral.stable_rank,
    "effective_rank": spectral.effective_rank,
    "effective_rank of squares": lambda s, **o: spectral.effective_rank(s, power=2, **o),
    "participation_ratio": spectral.participation_ratio,
}


def reference(name, s):
    """The formula in 40 digits."""
    with mp.workdps(40):
        s = [mp.mpf(float(v)) for v in s]
        squares = [v**2 for v in s]
        if name == "stable_rank":
            return float(sum(squares) / max(squares))
        if name == "participation_ratio":
            return float(sum(squares) ** 2 / sum(v**2 for v in squares))
        weights = squares if "squares" in name else s
        shares = [v / sum(weights) for v in weights]
        return float(mp.exp(-sum(p * mp.log(p) for p in shares if p > 0)))


SPECTRA = {
    "random": np.random.default_rng(0).exponential(size=9),
    "one direction": np.array([3.0, 0, 0, 0]),
    "flat": np.full(7, 1e-20),
    "graded": 10.0 ** -np.arange(0, 30, 3),
    "large": np.array([3e38, 1e38, 1.0]),
}


@pytest.mark.parametrize("name", RANKS)
class TestRealRanks:
    @pytest.mark.parametrize("spectrum", SPECTRA)
    def test_formula(self, name, spectrum):
        s = SPECTRA[spectrum].astype(np.float32)
        expected = reference(name, s)
        found = RANKS[name](jnp.asarray(s))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=2e-6)
        with np.errstate(divide="ignore"):
            logs = np.log(s.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(RANKS[name](jnp.asarray(logs), log=True), expected, rtol=2e-5)

    @pytest.mark.parametrize("shift", [-1e4, 1e4])
    def test_logarithms_of_any_size(self, name, shift):
        logs = jnp.array([0.0, -1.0, -3.0])
        np.testing.assert_allclose(
            RANKS[name](logs + shift, log=True), RANKS[name](logs, log=True), rtol=1e-3
        )

    def test_order_and_batch_do_not_matter(self, name):
        s = jax.random.uniform(jax.random.key(0), (2, 3, 5))
        batched = RANKS[name](s)
        assert batched.shape == (2, 3)
        chex.assert_trees_all_close(batched[1, 2], RANKS[name](s[1, 2, ::-1]), rtol=1e-6)

    @pytest.mark.parametrize("log", [False, True])
    def test_zero_matrix_has_rank_zero(self, name, log):
        zero = jnp.full((4,), -jnp.inf if log else 0.0)
        value, gradient = jax.value_and_grad(lambda s: RANKS[name](s, log=log))(zero)
        assert value == 0
        chex.assert_tree_all_finite(gradient)

    @pytest.mark.parametrize("s", [[1.0, 0.0, 0.0], [2.0, 2.0, 2.0], [3.0, 2.0, 1.0]])
    def test_gradient(self, name, s):
        s = np.array(s)
        gradient = jax.grad(RANKS[name])(jnp.asarray(s, jnp.float32))
        chex.assert_tree_all_finite(gradient)
        if len(set(s)) == 3 and s.min() > 0:
            step = 1e-6
            for i, g in enumerate(gradient):
                e = step * np.eye(3)[i]
                difference = (reference(name, s + e) - reference(name, s - e)) / (2 * step)
                np.testing.assert_allclose(g, difference, rtol=1e-4, atol=1e-5)

    def test_no_singular_values(self, name):
        with pytest.raises(ValueError, match="at least one singular value"):
            RANKS[name](jnp.zeros((3, 0)))


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
        [{}, {"relative": 0.1, "absolute": 0.1}, {"relative": 1.5}, {"absolute": -1.0}],
    )
    def test_bad_tolerances(self, options):
        with pytest.raises(ValueError, match=r"exactly one of|must"):
            spectral.numerical_rank(jnp.ones(3), **options)


def test_bad_power():
    with pytest.raises(ValueError, match="power must be at least 1; got 0"):
        spectral.effective_rank(jnp.ones(3), power=0)


class TestSingularValues:
    @pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9), (5, 4), (1, 7)])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
    def test_against_numpy(self, shape, dtype):
        a = jax.random.normal(jax.random.key(0), (2, *shape), dtype)
        expected = np.linalg.svd(np.asarray(a, np.complex128), compute_uv=False)
        found = spectral.singular_values(a)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize("shape", [(4, 4), (9, 4), (3, 8)])
    def test_gradient_against_finite_differences(self, shape):
        a = np.random.default_rng(0).normal(size=shape)
        weights = np.arange(1.0, min(shape) + 1)

        def value(a):
            return np.linalg.svd(a, compute_uv=False) @ weights

        gradient = jax.grad(
            lambda a: jnp.sum(spectral.singular_values(a) * jnp.asarray(weights, jnp.float32))
        )(jnp.asarray(a, jnp.float32))
        for index in np.ndindex(shape):
            e = np.zeros(shape)
            e[index] = 1e-6
            difference = (value(a + e) - value(a - e)) / 2e-6
            np.testing.assert_allclose(gradient[index], difference, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("a", [jnp.zeros((3, 3)), jnp.ones((6, 3)), jnp.eye(4)])
    def test_gradient_is_finite_at_ties_and_zeros(self, a):
        for rank in RANKS.values():
            gradient = jax.grad(lambda a, rank=rank: rank(spectral.singular_values(a)))(a)
            chex.assert_tree_all_finite(gradient)
        nuclear = jax.grad(lambda a: jnp.sum(spectral.singular_values(a)))(a)
        assert float(jnp.linalg.norm(nuclear, 2)) <= 1 + 1e-5

    @pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 0)])
    def test_not_a_matrix(self, shape):
        with pytest.raises((ValueError, TypeError)):
            spectral.singular_values(jnp.zeros(shape))


def test_marchenko_pastur_limits():
    """A Gaussian matrix of aspect c = m / M (Marchenko & Pastur 1967)."""
    m, aspect = 256, 4
    a = jax.random.normal(jax.random.key(0), (m, aspect * m))
    s, c = spectral.singular_values(a), 1 / aspect
    np.testing.assert_allclose(spectral.stable_rank(s) / m, 1 / (1 + c**0.5) ** 2, rtol=0.03)
    np.testing.assert_allclose(spectral.effective_rank(s, power=2) / m, np.exp(-c / 2), rtol=0.01)
    np.testing.assert_allclose(spectral.participation_ratio(s) / m, 1 / (1 + c), rtol=0.01)
