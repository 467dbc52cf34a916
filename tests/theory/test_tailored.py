import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import activations, theory

DEPTH = 50


def shaped(f, t):
    return lambda x: t.output_scale * (f(t.input_scale * x + t.input_shift) + t.output_shift)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_dks_conditions(functions, x64, close, name):
    f = functions[name][0]
    t = theory.tailor_dks(f, DEPTH)
    g = shaped(f, t)
    assert t.residual < 1e-9
    moments = theory.moments(g)
    close(moments[:2], (0, 1), rtol=1e-10, atol=1e-10)
    slope = jax.grad(lambda q: theory.variance_map(theory.Layer(g, weight_variance=1.0), q))(1.0)
    close(slope, 1, rtol=1e-9)
    close(theory.correlation_slope(g, 1.0) ** DEPTH, 1.5, rtol=1e-9)
    close(theory.correlation_map(g, 0.0), 0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_tat_conditions(functions, x64, close, name):
    f = functions[name][0]
    t = theory.tailor_tat(f, DEPTH)
    g = shaped(f, t)
    assert t.residual < 1e-9
    close(theory.moments(g).second_moment, 1, rtol=1e-10)
    slope = jax.grad(lambda q: theory.variance_map(theory.Layer(g, weight_variance=1.0), q))(1.0)
    close(slope, 1, rtol=1e-9)
    close(theory.correlation_slope(g, 1.0), 1, rtol=1e-10)
    close(DEPTH * theory.correlation_curvature(g, 1.0), 0.3, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [theory.plain_network(30), theory.residual_network(20, shortcut_weight=0.6)]
)
def test_leaky_relu_reaches_the_correlation(x64, close, network):
    t = theory.tailor_leaky_relu(network)
    close(t.output_scale, math.sqrt(2 / (1 + t.negative_slope**2)))

    def leaky(x):
        return jnp.where(x > 0, x, t.negative_slope * x)

    reached = network(jnp.zeros(()), lambda c: theory.correlation_map(leaky, c))
    close(reached, 0.9, rtol=1e-9)


def test_too_shallow_for_the_correlation(x64):
    assert theory.tailor_leaky_relu(2).residual > 0.1


@pytest.mark.slow
def test_a_kink_has_no_curvature(functions):
    relu = functions["relu"][0]
    assert np.isposinf(theory.tailor_tat(relu, DEPTH).residual)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "squared_relu"])
def test_what_dks_cannot_shape(functions, name):
    """Along C'(1) = psi the slope Q'(1) - 1 of each keeps one sign, wherever the shift is."""
    message = f"activation '{name}' has no scales and shifts .* use tailor_leaky_relu"
    with pytest.raises(ValueError, match=message):
        theory.tailor_dks(name, DEPTH)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda: theory.tailor_dks(name, DEPTH))()


REFUSED = [
    *["abs", "cube", "exponential", "hard_shrink", "hard_sigmoid", "hard_tanh", "identity"],
    *["leaky_relu", "log1mexp", "relu", "relu6", "rrelu", "shifted_relu", "sign"],
    *["sparse_sigmoid", "squared_relu", "star_relu", "step", "threshold"],
]


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.parametrize("name", activations.names())
def test_every_name_is_shaped_or_refused(name):
    if name in REFUSED:
        with pytest.raises(ValueError, match="no scales and shifts"):
            theory.tailor_dks(name, DEPTH)
    else:
        assert theory.tailor_dks(name, DEPTH).residual < 1e-9


def test_residual_network(close):
    network = theory.residual_network(3, branch_depth=2, shortcut_weight=0.5**0.5)
    value = network(jnp.asarray(1.0), lambda v: 1.1 * v)
    close(value, 1.1 * ((1 + 1.1**2) / 2) ** 3, rtol=1e-6)
    close(network(jnp.asarray(0.0), lambda v: v + 1), 4.0, rtol=1e-6)


@pytest.mark.slow
def test_jit_and_implicit_derivative(x64, close):
    def shift(zeta):
        return theory.tailor_dks(jnp.tanh, 20, slope=zeta).input_shift

    h = 1e-4
    run = jax.jit(jax.value_and_grad(shift))
    value, gradient = run(1.5)
    close(gradient, (run(1.5 + h)[0] - run(1.5 - h)[0]) / (2 * h), rtol=1e-5)
    close(value, shift(1.5), rtol=1e-9)
    eta = jax.grad(lambda c: theory.tailor_leaky_relu(30, correlation=c).negative_slope)(0.8)
    ends = [theory.tailor_leaky_relu(30, correlation=0.8 + s * h).negative_slope for s in (1, -1)]
    close(eta, (ends[0] - ends[1]) / (2 * h), rtol=1e-5)


def test_names_are_solved_in_float64_without_x64():
    """The published package solves in float64; float32 arithmetic would keep four digits."""
    t = jax.jit(lambda: theory.tailor_leaky_relu(DEPTH))()
    assert t.negative_slope.dtype == jnp.float32
    assert t.residual < 1e-12


@pytest.fixture(scope="module")
def dks():
    """DeepMind's package, not a dependency: https://github.com/google-deepmind/dks."""
    with jax.numpy_dtype_promotion("standard"):
        return pytest.importorskip("dks.base.activation_transform")


def repeat(x, layer):
    for _ in range(DEPTH):
        x = layer(x)
    return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # theirs, as tanh overflows
@pytest.mark.parametrize("method", ["DKS", "TAT"])
@pytest.mark.parametrize(("name", "theirs"), [("tanh", "tanh"), ("gelu", "gelu_exact")])
def test_against_dks(functions, x64, close, dks, name, theirs, method):
    expected = dks._get_activations_params([theirs], method=method, subnet_max_func=repeat)[theirs]
    solve = theory.tailor_dks if method == "DKS" else theory.tailor_tat
    ours = solve(functions[name][0], DEPTH)._asdict()
    for key, value in expected.items():
        close(ours[key], value, rtol=2e-6)


@pytest.mark.slow
def test_leaky_relu_against_dks(x64, close, dks):
    expected = dks._get_activations_params(["leaky_relu"], method="TAT", subnet_max_func=repeat)
    ours = theory.tailor_leaky_relu(DEPTH)
    close(ours.negative_slope, expected["leaky_relu"]["negative_slope"], rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: theory.tailor_dks(jnp.tanh, 10, slope=1.0), "slope - 1 must be positive"),
        (lambda: theory.tailor_dks(jnp.tanh, 0), "depth must be an integer of at least 1; got 0"),
        (lambda: theory.tailor_tat(jnp.tanh, 10, curvature=-1.0), "curvature must be positive"),
        (
            lambda: theory.tailor_leaky_relu(10, correlation=1.5),
            r"correlation must lie in \[0, 1\]",
        ),
        (lambda: theory.residual_network(2, shortcut_weight=2.0), "shortcut_weight must lie in"),
    ],
)
def test_bad_values(call, match):
    with pytest.raises(ValueError, match=match):
        call()
