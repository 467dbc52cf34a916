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
# # Where a transformer's norm stands, and what its tokens keep
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/transformers_tpu.ipynb)
#
# A small causal model learns the Python standard library's own source, byte by byte, under five
# placements of the norm. How alike do its tokens become with depth, before and after training?

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
from flax import nnx

from jaxact import analysis, models

WIRINGS = ("post", "pre", "sandwich", "norm_scaling", "deepnorm")
DEPTH, WIDTH, LENGTH, STEPS = (4, 16, 32, 3) if SMALL else (16, 64, 64, 300)
print(jax.devices())

# %% [markdown]
# ## Data: what every machine with Python has

# %%
files = sorted(pathlib.Path(os.__file__).parent.glob("*.py"))
text = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
held, text = text[-(2**16) :], text[: -(2**16)]
print(f"{len(files)} files, {len(text) / 1e6:.1f} MB")


@jax.jit
def batch(key, text):
    starts = jax.random.randint(key, (32, 1), 0, len(text) - LENGTH - 1)
    return text[starts + jnp.arange(LENGTH + 1)[None]]


# %% [markdown]
# ## Five networks that differ in one word
#
# A layer is two sublayers, each wired alike. The equation is printed from the network.


# %%
def loss(network, x):
    logits = network(x[:, :-1]).astype(jnp.float32)
    targets = x[:, 1:].astype(jnp.int32)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.0, 1e-3, max(STEPS // 5, 1)))
)


@jax.jit
def step(network, state, key, text):
    value, gradient = jax.value_and_grad(loss)(network, batch(key, text))
    updates, state = optimizer.update(gradient, state, network)
    return optax.apply_updates(network, updates), state, value


measures = ["tokens/token_cosine", "tokens/effective_rank"]
x = batch(jax.random.key(1), jnp.asarray(held))[:8, :-1]
found, losses = {}, {}
for word in WIRINGS:
    network = models.Transformer(
        width=WIDTH,
        depth=DEPTH,
        heads=4,
        norm_placement=word,
        activation="swiglu",
        dtype=jnp.bfloat16,
        rngs=nnx.Rngs(0),
    )
    print(network.equation)
    layers = "blocks.*"
    before = analysis.measure(network, x, measures=measures, layers=layers)
    state, data = optimizer.init(network), jnp.asarray(text)
    for key in jax.random.split(jax.random.key(2), STEPS):
        network, state, value = step(network, state, key, data)
    losses[word] = float(loss(network, x))
    found[word] = before, analysis.measure(network, x, measures=measures, layers=layers)

# %% [markdown]
# ## Tokens by depth
#
# Dashed: at initialization; solid: after training. A cosine of one means that all tokens of a text
# have become the same vector.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for number, word in enumerate(WIRINGS):
    for line, both in zip(("--", "-"), found[word], strict=True):
        for ax, m in zip(axes, both, strict=True):
            label = f"{word}: loss {losses[word]:.2f}" if line == "-" else None
            ax.plot(np.arange(1, DEPTH + 1), m.value, line, color=f"C{number}", label=label)
            ax.set_ylabel(m.quantity.replace("_", " "))
            ax.set_xlabel("layer")
axes[1].legend()
plt.show()

# %% [markdown]
# Losses are in nats a byte on source that was held out; a guess has 5.5. More steps, another
# `activation`, `norm="rms"`, `skip="scaled"` or `positions="none"`: each is one word above.
