"""The three spectra of a convolution against matrices built entry by entry."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral

CASES = [
    # window, inputs per group, outputs, shape, stride, dilation, groups
    ((3, 3), 2, 4, (6, 4), 1, 1, 1),
    ((3, 3), 2, 4, (6, 4), 2, 1, 1),
    ((3,), 2, 4, (9,), 3, 2, 2),
    ((3, 3), 1, 6, (4, 4), 2, 1, 3),
    ((5,), 2, 2, (4,), 1, 1, 1),
]


def kernel_of(window, inputs, outputs):
    rng = np.random.default_rng(0)
    return rng.standard_normal((*window, inputs, outputs)).astype(np.float32)


def dense(kernel, shape, stride, dilation, groups, before=None):
    """The matrix of a convolution; circular, or with so many zeros before every axis."""
    *window, inputs, outputs = kernel.shape
    out = [-(-size // stride) for size in shape]
    matrix = np.zeros((*out, outputs, *shape, inputs * groups))
    for o in itertools.product(*map(range, out)):
        for w in itertools.product(*map(range, window)):
            at = [a * stride + b * dilation - (before or 0) for a, b in zip(o, w, strict=True)]
            if before is None:
                at = [a % size for a, size in zip(at, shape, strict=True)]
            elif not all(0 <= a < size for a, size in zip(at, shape, strict=True)):
                continue
            for c in range(outputs):
                first = c // (outputs // groups) * inputs
                matrix[(*o, c, *at, slice(first, first + inputs))] += kernel[(*w, slice(None), c)]
    return matrix.reshape(np.prod(out) * outputs, -1)


@pytest.mark.parametrize("case", CASES)
def test_circular_is_the_dense_matrix(case):
    *sizes, shape, stride, dilation, groups = case
    kernel = kernel_of(*sizes)
    expected = np.linalg.svd(dense(kernel, shape, stride, dilation, groups), compute_uv=False)
    found = spectral.circular(
        jnp.asarray(kernel), shape, stride=stride, dilation=dilation, groups=groups
    )
    assert len(found) == np.count_nonzero(expected > 1e-5) or len(found) == len(expected)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_operator_is_the_networks_own(stride, dilation):
    """With (1, 1) or (2, 2) zeros on both sides of each axis, at any stride."""
    kernel, shape = kernel_of((3, 3), 2, 3), (5, 4)
    conv = spectral.operator(
        jnp.asarray(kernel), shape, stride=stride, dilation=dilation, padding=[(dilation,) * 2] * 2
    )
    expected = dense(kernel, shape, stride, dilation, 1, before=dilation)
    like = jnp.zeros((*shape, 2))
    np.testing.assert_allclose(spectral.dense_matrix(conv, like), expected, atol=1e-6)
    s = np.linalg.svd(expected, compute_uv=False)
    top = spectral.top_singular_values(conv, like, k=2, key=jax.random.key(0), iterations=18)
    assert np.all(np.abs(top.values - s[:2]) <= top.residuals + 1e-5)
    np.testing.assert_allclose(top.values[0], s[0], rtol=1e-3)


def test_unfolded_is_the_matrix_of_patches():
    kernel = kernel_of((3, 2), 4, 5)
    expected = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)
    np.testing.assert_allclose(spectral.unfolded(jnp.asarray(kernel)), expected, rtol=1e-5)
    blocks = np.sort(np.linalg.norm(kernel.reshape(-1, 5), axis=0))[::-1]
    found = spectral.unfolded(jnp.asarray(kernel), groups=5)
    np.testing.assert_allclose(found, blocks, rtol=1e-5)


def test_the_three_differ():
    """One largest value is the patch's, one the circle's, one the network's: increasing order."""
    kernel = jnp.asarray(np.abs(kernel_of((3, 3), 2, 2)))
    patch = spectral.unfolded(kernel)[0]
    circle = spectral.circular(kernel, (6, 6))[0]
    own = spectral.operator(kernel, (6, 6))
    top = jnp.linalg.norm(spectral.dense_matrix(own, jnp.zeros((6, 6, 2))), 2)
    assert patch < top < circle < 3 * patch + 1e-4


def test_gradient_is_finite_and_right():
    kernel = kernel_of((3,), 2, 2)
    value = jax.jit(lambda k: jnp.sum(jnp.square(spectral.circular(k, (8,)))))
    # The squares sum to 8 |K|^2.
    np.testing.assert_allclose(value(jnp.asarray(kernel)), 8 * np.sum(kernel**2), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(kernel)), 16 * kernel, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: spectral.circular(k, (5, 4), stride=2), "stride must divide the shape"),
        (lambda k: spectral.circular(k, (4,)), "shape must be the 2 positive spatial sizes"),
        (lambda k: spectral.unfolded(k, groups=3), "groups must divide the 4 outputs"),
        (lambda k: spectral.operator(k, (4, 4), dilation=0), "dilation must be one or 2 positive"),
        (lambda k: spectral.operator(k, (4, 4))(jnp.zeros((4, 4, 3))), "x must have shape"),
        (lambda k: spectral.unfolded(k[0, 0]), "kernel must be"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((3, 3, 2, 4)))
