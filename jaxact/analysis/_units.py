"""What single units do over a data set: dead, always on, saturated, alike for every input."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxact.analysis._features import feature_matrix
from jaxact.analysis._measures import SHARE, Measure, measured, register
from jaxact.analysis._moments import Moments, Scatter


class UnitRange(NamedTuple):
    """What every unit of a layer has put out so far.

    Attributes:
      count: number of responses (samples times positions), (units,), less than 2^31.
      least: the smallest response, (units,).
      largest: the largest response, (units,).
      on: how many responses were above zero, (units,).
      low: how many lay at the lower limit, (units,).
      high: how many lay at the upper limit, (units,).
    """

    count: Int[Array, "*layer u"]
    least: Float[Array, "*layer u"]
    largest: Float[Array, "*layer u"]
    on: Int[Array, "*layer u"]
    low: Int[Array, "*layer u"]
    high: Int[Array, "*layer u"]


class UnitStates(NamedTuple):
    """States of units over a data set, each a boolean mask (units,) or a share.

    Attributes:
      dead: the response is zero for every input.
      constant: the response is the same for every input; dead units included.
      always_on: the response is above zero for every input.
      saturated: every response lies at one of the limits.
      switching: on for some inputs, off for others.
      saturation: share of responses at a limit, (units,).
      activity: share of responses above zero, (units,).
    """

    dead: Bool[Array, "*layer u"]
    constant: Bool[Array, "*layer u"]
    always_on: Bool[Array, "*layer u"]
    saturated: Bool[Array, "*layer u"]
    switching: Bool[Array, "*layer u"]
    saturation: Float[Array, "*layer u"]
    activity: Float[Array, "*layer u"]


def start_units(units: int, *, dtype: Any = jnp.float32) -> UnitRange:
    """The ranges of units that have not responded yet."""
    count, on, low, high = (jnp.zeros(units, jnp.int32) for _ in range(4))
    bound = jnp.full(units, jnp.inf, dtype)
    return UnitRange(count, bound, -bound, on, low, high)


def update_units(
    state: UnitRange,
    x: Float[Array, "samples units"],
    /,
    *,
    mask: Bool[Array, " samples"] | None = None,
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
    tolerance: float = 1e-3,
) -> UnitRange:
    """The ranges with more responses seen.

    Args:
      state: from `start_units`.
      x: responses, a row for each sample.
      mask: which samples count, all by default; the others may hold anything.
      limits: the values between which the activation lies; infinite where it has no limit.
        (-1, 1) for tanh, (0, 1) for the sigmoid.
      tolerance: how near a finite limit counts as at it.

    Returns:
      The new state.
    """
    return merge_units(
        state,
        unit_range(x.astype(state.least.dtype), mask=mask, limits=limits, tolerance=tolerance),
    )


def unit_range(
    x: Float[Array, "samples units"],
    /,
    *,
    mask: Bool[Array, " samples"] | None = None,
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
    tolerance: float = 1e-3,
) -> UnitRange:
    """The ranges of units over some samples; options as of `update_units`."""
    seen = jnp.ones(x.shape, bool) if mask is None else jnp.broadcast_to(mask[:, None], x.shape)

    def count(condition: Array) -> Array:
        return jnp.sum((condition & seen).astype(jnp.int32), axis=0)

    return UnitRange(
        count(seen),
        jnp.min(jnp.where(seen, x, jnp.inf), axis=0),
        jnp.max(jnp.where(seen, x, -jnp.inf), axis=0),
        count(x > 0),
        count(x <= limits[0] + tolerance),
        count(x >= limits[1] - tolerance),
    )


def merge_units(a: UnitRange, b: UnitRange, /) -> UnitRange:
    """The ranges of two sets of responses together."""
    return UnitRange(
        a.count + b.count,
        jnp.minimum(a.least, b.least),
        jnp.maximum(a.largest, b.largest),
        a.on + b.on,
        a.low + b.low,
        a.high + b.high,
    )


def reduce_units(state: UnitRange, axis_name: str, /) -> UnitRange:
    """The ranges over all devices of a mesh axis."""
    counts = lax.psum((state.count, state.on, state.low, state.high), axis_name)
    least, largest = lax.pmin(state.least, axis_name), lax.pmax(state.largest, axis_name)
    return UnitRange(counts[0], least, largest, *counts[1:])


def unit_states(
    h: Float[Array, "layer n ... u"],
    /,
    *,
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
    tolerance: float = 0.0,
) -> UnitStates:
    """Which units are dead, constant, always on, saturated or switching over some examples.

    Args:
      h: features by layer, from `features`; positions count as samples.
      limits: of the activation; see `update_units`.
      tolerance: see `range_states`.

    Returns:
      `UnitStates` by layer.
    """
    of_layer = functools.partial(unit_range, limits=limits)
    return range_states(jax.vmap(of_layer)(feature_matrix(h)), tolerance=tolerance)


def range_states(state: UnitRange, /, *, tolerance: float = 0.0) -> UnitStates:
    """As `unit_states`, from the ranges of all responses seen.

    Args:
      state: from `update_units`; a leading layer axis is kept.
      tolerance: responses count as equal when they differ by at most this share of the unit's
        largest size, and as zero when their size is at most this.

    Returns:
      `UnitStates`. Unit diversity is ``1 - mean(constant)``.
    """
    size = jnp.maximum(jnp.abs(state.least), jnp.abs(state.largest))
    dead = size <= tolerance
    at_limit = state.low + state.high
    return UnitStates(
        dead=dead,
        constant=dead | (state.largest - state.least <= tolerance * size),
        always_on=state.on == state.count,
        saturated=at_limit >= state.count,
        switching=(state.on > 0) & (state.on < state.count),
        saturation=at_limit / jnp.maximum(state.count, 1),
        activity=state.on / jnp.maximum(state.count, 1),
    )


@measured("features", "features", unit="share of the second moment", greatest="1")
def mean_shift(h: Float[Array, "layer n ... u"], /) -> Float[Array, " layer"]:
    r"""Mean shift: the share of the second moment that is the square of the mean.

    .. math:: \sum_u \mu_u^2 / \sum_u \mathrm{E} h_u^2

    Args:
      h: features by layer, from `features`; positions count as samples.

    Returns:
      From 0 (every unit centred) to 1 (every input answered alike); 0 where all features vanish,
      NaN where one is not finite.

    Reference:
      Brock et al. 2021, "Characterizing signal propagation to close the performance gap in
      unnormalized ResNets", section 3: the average channel squared mean over the sum of it and the
      average channel variance.
    """
    h = _scaled(feature_matrix(h))
    square = jnp.sum(jnp.square(jnp.mean(h, axis=1)), axis=-1)
    return _share(square, jnp.sum(jnp.mean(jnp.square(h), axis=1), axis=-1))


def _scaled(h: Float[Array, "layer n u"]) -> Float[Array, "layer n u"]:
    """Over the layer's largest size, so that squares neither overflow nor vanish."""
    size = jnp.max(jnp.abs(h), axis=(1, 2), keepdims=True)
    return h / jnp.where(size > 0, size, 1) + 0 * size  # NaN where one is not finite


def _share(part: Array, whole: Array) -> Array:
    return part / jnp.where(whole > 0, whole, 1)


def streamed_mean_shift(state: Moments, /) -> Float[Array, "*layer"]:
    """As `mean_shift`, from the moments of all samples seen; a leading layer axis is kept."""
    mean = state.mean
    if isinstance(state, Scatter):
        spread = jnp.trace(state.scatter, axis1=-2, axis2=-1)
    else:  # squares neither overflow nor vanish
        size = jnp.maximum(jnp.max(jnp.abs(mean), -1), jnp.max(jnp.abs(state.root), (-2, -1)))
        size = jnp.where(size > 0, size, 1)
        mean, root = mean / size[..., None], state.root / size[..., None, None]
        spread = jnp.sum(jnp.square(root), axis=(-2, -1))
    square = jnp.sum(jnp.square(mean), axis=-1)
    return _share(square, square + spread / jnp.where(state.count > 0, state.count, 1))


@measured("features", "features", unit="root mean squares", floor="-1", greatest="1")
def output_mean(h: Float[Array, "layer n ..."], /) -> Float[Array, " layer"]:
    """Mean over units and examples, over the root mean square, by layer; 0 where all are zero."""
    h = _scaled(h.reshape(*h.shape[:2], -1))
    return _share(jnp.mean(h, axis=(1, 2)), jnp.sqrt(jnp.mean(jnp.square(h), axis=(1, 2))))


@measured("features", "features", **SHARE)
def constant_units(
    h: Float[Array, "layer n ..."], /, *, tolerance: float = 1e-6
) -> Float[Array, " layer"]:
    """Share of units whose range is at most ``tolerance`` root mean squares of the layer.

    Args:
      h: features by layer, from `features`.
      tolerance: what counts as none.

    Returns:
      From 0 to 1; NaN where features are not finite.
    """
    h = _scaled(h.reshape(*h.shape[:2], -1))
    spread = jnp.max(h, axis=1) - jnp.min(h, axis=1)
    scale = jnp.sqrt(jnp.mean(jnp.square(h), axis=(1, 2)))
    share = jnp.mean((spread <= tolerance * scale[:, None]).astype(h.dtype), axis=-1)
    return jnp.where(jnp.isnan(scale), jnp.nan, share)


@measured("features", "features", unit="correlation", greatest="1")
def unit_overlap(h: Float[Array, "layer n ... u"], /) -> Float[Array, " layer"]:
    """Mean over units of the greatest |correlation| with another one; 1 of a constant unit.

    Args:
      h: features by layer, from `features`; positions count as samples.

    Returns:
      From 0 to 1, where every unit has a twin up to sign and scale, or answers all inputs alike;
      NaN where features are not finite.

    Reference:
      Orhan & Pitkow 2018, "Skip connections eliminate singularities", section 2: overlap and
      elimination singularities, here of what units put out on data.
    """
    h = _scaled(feature_matrix(h))
    centred = h - jnp.mean(h, axis=1, keepdims=True)
    size = jnp.linalg.norm(centred, axis=1, keepdims=True)
    square = jnp.sum(jnp.square(h), axis=(1, 2), keepdims=True)
    constant = size <= 1e-6 * jnp.sqrt(square / h.shape[2])
    unit = jnp.where(constant, 0, centred / jnp.where(constant, 1, size))
    cosine = jnp.abs(jnp.einsum("lnu,lnv->luv", unit, unit, precision="highest"))
    others = jnp.max(jnp.where(jnp.eye(h.shape[2], dtype=bool), 0, cosine), axis=-1)
    return jnp.mean(jnp.where(constant[:, 0], 1, others), axis=-1) + 0 * h[:, 0, 0]


def shares(states: UnitStates, /) -> UnitStates:
    """The share of units in each state, by layer."""
    return jax.tree.map(lambda mask: jnp.mean(mask.astype(jnp.float32), axis=-1), states)


STATES = {
    "dead": "zero for every example",
    "constant": "the same for every example",
    "always_on": "above zero for every example",
    "saturated": "at a limit of the activation for every example",
    "switching": "above zero for some examples and not for others",
}


def _share_in(state: str, h: Float[Array, "layer n ... u"]) -> Float[Array, " layer"]:
    """The share of units in a state; NaN where features are not finite."""
    finite = jnp.all(jnp.isfinite(feature_matrix(h)), axis=(1, 2))
    return jnp.where(finite, getattr(shares(unit_states(h)), state), jnp.nan)


for _name, _text in STATES.items():
    # Features do not tell the limits of their activation: `measure_stream` is told them.
    _limited = _name == "saturated"
    _function = None if _limited else functools.partial(_share_in, _name)
    _takes = "" if _limited else "features"
    _definition = f"Share of units that are {_text}."
    register(Measure(_name, "features", _definition, _function, _takes, **SHARE))


@measured("features", "features", **SHARE)
def _unit_diversity(h: Array) -> Array:
    """Share of units whose response differs between examples."""
    return 1 - _share_in("constant", h)
