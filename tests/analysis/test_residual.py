"""Blocks, lesions and path lengths, against expansions by hand."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import analysis

N = 5
DEPTH = 4


def block(w, x):
    return x + jnp.tanh(x @ w)


def loss(y):
    return jnp.sum(jnp.square(y))


@pytest.fixture(scope="module")
def weights():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (3, N)), jax.random.normal(keys[1], (DEPTH, N, N)) / 2


@pytest.fixture(scope="module")
def chain(weights):
    return analysis.as_chain(
        [
            ("stem", lambda w, x: x @ w, weights[0], None),
            ("blocks", block, weights[1], DEPTH),
            ("head", lambda w, x: x[:, :2], (), None),
        ]
    )


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(7), (6, 3))


def kept(weights, x, keep):
    h = x @ weights[0]
    for w, stays in zip(weights[1], keep, strict=True):
        h = block(w, h) if stays else h
    return h[:, :2]


class TestContributions:
    def test_by_hand(self, chain, weights, x):
        found = analysis.contributions(chain, x)
        assert set(found) == {"blocks"}
        h = x @ weights[0]
        for number, w in enumerate(weights[1]):
            y = block(w, h)
            ratio = jnp.linalg.norm(y - h, axis=1) / jnp.linalg.norm(h, axis=1)
            assert float(found["blocks"][number]) == pytest.approx(float(jnp.mean(ratio)), rel=1e-5)
            h = y


class TestLesions:
    def test_single_and_many(self, chain, weights, x):
        study = analysis.lesion_study(
            chain, loss, x, name="blocks", removed=(0, 2, DEPTH), samples=30, key=jax.random.key(1)
        )
        everything = [True] * DEPTH
        chex.assert_trees_all_close(study.whole, loss(kept(weights, x, everything)), rtol=1e-5)
        for number in range(DEPTH):
            keep = [i != number for i in range(DEPTH)]
            expected = loss(kept(weights, x, keep))
            assert float(study.single[number]) == pytest.approx(float(expected), rel=1e-5)
        # None or all removed: every sample is the same network.
        assert float(study.mean[0]) == pytest.approx(float(study.whole), rel=1e-5)
        assert float(study.mean[2]) == pytest.approx(float(loss(x @ weights[0][:, :2])), rel=1e-4)
        assert float(study.standard_error[0]) < 1e-5 * float(study.whole)
        pairs = [
            float(loss(kept(weights, x, [i not in out for i in range(DEPTH)])))
            for out in itertools.combinations(range(DEPTH), 2)
        ]
        assert abs(float(study.mean[1]) - np.mean(pairs)) < 4 * float(study.standard_error[1])

    def test_vmaps_over_masks(self, chain, x):
        masks = jnp.array([[True, False, True, True], [True] * 4])
        found = jax.vmap(
            lambda keep: loss(analysis.run(analysis.lesion(chain, {"blocks": keep}), x))
        )(masks)
        assert float(found[1]) == pytest.approx(float(loss(analysis.run(chain, x))), rel=1e-6)

    def test_arguments(self, chain, x):
        with pytest.raises(ValueError, match="got 'body'"):
            analysis.lesion(chain, {"body": jnp.ones(4, bool)})
        with pytest.raises(ValueError, match=r"must have shape \(4,\); got \(3,\)"):
            analysis.lesion(chain, {"blocks": jnp.ones(3, bool)})
        with pytest.raises(ValueError, match="from 0 to the 4 layers"):
            analysis.lesion_study(chain, loss, x, name="blocks", removed=(5,))
        with pytest.raises(ValueError, match="needs a key"):
            analysis.lesion_study(chain, loss, x, name="blocks", removed=(1,))


class TestPaths:
    def test_every_path_enumerated(self, chain, weights, x):
        lengths = (0, 1, 3)
        found = analysis.path_gradients(
            chain, loss, x, lengths=lengths, samples=60, key=jax.random.key(0)
        )
        h = np.asarray(x @ weights[0], np.float64)
        jacobians = []
        for w in np.asarray(weights[1], np.float64):
            pre = h @ w
            jacobians.append((1 - np.tanh(pre) ** 2)[:, None, :] * w[None])  # (n, in, out)
            h = h + np.tanh(pre)
        g = np.zeros_like(h)
        g[:, :2] = 2 * h[:, :2]
        stem = np.asarray(weights[0], np.float64)
        sums = np.zeros((DEPTH + 1, 6, 3))
        norms: list[list[float]] = [[] for _ in range(DEPTH + 1)]
        for mask in itertools.product([False, True], repeat=DEPTH):
            path = g
            for number in reversed(range(DEPTH)):
                if mask[number]:
                    path = np.einsum("nio,no->ni", jacobians[number], path)
            path = path @ stem.T
            sums[sum(mask)] += path
            norms[sum(mask)].append(float(np.linalg.norm(path, axis=1).mean()))
        expected = 0.5 * np.log((sums**2).sum((1, 2)) / 6)
        np.testing.assert_allclose(found.log_norm, expected, atol=1e-4)
        share = np.exp(expected) / np.exp(expected).sum()
        depth = float(analysis.effective_depth(found.log_norm))
        assert depth == pytest.approx(float(share @ np.arange(DEPTH + 1)), rel=1e-4)
        for number, k in enumerate(lengths):
            mean = math.exp(float(found.log_path_norm[number]))
            error = float(found.standard_error[number]) * mean
            assert abs(mean - np.mean(norms[k])) < 4 * error + 1e-4 * mean

    def test_deep_networks_do_not_overflow(self):
        w = jnp.stack([2 * jnp.eye(3)] * 300)
        chain = analysis.as_chain([("blocks", lambda w, x: x + x @ w, w, 300)])
        found = analysis.path_gradients(chain, jnp.sum, jnp.ones((1, 3)))
        log_binomial = [
            math.lgamma(301) - math.lgamma(k + 1) - math.lgamma(301 - k) + k * math.log(2)
            for k in range(301)
        ]
        expected = np.array(log_binomial) + 0.5 * math.log(3)
        np.testing.assert_allclose(found.log_norm, expected, atol=2e-3)
        assert float(analysis.effective_depth(found.log_norm)) == pytest.approx(200, rel=1e-4)

    def test_arguments(self, chain, x):
        plain = analysis.as_chain([lambda x: x[:, :2]])
        with pytest.raises(ValueError, match="shape of its input"):
            analysis.path_gradients(plain, loss, x)
        with pytest.raises(ValueError, match="from 0 to the 4 blocks"):
            analysis.path_gradients(chain, loss, x, lengths=(5,))
        with pytest.raises(ValueError, match="needs a key"):
            analysis.path_gradients(chain, loss, x, lengths=(1,))
