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
# # Does my network lose rank, where, and what do I change?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/does_my_network_lose_rank.ipynb)
#
# One question from start to end, for a network of your own: here a deep rectified MLP in Flax NNX
# that learns slowly. Measure it, find the layer where rank goes, ask what theory says, change one
# thing at a time, and see whether what was measured at the start tells what trains.

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
import optax
import pandas as pd
from flax import nnx

from jaxact import analysis, theory, training

print(jax.devices())

# %% [markdown]
# ## The network
#
# Nothing here is jaxact's but the data. The four variants differ in one thing each.

# %%
depth, width, steps = (6, 32, 10) if SMALL else (48, 64, 300)
rates = [1e-3] if SMALL else [3e-4, 1e-3, 3e-3]
seeds = range(1 if SMALL else 3)


class Block(nnx.Module):
    """relu(W h); the residual one h + W relu(norm(h))."""

    def __init__(self, init, residual, rngs):
        self.linear = nnx.Linear(width, width, kernel_init=init, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs) if residual else None

    def __call__(self, h):
        if self.norm is None:
            return nnx.relu(self.linear(h))
        return h + self.linear(nnx.relu(self.norm(h)))


class Tanh(nnx.Module):
    """tanh(W h)."""

    def __init__(self, init, rngs):
        self.linear = nnx.Linear(width, width, kernel_init=init, rngs=rngs)

    def __call__(self, h):
        return nnx.tanh(self.linear(h))


lecun, he = nnx.initializers.lecun_normal(), nnx.initializers.he_normal()
orthogonal = nnx.initializers.orthogonal()
VARIANTS = {
    "as it is": lambda rngs: Block(lecun, False, rngs),
    "He's initialization": lambda rngs: Block(he, False, rngs),
    "orthogonal tanh": lambda rngs: Tanh(orthogonal, rngs),
    "residual, pre-norm": lambda rngs: Block(lecun, True, rngs),
}


def build(variant, seed):
    rngs = nnx.Rngs(seed)
    blocks = [VARIANTS[variant](rngs) for _ in range(depth)]
    return nnx.Sequential(
        nnx.Linear(64, width, rngs=rngs), *blocks, nnx.Linear(width, 10, rngs=rngs)
    )


data = training.load("digits")
images = jnp.asarray(data.train_x.reshape(len(data.train_x), -1))
images = images / jnp.sqrt(jnp.mean(images**2))
labels = jnp.asarray(data.train_y)

# %% [markdown]
# ## Does it lose rank?
#
# Two lines. The features are centred, so that a network whose units answer every input alike has
# nothing left; the Jacobian is that of each block's output in the input.

# %%
network = build("as it is", 0)
found = analysis.measure(network, images[:256])
print(analysis.summary(found))

# %% [markdown]
# ## Where?
#
# The same measurements by depth, for each variant. The weights keep their rank in all of them: no
# weight matrix by itself shows what the network loses.

# %%
ROWS = {
    "weight/effective_rank": "effective rank of weights",
    "features/effective_rank": "effective rank of features",
    "jacobian/effective_rank": "effective rank of the Jacobian",
    "features/cosine_similarity": "cosine similarity of inputs",
}


def by_depth(network):
    found = analysis.measure(network, images[:256], measures=list(ROWS), layers="layers.*")
    blocks = {}
    for m in found:
        # A block is one layer: the modules inside it are left out.
        kept = [
            i
            for i, name in enumerate(m.layers)
            if name.removesuffix(".linear.kernel").count(".") == 1
        ]
        kept = [i for i in kept if 1 <= int(m.layers[i].split(".")[1]) <= depth]
        blocks[f"{m.object}/{m.quantity}"] = np.asarray(m.value)[kept]
    return blocks


curves = {variant: by_depth(build(variant, 0)) for variant in VARIANTS}

figure, axes = plt.subplots(1, len(ROWS), figsize=(13, 3))
for axis, (row, title) in zip(axes, ROWS.items()):
    for variant, found in curves.items():
        axis.plot(range(1, len(found[row]) + 1), found[row], label=variant)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("block")
axes[0].legend(fontsize=7)
figure.tight_layout()

# %% [markdown]
# ## What does theory say?
#
# In wide rectified networks two inputs become alike by themselves: the correlation map of a block
# has its only fixed point at 1, at He's initialization as well, which keeps the features' size and
# not their differences. That line needs no training and no data but the inputs' own similarity.

# %%
start = float(curves["He's initialization"]["features/cosine_similarity"][0])
blocks = theory.mean_field("relu", depth - 1, wiring="plain", correlation=start)
measured = curves["He's initialization"]["features/cosine_similarity"]
print("block    measured    theory")
for block in range(0, depth, max(1, depth // 5)):
    print(f"{block + 1:5d} {measured[block]:11.3f} {float(blocks.correlation[block]):9.3f}")

# %% [markdown]
# ## What do I change?
#
# Each variant is trained at three step sizes and three seeds; the best step size counts, chosen by
# the mean of the final loss. Beside it, what was measured before the first step.


# %%
@nnx.jit
def step(network, optimizer, x, y):
    def loss(network):
        return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

    value, gradient = nnx.value_and_grad(loss)(network)
    optimizer.update(network, gradient)
    return value


def train(variant, rate, seed):
    network = build(variant, seed)
    optimizer = nnx.Optimizer(network, optax.adam(rate), wrt=nnx.Param)
    draw = np.random.default_rng(seed)
    for _ in range(steps):
        batch = draw.choice(len(images), 128, replace=False)
        step(network, optimizer, images[batch], labels[batch])
    logits = network(images)
    return float(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())


rows = []
for variant in VARIANTS:
    losses = np.array([[train(variant, rate, seed) for seed in seeds] for rate in rates])
    best = np.argmin(np.nan_to_num(losses.mean(1), nan=np.inf))
    start = curves[variant]
    rows.append(
        {
            "variant": variant,
            "weights' rank": float(start["weight/effective_rank"][-1]),
            "features' rank": float(start["features/effective_rank"][-1]),
            "Jacobian's rank": float(start["jacobian/effective_rank"][-1]),
            "step size": f"{rates[best]:g}",
            "loss": losses[best].mean(),
            "lowest": losses[best].min(),
            "highest": losses[best].max(),
        }
    )
table = pd.DataFrame(rows).set_index("variant")
print(f"A guess has a loss of {np.log(10):.2f}.")
table.round(3)

# %% [markdown]
# ## The answer
#
# Said from the table: of which object does the order at the start agree with the order of the loss?

# %%
for column in ("weights' rank", "features' rank", "Jacobian's rank"):
    order = table[column].corr(table.loss, method="spearman")
    print(f"{column}: rank correlation with the loss {order:.2f}")
lowest = table.loss.min()
for variant, loss in table.loss.sort_values().items():
    print(f"{variant}: {loss:.4f}, {loss / lowest:.0f} times the lowest loss")

# %% [markdown]
# Four variants are an example, not evidence: such questions with seeds, bounds and controls are on
# the page of [verdicts](https://github.com/jaxact/jaxact/blob/main/docs/verdicts.md).
#
# ## Keep an eye on it
#
# `analysis.follow` measures in your own loop at an interval, with what it compiled at first.

# %%
network = build("residual, pre-norm", 0)
optimizer = nnx.Optimizer(network, optax.adam(1e-3), wrt=nnx.Param)
watch = analysis.follow(
    images[:256],
    every=max(1, steps // 4),
    measures=["features/effective_rank"],
    layers=f"layers.{depth}",
)
for number in range(steps + 1):
    watch(number, network)
    step(network, optimizer, images[:128], labels[:128])
watch.table()[["step", "name", "value"]].round(2)
