"""A small network for the training tests, written out by hand."""

import types

import jax
import jax.numpy as jnp
import pytest


def _apply(params, stats, x, /, *, train, key):
    """A layer, a batch norm with explicit statistics, a layer."""
    h = x.reshape(len(x), -1) @ params["in"]["kernel"] + params["in"]["bias"][None]
    mean, var = (jnp.mean(h, axis=0), jnp.var(h, axis=0)) if train else stats
    after = stats
    if train:
        new = (mean.astype(jnp.float32), var.astype(jnp.float32))
        after = tuple(0.9 * old + 0.1 * n for old, n in zip(stats, new, strict=True))
    mean, var = (a.astype(h.dtype) for a in (mean, var))
    h = jax.nn.relu((h - mean[None]) * jax.lax.rsqrt(var + jnp.asarray(1e-3, h.dtype))[None])
    return h @ params["out"]["kernel"] + params["out"]["bias"][None], after


def _params(inputs=4, width=8, outputs=3):
    keys = jax.random.split(jax.random.key(7), 2)

    def dense(key, i, o):
        return {"kernel": jax.random.normal(key, (i, o)) * i**-0.5, "bias": jnp.zeros(o)}

    return {"in": dense(keys[0], inputs, width), "out": dense(keys[1], width, outputs)}


@pytest.fixture
def network():
    """Apply, parameters and statistics of a network of 4 inputs and 3 classes."""
    return types.SimpleNamespace(apply=_apply, params=_params(), stats=(jnp.zeros(8), jnp.ones(8)))


@pytest.fixture
def data():
    """Inputs (50, 4) and labels that depend on them."""
    x = jax.random.normal(jax.random.key(3), (50, 4))
    return x, jnp.argmax(x[:, :3], axis=-1).astype(jnp.int32)
