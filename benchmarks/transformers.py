"""Speed of `models.Transformer` on CPU, as ratios of times measured in turns in one run.

* step: a training step (AdamW) of a causal decoder, beside the same network of plain Flax modules,
  its layers in a Python loop, and where PyTorch is found an `nn.TransformerEncoder` with a causal
  mask, which runs in its own process;
* depth: tracing and compiling the step at 12 and 192 layers, beside the plain network.

    python benchmarks/transformers.py [--what step depth] [--torch-python python]
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxact import models

SIZES = dict(vocabulary=256, width=256, depth=6, heads=4, hidden=1024, batch=8, length=128)


class Layer(nnx.Module):
    """A pre-norm layer as Flax's users write it."""

    def __init__(self, width, heads, hidden, rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x):
        n, t, width = x.shape
        parts = jnp.split(self.qkv(self.norms[0](x)), 3, axis=-1)
        q, k, v = (a.reshape(n, t, self.heads, -1) for a in parts)
        h = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(n, t, width)
        x = x + self.out(h)
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x)), approximate=True))


class Plain(nnx.Module):
    """The same network of plain Flax modules."""

    def __init__(self, s, rngs):
        self.embed = nnx.Embed(s["vocabulary"], s["width"], rngs=rngs)
        self.positions = nnx.Embed(s["length"], s["width"], rngs=rngs)
        self.layers = nnx.List(
            [Layer(s["width"], s["heads"], s["hidden"], rngs) for _ in range(s["depth"])]
        )
        self.norm = nnx.LayerNorm(s["width"], rngs=rngs)
        self.head = nnx.Linear(s["width"], s["vocabulary"], use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x) + self.positions(jnp.arange(x.shape[1]))[None]
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h))


def ours(s, **changes):
    """The same network of jaxact."""
    return models.Transformer(
        inputs=s["vocabulary"], width=s["width"], depth=s["depth"], heads=s["heads"],
        hidden=s["hidden"], positions="learned", length=s["length"], activation="gelu_tanh",
        bias=True, rngs=nnx.Rngs(0), **changes,
    )  # fmt: skip


def stepper(network):
    """A jitted training step, and its state."""
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    optimizer = optax.adamw(1e-3)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x):
        params, moments = state

        def loss(params):
            logits = nnx.merge(graph, params, rest)(x[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, x[:, 1:])
            return jnp.mean(losses)

        gradient = jax.grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    return step, (params, optimizer.init(params))


def tokens(s):
    """A batch."""
    return np.random.default_rng(0).integers(0, s["vocabulary"], (s["batch"], s["length"] + 1))


def torch_times(s, count):
    """Seconds of PyTorch's steps; runs in PyTorch's process."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        s["width"], s["heads"], s["hidden"], dropout=0.0, activation="gelu", batch_first=True,
        norm_first=True,
    )  # fmt: skip
    body = torch.nn.TransformerEncoder(layer, s["depth"], enable_nested_tensor=False)
    embed = torch.nn.Embedding(s["vocabulary"], s["width"])
    where = torch.nn.Embedding(s["length"], s["width"])
    norm = torch.nn.LayerNorm(s["width"])
    head = torch.nn.Linear(s["width"], s["vocabulary"], bias=False)
    modules = torch.nn.ModuleList([body, embed, where, norm, head])
    optimizer = torch.optim.AdamW(modules.parameters(), 1e-3)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(s["length"])
    x = torch.tensor(tokens(s))

    def step():
        start = time.perf_counter()
        h = embed(x[:, :-1]) + where.weight[None, : s["length"]]
        logits = head(norm(body(h, mask=mask, is_causal=True)))
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, s["vocabulary"]), x[:, 1:].reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    return [step() for _ in range(count + 2)][2:]


def show(title, medians, base):
    """A table of medians and their ratios."""
    print(title)
    for name, seconds in medians.items():
        print(f"  {name:28s} {1e3 * seconds:9.1f} ms   {seconds / medians[base]:6.2f} of {base}")
    sys.stdout.flush()


def step(rounds, torch_python):
    """Training steps in turns."""
    s = SIZES
    x = jnp.asarray(tokens(s), jnp.int32)
    makers = {
        "jaxact": lambda: ours(s),
        "jaxact, remat": lambda: ours(s, remat="full"),
        "plain Flax": lambda: Plain(s, nnx.Rngs(0)),
    }
    programs = {name: stepper(make()) for name, make in makers.items()}
    times = {name: [] for name in programs}
    theirs = []
    for number in range(rounds + 1):
        for name, (advance, state) in programs.items():
            start = time.perf_counter()
            programs[name] = advance, jax.block_until_ready(advance(state, x))
            if number:
                times[name].append(time.perf_counter() - start)
        if torch_python and number and number % 5 == 0:
            command = [torch_python, __file__, "--inside-torch"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            theirs += json.loads(done.stdout)
    medians = {name: statistics.median(each) for name, each in times.items()}
    if theirs:
        medians["PyTorch"] = statistics.median(theirs)
    words = ", ".join(f"{name} {size}" for name, size in s.items())
    show(f"training step ({words})", medians, "plain Flax")


def depth(*_):
    """Tracing and compiling."""
    x = jnp.asarray(tokens(SIZES | dict(batch=1, length=16)), jnp.int32)
    for layers in (12, 192):
        s = SIZES | dict(depth=layers, width=64, hidden=256, length=16)
        for name, make in (("jaxact", ours), ("plain Flax", lambda s: Plain(s, nnx.Rngs(0)))):
            if name == "plain Flax" and layers > 12:
                continue
            one, state = stepper(make(s))
            start = time.perf_counter()
            one.lower(state, x).compile()
            seconds = time.perf_counter() - start
            print(f"  {name:12s} {layers:4d} layers: {seconds:6.2f} s to trace and compile")


def main():
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description="Speed of transformers.")
    parser.add_argument("--what", nargs="+", default=["step", "depth"], choices=["step", "depth"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch")
    parser.add_argument("--inside-torch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside_torch:
        print(json.dumps(torch_times(SIZES, 5)))
        return
    for name in options.what:
        {"step": step, "depth": depth}[name](options.rounds, options.torch_python)


if __name__ == "__main__":
    main()
