"""What every function of a spectrum shares: precision, scale and order."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact


def widen(a: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """Half precision becomes float32; every other dtype stays as it is."""
    return a.astype(jnp.float32) if a.dtype in (jnp.float16, jnp.bfloat16) else a


def checked(s: Float[Array, "*batch k"], least: int = 1) -> Float[Array, "*batch k"]:
    """A spectrum of at least one or two values, in float32 or wider."""
    if s.ndim == 0 or s.shape[-1] < least:
        what = {1: "one singular value", 2: "two singular values"}[least]
        raise ValueError(f"s must have at least {what} on its last axis; got shape {s.shape}")
    return widen(s)


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
