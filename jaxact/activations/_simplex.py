"""Maps onto the simplex: dense softmax and its sparse relatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import as_float, narrow, widen

Out = Float[Array, "..."]
Axis = int | tuple[int, ...] | None


def softmax(x: Any, /, axis: Axis = -1, where: Any = None) -> Out:
    """Softmax, exp(x_i) / sum_j exp(x_j).

    Args:
        x: Real floating array of at least one dimension.
        axis: Along which the result sums to 1, one or several.
        where: Mask that broadcasts against x: what is left out counts for nothing and gives 0.

    Returns:
        Of the shape and dtype of x.
    """
    x = as_float(x)
    return narrow(jax.nn.softmax(widen(x), axis=axis, where=where), x)


def log_softmax(x: Any, /, axis: Axis = -1, where: Any = None) -> Out:
    """Logarithm of softmax, x_i - log sum_j exp(x_j).

    Args:
        x: Real floating array of at least one dimension.
        axis: Along which the exponentials sum to 1, one or several.
        where: Mask that broadcasts against x: what is left out counts for nothing and gives -inf.

    Returns:
        Of the shape and dtype of x.
    """
    x = as_float(x)
    return narrow(jax.nn.log_softmax(widen(x), axis=axis, where=where), x)


def _counts(z: Array) -> Array:
    """1, 2, ... along the last axis, of the rank of z."""
    n = z.shape[-1]
    return jnp.arange(1, n + 1, dtype=z.dtype).reshape((1,) * (z.ndim - 1) + (n,))


@jax.custom_jvp
def _sparsemax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    z = jnp.sort(x, axis=-1, descending=True)
    k = _counts(z)
    total = jnp.cumsum(z, axis=-1)
    size = jnp.sum((1.0 + k * z > total).astype(x.dtype), -1, keepdims=True)
    last = jnp.maximum(size.astype(jnp.int32) - 1, 0)
    tau = (jnp.take_along_axis(total, last, -1) - 1.0) / size
    return jnp.maximum(x - tau, 0.0)


@_sparsemax.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    p = _sparsemax(x)
    support = (p > 0).astype(x.dtype)
    mean = (support * t).sum(-1, keepdims=True) / support.sum(-1, keepdims=True)
    return p, support * (t - mean)


@jax.custom_jvp
def _entmax15(x: Array) -> Array:
    x = (x - x.max(-1, keepdims=True)) / 2.0
    z = jnp.sort(x, axis=-1, descending=True)
    k = _counts(z)
    mean = jnp.cumsum(z, axis=-1) / k
    square = jnp.cumsum(z * z, axis=-1) / k
    delta = (1.0 - k * (square - mean * mean)) / k
    tau = mean - jnp.sqrt(jnp.maximum(delta, 0.0))
    size = jnp.sum((tau <= z).astype(jnp.int32), -1, keepdims=True)
    tau = jnp.take_along_axis(tau, jnp.maximum(size - 1, 0), -1)
    root = jnp.maximum(x - tau, 0.0)
    return root * root


@_entmax15.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    p = _entmax15(x)
    g = jnp.sqrt(jnp.where(p > 0, p, 1.0)) * (p > 0).astype(x.dtype)
    mean = (g * t).sum(-1, keepdims=True) / g.sum(-1, keepdims=True)
    return p, g * (t - mean)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _along(function, x: Array, axis: int) -> Array:
    if x.size == 0:
        return x
    return narrow(jnp.moveaxis(function(jnp.moveaxis(widen(x), axis, -1)), -1, axis), x)


def sparsemax(x: Any, /, *, axis: int = -1) -> Out:
    """Sparsemax, the Euclidean projection of x onto the simplex.

    Args:
        x: Real floating array of at least one dimension.
        axis: Along which the result sums to 1.

    Returns:
        Of the shape and dtype of x. Where the support changes the derivative is that of the
        smaller support.

    Reference:
        Martins and Astudillo 2016, "From Softmax to Sparsemax", algorithm 1.
    """
    return _along(_sparsemax, as_float(x), axis)


def entmax15(x: Any, /, *, axis: int = -1) -> Out:
    """The 1.5-entmax, max(x/2 - tau, 0)^2 with tau such that it sums to 1.

    Args:
        x: Real floating array of at least one dimension.
        axis: Along which the result sums to 1.

    Returns:
        Of the shape and dtype of x.

    Reference:
        Peters et al. 2019, "Sparse Sequence-to-Sequence Models", algorithm 2.
    """
    return _along(_entmax15, as_float(x), axis)
