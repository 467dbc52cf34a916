"""A mean and deviations from it with a scale of their own, and how sums of such are kept."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact


class GradedTokens(NamedTuple):
    """Tokens ``mean + 2^exponent deviation``; with leading axes under `jax.vmap`.

    Attributes:
      mean: over the tokens, (..., d).
      deviation: (..., n, d), its rows summing to zero and its largest entry from 1/2 to 1; all zero
        where the tokens are equal, NaN where one is NaN or infinite.
      exponent: (...), a whole number in the dtype of the others, since it triples with each layer
        of attention; 0 where the tokens are equal.
    """

    mean: Float[Array, "... d"]
    deviation: Float[Array, "... n d"]
    exponent: Float[Array, "..."]

    @property
    def array(self) -> Float[Array, "... n d"]:
        """The tokens as one array, in which small deviations are rounded away."""
        deviation = self.deviation * power(self.exponent, self.mean.dtype)[..., None, None]
        return self.mean[..., None, :] + deviation

    @property
    def log_residual(self) -> Float[Array, "..."]:
        """Natural logarithm of the Frobenius norm of the deviations; -inf where all are zero."""
        square = jnp.sum(jnp.square(self.deviation), axis=(-2, -1))
        log = jnp.log(jnp.where(square == 0, 1, square)) / 2 + self.exponent * math.log(2)
        return jnp.where(square == 0, -jnp.inf, log)

    @property
    def log_relative_residual(self) -> Float[Array, "..."]:
        """The same over the norm of the tokens: the logarithm of `rank_one_residual`."""
        residual = self.log_residual
        largest = lax.stop_gradient(jnp.max(jnp.abs(self.mean), axis=-1))
        up = jnp.frexp(largest)[1].astype(largest.dtype)
        square = jnp.sum(jnp.square(self.mean * power(-up, up.dtype)[..., None]), axis=-1)
        log = jnp.log(jnp.where(square == 0, 1, square * self.deviation.shape[-2]))
        mean = jnp.where(square == 0, -jnp.inf, log + 2 * math.log(2) * up)
        whole = jnp.logaddexp(mean, 2 * jnp.where(jnp.isneginf(residual), 0, residual)) / 2
        return jnp.where(jnp.isneginf(residual), -jnp.inf, residual - whole)


def tokens(x: Array, /) -> GradedTokens:
    """Tokens in graded form.

    Args:
      x: one sequence of n tokens, (n, d); `jax.vmap` takes several. Half precision becomes float32.

    Returns:
      Their mean, and deviations right to rounding however small.

    Raises:
      ValueError: if ``x`` is not a floating matrix with at least one token.

    Example:
      >>> import jax.numpy as jnp
      >>> found = tokens(jnp.array([[1.0, 2.0], [3.0, 2.0]]))
      >>> print(found.mean, found.deviation, found.exponent)
      [2. 2.] [[-0.5  0. ]
       [ 0.5  0. ]] 1.0
    """
    if x.ndim != 2 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be real floating tokens (n, d), at least one; got {x.dtype} of shape {x.shape}"
        )
    x = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    zero = jnp.zeros((), x.dtype)
    # From the first token on: exact for tokens that are nearly equal, and zero for equal ones.
    return collected(x[0], (x - x[:1])[None], zero[None])


def power(exponent: Array, dtype) -> Array:
    """2^exponent, exactly: 0 below the normal numbers and infinite above the largest."""
    whole = jnp.clip(lax.stop_gradient(exponent), -4000, 4000).astype(jnp.int32)
    return jnp.ldexp(jnp.ones((), dtype), whole)


def leading(a: Array, axes: tuple[int, ...] | None = None) -> Array:
    """The exponent of the largest entry, which is from 1/2 to 1 times that power; -inf for none."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(a), axis=axes))
    return jnp.where(largest == 0, -jnp.inf, jnp.frexp(largest)[1].astype(a.dtype))


def combined(a: Inexact[Array, "t n d"], exponents: Float[Array, " t"]) -> tuple[Array, Array]:
    """sum_t 2^exponent_t a_t, and the exponent that was taken out of it."""
    top = jnp.max(exponents + leading(a, (1, 2)))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.sum(a * power(exponents - top, a.dtype)[:, None, None], axis=0), top


def normalized(a: Array, exponent: Array) -> tuple[Array, Array]:
    """The same graded array with its largest entry from 1/2 to 1; an exponent of 0 if it is 0."""
    up = leading(a)
    zero = jnp.isneginf(up)
    up = jnp.where(zero, 0, up)
    return a * power(-up, a.dtype), jnp.where(zero, 0, exponent + up)


def collected(base: Array, a: Inexact[Array, "t n d"], exponents: Float[Array, " t"]):
    """The tokens ``base + sum_t 2^exponent_t a_t``, about their mean."""
    total, exponent = combined(a, exponents)
    centre = jnp.mean(total, axis=0)
    mean = base + power(exponent, base.dtype) * centre
    deviation, exponent = normalized(total - centre[None], exponent)
    sound = jnp.all(jnp.isfinite(mean))
    return GradedTokens(mean, jnp.where(sound, deviation, jnp.nan), exponent)
