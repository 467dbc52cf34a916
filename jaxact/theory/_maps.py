"""Variance and correlation maps of a layer, their fixed points and depth scales."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _quadrature as quad

Function = Callable[[Array], Array]
Points = np.ndarray | Array


def second_moment(function: Function, points: Points, q: Array, nodes: int) -> Array:
    """E f(X)^2 for X ~ N(0, q), q an array scalar."""
    x, w = quad.line_nodes(points, q, nodes, q.dtype)
    return quad.total(jnp.square(function(x)), w)


def slope_moment(function: Function, points: Points, q: Array, nodes: int, power: int) -> Array:
    """E |f'(X)|^power for X ~ N(0, q), jumps of f left out; an even power."""
    x, w = quad.line_nodes(points, q, nodes, q.dtype)
    return quad.total(quad.derivative(function)(x) ** power, w)


def pair_moment(
    function: Function, points: Points, q1: Array, q2: Array, defect: Array, nodes: int
) -> Array:
    """E f(X1) f(X2)."""
    x1, x2, w = quad.pair_nodes(points, q1, q2, defect, nodes)
    return jnp.sum(w * function(x1) * function(x2))


def defect_map(
    function: Function,
    points: Points,
    defect: Array,
    q1: Array,
    q2: Array,
    weight_variance: Array,
    bias_variance: Array,
    nodes: int,
) -> Array:
    """1 - C(1 - defect), from E (f(X1) - f(X2))^2: no cancellation at small defects."""
    a1, a2 = (
        lax.rsqrt(weight_variance * second_moment(function, points, q, nodes) + bias_variance)
        for q in (q1, q2)
    )
    x1, x2, w = quad.pair_nodes(points, q1, q2, defect, nodes)
    apart = jnp.sum(w * jnp.square(function(x1) * a1 - function(x2) * a2))
    return (weight_variance * apart + bias_variance * jnp.square(a1 - a2)) / 2


def generalized_moment(
    regular: Function,
    jump: Array,
    points: Points,
    q1: Array,
    q2: Array,
    defect: Array,
    nodes: int,
) -> Array:
    """E g(X1) g(X2) for g = regular + sum_j jump_j delta(x - point_j): Price's theorem at kinks."""
    dtype = q1.dtype
    at = jnp.asarray(points, dtype)
    result = pair_moment(regular, points, q1, q2, defect, nodes)
    c = 1 - defect
    square = defect * (2 - defect)
    apart = square > 0
    s = jnp.sqrt(jnp.where(apart, square, jnp.ones((), dtype)))

    def density(z: Array) -> Array:
        return jnp.exp(-z * z / 2) / jnp.sqrt(jnp.asarray(2 * np.pi, dtype))

    for qa, qb in ((q1, q2), (q2, q1)):
        mean = (c * at / jnp.sqrt(qa))[:, None]
        z, w = quad.conditional_nodes(at / jnp.sqrt(qb), mean, s, nodes)
        given = quad.total(regular(jnp.sqrt(qb) * (mean + jnp.where(apart, s, 0) * z)), w)
        result += jnp.sum(jump * density(at / jnp.sqrt(qa)) / jnp.sqrt(qa) * given)
    first = density(at / jnp.sqrt(q1)) / jnp.sqrt(q1)
    gap = at[None, :] / jnp.sqrt(q2) - c * (at / jnp.sqrt(q1))[:, None]
    infinite = jnp.asarray(jnp.inf, dtype)
    second = jnp.where(
        apart, density(gap / s) / (s * jnp.sqrt(q2)), jnp.where(gap == 0, infinite, 0)
    )
    both = jump[:, None] * jump[None, :]
    mass = jnp.where(both == 0, 0, both * first[:, None] * second)
    return result + jnp.sum(mass)


def correlation_derivative(
    function: Function,
    points: Points,
    defect: Array,
    q1: Array,
    q2: Array,
    weight_variance: Array,
    bias_variance: Array,
    nodes: int,
    order: int = 1,
) -> Array:
    """C'(c) or C''(c), by Price's theorem."""
    a1, a2 = (
        lax.rsqrt(weight_variance * second_moment(function, points, q, nodes) + bias_variance)
        for q in (q1, q2)
    )
    lower, upper = function, quad.derivative(function)
    if order == 2:
        lower, upper = upper, quad.derivative(upper)
    jump = quad.jumps(lower, points, q1.dtype)
    moment = generalized_moment(upper, jump, points, q1, q2, defect, nodes)
    return weight_variance * a1 * a2 * jnp.sqrt(q1 * q2) ** order * moment


class Layer(NamedTuple):
    """A layer's arguments, checked: what every map starts from."""

    function: Function
    points: Points
    nodes: int
    dtype: np.dtype
    weight_variance: Array
    bias_variance: Array


def layer(
    activation: quad.Activation,
    weight_variance: ArrayLike | None,
    bias_variance: ArrayLike,
    breakpoints: Sequence[ArrayLike] | ArrayLike,
    nodes: int,
    *values: ArrayLike,
) -> Layer:
    """Check the arguments that all maps share; the weight variance defaults to gain^2."""
    function, points = quad.resolve(activation, breakpoints)
    nodes = quad.check_nodes(nodes)
    given = [] if weight_variance is None else [weight_variance]
    dtype = quad.scalar_dtype(*values, bias_variance, *given)
    if weight_variance is None:
        sigma2 = 1 / second_moment(function, points, jnp.ones((), dtype), nodes)
    else:
        sigma2 = quad.as_positive("weight_variance", weight_variance, dtype)
    bias2 = quad.as_positive("bias_variance", bias_variance, dtype, zero=True)
    return Layer(function, points, nodes, dtype, sigma2, bias2)


def variance_map(
    activation: quad.Activation,
    variance: ArrayLike,
    /,
    *,
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """V(q) = sigma_w^2 E f(sqrt(q) Z)^2 + sigma_b^2: the variance after a wide layer.

    Args:
        activation: A name, or an elementwise callable.
        variance: q > 0, of any shape.
        weight_variance: sigma_w^2 > 0, the weights' variance times the fan-in; by default the
            squared gain 1/E f(Z)^2, which makes q = 1 a fixed point.
        bias_variance: sigma_b^2 >= 0.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece.

    Returns:
        V(q), of the shape of ``variance``; its slope is by ``jax.grad``.

    Raises:
        ValueError: A variance out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> float(variance_map(lambda x: jnp.maximum(x, 0.0), 3.0, weight_variance=2.0).round(5))
        3.0

    Reference:
        Poole et al. 2016, "Exponential expressivity in deep neural networks through transient
        chaos", eq. 3.
    """
    it = layer(activation, weight_variance, bias_variance, breakpoints, nodes, variance)
    q = quad.as_positive("variance", variance, it.dtype)

    def one(q: Array, sigma2: Array, bias2: Array) -> Array:
        return sigma2 * second_moment(it.function, it.points, q, it.nodes) + bias2

    return quad.over(one, q, it.weight_variance, it.bias_variance)


def dual_kernel(
    activation: quad.Activation,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """E f(X) f(Y) for a centred Gaussian pair of variances q1, q2 and correlation c.

    X is integrated with panels split at the kinks, Y given X with panels split where c and X put
    them, so that kinks cost no accuracy and c may approach 1 (see the page on theory).

    Args:
        activation: A name, or an elementwise callable.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece, in each direction.

    Returns:
        The kernel. Its derivative with respect to c is not defined by AD at c = -1 and 1, where 0
        is returned: see ``correlation_slope``.

    Raises:
        ValueError: c outside [-1, 1], a variance that is not positive.

    Reference:
        Daniely, Frostig & Singer 2016, "Toward deeper understanding of neural networks", def. 4.
    """
    other = variance if other_variance is None else other_variance
    it = layer(activation, 1.0, 0.0, breakpoints, nodes, c, variance, other)
    q1 = quad.as_positive("variance", variance, it.dtype)
    q2 = quad.as_positive("other_variance", other, it.dtype)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)

    def one(defect: Array, q1: Array, q2: Array) -> Array:
        return pair_moment(it.function, it.points, q1, q2, defect, it.nodes)

    return quad.over(one, defect, q1, q2)


def correlation_map(
    activation: quad.Activation,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """C(c) = (sigma_w^2 E f(X) f(Y) + sigma_b^2) / sqrt(V(q1) V(q2)): the next layer's correlation.

    Args:
        activation: A name, or an elementwise callable.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.
        weight_variance: sigma_w^2 > 0, by default 1/E f(Z)^2; without a bias it cancels.
        bias_variance: sigma_b^2 >= 0.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece, in each direction.

    Returns:
        C(c). For correlations within 1e-3 of 1 use ``correlation_defect``, which keeps the digits
        of 1 - c. At c = -1 and 1 AD returns 0: use ``correlation_slope``.

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{correlation_map(lambda x: jnp.maximum(x, 0.0), 0.0):.6f}")  # 1 / pi
        0.318310

    Reference:
        Poole et al. 2016, eq. 5 and 6; Schoenholz et al. 2017, "Deep information propagation".
    """
    other = variance if other_variance is None else other_variance
    values = (c, variance, other)
    it = layer(activation, weight_variance, bias_variance, breakpoints, nodes, *values)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)
    return 1 - _over_defects(it, defect, variance, other, defect_map)


def correlation_defect(
    activation: quad.Activation,
    defect: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """1 - C(1 - d), the correlation map for correlations near 1, without cancellation.

    Computed as E (f(X)/sqrt(V(q1)) - f(Y)/sqrt(V(q2)))^2 / 2 with biases included: in float32 right
    to a few parts in 1e4 at d = 1e-6, where 1 - C(c) has one digit.

    Args:
        activation: A name, or an elementwise callable.
        defect: d = 1 - c in [0, 2], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.
        weight_variance: sigma_w^2 > 0, by default 1/E f(Z)^2.
        bias_variance: sigma_b^2 >= 0.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece, in each direction.

    Returns:
        1 - C(1 - d).

    Raises:
        ValueError: d outside [0, 2], a variance out of its range.
    """
    other = variance if other_variance is None else other_variance
    values = (defect, variance, other)
    it = layer(activation, weight_variance, bias_variance, breakpoints, nodes, *values)
    d = quad.as_within("defect", defect, 0.0, 2.0, it.dtype)
    return _over_defects(it, d, variance, other, defect_map)


def correlation_slope(
    activation: quad.Activation,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """C'(c) = sigma_w^2 sqrt(q1 q2) E f'(X) f'(Y) / sqrt(V(q1) V(q2)), at c = 1 included.

    By Price's theorem; a jump of f enters f' as a point mass, and makes C'(1) infinite.

    Args:
        activation: A name, or an elementwise callable.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.
        weight_variance: sigma_w^2 > 0, by default 1/E f(Z)^2; without a bias it cancels.
        bias_variance: sigma_b^2 >= 0.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece, in each direction.

    Returns:
        C'(c). At c = 1 and a fixed point of V it is chi_1 of Schoenholz et al. 2017.

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.

    Reference:
        Price 1958; Poole et al. 2016, eq. 9; Schoenholz et al. 2017, eq. 9.
    """
    return _slope(
        1, activation, c, variance, other_variance, weight_variance, bias_variance, breakpoints,
        nodes,
    )  # fmt: skip


def correlation_curvature(
    activation: quad.Activation,
    c: ArrayLike,
    /,
    *,
    variance: ArrayLike = 1.0,
    other_variance: ArrayLike | None = None,
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, "*batch"]:
    """C''(c) = sigma_w^2 q1 q2 E f''(X) f''(Y) / sqrt(V(q1) V(q2)), for a continuous f.

    A kink of f enters f'' as a point mass, and makes C''(1) infinite, as for the rectifier.

    Args:
        activation: A name, or an elementwise callable, continuous.
        c: Correlation in [-1, 1], of any shape; all arguments broadcast.
        variance: q1 > 0.
        other_variance: q2 > 0, by default q1.
        weight_variance: sigma_w^2 > 0, by default 1/E f(Z)^2; without a bias it cancels.
        bias_variance: sigma_b^2 >= 0.
        breakpoints: Where a callable has a kink.
        nodes: Nodes a piece, in each direction.

    Returns:
        C''(c).

    Raises:
        ValueError: c outside [-1, 1], a variance out of its range.
    """
    return _slope(
        2, activation, c, variance, other_variance, weight_variance, bias_variance, breakpoints,
        nodes,
    )  # fmt: skip


def _slope(
    order, activation, c, variance, other, weight_variance, bias_variance, breakpoints, nodes
):
    other = variance if other is None else other
    values = (c, variance, other)
    it = layer(activation, weight_variance, bias_variance, breakpoints, nodes, *values)
    defect = 1 - quad.as_within("c", c, -1.0, 1.0, it.dtype)

    def derivative(*arguments):
        return correlation_derivative(*arguments, order=order)

    return _over_defects(it, defect, variance, other, derivative)


def _over_defects(it: Layer, defect: Array, variance, other, function) -> Array:
    q1 = quad.as_positive("variance", variance, it.dtype)
    q2 = quad.as_positive("other_variance", other, it.dtype)

    def one(defect, q1, q2, sigma2, bias2):
        return function(it.function, it.points, defect, q1, q2, sigma2, bias2, it.nodes)

    return quad.over(one, defect, q1, q2, it.weight_variance, it.bias_variance)
