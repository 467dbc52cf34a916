"""Log singular values of Jacobians: growth rates, means and variances, and one norm's law."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, nn
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact._checks import whole
from jaxact.theory import _quadrature as quad
from jaxact.theory import _recursion as recursion
from jaxact.theory._layer import Given, Resolved, resolve, slope_moment
from jaxact.wiring import Wiring

BISECTIONS = 60
_LOG_WEIGHTS = 70.0  # squared slopes fall to e^-40 where tanh is flat
_LOGITS = np.linspace(-30, 30, 241)  # the trapezoidal rule converges exponentially in the logit


class _Slopes(NamedTuple):
    """The law of f'(Z)^2: values and their weights."""

    squares: Array
    weights: Array

    @property
    def alive(self) -> Array:
        return 1 - jnp.sum(jnp.where(self.squares > 0, 0, self.weights))


def _slopes(it: Resolved, variance: Array) -> _Slopes:
    x, w = quad.line_nodes(it.points, variance, it.nodes, it.dtype)
    return _Slopes(jnp.square(quad.derivative(it.function)(x)), w)


def _growth(
    t: Array, left: Array, slopes: _Slopes, tau: Array, skip: bool, gaussians: int
) -> Array:
    """mu(t) of a layer B, or of I + B: its S-transform at -t is exp(-2 mu(t)).

    ``left``, with its digits, is the share of the layer that is not zero less t. B holds f'(Z) and
    ``gaussians`` Gaussian matrices, else orthogonal ones; tau is the product of their variances.
    With y the share E w f'^2 / (1 + w f'^2), S_B(-y) = (w / y) (1 - y)^(1 - gaussians) / tau. B is
    R-diagonal: I + B has S(-t) = x (1 - x) / (t (1 - t)), where x + y = t and
    x (1 - x) = y (1 - y) S_B(-y).
    """
    living = jnp.where(slopes.squares > 0, slopes.weights, 0)
    remaining = slopes.weights if skip else living

    @jax.vmap
    def parts(log_w: Array) -> tuple[Array, Array]:
        grown = jnp.exp(log_w) * slopes.squares
        return jnp.sum(living * grown / (1 + grown)), jnp.sum(remaining / (1 + grown))

    def too_large(log_w: Array) -> Array:
        y, rest = parts(log_w)
        if not skip:
            return y * left > t * rest
        excess = (t - y) * (left + y)  # x (1 - x)
        return excess < jnp.exp(log_w) * rest ** (2 - gaussians) / tau

    def bisect(_: ArrayLike, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = too_large(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.full(t.shape, -_LOG_WEIGHTS, t.dtype), jnp.full(t.shape, _LOG_WEIGHTS, t.dtype)
    low, high = lax.fori_loop(0, BISECTIONS, bisect, ends)
    log_w = (low + high) / 2
    if not skip:
        rest = left + (1 - slopes.alive)
        return (jnp.log(tau) + jnp.log(t) - log_w - (1 - gaussians) * jnp.log(rest)) / 2
    rest = parts(log_w)[1]
    log_x = log_w + (2 - gaussians) * jnp.log(rest) - jnp.log(tau)
    return (jnp.log(t) + jnp.log(left) - log_x) / 2


def jacobian_exponents(
    layer: Given,
    n: int,
    /,
    *,
    wiring: str | Wiring = "plain",
    layers: int = 1,
    branch_scale: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, " n"]:
    r"""Growth rates of the singular values of the Jacobian of a deep network, largest first.

    For L layers of width n, L >> n, log s_i / L tends to mu_i, which for n large depends on
    t = (i - 1/2) / n alone: e^{-2 mu(t)} is the S-transform of a layer at -t. For the layers
    h' = a W f(h) of a plain network, W Gaussian, and units distributed as N(0, q),

    .. math:: e^{2\mu(t)} = a^2 \sigma_w^2\,t / w, \qquad E\,\frac{w f'(Z)^2}{1 + w f'(Z)^2} = t.

    The identity gives sigma_w^2 (1 - t), the large-n form of `newman_exponents`; the rectifier
    sigma_w^2 (1/2 - t). With a skip, h' = (h + a W f(h)) / sqrt(u), the share t splits in two:

    .. math:: u\,e^{2\mu(t)} = \frac{t (1 - t)}{x (1 - x)}, \qquad t = x + y, \quad
       x (1 - x) = \frac{w (1 - y)}{a^2 \sigma_w^2}, \quad
       y = E\,\frac{w f'(Z)^2}{1 + w f'(Z)^2},

    since the branch's Jacobian is R-diagonal. The first, mu(0), is log(1 + a^2 sigma_w^2 E f'^2)/2
    before the division, and the mean is 0 while the branch's mean square is at most 1.

    Args:
        layer: A `Layer`, or the activation of one, continuous.
        n: The width, at least 1.
        wiring: A word of `jaxact.wiring.get`: a plain network, or one whose norm after the
            addition keeps it stationary, as "post"; else layers differ by depth: see
            `jacobian_log_moments`.
        layers: Weights of a layer, 1 or 2: W f(h), or W_2 f(W_1 h) with W_1 of variance 1.
        branch_scale: A further factor of the branch, > 0.
        variance: q > 0, of the preactivations: the fixed point of a deep network, 1 with a norm
            after the addition.

    Returns:
        (n,), nats a layer; -inf where t is beyond the share of units with f' != 0. Not
        differentiable, as they are found by bisection.

    Raises:
        ValueError: ``n`` below 1, a choice unknown, or a value out of range.

    Example:
        >>> print([f"{mu:.3f}" for mu in jacobian_exponents("relu", 4)])
        ['-0.144', '-0.693', '-inf', '-inf']

    Reference:
        Isopi & Newman 1992, "The triangle law for Lyapunov exponents of large random matrices";
        Kargin 2008, "Lyapunov exponents of free operators"; S-transforms of layers: Pennington,
        Schoenholz & Ganguli 2017, "Resurrecting the sigmoid", eq. 13; sums of R-diagonal elements:
        Haagerup & Schultz 2007, "Brown measures of unbounded operators affiliated with a finite
        von Neumann algebra".
    """
    n = whole("n", n)
    it = resolve(layer, variance, branch_scale)
    gaussians, scales = _gaussians(it, layers), recursion.scaled(it, wiring, branch_scale, 1)
    found = scales.wiring
    constant = found.skip.factor(1) == found.skip.factor(2) and not found.placement.scales_weights
    if not (found.plain or found.placement.norm_after) or not constant:
        raise ValueError(
            "wiring must be plain or post, so that layers are alike at every depth; "
            f"got {found.name!r}"
        )
    skip = found.skip.added
    q = quad.as_positive("variance", variance, it.dtype)
    at = recursion.variances(it, scales, q, jnp.zeros((), jnp.int32))
    slopes = _slopes(it, at.argument)
    t = (jnp.arange(n, dtype=it.dtype) + 0.5) / n
    alive = 1 if skip else slopes.alive
    mu = _growth(t, alive - t, slopes, at.tau, skip, gaussians)
    mu = mu - jnp.log(at.scale) / 2
    return lax.stop_gradient(jnp.where(t < alive, mu, -jnp.inf))


def _gaussians(it: Resolved, layers: int) -> int:
    if layers not in (1, 2):
        raise ValueError(f"layers must be 1 or 2, got {layers!r}")
    return 0 if it.orthogonal else layers


class LogMoments(NamedTuple):
    """Mean and variance of log singular values, by depth; index 0 is the input."""

    mean: Float[Array, " depth+1"]
    variance: Float[Array, " depth+1"]
    rank: Float[Array, " depth+1"]


def jacobian_log_moments(
    layer: Given,
    depth: int,
    /,
    *,
    wiring: str | Wiring = "plain",
    layers: int = 1,
    branch_scale: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> LogMoments:
    r"""Mean and variance of the log singular values of a wide network's Jacobian, at every depth.

    For n to infinity at any depth, from the growth mu_l(t) of each layer (`jacobian_exponents`;
    S-transforms of layers free of each other multiply) and M = mu_1 + ... + mu_L,

    .. math:: E \log s = \int_0^1 M\,dt, \qquad
       \mathrm{Var} \log s = \mathrm{Var}_t M + \mathrm{Cov}_t\Big(\log\frac{1-t}{t},\, M\Big),

    since log s^2 plus an independent logistic variable is distributed as log((1-t)/t) + 2 M(t), t
    uniform: Haagerup & Moller's formula for the moments of s^2. The first term grows as L^2 and
    wins where the spread is large, the second as L. Without a norm the mean is 0 in a residual
    network whose branches have a mean square of at most 1, whatever its activation.

    In plain networks, and in residual ones whose branch starts with a weight (``layers=2``), this
    is exact in the limit. Where the branch starts with the activation (``layers=1``, the layers of
    `mean_field`), a unit's slope at one layer is correlated with that at the next; the mean does
    not depend on it, the variance does: see the page on theory for how much.

    Args:
        layer: A `Layer`, or the activation of one, continuous.
        depth: Number of layers, at least 1.
        wiring: As for `mean_field`.
        layers: Weights of a layer or branch, 1 or 2: F(h) = W f(h), or W_2 f(W_1 h) with W_1 of
            variance 1.
        branch_scale: A further factor of the branch, > 0.
        variance: q_0 > 0, of the input. With a norm after the addition the
            input is taken as normalized: give 1.

    Returns:
        ``LogMoments(mean, variance, rank)``, each (depth + 1,), in nats (squared), of the singular
        values that are not zero, and their share. Where a plain network loses more of them later
        than at this depth, as ``hard_tanh`` away from its fixed point, mean and variance are NaN.
        Not differentiable.

    Raises:
        ValueError: A choice unknown, ``depth`` below 1, or a value out of range.

    Example:
        >>> law = jacobian_log_moments("relu", 64, wiring="pre", layers=2)
        >>> print(f"{law.mean[-1] ** 2:.1f} {law.variance[-1]:.2f}")
        0.0 3.98

    Reference:
        Haagerup & Moller 2013, "The law of large numbers for the free multiplicative convolution";
        for residual networks with free layers: Ling & Qiu 2019, Tarnowski et al. 2019.
    """
    depth = whole("depth", depth)
    it = resolve(layer, variance, branch_scale)
    gaussians, scales = _gaussians(it, layers), recursion.scaled(it, wiring, branch_scale, depth)
    q0, skip = quad.as_positive("variance", variance, it.dtype), scales.wiring.skip.added

    def vary(q: Array, index: Array) -> tuple[Array, tuple[recursion.Variances, Array]]:
        at = recursion.variances(it, scales, q, index)
        alive = jnp.ones_like(q) if skip else _slopes(it, at.argument).alive
        return at.output, (at, alive)

    _, (by_depth, alive) = lax.scan(vary, q0, jnp.arange(depth))
    rank = lax.cummin(alive)
    logits = jnp.asarray(_LOGITS, it.dtype)
    low, high = nn.sigmoid(logits), nn.sigmoid(-logits)
    t, left = rank[-1] * low, rank[-1] * high
    w = low * high / jnp.sum(low * high)
    log_odds = jnp.log(left + (1 - rank[-1])) - jnp.log(t)
    if skip:
        shift = excess = jnp.zeros((), it.dtype)
    else:
        shift = jnp.sum(w * log_odds) / 2
        excess = (_covariance(w, log_odds, log_odds) - math.pi**2 / 3) / 4

    def step(total, layer):
        at, alive = layer
        # other layers may keep a larger share
        own = left + (alive - rank[-1])
        mu = _growth(t, own, _slopes(it, at.argument), at.tau, skip, gaussians)
        total = total + mu - jnp.log(at.scale) / 2
        spread = _covariance(w, total + log_odds, total) + excess
        return total, (jnp.sum(w * total) + shift, spread)

    _, moments = lax.scan(step, jnp.zeros_like(logits), (by_depth, alive))
    unsettled = rank > rank[-1] + 4 * jnp.finfo(it.dtype).eps
    zero = jnp.zeros(1, it.dtype)
    mean, spread = (jnp.append(zero, jnp.where(unsettled, jnp.nan, m)) for m in moments)
    return lax.stop_gradient(LogMoments(mean, spread, jnp.append(zero + 1, rank)))


def _covariance(w: Array, x: Array, y: Array) -> Array:
    return jnp.sum(w * (x - jnp.sum(w * x)) * (y - jnp.sum(w * y)))


class LogNorm(NamedTuple):
    """Mean and variance of the logarithm of a squared norm, by depth; index 0 is the input."""

    mean: Float[Array, " depth+1"]
    variance: Float[Array, " depth+1"]


def jacobian_log_norm(
    layer: Given,
    n: int,
    depth: int,
    /,
    *,
    variance: ArrayLike = 1.0,
) -> LogNorm:
    r"""Law of log |J u|^2 for one direction u, in a plain network of finite width.

    Each layer h' = W f(h), W Gaussian, multiplies |J u|^2 by an independent variable of mean
    chi = sigma_w^2 E f'^2 and relative variance b / n,

    .. math:: b = 3\,E f'^4 / (E f'^2)^2 - 1, \qquad \log|Ju|^2 \approx
       N\!\left(L \log\chi - \frac{L b}{2 n},\ \frac{L b}{n}\right),

    up to terms of order L / n^2: b = 5 for the rectifier, 2 without an activation. The mean of
    |J u|^2 is chi^L, but what one sees is smaller by exp(-L b / 2n). Where f' depends on the scale
    of h, the variance of h in a network fluctuates about q and adds to that of log |J u|^2: for
    tanh, 64 units and 12 layers 0.89 was measured for 0.70.

    Args:
        layer: A `Layer`, or the activation of one, continuous.
        n: The width, at least 1.
        depth: Number of layers L, at least 1.
        variance: q > 0, of the preactivations.

    Returns:
        ``LogNorm(mean, variance)``, each (depth + 1,), in nats (squared).

    Raises:
        ValueError: ``n`` or ``depth`` below 1, or a value out of range.

    Example:
        >>> print(f"{jacobian_log_norm('relu', 100, 20).variance[-1]:.3f}")
        1.000

    Reference:
        Hanin & Nica 2020, "Products of many large random matrices and gradients in deep neural
        networks", theorem 1 (for the rectifier).
    """
    n, depth = whole("n", n), whole("depth", depth)
    it = resolve(layer, variance)
    q = quad.as_positive("variance", variance, it.dtype)
    mu_1, mu_2 = (slope_moment(it, q, k) for k in (2, 4))
    spread = (3 * mu_2 / jnp.square(mu_1) - 1) / n
    layers = jnp.arange(depth + 1, dtype=it.dtype)
    return LogNorm(layers * (jnp.log(it.weight_variance * mu_1) - spread / 2), layers * spread)
