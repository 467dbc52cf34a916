"""Bytes that activations move, compiled for TPU v5e: hardly more than their operands."""

import jax
import jax.numpy as jnp
import pytest

from jaxact import activations

SHAPE = (512, 1024)
NAMES = ("relu", "leaky_relu", "gelu", "silu", "mish", "softplus", "tanh", "elu")


def _bytes(compiled):
    return compiled.cost_analysis()["bytes accessed"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_accessed(name, dtype, compile_for_tpu):
    f, x = activations.get(name), jax.ShapeDtypeStruct(SHAPE, jnp.dtype(dtype))
    one = x.size * x.dtype.itemsize

    def gradient(x, g):
        return jax.vjp(f, x)[1](g)[0]

    assert _bytes(compile_for_tpu(f, x)) <= 1.01 * 2 * one
    assert _bytes(compile_for_tpu(gradient, x, x)) <= 1.01 * 3 * one


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
