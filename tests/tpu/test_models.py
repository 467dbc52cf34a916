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
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxact import models, training, wiring
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


class SumOfSquares(models.BatchNorm):
    """A batch norm by E x^2 - (E x)^2, which reads x once for its statistics, and loses digits."""

    def __call__(self, x):
        wide, axes = x.astype(jnp.float32), (0, 1, 2)
        mean, square = jnp.mean(wide, axes), jnp.mean(lax.square(wide), axes)
        var = square - lax.square(mean)
        self.mean[...], self.var[...] = mean, var
        scale = lax.rsqrt(var + 1e-5) * self.scale[...]
        shape = (1, 1, 1, -1)
        y = (wide - mean.reshape(shape)) * scale.reshape(shape) + self.bias[...].reshape(shape)
        return y.astype(x.dtype)


def test_a_batch_norm_costs_the_bytes_of_a_sum_of_squares(compile_for_tpu, monkeypatch):
    """Its statistics come out of the convolution's fusion; x is read again for far means only."""

    def call(norm, x, kernel):
        return norm(models.convolve(x, kernel)), nnx.state(norm, nnx.BatchStat)

    x = jax.ShapeDtypeStruct((16, 14, 14, 256), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 256, 256), jnp.bfloat16)
    ours, plain = models.BatchNorm(256), SumOfSquares(256)
    text = compile_for_tpu(call, ours, x, kernel).as_text()
    entry = text[text.index("\nENTRY") :]
    assert " conditional(" in entry
    of_map = r"\(f32\[256\][^ ]* f32\[256\][^ ]* bf16\[16,14,14,256\][^=]*fusion\("
    assert re.search(of_map, entry)
    assert "f32[16,14,14,256]" not in entry  # an operand of the branch would be
    jax.clear_caches()  # else the same trace serves
    monkeypatch.setattr("jaxact.models._norms.lax.cond", lambda far, again, once: once())
    settled, least = (compile_for_tpu(call, norm, x, kernel) for norm in (ours, plain))
    counts = [program.cost_analysis()["bytes accessed"] for program in (settled, least)]
    assert counts[0] <= 1.002 * counts[1]


def step_of(placement):
    """The gradient of a small network with that placement, and shapes to compile it for."""
    network = models.MLPResNet(
        64, 8, width=256, depth=8, norm_placement=placement, rngs=nnx.Rngs(0)
    )

    def step(network, x):
        return jax.grad(lambda network: jnp.mean(jnp.square(network(x))))(network)

    return step, (network, jax.ShapeDtypeStruct((256, 64), jnp.float32))


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
@pytest.mark.parametrize("placement", tuple(wiring.PLACEMENTS))
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


def _products(size, stride, pixels):
    """Along an axis, pairs of a kernel's row and an image's row that meet, padding aside."""
    rows = range(0, pixels, stride)
    return sum(0 <= row + i - size // 2 < pixels for row in rows for i in range(size))


def test_a_training_step_costs_its_convolutions_and_one_all_reduce(tpu_mesh):
    """A stem and a bottleneck over four chips: flops counted by hand, gradients reduced at once.

    What is not a convolution (norms, additions, the optimizer) adds some 60 flops an element of a
    map, which is little beside 512 channels.
    """
    images, pixels, classes = 8, 64, 10
    # kernel, stride, pixels a side of the input, channels in and out
    convolutions = [(7, 2, 64, 3, 64), (1, 1, 16, 64, 512), (3, 1, 16, 512, 512)]
    convolutions += [(1, 1, 16, 512, 2048), (1, 1, 16, 64, 2048)]
    each = [2 * _products(*kernel) ** 2 * i * o for *kernel, i, o in convolutions]
    # forward, and gradients of kernel and input; that of the images is not asked for
    by_hand = images * (3 * (sum(each) + 2 * 2048 * classes) - each[0])

    net = jax.eval_shape(
        lambda: models.ResNet(
            depths=(1,),
            widths=(512,),
            strides=(1,),
            stem_width=64,
            num_classes=classes,
            dtype=jnp.bfloat16,
            rngs=nnx.Rngs(0),
        )
    )
    structure, params, stats = nnx.split(net, nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(params, stats, state, x, y):
        def loss(params):
            out = models.apply(nnx.merge(structure, params, stats), x, train=True)
            logits = out.logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), out.stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        value, stats, gradient = lax.pmean((value, stats, gradient), "data")
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), stats, state, value

    mesh = tpu_mesh(data=4)
    specs = (P(), P(), P(), P("data"), P("data"))
    sharded = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    x = jax.ShapeDtypeStruct((4 * images, pixels, pixels, 3), jnp.bfloat16)
    y = jax.ShapeDtypeStruct((4 * images,), jnp.int32)
    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(sharded, in_shardings=shardings).lower(params, stats, state, x, y).compile()
    # The norms' own arithmetic is 2.2 percent, a second reading that is not taken included.
    assert compiled.cost_analysis()["flops"] == pytest.approx(by_hand, rel=0.03)
    assert set(kinds(compiled)) == {"all-reduce"}
    assert kinds(compiled)["all-reduce"] <= 3


WIRED = ("pre", "post", "deepnorm", "norm_scaling", "residual_dual")


def decoder(**options):
    """A small causal decoder's training step in bfloat16, and shapes to compile it for."""
    network = nnx.eval_shape(
        lambda: models.Transformer(
            inputs=512, width=256, heads=2, depth=8, activation="swiglu", norm="rms",
            dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **options,
        )
    )  # fmt: skip

    def step(network, x):
        def loss(network):
            logits = network(x).astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, x)
            return jnp.mean(losses)

        return jax.grad(loss)(network)

    return step, network, jax.ShapeDtypeStruct((4, 128), jnp.int32)


@pytest.mark.parametrize("placement", WIRED)
def test_training_step_of_a_transformer(placement, compile_for_tpu):
    """Flops are those of its products: three times the forward ones, of a layer counted once."""
    with jax.numpy_dtype_promotion("standard"):  # JAX's attention promotes
        program = compile_for_tpu(*decoder(norm_placement=placement))
    assert "f64[" not in program.as_text()
    assert "callback" not in program.as_text()
    layer = 256 * (4 * 256 + 3 * 688) + 2 * 128 * 256  # a token's weights, keys and values
    by_hand = 3 * 2 * 4 * 128 * (layer + 256 * 512)
    assert by_hand < program.cost_analysis()["flops"] < 1.15 * by_hand


def test_a_transformer_split_by_data_and_model(tpu_mesh):
    """Parameters take a quarter of a chip's memory each; heads and hidden units stay apart."""
    mesh = tpu_mesh(data=2, model=2)
    step, network, x = decoder()
    there = models.shardings(network, mesh)
    tokens = NamedSharding(mesh, P("data"))
    split = jax.jit(step, in_shardings=(there, tokens), out_shardings=there)
    whole = NamedSharding(mesh, P())
    copied = jax.jit(step, in_shardings=(whole, tokens), out_shardings=whole)
    with jax.numpy_dtype_promotion("standard"):
        programs = [f.lower(network, x).compile() for f in (split, copied)]
    sizes = [program.memory_analysis().argument_size_in_bytes for program in programs]
    assert sizes[0] < 0.27 * sizes[1]
    flops = [program.cost_analysis()["flops"] for program in programs]
    assert flops[0] < 0.6 * flops[1]
    assert "all-to-all" not in kinds(programs[0])
