import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxact import activations, theory
from jaxact._compat import enable_x64

GELU = (1 / (2 * math.sqrt(math.pi)), 1 / 3 + 1 / (2 * math.pi * math.sqrt(3)))


def test_relu_gain(functions, x64, close):
    f, points = functions["relu"]
    close(theory.gain(theory.Layer(f, breakpoints=points)), math.sqrt(2))
    close(theory.gain(f, variance=jnp.array([1e-6, 7.0, 1e6])), math.sqrt(2))


def test_float32_is_accurate_without_x64(functions):
    f, _ = functions["relu"]
    gain = theory.gain(f)
    assert gain.dtype == jnp.float32
    np.testing.assert_allclose(gain, math.sqrt(2), rtol=3e-7)
    moments = theory.moments(functions["gelu"][0])
    np.testing.assert_allclose(moments[:2], GELU, rtol=3e-7)


def test_gelu_and_selu_moments(functions, x64, close):
    close(theory.moments(functions["gelu"][0])[:2], GELU)
    close(theory.moments(functions["selu"][0]), (0, 1, 1), atol=1e-12)


@pytest.mark.parametrize("q", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("name", ["tanh", "silu", "hard_tanh"])
def test_moments_against_multiprecision(functions, x64, close, name, q):
    f, points = functions[name]
    exact = {
        "tanh": mpmath.tanh,
        "silu": lambda x: x / (1 + mpmath.exp(-x)),
        "hard_tanh": lambda x: max(min(x, mpmath.mpf(1)), mpmath.mpf(-1)),
    }[name]
    s = mpmath.sqrt(q)
    cuts = sorted([*(k / 2 for k in range(-24, 25)), *(p / float(s) for p in points)])
    cuts = [c for c in cuts if abs(c) <= 12]
    second = mpmath.quad(lambda z: exact(s * z) ** 2 * mpmath.npdf(z), cuts)
    mean = mpmath.quad(lambda z: exact(s * z) * mpmath.npdf(z), cuts)
    moments = theory.moments(theory.Layer(f, breakpoints=points), variance=jnp.asarray(q))
    close(moments.second_moment, float(second))
    close(moments.mean, float(mean), atol=1e-14)
    close(moments.variance, float(second - mean**2), rtol=1e-11)
    static = theory.moments(theory.Layer(f, breakpoints=points), variance=q)
    close(static.second_moment, float(second))


def test_transforms(functions, x64, close):
    def leaky(slope):
        return theory.gain(lambda x: jnp.where(x > 0, x, slope * x))

    close(jax.jit(jax.grad(leaky))(0.1), -math.sqrt(2) * 0.1 / 1.01**1.5)
    batch = jax.vmap(leaky)(jnp.array([0.0, 1.0]))
    close(batch, [math.sqrt(2), 1.0])


def test_gradient_with_respect_to_a_breakpoint(x64, close):
    def share(b):
        def f(x):
            return jnp.where(x > b, jnp.ones_like(x), jnp.zeros_like(x))

        return theory.moments(theory.Layer(f, breakpoints=b)).mean

    close(jax.grad(share)(jnp.asarray(0.5)), -math.exp(-0.125) / math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (dict(variance=-1.0), "variance must be positive and finite, got -1.0"),
        (dict(variance=jnp.array([1.0, 0.0])), "variance must be positive"),
    ],
)
def test_bad_values(kwargs, match):
    with pytest.raises(ValueError, match=match):
        theory.gain(jnp.tanh, **kwargs)


def test_bad_activation():
    with pytest.raises(TypeError, match=r"activation|layer"):
        theory.gain(3.0)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "hard_silu"])
def test_constants_of_names_are_rounded_once(name):
    """Without x64, and inside a traced function too."""
    with enable_x64(True):
        exact = np.float64(theory.gain(name, variance=jnp.asarray(1.0, jnp.float64)))
    assert theory.gain(name) == np.float32(exact)
    assert jax.jit(lambda: theory.gain(name))() == np.float32(exact)


def test_a_name_and_its_function_agree(x64, close):
    close(
        theory.statistics("hard_silu"),
        theory.statistics(theory.Layer(activations.get("hard_silu"), breakpoints=(-3.0, 3.0))),
    )
    close(theory.correlation_map("relu", 0.3), 2 * theory.arc_cosine_kernel(0.3))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "selu", "tanh", "hard_tanh"])
def test_lipschitz_constants_of_the_table(x64, close, name):
    close(theory.lipschitz_constant(name), activations.info(name).lipschitz, rtol=1e-6)
