# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Theory against measurement
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/theory_against_measurement.ipynb)
#
# `jaxact.theory` predicts by quadrature what a wide random network does with depth. Here prediction
# and measurement stand in one picture: correlation between inputs, the Jacobian's size and spread,
# and the spectrum of a product.

# %%
import importlib.util
import os
import pathlib
import subprocess
import sys

if importlib.util.find_spec("jaxact") is None:  # Colab, on its CPU, GPU or TPU
    # A wheel beside this notebook, or what JAXACT_SOURCE names: the URL of a wheel or repository.
    wheels = [path.resolve().as_uri() for path in sorted(pathlib.Path().glob("jaxact-*.whl"))]
    source = os.environ.get("JAXACT_SOURCE") or (wheels[-1] if wheels else None)
    if source is None:
        raise SystemExit(
            "jaxact is on no package index yet: put its wheel (python -m build --wheel) beside "
            "this notebook, or a URL into os.environ['JAXACT_SOURCE'], and run this cell again"
        )
    install = [sys.executable, "-m", "pip", "install", "-q", f"jaxact[studies] @ {source}"]
    subprocess.run(install, check=True)
    importlib.invalidate_caches()

SMALL = "JAXACT_SMALL" in os.environ  # how the tests run this notebook: in seconds

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxact import activations, spectral, theory

print(jax.devices())
WIDTH, DEPTH = (64, 8) if SMALL else (1024, 32)

# %% [markdown]
# ## Correlation between two inputs
#
# A layer maps the correlation c of two inputs to C(c). At the gain that keeps the variance, the
# rectifier brings every pair together, slowly: l² (1 - c) tends to 9 π² / 2.


# %%
def correlations(name, key, start=0.2):
    """c by depth in one wide network."""
    f, gain = activations.get(name), theory.gain(name)
    u, v = jax.random.normal(jax.random.fold_in(key, 0), (2, WIDTH))
    v = start * u + jnp.sqrt(1 - start**2) * v
    h = jnp.stack([u, v])

    def layer(h, key):
        w = jax.random.normal(key, (WIDTH, WIDTH)) * gain / np.sqrt(WIDTH)
        h = jnp.matmul(f(h), w, precision="highest")
        a, b = h
        return h, a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)

    return jax.lax.scan(layer, h, jax.random.split(key, DEPTH))[1]


colours = dict(
    zip(["relu", "gelu", "silu", "tanh", "selu"], ["k", "#D55E00", "#0072B2", "#009E73", "#CC79A7"])
)
for name, colour in colours.items():
    predicted = theory.mean_field(name, DEPTH, correlation=0.2)
    plt.plot(range(DEPTH + 1), predicted.correlation, color=colour, linewidth=1, label=name)
    plt.plot(
        range(1, DEPTH + 1),
        jax.jit(correlations, static_argnums=0)(name, jax.random.key(1)),
        "o",
        color=colour,
        markersize=3,
        fillstyle="none",
    )
plt.xlabel("layer")
plt.ylabel("correlation of two inputs")
plt.title(f"lines: theory; circles: one network of width {WIDTH}", fontsize=9)
plt.legend(fontsize=8)
# %% [markdown]
# GELU and SiLU leave their lines: the variance that the gain keeps is an unstable fixed point of
# their variance map (slope above one), so that the fluctuations of any finite width grow by that
# slope with every layer, and the correlation map changes with them. Tanh and SELU are drawn back.

# %%
{
    name: round(float(jax.grad(lambda q, name=name: theory.variance_map(name, q))(1.0)), 3)
    for name in colours
}

# %% [markdown]
# ## The spectrum of a product
#
# Log singular values of L Gaussian layers, divided by L, against Newman's exponents; and the
# Marchenko-Pastur law for one layer.

# %%
n = 64
for layers in (1, 10, 100) if SMALL else (1, 10, 100, 1000):
    stack = jax.random.normal(jax.random.key(2), (layers, n, n)) / np.sqrt(n)
    log_s = jax.jit(spectral.product_spectrum)(stack).log_singular_values
    plt.plot(log_s / layers, label=f"L = {layers}", linewidth=1)
plt.plot(theory.newman_exponents(n), "k--", linewidth=1.2, label="Newman, L to infinity")
plt.ylim(-3.5, 1)
plt.xlabel("singular value, by rank")
plt.ylabel("log s / L")
plt.legend(fontsize=8)
# %%
rows, columns = (128, 256) if SMALL else (512, 1024)
a = jax.random.normal(jax.random.key(3), (rows, columns)) / np.sqrt(columns)
s = spectral.singular_values(a)
limits = theory.marchenko_pastur_ranks(rows / columns)
{
    "stable rank / m": (float(spectral.stable_rank(s)) / rows, float(limits.stable_rank)),
    "participation / m": (
        float(spectral.participation_ratio(s)) / rows,
        float(limits.participation_ratio),
    ),
}
