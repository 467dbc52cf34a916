"""What the TPU compiler makes of the models; nothing is run."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from jaxact import models, training
from jaxact.training import _mesh, _train

pytestmark = pytest.mark.slow


def test_convolution_costs_what_laxs_does(compile_for_tpu):
    """Value and gradients of a strided convolution: the same flops, bytes and temporaries."""

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def step(form, x, kernel):
        def loss(x, kernel):
            return jnp.sum(jnp.square(form(x, kernel).astype(jnp.float32)))

        return jax.value_and_grad(loss, argnums=(0, 1))(x, kernel)

    x = jax.ShapeDtypeStruct((8, 16, 16, 128), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.bfloat16)
    ours, laxs = (
        compile_for_tpu(functools.partial(step, form), x, kernel)
        for form in (functools.partial(models.convolve, strides=(2, 2)), plain)
    )
    for key in ("flops", "bytes accessed"):
        assert ours.cost_analysis()[key] == laxs.cost_analysis()[key]
    found, expected = (c.memory_analysis().temp_size_in_bytes for c in (ours, laxs))
    assert found == expected


def step_of(placement):
    """The gradient of a small network with that placement, and shapes to compile it for."""
    norm = "none" if placement == "none" else "layer"
    network = models.MLPResNet(
        64, 8, width=256, depth=8, norm_placement=placement, norm=norm, rngs=nnx.Rngs(0)
    )

    def step(network, x):
        return jax.grad(lambda network: jnp.mean(jnp.square(network(x))))(network)

    return step, (network, jax.ShapeDtypeStruct((256, 64), jnp.float32))


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
@pytest.mark.parametrize("placement", [p for p in models.NORM_PLACEMENTS if p != "peri"])
def test_training_step_of_every_placement(placement, chip, compile_for_tpu, v6e_chip):
    on = {} if chip == "v5e" else dict.fromkeys(("in_shardings", "out_shardings"), v6e_chip)
    step, arguments = step_of(placement)
    program = compile_for_tpu(step, *arguments, **on)
    text = program.as_text()
    assert "f64[" not in text
    assert "callback" not in text
    assert program.memory_analysis().temp_size_in_bytes < 2**20
    # of the loop over blocks the compiler counts one pass; the images have no gradient
    products = 2 * 256 * (3 * 256 * 256 + 2 * 64 * 256 + 3 * 256 * 8)
    assert products < program.cost_analysis()["flops"] < 1.15 * products


@pytest.fixture(scope="module")
def step_on_four_chips(tpu_mesh):
    """``step_on_four_chips(shard_state)``: one compiled step of training, and its parameters."""
    mesh = tpu_mesh(data=4)
    network = training.functional(models.MLPResNet(64, 8, width=256, depth=8, rngs=nnx.Rngs(0)))
    recipe = training.Recipe(network.apply, optax.adam(1e-3), compute_dtype=jnp.bfloat16)
    x, y = np.zeros((512, 64), np.float32), np.zeros(512, np.int32)
    feed = training.ArrayFeed(x, y, batch_size=256, key=jax.random.key(0))

    def compiled(shard_state):
        state = jax.eval_shape(
            lambda: training.init(recipe, network.params, network.stats, key=jax.random.key(0))
        )
        layout = _mesh.shardings(state, mesh, shard_state=shard_state)
        state = jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), state, layout
        )
        whole = _mesh.along(mesh, None)
        batches = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            feed.fetch(0, 1, 1),
        )
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        with jax.numpy_dtype_promotion("standard"):
            advance = _train._advance(recipe, feed, 1, mesh, state)
            return advance.lower(state, batches, count).compile()

    return compiled


def kinds(program):
    """How often each collective stands in a program."""
    found = re.findall(r" (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", program.as_text())
    return collections.Counter(found)


def test_data_parallel_step_only_adds_up_gradients(step_on_four_chips):
    program = step_on_four_chips(shard_state=False)
    assert set(kinds(program)) == {"all-reduce"}
    assert kinds(program)["all-reduce"] <= 4


def test_split_state_is_gathered_in_half_precision_and_takes_a_quarter(step_on_four_chips):
    whole, split = (step_on_four_chips(shard_state=s) for s in (False, True))
    assert "all-to-all" not in kinds(split)
    gathered = [line for line in split.as_text().splitlines() if " all-gather(" in line]
    assert any("= bf16[8,256,256]" in line for line in gathered)
    assert not any("= f32[8,256,256]" in line for line in gathered)
    sizes = [p.memory_analysis().argument_size_in_bytes for p in (whole, split)]
    assert sizes[1] < 0.35 * sizes[0]
