"""The registry of measures: each defined once, for tables, figures, reports and command lines."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxact import spectral

F = TypeVar("F", bound=Callable[..., Any])


class Object(NamedTuple):
    """What measures are taken of.

    Attributes:
      definition: what it is.
      matrix: whether it is a matrix, so that every measure of a spectrum may be taken of it.
    """

    definition: str
    matrix: bool = True


OBJECTS: dict[str, Object] = {
    "weight": Object(
        "A weight matrix, outputs by inputs; a convolution's kernel unfolded, outputs by (height x "
        "width x inputs)."
    ),
    "head": Object(
        "The part of a weight matrix that belongs to one head of attention: its rows of a query, "
        "key or value, its columns of an output."
    ),
    "circuit": Object(
        "What a head of attention compares, W_Q^T W_K (query_key), or moves, W_O W_V "
        "(value_output), as a matrix of the layer's width; no rank, nor k, exceeds the width of "
        "the head. Biases, norms and rotations by position are left out."
    ),
    "weight_product": Object(
        "The product of the blocks' weights up to a depth, W_l ... W_1, without skips; "
        "convolutions as circular operators on the network's feature map."
    ),
    "block_product": Object(
        "The product up to a depth of the blocks' linear maps, activations and norms left out: "
        "I + s W for a residual block with branch scale s, W for a plain one."
    ),
    "features": Object(
        "What blocks put out on training examples, uncentred: samples by units; positions of a "
        "feature map count as samples."
    ),
    "tokens": Object(
        "What a layer puts out at the tokens, or positions, of one example: tokens by units; means "
        "over examples."
    ),
    "attention": Object(
        "How much each token (rows) takes of each (columns) in one head of softmax attention; "
        "means over examples and heads."
    ),
    "jacobian": Object(
        "The derivative of a block's output in the network's input at one training example; ranks "
        "are means over examples."
    ),
    "output_jacobian": Object(
        "The derivative of the network's output in what a layer puts out, at one training example."
    ),
    "gradient": Object(
        "The gradient of the mean loss over the measured examples in a weight, in the weight's "
        "shape."
    ),
    "network": Object("The whole network with its data.", matrix=False),
}

TAKES = ("spectrum", "features", "tokens", "view", "")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that is measured, with what is needed to read it.

    Attributes:
      name: of the quantity, in tables and on command lines.
      object: what it is of, one of `OBJECTS`; "" where every matrix has it.
      definition: its formula, or a sentence.
      function: by ``takes``, with a leading layer axis kept throughout:

        * ``"spectrum"``: ``function(s, log, tolerance)`` of singular values (..., k), largest
          first, or their logarithms where ``log``; ``tolerance`` (...) is the share of the largest
          from which on one counts.
        * ``"features"``: ``function(h)`` of features (layers, n, ..., units).
        * ``"tokens"``: ``function(h)`` of matrices (..., rows, columns).
        * ``"view"``: ``function(view)`` of a `View`.
        * ``""``: None; some `measure_matrices` or `measure_stream` counts it.
      takes: what the function takes.
      unit: of the number.
      floor: below what it says nothing, or the least it can be.
      greatest: the most it can be.
    """

    name: str
    object: str
    definition: str
    function: Callable[..., Any] | None
    takes: str
    unit: str = "1"
    floor: str = "0"
    greatest: str = "no bound"

    def __post_init__(self):
        if self.takes not in TAKES:
            raise ValueError(f"takes must be among {', '.join(TAKES)}; got {self.takes!r}")
        if self.object and self.object not in OBJECTS:
            raise ValueError(f"object must be among {', '.join(OBJECTS)}; got {self.object!r}")

    @property
    def scale_free(self) -> bool:
        """Whether a multiple of the matrix has the same, so that logarithms of any size serve."""
        return self.unit == DIRECTIONS


MEASURES: dict[str, Measure] = {}
"""Every measure by name. `register` adds one; nothing else has to know of it."""

DIRECTIONS = "directions"


def register(measure: Measure, /) -> Measure:
    """Adds a measure to `MEASURES`.

    Args:
      measure: with a name of its own.

    Returns:
      The measure.

    Raises:
      ValueError: if there is one of that name.
    """
    if measure.name in MEASURES:
        raise ValueError(f"name must be new; there is a measure {measure.name!r}")
    MEASURES[measure.name] = measure
    return measure


def measured(object: str, takes: str, /, **options: str) -> Callable[[F], F]:
    """Registers a function as a measure of its own name, defined by its docstring's first sentence.

    Args:
      object: see `Measure`.
      takes: see `Measure`.
      **options: unit, floor and greatest of `Measure`.

    Returns:
      A decorator that leaves the function as it is.

    Example:
      >>> @measured("features", "features", greatest="1")
      ... def positive_share(h):
      ...     "Share of features above zero."
      ...     return jnp.mean((h > 0).astype(h.dtype), axis=range(1, h.ndim))
      >>> MEASURES.pop("positive_share").definition
      'Share of features above zero.'
    """

    def add(function: F) -> F:
        definition = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        name = function.__name__.lstrip("_")
        register(Measure(name, object, definition, function, takes, **options))
        return function

    return add


RANK = dict(unit=DIRECTIONS, floor="1 (0 of a zero matrix)", greatest="min(rows, columns)")
SHARE = dict(unit="share", greatest="1")
SIZE = dict(unit="of the entries")


@measured("", "spectrum", **RANK)
def _stable_rank(s: Array, log: bool, tolerance: Array) -> Array:
    """Sum of s_i^2 over s_1^2."""
    return spectral.stable_rank(s, log=log)


@measured("", "spectrum", **RANK)
def _effective_rank(s: Array, log: bool, tolerance: Array) -> Array:
    """exp(-sum p_i log p_i), p_i = s_i / sum s (Roy & Vetterli 2007)."""
    return spectral.effective_rank(s, log=log)


@measured("", "spectrum", **RANK)
def _numerical_rank(s: Array, log: bool, tolerance: Array) -> Array:
    """Number of s_i > tolerance * s_1; max(rows, columns) * eps of the dtype by default.

    -1 where one is not finite.
    """
    bound = s[..., 0] + jnp.log(tolerance) if log else s[..., 0] * tolerance
    count = jnp.sum((s > bound[..., None]).astype(jnp.int32), axis=-1)
    return jnp.where(jnp.any(jnp.isnan(s) | (s == jnp.inf), axis=-1), -1, count)


@measured("", "spectrum", **RANK)
def _participation_ratio(s: Array, log: bool, tolerance: Array) -> Array:
    """(sum s_i^2)^2 / sum s_i^4."""
    return spectral.participation_ratio(s, log=log)


@measured("", "spectrum", **RANK)
def _effective_rank_squared(s: Array, log: bool, tolerance: Array) -> Array:
    """exp(-sum p_i log p_i), p_i = s_i^2 / sum s^2."""
    return spectral.effective_rank(s, log=log, power=2)


@measured("", "spectrum", **SIZE)
def _spectral_norm(s: Array, log: bool, tolerance: Array) -> Array:
    """The largest singular value, s_1."""
    return jnp.exp(jnp.max(s, axis=-1)) if log else jnp.max(s, axis=-1)


@measured("", "spectrum", **SIZE)
def _frobenius_norm(s: Array, log: bool, tolerance: Array) -> Array:
    """sqrt(sum s_i^2)."""
    return _spectral_norm(s, log, tolerance) * jnp.sqrt(spectral.stable_rank(s, log=log))


@measured("", "spectrum", unit="nats")
def _spectral_decay(s: Array, log: bool, tolerance: Array) -> Array:
    """ln(s_1 / s_k), k a quarter of the directions; infinite where s_k is 0."""
    smallest_first = jnp.sort(s, axis=-1)  # which puts NaN last
    logs = smallest_first if log else jnp.log(smallest_first)
    first, kth = logs[..., -1], logs[..., -math.ceil(s.shape[-1] / 4)]
    return jnp.where(jnp.isneginf(first), jnp.inf, first - kth)


RANKS = ("stable_rank", "effective_rank", "numerical_rank", "participation_ratio")
"""The four ranks that most objects are measured by."""

LOG_SINGULAR_VALUE = """ln s_i, largest first, -inf for an exact zero; a table of measure_spectrum
holds 33 of each layer, i = 1 + round((k - 1) (index - 1) / 32), k = min(rows, columns)"""

# What is counted, not computed by a function of its own.
for _row in (
    ("log_singular_value", "", " ".join(LOG_SINGULAR_VALUE.split()), "nats", "no bound"),
    ("eliminated_outputs", "weight", "Rows of norm at most tolerance times the rows' root mean "
     "square norm.", "rows", "rows"),
    ("rounding_floor", "weight", "Largest singular value of the rounding of a matrix of few "
     "distinct values, sigma (sqrt(rows) + sqrt(columns)); 0 of others.", "of the entries", "no "
     "bound"),
    ("non_finite", "", "Entries, or examples of a stream, with NaN or infinity.", "count", "all"),
    ("samples", "features", "Samples (examples times positions) seen.", "samples", "no bound"),
    ("test_accuracy", "network", "Share of the test examples classified rightly.", "share", "1"),
    ("training_loss", "network", "Mean loss of a step's batch before its update.", "nats", "no "
     "bound"),
):  # fmt: skip
    register(Measure(*_row[:3], None, "", _row[3], greatest=_row[4]))


def taking(takes: str) -> list[Measure]:
    """The measures whose function takes something."""
    return [measure for measure in MEASURES.values() if measure.takes == takes]


def definitions(names: Iterable[str], /) -> dict[str, dict[str, str]]:
    """What objects and measures are, as JSON values.

    Args:
      names: of `OBJECTS` and `MEASURES`; other names are passed over.

    Returns:
      By name the definition, and of a measure its unit, floor and greatest possible value.
    """
    found: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(names):
        if name in OBJECTS:
            found[name] = {"definition": OBJECTS[name].definition}
        elif name in MEASURES:
            fields = ("definition", "unit", "floor", "greatest")
            found[name] = {field: getattr(MEASURES[name], field) for field in fields}
    return found


def spectrum_measures(
    s: Float[Array, "*batch k"],
    names: Sequence[str] = RANKS,
    /,
    *,
    shape: tuple[int, int],
    log: bool = False,
) -> dict[str, Array]:
    """Measures of matrices with given singular values.

    Args:
      s: singular values, or their logarithms with ``log=True``; float, largest first.
      names: of measures that take a spectrum; the four `RANKS` by default.
      shape: (m, n) of the matrices, which NumPy's numerical rank depends on.
      log: whether ``s`` holds logarithms (-inf for an exact zero).

    Returns:
      By name an array of shape ``batch``; of a zero matrix every rank and norm is 0; NaN (a
      count: -1) where a value is NaN.

    Raises:
      ValueError: if a name is not that of such a measure.

    Example:
      >>> import jax.numpy as jnp
      >>> found = spectrum_measures(jnp.array([1.0, 1.0, 0.0]), shape=(3, 3))
      >>> {name: float(value) for name, value in found.items()}  # doctest: +NORMALIZE_WHITESPACE
      {'stable_rank': 2.0, 'effective_rank': 2.0, 'numerical_rank': 2.0,
       'participation_ratio': 2.0}
    """
    known = [measure.name for measure in taking("spectrum")]
    for name in names:
        if name not in known:
            raise ValueError(f"names must be among {', '.join(known)}; got {name!r}")
    tolerance = jnp.full(s.shape[:-1], max(shape) * float(jnp.finfo(s.dtype).eps), s.dtype)
    functions = {name: MEASURES[name].function for name in names}
    return {name: of(s, log, tolerance) for name, of in functions.items() if of is not None}


def matrix_measures(
    a: Float[Array, "*batch m n"], names: Sequence[str] = RANKS, /
) -> dict[str, Array]:
    """Measures of a batch of matrices, from their singular values.

    Args:
      a: matrices, of shape (..., m, n).
      names: see `spectrum_measures`.

    Returns:
      By name an array of shape ``batch``.
    """
    return spectrum_measures(spectral.singular_values(a), names, shape=(a.shape[-2], a.shape[-1]))
