"""Rectifiers with a threshold or a bend, and those that join channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import (
    Number,
    as_float,
    as_number,
    elementwise,
    narrow,
    pick,
    ruled,
    widen,
)
from jaxact.activations._exponential import elu
from jaxact.activations._math import _special as sp
from jaxact.activations._rectified import leaky_relu, relu
from jaxact.activations._table import INF, known

Out = Float[Array, "..."]


def _shifted_relu_tangent(x: Array, t: Array, shift: float) -> Array:
    return pick(x, t, (sp.above(x, shift), 1.0))


_shifted_relu = elementwise(
    lambda x, shift: jnp.maximum(x, shift), tangent=_shifted_relu_tangent, name="shifted_relu"
)


@known(
    "rectified",
    r"\max(x, -1)",
    range=(-1.0, INF),
    lipschitz=1.0,
    paper="Clevert et al.",
    year=2016,
    breakpoints=(-1.0,),
)
def shifted_relu(x: Any, /, *, shift: Number = -1.0) -> Out:
    """Shifted rectifier, f(x) = max(x, shift).

    Args:
        x: Real floating array of any shape.
        shift: The floor.

    Returns:
        Values of at least ``shift``. The derivative there is 0.

    Reference:
        Clevert et al. 2016, "Fast and Accurate Deep Network Learning by Exponential Linear Units".
    """
    return _shifted_relu(x, as_number(shift, "shift"))


def _star_relu_value(x: Array, scale: float, bias: float) -> Array:
    y = jnp.maximum(x, 0.0)
    # In this order it overflows no sooner than it must.
    return jnp.where(y < 64, _near_parabola(sp.capped(y, 64.0), scale, bias), scale * y * y + bias)


def _near_parabola(y: Array, scale: float, bias: float) -> Array:
    """The parabola scale y^2 + bias with every rounding error put back: it crosses zero."""
    square = y * y
    product, error = sp.scaled_product(square, scale)
    error = error + scale * sp.product_error(y, y, square)
    rounded = float(np.asarray(bias, y.dtype))
    total = product + rounded
    part = total - product
    error = error + ((product - (total - part)) + (rounded - part)) + (bias - rounded)
    return total + error


_star_relu = elementwise(_star_relu_value, lambda x, scale, _: 2.0 * scale * relu(x))


@known(
    "rectified",
    r"0.8944 \max(x, 0)^2 - 0.4472",
    range=(-0.4472, INF),
    lipschitz=INF,
    paper="Yu et al.",
    year=2022,
    breakpoints=(0.0,),
    aliases=("starrelu",),
)
def star_relu(x: Any, /, *, scale: Number = 0.8944, bias: Number = -0.4472) -> Out:
    """StarReLU, f(x) = scale max(x, 0)^2 + bias.

    Args:
        x: Real floating array of any shape.
        scale: The default gives a standard normal input the variance 1,
        bias: and this the mean 0.

    Returns:
        Values of at least ``bias``.

    Reference:
        Yu et al. 2022, "MetaFormer Baselines for Vision", eq. 10.
    """
    return _star_relu(x, as_number(scale, "scale"), as_number(bias, "bias"))


def _threshold_value(x: Array, threshold: float, value: float) -> Array:
    return jnp.where(sp.above(x, threshold) | (x != x), x, value)


_threshold = elementwise(
    _threshold_value, tangent=lambda x, t, h, _: pick(x, t, (sp.above(x, h), 1.0))
)


@known(
    "rectified",
    r"x \text{ if } x > 0 \text{ else } 0",
    range=(0.0, INF),
    lipschitz=1.0,
    breakpoints=(0.0,),
)
def threshold(x: Any, /, *, threshold: Number = 0.0, value: Number = 0.0) -> Out:
    """Threshold, f(x) = x for x > threshold, else value.

    Args:
        x: Real floating array of any shape.
        threshold: Where it opens.
        value: What it gives below.

    Returns:
        Values of the shape and dtype of x. The derivative at the threshold is 0.
    """
    return _threshold(x, as_number(threshold, "threshold"), as_number(value, "value"))


def _hard_shrink_value(x: Array, width: float) -> Array:
    return jnp.where(sp.above(jnp.abs(x), width) | (x != x), x, 0.0)


_hard_shrink = elementwise(
    _hard_shrink_value, tangent=lambda x, t, w: pick(x, t, (sp.above(jnp.abs(x), w), 1.0))
)


@known(
    "rectified",
    r"x \text{ if } |x| > 1/2 \text{ else } 0",
    range=(-INF, INF),
    lipschitz=INF,
    paper="Donoho and Johnstone",
    year=1994,
    breakpoints=(-0.5, 0.5),
    aliases=("hardshrink",),
)
def hard_shrink(x: Any, /, *, width: Number = 0.5) -> Out:
    """Hard shrinkage, f(x) = x for |x| > width, else 0.

    Args:
        x: Real floating array of any shape.
        width: Non-negative.

    Returns:
        Values of the shape and dtype of x. The derivative at the jumps is 0.

    Reference:
        Donoho and Johnstone 1994, "Ideal Spatial Adaptation by Wavelet Shrinkage".
    """
    return _hard_shrink(x, as_number(width, "width", minimum=0.0))


_soft_shrink = elementwise(
    lambda x, w: jnp.copysign(jnp.maximum(sp.minus(jnp.abs(x), w), 0.0), x),
    tangent=lambda x, t, w: pick(x, t, (sp.above(jnp.abs(x), w), 1.0)),
    name="soft_shrink",
)


@known(
    "rectified",
    r"\mathrm{sign}(x) \max(|x| - 1/2, 0)",
    range=(-INF, INF),
    lipschitz=1.0,
    paper="Donoho",
    year=1995,
    breakpoints=(-0.5, 0.5),
    aliases=("softshrink",),
)
def soft_shrink(x: Any, /, *, width: Number = 0.5) -> Out:
    """Soft shrinkage, f(x) = sign(x) max(|x| - width, 0).

    Args:
        x: Real floating array of any shape.
        width: Non-negative.

    Returns:
        Values of the shape and dtype of x. The derivative at the joins is 0.

    Reference:
        Donoho 1995, "De-noising by Soft-Thresholding".
    """
    return _soft_shrink(x, as_number(width, "width", minimum=0.0))


def _tanh_shrink_value(x: Array) -> Array:
    q = sp.decay(2.0 * x)
    far = sp.with_sign((jnp.abs(x) - 1.0) + 2.0 * q / (1.0 + q), x)
    return jnp.where(x * x < 1.0, sp.tanh_defect(x), far)


def _tanh_shrink_slope(x: Array) -> Array:
    near = x - sp.tanh_defect(x)
    return jnp.where(jnp.abs(x) < 0.9, near * near, 1.0 - sp.sech2(x))


def _tanh_shrink_curvature(x: Array) -> Array:
    return 2.0 * sp.tanh(x) * sp.sech2(x)


_tanh_shrink = elementwise(_tanh_shrink_value, ruled(_tanh_shrink_slope, _tanh_shrink_curvature))


@known("rectified", r"x - \tanh x", range=(-INF, INF), lipschitz=1.0, aliases=("tanhshrink",))
def tanh_shrink(x: Any, /) -> Out:
    """Tanh shrinkage, f(x) = x - tanh(x), without the cancellation near 0.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x.
    """
    return _tanh_shrink(x)


def _sparse_plus_value(x: Array) -> Array:
    y = jnp.clip(x, -1.0, 1.0) + 1.0
    return jnp.where(x >= 1, x, 0.25 * y * y)


def _sparse_sigmoid_value(x: Array) -> Array:
    return 0.5 * (jnp.clip(x, -1.0, 1.0) + 1.0)


_sparse_sigmoid = elementwise(
    _sparse_sigmoid_value, tangent=lambda x, t: pick(x, t, ((x > -1) & (x < 1), 0.5))
)
_sparse_plus = elementwise(_sparse_plus_value, lambda x: _sparse_sigmoid(x))


@known(
    "rectified",
    r"\int_{-\infty}^x \min(\max((t + 1)/2, 0), 1)\, dt",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Blondel et al.",
    year=2020,
    breakpoints=(-1.0, 1.0),
)
def sparse_plus(x: Any, /) -> Out:
    """Sparse plus, f(x) = 0 for x <= -1, (x + 1)^2/4 to 1, then x.

    Args:
        x: Real floating array of any shape.

    Returns:
        Non-negative values; its derivative is ``sparse_sigmoid``.

    Reference:
        Liu and Furber 2016, "Noisy Softplus"; Blondel et al. 2020, "Learning with Fenchel-Young
        Losses", for the family.
    """
    return _sparse_plus(x)


@known(
    "rectified",
    r"\min(\max((x + 1)/2, 0), 1)",
    range=(0.0, 1.0),
    lipschitz=0.5,
    paper="Blondel et al.",
    year=2020,
    breakpoints=(-1.0, 1.0),
)
def sparse_sigmoid(x: Any, /) -> Out:
    """Sparse sigmoid, f(x) = min(max((x + 1)/2, 0), 1), the derivative of ``sparse_plus``.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 1]. The derivative at -1 and 1 is 0.

    Reference:
        Blondel et al. 2020, "Learning with Fenchel-Young Losses".
    """
    return _sparse_sigmoid(x)


def crelu(x: Any, /, *, axis: int = -1) -> Out:
    """Concatenated rectifier, (relu(x), relu(-x)) joined along an axis.

    Args:
        x: Real floating array of at least one dimension.
        axis: It doubles.

    Returns:
        An array twice as long along ``axis``.

    Reference:
        Shang et al. 2016, "Understanding and Improving Convolutional Neural Networks via
        Concatenated Rectified Linear Units".
    """
    x = as_float(x)
    return jnp.concatenate([relu(x), relu(-x)], axis=axis)


def concat_elu(x: Any, /, *, axis: int = -1) -> Out:
    """Concatenated ELU, (elu(x), elu(-x)) joined along an axis.

    Args:
        x: Real floating array of at least one dimension.
        axis: It doubles.

    Returns:
        An array twice as long along ``axis``.

    Reference:
        Salimans et al. 2017, "PixelCNN++".
    """
    x = as_float(x)
    return jnp.concatenate([elu(x), elu(-x)], axis=axis)


@known(
    "rectified",
    r"\max(x, 0) + \tfrac{11}{48} \min(x, 0)",
    range=(-INF, INF),
    lipschitz=1.0,
    paper="Xu et al.",
    year=2015,
    breakpoints=(0.0,),
)
def rrelu(
    x: Any, /, *, key: Array | None = None, lower: Number = 1 / 8, upper: Number = 1 / 3
) -> Out:
    """Randomized leaky rectifier: a slope from U(lower, upper) for every negative element.

    Args:
        x: Real floating array of any shape.
        key: A PRNG key; None is deterministic, with the slope (lower + upper)/2.
        lower: The least slope.
        upper: The greatest slope.

    Returns:
        Values of the shape and dtype of x.

    Raises:
        ValueError: ``lower`` exceeds ``upper``.

    Reference:
        Xu et al. 2015, "Empirical Evaluation of Rectified Activations in Convolutional Network".
    """
    low, high = as_number(lower, "lower"), as_number(upper, "upper")
    if low > high:
        raise ValueError(f"lower must not exceed upper, got lower={lower!r} and upper={upper!r}")
    if key is None:
        return leaky_relu(x, negative_slope=(low + high) / 2)
    x = as_float(x)
    wide = widen(x)
    slope = jax.random.uniform(key, x.shape, wide.dtype, low, high)
    return narrow(jnp.where(wide > 0, wide, wide * slope), x)
