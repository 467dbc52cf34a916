"""Rectifiers and piecewise linear functions: masks are all that reverse mode keeps."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxact.activations._core import Number, as_float, as_number, elementwise, pick
from jaxact.activations._math import _special as sp
from jaxact.activations._table import INF, known

Out = Float[Array, "..."]


@known("rectified", r"x", range=(-INF, INF), lipschitz=1.0, aliases=("linear",))
def identity(x: Any, /) -> Out:
    """The identity, f(x) = x.

    Args:
        x: Real floating array of any shape.

    Returns:
        x itself. The derivative is 1, at NaN too: a mask for it would be kept for nothing else.
    """
    return as_float(x)


def _relu_value(x: Array) -> Array:
    return jnp.maximum(x, 0.0)


_relu = elementwise(_relu_value, tangent=lambda x, t: pick(x, t, (x > 0, 1.0)), selects=True)


@known(
    "rectified",
    r"\max(x, 0)",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Nair and Hinton",
    year=2010,
    breakpoints=(0.0,),
)
def relu(x: Any, /) -> Out:
    """Rectified linear unit, f(x) = max(x, 0).

    Args:
        x: Real floating array of any shape.

    Returns:
        max(x, 0), of the shape and dtype of x. The derivative at 0 is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> print(relu(jnp.array([-1.0, 2.0])))
        [0. 2.]

    Reference:
        Nair and Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines".
    """
    return _relu(x)


def _relu_n_value(x: Array, n: float) -> Array:
    return jnp.clip(x, 0.0, n)


def _relu_n_tangent(x: Array, t: Array, n: float) -> Array:
    return pick(x, t, ((x > 0) & sp.below(x, n), 1.0))


_relu_n = elementwise(_relu_n_value, tangent=_relu_n_tangent, selects=True)


def relu_n(x: Any, /, *, n: Number) -> Out:
    """Capped rectifier, f(x) = min(max(x, 0), n).

    Args:
        x: Real floating array of any shape.
        n: The cap, positive.

    Returns:
        Values in [0, n]. The derivative at 0 and at n is 0.

    Raises:
        ValueError: ``n`` is not positive.

    Reference:
        Krizhevsky 2010, "Convolutional Deep Belief Networks on CIFAR-10".
    """
    return _relu_n(x, as_number(n, "n", positive=True))


@known(
    "rectified",
    r"\min(\max(x, 0), 6)",
    range=(0.0, 6.0),
    lipschitz=1.0,
    paper="Krizhevsky",
    year=2010,
    breakpoints=(0.0, 6.0),
)
def relu6(x: Any, /) -> Out:
    """Rectifier capped at 6, f(x) = min(max(x, 0), 6).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [0, 6]. The derivative at 0 and at 6 is 0.

    Reference:
        Krizhevsky 2010, "Convolutional Deep Belief Networks on CIFAR-10".
    """
    return _relu_n(x, 6.0)


def _leaky_relu_value(x: Array, slope: float) -> Array:
    return jnp.where(x > 0, x, x * slope)


def _leaky_relu_tangent(x: Array, t: Array, slope: float) -> Array:
    return pick(x, t, (x > 0, 1.0), (x <= 0, slope))


_leaky_relu = elementwise(_leaky_relu_value, tangent=_leaky_relu_tangent)


@known(
    "rectified",
    r"\max(x, 0) + 0.01 \min(x, 0)",
    range=(-INF, INF),
    lipschitz=1.0,
    paper="Maas et al.",
    year=2013,
    breakpoints=(0.0,),
    aliases=("lrelu",),
)
def leaky_relu(x: Any, /, *, negative_slope: Number = 0.01) -> Out:
    """Leaky rectifier, f(x) = x for x > 0, else negative_slope x.

    Args:
        x: Real floating array of any shape.
        negative_slope: A Python number; for a slope that is learned see ``prelu``.

    Returns:
        Values of the shape and dtype of x. The derivative at 0 is ``negative_slope``.

    Raises:
        TypeError: ``negative_slope`` is traced.

    Reference:
        Maas et al. 2013, "Rectifier Nonlinearities Improve Neural Network Acoustic Models".
    """
    return _leaky_relu(x, as_number(negative_slope, "negative_slope"))


def _squared_relu_value(x: Array) -> Array:
    y = jnp.maximum(x, 0.0)
    return y * y


_squared_relu = elementwise(_squared_relu_value, lambda x: 2.0 * _relu(x))


@known(
    "rectified",
    r"\max(x, 0)^2",
    range=(0.0, INF),
    lipschitz=INF,
    paper="So et al.",
    year=2021,
    breakpoints=(0.0,),
    aliases=("relu_squared", "relu2"),
)
def squared_relu(x: Any, /) -> Out:
    """Squared rectifier, f(x) = max(x, 0)^2.

    Args:
        x: Real floating array of any shape.

    Returns:
        Values of the shape and dtype of x. The second derivative at 0 is 0.

    Reference:
        So et al. 2021, "Primer: Searching for Efficient Transformers for Language Modeling".
    """
    return _squared_relu(x)


def _hard_tanh_value(x: Array) -> Array:
    return jnp.clip(x, -1.0, 1.0)


_hard_tanh = elementwise(
    _hard_tanh_value, tangent=lambda x, t: pick(x, t, ((x > -1) & (x < 1), 1.0)), selects=True
)


@known(
    "rectified",
    r"\min(\max(x, -1), 1)",
    range=(-1.0, 1.0),
    lipschitz=1.0,
    paper="Collobert",
    year=2004,
    breakpoints=(-1.0, 1.0),
    aliases=("hardtanh", "relu1"),
)
def hard_tanh(x: Any, /) -> Out:
    """Piecewise linear tanh (also ReLU1), f(x) = min(max(x, -1), 1).

    Args:
        x: Real floating array of any shape.

    Returns:
        Values in [-1, 1]. The derivative at -1 and 1 is 0.

    Reference:
        Collobert 2004, "Large Scale Machine Learning", PhD thesis.
    """
    return _hard_tanh(x)


def _abs_tangent(x: Array, t: Array) -> Array:
    return pick(x, t, (x > 0, 1.0), (x < 0, -1.0))


_abs = elementwise(lambda x: jnp.abs(x), tangent=_abs_tangent, selects=True)


@known(
    "rectified",
    r"|x|",
    range=(0.0, INF),
    lipschitz=1.0,
    paper="Jarrett et al.",
    year=2009,
    monotone=False,
    breakpoints=(0.0,),
    limits=(INF, INF),
    aliases=("absolute",),
)
def abs(x: Any, /) -> Out:
    """Absolute value, f(x) = |x|.

    Args:
        x: Real floating array of any shape.

    Returns:
        Non-negative values. The derivative at 0 is 0.

    Reference:
        Jarrett et al. 2009, "What Is the Best Multi-Stage Architecture for Object Recognition?"
    """
    return _abs(x)
