"""Activations of the tests' own with their kinks, and a switch to float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def relu(x):
    return jnp.maximum(x, 0)


def gelu(x):
    return x * jax.scipy.special.ndtr(x)


def selu(x):
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


def hard_tanh(x):
    return jnp.clip(x, -1, 1)


def step(x):
    return jnp.where(x > 0, jnp.ones_like(x), jnp.zeros_like(x))


@pytest.fixture
def functions():
    return {
        "relu": (relu, (0.0,)),
        "gelu": (gelu, ()),
        "selu": (selu, (0.0,)),
        "tanh": (jnp.tanh, ()),
        "erf": (jax.scipy.special.erf, ()),
        "silu": (lambda x: x * jax.nn.sigmoid(x), ()),
        "hard_tanh": (hard_tanh, (-1.0, 1.0)),
        "step": (step, (0.0,)),
    }


@pytest.fixture
def x64():
    from jaxact._compat import enable_x64  # only once jaxtyping checks the package

    with enable_x64(True):
        yield


@pytest.fixture
def close():
    def check(actual, expected, atol=0.0, rtol=1e-12):
        np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)

    return check
