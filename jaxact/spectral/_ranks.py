"""Ranks of a spectrum: numbers that say how many directions a matrix really uses."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxact.spectral._spectrum import checked, descending, logarithms, relative, sound


def stable_rank(s: Float[Array, "*batch k"], /, *, log: bool = False) -> Float[Array, "*batch"]:
    r"""Stable rank: :math:`\|A\|_F^2 / \|A\|_2^2 = \sum_i s_i^2 / s_1^2`.

    Args:
      s: singular values, not negative, in any order; or their natural logarithms with ``log=True``,
        -inf for an exact zero. Any batch shape; any float dtype, float16 and bfloat16 in float32.
      log: whether ``s`` holds logarithms.

    Returns:
      From 1 to k; 0 for a zero matrix; NaN, as of every rank and gap, of a spectrum that holds NaN
      or plus infinity. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(stable_rank(jnp.array([2.0, 1.0, 1.0])))
      1.5

    Reference:
      Rudelson & Vershynin 2007, "Sampling from large matrices", section 1.
    """
    return schatten_rank(s, p=2, log=log)


def nuclear_rank(s: Float[Array, "*batch k"], /, *, log: bool = False) -> Float[Array, "*batch"]:
    r"""Nuclear rank: :math:`\|A\|_* / \|A\|_2 = \sum_i s_i / s_1`.

    For a covariance, whose singular values are its eigenvalues, this is the intrinsic dimension
    (effective rank in Vershynin's and Bartlett's papers): tr C / ||C||.

    Args:
      s: as for `stable_rank`.
      log: whether ``s`` holds logarithms.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(nuclear_rank(jnp.array([2.0, 1.0, 1.0])))
      2.0

    Reference:
      Tropp 2015, "An introduction to matrix concentration inequalities", definition 7.1.1.
    """
    return schatten_rank(s, p=1, log=log)


def schatten_rank(
    s: Float[Array, "*batch k"], /, *, p: float | int, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Schatten rank: :math:`(\|A\|_{S_p} / \|A\|_2)^p = \sum_i (s_i / s_1)^p`.

    p = 1 is the nuclear rank, p = 2 the stable rank; the limit p -> 0 counts nonzero values.

    Args:
      s: as for `stable_rank`.
      p: positive and finite. Below 1 the derivative at a singular value of zero is infinite, and
        taken as 0.
      log: whether ``s`` holds logarithms.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``p`` is not positive and finite, or ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(schatten_rank(jnp.array([4.0, 1.0]), p=0.5))
      1.5

    Reference:
      Ipsen & Saibaba 2024, "Stable rank and intrinsic dimension of real and complex matrices".
    """
    if _positive("p", p) < 1:
        # Of ratios below all numbers a small power is not.
        logs = logarithms(s, log)
        alive, largest = logs > -jnp.inf, jnp.max(logs, axis=-1, keepdims=True)
        gap = jnp.where(alive, logs, 0) - jnp.where(jnp.isneginf(largest), 0, largest)
        powers = jnp.where(alive, jnp.exp(p * jnp.where(alive, gap, 0)), 0)
    else:
        powers = _power(relative(s, log), p)
    return jnp.where(sound(s), jnp.sum(powers, axis=-1), jnp.nan)


def schatten_norm(
    s: Float[Array, "*batch k"], /, *, p: float | int, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Schatten norm: :math:`\|A\|_{S_p} = (\sum_i s_i^p)^{1/p}`; its logarithm with ``log=True``.

    p = 1 is the nuclear norm, p = 2 the Frobenius norm, p = infinity the spectral norm.

    Args:
      s: as for `stable_rank`.
      p: at least 1, infinity included.
      log: whether ``s`` holds logarithms; then so does the result, which cannot overflow.

    Returns:
      The norm, or its natural logarithm (-inf for a zero matrix). Differentiable, with finite
      gradients: at the zero matrix that of the norm is taken as 1 for every value, a subgradient of
      the nuclear norm, and that of its logarithm as 0.

    Raises:
      ValueError: if ``p`` is less than 1, or ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(schatten_norm(jnp.array([3.0, 4.0]), p=2))
      5.0
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1; got {p}")
    s = checked(s)
    largest = jnp.max(s, axis=-1)
    if math.isinf(p):
        return largest
    if p == 1 and not log:
        return jnp.sum(s, axis=-1)
    total = jnp.where(jnp.any(jnp.isnan(s), axis=-1), jnp.nan, _total(relative(s, log), p))
    if log:
        zero = jnp.isneginf(largest)
        finite = jnp.where(zero, 0, largest) + jnp.log(jnp.where(zero, 1, total)) / p
        return jnp.where(zero, -jnp.inf, finite)
    positive = largest > 0
    return largest * jnp.where(positive, jnp.where(positive, total, 1) ** (1 / p), 1)


def effective_rank(
    s: Float[Array, "*batch k"], /, *, log: bool = False, power: float | int = 1
) -> Float[Array, "*batch"]:
    r"""Effective rank: :math:`\exp(-\sum_i p_i \log p_i)`, :math:`p_i = s_i^q / \sum_j s_j^q`.

    Args:
      s: as for `stable_rank`.
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
    return renyi_rank(s, order=1, log=log, power=power)


def participation_ratio(
    s: Float[Array, "*batch k"], /, *, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Participation ratio of the squares: :math:`(\sum_i s_i^2)^2 / \sum_i s_i^4`.

    Args:
      s: as for `stable_rank`.
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
    return renyi_rank(s, order=2, log=log, power=2)


def renyi_rank(
    s: Float[Array, "*batch k"], /, *, order: float | int, log: bool = False, power: float | int = 2
) -> Float[Array, "*batch"]:
    r"""Exponential of the Renyi entropy: :math:`(\sum_i p_i^a)^{1/(1-a)}`, p as below.

    With :math:`p_i = s_i^q / \sum_j s_j^q`, order a = 1 is the `effective_rank`, (a, q) = (2, 2)
    the `participation_ratio`, (infinity, 2) the `stable_rank`, (1/2, 2) the ratio
    :math:`\|A\|_*^2 / \|A\|_F^2`, and a = 0 counts the nonzero values. It falls as a grows.

    Args:
      s: as for `stable_rank`.
      order: a, not negative; infinity included.
      log: whether ``s`` holds logarithms.
      power: q, at least 1.

    Returns:
      From 1 to k; 0 for a zero matrix. Differentiable; where the derivative at a singular value of
      zero is infinite, the gradient is taken as 0.

    Raises:
      ValueError: if ``order`` is negative or ``power`` less than 1, or ``s`` has no singular
        values.

    Example:
      >>> import jax.numpy as jnp
      >>> [float(renyi_rank(jnp.array([1.0, 1.0, 0.0]), order=a)) for a in (0, 2, float("inf"))]
      [2.0, 2.0, 2.0]

    Reference:
      Renyi 1961, "On measures of entropy and information".
    """
    if not order >= 0:
        raise ValueError(f"order must be at least 0; got {order}")
    if not power >= 1:
        raise ValueError(f"power must be at least 1; got {power}")
    weight = _power(relative(s, log), power)
    total = jnp.sum(weight, axis=-1)
    usable = sound(s)
    if math.isinf(order):
        return jnp.where(usable, total, jnp.nan)
    if order == 2:
        square = jnp.sum(jnp.square(weight), axis=-1)
        value = jnp.square(total) / jnp.where(square > 0, square, 1)
        return jnp.where(usable, value, jnp.nan)
    logs = logarithms(s, log)
    alive = logs > -jnp.inf
    if order == 0:
        return jnp.where(usable, jnp.sum(alive.astype(logs.dtype), axis=-1), jnp.nan)
    p, log_p = _shares(weight, total, logs, alive, power)
    if order == 1:
        entropy = -jnp.sum(p * log_p, axis=-1)
    elif abs(order - 1) < 0.5:
        # sum p^a - 1, of which nothing cancels as a nears 1.
        steps = (order - 1) * log_p
        change = p * jnp.expm1(jnp.minimum(steps, 1))
        change = jnp.where(steps < 1, change, jnp.exp(order * log_p) - p)
        entropy = jnp.log1p(jnp.sum(jnp.where(alive, change, 0), axis=-1)) / (1 - order)
    else:
        powers = jnp.where(alive, order * log_p, -jnp.inf)
        largest = lax.stop_gradient(jnp.max(powers, axis=-1, keepdims=True))
        largest = jnp.where(jnp.isfinite(largest), largest, 0)
        moment = jnp.sum(jnp.where(alive, jnp.exp(order * log_p - largest), 0), axis=-1)
        moment = jnp.log(jnp.where(total > 0, moment, 1)) + largest[..., 0]
        entropy = moment / (1 - order)
    return jnp.where(usable, jnp.where(total > 0, jnp.exp(entropy), 0), jnp.nan)


def _shares(
    weight: Array, total: Array, logs: Array, alive: Array, power: float | int
) -> tuple[Array, Array]:
    """P and log p, 0 where p is; also of shares that are not normal numbers."""
    p = weight / jnp.where(total > 0, total, 1)[..., None]
    normal = p > jnp.finfo(p.dtype).tiny * 4
    largest = lax.stop_gradient(jnp.max(jnp.where(alive, logs, -jnp.inf), axis=-1, keepdims=True))
    far = alive & ~normal
    small = jnp.where(far, logs, 0) - jnp.where(far, largest, 0)
    small = power * jnp.maximum(small, -(float(jnp.finfo(p.dtype).max) ** 0.5))
    small = small - jnp.log(jnp.where(total > 0, total, 1))[..., None]
    log_p = jnp.log(jnp.where(normal, p, 1))
    return jnp.where(normal, p, 0), jnp.where(far, small, log_p)


def rankme(
    s: Float[Array, "*batch k"], /, *, log: bool = False, epsilon: float | int = 1e-7
) -> Float[Array, "*batch"]:
    r"""RankMe: :math:`\exp(-\sum_i p_i \log p_i)`, :math:`p_i = s_i / \sum_j s_j + \epsilon`.

    The effective rank of a matrix of embeddings (examples by features), with the paper's epsilon,
    which lets every zero value count a little: it exceeds k by a factor of up to 1 + 1e-6 k.

    Args:
      s: as for `stable_rank`.
      log: whether ``s`` holds logarithms.
      epsilon: not negative; the paper's is for float32.

    Returns:
      At least 1; 0 for a zero matrix. Differentiable, with finite gradients.

    Raises:
      ValueError: if ``epsilon`` is negative, or ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(rankme(jnp.ones(4))), 4)
      4.0

    Reference:
      Garrido et al. 2023, "RankMe: assessing the downstream performance of pretrained
      self-supervised representations by their rank".
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0; got {epsilon}")
    weight = relative(s, log)
    total = jnp.sum(weight, axis=-1)
    p = weight / jnp.where(total > 0, total, 1)[..., None] + epsilon
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=-1)
    return jnp.where(sound(s), jnp.where(total > 0, jnp.exp(entropy), 0), jnp.nan)


def condition_number(
    s: Float[Array, "*batch k"], /, *, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Condition number: :math:`s_1 / s_k`; its logarithm with ``log=True``.

    Args:
      s: as for `stable_rank`: all min(m, n) values, or the answer is that of the values given.
      log: whether ``s`` holds logarithms; then so does the result, which cannot overflow.

    Returns:
      At least 1 (0 as a logarithm); infinity where the smallest value is an exact zero, with zero
      gradient.

    Raises:
      ValueError: if ``s`` has no singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(condition_number(jnp.array([8.0, 2.0])))
      4.0
    """
    s = checked(s)
    largest, smallest = jnp.max(s, axis=-1), jnp.min(s, axis=-1)
    zero = jnp.isneginf(smallest) if log else smallest <= 0
    if log:
        return jnp.where(zero, jnp.inf, jnp.where(zero, 0, largest) - jnp.where(zero, 0, smallest))
    return jnp.where(zero, jnp.inf, jnp.where(zero, 1, largest) / jnp.where(zero, 1, smallest))


def spectral_gap(
    s: Float[Array, "*batch k"], /, *, index: int = 1, log: bool = False
) -> Float[Array, "*batch"]:
    r"""Relative spectral gap after the i-th value: :math:`1 - s_{i+1} / s_i`.

    Args:
      s: as for `stable_rank`.
      index: i, from 1 to k - 1; 1 sets the largest value apart from the rest.
      log: whether ``s`` holds logarithms.

    Returns:
      From 0 (a tie) to 1 (the rest are zero); 0 where both are zero. Differentiable, with finite
      gradients.

    Raises:
      ValueError: if ``index`` is out of range or ``s`` has fewer than two values.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(spectral_gap(jnp.array([4.0, 3.0, 1.0]))), 6)
      0.25
    """
    s = checked(s, 2)
    if not 1 <= index < s.shape[-1]:
        raise ValueError(f"index must be from 1 to {s.shape[-1] - 1}; got {index}")
    ordered = descending(s)
    above, below = ordered[..., index - 1], ordered[..., index]
    if log:
        finite = jnp.isfinite(below)
        difference = jnp.where(finite, below, 0) - jnp.where(finite, above, 0)
        gap = jnp.where(finite, -jnp.expm1(difference), jnp.where(jnp.isneginf(above), 0, 1))
    else:
        # Of values that nearly tie the difference is exact, and that of their logarithms is not.
        gap = jnp.where(above > 0, (above - below) / jnp.where(above > 0, above, 1), 0)
    return jnp.where(sound(s), gap, jnp.nan)


def _positive(name: str, value: float | int) -> float | int:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite; got {value}")
    return value


def _total(ratio: Array, p: float | int) -> Array:
    return jnp.sum(_power(ratio, p), axis=-1)


def _power(ratio: Array, p: float | int) -> Array:
    """ratio^p, of values from 0 to 1, with a zero gradient at zero."""
    if p == 1:
        return ratio
    if p == 2:
        return jnp.square(ratio)
    return jnp.where(ratio > 0, jnp.where(ratio > 0, ratio, 1) ** p, 0)
