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
    "nuclear_rank": spectral.nuclear_rank,
    "schatten_rank 3": lambda s, **o: spectral.schatten_rank(s, p=3, **o),
    "renyi_rank 1/2": lambda s, **o: spectral.renyi_rank(s, order=0.5, **o),
    "renyi_rank 3": lambda s, **o: spectral.renyi_rank(s, order=3, power=1, **o),
    "renyi_rank inf": lambda s, **o: spectral.renyi_rank(s, order=np.inf, **o),
    "rankme": spectral.rankme,
}


def reference(name, s):
    """The formula in 40 digits."""
    with mp.workdps(40):
        s = [mp.mpf(float(v)) for v in s]
        squares = [v**2 for v in s]
        if name == "nuclear_rank":
            return float(sum(s) / max(s))
        if name == "schatten_rank 3":
            return float(sum(v**3 for v in s) / max(s) ** 3)
        if name == "renyi_rank 1/2":
            return float(sum(s) ** 2 / sum(squares))
        if name == "renyi_rank 3":
            return float((sum(v**3 for v in s) / sum(s) ** 3) ** mp.mpf(-0.5))
        if name == "renyi_rank inf":
            return float(sum(squares) / max(squares))
        if name == "rankme":
            shares = [v / sum(s) + mp.mpf("1e-7") for v in s]
            return float(mp.exp(-sum(p * mp.log(p) for p in shares)))
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


@pytest.mark.parametrize("log", [False, True])
def test_ratios_below_all_numbers_count(log):
    """A float32 ratio of 3e-76 is zero; its thousandth root is not, nor is the value itself."""
    s = np.array([3e38, 1, 1e-37, 0], np.float32)
    with np.errstate(divide="ignore"):
        given = jnp.asarray(np.log(s) if log else s)
    with mp.workdps(40):
        exact = float(sum((mp.mpf(float(v)) / mp.mpf(float(s[0]))) ** mp.mpf("1e-3") for v in s))
    np.testing.assert_allclose(spectral.schatten_rank(given, p=1e-3, log=log), exact, rtol=1e-5)
    gradient = jax.grad(lambda s: spectral.schatten_rank(s, p=1e-3, log=log))(given)
    assert np.all(np.isfinite(gradient))
    assert spectral.numerical_rank(given, relative=0, log=log) == 3


def test_logarithms_as_far_apart_as_numbers_go():
    far = jnp.array([3e38, -3e38])
    for order in (0.999, 1, 1.001, 3):
        assert spectral.renyi_rank(far, order=order, log=True) == 1


def test_bad_power():
    with pytest.raises(ValueError, match="power must be at least 1; got 0"):
        spectral.effective_rank(jnp.ones(3), power=0)


class TestNorms:
    @pytest.mark.parametrize("p", [1, 1.5, 2, 7, np.inf])
    @pytest.mark.parametrize("spectrum", SPECTRA)
    def test_schatten_norm(self, p, spectrum):
        s = SPECTRA[spectrum].astype(np.float32)
        with mp.workdps(40):
            exact = [mp.mpf(float(v)) for v in s]
            norm = max(exact) if np.isinf(p) else sum(v**p for v in exact) ** (1 / mp.mpf(p))
            log_norm = float(mp.log(norm))
        expected = float(norm)
        if expected < 3e38:
            np.testing.assert_allclose(
                spectral.schatten_norm(jnp.asarray(s), p=p), expected, rtol=1e-6
            )
        logs = jnp.log(jnp.asarray(s)) + 9e3
        found = spectral.schatten_norm(logs, p=p, log=True)
        np.testing.assert_allclose(found - 9e3, log_norm, atol=2e-3)

    @pytest.mark.parametrize("p", [1, 2, 3, np.inf])
    @pytest.mark.parametrize("log", [False, True])
    def test_gradient_at_the_zero_matrix(self, p, log):
        zero = jnp.full(3, -jnp.inf if log else 0.0)
        gradient = jax.grad(lambda s: spectral.schatten_norm(s, p=p, log=log))(zero)
        chex.assert_tree_all_finite(gradient)

    def test_condition_number(self):
        s = jnp.array([[2.0, 8.0, 1.0], [1.0, 0.0, 3.0]])
        np.testing.assert_allclose(spectral.condition_number(s), [8, np.inf])
        logs = jnp.array([1e4, -1e4])
        assert spectral.condition_number(logs, log=True) == 2e4
        for log in (False, True):
            for s in ([3.0, 1.0], [1.0, 0.0], [0.0, 0.0], [2.0, 2.0]):
                s = jnp.log(jnp.array(s)) if log else jnp.array(s)
                chex.assert_tree_all_finite(
                    jax.grad(lambda s, log=log: spectral.condition_number(s, log=log))(s)
                )

    def test_spectral_gap(self):
        s = jnp.array([1.0, 4.0, 3.0, 0.0])
        for index, expected in ((1, 0.25), (2, 2 / 3), (3, 1.0)):
            np.testing.assert_allclose(spectral.spectral_gap(s, index=index), expected, rtol=1e-6)
            np.testing.assert_allclose(
                spectral.spectral_gap(jnp.log(s), index=index, log=True), expected, rtol=1e-6
            )
        assert spectral.spectral_gap(jnp.zeros(2)) == 0
        np.testing.assert_allclose(
            spectral.spectral_gap(jnp.array([1e4, 9999.0]), log=True), 1 - np.exp(-1), rtol=1e-6
        )
        for s in (jnp.zeros(3), jnp.ones(3), jnp.array([1.0, 0.0, 0.0])):
            chex.assert_tree_all_finite(jax.grad(spectral.spectral_gap)(s))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: spectral.schatten_norm(jnp.ones(3), p=0.5), "p must be at least 1; got 0.5"),
            (lambda: spectral.schatten_rank(jnp.ones(3), p=0), "p must be positive"),
            (lambda: spectral.renyi_rank(jnp.ones(3), order=-1), "order must be at least 0"),
            (lambda: spectral.rankme(jnp.ones(3), epsilon=-1.0), "epsilon must be at least 0"),
            (lambda: spectral.spectral_gap(jnp.ones(1)), "at least two singular values"),
            (lambda: spectral.spectral_gap(jnp.ones(3), index=3), "index must be from 1 to 2"),
        ],
    )
    def test_bad_options(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    s = jnp.array([300.0, 200.0, 100.0, 1e-3], dtype)
    for rank in RANKS.values():
        assert rank(s).dtype == jnp.float32
        np.testing.assert_allclose(rank(s), rank(s.astype(jnp.float32)), rtol=1e-6)
    a = jax.random.normal(jax.random.key(0), (4, 6), dtype)
    exact = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    np.testing.assert_allclose(spectral.singular_values(a), exact, rtol=1e-5)
    # NumPy's tolerance is that of the dtype that the values came in.
    assert spectral.numerical_rank(s, shape=(4, 4)) == 3
    assert spectral.numerical_rank(s.astype(jnp.float32), shape=(4, 4)) == 4


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
