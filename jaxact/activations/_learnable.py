"""Activations whose parameters are arrays, learned or given by another network.

Parameters of any floating dtype broadcast against x, whose dtype the result keeps; a vector of a
channel's parameters lies along ``channel_axis``.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxact.activations._core import as_float, narrow, widen
from jaxact.activations._math import _special as sp

Out = Float[Array, "..."]


def _per_channel(parameter: Any, name: str, x: Array, axis: int) -> Array:
    """A scalar, or a vector along a channel axis, in the working precision and rank of x."""
    p = as_float(parameter, name).astype(x.dtype)
    if p.ndim == 0:
        return p.reshape((1,) * x.ndim)
    if p.ndim != 1 or x.ndim == 0 or p.shape[0] not in (1, x.shape[axis]):
        raise ValueError(
            f"{name} must be a scalar or a vector as long as the channel axis, got shape {p.shape} "
            f"for x of shape {x.shape} and channel_axis {axis}"
        )
    shape = [1] * x.ndim
    shape[axis] = p.shape[0]
    return p.reshape(shape)


def _times(c: Array, x: Array) -> Array:
    """The product c x; 0 where c is, whatever x."""
    return c * jnp.where(jnp.isinf(x) & (c == 0), 0.0, x)


def _gated(y: Array, z: Array) -> Array:
    """The product y sigmoid(z); 0 where the gate is shut, whatever y."""
    gate = sp.sigmoid(z)
    shut = jnp.isinf(y) & (gate == 0)
    return jnp.where(shut, 0.0, y) * gate


def prelu(x: Any, slope: Any, /, *, channel_axis: int = -1) -> Out:
    """Parametric rectifier, f(x) = x for x > 0, else slope x.

    Args:
        x: Real floating array of any shape.
        slope: A scalar, or one for each channel; published initialization 0.25.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x, whatever the dtype of ``slope``.

    Raises:
        ValueError: ``slope`` does not fit the channels.

    Reference:
        He et al. 2015, "Delving Deep into Rectifiers", eq. 1.
    """
    x = as_float(x)
    wide = widen(x)
    a = _per_channel(slope, "slope", wide, channel_axis)
    negative = jnp.where(wide > 0, 0.0, wide)  # a slope has no gradient where x is infinite
    return narrow(jnp.where(wide > 0, wide, a * negative), x)


def srelu(
    x: Any, lower: Any, lower_slope: Any, upper: Any, upper_slope: Any, /, *, channel_axis: int = -1
) -> Out:
    """S-shaped rectifier: x between two thresholds, beyond each a line of its own slope.

    f(x) = upper + upper_slope (x - upper) for x >= upper, x between, and
    lower + lower_slope (x - lower) for x <= lower.

    Args:
        x: Real floating array of any shape.
        lower: A scalar, or one for each channel, the lower threshold.
        lower_slope: Likewise, the slope below it.
        upper: Likewise, the upper threshold.
        upper_slope: Likewise, the slope above it.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x. At a threshold the slope is that of its line.

    Raises:
        ValueError: A parameter does not fit the channels.

    Reference:
        Jin et al. 2016, "Deep Learning with S-shaped Rectified Linear Activation Units", eq. 1.
    """
    x = as_float(x)
    wide = widen(x)
    low, left, high, right = (
        _per_channel(p, n, wide, channel_axis)
        for p, n in (
            (lower, "lower"),
            (lower_slope, "lower_slope"),
            (upper, "upper"),
            (upper_slope, "upper_slope"),
        )
    )
    under, over = wide <= low, wide >= high
    below = low + left * jnp.where(under, wide - low, 0.0)
    above = high + right * jnp.where(over, wide - high, 0.0)
    return narrow(jnp.where(over, above, jnp.where(under, below, wide)), x)


def parametric_swish(x: Any, beta: Any, /, *, channel_axis: int = -1) -> Out:
    """Swish with a learned sharpness, f(x) = x sigmoid(beta x).

    Args:
        x: Real floating array of any shape.
        beta: A scalar, or one for each channel; published initialization 1.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x.

    Raises:
        ValueError: ``beta`` does not fit the channels.

    Reference:
        Ramachandran et al. 2017, "Searching for Activation Functions".
    """
    x = as_float(x)
    wide = widen(x)
    b = _per_channel(beta, "beta", wide, channel_axis)
    return narrow(_gated(wide, b * wide), x)


def acon_c(x: Any, p1: Any, p2: Any, beta: Any, /, *, channel_axis: int = -1) -> Out:
    """ACON-C, f(x) = (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x.

    Args:
        x: Real floating array of any shape.
        p1: A scalar, or one for each channel; published initialization standard normal.
        p2: Likewise.
        beta: Likewise; published initialization 1.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x.

    Raises:
        ValueError: A parameter does not fit the channels.

    Reference:
        Ma et al. 2021, "Activate or Not: Learning Customized Activation", eq. 6.
    """
    x = as_float(x)
    wide = widen(x)
    a, c, b = (
        _per_channel(p, n, wide, channel_axis) for p, n in ((p1, "p1"), (p2, "p2"), (beta, "beta"))
    )
    y = _times(a - c, wide)
    return narrow(_gated(y, b * y) + _times(c, wide), x)


def meta_acon(
    x: Float[Array, "batch *space channels"], p1: Any, p2: Any, reduce: Any, expand: Any, /
) -> Out:
    """Meta-ACON, ACON-C whose beta is sigmoid(mean(x) reduce expand), one for each channel.

    Args:
        x: Real floating array, batch first, channels last.
        p1: A scalar, or one for each channel.
        p2: Likewise.
        reduce: Matrix from channels to the bottleneck (channels/16 in the paper).
        expand: Matrix back to channels.

    Returns:
        Of the shape and dtype of x.

    Reference:
        Ma et al. 2021, "Activate or Not: Learning Customized Activation", section 4.
    """
    x = as_float(x)
    wide = widen(x)
    mean = wide.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    w1, w2 = as_float(reduce, "reduce").astype(wide.dtype), as_float(expand, "expand")
    hidden = jnp.matmul(mean.reshape(x.shape[0], -1), w1, precision="highest")
    beta = sp.sigmoid(jnp.matmul(hidden, w2.astype(wide.dtype), precision="highest"))
    beta = beta.reshape(mean.shape)
    a, c = _per_channel(p1, "p1", wide, -1), _per_channel(p2, "p2", wide, -1)
    y = _times(a - c, wide)
    return narrow(_gated(y, beta * y) + _times(c, wide), x)


def maxout(x: Any, /, *, pieces: int, axis: int = -1) -> Out:
    """Maxout, the maximum of groups of neighbouring channels.

    Args:
        x: Real floating array of at least one dimension.
        pieces: Length of a group.
        axis: Of a length that ``pieces`` divides.

    Returns:
        An array ``pieces`` times shorter along ``axis``. Ties share the gradient equally.

    Raises:
        ValueError: ``pieces`` does not divide the length.

    Reference:
        Goodfellow et al. 2013, "Maxout Networks".
    """
    x = as_float(x)
    if x.ndim == 0 or pieces < 1 or x.shape[axis] % pieces:
        raise ValueError(
            f"pieces must divide the length of the axis, got pieces={pieces} for shape {x.shape} "
            f"and axis {axis}"
        )
    axis %= x.ndim
    shape = (*x.shape[:axis], x.shape[axis] // pieces, pieces, *x.shape[axis + 1 :])
    return x.reshape(shape).max(axis + 1)


def dynamic_relu(x: Any, slopes: Any, intercepts: Any, /) -> Out:
    """Dynamic rectifier, the maximum over k of slopes_k x + intercepts_k.

    Args:
        x: Real floating array.
        slopes: (k, ...), each of the k broadcasting against x with its rank: (k, batch, 1, 1, 1)
            is form A of the paper, (k, batch, 1, 1, channels) form B, and
            (k, batch, height, width, channels) form C. Published initialization 1 and 0.
        intercepts: Likewise; published initialization 0.

    Returns:
        Of the shape and dtype of x.

    Raises:
        ValueError: The rank of a parameter is not that of x plus one.

    Reference:
        Chen et al. 2020, "Dynamic ReLU", eq. 3.
    """
    x = as_float(x)
    wide = widen(x)
    a = as_float(slopes, "slopes").astype(wide.dtype)
    b = as_float(intercepts, "intercepts").astype(wide.dtype)
    if a.ndim != x.ndim + 1 or b.ndim != x.ndim + 1:
        raise ValueError(
            f"slopes and intercepts must have one dimension more than x, got shapes {a.shape} and "
            f"{b.shape} for x of shape {x.shape}"
        )
    return narrow(jnp.max(a * wide[None] + b, axis=0), x)


def frelu(x: Float[Array, "batch height width channels"], kernel: Any, bias: Any = 0.0, /) -> Out:
    """Funnel rectifier, the maximum of x and a depthwise convolution of it.

    Args:
        x: Real floating images, channels last.
        kernel: (height, width, 1, channels), odd; published initialization Gaussian.
        bias: A scalar, or one for each channel (the paper normalizes the batch there).

    Returns:
        Of the shape and dtype of x.

    Reference:
        Ma et al. 2020, "Funnel Activation for Visual Recognition", eq. 2.
    """
    x = as_float(x)
    wide = widen(x)
    k = as_float(kernel, "kernel").astype(wide.dtype)
    funnel = lax.conv_general_dilated(
        wide,
        k,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )
    return narrow(jnp.maximum(wide, funnel + _per_channel(bias, "bias", wide, -1)), x)


def pau(x: Any, numerator: Any, denominator: Any, /) -> Out:
    """Safe Padé unit, sum_j a_j x^j / (1 + |sum_k b_k x^k|), j from 0, k from 1.

    Args:
        x: Real floating array of any shape.
        numerator: a_0, a_1, ..., a vector (six in the paper).
        denominator: b_1, b_2, ..., a vector (four in the paper).

    Returns:
        Of the shape and dtype of x.

    Raises:
        ValueError: A parameter is not a vector.

    Reference:
        Molina et al. 2020, "Padé Activation Units", eq. 2.
    """
    x = as_float(x)
    wide = widen(x)
    a = as_float(numerator, "numerator").astype(wide.dtype)
    b = as_float(denominator, "denominator").astype(wide.dtype)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"numerator and denominator must be vectors, got {a.shape} and {b.shape}")
    top = jnp.zeros_like(wide)
    for i in reversed(range(a.shape[0])):
        top = top * wide + a[i]
    bottom = jnp.zeros_like(wide)
    for i in reversed(range(b.shape[0])):
        bottom = (bottom + b[i]) * wide
    return narrow(top / (1.0 + jnp.abs(bottom)), x)


def tlu(x: Any, threshold: Any, /, *, channel_axis: int = -1) -> Out:
    """Thresholded linear unit, f(x) = max(x, threshold).

    Args:
        x: Real floating array of any shape.
        threshold: A scalar, or one for each channel; published initialization 0.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x. At a tie the gradient goes to the threshold.

    Raises:
        ValueError: ``threshold`` does not fit the channels.

    Reference:
        Singh and Krishnan 2020, "Filter Response Normalization Layer", eq. 6.
    """
    x = as_float(x)
    wide = widen(x)
    h = _per_channel(threshold, "threshold", wide, channel_axis)
    return narrow(jnp.where(wide > h, wide, h + jnp.where(jnp.isnan(wide), wide, 0.0)), x)


def apl(x: Any, slopes: Any, hinges: Any, /, *, channel_axis: int = -1) -> Out:
    """Adaptive piecewise linear unit, max(0, x) + sum_s slopes_s max(0, hinges_s - x).

    Args:
        x: Real floating array of any shape.
        slopes: (s,) or, one row for each hinge, (s, channels).
        hinges: Likewise.
        channel_axis: Where the channels lie.

    Returns:
        Of the shape and dtype of x.

    Raises:
        ValueError: A parameter does not fit the channels.

    Reference:
        Agostinelli et al. 2015, "Learning Activation Functions to Improve Deep Neural Networks".
    """
    x = as_float(x)
    wide = widen(x)
    a, b = as_float(slopes, "slopes"), as_float(hinges, "hinges")
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(
            f"slopes and hinges must agree and have 1 or 2 dimensions, got {a.shape} and {b.shape}"
        )
    y = jnp.maximum(wide, 0.0)
    for i in range(a.shape[0]):
        slope = _per_channel(a[i], "slopes", wide, channel_axis)
        hinge = _per_channel(b[i], "hinges", wide, channel_axis)
        y = y + slope * jnp.maximum(hinge - wide, 0.0)
    return narrow(y, x)
