"""Gaussian expectations by Gauss-Legendre panels split where an activation is not smooth."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxact import activations
from jaxact._compat import enable_x64

RANGE = 10.0  # the normal tail beyond it weighs 2e-23
LAYER = 8.0  # beyond it a conditional Gaussian no longer sees a kink: 1e-15
KNEE = 4.0  # a sigmoid of unit scale is flat beyond: at large q its bend has panels of its own
NODES = 64

Activation = str | Callable[..., Any]


def resolve(
    activation: Activation, breakpoints: Sequence[ArrayLike] | ArrayLike = ()
) -> tuple[Callable[[Array], Array], np.ndarray | Array]:
    """The function and the sorted points, 0 included, at which its integrals are split."""
    if isinstance(activation, str):
        function = activations.get(activation)
        points = np.asarray(activations.info(activation).breakpoints, np.float64)
    elif callable(activation):
        function, points = activation, np.zeros(0)
    else:
        raise TypeError(
            f"activation must be a name or a callable, got {type(activation).__name__}: "
            f"{activation!r}"
        )
    if any(isinstance(b, jax.Array) for b in jax.tree.leaves(breakpoints)):
        given = jnp.stack([jnp.asarray(b) for b in jax.tree.leaves(breakpoints)])
        given = jnp.atleast_1d(given.reshape(-1))
        return function, jnp.concatenate([given, jnp.asarray(np.append(points, 0.0), given.dtype)])
    given = np.asarray(breakpoints, np.float64).reshape(-1)
    if np.isnan(given).any():
        raise ValueError(f"breakpoints must be numbers, got {breakpoints!r}")
    points = np.unique(np.concatenate([points, given, [0.0]]))
    return function, points[np.isfinite(points)]


def scalar_dtype(*values: ArrayLike) -> Any:
    """The arrays' dtype, at least float32; JAX's default for plain numbers."""
    dtypes = [v.dtype for v in values if isinstance(v, Array | np.ndarray)]
    dtypes = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    if not dtypes:
        return jnp.zeros(()).dtype
    return max([*dtypes, jnp.dtype(jnp.float32)], key=lambda d: d.itemsize)


def as_positive(name: str, value: ArrayLike, dtype: Any, *, zero: bool = False) -> Array:
    """The value as an array; a number known at trace time must be positive (or zero)."""
    if not isinstance(value, Tracer):
        known = np.asarray(value)
        if known.dtype.kind not in "fiuV" and known.dtype != jnp.bfloat16:
            raise TypeError(f"{name} must be a real number, got {value!r}")
        known = known.astype(np.float64)
        if not np.all(((known >= 0) if zero else (known > 0)) & (known < np.inf)):
            what = "non-negative" if zero else "positive"
            raise ValueError(f"{name} must be {what} and finite, got {value!r}")
    return jnp.asarray(value).astype(dtype)


def as_within(name: str, value: ArrayLike, low: float, high: float, dtype: Any) -> Array:
    """The value as an array; one known at trace time must lie in [low, high]."""
    if not isinstance(value, Tracer):
        known = np.asarray(value).astype(np.float64)
        if not np.all((known >= low) & (known <= high)):
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")
    return jnp.asarray(value).astype(dtype)


@functools.lru_cache
def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [-1, 1], float64."""
    return np.polynomial.legendre.leggauss(nodes)


def panels(edges: Any, nodes: int, dtype: Any) -> tuple[Array, Array]:
    """Nodes z, (..., (edges - 1) * nodes), and weights that hold the standard normal density.

    ``edges``, (..., edges), are sorted and within [-RANGE, RANGE]; panels of no width are allowed.
    """
    xp = np if isinstance(edges, np.ndarray) else jnp
    t, w = legendre(nodes)
    lead = (1,) * edges.ndim
    middle = ((edges[..., 1:] + edges[..., :-1]) / 2)[..., None]
    half = ((edges[..., 1:] - edges[..., :-1]) / 2)[..., None]
    t, w = (
        v.reshape(*lead, nodes) if xp is np else jnp.asarray(v, dtype).reshape(*lead, nodes)
        for v in (t, w)
    )
    z = middle + half * t
    weights = half * w * xp.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    shape = (*z.shape[:-2], -1)
    return jnp.asarray(z.reshape(shape), dtype), jnp.asarray(weights.reshape(shape), dtype)


def line_nodes(
    points: np.ndarray | Array, variance: ArrayLike, nodes: int, dtype: Any
) -> tuple[Array, Array]:
    """Nodes x of N(0, variance) and their weights, split at ``points`` and at -KNEE and KNEE."""
    if isinstance(points, np.ndarray) and isinstance(variance, int | float):
        scale = np.sqrt(float(variance))
        points = np.unique(np.concatenate([points, [-KNEE, KNEE]]))
        edges = np.clip(points / scale if scale else points * 0, -RANGE, RANGE)
        edges = np.concatenate([[-RANGE], edges, [RANGE]])
    else:
        scale = jnp.sqrt(jnp.asarray(variance, dtype))
        safe = jnp.where(scale > 0, scale, jnp.ones((), dtype))
        knees = jnp.asarray([-KNEE, KNEE], dtype)
        edges = jnp.concatenate([jnp.asarray(points, dtype), knees]) / safe
        edges = jnp.sort(jnp.clip(edges, -RANGE, RANGE))
        ends = jnp.asarray([RANGE], dtype)
        edges = jnp.concatenate([-ends, edges, ends])
    z, weights = panels(edges, nodes, dtype)
    return z * jnp.asarray(scale, dtype), weights


def total(values: Array, weights: Array) -> Array:
    """The weighted sum over the last axis, in the dtype of the weights."""
    return jnp.sum(values.astype(weights.dtype) * weights, axis=-1)


def derivative(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The elementwise derivative of an elementwise function."""

    def slope(x: Array) -> Array:
        return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]

    return slope


def over(function: Callable[..., Any], *arguments: Array) -> Any:
    """Apply a function of scalars to arrays that broadcast, a few elements at a time."""
    shape = jnp.broadcast_shapes(*(a.shape for a in arguments))
    if shape == ():
        return function(*arguments)
    flat = tuple(jnp.broadcast_to(a, shape).reshape(-1) for a in arguments)
    result = jax.lax.map(lambda a: function(*a), flat, batch_size=8)
    return jax.tree.map(lambda r: r.reshape(shape + r.shape[1:]), result)


def pair_nodes(
    points: np.ndarray | Array, q1: Array, q2: Array, defect: Array, nodes: int
) -> tuple[Array, Array, Array]:
    """Nodes (x1, x2) of a centred Gaussian pair of correlation 1 - defect, and their weights.

    x1 is (outer, 1), x2 (outer, inner): x2 is integrated given x1, split where x2 meets a kink.
    The inner integral, as a function of x1, bends within a layer of width sqrt(1 - c^2) where the
    mean of x2 meets a kink: the outer one is split at the kinks of x1 and around the layers.
    """
    dtype = q1.dtype
    points = jnp.asarray(points, dtype)
    c = 1 - defect
    square = defect * (2 - defect)
    one = jnp.ones((), dtype)
    s = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, one)), 0)
    safe_s = jnp.where(square > 0, s, one)
    own, kink = points / jnp.sqrt(q1), points / jnp.sqrt(q2)
    safe_c = jnp.where(jnp.abs(c) > 0.01, c, jnp.asarray(0.01, dtype))
    ends = jnp.asarray([RANGE], dtype)
    outer = jnp.concatenate([own, (kink - LAYER * s) / safe_c, (kink + LAYER * s) / safe_c])
    outer = jnp.concatenate([-ends, jnp.sort(jnp.clip(outer, -RANGE, RANGE)), ends])
    z1, w1 = panels(outer, nodes, dtype)
    z1 = z1[:, None]
    z2, w2 = conditional_nodes(kink, c * z1, safe_s, nodes)
    return jnp.sqrt(q1) * z1, jnp.sqrt(q2) * (c * z1 + s * z2), w1[:, None] * w2


def conditional_nodes(
    kinks: Array, mean: Array, deviation: Array, nodes: int
) -> tuple[Array, Array]:
    """Standard normal nodes z, (outer, inner), split where mean + deviation z meets a kink."""
    edges = (kinks[None, :] - mean) / deviation
    edges = jnp.sort(jnp.clip(edges, -RANGE, RANGE), axis=-1)
    ends = jnp.full((mean.shape[0], 1), RANGE, mean.dtype)
    return panels(jnp.concatenate([-ends, edges, ends], axis=-1), nodes, mean.dtype)


def jumps(function: Callable[[Array], Array], points: np.ndarray | Array, dtype: Any) -> Array:
    """How far a function jumps at each point; rounding counts as no jump."""
    at = jnp.asarray(points, dtype)
    eps = float(jnp.finfo(dtype).eps)
    step = jnp.where(at == 0, jnp.asarray(1e-30, dtype), 4 * eps * jnp.abs(at))
    above, below = function(at + step), function(at - step)
    jump = above - below
    return jnp.where(jnp.abs(jump) > 256 * eps * (1 + jnp.abs(above)), jump, 0).astype(dtype)


def in_float64_if_static(
    solve: Callable[[], Any], activation: Activation, value: ArrayLike, custom: bool = False
) -> Any:
    """Evaluate in float64 at trace time what no array enters: constants are then rounded once."""
    if not isinstance(activation, str) or not isinstance(value, int | float) or custom:
        return solve()
    with jax.ensure_compile_time_eval(), enable_x64(True):
        result = jax.tree.map(np.asarray, solve())
    dtype = jnp.zeros(()).dtype
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), result)
