"""Bytes that activations move and keep, compiled for TPU v5e: hardly more than their operands."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxact import activations

SHAPE = (512, 1024)
NAMES = ("relu", "leaky_relu", "gelu", "silu", "mish", "softplus", "tanh", "elu")


def _bytes(compiled):
    return compiled.cost_analysis()["bytes accessed"]


def _gradient_bytes(f, x, compile_for_tpu):
    return _bytes(compile_for_tpu(lambda x, g: jax.vjp(f, x)[1](g)[0], x, x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_accessed(name, dtype, compile_for_tpu):
    f, x = activations.get(name), jax.ShapeDtypeStruct(SHAPE, jnp.dtype(dtype))
    one = x.size * x.dtype.itemsize
    assert _bytes(compile_for_tpu(f, x)) <= 1.01 * 2 * one
    assert _gradient_bytes(f, x, compile_for_tpu) <= 1.01 * 3 * one


@pytest.mark.parametrize("name", [n for n in activations.names() if n not in NAMES])
def test_bytes_accessed_by_the_gradient(name, compile_for_tpu):
    """The rest, where most can be lost: with two inputs, and a conversion at every end."""
    x = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16)
    assert _gradient_bytes(activations.get(name), x, compile_for_tpu) <= 1.01 * 3 * x.size * 2


PEERS = {name: getattr(jax.nn, name) for name in activations.names() if hasattr(jax.nn, name)}
PEERS |= {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "erf": jax.lax.erf,
    "arctan": jnp.arctan,
    "abs": jnp.abs,
    "sine": jnp.sin,
    "cosine": jnp.cos,
}
# On CPU the slopes 1 - y^2 and y (1 - y) need y alone, and have no digit right in the tails.
KEPT = {("cpu", "tanh"): 1, ("cpu", "sigmoid"): 1}
DEPTH, WIDTH, BATCH = 3, 128, 256


def _temporaries(f, dtype, compile_):
    """Arrays of a layer's size, a layer, that a gradient step of an MLP keeps besides its ends."""

    def loss(weights, x, y):
        for w in weights[:-1]:
            x = f(x @ w)
        return jnp.mean(jnp.square((x @ weights[-1]).astype(jnp.float32) - y))

    x = jax.ShapeDtypeStruct((BATCH, WIDTH), dtype)
    weights = [jax.ShapeDtypeStruct((WIDTH, WIDTH), dtype)] * DEPTH
    compiled = compile_(jax.grad(loss), weights, x, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    memory = compiled.memory_analysis()
    ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
    # What XLA for TPU keeps in fast memory is part of the peak alone.
    size = max(memory.temp_size_in_bytes, memory.peak_memory_in_bytes - ends)
    return size / (DEPTH - 1) / (x.size * x.dtype.itemsize)


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", jnp.float32), ("tpu", jnp.bfloat16)])
@pytest.mark.parametrize("name", PEERS)
def test_a_whole_step_keeps_no_more_than_with_jax_nn(name, platform, dtype, request):
    def for_cpu(f, *arguments):
        return jax.jit(f).lower(*arguments).compile()

    compile_ = for_cpu if platform == "cpu" else request.getfixturevalue("compile_for_tpu")
    ours = _temporaries(activations.get(name), dtype, compile_)
    theirs = _temporaries(PEERS[name], dtype, compile_)
    assert ours <= theirs + KEPT.get((platform, name), 0)


def test_two_arrays_of_a_gated_unit_move_no_more_than_they_must(compile_for_tpu):
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    one = x.size * 4

    def two(value, gate, g):
        return jax.vjp(activations.swiglu, value, gate)[1](g)

    def packed(x, g):
        return jax.vjp(activations.swiglu, x)[1](g)[0]

    assert _bytes(compile_for_tpu(two, x, x, x)) <= 1.01 * 5 * one
    both = jax.ShapeDtypeStruct((SHAPE[0], 2 * SHAPE[1]), jnp.float32)
    assert _bytes(compile_for_tpu(packed, both, x)) > 1.3 * 5 * one


def test_sharded_activations_need_no_communication(tpu_mesh):
    sharding = jax.NamedSharding(tpu_mesh(data=2, model=2), jax.P("data", "model"))
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=sharding)
    assert "all-" not in jax.jit(activations.gelu).lower(x).compile().as_text()
