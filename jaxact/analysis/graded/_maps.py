"""Maps of each token alone, sums and products of two, and a network followed by layer."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxact._checks import number
from jaxact.analysis.graded._tokens import GradedTokens, collected, leading, power

Layer = Callable[[GradedTokens], GradedTokens]


def linear(
    x: GradedTokens, kernel: Float[Array, "..."], bias: Float[Array, "..."] | None = None, /
) -> GradedTokens:
    """The tokens x W + b.

    Args:
      x: tokens of d features.
      kernel: W, (d, e), taken to the dtype of the tokens, as are all weights here.
      bias: b, (e,), or None.

    Returns:
      Tokens of e features.

    Raises:
      ValueError: if the shapes do not fit.
    """
    shape = (x.mean.shape[-1], *kernel.shape[1:])
    if kernel.ndim != 2 or kernel.shape != shape:
        raise ValueError(
            f"kernel must be a matrix ({x.mean.shape[-1]}, any); got shape {kernel.shape}"
        )
    kernel = kernel.astype(x.mean.dtype)
    mean = jnp.matmul(x.mean, kernel, precision="highest")
    if bias is not None:
        mean = mean + vector("bias", bias, mean)
    deviation = jnp.matmul(x.deviation, kernel, precision="highest")
    return collected(mean, deviation[None], x.exponent[None])


def add(
    x: GradedTokens, y: GradedTokens, /, *, alpha: ArrayLike = 1.0, beta: ArrayLike = 1.0
) -> GradedTokens:
    """The tokens alpha x + beta y: a skip and its branch, or positions that are added.

    Args:
      x: tokens.
      y: as many, of as many features.
      alpha: factor of x, a number or one for each feature.
      beta: factor of y.

    Returns:
      Their sum.

    Raises:
      ValueError: if the tokens differ in shape.
    """
    _alike(x, y)
    alpha, beta = (
        jnp.broadcast_to(jnp.asarray(a, x.mean.dtype), x.mean.shape) for a in (alpha, beta)
    )
    deviations = jnp.stack([alpha[None] * x.deviation, beta[None] * y.deviation])
    mean = alpha * x.mean + beta * y.mean
    return collected(mean, deviations, jnp.stack([x.exponent, y.exponent]))


def gated(x: GradedTokens, y: GradedTokens, /) -> GradedTokens:
    """The product of two sets of tokens, entry by entry: a gated linear unit of x and its gate y.

    Args:
      x: tokens.
      y: as many, of as many features.

    Returns:
      Their product.

    Raises:
      ValueError: if the tokens differ in shape.
    """
    _alike(x, y)
    r, s = x.deviation, y.deviation
    deviations = jnp.stack([r * y.mean[None], x.mean[None] * s, r * s])
    exponents = jnp.stack([x.exponent, y.exponent, x.exponent + y.exponent])
    return collected(x.mean * y.mean, deviations, exponents)


def layer_norm(
    x: GradedTokens,
    scale: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    /,
    *,
    epsilon: float = 1e-5,
) -> GradedTokens:
    r"""Layer normalization of each token.

    With u and v_i the mean and the deviations less their means over features, e the scale of the
    deviations, :math:`s_i^2 = |u + e v_i|^2 / d + \epsilon` and s that of v = 0,

    .. math:: y_i - y = \frac{e}{s_i} \Bigl( v_i - \frac u s
       \frac{2 u \cdot v_i + e |v_i|^2}{d (s_i + s)} \Bigr).

    Args:
      x: tokens.
      scale: factors after it, (d,), or None.
      bias: added last, (d,), or None.
      epsilon: added to the variance; positive.

    Returns:
      The tokens normalized.

    Raises:
      ValueError: if epsilon is not positive, or a shape does not fit.

    Reference:
      Ba, Kiros & Hinton 2016, "Layer normalization", eq. 4.
    """
    u = x.mean - jnp.mean(x.mean)
    v = x.deviation - jnp.mean(x.deviation, axis=1, keepdims=True)
    return _normalized(x._replace(mean=u, deviation=v), scale, bias, epsilon)


def rms_norm(
    x: GradedTokens,
    scale: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    /,
    *,
    epsilon: float = 1e-5,
) -> GradedTokens:
    """Root mean square normalization of each token: `layer_norm` with nothing subtracted.

    Args:
      x: tokens.
      scale: factors after it, (d,), or None.
      bias: added last, (d,), or None.
      epsilon: added to the mean square; positive.

    Returns:
      The tokens normalized.

    Raises:
      ValueError: if epsilon is not positive, or a shape does not fit.

    Reference:
      Zhang & Sennrich 2019, "Root mean square layer normalization", eq. 4.
    """
    return _normalized(x, scale, bias, epsilon)


def _normalized(x: GradedTokens, scale, bias, epsilon: float) -> GradedTokens:
    number("epsilon", epsilon, positive=True)
    dtype = x.mean.dtype
    # Squares overflow before entries do: what is large is divided out.
    down = jnp.maximum(jnp.maximum(x.exponent, leading(x.mean)), 0)
    u, v, e = x.mean * power(-down, dtype), x.deviation, power(x.exponent - down, dtype)
    tiny = jnp.finfo(dtype).tiny
    least = jnp.maximum(jnp.asarray(epsilon, dtype) * power(-2 * down, dtype), tiny)
    size = jnp.sqrt(jnp.mean(jnp.square(u)) + least)
    sizes = jnp.sqrt(jnp.mean(jnp.square(u[None] + e * v), axis=1, keepdims=True) + least)
    rise = jnp.mean(v * (2 * u[None] + e * v), axis=1, keepdims=True)
    unit = u / size
    deviation = (v - unit[None] * (rise / (sizes + size))) / sizes
    factor = jnp.ones_like(unit) if scale is None else vector("scale", scale, unit)
    mean = unit * factor
    if bias is not None:
        mean = mean + vector("bias", bias, unit)
    return collected(mean, (deviation * factor[None])[None], (x.exponent - down)[None])


def by_layer(layers: Iterable[tuple[str, Layer]], x: GradedTokens, /) -> dict[str, GradedTokens]:
    """The tokens after every layer of a network.

    Args:
      layers: names and functions of graded tokens, in order.
      x: the tokens that enter.

    Returns:
      Them under the name "input", and those after each layer under its name; each has its
      ``log_residual``.

    Raises:
      ValueError: if two layers have one name, or one is called "input".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxact.analysis.graded import tokens
      >>> w = jax.random.normal(jax.random.key(0), (4, 4))
      >>> double = lambda x: linear(x, 2 * jnp.eye(4))
      >>> states = by_layer([("first", double), ("second", double)], tokens(w))
      >>> [f"{float(s.log_residual - states['input'].log_residual):.3f}" for s in states.values()]
      ['0.000', '0.693', '1.386']
    """
    states = {"input": x}
    for name, layer in layers:
        if name in states:
            raise ValueError(f"layers must have names of their own; got {name!r} twice")
        states[name] = x = layer(x)
    return states


def vector(name: str, value: Array, like: Array) -> Array:
    """Weights of a vector's shape, in its dtype."""
    if value.shape != like.shape:
        raise ValueError(f"{name} must have shape {like.shape}; got {value.shape}")
    return value.astype(like.dtype)


def _alike(x: GradedTokens, y: GradedTokens) -> None:
    a, b = ((t.deviation.shape, t.mean.dtype.name) for t in (x, y))
    if a != b:
        raise ValueError(f"x and y must agree in shape and dtype; got {a} and {b}")
