"""Speed of the activations against jax.nn: one run, interleaved, medians of ratios.

    python benchmarks/activations.py [--elements 4194304] [--rounds 15]

A ratio below 1 means that jaxact is faster. PyTorch is not measured here.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxact import activations

PEERS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "soft_sign": jax.nn.soft_sign,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "hard_silu": jax.nn.hard_silu,
    "squareplus": jax.nn.squareplus,
}


def ratio(ours, theirs, arguments, rounds: int) -> float:
    """The median over rounds of our time by theirs, each pair taken one after the other."""
    ours, theirs = jax.jit(ours), jax.jit(theirs)
    jax.block_until_ready((ours(*arguments), theirs(*arguments)))
    ratios = []
    for _ in range(rounds):
        times = []
        for f in (ours, theirs):
            start = time.perf_counter()
            jax.block_until_ready(f(*arguments))
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios))


def pullback(f):
    return lambda x, g: jax.vjp(f, x)[1](g)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"{'':12s}" + "".join(f"{d + ' ' + k:>20s}" for d in ("float32", "bfloat16")
                               for k in ("forward", "gradient")))  # fmt: skip
    for name, peer in PEERS.items():
        cells = []
        for dtype in ("float32", "bfloat16"):
            x = (3 * jax.random.normal(jax.random.key(0), (args.elements,))).astype(dtype)
            ours = activations.get(name)
            cells.append(ratio(ours, peer, (x,), args.rounds))
            cells.append(ratio(pullback(ours), pullback(peer), (x, x), args.rounds))
        print(f"{name:12s}" + "".join(f"{c:20.2f}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
