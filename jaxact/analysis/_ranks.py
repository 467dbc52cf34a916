"""The four ranks that every object is measured by."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from jaxact import spectral


class Ranks(NamedTuple):
    """The ranks of a spectrum; every field has the spectrum's batch shape.

    Attributes:
      stable_rank: squared Frobenius norm over squared spectral norm.
      effective_rank: exponential of the entropy of the singular values over their sum
        (Roy & Vetterli 2007).
      numerical_rank: how many singular values exceed ``max(m, n) * eps`` times the largest, with
        ``eps`` of the spectrum's dtype.
      participation_ratio: squared sum of the squared singular values over the sum of their squares.
    """

    stable_rank: Float[Array, "..."]
    effective_rank: Float[Array, "..."]
    numerical_rank: Int[Array, "..."]
    participation_ratio: Float[Array, "..."]


def ranks(s: Float[Array, "*batch k"], /, *, shape: tuple[int, int], log: bool = False) -> Ranks:
    """The four ranks of matrices with given singular values.

    Args:
      s: singular values, or their logarithms with ``log=True``; float, largest first.
      shape: (m, n) of the matrices, which NumPy's numerical rank depends on.
      log: whether ``s`` holds logarithms (-inf for an exact zero).

    Returns:
      `Ranks`, each of shape ``batch``; all zero for a zero matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> r = ranks(jnp.array([1.0, 1.0, 0.0]), shape=(3, 3))
      >>> [float(v) for v in r]
      [2.0, 2.0, 2.0, 2.0]
    """
    return Ranks(
        spectral.stable_rank(s, log=log),
        spectral.effective_rank(s, log=log),
        spectral.numerical_rank(s, log=log, shape=shape),
        spectral.participation_ratio(s, log=log),
    )


def matrix_ranks(a: Float[Array, "*batch m n"], /) -> Ranks:
    """The four ranks of a batch of matrices.

    Args:
      a: matrices, of shape (..., m, n).

    Returns:
      `Ranks`, each of shape ``batch``.
    """
    return ranks(spectral.singular_values(a), shape=(a.shape[-2], a.shape[-1]))
