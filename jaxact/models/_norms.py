"""Norms over the channels of NHWC maps or of vectors, their statistics in at least float32.

A variance by E x^2 - (E x)^2 loses the digits of (mean / deviation)^2. Here both are taken of x
less a shift near the mean, and x is centred in the same two steps: the difference is exact where
the shift is near, though a mean of 1e6 deviations does not itself fit into float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

from jaxact import activations
from jaxact._checks import one_of, whole
from jaxact.models._layers import wide_dtype

Norm = Callable[..., Any]


class _Affine(nnx.Module):
    """Scale and bias by channel."""

    def __init__(self, features: int, *, bias: bool = True, param_dtype: DTypeLike = jnp.float32):
        whole("features", features)
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype)) if bias else None

    def _apply(self, x: Array, centred: Array, var: Array, epsilon: float):
        """The normalized x with scale and bias; ``var`` broadcasts against what is centred."""
        multiplier = lax.rsqrt(var + jnp.asarray(epsilon, var.dtype))
        # a variance that overflows would give zeros that look like a dead layer
        multiplier = multiplier + lax.stop_gradient(jnp.where(var < jnp.inf, 0, jnp.nan))
        y = centred * (multiplier * _by_channel(self.scale[...].astype(centred.dtype), centred))
        if self.bias is not None:
            y = y + _by_channel(self.bias[...].astype(centred.dtype), centred)
        return y.astype(x.dtype)


class BatchNorm(_Affine):
    r"""Batch normalization, its running statistics `nnx.BatchStat` variables.

    .. math:: y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot scale + bias

    In training, mean and variance are those of the batch, over all axes but the last, and the
    running ones become ``momentum`` of themselves and the rest of the batch's, with the unbiased
    variance n / (n - 1): the paper's algorithm 2, and PyTorch's (whose momentum is one minus this).
    The sums are taken about the running mean, and again about their own where that is far off: the
    result is right to rounding for any mean that the dtype tells from its neighbours.
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
        wide = wide_dtype(param_dtype)
        self.mean = nnx.BatchStat(jnp.zeros(features, wide))
        self.var = nnx.BatchStat(jnp.ones(features, wide))

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        wide = _widen(x)
        if self.use_running_average:
            shift, var = (s[...].astype(wide.dtype) for s in (self.mean, self.var))
            return self._apply(x, wide - _by_channel(shift, x), _by_channel(var, x), self.epsilon)
        found = _statistics(x, self.mean[...].astype(wide.dtype), self.axis_name, self.epsilon)
        found = _Statistics(*(checkpoint_name(s, "statistics") for s in found))
        self._move(found, math.prod(x.shape[:-1]))
        centred = (wide - _by_channel(found.shift, x)) - _by_channel(found.offset, x)
        return self._apply(x, centred, _by_channel(found.var, x), self.epsilon)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """For `nnx.view`: whether the running statistics are used."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _move(self, found: "_Statistics", count: int) -> None:
        """Moves the running statistics towards those of a batch of ``count`` a device."""
        if self.axis_name is not None:
            count = count * lax.axis_size(self.axis_name)
        rest = 1 - self.momentum
        for running, new, factor in (
            (self.mean, found.shift + found.offset, rest),
            (self.var, found.var, rest * count / max(count - 1, 1)),
        ):
            old = running[...]
            running[...] = self.momentum * old + factor * lax.stop_gradient(new).astype(old.dtype)


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
        centred, var = _centre(grouped, (1, 3))
        var = jnp.broadcast_to(var, (n, 1, *grouped.shape[2:]))
        var = var.reshape(n, *(1,) * (x.ndim - 2), c)
        return self._apply(x, centred.reshape(x.shape), var, self.epsilon)


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
        return self._apply(x, *_centre(wide, (-1,)), self.epsilon)


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
        return self._apply(x, wide, square, self.epsilon)


class DynamicTanh(_Affine):
    """scale tanh(alpha x) + bias by channel, alpha learned, in the place of a norm.

    Args:
      features: channels.
      alpha: where it starts.
      param_dtype: of the parameters.
      rngs: not used; norms are made with it.

    Reference:
      Zhu et al. 2025, "Transformers without Normalization", sec. 4.
    """

    def __init__(
        self,
        features: int,
        *,
        alpha: float = 0.5,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(features, param_dtype=param_dtype)
        self.alpha = nnx.Param(jnp.full((), alpha, param_dtype))

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        y = activations.tanh(x * self.alpha[...].astype(x.dtype))
        y = y * _by_channel(self.scale[...].astype(x.dtype), x)
        return y if self.bias is None else y + _by_channel(self.bias[...].astype(x.dtype), x)


def instance_norm(features: int, **options: Any) -> GroupNorm:
    """Normalization of each channel of each example over its positions."""
    return GroupNorm(features, groups=features, **options)


NORMS: dict[str, Norm] = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "instance": instance_norm,
    "dynamic_tanh": DynamicTanh,
}
POINTWISE = ("layer", "rms", "dynamic_tanh")
"""Norms that look at one position at a time."""


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


def _by_channel(s: Array, x: Array) -> Array:
    return s.reshape((1,) * (x.ndim - 1) + (-1,))


def _centre(wide: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """What is left of x without its mean over some axes, and its variance there."""
    near = lax.stop_gradient(jnp.mean(wide, axes, keepdims=True))
    offset, var = _shifted(wide - near, axes, keepdims=True)
    return (wide - near) - offset, var


def _shifted(
    difference: Array, axes: tuple[int, ...], *, keepdims: bool = False, axis_name: Any = None
) -> tuple[Array, Array]:
    """Mean and variance in one pass, right where the mean is of a few deviations."""
    mean = jnp.mean(difference, axes, keepdims=keepdims)
    square = jnp.mean(lax.square(difference), axes, keepdims=keepdims)
    if axis_name is not None:
        mean, square = lax.pmean((mean, square), axis_name)
    return mean, jnp.maximum(square - lax.square(mean), jnp.zeros((), mean.dtype))


class _Statistics(NamedTuple):
    """Of a batch, by channel; the mean is shift + offset."""

    shift: Array
    offset: Array
    var: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _statistics(x: Array, start: Array, axis_name: Any, epsilon: float) -> _Statistics:
    """A batch's statistics, right to rounding wherever its mean is.

    A shift that is known before x is, the running mean, lets the compiler for TPU take them in the
    fusion that makes x; only where it is more than four deviations off (a network's first steps)
    is x read once more.
    """
    axes = tuple(range(x.ndim - 1))

    def about(shift: Array) -> _Statistics:
        difference = _widen(x) - _by_channel(shift, x)  # else a float32 x is made for the branch
        moments = _shifted(difference, axes, axis_name=axis_name)
        return _Statistics(shift, *moments)

    # devices that share statistics need one shift
    found = about(start if axis_name is None else lax.pmean(start, axis_name))
    far = jnp.any(lax.square(found.offset) > 16 * (found.var + epsilon))
    return lax.cond(far, lambda: about(found.shift + found.offset), lambda: found)


@_statistics.defjvp
def _statistics_jvp(axis_name: Any, epsilon: float, primals: Any, tangents: Any) -> Any:
    x, start = primals
    found = _statistics(x, start, axis_name, epsilon)
    centred = (_widen(x) - _by_channel(found.shift, x)) - _by_channel(found.offset, x)
    axes = tuple(range(x.ndim - 1))
    tangent = _widen(tangents[0])
    moved = jnp.mean(tangent, axes), 2 * jnp.mean(centred * tangent, axes)
    if axis_name is not None:
        moved = lax.pmean(moved, axis_name)
    return found, _Statistics(jnp.zeros_like(found.shift), *moved)
