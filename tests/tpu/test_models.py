"""What the TPU compiler makes of the models; nothing is run."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxact import models

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
