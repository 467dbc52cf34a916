"""Similarity of answers and of layers, and singularities, against direct computations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import analysis


@pytest.fixture(scope="module")
def h():
    return jax.random.normal(jax.random.key(0), (3, 9, 5)) + 1


@pytest.fixture(scope="module")
def setting():
    keys = jax.random.split(jax.random.key(0), 5)
    w = [jax.random.normal(k, (6, 6)) for k in keys[:3]]
    x = jax.random.normal(keys[3], (400, 6)) @ w[0]
    chain = analysis.as_chain(
        [lambda h: h, lambda h: jnp.tanh(h @ w[1]), lambda h: jnp.maximum(h @ w[2], 0)]
    )
    return chain, x


class TestSimilarity:
    def test_rank_one_residual(self, h):
        a = np.asarray(h[0], np.float64)
        r = a - a.mean(0)
        found = analysis.rank_one_residual(h)[0]
        assert float(found) == pytest.approx(np.linalg.norm(r) / np.linalg.norm(a), rel=1e-5)
        composite = [np.sqrt(np.linalg.norm(m, 1) * np.linalg.norm(m, np.inf)) for m in (r, a)]
        found = analysis.rank_one_residual(h, norm="composite")[0]
        assert float(found) == pytest.approx(composite[0] / composite[1], rel=1e-5)

    def test_alike_and_nothing(self):
        alike = jnp.ones((1, 4, 3)) * jnp.arange(3.0)[None, None]
        assert float(analysis.rank_one_residual(alike)[0]) == 0
        assert float(analysis.rank_one_residual(0 * alike)[0]) == 0
        assert float(analysis.angular_distance(jnp.concatenate([alike, 2 * alike]))[0, 1]) == 0

    def test_streamed_cosine(self, h):
        state = analysis.start_similarity(5)
        for part in jnp.split(h[0], [4]):
            state = analysis.update_similarity(state, part)
        expected = analysis.cosine_similarity(h[:1])[0]
        assert float(analysis.mean_cosine(state)) == pytest.approx(float(expected), abs=1e-6)

    def test_cosine_of_tiny_features(self, h):
        chex.assert_trees_all_close(
            analysis.cosine_similarity(1e-30 * h), analysis.cosine_similarity(h), atol=1e-6
        )

    def test_angular_distance(self, h):
        found = analysis.angular_distance(h)
        a, b = np.asarray(h[0], np.float64), np.asarray(h[2], np.float64)
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert float(found[0, 2]) == pytest.approx(np.arccos(cosine).mean() / np.pi, rel=1e-4)
        chex.assert_trees_all_equal(jnp.diagonal(found), jnp.zeros(3))

    def test_arguments(self, h):
        with pytest.raises(ValueError, match="norm must be"):
            analysis.rank_one_residual(h, norm="l1")
        with pytest.raises(ValueError, match="at least two examples"):
            analysis.rank_one_residual(h[:, :1])
        with pytest.raises(ValueError, match="at least four examples; got 3"):
            analysis.cka(h[:, :3])


def unbiased_hsic(k, m):
    """The same estimator, by sums over distinct indices (Song et al. 2012, eq. 4)."""
    n = len(k)
    i, j = np.array([(i, j) for i in range(n) for j in range(n) if i != j]).T
    pairs = (k[i, j] * m[i, j]).mean()
    quads = trips = 0.0
    count4 = count3 = 0
    for a in range(n):
        for b in range(n):
            for c in range(n):
                if len({a, b, c}) == 3:
                    trips += k[a, b] * m[a, c]
                    count3 += 1
                    for d in range(n):
                        if d not in (a, b, c):
                            quads += k[a, b] * m[c, d]
                            count4 += 1
    return pairs + quads / count4 - 2 * trips / count3


class TestCKA:
    def test_against_sums_over_distinct_indices(self):
        h = np.random.default_rng(0).normal(size=(2, 6, 3))
        grams = np.einsum("lnd,lmd->lnm", h, h)
        found = analysis.hsic(jnp.asarray(grams, jnp.float32))
        for i in range(2):
            for j in range(2):
                assert float(found[i, j]) == pytest.approx(
                    unbiased_hsic(grams[i], grams[j]), rel=1e-3, abs=1e-4
                )

    def test_invariances(self, h):
        q = jax.random.orthogonal(jax.random.key(1), 5)
        found = analysis.cka([h[0], 3 * h[0] @ q + 2, h[1, :, :2]])
        chex.assert_trees_all_close(found[0, 1], jnp.ones(()), atol=1e-4)
        chex.assert_trees_all_close(jnp.diagonal(found), jnp.ones(3), atol=1e-5)

    def test_independent_layers_are_unalike_on_average(self):
        h = jax.random.normal(jax.random.key(2), (400, 2, 8, 6))
        mean = jnp.mean(jax.vmap(lambda h: analysis.hsic(jax.vmap(analysis.example_gram)(h)))(h), 0)
        assert abs(float(analysis.align(mean)[0, 1])) < 0.05
        biased = jnp.mean(jax.vmap(lambda h: analysis.cka(h)[0, 1])(h))
        assert jnp.isfinite(biased)

    def test_layer_that_answers_alike(self, h):
        found = analysis.cka([h[0], jnp.ones((9, 4))])
        assert abs(float(found[0, 1])) < 1e-5

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_scale_changes_nothing(self, h, scale):
        expected = analysis.cka(h)
        chex.assert_trees_all_close(analysis.cka(scale * h), expected, atol=1e-5)
        chex.assert_trees_all_close(analysis.cka([h[0], scale * h[1], h[2]]), expected, atol=1e-5)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_layers_that_are_not_finite_are_nan(self, h, value):
        found = analysis.cka(h.at[1, 0, 0].set(value))
        np.testing.assert_array_equal(np.isnan(found), [[0, 1, 0], [1, 1, 1], [0, 1, 0]])


class TestSingularities:
    def test_each_kind(self):
        w = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
        w[1] = -2 * w[0]
        w[2] = 0
        found = analysis.singularities(jnp.asarray(w))
        np.testing.assert_allclose(found.overlap[:2], 1, rtol=1e-6)
        assert float(found.overlap[2]) == 0
        assert float(jnp.max(found.overlap[3:])) < 0.95
        assert float(found.elimination[2]) == 0
        assert float(found.dependence) < 1e-6
        assert analysis.eliminated(jnp.asarray(w)).tolist() == [False] * 2 + [True] + [False] * 2

    def test_linear_dependence_without_overlap(self):
        w = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
        w[2] = w[0] + w[1]
        found = analysis.singularities(jnp.asarray(w))
        assert float(jnp.max(found.overlap)) < 0.99
        assert float(found.dependence) < 1e-6
        unit = w[:2] / np.linalg.norm(w[:2], axis=1, keepdims=True)
        expected = np.linalg.svd(unit, compute_uv=False)[-1]
        found = analysis.singularities(jnp.asarray(w[:2]))
        assert float(found.dependence) == pytest.approx(float(expected), rel=1e-5)

    def test_more_units_than_inputs_depend(self):
        w = jax.random.normal(jax.random.key(0), (2, 6, 3))
        chex.assert_trees_all_equal(analysis.singularities(w).dependence, jnp.zeros(2))

    def test_tiny_and_huge_weights(self):
        w = jax.random.normal(jax.random.key(0), (4, 6))
        for scale in (1e-30, 1e30):
            chex.assert_trees_all_close(
                analysis.singularities(w * scale).elimination,
                analysis.singularities(w).elimination,
                rtol=1e-5,
            )


class TestStreamedAlignment:
    def test_it_estimates_the_alignment_of_all_examples(self, setting):
        """Of the U-statistic as it is defined: by sums over all examples, in float64."""
        chain, x = setting
        batches = [x[:100], x[100:150], *jnp.split(x[150:], 5)]
        found = np.asarray(analysis.stream_cka(chain, batches))
        h = [np.asarray(f, np.float64)[0] for f in analysis.features(chain, x).values()]
        centred = [a - a.mean(0) for a in h]
        cross = np.array([[np.linalg.norm(a.T @ b) ** 2 for b in centred] for a in centred])
        size = np.sqrt(np.diag(cross))
        np.testing.assert_allclose(found, cross / size[:, None] / size[None], atol=0.03)
        np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)

    def test_one_batch_is_the_alignment_at_hand_however_far_from_zero(self, setting):
        chain, x = setting
        h = [f[0] for f in analysis.features(chain, x[:40]).values()]
        expected = analysis.cka(h)
        np.testing.assert_allclose(analysis.stream_cka(chain, [x[:40]]), expected, atol=1e-6)
        np.testing.assert_allclose(analysis.cka([a + 100 for a in h]), expected, atol=1e-3)

    def test_scale_changes_nothing_and_nan_is_nan(self, setting):
        chain, x = setting
        batches = [x[:10], 3 * x[10:20]]
        expected = analysis.stream_cka(chain, batches)
        for scale in (1e-12, 1e12):
            last = ("scaled", jnp.multiply, jnp.float32(scale), None)
            found = analysis.stream_cka(analysis.as_chain([*chain.segments, last]), batches)
            np.testing.assert_allclose(found[:3, :3], expected, atol=1e-5)
            np.testing.assert_allclose(found[3], found[2], atol=1e-5)
        broken = analysis.stream_cka(chain, [x[:10], x[10:20].at[0, 0].set(jnp.nan)])
        assert np.all(np.isnan(broken))

    def test_bad_batches(self, setting):
        chain, x = setting
        with pytest.raises(ValueError, match="at least four examples; got 3"):
            analysis.stream_cka(chain, [x[:3]])
        with pytest.raises(ValueError, match="at least one batch"):
            analysis.stream_cka(chain, [])
