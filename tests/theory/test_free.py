import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxact import theory


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_marchenko_pastur_density_has_its_moments(x64, close, c):
    lower, upper = theory.marchenko_pastur_edges(c, variance=2.0)

    # x = middle - radius cos t makes the integrand smooth at both edges
    t = (np.arange(4000) + 0.5) * np.pi / 4000
    x = (lower + upper) / 2 - (upper - lower) / 2 * np.cos(t)
    weight = (upper - lower) / 2 * np.sin(t) * np.pi / 4000
    density = theory.marchenko_pastur_density(x, c, variance=2.0)
    moments = [float(jnp.sum(weight * density * x**k)) for k in range(3)]
    close(moments, [min(1, 1 / c), 2.0, 4 * (1 + c)], rtol=1e-5 if c == 1 else 1e-10)
    assert theory.marchenko_pastur_density(upper + 1, c) == 0


@pytest.mark.parametrize(("m", "M"), [(400, 400), (400, 1600)])
def test_marchenko_pastur_ranks_of_matrices(x64, m, M):
    rng = np.random.default_rng(0)
    p = np.linalg.svd(rng.normal(size=(m, M)), compute_uv=False) ** 2
    stable = p.sum() / p[0]
    p = p / p.sum()
    measured = np.array([stable, np.exp(-(p * np.log(p)).sum()), 1 / (p**2).sum()]) / m
    # the largest eigenvalue is off its edge by the scale of Tracy-Widom, the rest by 1 / m
    error = np.abs(measured / np.array(theory.marchenko_pastur_ranks(m / M)) - 1)
    assert np.all(error < [2 * m ** (-2 / 3), 4 / m, 4 / m])


def test_fuss_catalan_moments(x64, close):
    close(theory.fuss_catalan_moments(1, 5), [1, 2, 5, 14, 42])
    close(theory.fuss_catalan_moments(2, 4), [1, 3, 12, 55])
    exact = [mpmath.binomial(31 * k, k) / (30 * k + 1) for k in range(1, 9)]
    close(theory.fuss_catalan_moments(30, 8), np.array(exact, float))
    assert np.isposinf(theory.fuss_catalan_moments(100, 200)[-1])


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_fuss_catalan_density_has_its_moments(x64, close, depth):
    # x = edge * y^(L + 1) removes the singularity at 0, and y = sin^2 smooths the edge
    t, w = np.polynomial.legendre.leggauss(400)
    t, w = (t + 1) * np.pi / 4, w * np.pi / 4
    y = np.sin(t) ** 2
    edge = float(theory.fuss_catalan_edge(depth))
    x = edge * y ** (depth + 1)
    jacobian = edge * (depth + 1) * y**depth * 2 * np.sin(t) * np.cos(t)
    density = theory.fuss_catalan_density(x, depth)
    moments = [float(jnp.sum(w * jacobian * density * x**k)) for k in range(4)]
    close(moments, [1, *theory.fuss_catalan_moments(depth, 3)], rtol=1e-7)
    entropy = float(jnp.sum(w * jacobian * density * x * np.log(x)))
    ranks = theory.fuss_catalan_ranks(depth)
    close(ranks.effective_rank_squared, math.exp(-entropy), rtol=1e-6)
    close(ranks.participation_ratio, 1 / theory.fuss_catalan_moments(depth, 2)[1])


def test_fuss_catalan_density_of_one_layer(x64, close):
    x = jnp.linspace(0.01, 3.99, 50)
    close(theory.fuss_catalan_density(x, 1), theory.marchenko_pastur_density(x, 1.0), rtol=1e-10)
    assert theory.fuss_catalan_density(5.0, 1) == 0
    assert np.isposinf(theory.fuss_catalan_density(0.0, 2))


def test_fuss_catalan_ranks_of_products(x64):
    rng = np.random.default_rng(0)
    n, depth = 500, 3
    product = np.eye(n)
    for _ in range(depth):
        product = rng.normal(size=(n, n)) / np.sqrt(n) @ product
    p = np.linalg.svd(product, compute_uv=False) ** 2
    stable = p.sum() / p[0]
    p = p / p.sum()
    measured = np.array([stable, np.exp(-(p * np.log(p)).sum()), 1 / (p**2).sum()]) / n
    np.testing.assert_allclose(measured, theory.fuss_catalan_ranks(depth), rtol=0.05)


def test_newman_ranks(x64, close):
    n = 20000
    for depth in (50, 400):
        half = depth / 2
        ours = theory.newman_ranks(n, depth)
        expected = [
            n * math.exp(half / (half + 1)) / (half + 1),
            n * math.exp(depth / (depth + 1)) / (depth + 1),
            n / (depth + 1),
            n * (2 * depth + 1) / (depth + 1) ** 2,
        ]
        close(ours, expected, rtol=0.02)
    deep = theory.newman_ranks(8, 1e5)
    close(deep, 1, rtol=1e-12)


def test_newman_ranks_of_products(x64):
    """The median over seeds of a product far deeper than wide, in multiples of a layer's nats."""
    n, depth, trials = 4, 200, 200
    rng = np.random.default_rng(0)
    logs = []
    for _ in range(trials):
        q, total = np.eye(n), np.zeros(n)
        for _ in range(depth):
            q, r = np.linalg.qr(rng.normal(size=(n, n)) / np.sqrt(n) @ q)
            total += np.log(np.abs(np.diagonal(r)))
        logs.append(total)
    logs = np.array(logs)
    error = logs.std(0, ddof=1) / math.sqrt(trials)
    assert np.all(np.abs(logs.mean(0) - depth * theory.newman_exponents(n)) < 4 * error)
    determinant = logs.sum(1)
    expected = theory.expected_log_determinant(n, depth)
    assert abs(determinant.mean() - expected) < 4 * determinant.std() / math.sqrt(trials)


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.7])
def test_batch_norm_bound_holds(x64, tau):
    rng = np.random.default_rng(0)
    for rank in (1, 3, 16):
        h = rng.normal(size=(16, rank)) @ rng.normal(size=(rank, 64))
        h /= np.sqrt((h**2).mean(1, keepdims=True))
        gram = h @ h.T / 64
        count = (np.linalg.eigvalsh(gram) >= max(tau, 1e-9)).sum() + 1e-9
        bound = float(theory.batch_norm_rank_bound(jnp.asarray(gram), tolerance=tau))
        assert 0 < bound <= count


def test_batch_norm_keeps_the_bound_at_depth_and_its_absence_loses_it(x64):
    rng = np.random.default_rng(0)
    d, layers = 32, 3000
    bounds = {}
    for norm in (True, False):
        h = rng.normal(size=(d, 64))
        trace = []
        for layer in range(layers):
            h = h + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d) @ h
            h = h / (np.sqrt((h**2).mean(1, keepdims=True)) if norm else np.sqrt((h**2).mean()))
            if layer >= layers - 500:
                trace.append(theory.batch_norm_rank_bound(jnp.asarray(h @ h.T / 64)))
        bounds[norm] = float(np.mean(trace))
    assert bounds[True] > 0.5 * math.sqrt(d)
    assert bounds[False] < 1.5


def test_transforms(x64, close):
    gradient = jax.jit(jax.grad(lambda c: theory.marchenko_pastur_ranks(c).participation_ratio))
    close(gradient(0.5), -1 / 1.5**2)
    densities = jax.vmap(lambda x: theory.fuss_catalan_density(x, 2))(jnp.array([0.5, 2.0]))
    close(densities, theory.fuss_catalan_density(jnp.array([0.5, 2.0]), 2))
    close(jax.grad(lambda v: theory.expected_log_determinant(5, 2, variance=v))(2.0), 2.5)


def test_bad_values():
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got 2.0"):
        theory.marchenko_pastur_ranks(2.0)
    with pytest.raises(ValueError, match="ratio must be positive"):
        theory.marchenko_pastur_edges(0.0)
    with pytest.raises(ValueError, match="depth must be an integer of at least 1; got 0"):
        theory.fuss_catalan_density(1.0, 0)
    with pytest.raises(ValueError, match="count must be"):
        theory.fuss_catalan_moments(1, 0)
