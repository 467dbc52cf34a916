"""Spectra of products against multiprecision, exact identities, and Newman's law."""

import functools

import chex
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from jaxact import spectral


def truth(stack, digits):
    """Log singular values of the product, formed and decomposed in multiprecision."""
    with mp.workdps(digits):
        product = mp.eye(stack.shape[-1])
        for w in np.asarray(stack, np.complex128 if np.iscomplexobj(stack) else np.float64):
            product = mp.matrix(w.tolist()) * product
        svd = mp.svd_c if np.iscomplexobj(stack) else mp.svd_r
        return np.array(sorted(float(mp.log(v)) for v in svd(product, compute_uv=False)))[::-1]


def gaussian(layers, n, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), (layers, n, n), dtype) * dtype(n**-0.5)


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(spectral.product_spectrum, **options))


def logs(stack, **options):
    return compiled(**options)(stack).log_singular_values


@pytest.mark.parametrize("layers", [1, 2, 10, 50, 100])
def test_gaussian_layers_against_multiprecision(layers):
    stack = gaussian(layers, 12, seed=layers)
    found = logs(stack)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, truth(stack, 40 + 3 * layers), atol=0.01)


def test_the_product_itself_would_be_noise():
    """What the graded factorization is for: formed in float32, the product has lost the rest."""
    stack = gaussian(50, 12)
    product = jnp.linalg.multi_dot(list(stack[::-1]))
    naive = np.log(np.linalg.svd(np.asarray(product, np.float64), compute_uv=False))
    assert np.max(np.abs(naive - truth(stack, 200))) > 1


def test_complex_layers():
    stack = gaussian(20, 8, dtype=jnp.complex64)
    np.testing.assert_allclose(logs(stack), truth(np.asarray(stack), 120), atol=0.01)


def test_nearly_orthogonal_layers():
    keys = jax.random.split(jax.random.key(0), 40)
    stack = jax.vmap(lambda k: jax.random.orthogonal(k, 10))(keys) + gaussian(40, 10) / 20
    np.testing.assert_allclose(logs(stack), truth(stack, 80), atol=1e-3)


def test_orthogonal_product_is_flat():
    keys = jax.random.split(jax.random.key(0), 500)
    stack = jax.vmap(lambda k: jax.random.orthogonal(k, 64))(keys)
    np.testing.assert_allclose(logs(stack), 0, atol=2e-4)


def test_determinant_is_kept():
    stack = gaussian(300, 16)
    expected = np.sum(np.linalg.slogdet(np.asarray(stack, np.float64))[1])
    np.testing.assert_allclose(np.sum(np.asarray(logs(stack), np.float64)), expected, atol=0.02)


def test_newmans_law():
    """R_ii of each layer are independent sigma chi_{n-i+1}: exact at every depth (Newman 1986)."""
    layers, n = 400, 16
    stack = gaussian(layers, n)

    def step(product, w):
        return spectral.graded_step(product, w @ product.q), None

    product, _ = jax.lax.scan(step, spectral.graded_start(jnp.eye(n)), stack)
    i = np.arange(1, n + 1)
    mean = layers * (np.log(2 / n) + digamma((n - i + 1) / 2)) / 2
    deviation = np.sqrt(layers * polygamma(1, (n - i + 1) / 2) / 4)
    z = (np.asarray(product.log_scale) - mean) / deviation
    assert np.max(np.abs(z)) < 4
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.6


def test_prefixes():
    stack = gaussian(20, 6)
    found = logs(stack, prefixes=(1, 7, 20))
    for row, layers in zip(found, (1, 7, 20), strict=True):
        chex.assert_trees_all_close(row, logs(stack[:layers]), atol=1e-4)


def test_masked_layers_lose_directions_for_good():
    """D_k W_k with D_k of half zeros: the structural rank is exact, -inf and not small."""
    key = jax.random.key(3)
    stack = gaussian(6, 12)
    masks = jnp.stack([jnp.roll(jnp.repeat(jnp.array([1.0, 0.0]), 6), 2 * k) for k in range(6)])
    start = jax.random.orthogonal(key, 12)
    product = spectral.graded_start(start)
    dense = np.eye(12)
    for w, mask in zip(stack, masks, strict=True):
        layer = mask[:, None] * w
        product = spectral.graded_step(product, layer @ product.q, tolerance=2e-6)
        dense = np.asarray(layer, np.float64) @ dense
    found = np.asarray(spectral.graded_spectrum(product))
    rank = np.linalg.matrix_rank(dense, tol=1e-12)
    assert np.sum(np.isfinite(found)) == rank == 6
    s = np.linalg.svd(dense, compute_uv=False)[:rank]
    np.testing.assert_allclose(found[:rank], np.log(s), atol=1e-3)


def test_exact_zeros():
    stack = jnp.stack([jnp.diag(jnp.array([2.0, 1.0, 0.0]))] * 3)
    found = logs(stack)
    np.testing.assert_allclose(found[:2], np.log([8, 1]), atol=1e-6)
    assert found[2] == -jnp.inf
    np.testing.assert_array_equal(logs(jnp.zeros((2, 3, 3))), -np.inf)


def rectangular():
    shapes = [(9, 12), (5, 9), (7, 5), (5, 7), (7, 5), (5, 7), (3, 5), (8, 3)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def dense_logs(layers):
    product = np.eye(layers[0].shape[1])
    for w in layers:
        product = np.asarray(w, np.float64) @ product
    return np.log(np.linalg.svd(product, compute_uv=False))


@pytest.mark.parametrize("refined", [False, True])
def test_narrow_and_wide_layers(refined):
    layers = rectangular()
    found = compiled(refined=refined)(layers)
    np.testing.assert_allclose(found.log_singular_values, dense_logs(layers)[:3], atol=1e-4)
    assert found.structural_rank == 3
    assert found.spread == found.log_singular_values[0] - found.log_singular_values[2]


def test_prefixes_of_narrow_and_wide_layers():
    layers = rectangular()
    found = compiled(prefixes=range(1, 9))(layers)
    np.testing.assert_array_equal(found.structural_rank, [9, 5, 5, 5, 5, 5, 3, 3])
    for end in range(1, 9):
        rank = int(found.structural_rank[end - 1])
        expected = dense_logs(layers[:end])[:rank]
        np.testing.assert_allclose(found.log_singular_values[end - 1, :rank], expected, atol=1e-4)


def test_steps_by_hand_of_narrow_and_wide_layers():
    layers = rectangular()
    product = spectral.graded_start(jnp.eye(12))
    for w in layers:
        product = spectral.graded_step(product, w @ product.q)
    np.testing.assert_allclose(spectral.graded_spectrum(product), dense_logs(layers)[:3], atol=1e-4)


def test_top():
    stack = gaussian(40, 24)
    whole = logs(stack)
    np.testing.assert_allclose(logs(stack, top=4), whole[:4], atol=1e-3)
    both = logs(stack, top=4, prefixes=(5, 40))
    np.testing.assert_allclose(both[1], whole[:4], atol=1e-3)
    np.testing.assert_allclose(both[0], logs(stack[:5])[:4], atol=1e-2)


@pytest.mark.parametrize("refined", [False, True])
def test_gradient_at_ties_and_in_depth_is_the_inverse(refined):
    """20 layers of width 32 spread over 50 nats; identities tie in every value."""
    stack = gaussian(20, 32, seed=5)
    total = jax.jit(jax.grad(lambda w: jnp.sum(logs(w, refined=refined))))
    inverse = np.linalg.inv(np.asarray(stack, np.float64)).swapaxes(1, 2)
    np.testing.assert_allclose(total(stack), inverse, atol=1e-3 * np.abs(inverse).max())
    ties = jnp.stack([jnp.eye(32)] * 20)
    np.testing.assert_allclose(total(ties), ties, atol=1e-4)


def test_gradient_of_the_log_determinant_is_the_inverse():
    stack = gaussian(6, 5)
    gradient = jax.grad(lambda w: jnp.sum(logs(w)))(stack)
    inverse = np.linalg.inv(np.asarray(stack, np.float64)).swapaxes(1, 2)
    np.testing.assert_allclose(gradient, inverse, atol=1e-3 * np.abs(inverse).max())


def test_gradient_of_each_value_against_finite_differences():
    stack = np.asarray(gaussian(4, 4), np.float64)
    gradient = jax.jacobian(logs)(jnp.asarray(stack, jnp.float32))

    def value(w):
        return np.log(np.linalg.svd(np.linalg.multi_dot(list(w[::-1])), compute_uv=False))

    for index in [(0, 0, 0), (1, 2, 3), (3, 1, 0)]:
        e = np.zeros(stack.shape)
        e[index] = 1e-6
        difference = (value(stack + e) - value(stack - e)) / 2e-6
        np.testing.assert_allclose(
            gradient[(slice(None), *index)], difference, rtol=5e-3, atol=5e-3
        )


def test_jits_and_vmaps():
    stacks = jnp.stack([gaussian(8, 6, seed=s) for s in range(3)])
    batched = jax.jit(jax.vmap(logs))(stacks)
    for found, stack in zip(batched, stacks, strict=True):
        chex.assert_trees_all_close(found, logs(stack), atol=1e-4)


def test_program_does_not_grow_with_depth():
    def size(layers):
        return len(str(jax.make_jaxpr(logs)(jnp.zeros((layers, 4, 4)))).splitlines())

    assert size(3) == size(3000)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (0, 4, 4)])
def test_not_a_stack(shape):
    with pytest.raises((ValueError, TypeError)):
        spectral.product_spectrum(jnp.zeros(shape))


@pytest.mark.parametrize("prefix", [0, 4])
def test_bad_prefix(prefix):
    with pytest.raises(ValueError, match="prefixes must be from 1 to the 3 layers"):
        spectral.product_spectrum(jnp.zeros((3, 2, 2)), prefixes=(prefix,))


def test_stacked_products_are_refused_by_shape():
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), spectral.graded_start(jnp.eye(3)))
    for of_one in (
        spectral.graded_spectrum,
        spectral.graded_error,
        lambda product: spectral.graded_step(product, jnp.eye(3)),
        jax.vmap(spectral.graded_spectrum, in_axes=1),
        lambda product: spectral.graded_spectrum(product._replace(q=product.q[0], u=product.u[0])),
    ):
        with pytest.raises(ValueError, match=r"product must be one, .* got shapes \("):
            of_one(stack)
    chex.assert_trees_all_equal(jax.vmap(spectral.graded_spectrum)(stack), jnp.zeros((2, 3)))


def test_bad_steps():
    product = spectral.graded_start(jnp.eye(3))
    with pytest.raises(ValueError, match="aq must be a matrix of 3 columns"):
        spectral.graded_step(product, jnp.eye(4))
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        spectral.graded_step(product, jnp.eye(3), tolerance=-1.0)
    with pytest.raises(ValueError, match="m >= k >= 1"):
        spectral.graded_start(jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 4}, "top must be from 1 to the smallest dimension 3"),
        ({"tolerance": 1.0}, "tolerance must be at least 0"),
        ({"refined": True, "top": 2}, "refined needs real matrices and top=None"),
        ({"top": 2, "sweeps": 0}, "sweeps must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        spectral.product_spectrum(jnp.zeros((2, 3, 3)), **options)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([], "at least one matrix"),
        ([jnp.eye(3), jnp.zeros((2, 4))], r"matrices\[1\] must have 3 columns"),
        ([jnp.eye(3), jnp.zeros((0, 3))], r"matrices\[1\] must be a matrix"),
    ],
)
def test_bad_chains(matrices, message):
    with pytest.raises(ValueError, match=message):
        spectral.product_spectrum(matrices)
