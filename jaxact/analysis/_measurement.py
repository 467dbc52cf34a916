"""What a measured number is: its value beside what is needed to read it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxact.analysis._measures import MEASURES, taking


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Measurement:
    """One quantity of one kind of object, by layer: a pytree whose leaves are arrays.

    Attributes:
      value: (layers, ...).
      standard_error: of an estimate, in the shape of ``value``; None of what is exact.
      tolerance: the share of the largest singular value from which on one counts, (layers,); None
        of what needs none.
      valid: whether the layer's data were finite; the value is 0 where not, (layers,).
      object: what was measured: weight, product, features, jacobian, gradient, ...
      quantity: its name, one of `MEASURES`.
      centring: what was subtracted before: "none" or "mean".
      dtype: of the arithmetic.
      layers: names, one for each layer.
      shapes: (rows, columns) of each layer's matrix; no rank exceeds the smaller.
    """

    value: Num[Array, "layer ..."]
    standard_error: Float[Array, "layer ..."] | None
    tolerance: Float[Array, " layer"] | None
    valid: Bool[Array, " layer"]
    object: str = dataclasses.field(metadata=dict(static=True))
    quantity: str = dataclasses.field(metadata=dict(static=True))
    centring: str = dataclasses.field(metadata=dict(static=True))
    dtype: str = dataclasses.field(metadata=dict(static=True))
    layers: tuple[str, ...] = dataclasses.field(metadata=dict(static=True))
    shapes: tuple[tuple[int, int], ...] | None = dataclasses.field(metadata=dict(static=True))

    @property
    def definition(self) -> str:
        """The formula of its quantity."""
        return MEASURES[self.quantity].definition


POINTS = 33
"""Singular values of each spectrum that a table holds: evenly spaced by rank, first and last
included."""


def measure_spectrum(
    s: Float[Array, "layer k"],
    /,
    *,
    shape: tuple[int, int] | Sequence[tuple[int, int]],
    object: str,
    layers: tuple[str, ...] | None = None,
    centring: str = "none",
    log: bool = False,
    tolerance: float | Sequence[float] | np.ndarray | None = None,
) -> dict[str, Measurement]:
    """Every rank and norm of the spectra of some layers' matrices.

    Args:
      s: singular values by layer, largest first, or their logarithms with ``log=True``; shorter
        spectra are filled up with zeros (logarithms: -inf), which change nothing.
      shape: (rows, columns) of the matrices: of all, or one pair for each layer.
      object: what the matrices are.
      layers: their names; ``layer_1``, ``layer_2``, ... by default.
      centring: what was subtracted before.
      log: whether ``s`` holds logarithms (-inf for an exact zero).
      tolerance: the share of the largest singular value from which on one counts in the numerical
        rank, of all or of each layer; NumPy's ``max(rows, columns) * eps`` of the dtype by default.
        Where ``s`` comes from a covariance give `spectrum_floor`.

    Returns:
      By name a `Measurement` of each of `MEASURES` that takes a spectrum, and of
      ``log_singular_value``, 33 of each layer. A layer whose spectrum holds NaN or infinity is not
      valid, and its values are 0.

    Raises:
      ValueError: if ``layers`` or ``shape`` has another length than ``s``, or a dimension is 0.
    """
    count = len(s)
    layers = tuple(f"layer_{i}" for i in range(1, count + 1)) if layers is None else layers
    shapes = tuple(_pairs(shape, count))
    for name, given in (("layers", layers), ("shape", shapes)):
        if len(given) != count:
            raise ValueError(f"{name} must have an entry for each of {count}; got {len(given)}")
    for name, pair in zip(layers, shapes, strict=True):
        if 0 in pair:
            raise ValueError(f"shape must have no zero; got {pair} for {object} {name}")
    share = default_tolerance(shapes, s.dtype)
    if tolerance is not None:
        share[:] = tolerance
    limits = np.minimum([min(pair) for pair in shapes], s.shape[-1])
    index = np.rint(np.linspace(np.zeros(count), limits - 1, POINTS)).astype(np.int32).T
    share = jnp.asarray(share, s.dtype)
    names = tuple(measure.name for measure in taking("spectrum"))
    values, valid = _values(s, share, jnp.asarray(index), log, names)

    return {
        name: Measurement(
            value=value,
            standard_error=None,
            tolerance=share if name == "numerical_rank" else None,
            valid=valid,
            object=object,
            quantity=name,
            centring=centring,
            dtype=str(s.dtype),
            layers=layers,
            shapes=shapes,
        )
        for name, value in values.items()
    }


def default_tolerance(shapes: Sequence[tuple[int, int]], dtype: Any) -> np.ndarray:
    """NumPy's: the larger side times the machine epsilon."""
    return np.array([max(pair) for pair in shapes]) * float(jnp.finfo(dtype).eps)


def spectra_of_one_length(spectra: Sequence[Float[Array, "_ _"]], /) -> Float[Array, "layer k"]:
    """Spectra of all layers, the shorter ones filled up with zeros."""
    longest = max(s.shape[1] for s in spectra)
    return jnp.concatenate([jnp.pad(s, ((0, 0), (0, longest - s.shape[1]))) for s in spectra])


def _pairs(shape: Any, count: int) -> Sequence[tuple[int, int]]:
    return [shape] * count if isinstance(shape[0], int) else shape


@functools.partial(jax.jit, static_argnames=("log", "names"))
def _values(
    s: Float[Array, "layer k"],
    share: Float[Array, " layer"],
    index: Array,
    log: bool,
    names: tuple[str, ...],
) -> tuple[dict[str, Array], Bool[Array, " layer"]]:
    valid = ~jnp.any(jnp.isnan(s) | (s == jnp.inf), axis=-1)
    s = jnp.where(valid[:, None], s, -jnp.inf if log else 0)
    functions = {name: MEASURES[name].function for name in names}
    found = {name: of(s, log, share) for name, of in functions.items() if of is not None}
    chosen = jnp.take_along_axis(s, index, axis=-1)
    found["log_singular_value"] = chosen if log else jnp.log(chosen)
    return found, valid


def concatenate(parts: list[Measurement], /) -> Measurement:
    """One quantity of several groups of layers as one measurement.

    Args:
      parts: measurements of the same quantity, object, centring and dtype.

    Returns:
      The measurement of all layers, in order.

    Raises:
      ValueError: if they are not of one quantity, object, centring and dtype.
    """
    kinds = {(p.quantity, p.object, p.centring, p.dtype) for p in parts}
    if len(kinds) != 1:
        raise ValueError(f"parts must measure one thing; got {sorted(kinds)}")

    def join(name: str) -> Any:
        leaves = [getattr(p, name) for p in parts]
        return None if leaves[0] is None else jnp.concatenate(leaves)

    shapes = [p.shapes for p in parts]
    return dataclasses.replace(
        parts[0],
        **{name: join(name) for name in ("value", "standard_error", "tolerance", "valid")},
        layers=sum((p.layers for p in parts), ()),
        shapes=None if None in shapes else sum((s for s in shapes if s), ()),
    )


def select(measurement: Measurement, layers: list[str], /) -> Measurement:
    """The measurement of some layers only, in the order given.

    Args:
      measurement: of any layers.
      layers: names among them.

    Returns:
      The measurement of those.

    Raises:
      ValueError: if a name is not among the layers.
    """
    for name in layers:
        if name not in measurement.layers:
            raise ValueError(f"layers must be among those measured; got {name!r}")
    position = {name: number for number, name in enumerate(measurement.layers)}
    chosen = [position[name] for name in layers]
    index = jnp.asarray(chosen, jnp.int32)
    taken = {
        name: None if (leaf := getattr(measurement, name)) is None else leaf[index]
        for name in ("value", "standard_error", "tolerance", "valid")
    }
    shapes = measurement.shapes
    return dataclasses.replace(
        measurement,
        **taken,
        layers=tuple(layers),
        shapes=None if shapes is None else tuple(shapes[number] for number in chosen),
    )
