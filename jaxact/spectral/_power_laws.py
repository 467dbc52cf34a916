"""Power laws in a spectrum: by rank (alpha-ReQ) and by density (Clauset, Shalizi & Newman)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxact.spectral._spectrum import checked, descending, logarithms, sound


class AlphaReQ(NamedTuple):
    """Decay of the eigenvalues with their index.

    Attributes:
      alpha: exponent, positive for a decaying spectrum; 0 where fewer than two values are nonzero.
      r_squared: coefficient of determination of the fit, from 0 to 1.
      count: how many eigenvalues were fitted, int32.
    """

    alpha: Float[Array, "*batch"]
    r_squared: Float[Array, "*batch"]
    count: Int[Array, "*batch"]


def alpha_req(
    s: Float[Array, "*batch k"],
    /,
    *,
    log: bool = False,
    start: int = 1,
    stop: int | None = None,
) -> AlphaReQ:
    r"""alpha-ReQ: least-squares exponent of :math:`\lambda_j \propto j^{-\alpha}`.

    The eigenvalues :math:`\lambda_j = s_j^2` of the covariance, in descending order, are fitted in
    log-log over the indices j from ``start`` to ``stop``; exact zeros are left out.

    Args:
      s: singular values (of centred features, in the paper), not negative, in any order; or their
        natural logarithms with ``log=True``, -inf for an exact zero. Any batch shape and float
        dtype.
      log: whether ``s`` holds logarithms.
      start: first index, from 1.
      stop: last index, included; k if not given.

    Returns:
      An `AlphaReQ`; NaN, and count -1, where ``s`` holds NaN or plus infinity. Differentiable, with
      finite gradients.

    Raises:
      ValueError: if the range holds fewer than two indices of 1 to k.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(alpha_req(jnp.arange(1.0, 100.0) ** -0.5).alpha), 4)
      1.0

    Reference:
      Agrawal et al. 2022, "alpha-ReQ: assessing representation quality in self-supervised learning
      by measuring eigenspectrum decay".
    """
    s = checked(s, 2)
    last = s.shape[-1] if stop is None else stop
    if not 1 <= start < last <= s.shape[-1]:
        raise ValueError(
            f"start < stop must both be from 1 to {s.shape[-1]}; got start={start}, stop={stop}"
        )
    y = 2 * descending(logarithms(s, log))[..., start - 1 : last]
    kept = jnp.isfinite(y)
    count = jnp.sum(kept.astype(jnp.int32), axis=-1)
    share = kept.astype(s.dtype) / jnp.maximum(count, 1).astype(s.dtype)[..., None]
    x = jnp.log(jnp.arange(start, last + 1, dtype=s.dtype))
    x, y = jnp.broadcast_to(x, y.shape), jnp.where(kept, y, 0)
    x = jnp.where(kept, x - jnp.sum(share * x, axis=-1, keepdims=True), 0)
    y = jnp.where(kept, y - jnp.sum(share * y, axis=-1, keepdims=True), 0)
    xx, xy, yy = (jnp.sum(share * a * b, axis=-1) for a, b in ((x, x), (x, y), (y, y)))
    some, varies = count > 1, (count > 1) & (yy > 0)
    slope = jnp.where(some, xy / jnp.where(some, xx, 1), 0)
    r_squared = jnp.where(varies, slope * xy / jnp.where(varies, yy, 1), 0)
    usable = sound(s)
    alpha, r_squared = (jnp.where(usable, value, jnp.nan) for value in (-slope, r_squared))
    return AlphaReQ(alpha, r_squared, jnp.where(usable, count, -1))


class PowerLaw(NamedTuple):
    """A power-law tail of the eigenvalues.

    Attributes:
      alpha: exponent of the density, above 1; infinity where the tail is a single value.
      standard_error: of alpha, (alpha - 1) / sqrt(count).
      log_minimum: natural logarithm of the eigenvalue from which the tail starts.
      distance: Kolmogorov-Smirnov distance of the tail from the law.
      count: eigenvalues in the tail, int32.
    """

    alpha: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    log_minimum: Float[Array, "*batch"]
    distance: Float[Array, "*batch"]
    count: Int[Array, "*batch"]


def power_law(s: Float[Array, "*batch k"], /, *, log: bool = False) -> PowerLaw:
    r"""Exponent of a power-law density :math:`\rho(\lambda) \propto \lambda^{-\alpha}`.

    For the n eigenvalues :math:`\lambda = s^2` from :math:`\lambda_\mathrm{min}` on the most likely
    exponent is

    .. math:: \alpha = 1 + n \Big/ \sum_{i=1}^n \log(\lambda_i / \lambda_\mathrm{min});

    :math:`\lambda_\mathrm{min}` is the eigenvalue, not the largest, for which the tail's
    distribution is nearest to the law's by Kolmogorov and Smirnov's distance. This is the exponent
    of the heavy-tailed theory of Martin & Mahoney (weightwatcher's alpha).

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero; zeros are left out. Any batch shape and float dtype.
      log: whether ``s`` holds logarithms.

    Returns:
      A `PowerLaw`. ``alpha`` is differentiable at a fixed start of the tail, with finite gradients
      (zero where alpha is infinite); a spectrum of fewer than two distinct nonzero values has alpha
      infinite, distance 1 and count 0; one that holds NaN or plus infinity has NaN, and count -1.

    Raises:
      ValueError: if ``s`` has fewer than two values.

    Example:
      >>> import jax.numpy as jnp
      >>> eigenvalues = (1 - jnp.linspace(0, 1, 500, endpoint=False)) ** (-1 / (2.5 - 1))
      >>> round(float(power_law(jnp.sqrt(eigenvalues)).alpha), 1)
      2.5

    Reference:
      Clauset, Shalizi & Newman 2009, "Power-law distributions in empirical data", eqs. 3.1, 3.2
      and 3.9.
    """
    x = 2 * descending(logarithms(checked(s, 2), log))
    flat = lax.map(_tail, x.reshape(-1, x.shape[-1]))
    found = jax.tree.map(lambda leaf: leaf.reshape(x.shape[:-1]), flat)
    usable = sound(s)
    values = {
        name: jnp.where(usable, leaf, -1 if name == "count" else jnp.nan)
        for name, leaf in found._asdict().items()
    }
    return PowerLaw(**values)


def _tail(x: Float[Array, " k"]) -> PowerLaw:
    k = len(x)
    finite = jnp.isfinite(x)
    x = jnp.where(finite, x, 0)
    index = jnp.arange(k)
    dtype = x.dtype

    def fit(x, start):
        """The tail x[: start + 1], largest first."""
        inside = index <= start
        count = (start + 1).astype(dtype)
        excess = jnp.where(inside, x - x[start], 0)
        total = jnp.sum(excess)
        valid = finite[start] & (total > 0)
        slope = jnp.where(valid, count / jnp.where(valid, total, 1), jnp.inf)
        return excess, slope, valid

    fixed = lax.stop_gradient(x)
    # Of equal values the last starts the tail: it must hold all that are not less than its start.
    starts = finite & jnp.append((fixed[1:] < fixed[:-1]) | ~finite[1:], True)

    def distance(start):
        excess, slope, valid = fit(fixed, start)
        valid &= starts[start]
        inside = index <= start
        law = -jnp.expm1(-jnp.where(valid, slope, 1) * excess)
        below = (start - index).astype(dtype) / (start + 1).astype(dtype)
        gap = jnp.max(jnp.where(inside, jnp.abs(law - below), 0))
        return jnp.where(valid, gap, jnp.inf)

    distances = lax.map(distance, index, batch_size=min(k, 128))
    best = jnp.argmin(distances)
    _, slope, valid = fit(x, best)
    count = jnp.where(valid, best + 1, 0).astype(jnp.int32)
    root = jnp.sqrt(jnp.maximum(count, 1).astype(dtype))
    return PowerLaw(
        1 + slope,
        slope / root,
        jnp.where(finite[best], x[best], -jnp.inf),
        jnp.where(valid, distances[best], 1),
        count,
    )
