"""Mean field against wide networks: every z-score is (simulated mean - theory) / standard error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import theory
from jaxact import wiring as wirings

DEPTH, WIDTH, TRIALS = 5, 400, 16
VARIANCES = dict(weight_variance=2.0, bias_variance=0.1)
NUMPY = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
}

COVERED = ["pre", "post", "sandwich", "res_post", "deepnorm", "norm_scaling"]
COVERED += ["norm_free", "scaled", "plain"]


def simulate(activation, wiring, weights, scale):
    """Per trial: variance, correlation, |J|^2 / n, dispersion, gradient and weight gradient.

    Norms are divisions by the root mean square, and constants to the Jacobian.
    """
    f, slope = NUMPY[activation]
    rng = np.random.default_rng(0)
    n, trials = WIDTH, []
    stream = {"plain": 0.0, "deepnorm": DEPTH**0.25}.get(wiring, 1.0)
    weight_variance = 2.0 / (2 * DEPTH**0.5 if wiring == "deepnorm" else 1.0)
    scale = scale / DEPTH**0.5 if wiring == "scaled" else scale

    def rms(h, *wirings):
        return np.sqrt((h**2).mean(1, keepdims=True)) if wiring in wirings else np.ones((2, 1))

    for _ in range(TRIALS):
        basis = np.linalg.qr(rng.normal(size=(n, 2)))[0].T * np.sqrt(n)
        h = np.stack([basis[0], 0.3 * basis[0] + math.sqrt(1 - 0.09) * basis[1]])
        jacobian, blocks, local = np.eye(n), [], []
        for layer in range(DEPTH):
            w = rng.normal(size=(n, n)) / np.sqrt(n)
            if weights == "orthogonal":
                q, r = np.linalg.qr(w)
                w = q * np.sign(np.diagonal(r))
            w *= math.sqrt(weight_variance)
            b = rng.normal(size=n) * math.sqrt(0.1)
            before = rms(h, "pre", "sandwich", "norm_scaling")
            before = before * ((layer + 1) ** 0.5 if wiring == "norm_scaling" else 1.0)
            u = h / before
            branch = f(u) @ w.T + b
            end = rms(branch, "sandwich", "res_post")
            h = stream * h + scale * branch / end
            after = rms(h, "post", "deepnorm")
            h = h / after
            block = stream * np.eye(n) + scale * (w * slope(u[0])) / before[0] / end[0]
            blocks.append(block / after[0])
            local.append((scale / end[0, 0] / after[0, 0]) ** 2 * (f(u[0]) ** 2).sum())
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
@pytest.mark.parametrize("wiring", COVERED)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_wide_networks(functions, x64, activation, wiring, weights):
    scale = 1.0 if wiring == "plain" else 0.7
    theirs = simulate(activation, wiring, weights, scale)
    layer = theory.Layer(functions[activation][0], weights=weights, **VARIANCES)
    ours = theory.mean_field(layer, DEPTH, wiring=wiring, branch_scale=scale, correlation=0.3)
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
    theirs = simulate("relu", "norm_free", "orthogonal", 0.7)[:, 3]
    layer = theory.Layer(functions["relu"][0], weights="orthogonal", **VARIANCES)
    field = theory.mean_field(layer, DEPTH, wiring="norm_free", branch_scale=0.7, correlation=0.3)
    ours = field.jacobian_dispersion[-1]
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
    close(
        theory.mean_field(theory.Layer(relu, weights="orthogonal"), 30).jacobian_dispersion,
        layers,
        atol=1e-13,
    )
    linear = theory.mean_field(theory.Layer(lambda x: x, weights="orthogonal"), 30)
    close(linear.jacobian_dispersion, 0, atol=1e-13)


def test_residual_growth_in_closed_form(functions, x64, close):
    relu = functions["relu"][0]
    layers = np.arange(21)
    unscaled = theory.mean_field(relu, 20, wiring="norm_free")
    close(unscaled.variance, 2.0**layers)
    close(unscaled.log_jacobian, math.log(2) * layers, atol=1e-13)
    scaled = theory.mean_field(relu, 20, wiring="norm_free", branch_scale=20**-0.5)
    close(scaled.variance, 1.05**layers)
    pre = theory.mean_field(relu, 20, wiring="pre")
    close(pre.variance, 1.0 + layers)
    # prod (1 + 1 / q_l) = (L + 1)
    close(pre.log_jacobian, np.log(1.0 + layers), atol=1e-12)
    post = theory.mean_field(relu, 20, wiring="post")
    close(post.variance, 1)
    close(post.log_gradient, 0, atol=1e-12)
    close(post.log_weight_gradient, math.log(1 / 4), atol=1e-12)


def test_correlation_of_relu_residuals(functions, x64, close):
    """d' = (d + D(d)) / 2 for an unscaled residual rectifier at He's gain."""
    relu = functions["relu"][0]
    d = 0.7
    for ours in theory.mean_field(relu, 10, wiring="norm_free", correlation=0.3).defect[1:]:
        t = math.acos(1 - d)
        d = (d + 1 - (math.sin(t) + (math.pi - t) * math.cos(t)) / math.pi) / 2
        close(ours, d, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("wiring", ["plain", "norm_free", "pre", "post", "sandwich", "deepnorm"])
def test_transforms(functions, x64, close, wiring):
    def total(slope):
        field = theory.mean_field(
            lambda x: jnp.where(x > 0, x, slope * x), 4, wiring=wiring, correlation=0.2
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
    ("layer", "depth", "kwargs", "match"),
    [
        ({}, 0, {}, "depth must be an integer of at least 1; got 0"),
        ({}, 2, dict(wiring="batch"), "wiring must be one of pre, post,"),
        ({}, 2, dict(wiring="original"), "wiring must be one with a theory, such as pre, post, .*"),
        ({}, 2, dict(wiring="pre+layerscale"), "with a theory, .*; got 'pre\\+layerscale'"),
        ({}, 2, dict(branch_scale=-1.0), "branch_scale must be positive"),
        (dict(weights="uniform"), 2, {}, "weights must be one of gaussian, orthogonal"),
        ({}, 2, dict(variance=math.inf), "variance must be positive and finite, got inf"),
        (dict(breakpoints=(math.nan,)), 2, {}, "breakpoints must be numbers"),
        (dict(nodes=1), 2, {}, "nodes must be an integer of at least 2; got 1"),
        (dict(weight_variance=0.0), 2, {}, "weight_variance must be positive"),
        (dict(bias_variance=-1.0), 2, {}, "bias_variance must be non-negative"),
    ],
)
def test_bad_values(layer, depth, kwargs, match):
    with pytest.raises((ValueError, TypeError), match=match):
        theory.mean_field(theory.Layer(jnp.tanh, **layer), depth, **kwargs)


def test_which_wirings_have_a_theory():
    assert [word for word in wirings.names() if theory.covered(word)] == COVERED
    assert theory.covered("post+scaled")
    assert theory.covered("pre+plain")
