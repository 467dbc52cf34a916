"""Look-up, gated units, learnable and simplex functions, with independent oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from jaxact import activations
from jaxact._compat import enable_x64

PEERS = {
    "relu": jax.nn.relu, "relu6": jax.nn.relu6, "elu": jax.nn.elu, "selu": jax.nn.selu,
    "celu": jax.nn.celu, "softplus": jax.nn.softplus, "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh, "silu": jax.nn.silu, "mish": jax.nn.mish, "soft_sign": jax.nn.soft_sign,
    "hard_silu": jax.nn.hard_silu, "hard_tanh": jax.nn.hard_tanh, "leaky_relu": jax.nn.leaky_relu,
    "hard_sigmoid": jax.nn.hard_sigmoid, "log_sigmoid": jax.nn.log_sigmoid,
    "squareplus": jax.nn.squareplus, "sparse_plus": jax.nn.sparse_plus,
}  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(hnp.arrays(np.float32, (8, 8), elements=st.floats(-8, 8, width=32)))
def test_agrees_with_jax_nn(x):
    with jax.numpy_dtype_promotion("standard"):
        for name, peer in PEERS.items():
            want = peer(jnp.asarray(x))
            np.testing.assert_allclose(activations.get(name)(x), want, rtol=3e-5, atol=3e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(activations.names()),
    st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32]),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
        elements=st.floats(-30, 30, width=16),
    ),
)
def test_any_shape_and_dtype(name, dtype, array):
    """Shape and dtype stay, elements do not see each other, values and slopes stay in bounds."""
    f, row = activations.get(name), activations.info(name)
    x = jnp.asarray(np.abs(array) if name == "log1mexp" else array).astype(dtype)
    y, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
    assert y.shape == slope.shape == x.shape
    assert y.dtype == slope.dtype == dtype
    np.testing.assert_array_equal(f(x.ravel()[::-1]), f(x).ravel()[::-1])
    y, slope, unit = np.float64(y), np.float64(slope), float(jnp.finfo(dtype).eps)
    # A limit may be too small for the dtype: soft_relu's is 4e-18, which float16 rounds to 0.
    low, high = (float(np.asarray(limit, dtype)) for limit in row.range)
    assert (y >= low * (1 + unit * np.sign(-low))).all()
    assert (y <= high * (1 + unit * np.sign(high))).all()
    assert (np.abs(slope) <= row.lipschitz * (1 + unit)).all()
    assert not row.monotone or (slope >= 0).all()


def test_look_up():
    assert activations.get("Hard-Swish") is activations.hard_silu
    assert activations.get(jnp.tanh) is jnp.tanh
    with pytest.raises(ValueError, match="relu6"):
        activations.get("rellu6")
    with pytest.raises(TypeError, match="activation"):
        activations.get(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="family"):
        activations.names(family="none")
    families = {activations.info(n).family for n in activations.names()}
    every = [n for f in families for n in activations.names(family=f)]
    assert sorted(every) == list(activations.names())


@pytest.mark.parametrize("name", activations.names())
def test_table_agrees_with_the_function(name):
    row = activations.info(name)
    with enable_x64(True):
        x = jnp.linspace(1e-3 if name == "log1mexp" else -25.0, 25.0, 40001)
        y, slope = row.function(x), jax.vmap(jax.grad(row.function))(x)
        assert (y >= row.range[0] - 1e-12).all()
        assert (y <= row.range[1] + 1e-12).all()
        assert (jnp.abs(slope) <= row.lipschitz + 1e-12).all()
        assert bool((slope >= -1e-15).all()) == row.monotone
        if np.isfinite(row.lipschitz):
            np.testing.assert_allclose(jnp.abs(slope).max(), row.lipschitz, rtol=2e-3)


@pytest.mark.parametrize("name", ["glu", "bilinear", "reglu", "geglu", "swiglu", "seglu", "gtu"])
def test_gated_units(name):
    unit = getattr(activations, name)
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4))
    np.testing.assert_array_equal(unit(a, b), unit(jnp.concatenate([a, b], axis=0), axis=0))
    with pytest.raises(ValueError, match="even"):
        unit(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="agree"):
        unit(a, b[:2])


def test_learnable():
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    p = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        activations.prelu(x, p), jnp.where(x > 0, x, x * p[None, None, None])
    )
    assert activations.prelu(x.astype(jnp.bfloat16), p).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        activations.parametric_swish(x, jnp.float32(1.0)), activations.silu(x), rtol=1e-6
    )
    np.testing.assert_allclose(
        activations.acon_c(x, 1.0, 0.0, 1.0), activations.silu(x), rtol=1e-6, atol=1e-9
    )
    meta = activations.meta_acon(x, 1.0, 0.0, jnp.zeros((4, 1)), jnp.zeros((1, 4)))
    np.testing.assert_allclose(meta, x * jax.nn.sigmoid(0.5 * x), rtol=1e-5, atol=1e-7)
    assert activations.maxout(x, pieces=2).shape == (2, 5, 5, 2)
    np.testing.assert_array_equal(
        activations.maxout(x, pieces=2)[..., 0], jnp.maximum(x[..., 0], x[..., 1])
    )
    one = jnp.ones((1, 1, 1, 1))
    relu = activations.dynamic_relu(x, jnp.stack([one, 0 * one]), jnp.stack([0 * one, 0 * one]))
    np.testing.assert_array_equal(relu, activations.relu(x))
    kernel = jnp.zeros((3, 3, 1, 4))
    np.testing.assert_array_equal(activations.frelu(x, kernel), activations.relu(x))
    a, b = jnp.asarray([0.1, 1.0, 0.5]), jnp.asarray([0.0, 2.0])
    want = (0.1 + x + 0.5 * x * x) / (1 + jnp.abs(2 * x * x))
    np.testing.assert_allclose(activations.pau(x, a, b), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(activations.tlu(x, 0.0), activations.relu(x))
    apl = activations.apl(x, jnp.asarray([-1.0]), jnp.asarray([0.0]))
    np.testing.assert_allclose(apl, x, atol=1e-7)
    with pytest.raises(ValueError, match="channel"):
        activations.prelu(x, jnp.ones(3))


def test_rrelu_draws_from_its_key():
    x = -jnp.ones(4000)
    y = -activations.rrelu(x, key=jax.random.key(0))
    assert y.min() >= 1 / 8
    assert y.max() <= 1 / 3
    np.testing.assert_allclose(y.mean(), 11 / 48, rtol=0.02)


def _entmax_by_bisection(x, power):
    """max((x/power - tau), 0)^power with the tau that makes it sum to 1, in float64."""
    z = np.asarray(x, np.float64) / power
    low, high = z.max() - 1.0, z.max()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if (np.maximum(z - tau, 0) ** power).sum() > 1 else (low, tau)
    return np.maximum(z - tau, 0) ** power


@pytest.mark.parametrize(("name", "power"), [("sparsemax", 1), ("entmax15", 2)])
def test_sparse_simplex(name, power):
    f = getattr(activations, name)
    x = 2 * jax.random.normal(jax.random.key(2), (6, 9))
    want = np.stack([_entmax_by_bisection(row, power) for row in x])
    np.testing.assert_allclose(f(x), want, atol=2e-6)
    np.testing.assert_allclose(f(x.T, axis=0), f(x).T)
    with enable_x64(True):
        check_grads(f, (jnp.asarray(np.asarray(x), jnp.float64),), 1, eps=1e-6)


def test_tailored():
    f = activations.tailored("tanh", input_scale=2.0, input_shift=0.5, output_shift=0.1)
    x = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(f(x), jnp.tanh(2 * x + 0.5) + 0.1, rtol=1e-6)
    assert f(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_bad_options():
    with pytest.raises(ValueError, match="approximate"):
        activations.gelu(jnp.ones(1), approximate="exact")
    with pytest.raises(ValueError, match="positive"):
        activations.celu(jnp.ones(1), alpha=0.0)
    with pytest.raises(ValueError, match="form"):
        activations.hard_sigmoid(jnp.ones(1), form="none")
