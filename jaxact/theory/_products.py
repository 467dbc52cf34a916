"""Spectra of products of random matrices."""

import numbers

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import digamma

from jaxact.theory import _quadrature as quad


def check_count(name: str, value: int, least: int = 1) -> int:
    """Refuse what is not an integer of at least ``least``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def newman_exponents(n: int, /, *, variance: ArrayLike = 1.0) -> Float[Array, " n"]:
    """Lyapunov exponents of a product of Gaussian n x n layers, largest first.

    mu_i = (log(2 sigma^2 / n) + digamma((n - i + 1) / 2)) / 2, i = 1..n, for entries
    N(0, sigma^2 / n): log s_i / L of the product of L layers tends to mu_i, and the logarithm of
    the i-th diagonal of the sequential QR factors has mean mu_i at every layer.

    Args:
        n: The width, at least 1.
        variance: sigma^2 > 0, a scalar: the entries' variance times n. For ReLU layers at He
            initialization sigma^2 = 2 counts the masks apart.

    Returns:
        (n,), nats a layer.

    Raises:
        ValueError: ``n`` below 1 or ``variance`` not positive.

    Example:
        >>> print([f"{mu:.4f}" for mu in newman_exponents(2)])
        ['-0.2886', '-0.9818']

    Reference:
        Newman 1986, "The distribution of Lyapunov exponents: exact results for random matrices",
        Commun. Math. Phys. 103, eq. 5.
    """
    n = check_count("n", n)
    dtype = quad.scalar_dtype(variance)
    sigma2 = quad.as_positive("variance", variance, dtype)
    standard = (digamma((n - np.arange(n)) / 2) - np.log(n / 2)) / 2
    return jnp.log(sigma2) / 2 + jnp.asarray(standard, dtype)
