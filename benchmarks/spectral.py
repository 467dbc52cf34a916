"""Spectra: cost against the naive product, dense matrices, and weightwatcher.

Ratios of medians over interleaved rounds, on whatever machine runs it:

    python benchmarks/spectral.py products wide convolutions jacobian
    python benchmarks/spectral.py weightwatcher --other-python PYTHON   # with weightwatcher, torch
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# LAPACK's threads wait by spinning: on shared cores two are many times slower than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np

from jaxact import models, spectral


def interleaved(calls: dict[str, Callable], rounds: int = 7) -> dict[str, float]:
    """Median seconds of processor time of each call, warmed up: other work on it counts less."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call())
            times[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def report(title: str, times: dict[str, float], base: str) -> None:
    print(title)
    for name, seconds in times.items():
        print(f"  {name:36s} {1e3 * seconds:10.2f} ms   {seconds / times[base]:8.3f} x {base}")


def products() -> None:
    """A thousand Gaussian layers of width 64."""
    layers = jax.random.normal(jax.random.key(0), (1000, 64, 64)) / 8

    @jax.jit
    def naive(layers):
        def step(product, w):
            return jnp.matmul(w, product, precision="highest"), None

        product = jax.lax.scan(step, jnp.eye(64), layers)[0]
        return jnp.linalg.svd(product, compute_uv=False)

    calls = {
        "naive": naive,
        "graded": jax.jit(spectral.product_spectrum),
        "graded, refined": jax.jit(lambda w: spectral.product_spectrum(w, refined=True)),
        "graded, top 8": jax.jit(lambda w: spectral.product_spectrum(w, top=8, sweeps=1)),
    }
    for name, call in calls.items():
        start = time.process_time()
        call.lower(layers).compile()
        print(f"  compile {name:28s} {time.process_time() - start:.2f} s")
    times = interleaved({name: lambda f=f: f(layers) for name, f in calls.items()})
    report("product of 1,000 layers of 64 x 64, float32", times, "naive")


def wide() -> None:
    """512 x 4608, an unfolded 3 x 3 kernel of ResNet-18's last stage."""
    a = jax.random.normal(jax.random.key(0), (512, 4608))
    host = np.asarray(a)
    svd = jax.jit(lambda a: jnp.linalg.svd(a, compute_uv=False))
    ours = jax.jit(spectral.singular_values)
    calls = {
        "jnp.linalg.svd": lambda: svd(a),
        "singular_values": lambda: ours(a),
        "numpy": lambda: np.linalg.svd(host, compute_uv=False),
    }
    report("singular values of 512 x 4608, float32", interleaved(calls, 3), "jnp.linalg.svd")


def convolutions() -> None:
    """3 x 3, 16 -> 16 channels on 16 x 16."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 16, 16)) / 12
    circular = jax.jit(lambda k: spectral.circular(k, (16, 16)))

    @jax.jit
    def dense(kernel):
        def wrapped(x):
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="wrap")
            return spectral.operator(kernel, (18, 18), padding="VALID")(x)

        return jnp.linalg.svd(
            spectral.dense_matrix(wrapped, jnp.zeros((16, 16, 16))), compute_uv=False
        )

    error = float(jnp.max(jnp.abs(circular(kernel)[:4096] - dense(kernel))))
    print(f"  largest difference {error:.1e}")
    calls = {"dense": lambda: dense(kernel), "circular": lambda: circular(kernel)}
    report("circular convolution, 4096 x 4096", interleaved(calls, 1), "dense")


def jacobian() -> None:
    """A convolutional ResNet from 3,072 to 16,384 dimensions, before training."""
    keys = jax.random.split(jax.random.key(0), 20)
    stem = jax.random.normal(keys[0], (3, 3, 3, 16)) * math.sqrt(2 / 27)
    blocks = [jax.random.normal(key, (3, 3, 16, 16)) * math.sqrt(2 / 144) for key in keys[1:9]]

    def network(x):
        def conv(h, kernel):
            return models.convolve(h[None], kernel)[0]

        h = conv(x, stem)
        for first, second in zip(blocks[::2], blocks[1::2], strict=True):
            h = h + 0.5 * conv(jax.nn.relu(conv(jax.nn.relu(h), first)), second)
        return h

    x = jax.random.normal(keys[-1], (32, 32, 3))

    @jax.jit
    def dense(x):
        matrix = spectral.dense_matrix(jax.linearize(network, x)[1], x)
        return jnp.linalg.svd(jnp.matmul(matrix.T, matrix, precision="highest"), compute_uv=False)

    @jax.jit
    def estimate(x, key):
        linear = jax.linearize(network, x)[1]
        return spectral.estimate_stable_rank(linear, x, key=key, probes=32, iterations=24)

    @jax.jit
    def top(x, key):
        linear = jax.linearize(network, x)[1]
        return spectral.top_singular_values(linear, x, k=10, key=key, iterations=80)

    key = jax.random.key(1)
    memory = {}
    for name, f, arguments in (
        ("dense", dense, (x,)),
        ("estimate", estimate, (x, key)),
        ("top 10", top, (x, key)),
    ):
        analysis = f.lower(*arguments).compile().memory_analysis()
        memory[name] = "?" if analysis is None else round(analysis.temp_size_in_bytes / 2**20, 1)
    start = time.process_time()
    squares = jax.block_until_ready(dense(x))
    seconds = time.process_time() - start
    exact = float(jnp.sum(squares) / squares[0])
    found = estimate(x, key)
    ten = top(x, key)
    error = jnp.max(jnp.abs(ten.values / jnp.sqrt(squares[:10]) - 1))
    print(f"  stable rank {exact:.4f}, estimated {found.value:.4f} +- {found.standard_error:.4f}")
    print(f"  top 10: largest relative error {error:.1e}, residuals {ten.residuals}")
    print(f"  temporary memory in MiB: {memory}")
    times = {
        "dense": seconds,
        **interleaved({"estimate": lambda: estimate(x, key), "top 10": lambda: top(x, key)}, 3),
    }
    report("Jacobian 3,072 -> 16,384", times, "dense")


def resnet18() -> list[tuple[int, ...]]:
    """Shapes (outputs, inputs, window, window) of the 3 x 3 kernels of ResNet-18."""
    shapes, before = [], 64
    for channels in (64, 128, 256, 512):
        shapes += [(channels, before, 3, 3)] + [(channels, channels, 3, 3)] * 3
        before = channels
    return shapes


WEIGHTWATCHER = """
import json, sys, time
import numpy as np, torch, weightwatcher
torch.set_num_threads(1)
data = np.load(sys.argv[1])
layers = []
for index in range(len(data.files)):
    w = data[f"arr_{index}"]
    layer = torch.nn.Conv2d(w.shape[1], w.shape[0], 3, bias=False)
    layer.weight.data = torch.from_numpy(w)
    layers.append(layer)
watcher = weightwatcher.WeightWatcher(model=torch.nn.Sequential(*layers))
times = []
for _ in range(3):
    start = time.process_time()
    spectra = [watcher.get_ESD(layer=i + 1) for i in range(len(layers))]
    times.append(time.process_time() - start)
np.savez(sys.argv[2], *[np.sort(s)[::-1] for s in spectra])
print(json.dumps({"seconds": float(np.median(times)), "version": weightwatcher.__version__}))
"""


def weightwatcher(other_python: str) -> None:
    """The same kernels' slices: for every position of the window a matrix, its spectrum pooled."""
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal(shape).astype(np.float32) / 50 for shape in resnet18()]
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.shape, []).append(kernel)

    @jax.jit
    def spectra(groups):
        slices = [jnp.moveaxis(group, (-2, -1), (1, 2)) for group in groups]
        return [spectral.singular_values(group) for group in slices]

    stacked = [jnp.stack(group) for group in groups.values()]
    seconds = interleaved({"jaxact": lambda: spectra(stacked)}, 3)["jaxact"]
    by_shape = {
        shape: iter(np.asarray(found))
        for shape, found in zip(groups, spectra(stacked), strict=True)
    }
    ours = [np.sort(next(by_shape[kernel.shape]).ravel() ** 2)[::-1] for kernel in kernels]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "kernels.npz", Path(folder) / "spectra.npz"
        np.savez(given, *kernels)
        output = subprocess.run(
            [other_python, "-c", WEIGHTWATCHER, str(given), str(found)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        other = json.loads(output.splitlines()[-1])
        loaded = np.load(found)
        theirs = [loaded[f"arr_{index}"] for index in range(len(kernels))]
        scale = [values.max() / mine.max() for values, mine in zip(theirs, ours, strict=True)]
        errors = [
            np.max(np.abs(np.sqrt(values / c) - np.sqrt(mine)) / np.sqrt(mine.max()))
            for values, mine, c in zip(theirs, ours, scale, strict=True)
        ]
    print(f"  weightwatcher {other['version']}: scale {min(scale):.4f} to {max(scale):.4f}")
    print(f"  largest difference of singular values over s_1: {max(errors):.1e}")
    report(
        "3 x 3 kernels of ResNet-18, all slices",
        {"weightwatcher": other["seconds"], "jaxact, float32": seconds},
        "weightwatcher",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {f.__name__: f for f in (products, wide, convolutions, jacobian)}
    parser.add_argument("parts", nargs="*", choices=[*parts, "weightwatcher"], default=list(parts))
    parser.add_argument("--other-python", default=sys.executable)
    arguments = parser.parse_args()
    for part in arguments.parts:
        print(f"-- {part}")
        weightwatcher(arguments.other_python) if part == "weightwatcher" else parts[part]()


if __name__ == "__main__":
    main()
