"""One pass over a data set: all that is known of every layer's features, in constant memory."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree

from jaxact.analysis._chain import Chain, scan_layers, split_arrays
from jaxact.analysis._devices import Devices
from jaxact.analysis._measurement import Measurement, concatenate, measure_spectrum
from jaxact.analysis._moments import (
    Moments,
    merge_moments,
    moments_spectrum,
    reduce_moments,
    spectrum_floor,
    start_moments,
    update_moments,
)
from jaxact.analysis._similarity import Similarity, mean_cosine, start_similarity, update_similarity
from jaxact.analysis._tags import responses
from jaxact.analysis._units import (
    STATES,
    UnitRange,
    merge_units,
    range_states,
    reduce_units,
    shares,
    start_units,
    streamed_mean_shift,
    update_units,
)


class LayerState(NamedTuple):
    """What has been seen of the layers of one segment, with a leading layer axis.

    Attributes:
      moments: first and second moments over samples and positions, a unit being a channel.
      units: ranges of the responses of the layer's units: of what `tag_units` marks inside it, or
        of its outputs where nothing is marked.
      similarity: sums from which the cosine between examples follows.
      non_finite: how many examples were left out because their features hold NaN or infinity.
    """

    moments: Moments
    units: UnitRange
    similarity: Similarity
    non_finite: Int[Array, "*layer"]


def start_stream(chain: Chain, x: PyTree, /, *, form: str = "root") -> dict[str, LayerState]:
    """The state of a stream that has seen nothing.

    Args:
      chain: a network, from `as_chain`.
      x: a batch, or `jax.ShapeDtypeStruct` of one; only shapes and dtypes are used.
      form: how second moments are kept; see `start_moments`.

    Returns:
      By segment name the empty states.

    Raises:
      ValueError: if a layer puts out something other than one array of floats (batch, ..., units).
    """

    def visit(layer, h, _):
        h, units = responses(layer, h)
        return h, (h, units)

    outs = jax.eval_shape(lambda x: scan_layers(chain, visit, x)[1], x)
    states = {}
    for name, (h, units) in outs.items():
        if not hasattr(h, "shape") or h.ndim < 3 or not jnp.issubdtype(h.dtype, jnp.floating):
            raise ValueError(
                f"layers must put out one array of floats (batch, ..., units); {name!r} puts out "
                f"{jax.tree.map(lambda leaf: leaf.shape[1:], h)}"
            )
        count = sum(u.shape[-1] for u in units)
        states[name] = start_layers(h.shape, h.dtype, count, form=form)
    return states


def start_layers(
    shape: tuple[int, ...], dtype: Any, units: int, /, *, form: str = "root"
) -> LayerState:
    """The empty states of layers with outputs of a shape (layers, batch, ..., units)."""
    dtype = at_least_single(dtype)
    one = LayerState(
        start_moments(shape[-1], form=form, dtype=dtype),
        start_units(units, dtype=dtype),
        start_similarity(math.prod(shape[2:]), dtype),
        jnp.zeros((), jnp.int32),
    )
    return jax.vmap(lambda _: one)(jnp.zeros(shape[0]))


def at_least_single(dtype: Any) -> Any:
    """Where half precision is measured."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def update_stream(
    chain: Chain,
    states: dict[str, LayerState],
    x: PyTree[Array],
    /,
    *,
    mask: Bool[Array, " batch"] | None = None,
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
) -> dict[str, LayerState]:
    """The states with one more batch seen. Pure; jit it with the states donated.

    Args:
      chain: a network, from `as_chain`.
      states: from `start_stream`.
      x: a batch of at least one example.
      mask: which examples count, all by default; the others fill a batch up to its shape.
      limits: the activation's lower and upper limit, for saturated units; see `update_units`.

    Returns:
      The new states, of the same shapes.
    """

    def visit(layer, h, state):
        h, units = responses(layer, h)
        return h, update_layer(state, h, units, mask=mask, limits=limits)

    return scan_layers(chain, visit, x, states)[1]


def update_layer(
    state: LayerState,
    h: Array,
    units: list[Array],
    /,
    *,
    mask: Bool[Array, " batch"] | None = None,
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
) -> LayerState:
    """One layer's state with its outputs on one more batch seen."""
    finite = jnp.all(jnp.isfinite(h), axis=tuple(range(1, h.ndim)))
    counted = finite if mask is None else finite & mask
    lost = ~finite if mask is None else ~finite & mask
    samples, of_sample = _rows(h, counted)
    return LayerState(
        update_moments(state.moments, samples, mask=of_sample),
        _update_ranges(state.units, [_rows(u, counted) for u in units], limits),
        update_similarity(state.similarity, h, mask=counted),
        state.non_finite + jnp.sum(lost.astype(jnp.int32)),
    )


def _rows(h: Array, counted: Array) -> tuple[Array, Array]:
    """Positions as samples, and which of them belong to an example that counts."""
    rows = h.reshape(-1, h.shape[-1])
    return rows, jnp.repeat(counted, len(rows) // len(h))


def _update_ranges(
    state: UnitRange, units: list[tuple[Array, Array]], limits: tuple[float, float]
) -> UnitRange:
    """The ranges of all units of a layer, one kind after the other."""
    parts, first = [], 0
    for rows, mask in units:
        chosen = slice(first, first + rows.shape[-1])
        part = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], state)
        parts.append(update_units(part, rows, mask=mask, limits=limits))
        first = chosen.stop
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def merge_streams(a: dict[str, LayerState], b: dict[str, LayerState], /) -> dict[str, LayerState]:
    """The states of two streams of the same network, over different examples, together."""

    def merge(a: LayerState, b: LayerState) -> LayerState:
        return LayerState(
            merge_moments(a.moments, b.moments),
            merge_units(a.units, b.units),
            jax.tree.map(jnp.add, a.similarity, b.similarity),
            a.non_finite + b.non_finite,
        )

    return {name: jax.vmap(merge)(a[name], b[name]) for name in a}


def reduce_streams(states: dict[str, LayerState], axis_name: str, /) -> dict[str, LayerState]:
    """The states of all devices of a mesh axis together, inside `jax.shard_map`."""

    def reduce(state: LayerState) -> LayerState:
        return LayerState(
            reduce_moments(state.moments, axis_name),
            reduce_units(state.units, axis_name),
            *lax.psum((state.similarity, state.non_finite), axis_name),
        )

    return {name: jax.vmap(reduce)(state) for name, state in states.items()}


def stream(
    chain: Chain,
    batches: Iterable[PyTree[Array]],
    /,
    *,
    form: str = "root",
    limits: tuple[float, float] = (-jnp.inf, jnp.inf),
    mesh: Mesh | None = None,
) -> dict[str, LayerState]:
    """One pass of a network over a data set.

    With a ``mesh`` every batch is spread over its devices, each of which keeps what it has seen to
    itself until the end. Where the devices belong to several processes, every process makes the
    call with batches of its own, in any number and of any size, over its own devices, and all get
    what all have seen.

    Args:
      chain: a network, from `as_chain`.
      batches: batches, as the first segment takes them; each shape is compiled once.
      form: how second moments are kept; see `start_moments`.
      limits: the activation's limits, for saturated units; see `update_units`.
      mesh: devices to spread each batch over; the default device by default.

    Returns:
      By segment name what was seen, for `measure_stream`. Memory does not grow with the data.

    Raises:
      ValueError: if there is no batch, a batch is empty, or no device of the mesh belongs to this
        process.
    """
    arrays, rebuild = split_arrays(chain)

    def update(arrays, states, x, mask=None):
        return update_stream(rebuild(arrays), states, x, mask=mask, limits=limits)

    if mesh is None:
        start, step, merge = _same, jax.jit(update, donate_argnums=1), _same
    else:
        devices = Devices(mesh, update, reduce_streams)
        start, step, merge = devices.start, devices.update, devices.merge
        arrays = devices.replicate(arrays)
    states = None
    for x in batches:
        if any(leaf.shape[0] == 0 for leaf in jax.tree.leaves(x)):
            raise ValueError("batches must each hold at least one example; got an empty one")
        if states is None:
            states = start(start_stream(chain, x, form=form))
        states = step(arrays, states, x)
    if states is None:
        raise ValueError("batches must hold at least one batch; got none")
    return merge(states)


def _same(states: dict[str, LayerState]) -> dict[str, LayerState]:
    return states


def measure_stream(
    chain: Chain,
    states: dict[str, LayerState],
    /,
    *,
    centred: bool = True,
    object: str = "features",
) -> dict[str, Measurement]:
    """Ranks, similarity and unit states of every layer, from what a stream has seen.

    Args:
      chain: the network, whose layers come in its order.
      states: from `stream` or `update_stream`, of at least one example.
      centred: whether the spectra are of features less their mean.
      object: what to call them in the table.

    Returns:
      By quantity a `Measurement` over all layers: what `measure_spectrum` gives of the
      matrix with a row for each sample; ``cosine_similarity`` between examples, ``mean_shift``, and
      the shares of units that are ``dead``, ``constant``, ``always_on``, ``saturated`` and
      ``switching``, with ``unit_diversity`` = 1 - constant; ``samples``, how many rows were seen.
      ``non_finite`` counts the examples left out of a layer because they held NaN or infinity
      there; a layer without any other is not valid.

    Raises:
      ValueError: if a spectrum about the mean is asked of fewer than two samples.
    """
    parts: dict[str, list[Measurement]] = {}
    for name in (segment.name for segment in chain.segments):
        state = states[name]
        layers = len(state.moments.count)
        names = tuple(f"{name}.{i}" for i in range(1, layers + 1)) if layers > 1 else (name,)
        for quantity, found in measure_layers(state, names, centred, object).items():
            parts.setdefault(quantity, []).append(found)
    return {quantity: concatenate(part) for quantity, part in parts.items()}


def samples_seen(state: LayerState, name: str, centred: bool) -> int:
    """How many samples layers have seen; refuses a mean of one."""
    samples = round(float(jnp.max(state.moments.count + state.moments.lost[0])))
    if samples == 1 and centred:
        raise ValueError(
            f"states must have seen at least two samples for centred=True; {name!r} has seen "
            f"{samples}: pass centred=False or more data"
        )
    return samples


def measure_layers(
    state: LayerState, names: tuple[str, ...], centred: bool, object: str
) -> dict[str, Measurement]:
    """What `measure_stream` gives, of layers of one kind."""
    samples = samples_seen(state, names[0], centred)
    s = jax.jit(jax.vmap(functools.partial(moments_spectrum, centred=centred)))(state.moments)
    found = measure_spectrum(
        s,
        shape=(max(samples, 1), s.shape[-1]),
        object=object,
        layers=names,
        centring="mean" if centred else "none",
        tolerance=spectrum_floor(state.moments),
    )
    like = dataclasses.replace(found["stable_rank"], centring="none")
    count = state.moments.count + state.moments.lost[0]
    seen = count > 0
    share = shares(range_states(state.units))
    values = {
        "cosine_similarity": mean_cosine(state.similarity),
        "mean_shift": streamed_mean_shift(state.moments),
        "unit_diversity": 1 - share.constant,
        **{name: getattr(share, name) for name in STATES},
        "samples": count,
    }
    for name, value in values.items():
        found[name] = dataclasses.replace(like, value=jnp.where(seen, value, 0), quantity=name)
    found = {k: dataclasses.replace(m, valid=m.valid & seen) for k, m in found.items()}
    found["non_finite"] = dataclasses.replace(
        like, value=state.non_finite, valid=jnp.ones(len(names), bool), quantity="non_finite"
    )
    return found
