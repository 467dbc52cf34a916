"""Speed of `jaxact.models` on CPU, as ratios of times measured in turns in one run.

* convolutions: a scanned stack of 8 residual blocks of two convolutions, value and gradient,
  beside the same stack unrolled with `lax`'s own convolution;
* resnet20: training step (SGD with momentum) and inference of CIFAR's ResNet-20, beside the same
  network of plain Flax modules and, where PyTorch is found, a PyTorch one in channels-last, which
  runs in its own process;
* depth: tracing and compiling a training step of pre-activation networks of 20 and 1,001 layers.

    python benchmarks/models.py [--what convolutions resnet20 depth] [--torch-python python]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from jaxact import models

BATCH = 32


def rounds(programs, count):
    """Median seconds of each program; one call of each a round."""
    times = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(count):
        for name, program in programs.items():
            times[name].append(program())
    return {name: statistics.median(each) for name, each in times.items()}


def timed(f, *arguments):
    def run():
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        return time.perf_counter() - start

    return run


def show(title, medians, base):
    print(title)
    for name, seconds in medians.items():
        print(f"  {name:40s} {1e3 * seconds:9.1f} ms   {seconds / medians[base]:6.2f} of {base}")
    sys.stdout.flush()


def convolutions(count):
    def lax_form(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def stack(form, scan):
        def block(x, kernels):
            return x + form(jax.nn.relu(form(x, kernels[0])), kernels[1])

        def loss(kernels, x):
            if scan:
                x, _ = lax.scan(lambda x, k: (block(x, k), None), x, kernels)
            else:
                for each in kernels:
                    x = block(x, each)
            return jnp.mean(jnp.square(x))

        return jax.jit(jax.value_and_grad(loss))

    for channels, size in ((16, 32), (64, 8)):
        shape = (8, 2, 3, 3, channels, channels)
        kernels = 0.05 * jax.random.normal(jax.random.key(0), shape)
        x = jax.random.normal(jax.random.key(1), (BATCH, size, size, channels))
        programs = {
            "lax, unrolled": timed(stack(lax_form, False), kernels, x),
            "jaxact, scanned": timed(stack(models.convolve, True), kernels, x),
            "jaxact, unrolled": timed(stack(models.convolve, False), kernels, x),
        }
        title = f"8 blocks, {channels} channels of {size}x{size}, batch {BATCH}, value and gradient"
        show(title, rounds(programs, count), "lax, unrolled")


class FlaxBlock(nnx.Module):
    def __init__(self, inputs, outputs, stride, rngs):
        options: dict[str, Any] = dict(padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), stride, **options)
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), **options)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.stride = stride
        self.missing = outputs - inputs

    def __call__(self, x):
        h = nnx.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        x = x[:, :: self.stride, :: self.stride]
        return nnx.relu(h + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.missing))))


class FlaxResNet20(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 16, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        blocks, inputs = [], 16
        for width in (16, 32, 64):
            for number in range(3):
                stride = 2 if width > 16 and number == 0 else 1
                blocks.append(FlaxBlock(inputs, width, stride, rngs))
                inputs = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, (1, 2)))


TORCH = """
import json, sys, time
import torch
from torch import nn
torch.set_num_threads(2)
torch.manual_seed(0)
class Block(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.c1 = nn.Conv2d(i, o, 3, s, 1, bias=False); self.n1 = nn.BatchNorm2d(o)
        self.c2 = nn.Conv2d(o, o, 3, 1, 1, bias=False); self.n2 = nn.BatchNorm2d(o)
        self.s, self.missing = s, o - i
    def forward(self, x):
        h = self.n2(self.c2(torch.relu(self.n1(self.c1(x)))))
        x = nn.functional.pad(x[:, :, :: self.s, :: self.s], (0, 0, 0, 0, 0, self.missing))
        return torch.relu(h + x)
layers, i = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
for w in (16, 32, 64):
    for n in range(3):
        layers.append(Block(i, w, 2 if w > 16 and n == 0 else 1)); i = w
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
net = net.to(memory_format=torch.channels_last)
x = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
y = torch.arange(BATCH) % 10
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
def train():
    net.train(); optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward(); optimizer.step()
def infer():
    net.eval()
    with torch.inference_mode(): net(x)
for line in sys.stdin:
    f = {"train": train, "infer": infer}[line.strip()]
    start = time.perf_counter(); f(); print(time.perf_counter() - start, flush=True)
"""


class Torch:
    """A PyTorch process that times itself when asked."""

    def __init__(self, python):
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE")
        self.process = subprocess.Popen(
            [python, "-c", TORCH.replace("BATCH", str(BATCH))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def time(self, what):
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the PyTorch process has no pipes")
        print(what, file=stdin, flush=True)
        return float(stdout.readline())


def resnet20(count, torch_python):
    optimizer = optax.sgd(0.1, momentum=0.9)
    x = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))
    y = jnp.arange(BATCH) % 10

    def programs(net, call):
        structure, params, stats = nnx.split(net, nnx.Param, ...)

        def step(params, stats, state, x, y):
            def loss(params):
                logits, new = call(nnx.merge(structure, params, stats, copy=True), x, True)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
                return jnp.mean(losses), new

            gradient, new = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), new, state

        def infer(params, stats, x):
            return call(nnx.merge(structure, params, stats, copy=True), x, False)[0]

        state = optimizer.init(params)
        train = timed(jax.jit(step), params, stats, state, x, y)
        return {"train": train, "infer": timed(jax.jit(infer), params, stats, x)}

    def flax_call(net, x, train):
        net.train() if train else net.eval()
        logits = net(x)
        return logits, nnx.state(net, nnx.Not(nnx.Param))

    def our_call(net, x, train):
        out = models.apply(net, x, train=train)
        return out.logits, out.stats

    ours = models.ResNet(
        depths=(3, 3, 3), widths=(16, 32, 64), strides=(1, 2, 2), block="basic", stem="cifar",
        shortcut="A", num_classes=10, rngs=nnx.Rngs(0),
    )  # fmt: skip
    all_of = {
        "Flax modules": programs(FlaxResNet20(nnx.Rngs(0)), flax_call),
        "jaxact": programs(ours, our_call),
        "jaxact, scan=False": programs(models.unroll(ours), our_call),
    }
    torch = Torch(torch_python) if torch_python else None
    for what in ("train", "infer"):
        turns = {name: each[what] for name, each in all_of.items()}
        if torch:
            turns["PyTorch, channels-last"] = lambda what=what: torch.time(what)
        medians = rounds(turns, count)
        title = {"train": "training step", "infer": "inference"}[what]
        show(f"ResNet-20, batch {BATCH}, {title}", medians, "Flax modules")
        if torch:
            ratio = medians["jaxact"] / medians["PyTorch, channels-last"]
            print(f"  jaxact over PyTorch: {ratio:.2f}")


def depth(count):
    """Each compilation in a process of its own, so that none finds another's cache."""
    names = ("bottleneck 20", "bottleneck 1001", "basic 20")
    times = {name: [] for name in names}
    for _ in range(count):
        for name, each in times.items():
            run = subprocess.run(
                [sys.executable, __file__, "--compile", *name.split()],
                capture_output=True,
                text=True,
                check=True,
            )
            each.append(json.loads(run.stdout))
    medians = {name: np.median(each, axis=0) for name, each in times.items()}
    print("Tracing and compiling a training step of pre-activation networks, by block and layers")
    for name, (trace, compile_, processor) in medians.items():
        print(
            f"  {name:16s} trace {trace:.2f} s, compile {compile_:.2f} s, {processor:.2f} s of CPU"
        )
    deep = medians["bottleneck 1001"]
    for name in ("bottleneck 20", "basic 20"):
        other = medians[name]
        wall, processor = sum(deep[:2]) / sum(other[:2]), deep[2] / other[2]
        print(f"  1001 over {name}: {wall:.2f} of time, {processor:.2f} of CPU time")


def compile_layers(block, layers):
    """Prints seconds to trace, seconds to compile, and seconds of CPU."""
    blocks = (layers - 2) // (9 if block == "bottleneck" else 6)
    net = jax.eval_shape(
        lambda: models.ResNet(
            depths=(blocks,) * 3,
            widths=(16, 32, 64),
            strides=(1, 2, 2),
            block=block,
            stem="cifar",
            norm_placement="pre",
            num_classes=10,
            rngs=nnx.Rngs(0),
        )
    )
    structure, params, stats = nnx.split(net, nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(params, stats, state, x, y):
        def loss(params):
            out = models.apply(nnx.merge(structure, params, stats), x, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, y)
            return jnp.mean(losses), out.stats

        gradient, stats_ = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), stats_, state

    x = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    y = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    state = jax.eval_shape(optimizer.init, params)
    start, processor = time.perf_counter(), time.process_time()
    lowered = jax.jit(step).lower(params, stats, state, x, y)
    middle = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    print(json.dumps([middle - start, end - middle, time.process_time() - processor]))


def main():
    everything = ("convolutions", "resnet20", "depth")
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", nargs="*", default=everything, choices=everything)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torch-python", help="a Python that has PyTorch")
    parser.add_argument("--compile", nargs=2, help="of one network, for a process of its own")
    options = parser.parse_args()
    if options.compile:
        compile_layers(options.compile[0], int(options.compile[1]))
        return
    print(f"jax {jax.__version__}, {os.cpu_count()} CPU cores, medians of {options.rounds} rounds")
    if "convolutions" in options.what:
        convolutions(options.rounds)
    if "resnet20" in options.what:
        resnet20(options.rounds, options.torch_python)
    if "depth" in options.what:
        depth(3)


if __name__ == "__main__":
    main()
