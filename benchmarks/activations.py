"""Accuracy and speed of the activations against jax.nn and PyTorch, in one run.

    python benchmarks/activations.py [--elements 4194304] [--rounds 15] [--names gelu silu]

Accuracy: the largest error in float32, in units in the last place, against our float64, which the
tests hold to 4 of its own against 50 digits. Speed: medians over rounds of the ratio of our time
to theirs, each the best of three calls, by turns first; PyTorch runs in a process of its own.
Below 1 jaxact is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import time

BEST_OF = 3

TORCH = """
import json, sys, time, torch
import torch.nn.functional as F
torch.set_num_threads(int(sys.argv[1])); n, best_of = int(sys.argv[2]), int(sys.argv[3])
peers = dict(relu=F.relu, relu6=F.relu6, leaky_relu=F.leaky_relu, elu=F.elu, celu=F.celu,
    selu=F.selu, softplus=F.softplus, log_sigmoid=F.logsigmoid, sigmoid=torch.sigmoid,
    tanh=torch.tanh, soft_sign=F.softsign, gelu=F.gelu, silu=F.silu, mish=F.mish,
    hard_silu=F.hardswish, hard_sigmoid=F.hardsigmoid, hard_tanh=F.hardtanh, erf=torch.erf,
    arctan=torch.arctan, abs=torch.abs, hard_shrink=F.hardshrink, soft_shrink=F.softshrink,
    tanh_shrink=F.tanhshrink, sine=torch.sin, cosine=torch.cos)
torch.manual_seed(0)
arrays = {d: 3 * torch.randn(n).to(getattr(torch, d)) for d in ("float32", "bfloat16")}
for line in sys.stdin:
    name, dtype, kind = line.split()
    if name not in peers:
        print(json.dumps(None), flush=True); continue
    f, x = peers[name], arrays[dtype]
    torch.set_grad_enabled(kind == "gradient")
    if kind == "forward":
        call = lambda: f(x)
    else:
        x = x.clone().requires_grad_(); g = torch.ones_like(x)
        call = lambda: torch.autograd.grad(f(x), x, g)
    call(); times = []
    for _ in range(best_of):
        start = time.perf_counter(); call(); times.append(time.perf_counter() - start)
    print(json.dumps(min(times)), flush=True)
"""


class Torch:
    """PyTorch in its own process; without it there is nothing to compare."""

    def __init__(self, threads: int, elements: int):
        command = [sys.executable, "-c", TORCH, str(threads), str(elements), str(BEST_OF)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self, name: str, dtype: str, kind: str) -> float | None:
        if self.process.poll() is not None:
            return None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{name} {dtype} {kind}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--names", nargs="*", default=None)
    args = parser.parse_args()

    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxact import activations

    peers = {
        "relu": jax.nn.relu, "relu6": jax.nn.relu6, "leaky_relu": jax.nn.leaky_relu,
        "elu": jax.nn.elu, "celu": jax.nn.celu, "selu": jax.nn.selu,
        "softplus": jax.nn.softplus, "log_sigmoid": jax.nn.log_sigmoid,
        "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "soft_sign": jax.nn.soft_sign,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False), "silu": jax.nn.silu,
        "mish": jax.nn.mish, "hard_silu": jax.nn.hard_silu, "hard_sigmoid": jax.nn.hard_sigmoid,
        "hard_tanh": jax.nn.hard_tanh, "squareplus": jax.nn.squareplus,
        "sparse_plus": jax.nn.sparse_plus, "sparse_sigmoid": jax.nn.sparse_sigmoid,
        "erf": jax.lax.erf, "arctan": jnp.arctan, "abs": jnp.abs, "hard_shrink": None,
        "soft_shrink": None, "tanh_shrink": None, "sine": jnp.sin, "cosine": jnp.cos,
    }  # fmt: skip
    names = args.names or list(peers)

    def pullback(f):
        return lambda x, g: jax.vjp(f, x)[1](g)[0]

    def slope(f):
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    def worst(f, order: int, name: str) -> float:
        near, even = np.logspace(-6, 1.5, 20000), np.linspace(-15, 15, 60001)
        x = np.concatenate([-near, near, even]).astype(np.float32)
        g, truth = (slope(f), slope(activations.get(name))) if order else (f, activations.get(name))
        y = np.asarray(jax.jit(g)(jnp.asarray(x))).astype(np.float64)
        with jax.enable_x64(True):
            w = np.asarray(jax.jit(truth)(jnp.asarray(x, jnp.float64)))
        # Below, XLA on CPU may flush the exponential to zero.
        size = np.maximum(np.abs(w), 2e-36).astype(np.float32)
        return float(np.max(np.where(np.abs(w) > 4e-36, np.abs(y - w) / np.spacing(size), 0.0)))

    print("Largest error in float32, ulp")
    print(f"{'':16s}{'value':>9s}{'jax.nn':>11s}{'slope':>9s}{'jax.nn':>11s}")
    for name in names:
        row = [(f, k) for k in (0, 1) for f in (activations.get(name), peers[name])]
        cells = [f"{worst(f, k, name):.3g}" if f else "" for f, k in row]
        print(f"{name:16s}{cells[0]:>9s}{cells[1]:>11s}{cells[2]:>9s}{cells[3]:>11s}", flush=True)

    torch = Torch(len(os.sched_getaffinity(0)), args.elements)

    def took(f, arguments) -> float:
        times = []
        for _ in range(BEST_OF):
            start = time.perf_counter()
            jax.block_until_ready(f(*arguments))
            times.append(time.perf_counter() - start)
        return min(times)

    print("\nOur time over theirs: against jax.nn, and against PyTorch")
    kinds = [(d, k) for d in ("float32", "bfloat16") for k in ("forward", "gradient")]
    print(" " * 16 + "".join(f"{d + ' ' + k:>20s}" for d, k in kinds))
    for name in names:
        cells = []
        for dtype, kind in kinds:
            x = (3 * jax.random.normal(jax.random.key(0), (args.elements,))).astype(dtype)
            arguments = (x,) if kind == "forward" else (x, jnp.ones_like(x))
            wrap = (lambda f: f) if kind == "forward" else pullback
            ours = jax.jit(wrap(activations.get(name)))
            peer = peers[name] and jax.jit(wrap(peers[name]))
            ratios, with_torch = [], []
            for i in range(args.rounds + 1):
                if peer:
                    pair = [ours, peer] if i % 2 else [peer, ours]
                    times = {f: took(f, arguments) for f in pair}
                    ratios.append(times[ours] / times[peer])
                theirs = torch.seconds(name, dtype, kind)
                if theirs:
                    with_torch.append(took(ours, arguments) / theirs)
                if i == 0:
                    ratios.clear()
                    with_torch.clear()
            cells.append("".join(f"{np.median(r):10.2f}" if r else f"{'-':>10s}"
                                 for r in (ratios, with_torch)))  # fmt: skip
        print(f"{name:16s}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
