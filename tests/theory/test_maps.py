import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxact import theory
from jaxact._compat import enable_x64

CORRELATIONS = np.array([-1, -0.5, 0.0, 0.3, 0.9, 0.999, 1 - 1e-9, 1.0])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_arc_cosine_kernels(functions, x64, close, order):
    step = functions["step"][0]
    kernel = theory.dual_kernel(
        lambda x: step(x) * x**order, jnp.asarray(CORRELATIONS), variance=2.0, other_variance=0.3
    )
    exact = theory.arc_cosine_kernel(
        jnp.asarray(CORRELATIONS), order=order, variance=2.0, other_variance=0.3
    )
    close(kernel, exact, rtol=1e-12, atol=1e-14)
    t = np.arccos(CORRELATIONS)
    angular = (
        np.pi - t,
        np.sin(t) + (np.pi - t) * np.cos(t),
        3 * np.sin(t) * np.cos(t) + (np.pi - t) * (1 + 2 * np.cos(t) ** 2),
    )[order]
    close(exact, 0.6 ** (order / 2) * angular / (2 * np.pi), rtol=1e-12, atol=1e-14)


def test_erf_kernel(functions, x64, close):
    c = jnp.asarray(CORRELATIONS)
    kernel = theory.dual_kernel(functions["erf"][0], c, variance=1.0, other_variance=4.0)
    close(kernel, theory.erf_kernel(c, variance=1.0, other_variance=4.0), atol=1e-14)
    close(kernel[-1], 2 / np.pi * np.arcsin(4 / np.sqrt(27)))


def test_shifted_kink_against_multiprecision(x64, close):
    """E relu(X - 0.7) relu(Y - 0.7), by the conditional mean in closed form."""
    for c in (0.5, 0.999):
        s = math.sqrt(1 - c * c)

        def inner(x, c=c, s=s):
            m = c * x - mpmath.mpf("0.7")
            return m * mpmath.ncdf(m / s) + s * mpmath.npdf(m / s)

        layer = 0.7 / c
        cuts = [0.7, 0.7 + s / 4, layer + s, layer + 3 * s, layer + 6 * s, 3, 6, 12]
        exact = mpmath.quad(lambda x: (x - 0.7) * inner(x) * mpmath.npdf(x), sorted(cuts))
        kernel = theory.dual_kernel(
            theory.Layer(lambda x: jnp.maximum(x - 0.7, 0), breakpoints=(0.7,)), c
        )
        close(kernel, float(exact))


@pytest.mark.slow
def test_slope_and_curvature_of_relu(functions, x64, close):
    f, _ = functions["relu"]
    c = jnp.asarray(CORRELATIONS)
    close(theory.correlation_slope(f, c), 1 - np.arccos(CORRELATIONS) / np.pi, atol=1e-14)
    inner = CORRELATIONS[1:-1]
    curvature = theory.correlation_curvature(f, jnp.asarray(inner))
    close(curvature, 1 / (np.pi * np.sqrt((1 - inner) * (1 + inner))))
    assert np.isposinf(theory.correlation_curvature(f, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "selu", "hard_tanh", "tanh"])
def test_slope_and_curvature_are_derivatives(functions, x64, close, name):
    f, points = functions[name]
    f, options = theory.Layer(f, breakpoints=points), dict(variance=1.3)
    one = jnp.ones(())
    c = jnp.asarray(0.8)
    slope = jax.jvp(lambda c: theory.correlation_map(f, c, **options), (c,), (one,))[1]
    close(theory.correlation_slope(f, c, **options), slope, rtol=1e-11)
    curvature = jax.jvp(lambda c: theory.correlation_slope(f, c, **options), (c,), (one,))[1]
    close(theory.correlation_curvature(f, c, **options), curvature, rtol=1e-11)


@pytest.mark.slow
def test_selu_slope_at_one(functions, x64, close):
    f, points = functions["selu"]
    close(
        theory.correlation_slope(theory.Layer(f, breakpoints=points), 1.0), 1.071574992, rtol=1e-9
    )
    close(
        theory.statistics(theory.Layer(f, breakpoints=points)).squared_slope, 1.071574992, rtol=1e-9
    )


@pytest.mark.parametrize("enable", [False, True])
def test_defect_keeps_its_digits(functions, close, enable):
    with enable_x64(enable):
        d = np.array([1e-6, 1e-4, 1e-2])
        with mpmath.workdps(40):
            exact = [
                1 - (mpmath.sin(t) + (mpmath.pi - t) * mpmath.cos(t)) / mpmath.pi
                for t in (mpmath.acos(1 - mpmath.mpf(v)) for v in d)
            ]
        defect = theory.correlation_defect(functions["relu"][0], jnp.asarray(d))
        close(defect, np.array(exact, float), rtol=1e-9 if enable else 2e-5)


def test_relu_correlations_decay_as_nine_pi_squared_over_two(functions, x64):
    """l^2 (1 - c_l) -> 9 pi^2 / 2, with a correction of order log(l) / l."""
    f = functions["relu"][0]

    def step(d, _):
        d = theory.correlation_defect(f, d)
        return d, d

    _, defects = jax.lax.scan(step, jnp.asarray(0.5), length=3000)
    depth = np.arange(1, 3001)
    scaled = depth**2 * np.asarray(defects)
    limit = 9 * np.pi**2 / 2
    error = np.abs(scaled / limit - 1)
    assert error[2999] < 0.03
    assert error[2999] < error[999] < error[299]
    # the exact recursion in closed form, in multiprecision
    with mpmath.workdps(40):
        c = mpmath.mpf("0.5")
        for _ in range(3000):
            t = mpmath.acos(c)
            c = (mpmath.sin(t) + (mpmath.pi - t) * c) / mpmath.pi
        np.testing.assert_allclose(defects[-1], float(1 - c), rtol=1e-9)


@pytest.mark.parametrize("enable", [False, True])
def test_bias_and_variances_enter_the_correlation_map(functions, close, enable):
    with enable_x64(enable):
        value = theory.correlation_map(
            theory.Layer(functions["relu"][0], weight_variance=1.7, bias_variance=0.3),
            0.4,
            variance=2.0,
            other_variance=0.5,
        )
        t = math.acos(0.4)
        kernel = (math.sin(t) + (math.pi - t) * 0.4) / (2 * math.pi)
        exact = (1.7 * kernel + 0.3) / math.sqrt((1.7 + 0.3) * (1.7 / 4 + 0.3))
        close(value, exact, rtol=1e-12 if enable else 5e-7)


@pytest.mark.slow
def test_fixed_points_of_relu(functions, x64, close):
    f, _ = functions["relu"]
    critical = theory.fixed_point(theory.Layer(f, weight_variance=2.0), initial_variance=3.0)
    close([critical.variance, critical.correlation, critical.chi_1], [3, 1, 1])
    assert np.isposinf(critical.variance_depth)
    assert np.isposinf(critical.correlation_depth)
    ordered = theory.fixed_point(theory.Layer(f, weight_variance=1.5, bias_variance=0.1))
    close([ordered.variance, ordered.variance_slope, ordered.correlation], [0.4, 0.75, 1])
    close(ordered.correlation_depth, -1 / math.log(0.75))
    assert np.isposinf(theory.fixed_point(theory.Layer(f, weight_variance=3.0)).variance)


def test_fixed_points_of_erf(functions, x64, close):
    """The chaotic phase of erf, whose maps are closed forms (Williams)."""
    f, _ = functions["erf"]
    point = jax.jit(
        lambda s: theory.fixed_point(theory.Layer(f, weight_variance=s, bias_variance=0.1))
    )(4.0)
    q = mpmath.findroot(lambda q: 4 * 2 / mpmath.pi * mpmath.asin(2 * q / (1 + 2 * q)) + 0.1 - q, 3)
    close(point.variance, float(q))

    def step(c):
        return (8 / mpmath.pi * mpmath.asin(2 * q * c / (1 + 2 * q)) + 0.1) / q

    c = mpmath.findroot(lambda c: step(c) - c, 0.3)
    close(point.correlation, float(c), rtol=1e-11)
    slope = mpmath.diff(step, c)
    close(point.correlation_slope, float(slope), rtol=1e-11)
    close(point.correlation_depth, float(-1 / mpmath.log(slope)), rtol=1e-10)
    close(point.chi_1, float(mpmath.diff(step, 1)), rtol=1e-11)


@pytest.mark.slow
def test_fixed_points_are_differentiable(functions, x64, close):
    f, _ = functions["erf"]

    def correlation(s):
        return theory.fixed_point(theory.Layer(f, weight_variance=s, bias_variance=0.1)).correlation

    h = 1e-4
    difference = (correlation(4 + h) - correlation(4 - h)) / (2 * h)
    close(jax.grad(correlation)(4.0), difference, rtol=1e-6)


@pytest.mark.slow
def test_subcritical_tanh_vanishes():
    point = theory.fixed_point(theory.Layer(jnp.tanh, weight_variance=0.8))
    assert point.variance == 0
    np.testing.assert_allclose(point.chi_1, 0.8, rtol=1e-5)


@pytest.mark.slow
def test_statistics(functions, x64, close):
    relu = theory.statistics(functions["relu"][0])
    close(relu[3:], [math.sqrt(2), 0.5, 0.5, 0.5, 0.5, 0.5, 1], rtol=1e-12)
    hard = theory.statistics(
        theory.Layer(functions["hard_tanh"][0], breakpoints=(-1, 1)), variance=4.0
    )
    close(hard.dead_fraction, math.erfc(0.5 / math.sqrt(2)))
    tanh = theory.statistics(jnp.tanh, tolerance=0.19)
    close(tanh.saturated_fraction, math.erfc(math.atanh(0.9) / math.sqrt(2)))
    assert tanh.dead_fraction < 1e-12
    gelu = theory.lipschitz_constant(functions["gelu"][0])
    top = mpmath.sqrt(2)
    close(gelu, float(mpmath.ncdf(top) + top * mpmath.npdf(top)))
    assert np.isposinf(theory.lipschitz_constant(jnp.square))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [theory.correlation_map, theory.correlation_slope, theory.dual_kernel],
)
def test_transforms_of_maps(functions, x64, close, function):
    call = functools.partial(function, functions["tanh"][0])
    c = jnp.linspace(-0.9, 0.9, 5).reshape(5, 1)
    q = jnp.array([[0.5, 2.0]])
    table = jax.jit(lambda c, q: call(c, variance=q))(c, q)
    assert table.shape == (5, 2)
    each = jax.vmap(lambda c: call(c, variance=0.5))(c[:, 0])
    close(table[:, 0], each, rtol=1e-11, atol=1e-14)
    gradient = jax.grad(lambda c: call(c))(0.5)
    close(gradient, (call(0.5 + 1e-5) - call(0.5 - 1e-5)) / 2e-5, rtol=1e-8)


def test_bad_correlations():
    with pytest.raises(ValueError, match=r"c must lie in \[-1, 1\], got 1.5"):
        theory.correlation_map(jnp.tanh, 1.5)
    with pytest.raises(ValueError, match=r"defect must lie in \[0, 2\]"):
        theory.correlation_defect(jnp.tanh, -0.1)
    with pytest.raises(ValueError, match="order must be 0, 1 or 2, got 3"):
        theory.arc_cosine_kernel(0.1, order=3)
