"""Each line of a product's arithmetic and of its error bars matters: one small batch of chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from jaxact import spectral

LAYERS, N = 6, 4
KINDS = {**zoo.TUNED, **zoo.HELD_OUT}


@functools.cache
def compiled():
    return jax.jit(jax.vmap(spectral.product_spectrum))


def chains():
    return {kind: zoo.draw(KINDS, kind, LAYERS, N, 100) for kind in KINDS} | special()


@functools.cache
def measured():
    """By name: the truth, the values and their errors."""
    found = compiled()(jnp.asarray(np.stack([*chains().values()])))
    logs, error = (np.asarray(a, np.float64) for a in (found.log_singular_values, found.error))
    return {
        name: (zoo.truth(list(w)), *r)
        for (name, w), *r in zip(chains().items(), logs, error, strict=True)
    }


def gaussian(seed=0):
    return np.random.default_rng(seed).standard_normal((LAYERS, N, N)).astype(np.float32)


def beside_ones(*layers):
    """Layers of two or three coordinates, ones on the others, and identities after them."""
    chain = np.stack([np.eye(N, dtype=np.float32)] * LAYERS)
    for whole, w in zip(chain, layers, strict=False):
        whole[: len(w), : len(w)] = w
    return chain


def special():
    """Chains that tell what the kinds above do not."""
    tiny = [[1, 0], [1e-20, 0]]
    v = np.linalg.qr(gaussian())[0][0]
    grow = v @ np.diag(np.float32([1, 4, 16, 64])) @ v.T
    back = v @ np.diag(1 / np.float32([1, 4, 16, 64])) @ v.T
    return {
        "growing and back": np.stack([grow] * 2 + [back] * 2 + [np.eye(N, dtype=np.float32)] * 2),
        "ascending and triangular": np.triu(gaussian())
        * np.float32(10) ** np.float32(9 * np.arange(N)),
        "near the largest number": gaussian() * np.float32(1e38),
        "near the smallest number": np.sign(gaussian(1))
        * (1.5 + gaussian(2) ** 2)
        * np.float32(1e-38),
        "columns to 1e-36": gaussian() * np.float32(10) ** np.float32(-12 * np.arange(N)),
        "a row below all numbers": beside_ones(tiny, [[1, 0], [0, 1e-30]], [[0, 0], [0, 1]]),
        "a column below all numbers": beside_ones(
            [[1, 0, 0], [1e-20, 0, 0], [0, 0, 1]], [[0, 1e-30, 1], [0, 2e-30, 1], [0, 0, 0]]
        ),
        "entries too far apart": beside_ones([[1e36, 1], [1, 1.001e-36]]),
    }


@pytest.mark.parametrize("name", [*KINDS, *special()])
def test_within_the_bar(name):
    truth, logs, error = measured()[name]
    with np.errstate(invalid="ignore"):
        off = np.where(logs == truth, 0, np.abs(logs - truth))
    assert np.all(off <= error), (truth, logs, error)


def test_bars_that_say_something():
    errors = np.stack([error for _, _, error in measured().values()])
    assert np.sum(np.isinf(errors)) < 0.25 * errors.size
    for name in ("ReLU", "zero rows", "zero columns", "permutations", "near the largest number"):
        assert np.max(measured()[name][2]) < 1e-3, name


def test_a_lost_direction_does_not_order_the_rows():
    """A row of zeros but for a lost direction: put first, it made a zero -19.5 with error 0.03."""
    truth, logs, error = measured()["sparse"]
    np.testing.assert_array_equal(truth[2:], -np.inf)
    np.testing.assert_array_equal(logs[2:], -np.inf)
    # LAPACK's kernels, chosen by the processor, decide whether it is known to be exact.
    assert set(error[2:]) <= {0, np.inf}


@pytest.mark.parametrize("name", ["Gaussian", "upper", "companion", "nearly singular"])
def test_bars_are_of_the_size_of_rounding(name):
    """Six times what entries that are off by an epsilon each, independently, move the values by."""
    eps, rng = float(np.finfo(np.float32).eps), np.random.default_rng(0)
    chain = np.asarray(chains()[name], np.float64)
    moved = chain * (1 + eps * rng.standard_normal((400, *chain.shape)))
    product = functools.reduce(lambda p, k: moved[:, k] @ p, range(LAYERS), np.eye(N))
    deviation = np.std(np.log(np.linalg.svd(product, compute_uv=False)), axis=0)
    _, logs, error = measured()[name]
    ratio = error / (6 * (deviation + eps * np.abs(logs) / 4))
    assert np.all(ratio > 1.5)
    assert np.all(ratio < 12)


@functools.cache
def narrowed():
    """Chains of four, two and four coordinates: the product starts in the middle."""
    chains = []
    for kind in (
        "Gaussian",
        "graded columns",
        "graded rows",
        "turning, in general position",
        "ReLU",
    ):
        first = zoo.draw(KINDS, kind, LAYERS, N, 101)
        chains.append([*first[:3], first[3, :2], first[3, :, :2], *first[4:]])
    # What is below all numbers is narrowed away before it is looked at.
    tiny, far = beside_ones([[1, 0], [1e-20, 0]], [[1, 0], [0, 1e-30]])[:2]
    chains.append([np.eye(N), tiny, far, np.eye(N)[:2] - 1, np.eye(N)[:, :2], np.eye(N), np.eye(N)])
    return [[np.asarray(w, np.float32) for w in chain] for chain in chains]


def test_narrowed_chains_are_within_the_bar():
    chains = narrowed()
    found = compiled()([jnp.stack(w) for w in zip(*chains, strict=True)])
    for i, chain in enumerate(chains):
        truth = zoo.truth(chain)[:2]
        logs, error = (
            np.asarray(a[i], np.float64) for a in (found.log_singular_values, found.error)
        )
        with np.errstate(invalid="ignore"):
            off = np.where(logs == truth, 0, np.abs(logs - truth))
        assert np.all(off <= error), (i, truth, logs, error)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_broken_entry_breaks_all(value):
    chain = beside_ones([[0, 0], [0, 0]])
    chain[3, 0, 1] = value
    found = compiled()(jnp.asarray(np.stack([chain] * len(measured()))))
    assert np.all(np.isnan(found.log_singular_values))
    assert np.all(np.isnan(found.error))
    assert np.all(found.structural_rank == -1)
