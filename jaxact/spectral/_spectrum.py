"""What every function of a spectrum shares: precision, scale and order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, Int


def widen(a: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """Half precision becomes float32; every other dtype stays as it is."""
    return a.astype(jnp.float32) if a.dtype in (jnp.float16, jnp.bfloat16) else a


def exponents(size: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """The least e with size < 2^e for normal numbers; about -126, or -1022, for zero."""
    info = jnp.finfo(size.dtype)
    bits = lax.bitcast_convert_type(size, jnp.int32 if info.bits == 32 else jnp.int64)
    return (bits >> info.nmant).astype(jnp.int32) + info.minexp


def powers_of_two(exponent: Int[Array, "*shape"], dtype) -> Float[Array, "*shape"]:
    """2^exponent, exactly; 0 below the normal numbers, and the greatest power above them."""
    info = jnp.finfo(dtype)
    bits = jnp.int32 if info.bits == 32 else jnp.int64
    clipped = jnp.clip(exponent, info.minexp, info.maxexp - 1).astype(bits)
    power = lax.bitcast_convert_type((clipped - info.minexp + 1) << info.nmant, dtype)
    return jnp.where(exponent < info.minexp, 0, power)


def scaled(a: Inexact[Array, "*shape"], exponent: Int[Array, "..."]) -> Inexact[Array, "*shape"]:
    """A 2^exponent, also where that power is not a normal number."""
    real = jnp.finfo(a.dtype).dtype
    half = exponent // 2
    first, second = powers_of_two(half, real), powers_of_two(exponent - half, real)
    return a * first.astype(a.dtype) * second.astype(a.dtype)


def alike(tree: Any, others: Any) -> Any:
    """The same arrays, but batched, sharded and varying over devices as some others are.

    A constant is none of that, and neither gathers on a mesh of explicit axes under `jax.vmap` nor
    loops inside `jax.shard_map` take both kinds. The zero that is added is gone once compiled.
    """
    broken = [jnp.any(leaf != leaf) for leaf in jax.tree.leaves(others)]
    zero = jnp.where(functools.reduce(jnp.logical_or, broken), 0, 0)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)


def checked(s: Float[Array, "*batch k"], least: int = 1) -> Float[Array, "*batch k"]:
    """A spectrum of at least one or two values, in float32 or wider."""
    if not jnp.issubdtype(s.dtype, jnp.floating):
        raise ValueError(f"s must be real floating-point numbers; got dtype {s.dtype}")
    if s.ndim == 0 or s.shape[-1] < least:
        what = {1: "one singular value", 2: "two singular values"}[least]
        raise ValueError(f"s must have at least {what} on its last axis; got shape {s.shape}")
    return widen(s)


def sound(s: Float[Array, "*batch k"]) -> Bool[Array, "*batch"]:
    """Whether a spectrum, or its logarithms, holds neither NaN nor plus infinity."""
    return jnp.all(s < jnp.inf, axis=-1)


def relative(s: Float[Array, "*batch k"], log: bool) -> Float[Array, "*batch k"]:
    """Singular values over the largest; all zero for a zero matrix."""
    s = checked(s)
    largest = jnp.max(s, axis=-1, keepdims=True)
    if log:
        zero = jnp.isneginf(s)
        shift = jnp.where(jnp.isneginf(largest), 0, largest)
        return jnp.where(zero, 0, jnp.exp(jnp.where(zero, 0, s) - shift))
    # Powers of two keep the reciprocal of the largest within the normal numbers.
    shift = jnp.where(largest > 1, 2.0**-20, 2.0**20).astype(s.dtype)
    return s * shift / jnp.where(largest > 0, largest * shift, 1)


def logarithms(s: Float[Array, "*batch k"], log: bool) -> Float[Array, "*batch k"]:
    """Natural logarithms, -inf with zero gradient for an exact zero."""
    s = checked(s)
    if log:
        return s
    return jnp.where(s > 0, jnp.log(jnp.where(s > 0, s, 1)), -jnp.inf)


def descending(s: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Sorted along the last axis, largest first."""
    return jnp.flip(jnp.sort(s, axis=-1), axis=-1)
