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
# # Analyze a pretrained torchvision checkpoint
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxact/jaxact/blob/main/notebooks/pretrained_checkpoint.ipynb)
#
# Every weight of a checkpoint that jaxact did not make, in one table: with torchvision and internet
# access its ResNet-18 trained on ImageNet, without them random weights in the same layout.

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
import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

from jaxact import analysis, io, models, spectral

print(jax.devices())
folder = pathlib.Path(tempfile.mkdtemp())


# %%
def checkpoint():
    """The path of ResNet-18's weights, and whether they are trained."""
    if not SMALL:
        try:
            import torch
            import torchvision

            net = torchvision.models.resnet18(weights="IMAGENET1K_V1")
            torch.save(net.state_dict(), folder / "resnet18.pth")
            return folder / "resnet18.pth", True
        except Exception as error:  # no torchvision, or no network to fetch from
            print(f"no pretrained weights here ({type(error).__name__}): random ones instead")
    changes = dict(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32)) if SMALL else {}
    net = models.create("resnet18", rngs=nnx.Rngs(0), **changes)
    io.write_safetensors(folder / "resnet18.safetensors", models.to_torchvision(net))
    return folder / "resnet18.safetensors", False


path, trained = checkpoint()
path.name, trained

# %% [markdown]
# ## One table
#
# A convolution's kernel is measured unfolded, outputs by (inputs x height x width). Every number
# carries its definition, tolerance and dtype.

# %%
frame = analysis.table(analysis.measure_matrices(path))
wide = frame[frame.quantity.isin(["stable_rank", "effective_rank", "numerical_rank"])]
wide.pivot_table(index="name", columns="quantity", values="value", sort=False).round(2)

# %%
shapes = {name: matrix.shape for name, matrix in analysis.as_matrices(path).items()}
ranks = frame[frame.quantity == "effective_rank"].set_index("name").value
share = [ranks[name] / min(shape) for name, shape in shapes.items()]
expected = []
for rows, columns in shapes.values():
    noise = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    s = spectral.singular_values(jax.numpy.asarray(noise))
    expected.append(float(spectral.effective_rank(s)) / min(rows, columns))
plt.figure(figsize=(8, 3.2))
plt.plot(share, "o-", color="#0072B2", label="trained" if trained else "this checkpoint (random)")
plt.plot(expected, "s--", color="0.5", markersize=3, label="Gaussian matrix of that shape")
plt.xticks(range(len(shapes)), shapes, rotation=90, fontsize=6)
plt.ylabel("effective rank / full rank")
plt.legend()
# %% [markdown]
# ## As a network
#
# The same weights in a jaxact network, stacked and scanned: everything else can be measured too.

# %%
if trained:
    network = models.load_torchvision(models.create("resnet18", rngs=nnx.Rngs(0)), path)
    network.eval()
    x = jax.random.normal(jax.random.key(0), (4, 224, 224, 3))
    print(jax.jit(lambda net, x: net(x))(network, x).shape)
