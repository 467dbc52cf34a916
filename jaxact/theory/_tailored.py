"""Deep kernel shaping and tailored activations: scales and shifts that keep deep maps in bounds."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxact._checks import whole
from jaxact.theory import _quadrature as quad

# network(x, layer): the largest value over subnetworks when each nonlinear layer maps x by `layer`
Network = Callable[[Array, Callable[[Array], Array]], Array]

_SCALES = (1.0, 0.3, 0.1)
_SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0)
_STEPS = 60
_BISECTIONS = 60
_SOLVED = 1e-2  # as well as float32 can; where no solution is, 0.5 or more is left


class Tailored(NamedTuple):
    """f_hat(x) = output_scale (f(input_scale x + input_shift) + output_shift)."""

    input_scale: Float[Array, ""]
    input_shift: Float[Array, ""]
    output_scale: Float[Array, ""]
    output_shift: Float[Array, ""]
    residual: Float[Array, ""]


class TailoredLeakyReLU(NamedTuple):
    """f_hat(x) = output_scale leaky_relu(x, negative_slope)."""

    negative_slope: Float[Array, ""]
    output_scale: Float[Array, ""]
    residual: Float[Array, ""]


def plain_network(depth: int, /) -> Network:
    """The subnetwork-maximizing function of ``depth`` nonlinear layers in sequence.

    Args:
        depth: Number of nonlinear layers, at least 1.

    Returns:
        ``network(x, layer)``: ``layer`` applied ``depth`` times.

    Raises:
        ValueError: ``depth`` below 1.
    """
    depth = whole("depth", depth)

    def network(x: Array, layer: Callable[[Array], Array]) -> Array:
        return lax.fori_loop(0, depth, lambda _, v: layer(v), x)

    return network


def residual_network(
    blocks: int, /, *, branch_depth: int = 2, shortcut_weight: float = 0.5**0.5
) -> Network:
    """The subnetwork-maximizing function of pre-activation blocks w x + sqrt(1 - w^2) F(x).

    Correlations pass a block as w^2 c + (1 - w^2) F(c), F of ``branch_depth`` nonlinear layers, and
    one nonlinear layer ends the network; the largest subnetwork is the whole or a single branch.

    Args:
        blocks: Number of residual blocks, at least 1.
        branch_depth: Nonlinear layers in a branch, at least 1.
        shortcut_weight: w in [0, 1].

    Returns:
        ``network(x, layer)``.

    Raises:
        ValueError: A count below 1, or ``shortcut_weight`` outside [0, 1].

    Reference:
        Zhang et al. 2022, appendix B; Martens et al. 2021, section on modified ResNets.
    """
    blocks = whole("blocks", blocks)
    branch = plain_network(whole("branch_depth", branch_depth))
    if not 0 <= shortcut_weight <= 1:
        raise ValueError(f"shortcut_weight must lie in [0, 1], got {shortcut_weight!r}")
    share = float(shortcut_weight) ** 2

    def network(x: Array, layer: Callable[[Array], Array]) -> Array:
        def block(_, v: Array) -> Array:
            return share * v + (1 - share) * branch(v, layer)

        whole = layer(lax.fori_loop(0, blocks, block, x))
        return jnp.maximum(whole, branch(x, layer))

    return network


def _as_network(network: int | Network) -> Network:
    return network if callable(network) else plain_network(network)


def _increasing_root(function: Callable[[Array], Array], low: float, high: float, dtype) -> Array:
    """Where an increasing function crosses 0, with the implicit derivative."""

    def step(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = function(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    low, high = lax.fori_loop(0, _BISECTIONS, step, ends)
    root = lax.stop_gradient(jnp.add(low, high) / 2)
    value, slope = jax.jvp(function, (root,), (jnp.ones_like(root),))
    slope = lax.stop_gradient(slope)
    usable = (slope > 0) & jnp.isfinite(slope) & jnp.isfinite(value)
    correction = jnp.where(usable, value, 0) / jnp.where(usable, slope, 1)
    # bisection has the value; the step only carries the derivative
    return root - (correction - lax.stop_gradient(correction))


def _newton(conditions: Callable[[Array], Array], start: Array) -> Array:
    """Levenberg-Marquardt for a square system, a fixed number of steps."""
    identity = jnp.eye(start.shape[0], dtype=start.dtype)

    def squared(value: Array) -> Array:
        return jnp.where(jnp.all(jnp.isfinite(value)), jnp.sum(jnp.square(value)), jnp.inf)

    def step(_, state):
        p, damping = state
        value, jacobian = conditions(p), jax.jacfwd(conditions)(p)
        gram = jnp.matmul(jacobian.T, jacobian, precision="highest")
        slope = jnp.matmul(jacobian.T, value, precision="highest")
        size = jnp.trace(gram) / start.shape[0]
        move = jnp.linalg.solve(gram + (damping * size + 1e-30) * identity, slope)
        proposal = p - jnp.clip(move, -1, 1)
        better = squared(conditions(proposal)) < squared(value)
        damping = jnp.where(better, damping / 10, jnp.minimum(damping * 10, 1e6))
        return jnp.where(better, proposal, p), jnp.maximum(damping, 1e-14)

    return lax.fori_loop(0, _STEPS, step, (start, jnp.asarray(1e-2, start.dtype)))[0]


def _solve(
    conditions: Callable[[Array, Array], Array],
    parameters: Callable[[Array, Array], tuple[Array, Array, Array, Array]],
    signs: tuple[float, ...],
    dtype: Any,
) -> Tailored:
    """The solution of least input shift, from a grid of starts, steep ones last."""
    grid = [(math.log(a), b, s) for s in signs for a in _SCALES for b in _SHIFTS]
    grid = jnp.asarray(np.array(grid), dtype)

    def one(start: Array) -> tuple[Array, Array, Array]:
        p = _newton(lambda p: conditions(p, start[2]), start[:2])
        error = jnp.max(jnp.abs(conditions(p, start[2])))
        scale, _, output_scale, _ = parameters(p, start[2])
        error = jnp.where(jnp.isfinite(error), error, jnp.inf)
        # Zhang 2022's code, too, rejects steep solutions: their variance map is unstable
        steep = jnp.where(scale * output_scale >= 2, 1e3, 0)
        return p, error, jnp.abs(p[1]) + jnp.where(p[1] < 0, 1e-4, 0) + steep

    found, error, cost = jax.vmap(one)(grid)
    solved = error < (1e-9 if dtype == jnp.float64 else _SOLVED)
    rank = jnp.where(solved, cost, jnp.inf)
    best = jnp.where(jnp.any(solved), jnp.argmin(rank), jnp.argmin(error))
    p, sign = lax.stop_gradient((found[best], grid[best, 2]))
    value = conditions(p, sign)
    jacobian = lax.stop_gradient(jax.jacfwd(lambda p: conditions(p, sign))(p))
    correction = jnp.linalg.solve(jacobian, value)
    p = p - jnp.where(solved[best], correction - lax.stop_gradient(correction), 0)
    return Tailored(*parameters(p, sign), lax.stop_gradient(error[best]))


class _Moments(NamedTuple):
    """Of g(z) = f(a z + b): all that the conditions ask."""

    mean: Array
    variance: Array
    slope: Array
    radial: Array
    radial_slope: Array
    curvature: Array


def _moments(function, points, scale: Array, shift: Array, nodes: int, order: int) -> _Moments:
    """E g, Var g, E g'^2, E (g - E g) g' z, E g' z and E g''^2, z-derivatives."""
    dtype = scale.dtype

    def g(z: Array) -> Array:
        return function(scale * z + shift)

    at = (jnp.asarray(points, dtype) - shift) / scale
    z, w = quad.line_nodes(at, jnp.ones((), dtype), nodes, dtype)
    first = quad.derivative(g)
    y, dy = g(z), first(z)
    mean = quad.total(y, w)
    curvature = jnp.zeros((), dtype)
    if order == 2:
        curvature = quad.total(jnp.square(quad.derivative(first)(z)), w)
        kinks = quad.jumps(quad.derivative(function), points, dtype)
        curvature = jnp.where(jnp.any(kinks != 0), jnp.inf, curvature)
    return _Moments(
        mean,
        quad.total(jnp.square(y - mean), w),
        quad.total(jnp.square(dy), w),
        quad.total((y - mean) * dy * z, w),
        quad.total(dy * z, w),
        curvature,
    )


def tailor_dks(
    activation: quad.Activation,
    network: int | Network,
    /,
    *,
    slope: ArrayLike = 1.5,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Tailored:
    """Deep kernel shaping: Q(1) = 1, Q'(1) = 1, C(0) = 0, and C'(1) so that no subnetwork exceeds.

    The local slope psi solves max over subnetworks of C'_net(1) = ``slope``; then the input scale
    and shift solve the two slope conditions by damped Newton from a grid of starts, output scale
    and shift following in closed form. Of several solutions that of least input shift is returned
    whose slope input_scale * output_scale is below 2; of a symmetric pair, the positive shift.

    Args:
        activation: A name, or an elementwise callable. A name is solved in float64 at trace time.
        network: Number of layers of a plain network, or ``network(x, layer)``, as
            ``plain_network`` and ``residual_network`` make it.
        slope: zeta > 1, a scalar.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece.

    Returns:
        ``Tailored``: ``activations.tailored`` applies it. ``residual`` is the largest error of the
        slope conditions over psi - 1; of a callable under `jax.jit`, where nothing can be raised,
        look at it. Differentiable once in ``slope`` and the network.

    Raises:
        ValueError: ``slope`` at most 1, or ``network`` below 1; or nothing meets the conditions, as
            for the rectifier and all that is positively homogeneous: scaling its input is scaling
            its output, which leaves one shift for two conditions (the ``dks`` package drops
            Q'(1) = 1 for it). Use ``tailor_leaky_relu``, or an activation that is smooth.

    Reference:
        Martens et al. 2021, "Rapid training of deep neural networks without skip connections or
        normalization layers using Deep Kernel Shaping", section "Summary of our method".
    """
    architecture = _as_network(network)

    def solve() -> Tailored:
        function, points = quad.resolve(activation, breakpoints)
        dtype = quad.scalar_dtype(slope)
        target = quad.as_positive("slope - 1", jnp.asarray(slope).astype(dtype) - 1, dtype)

        def excess(log_rise: Array) -> Array:
            psi = 1 + jnp.exp(log_rise)
            return jnp.log(architecture(jnp.ones((), dtype), lambda v: psi * v)) - jnp.log1p(target)

        rise = jnp.exp(_increasing_root(excess, math.log(1e-7), math.log(1e3), dtype))

        def parameters(p: Array, _) -> tuple[Array, Array, Array, Array]:
            m = _moments(function, points, jnp.exp(p[0]), p[1], nodes, 1)
            return jnp.exp(p[0]), p[1], lax.rsqrt(m.variance), -m.mean

        def conditions(p: Array, _) -> Array:
            m = _moments(function, points, jnp.exp(p[0]), p[1], nodes, 1)
            local = m.slope / m.variance - 1
            return jnp.stack([local / rise - 1, (m.radial / m.variance - 1) / rise])

        found = _solve(conditions, parameters, (1.0,), dtype)
        if not isinstance(found.residual, Tracer) and not found.residual < _SOLVED:
            raise ValueError(
                f"activation {activation!r} has no scales and shifts that meet the conditions of "
                f"deep kernel shaping (off by {float(found.residual):.2g} of C'(1) - 1): use "
                "tailor_leaky_relu for the rectifier and what is piecewise linear, or an "
                "activation that is smooth, such as tanh, softplus, gelu or silu"
            )
        return found

    return quad.in_float64_if_static(solve, activation, slope, callable(network))


def tailor_tat(
    activation: quad.Activation,
    network: int | Network,
    /,
    *,
    curvature: ArrayLike = 0.3,
    breakpoints: Sequence[ArrayLike] | ArrayLike = (),
    nodes: int = quad.NODES,
) -> Tailored:
    """Tailored activation transformation: Q(1) = Q'(1) = C'(1) = 1, and C''(1) bounded by depth.

    The local curvature solves max over subnetworks of C''_net(1) = ``curvature``; the rest is as in
    ``tailor_dks``. For the rectifier's family use ``tailor_leaky_relu``.

    Args:
        activation: A name, or an elementwise callable with a continuous derivative. A name is
            solved in float64 at trace time.
        network: Number of layers of a plain network, or ``network(x, layer)``.
        curvature: tau > 0, a scalar.
        breakpoints: Where a callable is not smooth.
        nodes: Nodes a piece.

    Returns:
        ``Tailored``. ``residual`` is the largest error of the conditions, relative to the local
        curvature; infinite for an activation with a kink, whose C''(1) is infinite.

    Raises:
        ValueError: ``curvature`` not positive, or ``network`` below 1.

    Reference:
        Zhang et al. 2022, "Deep learning without shortcuts: shaping the kernel with tailored
        rectifiers", section 4 and appendix B.
    """
    architecture = _as_network(network)

    def solve() -> Tailored:
        function, points = quad.resolve(activation, breakpoints)
        dtype = quad.scalar_dtype(curvature)
        target = quad.as_positive("curvature", curvature, dtype)

        def excess(log_local: Array) -> Array:
            local = jnp.exp(log_local)
            return architecture(jnp.zeros((), dtype), lambda v: v + local) / target - 1

        local = jnp.exp(_increasing_root(excess, math.log(1e-9), math.log(1e3), dtype))

        def parameters(p: Array, sign: Array) -> tuple[Array, Array, Array, Array]:
            m = _moments(function, points, jnp.exp(p[0]), p[1], nodes, 2)
            # Var g <= E g'^2 (Poincare): the mean that is kept makes up the difference
            gap = m.slope - m.variance
            kept = sign * jnp.sqrt(jnp.maximum(gap, jnp.finfo(dtype).tiny))
            return jnp.exp(p[0]), p[1], lax.rsqrt(m.slope), kept - m.mean

        def conditions(p: Array, sign: Array) -> Array:
            m = _moments(function, points, jnp.exp(p[0]), p[1], nodes, 2)
            gap = m.slope - m.variance
            kept = sign * jnp.sqrt(jnp.maximum(gap, jnp.finfo(dtype).tiny))
            q_slope = (m.radial + kept * m.radial_slope) / m.slope
            return jnp.stack([m.curvature / m.slope / local - 1, (q_slope - 1) / local])

        return _solve(conditions, parameters, (1.0, -1.0), dtype)

    return quad.in_float64_if_static(solve, activation, curvature, callable(network))


def tailor_leaky_relu(
    network: int | Network, /, *, correlation: ArrayLike = 0.9
) -> TailoredLeakyReLU:
    """Tailored rectifier: the negative slope for which orthogonal inputs reach ``correlation``.

    C(c) = c + (1 - a)^2 (sqrt(1 - c^2) - c arccos c) / (pi (1 + a^2)), and
    output_scale = sqrt(2 / (1 + a^2)).

    Args:
        network: Number of layers of a plain network, or ``network(x, layer)``.
        correlation: eta in (0, 1): the largest C_net(0) over subnetworks.

    Returns:
        ``TailoredLeakyReLU(negative_slope, output_scale, residual)``. ``residual`` is the error of
        C_net(0): large if even the rectifier does not reach ``correlation`` in so few layers.

    Raises:
        ValueError: ``correlation`` outside [0, 1], or ``network`` below 1.

    Example:
        >>> tailored = tailor_leaky_relu(50)
        >>> print(f"{tailored.negative_slope:.4f} {tailored.output_scale:.4f}")
        0.4305 1.2989

    Reference:
        Zhang et al. 2022, section 3, eq. 6 to 9.
    """
    architecture = _as_network(network)

    def solve() -> TailoredLeakyReLU:
        dtype = quad.scalar_dtype(correlation)
        target = quad.as_within("correlation", correlation, 0.0, 1.0, dtype)

        def shortfall(slope: Array) -> Array:
            share = jnp.square(1 - slope) / (math.pi * (1 + jnp.square(slope)))

            def layer(c: Array) -> Array:
                # a rounded c may exceed 1, and the sine has no derivative there
                c = jnp.clip(c, -1, 1 - 1e-7)
                sine = jnp.sqrt((1 - c) * (1 + c))
                return c + share * (sine - c * jnp.arctan2(sine, c))

            return target - architecture(jnp.zeros((), dtype), layer)

        slope = _increasing_root(shortfall, 0.0, 1.0, dtype)
        scale = jnp.sqrt(2 / (1 + jnp.square(slope)))
        return TailoredLeakyReLU(slope, scale, lax.stop_gradient(jnp.abs(shortfall(slope))))

    return quad.in_float64_if_static(solve, "leaky_relu", correlation, callable(network))
