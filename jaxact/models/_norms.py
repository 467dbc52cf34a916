"""Norms over the channels of NHWC maps or of vectors, their statistics in at least float32."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

from jaxact.models._checks import at_least_one, one_of
from jaxact.models._layers import wide_dtype

Norm = Callable[..., Any]


class _Affine(nnx.Module):
    """Scale and bias by channel."""

    def __init__(self, features: int, *, bias: bool = True, param_dtype: DTypeLike = jnp.float32):
        at_least_one("features", features)
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype)) if bias else None

    def _apply(self, x: Array, wide: Array, mean: Array | None, var: Array, epsilon: float):
        """The normalized x with scale and bias; statistics broadcast against ``wide``."""
        multiplier = lax.rsqrt(var + jnp.asarray(epsilon, var.dtype))
        scale = self.scale[...].astype(wide.dtype).reshape((1,) * (wide.ndim - 1) + (-1,))
        y = (wide if mean is None else wide - mean) * (multiplier * scale)
        if self.bias is not None:
            y = y + self.bias[...].astype(wide.dtype).reshape(scale.shape)
        return y.reshape(x.shape).astype(x.dtype)


class BatchNorm(_Affine):
    r"""Batch normalization, its running statistics `nnx.BatchStat` variables.

    .. math:: y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot scale + bias

    In training, mean and variance are those of the batch, over all axes but the last, and the
    running ones become ``momentum`` of themselves and the rest of the batch's, with the unbiased
    variance n / (n - 1): the paper's algorithm 2, and PyTorch's (whose momentum is one minus this).
    In evaluation the running ones are used.

    Args:
      features: channels.
      epsilon: added to the variance.
      momentum: of the running statistics, from 0 to 1.
      axis_name: mesh or vmap axes over which the batch's statistics are averaged, for use inside
        `jax.shard_map` or `jax.vmap`. (Under `jax.jit` with a sharded batch they are those of the
        whole batch without it.)
      use_running_average: evaluation; `train` and `eval` of a module set it.
      param_dtype: of scale and bias. Statistics are float32, or float64 for such inputs.
      rngs: not used; norms are made with it.

    Reference:
      Ioffe & Szegedy 2015, "Batch Normalization", algorithms 1 and 2.
    """

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        axis_name: str | tuple[str, ...] | None = None,
        use_running_average: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(features, param_dtype=param_dtype)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1; got {momentum}")
        self.epsilon = epsilon
        self.momentum = momentum
        self.axis_name = axis_name
        self.use_running_average = use_running_average
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        wide = _widen(x)
        if self.use_running_average:
            mean, var = (s[...].astype(wide.dtype) for s in (self.mean, self.var))
        else:
            mean, var = self._measure(wide)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return self._apply(x, wide, mean.reshape(shape), var.reshape(shape), self.epsilon)

    def _measure(self, wide: Array) -> tuple[Array, Array]:
        """The batch's mean and variance; the running ones are moved towards them."""
        axes = tuple(range(wide.ndim - 1))
        mean, square = jnp.mean(wide, axes), jnp.mean(lax.square(wide), axes)
        count = math.prod(wide.shape[:-1])
        if self.axis_name is not None:
            mean, square = lax.pmean((mean, square), self.axis_name)
            count = count * lax.axis_size(self.axis_name)
        var = jnp.maximum(square - lax.square(mean), jnp.zeros((), wide.dtype))
        rest = 1 - self.momentum
        for running, new, factor in (
            (self.mean, mean, rest),
            (self.var, var, rest * count / max(count - 1, 1)),
        ):
            old = running[...]
            moved = self.momentum * old + factor * lax.stop_gradient(new).astype(old.dtype)
            running[...] = moved
        return checkpoint_name(mean, "statistics"), checkpoint_name(var, "statistics")


class GroupNorm(_Affine):
    r"""Normalization of each example over positions and the channels of a group.

    Args:
      features: channels.
      groups: as many; the greatest common divisor of 32 and ``features`` if None.
      epsilon: added to the variance.
      param_dtype: of scale and bias.
      rngs: not used; norms are made with it.

    Raises:
      ValueError: if ``groups`` does not divide ``features``.

    Reference:
      Wu & He 2018, "Group Normalization"; with one channel a group, Ulyanov et al. 2016,
      "Instance Normalization".
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int | None = None,
        epsilon: float = 1e-5,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(features, param_dtype=param_dtype)
        self.groups = math.gcd(32, features) if groups is None else groups
        if self.groups < 1 or features % self.groups:
            raise ValueError(f"groups must divide the {features} features; got {groups}")
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        wide = _widen(x)
        n, c = x.shape[0], x.shape[-1]
        grouped = wide.reshape(n, -1, self.groups, c // self.groups)
        mean, var = _moments(grouped, (1, 3))
        shape = (n, *(1,) * (x.ndim - 2), c)
        mean, var = (
            jnp.broadcast_to(s, (n, 1, self.groups, c // self.groups)).reshape(shape)
            for s in (mean, var)
        )
        return self._apply(x, wide, mean, var, self.epsilon)


class LayerNorm(_Affine):
    """Normalization over the channels, at each position by itself (Ba et al. 2016)."""

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = 1e-6,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(features, param_dtype=param_dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        wide = _widen(x)
        mean, var = _moments(wide, (-1,))
        return self._apply(x, wide, mean, var, self.epsilon)


class RMSNorm(_Affine):
    """Division by the root of the mean square over the channels (Zhang & Sennrich 2019)."""

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = 1e-6,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(features, bias=False, param_dtype=param_dtype)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        wide = _widen(x)
        square = jnp.mean(lax.square(wide), axis=-1, keepdims=True)
        return self._apply(x, wide, None, square, self.epsilon)


def instance_norm(features: int, **options: Any) -> GroupNorm:
    """Normalization of each channel of each example over its positions."""
    return GroupNorm(features, groups=features, **options)


NORMS: dict[str, Norm] = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "instance": instance_norm,
}


def get_norm(norm: str | Norm) -> Norm:
    """The function ``make(features, *, rngs) -> module`` of a name; a callable as it is."""
    if isinstance(norm, str):
        one_of("norm", norm, (*NORMS, "none"))
        return NORMS[norm]
    if callable(norm):
        return norm
    raise TypeError(f"norm must be a name or a callable make(features, *, rngs); got {norm!r}")


def _widen(x: Array) -> Array:
    return x.astype(wide_dtype(x.dtype))


def _moments(wide: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = jnp.mean(wide, axes, keepdims=True)
    return mean, jnp.mean(lax.square(wide - mean), axes, keepdims=True)
