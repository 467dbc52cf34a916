"""Log singular values of the Jacobian of plain networks: their distribution, and one norm's law."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact.theory import _maps as maps
from jaxact.theory import _products as products
from jaxact.theory import _quadrature as quad

BISECTIONS = 60


def jacobian_exponents(
    activation: quad.Activation,
    n: int,
    /,
    *,
    variance: ArrayLike = 1.0,
    weight_variance: ArrayLike | None = None,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Float[Array, " n"]:
    r"""Growth rates of the singular values of the Jacobian of a deep plain network, largest first.

    With layers h' = W f(h), W Gaussian, and units distributed as N(0, q): for L layers of width n,
    L >> n, log s_i / L tends to mu_i, which for n large depends on t = (i - 1/2) / n alone. From
    the S-transform of a layer, S(-t) = 1 / exp(2 mu(t)),

    .. math:: e^{2\mu(t)} = \sigma_w^2\,t / y, \qquad E\,\frac{y f'(Z)^2}{1 + y f'(Z)^2} = t.

    The identity gives sigma_w^2 (1 - t), the large-n form of `newman_exponents`; the rectifier
    sigma_w^2 (1/2 - t). As S-transforms multiply, the mean of the log singular values is L times
    the mean of these at every L, n to infinity; their variance is L^2 that of these for L >> n.

    Args:
        activation: A name, or an elementwise callable, continuous.
        n: The width, at least 1.
        variance: q > 0, of the preactivations: the fixed point of a deep network.
        weight_variance: sigma_w^2 > 0, by default the squared gain 1/E f(Z)^2.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece of the quadratures.

    Returns:
        (n,), nats a layer; -inf where t is beyond the share of units with f' != 0.

    Raises:
        ValueError: ``n`` below 1, or a value out of range.

    Example:
        >>> print([f"{mu:.3f}" for mu in jacobian_exponents("relu", 4)])
        ['-0.144', '-0.693', '-inf', '-inf']

    Reference:
        Isopi & Newman 1992, "The triangle law for Lyapunov exponents of large random matrices";
        Kargin 2008, "Lyapunov exponents of free operators"; S-transforms of layers: Pennington,
        Schoenholz & Ganguli 2017, "Resurrecting the sigmoid", eq. 13.
    """
    n = products.check_count("n", n)
    it = maps.layer(activation, weight_variance, 0.0, breakpoints, nodes, variance)
    q = quad.as_positive("variance", variance, it.dtype)
    x, w = quad.line_nodes(it.points, q, it.nodes, it.dtype)
    squares = jnp.square(quad.derivative(it.function)(x))
    t = (jnp.arange(n, dtype=it.dtype) + 0.5) / n
    alive = t < jnp.sum(jnp.where(squares > 0, w, 0))

    def share(log_y: Array) -> Array:
        grown = jnp.exp(log_y)[:, None] * squares[None]
        return jnp.sum(w[None] * grown / (1 + grown), axis=1)

    def bisect(_: ArrayLike, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = share(middle) > t
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.full(n, -40.0, it.dtype), jnp.full(n, 40.0, it.dtype)
    low, high = lax.fori_loop(0, BISECTIONS, bisect, ends)
    exponents = (jnp.log(it.weight_variance) + jnp.log(t) - (low + high) / 2) / 2
    return lax.stop_gradient(jnp.where(alive, exponents, -jnp.inf))


class LogNorm(NamedTuple):
    """Mean and variance of the logarithm of a squared norm, by depth; index 0 is the input."""

    mean: Float[Array, " depth+1"]
    variance: Float[Array, " depth+1"]


def jacobian_log_norm(
    activation: quad.Activation,
    n: int,
    depth: int,
    /,
    *,
    variance: ArrayLike = 1.0,
    weight_variance: ArrayLike | None = None,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
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
        activation: A name, or an elementwise callable, continuous.
        n: The width, at least 1.
        depth: Number of layers L, at least 1.
        variance: q > 0, of the preactivations.
        weight_variance: sigma_w^2 > 0, by default the squared gain 1/E f(Z)^2.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece of the quadratures.

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
    n, depth = products.check_count("n", n), products.check_count("depth", depth)
    it = maps.layer(activation, weight_variance, 0.0, breakpoints, nodes, variance)
    q = quad.as_positive("variance", variance, it.dtype)
    mu_1, mu_2 = (maps.slope_moment(it.function, it.points, q, it.nodes, k) for k in (2, 4))
    spread = (3 * mu_2 / jnp.square(mu_1) - 1) / n
    layers = jnp.arange(depth + 1, dtype=it.dtype)
    return LogNorm(layers * (jnp.log(it.weight_variance * mu_1) - spread / 2), layers * spread)
