"""Spectra compiled for TPU v5e (not run on one): full-precision products, nothing on the host."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models, spectral

LAYERS = jax.ShapeDtypeStruct((6, 16, 16), jnp.float32)


def products(layers):
    return spectral.product_spectrum(layers)


def stable_rank(layers):
    def network(x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(w @ h), None), x, layers)[0]

    with jax.default_matmul_precision("highest"):
        x = layers[0, 0]
        found = spectral.estimate_stable_rank(
            jax.linearize(network, x)[1], x, key=jax.random.key(0), probes=4, iterations=4
        )
    return found.value, found.residual


@pytest.mark.slow
@pytest.mark.parametrize("f", [products, stable_rank])
def test_full_precision_and_no_host(f, compile_for_tpu):
    text = compile_for_tpu(f, LAYERS).as_text()
    assert "f64[" not in text
    assert "callback" not in text
    assert not re.search(r"\b(infeed|outfeed|send|recv)\(", text)
    ours = [
        line
        for line in jax.jit(f).lower(LAYERS).as_text().splitlines()
        if "stablehlo.dot_general" in line
    ]
    assert ours
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in ours), ours


@pytest.mark.slow
def test_jacobian_of_a_convolutional_network_is_never_made(compile_for_tpu):
    """3,072 -> 16,384: as a matrix 192 MiB; its largest values in a tenth of that."""
    chain = analysis.as_chain(models.ConvResNet(3, 10, width=16, depth=4, rngs=nnx.Rngs(0)))
    trunk = analysis.Chain(chain.segments[:2])

    def measure(x, key):
        linear = jax.linearize(lambda x: analysis.run(trunk, x[None])[0], x)[1]
        return spectral.top_singular_values(linear, x, k=10, key=key, iterations=40).values

    x = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    compiled = compile_for_tpu(measure, x, jax.random.key(0))
    assert compiled.memory_analysis().temp_size_in_bytes < 3072 * 16384 * 4 / 10
    text = compiled.as_text()
    assert "f64[" not in text
    assert "callback" not in text
    lowered = jax.jit(measure).lower(x, jax.random.key(0)).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", lowered)
    assert any(line.startswith("stablehlo.conv") for line in products)
    assert all("HIGHEST" in line for line in products), products


def test_what_bfloat16_products_would_report():
    """A TPU's default rounds both factors to bfloat16: small singular values become noise."""
    layers = jax.random.normal(jax.random.key(0), (30, 16, 16)) / 4

    def rounded(x):
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)

    def step(product, w):
        aq = jnp.matmul(rounded(w), rounded(product.q), precision="highest")
        return spectral.graded_step(product, aq), None

    product = jax.lax.scan(step, spectral.graded_start(jnp.eye(16)), layers)[0]
    half = np.asarray(spectral.graded_spectrum(product))
    full = np.asarray(spectral.product_spectrum(layers).log_singular_values)
    dense = np.eye(16)
    for w in np.asarray(layers, np.float64):
        dense = w @ dense
    largest = np.log(np.linalg.svd(dense, compute_uv=False)[:4])
    np.testing.assert_allclose(full[:4], largest, atol=1e-3)
    assert np.max(np.abs(half[:4] - largest)) < 0.1
    assert np.max(np.abs(half - full)) > 0.02
