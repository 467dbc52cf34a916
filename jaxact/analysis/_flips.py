"""Which units change their state between two inputs, and the rank of what that changes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxact import spectral
from jaxact.analysis._chain import Chain, ravel_example, run, scan_layers
from jaxact.analysis._measures import measured
from jaxact.analysis._tags import responses


class FlipRank(NamedTuple):
    """Flips between two inputs and the rank of the change of the Jacobian.

    Attributes:
      flips: number of units whose state differs.
      rank: numerical rank of J(x) - J(y), its singular values against the rounding of both.
      rank_x: numerical rank of J(x).
      rank_y: numerical rank of J(y).
      log_singular_values: of J(x) - J(y), -inf for an exact zero.
    """

    flips: Int[Array, ""]
    rank: Int[Array, ""]
    rank_x: Int[Array, ""]
    rank_y: Int[Array, ""]
    log_singular_values: Float[Array, " k"]


def _positive(h: Array) -> Array:
    return h > 0


def flips(
    chain: Chain,
    x: PyTree[Array],
    y: PyTree[Array],
    /,
    *,
    state: Callable[[Array], Array] = _positive,
) -> dict[str, Int[Array, " layer"]]:
    """How many units are in different states at two inputs, by layer.

    Args:
      chain: a network, from `as_chain`; its units are what `tag_units` marks, else its layers'
        outputs.
      x: one example, without batch axis.
      y: another.
      state: a unit's state from its response; whether it is positive by default, which is that of
        the rectifier and its leaky forms.

    Returns:
      By segment name the counts, int32.
    """

    def visit(layer, h, _):
        h, units = responses(layer, h)
        changed = [state(u)[0] != state(u)[1] for u in units]
        return h, sum(jnp.sum(c.astype(jnp.int32)) for c in changed)

    pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), x, y)
    return scan_layers(chain, visit, pair)[1]


def flip_rank(
    chain: Chain,
    x: PyTree[Array],
    y: PyTree[Array],
    /,
    *,
    state: Callable[[Array], Array] = _positive,
) -> FlipRank:
    """The rank of J(x) - J(y) beside the number of units whose state differs.

    In a piecewise linear network the Jacobian depends on the units' states alone. Each flip adds a
    term of rank one to J(x) - J(y), so its rank is at most the number of flips, and at most
    rank J(x) + rank J(y). For weights in general position each layer adds its flips, until it has
    added the rank of what lies before or behind it. Few units that respond thus mean a Jacobian
    that hardly changes: they say nothing of the rank of the weights.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently.
      x: one example, without batch axis.
      y: another.
      state: see `flips`.

    Returns:
      `FlipRank`. Numerical ranks count singular values above ``max(m, n) * eps`` times
      ``s_1(J(x)) + s_1(J(y))``: what is below is rounding of the difference.
    """

    def jacobian(x: PyTree[Array]) -> Array:
        flat, unravel = ravel_example(x)

        def on_vector(v):
            batch = jax.tree.map(lambda leaf: leaf[None], unravel(v))
            return ravel_example(run(chain, batch))[0]

        return jax.jacobian(on_vector)(flat)

    at_x, at_y = jacobian(x), jacobian(y)
    s_x, s_y, s = (spectral.singular_values(j) for j in (at_x, at_y, at_x - at_y))
    rounding = max(at_x.shape) * float(jnp.finfo(s.dtype).eps)
    total = (s_x[0] + s_y[0]) * rounding
    counts = [jnp.sum(count) for count in flips(chain, x, y, state=state).values()]
    return FlipRank(
        flips=jnp.sum(jnp.stack(counts)),
        rank=jnp.sum((s > total).astype(jnp.int32)),
        rank_x=jnp.sum((s_x > s_x[0] * rounding).astype(jnp.int32)),
        rank_y=jnp.sum((s_y > s_y[0] * rounding).astype(jnp.int32)),
        log_singular_values=jnp.log(s),
    )


@measured("features", "features", unit="share", greatest="n / (2 (n - 1))")
def flip_share(h: Float[Array, "layer n ..."], /) -> Float[Array, " layer"]:
    """Share of units whose sign differs between two examples, by layer: mean over all pairs.

    Args:
      h: features by layer, from `features`, of at least two examples.

    Returns:
      From 0 to about one half; NaN where features are NaN.

    Raises:
      ValueError: if there are fewer than two examples.
    """
    n = h.shape[1]
    if n < 2:
        raise ValueError(f"h must hold at least two examples; got {n}")
    on = jnp.mean((h > 0).astype(h.dtype), axis=1)
    share = jnp.mean((2 * on * (1 - on)).reshape(len(h), -1), axis=-1) * (n / (n - 1))
    return jnp.where(jnp.any(jnp.isnan(h), axis=tuple(range(1, h.ndim))), jnp.nan, share)
