"""An activation of each entry, by the mean of its slope between the mean and the token."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxact.analysis.graded._tokens import GradedTokens, collected, power

NODES = 16


def activation(
    x: GradedTokens, f: Callable[[Array], Array], /, *, breakpoints: Sequence[float] = ()
) -> GradedTokens:
    r"""A continuous function of each entry.

    Its divided difference is the mean slope,
    :math:`f(a + z) - f(a) = z \int_0^1 f'(a + t z)\, dt`, by Gauss-Legendre quadrature on both
    sides of each breakpoint. Where that and the difference itself are further apart than rounding
    (a long way z, on which the slope varies much), the difference is taken.

    Args:
      x: tokens.
      f: elementwise, differentiable by JAX; of `jaxact.activations`, say.
      breakpoints: where f or a derivative of it jumps, as `jaxact.activations.info` lists them.

    Returns:
      f of the tokens.

    Raises:
      ValueError: if a breakpoint is not a finite number.
    """
    points = sorted({float(p) for p in breakpoints})
    if not np.all(np.isfinite(points)):
        raise ValueError(f"breakpoints must be finite numbers; got {breakpoints!r}")
    a, r, dtype = x.mean[None], x.deviation, x.mean.dtype
    z = power(x.exponent, dtype) * r
    end, start = f(a + z), f(a)
    nodes, at = _panels(a, r, z, x.exponent, points)
    slopes = jax.jvp(f, (at,), (jnp.ones_like(at),))[1]
    slope = jnp.sum(nodes * slopes, axis=0)
    # Where the scale is gone from the dtype only the slope is left to take.
    near = jnp.maximum(x.exponent, jnp.finfo(dtype).minexp // 2)
    difference = end - start
    steep = jnp.max(jnp.abs(slopes), axis=0)
    sizes = jnp.abs(end) + jnp.abs(start) + (jnp.abs(a) + jnp.abs(z)) * steep
    agree = jnp.abs(slope * z - difference) <= 4 * jnp.finfo(dtype).eps * sizes
    agree |= x.exponent < near
    deviation = jnp.where(agree, slope * r, difference * power(-near, dtype))
    return collected(start[0], deviation[None], x.exponent[None])


def _panels(a: Array, r: Array, z: Array, exponent: Array, points: list[float]):
    """Weights and abscissae (nodes, n, d) of the mean over [a, a + z], split at the points."""
    t, w = _legendre()
    info = jnp.finfo(r.dtype)
    one = jnp.ones_like(r)
    splits = [_share(p, a, r, exponent) for p in points]
    edges = jnp.sort(jnp.stack([0 * one, *splits, one]), axis=0)
    width = edges[1:] - edges[:-1]
    t, w = (jnp.asarray(v, r.dtype)[:, None, None, None] for v in (t, w))
    share = edges[:-1][None] + width[None] * t
    at = a[None, None] + z[None, None] * share
    for p, split in zip(points, splits, strict=True):
        # Rounding may put on the kink what lies before or behind it.
        side = jnp.where(share < split[None, None], -1, 1) * jnp.sign(r)[None, None]
        beside = p + side * max(abs(p) * float(info.eps), float(info.tiny))
        at = jnp.where(at == p, beside, at)
    weights = width[None] * w
    weights, at = (v.reshape(-1, *r.shape) for v in (weights, at))
    return weights, at


def _share(point: float, a: Array, r: Array, exponent: Array) -> Array:
    """How far along the way from a to a + z a point lies: 0 for one before it, 1 behind it."""
    gap = point - a
    scale = power(jnp.minimum(-exponent, jnp.finfo(r.dtype).maxexp - 1), r.dtype)
    ahead = jnp.sign(gap) == jnp.sign(r)
    inside = ahead & (jnp.abs(gap) * scale < jnp.abs(r))
    share = jnp.where(inside, gap, 0) * scale / jnp.where(inside, r, 1)
    return jnp.where(ahead & ~inside, 1, share)


@functools.lru_cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    t, w = np.polynomial.legendre.leggauss(NODES)
    return (t + 1) / 2, w / 2
