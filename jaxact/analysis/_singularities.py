"""Singularities of a layer: units that coincide, vanish, or depend linearly on others."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxact import spectral

ELIMINATED = 1e-6
"""The share of the root mean square norm up to which a unit's weights count as none."""


class Singularities(NamedTuple):
    """How near each layer's incoming weights are to a singularity.

    Attributes:
      overlap: by unit, the largest absolute cosine with another unit's incoming weights; 1 where
        the two units answer alike, up to scale, and either could be dropped.
      elimination: by unit, the norm of its incoming weights over the root mean square norm of all
        units'; 0 where the unit has dropped out.
      dependence: by layer, the smallest singular value of the incoming weights, each scaled to unit
        norm; 0 where one unit is a linear combination of others.
    """

    overlap: Float[Array, "*layer o"]
    elimination: Float[Array, "*layer o"]
    dependence: Float[Array, "*layer"]


def singularities(w: Float[Array, "*layer o i"], /) -> Singularities:
    """Nearness of units to the singularities that make deep plain networks hard to train.

    Args:
      w: incoming weights, a row for each unit. For the units of a residual block give the matrix
        with the skip in it (W + I), for the outgoing weights the transpose of the next layer's.

    Returns:
      `Singularities`. Units without any weight have overlap and dependence 0.

    Reference:
      Orhan & Pitkow 2018, "Skip connections eliminate singularities", section 2.
    """
    norm = jnp.linalg.norm(w, axis=-1)
    unit = w / jnp.where(norm > 0, norm, 1)[..., None]
    cosine = jnp.abs(jnp.matmul(unit, jnp.swapaxes(unit, -1, -2), precision="highest"))
    own = jnp.broadcast_to(jnp.eye(w.shape[-2], dtype=bool), cosine.shape)
    s = spectral.singular_values(unit)
    square = jnp.zeros_like(s[..., 0]) if w.shape[-2] > w.shape[-1] else s[..., -1]
    return Singularities(
        overlap=jnp.max(jnp.where(own, 0, cosine), axis=-1),
        elimination=_relative_norm(w),
        dependence=square,
    )


def eliminated(
    w: Float[Array, "*layer o i"], /, *, tolerance: float = ELIMINATED
) -> Bool[Array, "*layer o"]:
    """Units whose incoming weights are none.

    Args:
      w: incoming weights, a row for each unit.
      tolerance: the share of the root mean square norm of the layer's units up to which a norm
        counts as none.

    Returns:
      A mask over the units; all of them where the layer vanishes.
    """
    return _relative_norm(w) <= tolerance


def _relative_norm(w: Array) -> Array:
    # Relative to the largest entry of the layer, so that squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
    norm = jnp.linalg.norm(w / jnp.where(largest > 0, largest, 1), axis=-1)
    scale = jnp.sqrt(jnp.mean(jnp.square(norm), axis=-1, keepdims=True))
    return norm / jnp.where(scale > 0, scale, 1)
