"""Every function of the table under every transformation, dtype, and at infinity and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxact import activations
from jaxact._compat import enable_x64

NAMES = activations.names()
X = jnp.asarray([-7.3, -2.2, -0.4, 0.3, 1.7, 6.1])
DOMAIN = {"log1mexp": jnp.abs(X)}


@pytest.mark.parametrize("name", NAMES)
def test_transformations(name):
    f, x = activations.get(name), DOMAIN.get(name, X)

    @jax.jit
    def transformed(x):
        slopes = (
            jax.vmap(jax.grad(f))(x),
            jax.jvp(f, (x,), (jnp.ones_like(x),))[1],
            jax.grad(lambda v: jax.checkpoint(f)(v).sum())(x),
        )
        _, scanned = lax.scan(lambda c, v: (c, f(v)), 0.0, x)
        return (f(x), jax.vmap(f)(x), scanned), slopes, jax.hessian(lambda v: f(v).sum())(x)

    values, (slope, *slopes), hessian = transformed(x)
    want = f(x)
    for value in values:
        np.testing.assert_allclose(value, want, rtol=1e-6)
    for other in slopes:
        np.testing.assert_allclose(other, slope, rtol=1e-6)
    np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)))


@pytest.mark.parametrize("name", NAMES)
def test_second_and_third_derivatives(name):
    """Against central differences of the derivative below, in float64."""
    with enable_x64(True):
        f = activations.get(name)
        x = jnp.asarray([-2.3, -0.7, 0.0, 0.31, 1.3], jnp.float64)
        x = x[x > 0] if name == "log1mexp" else x
        x = x[~np.isin(x, activations.info(name).breakpoints)]
        for _ in range(2):
            f = jax.grad(f)
            slope, h = jax.vmap(jax.grad(f)), 1e-5
            want = (jax.vmap(f)(x + h) - jax.vmap(f)(x - h)) / (2 * h)
            np.testing.assert_allclose(slope(x), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_dtype_shape_limits_and_nan(name, dtype):
    f = activations.get(name)
    x = jnp.asarray([[-jnp.inf, jnp.inf, jnp.nan]], dtype)
    y, slope = f(x), jax.vmap(jax.vmap(jax.grad(f)))(x)
    assert y.shape == x.shape
    assert y.dtype == slope.dtype == dtype
    # NumPy has no isnan for bfloat16 of every ml_dtypes: compared as float32.
    limits = np.asarray(activations.info(name).limits).astype(y.dtype).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(y[0, :2], np.float32), limits)
    assert np.isnan(y[0, 2])
    assert np.isnan(slope[0, 2]) == (name != "identity")
    if name not in ("snake", "cosid"):
        np.testing.assert_array_equal(np.isnan(slope[0, :2]), np.isnan(limits))


@pytest.mark.parametrize("name", NAMES)
def test_weak_types_and_refusals(name):
    f = activations.get(name)
    assert f(1.0).weak_type
    assert not f(jnp.float32(1.0)).weak_type
    for bad in (jnp.arange(3), jnp.ones(3, jnp.complex64), jnp.ones(3, bool)):
        with pytest.raises(TypeError, match="floating dtype"):
            f(bad)


MASKS = {"relu", "relu6", "leaky_relu", "hard_tanh", "abs", "hard_sigmoid", "sparse_sigmoid"}


@pytest.mark.parametrize("name", NAMES)
def test_reverse_mode_keeps_at_most_one_array(name):
    """One byte an element where masks suffice, else no more than x itself."""
    f, n = activations.get(name), 512
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        x = jnp.ones(n, dtype)
        kept = jax.tree.leaves(jax.vjp(f, x)[1])
        total = sum(r.nbytes for r in kept if r.size == n)
        assert total <= (n if name in MASKS else n * size)


def test_options_do_not_retrace():
    traces = []

    @jax.jit
    def step(x):
        traces.append(1)
        return activations.leaky_relu(x, negative_slope=0.2)

    step(X), step(X)
    assert len(traces) == 1
    with pytest.raises(TypeError, match="Python number"):
        jax.jit(lambda a: activations.leaky_relu(X, negative_slope=a))(0.1)
    for bad in ("0.1", None, [0.1], jnp.ones(2), True):
        with pytest.raises(TypeError, match="negative_slope must be a Python number, got"):
            activations.leaky_relu(X, negative_slope=bad)
    for good in (1, np.float32(0.5), jnp.asarray(0.5)):
        activations.leaky_relu(X, negative_slope=good)
