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
# # Build a ResNet, and move its norm
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/build_a_resnet.ipynb)
#
# One block, written once: the placement of the norm, the skip, the norm and the activation are
# values. Change one word and get the other network.

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
import pandas as pd
from flax import nnx

from jaxact import analysis, models

print(jax.devices())

# %%
depth = 8 if SMALL else 64
x = jax.random.normal(jax.random.key(1), (64, 32))


def build(placement, **changes):
    options = dict(width=64, depth=depth, norm="layer", norm_placement=placement)
    return models.MLPResNet(32, 10, **(options | changes), rngs=nnx.Rngs(0))


network = build("pre")
network(x).shape

# %% [markdown]
# A network is a pytree, so `jax.jit`, `jax.grad` and `jax.vmap` take it directly; blocks of
# equal shape carry a leading depth axis and run in one scan, so compile time does not grow with
# depth. `models.apply` is the pure call: logits, the network with its next statistics, and, if
# asked, what passes through each block.

# %%
out = models.apply(network, x, train=False, trace=True)
{name: trace.branch.shape for name, trace in out.traces.items()}

# %% [markdown]
# ## Move the norm
#
# Some placements at initialization (`jaxact.wiring.PLACEMENTS` has all): how alike different inputs
# become with depth.

# %%
for placement in ("pre", "post", "original", "norm_after_addition", "sandwich", "deepnorm"):
    chain = analysis.as_chain(build(placement))
    h = analysis.features(chain, x)["blocks"]
    h = h[0] if isinstance(h, tuple) else h
    plt.plot(range(1, depth + 1), analysis.cosine_similarity(h), label=placement)
plt.xscale("log", base=2)
plt.xlabel("block")
plt.ylabel("cosine similarity between inputs")
plt.legend(fontsize=8)
# %% [markdown]
# ## Conflicts are said in one sentence

# %%
try:
    build("norm_free", norm="layer")
except ValueError as error:
    print(error)

# %% [markdown]
# ## Image networks, and an ensemble by one `vmap`

# %%
pd.Series(models.presets()[:12])


# %%
def parameters(name):
    shapes = jax.eval_shape(lambda: nnx.state(models.create(name, rngs=nnx.Rngs(0)), nnx.Param))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


{name: parameters(name) for name in ["resnet18", "resnet50"]}


# %%
def logits(seed):
    net = models.MLPResNet(32, 10, width=16, depth=4, rngs=nnx.Rngs(jax.random.key(seed)))
    return net(x)


jax.vmap(logits)(jnp.arange(5)).shape
