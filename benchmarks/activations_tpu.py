"""Bytes that activations move and keep, compiled for TPU v5e; nothing runs on one.

    python benchmarks/activations_tpu.py [--names gelu silu]

First the bytes accessed by each function and by its gradient, over the least that there can be (x
and y; x, the cotangent and the gradient). Then the temporaries of a gradient step of an MLP with
our function and with jax.nn's, in arrays of a layer's output, a layer. Both are tables in Markdown.
"""

import argparse
import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jaxact import activations

SHAPE = (512, 1024)
DEPTH, WIDTH, BATCH = 4, 256, 512
PEERS = {name: getattr(jax.nn, name) for name in activations.names() if hasattr(jax.nn, name)}
PEERS |= {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "erf": jax.lax.erf,
    "arctan": jnp.arctan,
    "abs": jnp.abs,
    "sine": jnp.sin,
    "cosine": jnp.cos,
}


def temporaries(f: Callable[..., Any], dtype: str, chip: Any) -> float:
    """Arrays of a layer's output, a layer, that a gradient step keeps besides its ends."""

    def loss(weights, x, y):
        for w in weights[:-1]:
            x = f(x @ w)
        return jnp.mean(jnp.square((x @ weights[-1]).astype(jnp.float32) - y))

    x = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.dtype(dtype))
    y = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)
    weights = [jax.ShapeDtypeStruct((WIDTH, WIDTH), x.dtype)] * DEPTH
    step = jax.jit(jax.grad(loss), in_shardings=chip, out_shardings=chip)
    memory = step.lower(weights, x, y).compile().memory_analysis()
    assert memory is not None
    ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
    # What XLA for TPU keeps in fast memory is part of the peak alone.
    size = max(memory.temp_size_in_bytes, memory.peak_memory_in_bytes - ends)
    return size / (DEPTH - 1) / (x.size * x.dtype.itemsize)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--names", nargs="*", default=list(activations.names()))
    names = parser.parse_args().names
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    chip = SingleDeviceSharding(topology.devices[0])

    def moved(f: Callable[..., Any], dtype: str, arrays: int) -> float:
        x = jax.ShapeDtypeStruct(SHAPE, jnp.dtype(dtype))
        lowered = jax.jit(f, in_shardings=chip, out_shardings=chip).lower(*[x] * (arrays - 1))
        costs = lowered.compile().cost_analysis()
        assert costs is not None
        return costs["bytes accessed"] / (arrays * x.size * x.dtype.itemsize)

    dtypes = ("float32", "bfloat16")
    print("| function | float32 | gradient | bfloat16 | gradient |")
    print("| --- | --- | --- | --- | --- |")
    for name in names:
        f = activations.get(name)

        def gradient(x, g, f=f):
            return jax.vjp(f, x)[1](g)[0]

        cells = [moved(h, d, n) for d in dtypes for h, n in ((f, 2), (gradient, 3))]
        print(f"| {name} | {' | '.join(f'{c:.3f}' for c in cells)} |", flush=True)

    print("\n| function | CPU float32 | jax.nn | TPU float32 | jax.nn | TPU bfloat16 | jax.nn |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    kinds = (("float32", None), ("float32", chip), ("bfloat16", chip))
    for name in (n for n in names if n in PEERS):
        both = (activations.get(name), PEERS[name])
        cells = [temporaries(f, dtype, place) for dtype, place in kinds for f in both]
        print(f"| {name} | {' | '.join(f'{c:.2f}' for c in cells)} |", flush=True)


if __name__ == "__main__":
    main()
