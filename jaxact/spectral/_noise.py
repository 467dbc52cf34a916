"""Signal and noise in a spectrum: numerical rank by tolerance, and Marchenko-Pastur."""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxact.spectral import _spectrum
from jaxact.spectral._spectrum import checked, descending, sound


def numerical_rank(
    s: Float[Array, "*batch k"],
    /,
    *,
    log: bool = False,
    shape: tuple[int, int] | None = None,
    relative: float | int | None = None,
    absolute: float | int | None = None,
    noise: float | int | Literal["median"] | None = None,
) -> Int[Array, "*batch"]:
    r"""Numerical rank: how many singular values exceed a tolerance, strictly.

    One of four tolerances:

    - with ``shape=(m, n)`` NumPy's, :math:`\max(m, n)\,\epsilon\,s_1`, with the machine epsilon of
      the dtype of ``s``, half precision included;
    - ``relative``, a share of s_1;
    - ``absolute``;
    - with ``shape`` and ``noise`` the optimal hard threshold of Gavish and Donoho for a low-rank
      matrix in white noise: :math:`\lambda(\beta) \sqrt{M}\,\sigma` for a known standard deviation
      of the entries, or :math:`\lambda(\beta) / \sqrt{\mu_\beta}` times the median singular value
      (``noise="median"``), with :math:`\beta = \min(m, n) / M`, M = max(m, n),
      :math:`\lambda^2 = 2(\beta+1) + 8\beta / (\beta + 1 + \sqrt{\beta^2 + 14\beta + 1})`, and
      the median :math:`\mu_\beta` of Marchenko and Pastur's law.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype.
      log: whether ``s`` holds logarithms.
      shape: (m, n) of the matrices.
      relative: from 0 to 1.
      absolute: not negative.
      noise: standard deviation of the noise in each entry, positive; or ``"median"``, for which
        ``s`` must hold all min(m, n) values.

    Returns:
      int32, from 0 to k; 0 for a zero matrix, -1 where ``s`` holds NaN or plus infinity. It is
      constant almost everywhere: no gradient.

    Raises:
      ValueError: if not exactly one tolerance is given or it is out of range, or ``s`` has no
        singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> int(numerical_rank(jnp.array([1.0, 1e-3, 1e-9]), shape=(3, 3)))
      2

    Reference:
      Gavish & Donoho 2014, "The optimal hard threshold for singular values is 4/sqrt(3)".
    """
    if sum(option is not None for option in (shape, relative, absolute)) != 1:
        raise ValueError(
            "exactly one of shape, relative and absolute must be given; got "
            f"shape={shape}, relative={relative}, absolute={absolute}"
        )
    epsilon = float(jnp.finfo(s.dtype).eps)
    s = jax.lax.stop_gradient(checked(s))
    if noise is not None:
        return _count(s, _gavish_donoho(s, shape, noise, log))
    if absolute is not None:
        if not absolute >= 0:
            raise ValueError(f"absolute must not be negative; got {absolute}")
        return _count(s, _maybe_log(absolute, s, log))
    if shape is not None:
        tolerance = max(_checked_shape(shape)) * epsilon
    else:
        tolerance = relative
        if tolerance is None or not 0 <= tolerance <= 1:
            raise ValueError(f"relative must be from 0 to 1; got {relative}")
        if tolerance == 0:
            return _count(s, -jnp.inf if log else 0)
    return jnp.where(sound(s), _count(_spectrum.relative(s, log), tolerance), -1)


class MarchenkoPastur(NamedTuple):
    """Singular values against those of white noise of the same shape.

    Attributes:
      lower: lower edge of the noise's singular values, (...,).
      upper: upper edge.
      noise: standard deviation of the noise's entries.
      outliers: how many singular values lie above the upper edge, int32; -1 where the spectrum
        holds NaN or infinity.
    """

    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    noise: Float[Array, "*batch"]
    outliers: Int[Array, "*batch"]


def marchenko_pastur(
    s: Float[Array, "*batch k"],
    /,
    *,
    shape: tuple[int, int],
    noise: float | int | Literal["median"] = "median",
    quantile: float | int = 2.0234,
) -> MarchenkoPastur:
    r"""Edges of the singular values of white noise, and how many values lie above.

    An m x n matrix of independent entries of standard deviation :math:`\sigma` has its singular
    values within :math:`\sigma (\sqrt{M} \mp \sqrt{m'})`, M and m' the larger and smaller of m and
    n, as both grow. At finite size the largest fluctuates by Tracy and Widom's law: outliers are
    counted above

    .. math:: s^2 = \sigma^2 \left(c^2 + q\,c\,(1/\sqrt{M-1} + 1/\sqrt{m'})^{1/3}\right), \qquad
       c = \sqrt{M-1} + \sqrt{m'}.

    Args:
      s: singular values, not negative, in any order. Any batch shape; any float dtype.
      shape: (m, n) of the matrices.
      noise: sigma, positive; or ``"median"``: the median singular value over that of the law, for
        which ``s`` must hold all min(m, n) values. It is robust while outliers are few.
      quantile: q, of Tracy and Widom's law for real matrices; the default is its 99% quantile. 0
        counts from the asymptotic edge on, where noise alone gives an outlier now and then.

    Returns:
      A `MarchenkoPastur`; its edges are those of infinite size. Differentiable in the edges.

    Raises:
      ValueError: if ``noise`` is not positive, ``shape`` is not two positive sizes, or with
        ``"median"`` the spectrum is not whole.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> a = jax.random.normal(jax.random.key(0), (100, 400)).at[0].add(1.0)
      >>> int(marchenko_pastur(jnp.linalg.svd(a, compute_uv=False), shape=a.shape).outliers)
      1

    Reference:
      Marchenko & Pastur 1967; Johnstone 2001, "On the distribution of the largest eigenvalue in
      principal components analysis", theorem 1.1.
    """
    s = checked(s)
    small, large = sorted(_checked_shape(shape))
    if noise == "median":
        sigma = _median(s, shape) / math.sqrt(large * _median_of_law(small / large))
        sigma = jnp.where(sound(s), sigma, jnp.nan)
    else:
        sigma = jnp.full(s.shape[:-1], _checked_noise(noise), s.dtype)
    first, second = math.sqrt(max(large - 1, 1)), math.sqrt(small)
    centre = first + second
    top = math.sqrt(centre**2 + quantile * centre * (1 / first + 1 / second) ** (1 / 3))
    edge = top if quantile else math.sqrt(large) + second
    return MarchenkoPastur(
        sigma * (math.sqrt(large) - second),
        sigma * (math.sqrt(large) + second),
        sigma,
        _count(s, (sigma * edge)[..., None]),
    )


def _count(s: Array, bound: Array | float | int) -> Array:
    count = jnp.sum((s > bound).astype(jnp.int32), axis=-1)
    return jnp.where(sound(s), count, -1)


def _maybe_log(value: float | int, s: Array, log: bool) -> Array:
    bound = jnp.asarray(value, s.dtype)
    return jnp.log(bound) if log else bound


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive sizes; got {shape}")
    return shape


def _checked_noise(noise: float | int | str) -> float | int:
    if isinstance(noise, str) or not noise > 0:
        raise ValueError(f"noise must be positive or 'median'; got {noise!r}")
    return noise


def _median(s: Array, shape: tuple[int, int]) -> Array:
    if s.shape[-1] != min(shape):
        raise ValueError(
            f"with noise='median' s must hold all {min(shape)} values of matrices of shape "
            f"{shape}; got {s.shape[-1]}"
        )
    k = s.shape[-1]
    ordered = descending(s)
    return (ordered[..., (k - 1) // 2] + ordered[..., k // 2]) / 2


def _gavish_donoho(
    s: Array, shape: tuple[int, int] | None, noise: float | int | str, log: bool
) -> Array:
    if shape is None:
        raise ValueError(f"noise needs the shape of the matrices; got shape={shape}")
    small, large = sorted(_checked_shape(shape))
    b = small / large
    factor = math.sqrt(2 * (b + 1) + 8 * b / (b + 1 + math.sqrt(b * b + 14 * b + 1)))
    if noise == "median":
        factor /= math.sqrt(_median_of_law(b))
        median = _median(s, shape)[..., None]
        return median + math.log(factor) if log else median * factor
    return _maybe_log(factor * math.sqrt(large) * _checked_noise(noise), s, log)


@functools.cache
def _median_of_law(ratio: float) -> float:
    """Median of the nonzero eigenvalues by Marchenko and Pastur's law of unit variance."""
    middle, radius = 1 + ratio, 2 * math.sqrt(ratio)

    # x = middle - radius cos t makes the density smooth at both edges.
    def density(t: float) -> float:
        x = middle - radius * math.cos(t)
        square = (radius * math.sin(t)) ** 2
        return square / (2 * math.pi * ratio * x) if x > 0 else 2 / math.pi

    from scipy import integrate, optimize  # slow to import

    def excess(t: float) -> float:
        return integrate.quad(density, 0.0, t, epsabs=1e-12)[0] - 0.5

    return middle - radius * math.cos(float(np.asarray(optimize.brentq(excess, 0.0, math.pi))))
