"""Depth recursions of plain and residual networks in the limit of infinite width."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact import wiring as wirings
from jaxact._checks import whole
from jaxact.theory import _quadrature as quad
from jaxact.theory._layer import Given, Resolved, pair_moment, resolve, second_moment, slope_moment
from jaxact.wiring import Wiring

# f'^2 at two depths of one unit: as many quadratures as pairs of layers, so fewer nodes
_HISTORY_NODES = 24


def covered(wiring: str | Wiring, /) -> bool:
    """Whether mean-field theory has equations for a wiring.

    It has for branches of the form W a(h), of the stream or its norm, with or without a norm after
    the branch or the addition, and for every fixed factor of branch, stream or norm. It has none
    where the activation follows the addition, so that the stream is not Gaussian, or scales are
    learned.

    Args:
        wiring: A `jaxact.wiring.Wiring`, or the word of one.

    Example:
        >>> covered("post"), covered("original")
        (True, False)
    """
    found = wirings.get(wiring)
    placement, skip = found.placement, found.skip
    fixed = skip.learned is None and not skip.predicts
    return placement.sublayers and fixed and not placement.dual


def scaled(it: Resolved, wiring: str | Wiring, branch_scale: ArrayLike, depth: int) -> "Scales":
    """The wiring with its scales at a depth; refuses those without a theory."""
    found = wirings.get(wiring)
    if not covered(found):
        words = ", ".join(word for word in wirings.names() if covered(word))
        raise ValueError(f"wiring must be one with a theory, such as {words}; got {found.name!r}")
    a = quad.as_positive("branch_scale", branch_scale, it.dtype) * found.skip.factor(depth)
    stream = found.placement.stream_scale(depth) ** 2 if found.skip.added else 0.0
    weight = found.placement.weight_scale(depth) ** 2
    return Scales(found, jnp.square(a), stream, it.weight_variance * weight)


class Scales(NamedTuple):
    """A wiring at a depth: squares of the branch's and the stream's scale, and sigma_w^2.

    The stream's is 0 where there is no skip.
    """

    wiring: Wiring
    branch: Array
    stream: float
    weight_variance: Array


class Variances(NamedTuple):
    """Of one layer: the argument of f, what is passed on, and how the Jacobian grows.

    Attributes:
        argument: v, the variance of what f takes.
        output: q'.
        kept: the stream's share of the sum before a norm, 0 without a skip.
        gained: a^2 sigma_w^2 over that sum.
        local: a^2 E f^2 over what the layer divides by.
        scale: what the layer divides by, over the square of the stream's scale.
        tau: a^2 sigma_w^2 times what a norm before the branch multiplies q by, likewise.
    """

    argument: Array
    output: Array
    kept: Array
    gained: Array
    local: Array
    scale: Array
    tau: Array


def argument(at: Scales, q: Array, layer: Array) -> Array:
    """The variance of what the branch of a layer, counted from 0, takes."""
    placement = at.wiring.placement
    factor = placement.norm_scale(layer.astype(q.dtype) + 1)
    return jnp.square(factor) * jnp.ones_like(q) if placement.norm_first else q


def variances(it: Resolved, at: Scales, q: Array, layer: Array) -> Variances:
    """What a layer, counted from 0, makes of the variance q."""
    one = jnp.ones((), it.dtype)
    placement = at.wiring.placement
    v = argument(at, q, layer)
    moment = second_moment(it, v)
    branch = at.weight_variance * moment + it.bias_variance
    a2 = at.branch / (branch if placement.norm_last else one)
    u = at.stream * q + a2 * branch
    divided = u if placement.norm_after else one
    stream = at.stream or 1.0
    return Variances(
        argument=v,
        output=one if placement.norm_after else u,
        kept=at.stream * q / u,
        gained=a2 * at.weight_variance / u,
        local=a2 * moment / divided,
        scale=divided / stream,
        tau=a2 * at.weight_variance * (v / q if placement.norm_first else one) / stream,
    )


class MeanField(NamedTuple):
    """Predictions by depth; index 0 is the input, index l the output of layer l."""

    variance: Float[Array, " depth+1"]
    correlation: Float[Array, " depth+1"]
    defect: Float[Array, " depth+1"]
    log_jacobian: Float[Array, " depth+1"]
    jacobian_dispersion: Float[Array, " depth+1"]
    log_gradient: Float[Array, " depth+1"]
    log_weight_gradient: Float[Array, " depth"]


class _History(NamedTuple):
    """What the Jacobian's second moment must know of the layers below."""

    argument: Array
    log_growth: Array
    squared: Array
    weight: Array
    constant: Array


def _shared_state(
    it: Resolved, history: _History, layer: Array, argument: Array, growth: Array
) -> Array:
    """E f'(h_k)^2 f'(h_l)^2 of one unit, for each k below the layer l; else 0."""
    slope = quad.derivative(it.function)

    def squared_slope(x: Array) -> Array:
        return jnp.square(slope(x))

    squared = it._replace(function=squared_slope, nodes=min(it.nodes, _HISTORY_NODES))

    def pair(before: tuple[Array, Array, Array]) -> Array:
        known, q, log_growth = before
        square = jnp.exp(jnp.minimum(log_growth - growth, 0))
        defect = -jnp.expm1(jnp.minimum(log_growth - growth, 0) / 2)
        defect = jnp.where(known & (square < 1), defect, 0)
        moment = pair_moment(squared, jnp.where(known, q, argument), argument, defect)
        return jnp.where(known, moment, 0)

    earlier = jnp.arange(len(history.argument)) < layer
    return lax.map(pair, (earlier, history.argument, history.log_growth), batch_size=16)


def _with_layer(
    it: Resolved, history: _History, layer: Array, at: Variances, growth: Array, skip: float
) -> tuple[_History, Array]:
    """The history with one layer more, and what that multiplies the mean squared value by.

    X = W D, over the scale of the stream, has E X A X^T = tau tr(D^2 A) I.
    """
    v, tau = at.argument, at.tau
    mu_1, mu_2 = slope_moment(it, v, 2), slope_moment(it, v, 4)
    rate = skip + tau * mu_1
    shared = jnp.zeros((), it.dtype)
    if skip:
        shared = jnp.sum(history.weight * _shared_state(it, history, layer, v, growth))
    mean_shared = shared + history.constant * mu_1
    both = mu_2 + 2 * mu_1 * mean_shared
    if it.orthogonal:
        both = both - mu_1**2
    weight = skip * history.weight / rate
    constant = skip * (history.constant / rate + tau * mean_shared / rate**2)
    history = _History(
        history.argument.at[layer].set(v),
        history.log_growth.at[layer].set(growth),
        history.squared.at[layer].set(mu_1),
        weight.at[layer].set(skip * tau / rate**2),
        constant + tau**2 * both / rate**2 / 2,
    )
    return history, rate


def mean_field(
    layer: Given,
    depth: int,
    /,
    *,
    wiring: str | Wiring = "plain",
    branch_scale: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
    correlation: ArrayLike = 0.0,
) -> MeanField:
    """Variance, correlation, Jacobian spectrum and gradient norms of a wide random network.

    Of every `covered` wiring of one-layer blocks, with F(h) = W f(h) + b and fan-in times the
    variance of W equal to sigma_w^2: plain (Poole 2016, Schoenholz 2017, Pennington 2017),
    norm_free (Yang & Schoenholz 2017), scaled (Hayou 2021), pre and post (Xiong 2020), and norms
    after the branch. `jaxact.wiring` prints their equations.

    A norm divides by the root mean square over the units (RMS or layer norm; the mean over units
    vanishes in the limit). The equations are on the page on theory. All quantities come from one
    ``lax.scan``; in residual networks the dispersion needs E f'^2 f'^2 of every pair of layers,
    since a skip keeps a unit's state from layer to layer: cost depth^2.

    Args:
        layer: A `Layer`, or the activation of one, continuous.
        depth: Number of layers, at least 1.
        wiring: A word of `jaxact.wiring.get`, or a `jaxact.wiring.Wiring`; a plain network is
            seen at its pre-activations.
        branch_scale: A further factor of the branch, > 0.
        variance: q_0 > 0, of the input. With a norm after the addition the input is taken as
            normalized: give 1.
        correlation: c_0 in [-1, 1], of two inputs of variance q_0.

    Returns:
        ``MeanField``, whose fields start at the input (index 0): ``variance`` q_l;
        ``correlation`` c_l and ``defect`` 1 - c_l with its digits; ``log_jacobian``, log of the
        mean squared singular value of dh_l/dh_0; ``jacobian_dispersion``, the variance of the
        squared singular values over the square of their mean (sigma_JJ^2 of Pennington 2017 where
        the mean is 1); ``log_gradient``, log of E |dL/dh_l|^2 / E |dL/dh_depth|^2;
        ``log_weight_gradient``, (depth,), log of E |dL/dW_l|_F^2 / (n E |dL/dh_depth|^2). Without a
        norm the variance overflows where it doubles beyond the range of the dtype.

    Raises:
        ValueError: The wiring has no theory, ``depth`` below 1, a value out of range.

    Example:
        >>> print([f"{q:.2f}" for q in mean_field("relu", 3, wiring="pre").variance])
        ['1.00', '2.00', '3.00', '4.00']
    """
    depth = whole("depth", depth)
    it = resolve(layer, variance, correlation, branch_scale)
    scales = scaled(it, wiring, branch_scale, depth)
    q0 = quad.as_positive("variance", variance, it.dtype)
    d0 = 1 - quad.as_within("correlation", correlation, -1.0, 1.0, it.dtype)
    skip = float(scales.wiring.skip.added)
    zeros = jnp.zeros(depth, it.dtype)

    def step(carry, layer: Array):
        q, d, log_m, growth, history = carry
        at = variances(it, scales, q, layer)
        x1, x2, w = quad.pair_nodes(it.points, at.argument, at.argument, d, it.nodes)
        apart = jnp.sum(w * jnp.square(it.function(x1) - it.function(x2))) / 2
        d_next = at.kept * d + at.gained * apart
        history, rate = _with_layer(it, history, layer, at, growth, skip)
        dispersion = 2 * (jnp.sum(history.weight * history.squared) + history.constant)
        log_rate = jnp.log(rate / at.scale)
        # correlation of a unit with itself before: what the stream keeps, and nothing without one
        growth = growth - jnp.log(at.kept if skip else 1.0)
        carry = (at.output, d_next, log_m + log_rate, growth, history)
        by_depth = (at.output, d_next, log_m + log_rate, dispersion, log_rate, jnp.log(at.local))
        return carry, by_depth

    history = _History(zeros + 1, zeros, zeros, zeros, zeros[0])
    start = (q0, jnp.asarray(d0), zeros[0], zeros[0], history)
    _, (q, d, log_m, dispersion, log_rate, local) = lax.scan(step, start, jnp.arange(depth))

    def from_input(first: Array, rest: Array) -> Array:
        return jnp.concatenate([first[None], rest])

    above = jnp.flip(jnp.cumsum(jnp.flip(log_rate)))
    log_gradient = jnp.concatenate([above, zeros[:1]])
    defect = from_input(d0, d)
    return MeanField(
        from_input(q0, q),
        1 - defect,
        defect,
        from_input(zeros[0], log_m),
        from_input(zeros[0], dispersion),
        log_gradient,
        local + log_gradient[1:],
    )
