"""Ranks of a spectrum: numbers that say how many directions a matrix really uses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def _relative(s: Float[Array, "*batch k"], log: bool) -> Float[Array, "*batch k"]:
    """Singular values over the largest; all zero for a zero matrix."""
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(f"s must have at least one singular value on its last axis; got {s.shape}")
    largest = jnp.max(s, axis=-1, keepdims=True)
    if log:
        zero = jnp.isneginf(s)
        shift = jnp.where(jnp.isneginf(largest), 0, largest)
        return jnp.where(zero, 0, jnp.exp(jnp.where(zero, 0, s) - shift))
    # Powers of two keep the reciprocal of the largest within the normal numbers.
    shift = jnp.where(largest > 1, 2.0**-20, 2.0**20).astype(s.dtype)
    return s * shift / jnp.where(largest > 0, largest * shift, 1)


def stable_rank(s: Float[Array, "*batch k"], /, *, log: bool = False) -> Float[Array, "*batch"]:
    r"""Stable rank: :math:`\|A\|_F^2 / \|A\|_2^2 = \sum_i s_i^2 / s_1^2`.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype.
      log: whether ``s`` holds logarithms.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(stable_rank(jnp.array([2.0, 1.0, 1.0])))
      1.5

    Reference:
      Rudelson & Vershynin 2007, "Sampling from large matrices", section 1.
    """
    return jnp.sum(jnp.square(_relative(s, log)), axis=-1)


def effective_rank(
    s: Float[Array, "*batch k"], /, *, log: bool = False, power: int = 1
) -> Float[Array, "*batch"]:
    r"""Effective rank: :math:`\exp(-\sum_i p_i \log p_i)`, :math:`p_i = s_i^q / \sum_j s_j^q`.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype.
      log: whether ``s`` holds logarithms.
      power: q. 1 is the definition of the paper; 2 takes the entropy of the squares, which are
        shares of the squared Frobenius norm. The two differ: say which is meant.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable; at a singular value of zero, where the
      derivative is infinite, the gradient is taken as 0.

    Raises:
      ValueError: if ``power`` is less than 1, or ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(effective_rank(jnp.array([3.0, 3.0, 0.0])))
      2.0

    Reference:
      Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", def. 1.
    """
    if power < 1:
        raise ValueError(f"power must be at least 1; got {power}")
    weight = _relative(s, log) ** power
    total = jnp.sum(weight, axis=-1, keepdims=True)
    p = weight / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=-1)
    return jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0)


def participation_ratio(
    s: Float[Array, "*batch k"], /, *, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Participation ratio of the squares: :math:`(\sum_i s_i^2)^2 / \sum_i s_i^4`.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype.
      log: whether ``s`` holds logarithms.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(participation_ratio(jnp.array([1.0, 1.0, 0.0])))
      2.0

    Reference:
      Gao & Ganguli 2015, "On simplicity and complexity in the brave new world of large-scale
      neuroscience", with the eigenvalues of the covariance for s^2.
    """
    square = jnp.square(_relative(s, log))
    total = jnp.sum(jnp.square(square), axis=-1)
    return jnp.square(jnp.sum(square, axis=-1)) / jnp.where(total > 0, total, 1)


def numerical_rank(
    s: Float[Array, "*batch k"],
    /,
    *,
    log: bool = False,
    shape: tuple[int, int] | None = None,
    relative: float | None = None,
    absolute: float | None = None,
) -> Int[Array, "*batch"]:
    r"""Numerical rank: how many singular values exceed a tolerance, strictly.

    One of three tolerances: with ``shape=(m, n)`` NumPy's,
    :math:`\max(m, n)\,\epsilon\,s_1` with the machine epsilon of the dtype of ``s``; a multiple
    ``relative`` of s_1; or ``absolute``.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype.
      log: whether ``s`` holds logarithms.
      shape: (m, n) of the matrices.
      relative: from 0 to 1.
      absolute: not negative.

    Returns:
      int32, from 0 to k; 0 for a zero matrix. It is constant almost everywhere: no gradient.

    Raises:
      ValueError: if not exactly one tolerance is given or it is out of range, or ``s`` has no
        singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> int(numerical_rank(jnp.array([1.0, 1e-3, 1e-9]), shape=(3, 3)))
      2
    """
    if sum(option is not None for option in (shape, relative, absolute)) != 1:
        raise ValueError(
            "exactly one of shape, relative and absolute must be given; got "
            f"shape={shape}, relative={relative}, absolute={absolute}"
        )
    s = jax.lax.stop_gradient(s)
    if absolute is not None:
        if absolute < 0:
            raise ValueError(f"absolute must not be negative; got {absolute}")
        bound = jnp.log(jnp.asarray(absolute, s.dtype)) if log else jnp.asarray(absolute, s.dtype)
        return jnp.sum((s > bound).astype(jnp.int32), axis=-1)
    tolerance = relative if shape is None else max(shape) * float(jnp.finfo(s.dtype).eps)
    if tolerance is None or not 0 <= tolerance <= 1:
        raise ValueError(f"relative must be from 0 to 1; got {relative} (shape {shape})")
    return jnp.sum((_relative(s, log) > tolerance).astype(jnp.int32), axis=-1)
