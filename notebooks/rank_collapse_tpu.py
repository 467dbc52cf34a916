# ---
# jupyter:
#   accelerator: TPU
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Measure rank collapse, on a TPU if there is one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/rank_collapse_tpu.ipynb)
#
# Features, weights and Jacobians lose rank with depth; here it is measured on whatever device this
# notebook has. On a TPU matrix products run in bfloat16 by default, in which small singular values
# are noise: jaxact asks for full precision wherever rank is measured.

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
from flax import nnx
from sklearn.datasets import load_digits

from jaxact import analysis, models, spectral, theory, wiring

print(jax.devices())
if jax.default_backend() != "tpu":
    print("No TPU here (Runtime > Change runtime type asks for one): the cells run, but slower.")

# %%
depth, width = (16, 32) if SMALL else (128, 64)
images, _ = load_digits(return_X_y=True)
images = jnp.asarray((images - images.mean()) / images.std(), jnp.float32)[:256]
wirings = [wiring.get(word) for word in ("plain", "original", "post", "pre", "scaled")]


def network(wired):
    return models.MLPResNet(
        *(64, 10),
        width=width,
        depth=depth,
        activation="relu",
        norm="layer" if wired.normed else "none",
        **wired.options,
        rngs=nnx.Rngs(0),
    )


# %% [markdown]
# ## Features and Jacobians by depth
#
# `as_chain` reads the network as a chain of pure functions; the Jacobian from the input to every
# layer is a product of the layers' own Jacobians, which is never formed: its log singular values
# come from a graded factorization.


# %%
@jax.jit
def effective_ranks(net):
    chain = analysis.as_chain(net)
    h = analysis.feature_matrix(analysis.features(chain, images)["blocks"])
    start = jax.random.orthogonal(jax.random.key(0), 64)
    trunk = analysis.until(chain, "blocks")
    product = analysis.input_jacobians(trunk, images[0], start=start)["blocks"]
    log_s = jax.lax.map(spectral.graded_spectrum, product)
    return analysis.matrix_measures(h)["effective_rank"], spectral.effective_rank(log_s, log=True)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for wired in wirings:
    for axis, values in zip(axes, effective_ranks(network(wired))):
        axis.loglog(range(1, depth + 1), values, label=wired.label)
axes[0].set(xlabel="block", ylabel="effective rank", title="features of digits")
axes[1].set(xlabel="block", title="input-to-block Jacobian")
axes[0].legend(fontsize=8)
# %% [markdown]
# ## What a product in float32, and in bfloat16, would have said
#
# The singular values of a product of Gaussian layers, against Newman's exponents.

# %%
layers = jax.random.normal(jax.random.key(2), (depth, 64, 64)) / 8
graded = jax.jit(spectral.product_spectrum)(layers).log_singular_values


def naive(dtype):
    product = jnp.eye(64)
    for w in layers:
        product = jnp.matmul(w.astype(dtype), product.astype(dtype)).astype(jnp.float32)
    return np.log(np.maximum(np.linalg.svd(np.asarray(product), compute_uv=False), 1e-38))


plt.plot(graded, label="graded, float32", color="#0072B2")
plt.plot(naive(jnp.float32), label="product in float32", color="#D55E00", linestyle="--")
plt.plot(naive(jnp.bfloat16), label="product in bfloat16", color="#CC79A7", linestyle=":")
plt.plot(
    depth * theory.newman_exponents(64), label="Newman's exponents", color="0.4", linewidth=0.8
)
plt.xlabel("singular value, by rank")
plt.ylabel("log s")
plt.legend()
