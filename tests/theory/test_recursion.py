"""Mean field against wide networks: every z-score is (simulated mean - theory) / standard error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import theory

DEPTH, WIDTH, TRIALS = 5, 400, 16
OPTIONS = dict(weight_variance=2.0, bias_variance=0.1, correlation=0.3)
NUMPY = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
}


def simulate(activation, placement, weights, scale):
    """Per trial: variance, correlation, |J|^2 / n, dispersion, gradient and weight gradient."""
    f, slope = NUMPY[activation]
    rng = np.random.default_rng(0)
    n, skip, trials = WIDTH, placement != "plain", []
    for _ in range(TRIALS):
        basis = np.linalg.qr(rng.normal(size=(n, 2)))[0].T * np.sqrt(n)
        h = np.stack([basis[0], 0.3 * basis[0] + math.sqrt(1 - 0.09) * basis[1]])
        jacobian, blocks, local = np.eye(n), [], []
        for _ in range(DEPTH):
            w = rng.normal(size=(n, n)) / np.sqrt(n)
            if weights == "orthogonal":
                q, r = np.linalg.qr(w)
                w = q * np.sign(np.diagonal(r))
            w *= math.sqrt(OPTIONS["weight_variance"])
            b = rng.normal(size=n) * math.sqrt(OPTIONS["bias_variance"])
            size = np.sqrt((h**2).mean(1, keepdims=True)) if placement == "pre" else np.ones((2, 1))
            u = h / size
            block = skip * np.eye(n) + scale * (w * slope(u[0])) / size[0]
            h = skip * h + scale * (f(u) @ w.T + b)
            norm = (
                np.sqrt((h**2).mean(1, keepdims=True)) if placement == "post" else np.ones((2, 1))
            )
            h = h / norm
            blocks.append(block / norm[0])
            local.append(scale**2 * (f(u[0]) ** 2).sum() / norm[0, 0] ** 2)
            jacobian = blocks[-1] @ jacobian
        gram = jacobian @ jacobian.T
        mean = np.trace(gram) / n
        variance = (h[0] ** 2).mean()
        g = rng.normal(size=n)
        start, weight_gradients = g @ g, []
        for block, forward in zip(blocks[::-1], local[::-1], strict=True):
            weight_gradients.append(forward * (g @ g) / (n * start))
            g = g @ block
        trials.append(
            [
                variance,
                h[0] @ h[1] / np.linalg.norm(h[0]) / np.linalg.norm(h[1]),
                mean,
                (gram**2).sum() / n / mean**2 - 1,
                g @ g / start,
                weight_gradients[-1],
            ]
        )
    return np.array(trials)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("placement", ["plain", "none", "pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_wide_networks(functions, x64, activation, placement, weights):
    scale = 1.0 if placement == "plain" else 0.7
    theirs = simulate(activation, placement, weights, scale)
    ours = theory.mean_field(
        functions[activation][0],
        DEPTH,
        placement=placement,
        weights=weights,
        branch_scale=scale,
        **OPTIONS,
    )
    expected = np.array(
        [
            ours.variance[-1],
            ours.correlation[-1],
            np.exp(ours.log_jacobian[-1]),
            ours.jacobian_dispersion[-1],
            np.exp(ours.log_gradient[0]),
            np.exp(ours.log_weight_gradient[0]),
        ]
    )
    standard_error = theirs.std(0, ddof=1) / math.sqrt(TRIALS)
    # the finite width shifts each mean by a relative O(depth / width): allowed once
    bias = DEPTH / WIDTH * np.abs(expected)
    assert np.all(np.abs(theirs.mean(0) - expected) < 3.5 * standard_error + bias)
    assert np.all(standard_error < 0.12 * np.abs(expected))


@pytest.mark.slow
def test_a_skip_correlates_the_masks_of_layers(functions, x64):
    """Free layers, which the literature assumes, are refuted by simulation; ours is not."""
    theirs = simulate("relu", "none", "orthogonal", 0.7)[:, 3]
    ours = theory.mean_field(
        functions["relu"][0],
        DEPTH,
        placement="none",
        weights="orthogonal",
        branch_scale=0.7,
        **OPTIONS,
    ).jacobian_dispersion[-1]
    chi, kappa = 0.49, 2.0
    free = DEPTH * (2 * chi + (kappa - 1) * chi**2) / (1 + chi) ** 2
    error = theirs.std(ddof=1) / math.sqrt(TRIALS)
    assert abs(theirs.mean() - ours) < 3.5 * error + DEPTH / WIDTH * ours
    assert abs(theirs.mean() - free) > 6 * error


def test_plain_dispersion_in_closed_form(functions, x64, close):
    """Pennington 2017: L (mu_2 / mu_1^2 - 1 - s_1), s_1 = -1 Gaussian, 0 orthogonal."""
    relu = functions["relu"][0]
    layers = np.arange(31)
    gaussian = theory.mean_field(relu, 30)
    close(gaussian.jacobian_dispersion, 2 * layers, atol=1e-13)
    close(gaussian.log_jacobian, 0, atol=1e-12)
    close(theory.mean_field(relu, 30, weights="orthogonal").jacobian_dispersion, layers, atol=1e-13)
    linear = theory.mean_field(lambda x: x, 30, weights="orthogonal")
    close(linear.jacobian_dispersion, 0, atol=1e-13)


def test_residual_growth_in_closed_form(functions, x64, close):
    relu = functions["relu"][0]
    layers = np.arange(21)
    unscaled = theory.mean_field(relu, 20, placement="none")
    close(unscaled.variance, 2.0**layers)
    close(unscaled.log_jacobian, math.log(2) * layers, atol=1e-13)
    scaled = theory.mean_field(relu, 20, placement="none", branch_scale=20**-0.5)
    close(scaled.variance, 1.05**layers)
    pre = theory.mean_field(relu, 20, placement="pre")
    close(pre.variance, 1.0 + layers)
    # prod (1 + 1 / q_l) = (L + 1)
    close(pre.log_jacobian, np.log(1.0 + layers), atol=1e-12)
    post = theory.mean_field(relu, 20, placement="post")
    close(post.variance, 1)
    close(post.log_gradient, 0, atol=1e-12)
    close(post.log_weight_gradient, math.log(1 / 4), atol=1e-12)


def test_correlation_of_relu_residuals(functions, x64, close):
    """d' = (d + D(d)) / 2 for an unscaled residual rectifier at He's gain."""
    relu = functions["relu"][0]
    d = 0.7
    for ours in theory.mean_field(relu, 10, placement="none", correlation=0.3).defect[1:]:
        t = math.acos(1 - d)
        d = (d + 1 - (math.sin(t) + (math.pi - t) * math.cos(t)) / math.pi) / 2
        close(ours, d, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["plain", "none", "pre", "post"])
def test_transforms(functions, x64, close, placement):
    def total(slope):
        field = theory.mean_field(
            lambda x: jnp.where(x > 0, x, slope * x), 4, placement=placement, correlation=0.2
        )
        return field.defect[-1] + field.log_jacobian[-1] + field.jacobian_dispersion[-1]

    h = 1e-5
    difference = (total(0.3 + h) - total(0.3 - h)) / (2 * h)
    close(jax.jit(jax.grad(total))(0.3), difference, rtol=1e-6, atol=1e-9)


def test_float32(functions):
    field = theory.mean_field(functions["relu"][0], 200, correlation=0.5)
    assert all(v.dtype == jnp.float32 and np.all(np.isfinite(v)) for v in field)
    d = 0.5
    for _ in range(200):
        t = math.acos(1 - d)
        d = 1 - (math.sin(t) + (math.pi - t) * math.cos(t)) / math.pi
    np.testing.assert_allclose(field.defect[-1], d, rtol=1e-4)


@pytest.mark.parametrize(
    ("depth", "kwargs", "match"),
    [
        (0, {}, "depth must be an integer of at least 1, got 0"),
        (2, dict(placement="batch"), "placement must be one of"),
        (2, dict(weights="uniform"), "weights must be one of"),
        (2, dict(branch_scale=-1.0), "branch_scale must be positive"),
    ],
)
def test_bad_values(depth, kwargs, match):
    with pytest.raises((ValueError, TypeError), match=match):
        theory.mean_field(jnp.tanh, depth, **kwargs)
