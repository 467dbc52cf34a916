"""ResNet-50's training step compiled for TPU v5e, without one: jaxact beside Flax's example.

Prints the compiler's flops, bytes accessed, temporaries and all-reduces, and the time to trace and
compile, in bfloat16 at 224 pixels, with SGD and momentum; on one chip with a batch of 128, and
data-parallel over four with 128 each: as one program whose batch is sharded (batch norms see the
whole batch), and inside `shard_map` (each chip's norms see its own share). Beside them the flops of
the convolutions, counted by hand. Nothing is run on a TPU. The compiler counts the body of a loop
once, so flops and bytes are those of the program with the blocks unrolled.

    python benchmarks/models_tpu.py [--what flax jaxact ...] [--batch 128] [--devices 1 4]
                                    [--depths 3 4 6 3] [--pixels 224]
"""

import argparse
import functools
import os
import re
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxact import models

OPTIMIZER = optax.sgd(0.1, momentum=0.9, nesterov=True)


class LinenBlock(nn.Module):
    """Flax's ImageNet example: a bottleneck, v1.5."""

    filters: int
    strides: tuple[int, int]
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        residual = x
        y = nn.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(
            self.conv(self.filters * 4, (1, 1))(y)
        )
        if residual.shape != y.shape:
            residual = self.norm()(self.conv(self.filters * 4, (1, 1), self.strides)(residual))
        return nn.relu(residual + y)


class LinenResNet(nn.Module):
    """Flax's ImageNet example: ResNet-50."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x, train: bool):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5,
            dtype=self.dtype,
        )  # fmt: skip
        x = conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)
        x = nn.max_pool(nn.relu(norm()(x)), (3, 3), strides=(2, 2), padding="SAME")
        for stage, depth in enumerate(self.depths):
            for number in range(depth):
                strides = (2, 2) if stage and not number else (1, 1)
                x = LinenBlock(64 * 2**stage, strides, conv, norm)(x)
        return nn.Dense(1000, dtype=self.dtype)(jnp.mean(x, (1, 2)))


def cross_entropy(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return jnp.mean(losses)


def flax_program(depths):
    net = LinenResNet(depths)
    image = jnp.ones((1, 224, 224, 3))

    def apply(params, stats, x):
        logits, new = net.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return logits, new["batch_stats"]

    variables = jax.eval_shape(lambda: net.init({"params": jax.random.key(0)}, image, train=False))
    return apply, variables["params"], variables["batch_stats"]


def jaxact_program(depths, **options):
    stages = len(depths)
    made = jax.eval_shape(
        lambda: models.ResNet(
            depths=depths,
            widths=(64, 128, 256, 512)[:stages],
            strides=(1, 2, 2, 2)[:stages],
            zero_init=True,
            dtype=jnp.bfloat16,
            rngs=nnx.Rngs(0),
            **options,
        )
    )
    structure, params, stats = nnx.split(made, nnx.Param, ...)

    def apply(params, stats, x):
        out = models.apply(nnx.merge(structure, params, stats), x, train=True)
        return out.logits, out.stats

    return apply, params, stats


PROGRAMS = {
    "flax": flax_program,
    "jaxact": jaxact_program,
    "jaxact, remat=conv": functools.partial(jaxact_program, remat="conv"),
    "jaxact, scan=False": functools.partial(jaxact_program, scan=False),
    "jaxact, scan=False, remat=conv": functools.partial(jaxact_program, scan=False, remat="conv"),
}


def convolution_flops(depths, batch, pixels):
    """Of a training step of a bottleneck network, v1.5: two for each product of two numbers.

    Forward, gradient of the kernel, gradient of the input, the last not of the first layer.
    Products with padding count as well.
    """
    side = -(-pixels // 2)
    stem = 7 * 7 * 3 * 64 * side**2
    side, inputs, products = -(-side // 2), 64, 0
    for stage, depth in enumerate(depths):
        width, outputs = 64 * 2**stage, 256 * 2**stage
        for number in range(depth):
            products += inputs * width * side**2
            if number == 0:
                side = -(-side // 2) if stage else side
                products += inputs * outputs * side**2
            products += (9 * width * width + width * outputs) * side**2
            inputs = outputs
    return 2 * batch * (2 * stem + 3 * (products + inputs * 1000))


def step(apply, reduce, params, stats, opt_state, x, y):
    def loss(params):
        logits, new = apply(params, stats, x)
        return cross_entropy(logits, y), new

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    value, stats, gradient = reduce((value, stats, gradient))
    updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), stats, opt_state, value


def compile_step(program, batch: int, devices: int, manual: bool = False, pixels: int = 224):
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips[:devices]), ("data",))
    whole, split = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
    start = time.perf_counter()
    apply, params, stats = program()
    opt_state = jax.eval_shape(OPTIMIZER.init, params)
    x = jax.ShapeDtypeStruct((batch * devices, pixels, pixels, 3), jnp.bfloat16)
    y = jax.ShapeDtypeStruct((batch * devices,), jnp.int32)
    f = functools.partial(step, apply, lambda tree: tree)
    if manual:
        f = jax.shard_map(
            functools.partial(step, apply, lambda tree: lax.pmean(tree, "data")),
            mesh=mesh,
            in_specs=(P(), P(), P(), P("data"), P("data")),
            out_specs=P(),
            check_vma=False,
        )
    f = jax.jit(
        f,
        in_shardings=(whole, whole, whole, split, split),
        out_shardings=whole,
        donate_argnums=(0, 1, 2),
    )
    lowered = f.lower(params, stats, opt_state, x, y)
    traced = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    return compiled, traced, time.perf_counter() - start, time.process_time() - cpu


def report(name, compiled, traced, took, cpu):
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text = compiled.as_text()
    reduces = len(re.findall(r" all-reduce(?:-start)?\(", text))
    print(
        f"{name:48s} flops {cost['flops']:.3e}  bytes {cost['bytes accessed']:.3e}  "
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB  trace {traced:.1f} s  "
        f"compile {took:.1f} s ({cpu:.1f} s of CPU)  all-reduces {reduces}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", nargs="*", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--devices", type=int, nargs="*", default=[1])
    parser.add_argument("--depths", type=int, nargs="*", default=(3, 4, 6, 3))
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--dump", help="folder for the compiled programs")
    options = parser.parse_args()
    depths = tuple(options.depths)
    count = convolution_flops(depths, options.batch, options.pixels)
    print(f"jax {jax.__version__}; by hand: flops of the convolutions and the head {count:.3e}")
    for devices in options.devices:
        for name in options.what:
            for manual in (False, True) if devices > 1 else (False,):
                program = functools.partial(PROGRAMS[name], depths)
                compiled, *times = compile_step(
                    program, options.batch, devices, manual, options.pixels
                )
                label = f"{name} x {devices}" + (", shard_map" if manual else "")
                report(label, compiled, *times)
                if options.dump:
                    with open(f"{options.dump}/{label}.hlo", "w", encoding="utf-8") as file:
                        file.write(compiled.as_text() or "")


if __name__ == "__main__":
    main()
