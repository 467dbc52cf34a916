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
# # Write your own study
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/your_own_study.ipynb)
#
# A study is a grid of choices, a measurement that is a pure function, and one tidy table. Here is
# one written from parts: does the placement of the norm keep rank through training?

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
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
import pandas as pd
from flax import nnx

from jaxact import analysis, models, training, wiring

print(jax.devices())

# %% [markdown]
# ## Data, a network, a measurement

# %%
data = training.load("digits")
x = jnp.asarray(data.train_x.reshape(len(data.train_x), -1))
y = jnp.asarray(data.train_y)
depth, width, steps = (4, 16, 5) if SMALL else (16, 64, 300)
seeds = jnp.arange(2 if SMALL else 5)
words = ["pre", "post", "scaled"]
rates = [1e-3] if SMALL else [1e-3, 1e-2]


def build(word, seed):
    wired = wiring.get(word)
    return models.MLPResNet(
        64,
        10,
        width=width,
        depth=depth,
        activation="relu",
        norm="layer" if wired.normed else "none",
        **wired.options,
        rngs=nnx.Rngs(jax.random.key(seed)),
    )


def measure(network):
    """Effective rank of the last block's features, and how alike inputs have become."""
    h = analysis.features(analysis.as_chain(network), x[:256])["blocks"][-1:]
    return {
        "effective rank": analysis.matrix_measures(analysis.feature_matrix(h))["effective_rank"][0],
        "cosine similarity": analysis.cosine_similarity(h)[0],
    }


# %% [markdown]
# ## One cell: all seeds at once
#
# Initialization, training and measurement are pure, so seeds are a `vmap`.


# %%
def cell(word, rate):
    def one(seed):
        graph, params, rest = nnx.split(build(word, seed), nnx.Param, ...)

        def loss(params, images, labels):
            return training.cross_entropy(nnx.merge(graph, params, rest)(images), labels)

        fit = training.fit(
            loss,
            params,
            x,
            y,
            optimizer=optax.adam(rate),
            steps=steps,
            batch_size=64,
            key=jax.random.key(seed),
        )
        trained = nnx.merge(graph, fit.params, rest)
        return measure(trained) | {"loss": loss(fit.params, x, y)}

    return jax.jit(jax.vmap(one))(seeds)


frames = []
for word, rate in itertools.product(words, rates):
    for quantity, values in cell(word, rate).items():
        frames.append(
            analysis.tidy(
                values, {"seed": seeds.tolist()}, wiring=word, rate=rate, quantity=quantity
            )
        )
table = pd.concat(frames, ignore_index=True)
table.pivot_table(index=["wiring", "rate"], columns="quantity", values="value").round(3)

# %% [markdown]
# ## A figure from the table alone

# %%
quantities = list(dict.fromkeys(table.quantity))
figure, axes = plt.subplots(1, len(quantities), figsize=(9, 3))
for axis, quantity in zip(axes, quantities):
    for offset, rate in zip((-0.1, 0.1), rates):
        for number, word in enumerate(words):
            values = table[
                (table.quantity == quantity) & (table.rate == rate) & (table.wiring == word)
            ].value
            axis.plot(
                [number + offset] * len(values),
                values,
                "os"[offset > 0],
                color=["#0072B2", "#D55E00"][offset > 0],
                fillstyle="none",
                label=f"rate {rate:g}" if number == 0 else None,
            )
    axis.set_xticks(range(len(words)), words)
    axis.set_title(quantity, fontsize=9)
axes[0].legend(fontsize=7)
figure.tight_layout()
