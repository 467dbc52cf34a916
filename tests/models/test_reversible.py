"""RevNet: the gradient of the plain form, an exact inverse, and memory that is flat in depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import models

OPTIONS = {"widths": (8, 12), "depths": (2, 3)}


def loss_and_gradient(net, x):
    graph, params, stats = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def run(params, stats, x):
        def loss(params, x):
            whole = nnx.merge(graph, params, stats, copy=True)
            y = whole(x)
            return jnp.sum(jnp.sin(y)), nnx.split(whole, nnx.Param, ...)[2]

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    return run(params, stats, x)


@pytest.mark.parametrize("norm", [pytest.param("batch", marks=pytest.mark.slow), "layer"])
def test_gradient_is_that_of_the_plain_form(norm):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    made = [
        models.RevNet(**OPTIONS, norm=norm, reconstruct=reconstruct, rngs=nnx.Rngs(0))
        for reconstruct in (True, False)
    ]
    (value, stats), gradient = loss_and_gradient(made[0], x)
    (expected, stats_too), expected_gradient = loss_and_gradient(made[1], x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    pairs = zip(jax.tree.leaves(stats), jax.tree.leaves(stats_too), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-6)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
    for a, b in pairs:
        assert np.max(np.abs(a - b)) < 1e-4 * np.max(np.abs(b))
    if norm == "batch":
        before = jax.tree.leaves(nnx.state(made[0], nnx.BatchStat))
        moved = [bool(jnp.any(a != b)) for a, b in zip(before, jax.tree.leaves(stats), strict=True)]
        assert all(moved)


@pytest.mark.parametrize("norm", ["batch", "rms"])
def test_inverse(norm):
    stage = models.ReversibleStage(8, 6, norm=norm, activation="silu", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 8))
    np.testing.assert_allclose(stage.inverse(stage(x)), x, atol=1e-4)


def memory(depth, reconstruct):
    stage = models.ReversibleStage(
        8, depth, norm="layer", reconstruct=reconstruct, rngs=nnx.Rngs(0)
    )
    graph, params = nnx.split(stage)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(nnx.merge(graph, p)(x) ** 2)))
    x = jax.ShapeDtypeStruct((32, 16, 16, 8), jnp.float32)
    return gradient.lower(params, x).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_flat_in_depth():
    activation = 4 * 32 * 16 * 16 * 8
    flat = memory(32, True) - memory(8, True)
    kept = memory(32, False) - memory(8, False)
    assert flat < activation  # for 24 more blocks
    assert kept > 24 * activation


def test_forward_mode_is_refused():
    stage = models.ReversibleStage(4, 2, norm="layer", rngs=nnx.Rngs(0))
    x = jnp.ones((1, 4, 4, 4))
    with pytest.raises(TypeError, match=r"forward-mode autodiff \(jvp\)"):
        jax.jvp(stage, (x,), (x,))
    plain = models.ReversibleStage(4, 2, norm="layer", reconstruct=False, rngs=nnx.Rngs(0))
    assert jax.jvp(plain, (x,), (x,))[1].shape == x.shape


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"widths": (8, 9)}, "widths must be even and at least 2; got 9"),
        ({"widths": (8, 4)}, r"widths must not decrease; got \(8, 4\)"),
        ({"depths": (2,)}, r"depths must be one for each of widths=\(8, 12\); got \(2,\)"),
        ({"norm": "what"}, "norm must be one of batch, .*; got 'what'"),
    ],
)
def test_bad_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        models.RevNet(**OPTIONS | choices, rngs=nnx.Rngs(0))
