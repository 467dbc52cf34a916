"""Depth recursions of plain and residual networks in the limit of infinite width."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _maps as maps
from jaxact.theory import _products as products
from jaxact.theory import _quadrature as quad

PLACEMENTS = ("plain", "none", "post", "pre")
WEIGHTS = ("gaussian", "orthogonal")

# f'^2 at two depths of one unit: as many quadratures as pairs of layers, so fewer nodes
_HISTORY_NODES = 24


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse what is not one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


class Variances(NamedTuple):
    """Of one layer: the argument of f, its E f^2, the sum before a norm, and what follows.

    Attributes:
        argument: v, the variance of what f takes.
        moment: E f^2.
        sum: u, before the norm.
        output: q'.
        scale: u where the layer divides by its root, else 1.
        tau: a^2 sigma_w^2, over the q that a norm before the branch divides by.
    """

    argument: Array
    moment: Array
    sum: Array
    output: Array
    scale: Array
    tau: Array


def variances(it: maps.Layer, a2: Array, placement: str, q: Array) -> Variances:
    """What a layer makes of the variance q."""
    one = jnp.ones((), it.dtype)
    v = one if placement == "pre" else q
    moment = maps.second_moment(it.function, it.points, v, it.nodes)
    skip = 0.0 if placement == "plain" else 1.0
    u = skip * q + a2 * (it.weight_variance * moment + it.bias_variance)
    scale = u if placement == "post" else one
    tau = a2 * it.weight_variance / (q if placement == "pre" else one)
    return Variances(v, moment, u, one if placement == "post" else u, scale, tau)


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


def mean_field(
    activation: quad.Activation,
    depth: int,
    /,
    *,
    placement: str = "plain",
    weights: str = "gaussian",
    weight_variance: ArrayLike | None = None,
    bias_variance: ArrayLike = 0.0,
    branch_scale: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
    correlation: ArrayLike = 0.0,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> MeanField:
    """Variance, correlation, Jacobian spectrum and gradient norms of a wide random network.

    With F(h) = W f(h) + b, fan-in times the variance of W equal to sigma_w^2, and a branch scale a:

    ======== ===============================  =================================================
    plain    h' = a F(h)                      Poole 2016, Schoenholz 2017, Pennington 2017
    none     h' = h + a F(h)                  Yang & Schoenholz 2017
    post     h' = norm(h + a F(h))            He 2016 (figure 4b), Xiong 2020
    pre      h' = h + a F(norm(h))            He 2016, Xiong 2020
    ======== ===============================  =================================================

    norm divides by the root mean square over the units (RMS or layer norm; the mean over units
    vanishes in the limit). The equations are on the page on theory. All quantities come from one
    ``lax.scan``; in residual networks the dispersion needs E f'^2 f'^2 of every pair of layers,
    since a skip keeps a unit's state from layer to layer: cost depth^2.

    Args:
        activation: A name, or an elementwise callable, continuous.
        depth: Number of layers, at least 1.
        placement: Where the norm is: see the table.
        weights: Entries "gaussian", or "orthogonal" (Haar) matrices times sigma_w.
        weight_variance: sigma_w^2 > 0, by default the squared gain 1/E f(Z)^2.
        bias_variance: sigma_b^2 >= 0.
        branch_scale: a > 0, for instance ``depth ** -0.5``.
        variance: q_0 > 0, of the input. With "post" the input is taken as normalized: give 1.
        correlation: c_0 in [-1, 1], of two inputs of variance q_0.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece of the quadratures.

    Returns:
        ``MeanField``, whose fields start at the input (index 0): ``variance`` q_l;
        ``correlation`` c_l and ``defect`` 1 - c_l with its digits; ``log_jacobian``, log of the
        mean squared singular value of dh_l/dh_0; ``jacobian_dispersion``, the variance of the
        squared singular values over the square of their mean (sigma_JJ^2 of Pennington 2017 where
        the mean is 1); ``log_gradient``, log of E |dL/dh_l|^2 / E |dL/dh_depth|^2;
        ``log_weight_gradient``, (depth,), log of E |dL/dW_l|_F^2 / (n E |dL/dh_depth|^2). Without a
        norm the variance overflows where it doubles beyond the range of the dtype.

    Raises:
        ValueError: ``placement`` or ``weights`` unknown, ``depth`` below 1, a value out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> relu = lambda x: jnp.maximum(x, 0.0)
        >>> print([f"{q:.2f}" for q in mean_field(relu, 3, placement="pre").variance])
        ['1.00', '2.00', '3.00', '4.00']
    """
    check_choice("placement", placement, PLACEMENTS)
    check_choice("weights", weights, WEIGHTS)
    depth = products.check_count("depth", depth)
    values = (variance, correlation, branch_scale)
    it = maps.layer(activation, weight_variance, bias_variance, breakpoints, nodes, *values)
    a2 = jnp.square(quad.as_positive("branch_scale", branch_scale, it.dtype))
    q0 = quad.as_positive("variance", variance, it.dtype)
    d0 = 1 - quad.as_within("correlation", correlation, -1.0, 1.0, it.dtype)
    skip = 0.0 if placement == "plain" else 1.0
    zeros = jnp.zeros(depth, it.dtype)
    slope = quad.derivative(it.function)

    def squared_slope(x: Array) -> Array:
        return jnp.square(slope(x))

    def shared_state(history: _History, layer: Array, argument: Array, growth: Array) -> Array:
        """E f'(h_k)^2 f'(h_l)^2 of one unit, for each k below the layer l; else 0."""
        earlier = jnp.arange(depth) < layer

        def pair(before: tuple[Array, Array, Array]) -> Array:
            known, q, log_growth = before
            square = jnp.exp(jnp.minimum(log_growth - growth, 0))
            defect = -jnp.expm1(jnp.minimum(log_growth - growth, 0) / 2)
            defect = jnp.where(known & (square < 1), defect, 0)
            nodes = min(it.nodes, _HISTORY_NODES)
            moment = maps.pair_moment(
                squared_slope, it.points, jnp.where(known, q, argument), argument, defect, nodes
            )
            return jnp.where(known, moment, 0)

        return lax.map(pair, (earlier, history.argument, history.log_growth), batch_size=16)

    def step(carry, layer: Array):
        q, d, log_m, growth, history = carry
        v, moment, u, q_next, scale, tau = variances(it, a2, placement, q)
        mu_1 = maps.slope_moment(it.function, it.points, v, it.nodes, 2)
        mu_2 = maps.slope_moment(it.function, it.points, v, it.nodes, 4)
        x1, x2, w = quad.pair_nodes(it.points, v, v, d, it.nodes)
        apart = jnp.sum(w * jnp.square(it.function(x1) - it.function(x2))) / 2
        d_next = (skip * q * d + a2 * it.weight_variance * apart) / u
        # X = W D with E X A X^T = tau tr(D^2 A) I
        chi = tau * mu_1
        rate = skip + chi
        if skip:
            shared = jnp.sum(history.weight * shared_state(history, layer, v, growth))
        else:
            shared = zeros[0]
        mean_shared = shared + history.constant * mu_1
        both = mu_2 + 2 * mu_1 * mean_shared
        if weights == "orthogonal":
            both = both - mu_1**2
        weight = skip * history.weight / rate
        weight = weight.at[layer].set(skip * tau / rate**2)
        constant = skip * (history.constant / rate + tau * mean_shared / rate**2)
        history = _History(
            history.argument.at[layer].set(v),
            history.log_growth.at[layer].set(growth),
            history.squared.at[layer].set(mu_1),
            weight,
            constant + tau**2 * both / rate**2 / 2,
        )
        dispersion = 2 * (jnp.sum(history.weight * history.squared) + history.constant)
        log_rate = jnp.log(rate / scale)
        growth = growth + jnp.log(u / q)
        carry = (q_next, d_next, log_m + log_rate, growth, history)
        local = jnp.log(a2 * moment / scale)
        return carry, (q_next, d_next, log_m + log_rate, dispersion, log_rate, local)

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
