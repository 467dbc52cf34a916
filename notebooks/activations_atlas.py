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
# # Activations atlas
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/activations_atlas.ipynb)
#
# Every activation of `jaxact.activations` with its derivative, its numbers at initialization, and
# where the usual implementations lose digits.

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
import pandas as pd

from jaxact import activations, theory

print(jax.devices())

# %% [markdown]
# Names look up functions; a row of the table says what is known of each.

# %%
names = [name for name in activations.names() if name != "log1mexp"]
rows = {name: activations.info(name) for name in names}
pd.DataFrame(
    {
        name: dict(family=row.family, year=row.year, monotone=row.monotone, lipschitz=row.lipschitz)
        for name, row in rows.items()
    }
).T

# %% [markdown]
# ## Values and derivatives
#
# `jax.grad` of each, and the function itself.

# %%
shown = names[:12] if SMALL else names
x = jnp.linspace(-4, 4, 401)
columns = 6
figure, axes = plt.subplots(
    -(-len(shown) // columns), columns, figsize=(11, 1.7 * -(-len(shown) // columns)), sharex=True
)
for axis, name in zip(axes.flat, shown):
    f = activations.get(name)
    axis.plot(x, f(x), color="#0072B2")
    axis.plot(x, jax.vmap(jax.grad(f))(x), color="#D55E00", linestyle="--", linewidth=1)
    axis.set_title(name, fontsize=8)
    axis.tick_params(labelsize=6)
    axis.grid(alpha=0.3)
for axis in axes.flat[len(shown) :]:
    axis.set_visible(False)
figure.tight_layout()

# %% [markdown]
# ## What each does to a wide random layer
#
# With weights of variance `gain² / fan_in` the second moment is kept. `chi_1 = gain² E f'(Z)²`
# says what happens to small differences: below one they shrink, above one they grow. The mean
# is what accumulates as a shift.

# %%
chosen = ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "su", "tanh", "sine"]


def at_initialization(name):
    found = theory.statistics(name)
    return {
        "gain": float(found.gain),
        "mean": float(found.mean * found.gain),
        "chi_1": float(found.squared_slope * found.gain**2),
        "flat": float(found.dead_fraction),
    }


pd.DataFrame({name: at_initialization(name) for name in chosen}).T.round(4)

# %% [markdown]
# ## Where digits are lost
#
# `jax.nn.gelu` takes the tanh form by default, which has no digits left in the tail. The exact
# form of jaxact keeps them, in every dtype.

# %%
tail = jnp.linspace(-12, -2, 201)
# JAX 0.8 moved it.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
with enable_x64(True):
    truth = activations.gelu(jnp.asarray(np.asarray(tail), jnp.float64))
    error = {
        "jax.nn.gelu (default)": np.abs(np.asarray(jax.nn.gelu(tail)) / truth - 1),
        "jax.nn.gelu(approximate=False)": np.abs(
            np.asarray(jax.nn.gelu(tail, approximate=False)) / truth - 1
        ),
        "jaxact gelu": np.abs(np.asarray(activations.gelu(tail)) / truth - 1),
    }
for label, values in error.items():
    plt.semilogy(tail, np.maximum(values, 1e-9), label=label)
plt.axhline(np.finfo(np.float32).eps, color="0.5", linewidth=0.8)
plt.xlabel("x")
plt.ylabel("relative error, float32")
plt.legend()
