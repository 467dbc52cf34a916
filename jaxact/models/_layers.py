"""Weight layers and norms from which blocks are made."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

NORMS: dict[str, Callable[..., nnx.Module]] = {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm}


def normal_kernel(
    key: Array, shape: tuple[int, ...], gain: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """A kernel of independent normal entries with variance gain^2 / fan_in (He et al. 2015)."""
    return jax.random.normal(key, shape) * (gain / math.sqrt(math.prod(shape[:-1])))


class Dense(nnx.Module):
    """A dense layer, ``x @ kernel + bias``."""

    def __init__(self, inputs: int, outputs: int, *, gain: float | Array, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal_kernel(rngs.params(), (inputs, outputs), gain))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        y = x @ self.kernel[...]
        return y + jnp.broadcast_to(self.bias[...], y.shape)


class Conv(nnx.Module):
    """A convolution of odd size, stride one and zero padding, NHWC.

    Written as one matrix product over shifted copies of the map, whose derivatives in every mode
    are matrix products too: inside a scan, XLA's convolution gradient is far slower on CPU.
    """

    def __init__(
        self, inputs: int, outputs: int, *, size: int = 3, gain: float | Array, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(normal_kernel(rngs.params(), (size, size, inputs, outputs), gain))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
        kernel = self.kernel[...]
        size = kernel.shape[0]
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
        shifts = [
            padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)
        ]
        y = jnp.concatenate(shifts, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
        return y + jnp.broadcast_to(self.bias[...], y.shape)


def make_norm(norm: str, features: int, rngs: nnx.Rngs) -> nnx.Module:
    """A norm over the last axis, by name."""
    return NORMS[norm](features, rngs=rngs)


def at_least_one(name: str, value: int) -> None:
    """Refuses a size below one."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a choice that is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
