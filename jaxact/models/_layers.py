"""Weight layers, what may be done to their weights, and pooling."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

from jaxact._checks import one_of
from jaxact.models._convolution import convolve

Weights = Callable[..., Any]


def normal_kernel(
    key: Array,
    shape: tuple[int, ...],
    gain: float | Float[Array, ""],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "..."]:
    """A kernel of independent normal entries with variance gain^2 / fan_in (He et al. 2015)."""
    # Drawn in a row, which gives the same numbers: XLA compiles the draw of a (3, 3, 16, 16) kernel
    # on CPU for thirty times as long.
    kernel = jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
    return kernel * jnp.asarray(gain / math.sqrt(math.prod(shape[:-1])), dtype)


class StandardizedWeights(nnx.Module):
    r"""Weight standardization, (W - mean) / (deviation + epsilon) over the inputs of each output.

    Reference:
      Qiao et al. 2019, "Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization", eq. 6.
    """

    def __init__(self, shape: tuple[int, ...], *, epsilon: float = 1e-5, **_: Any):
        self.epsilon = epsilon

    def __call__(self, kernel: Float[Array, "*size i o"]) -> Float[Array, "*size i o"]:
        centred = kernel - jnp.mean(kernel, _inputs(kernel), keepdims=True)
        var = jnp.mean(lax.square(centred), _inputs(kernel), keepdims=True)
        return centred / (_safe_sqrt(var) + self.epsilon)


SCALED_EPSILON = 1e-4


class ScaledStandardizedWeights(nnx.Module):
    r"""Scaled weight standardization, g gamma (W - mean) / sqrt(max(fan_in variance, epsilon)).

    gamma is the activation's gain, in a `BlockConfig` 1 / sqrt(Var f(Z)): 1.714 for relu. g is
    learned, one for each output, and starts at one.

    Reference:
      Brock et al. 2021, "Characterizing signal propagation to close the performance gap in
      unnormalized ResNets", eq. 3.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        gain: float | Array = 1.0,
        epsilon: float = SCALED_EPSILON,
        param_dtype: DTypeLike = jnp.float32,
        **_: Any,
    ):
        self.epsilon = epsilon
        self.gamma = Constant(jnp.asarray(gain, param_dtype))
        self.scale = nnx.Param(jnp.ones(shape[-1], param_dtype))

    def __call__(self, kernel: Float[Array, "*size i o"]) -> Float[Array, "*size i o"]:
        fan_in = math.prod(kernel.shape[:-1])
        centred = kernel - jnp.mean(kernel, _inputs(kernel), keepdims=True)
        var = jnp.mean(lax.square(centred), _inputs(kernel), keepdims=True)
        inverse = lax.rsqrt(jnp.maximum(fan_in * var, jnp.asarray(self.epsilon, var.dtype)))
        scale = self.scale[...] * lax.stop_gradient(self.gamma[...])
        return centred * inverse * scale.astype(kernel.dtype).reshape(inverse.shape)


class SpectralWeights(nnx.Module):
    r"""Spectral normalization, c W / s_1 (W), by power iteration on the unfolded kernel.

    The left singular vector u is an `nnx.BatchStat`. In training each call makes ``iterations``
    steps from it and keeps the result, and gradients flow through s_1 = u' W v with u and v held
    fixed. The norm is that of the (inputs * positions, outputs) matrix, not of the convolution.

    Args:
      shape: of the kernel, outputs last.
      coefficient: c, the norm that results.
      only_above: whether kernels with a norm below c are left as they are.
      iterations: power steps a training call.
      warmup: power steps at initialization.
      rngs: PRNG keys of the first u.

    Reference:
      Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", algorithm 1;
      Behrmann et al. 2019, "Invertible Residual Networks", eq. 8, for c.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        kernel: Array | None = None,
        coefficient: float = 1.0,
        only_above: bool = False,
        iterations: int = 1,
        warmup: int = 15,
        epsilon: float = 1e-12,
        **_: Any,
    ):
        self.coefficient = coefficient
        self.only_above = only_above
        self.iterations = iterations
        self.epsilon = epsilon
        self.use_running_average = False
        u = _unit(jax.random.normal(rngs.params(), (shape[-1],)), epsilon)
        if kernel is not None:
            u = self._iterate(kernel.reshape(-1, shape[-1]).astype(u.dtype), u, warmup)[1]
        self.u = nnx.BatchStat(u)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """For `nnx.view`: whether u is held fixed."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _iterate(self, matrix: Array, u: Array, steps: int) -> tuple[Array, Array]:
        v = _unit(matrix @ u, self.epsilon)
        for _ in range(steps):
            u = _unit(v @ matrix, self.epsilon)
            v = _unit(matrix @ u, self.epsilon)
        return v, u

    def __call__(self, kernel: Float[Array, "*size i o"]) -> Float[Array, "*size i o"]:
        matrix = kernel.reshape(-1, kernel.shape[-1])
        matrix = matrix.astype(wide_dtype(matrix.dtype))
        steps = 0 if self.use_running_average else self.iterations
        u = self.u[...].astype(matrix.dtype)
        v, u = lax.stop_gradient(self._iterate(lax.stop_gradient(matrix), u, steps))
        if steps:
            self.u[...] = u.astype(self.u[...].dtype)
        norm = jnp.vdot(v, matrix @ u)
        factor = self.coefficient / jnp.maximum(norm, jnp.asarray(self.epsilon, norm.dtype))
        if self.only_above:
            factor = jnp.minimum(factor, jnp.ones((), norm.dtype))
        return kernel * factor.astype(kernel.dtype)


class Constant(nnx.Variable):
    """A number of a layer or block that no optimizer trains."""


WEIGHTS: dict[str, Weights] = {
    "standardized": StandardizedWeights,
    "scaled_standardized": ScaledStandardizedWeights,
    "spectral": SpectralWeights,
}


def get_weights(weights: str | Weights) -> Weights | None:
    """What is done to kernels: ``make(shape, *, kernel, gain, param_dtype, rngs) -> module``."""
    if isinstance(weights, str):
        one_of("weights", weights, ("raw", *WEIGHTS))
        return WEIGHTS.get(weights)
    if callable(weights):
        return weights
    raise TypeError(f"weights must be a name or a callable make(shape, ...); got {weights!r}")


class Weighted(nnx.Module):
    """A kernel, what is done to it before use, and a bias."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        gain: float | Array,
        rngs: nnx.Rngs,
        bias: bool = True,
        weights: Weights | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kernel = normal_kernel(rngs.params(), shape, gain, param_dtype)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(shape[-1], param_dtype)) if bias else None
        if weights is not None:
            weights = weights(shape, kernel=kernel, gain=gain, param_dtype=param_dtype, rngs=rngs)
        self.weights = weights

    def _kernel(self, x: Array) -> Array:
        kernel = self.kernel[...]
        if self.weights is not None:
            kernel = self.weights(kernel)
        return kernel.astype(x.dtype)

    def _biased(self, y: Array) -> Array:
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(y.dtype), y.shape)
        return checkpoint_name(y, "weighted")


class Dense(Weighted):
    """A dense layer, ``x @ kernel + bias``."""

    def __init__(self, inputs: int, outputs: int, **options: Any):
        super().__init__((inputs, outputs), **options)

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        return self._biased(x @ self._kernel(x))


class Conv(Weighted):
    """A convolution, NHWC, padded on every side by half its odd size, as PyTorch's layers are."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        groups: int = 1,
        **options: Any,
    ):
        self.stride = stride
        self.groups = groups
        super().__init__((size, size, inputs // groups, outputs), **options)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        strides = (self.stride, self.stride)
        return self._biased(convolve(x, self._kernel(x), strides=strides, groups=self.groups))


def max_pool(x: Float[Array, "n h w c"], /) -> Float[Array, "n h2 w2 c"]:
    """The largest of 3 x 3 positions, stride 2, padded by one on every side."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    floor = np.asarray(-np.inf, x.dtype)  # a traced one would not be differentiable
    return lax.reduce_window(x, floor, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def average_pool(x: Float[Array, "n h w c"], size: int, /) -> Float[Array, "n h2 w2 c"]:
    """Means of ``size`` x ``size`` positions; at an odd edge, of those that are there."""
    window = (1, size, size, 1)
    height, width = x.shape[1:3]
    padding = ((0, 0), (0, -height % size), (0, -width % size), (0, 0))
    zero = np.zeros((), x.dtype)
    total = lax.reduce_window(x, zero, lax.add, window, window, padding)
    if height % size == 0 and width % size == 0:
        return total * jnp.asarray(1 / size**2, x.dtype)
    ones = jnp.ones((1, height, width, 1), x.dtype)
    count = lax.reduce_window(ones, zero, lax.add, window, window, padding)
    return total / jnp.broadcast_to(count, total.shape)


def average_pool3(x: Float[Array, "n h w c"], stride: int, /) -> Float[Array, "n h2 w2 c"]:
    """Means of 3 x 3 positions, padded by zeros that count, as PyTorch's AvgPool2d has it."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    zero = np.zeros((), x.dtype)
    total = lax.reduce_window(x, zero, lax.add, (1, 3, 3, 1), (1, stride, stride, 1), padding)
    return total * jnp.asarray(1 / 9, x.dtype)


def wide_dtype(dtype: DTypeLike) -> DTypeLike:
    """The dtype in which statistics are computed: at least float32."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def _inputs(kernel: Array) -> tuple[int, ...]:
    return tuple(range(kernel.ndim - 1))


def _unit(x: Array, epsilon: float) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), jnp.asarray(epsilon, x.dtype))


def _safe_sqrt(x: Array) -> Array:
    """The square root, with gradient zero where x is."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
