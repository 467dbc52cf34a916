"""Bytes that an activation moves, compiled for TPU v5e: hardly more than its operands."""

import jax
import jax.numpy as jnp
import pytest

from jaxact import activations

SHAPE = (2048, 1024)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_bytes_accessed(name, dtype, compile_for_tpu):
    f = activations.get(name)

    def gradient(x, g):
        return jax.vjp(f, x)[1](g)[0]

    x = jax.ShapeDtypeStruct(SHAPE, jnp.dtype(dtype))
    one = x.size * x.dtype.itemsize
    assert compile_for_tpu(f, x).cost_analysis()["bytes accessed"] <= 1.01 * 2 * one
    assert compile_for_tpu(gradient, x, x).cost_analysis()["bytes accessed"] <= 1.01 * 3 * one


def test_mesh(tpu_mesh):
    mesh = tpu_mesh(data=2, model=2)
    sharding = jax.NamedSharding(mesh, jax.P("data", "model"))
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=sharding)
    compiled = jax.jit(activations.gelu).lower(x).compile()
    assert "all-" not in compiled.as_text()
