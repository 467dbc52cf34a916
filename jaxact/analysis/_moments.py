r"""First and second moments of features, streamed: one pass, constant memory, mergeable.

Two sets of samples, a and b, are merged by their counts, means and centred second moments,

.. math:: n = n_a + n_b,\quad \delta = \mu_b - \mu_a,\quad \mu = \mu_a + \delta\,n_b/n,\quad
   S = S_a + S_b + \delta\delta^T n_a n_b / n,

(Chan, Golub & LeVeque 1983, eq. 2.1), and a batch is such a set: nothing is ever the difference of
two large numbers. The second moments are kept either as the matrix S itself (`Scatter`), or as a
triangular R with R^T R = S (`Root`), updated by QR of R over the batch's rows, which keeps small
singular values to the machine epsilon where S loses those below its square root.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxact import spectral


class Scatter(NamedTuple):
    """Count, mean and centred scatter matrix of the samples seen so far.

    Each is an unevaluated sum of two numbers, the second what rounding has lost of the first.

    Attributes:
      count: number of samples.
      mean: (units,).
      scatter: (units, units), the sum over samples of (x - mean)(x - mean)^T.
      lost: low-order parts of the three.
    """

    count: Float[Array, ""]
    mean: Float[Array, " u"]
    scatter: Float[Array, "u u"]
    lost: tuple[Float[Array, ""], Float[Array, " u"], Float[Array, "u u"]]


class Root(NamedTuple):
    """Count, mean and a triangular root of the centred scatter matrix of the samples so far.

    Attributes:
      count: number of samples.
      mean: (units,).
      root: (units, units), R with R^T R the sum over samples of (x - mean)(x - mean)^T.
      lost: low-order parts of count and mean.
    """

    count: Float[Array, ""]
    mean: Float[Array, " u"]
    root: Float[Array, "u u"]
    lost: tuple[Float[Array, ""], Float[Array, " u"]]


Moments = Scatter | Root
FORMS = ("root", "scatter")


def start_moments(units: int, *, form: str = "root", dtype: Any = jnp.float32) -> Moments:
    """The moments of no samples.

    Args:
      units: length of a sample.
      form: ``"root"`` (singular values right to the machine epsilon) or ``"scatter"`` (matrix
        products only, which is faster; singular values under the root of the machine epsilon
        times the largest are rounding).
      dtype: float32 or float64, of all arithmetic; features of narrower dtypes are widened.

    Returns:
      A state for `update_moments`.

    Raises:
      ValueError: if ``units`` is less than 1 or ``form`` is unknown.
    """
    if units < 1:
        raise ValueError(f"units must be at least 1; got {units}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")

    def zeros(*shape: int) -> Array:
        return jnp.zeros(shape, dtype)  # each its own buffer, so that the state can be donated

    if form == "root":
        return Root(zeros(), zeros(units), zeros(units, units), (zeros(), zeros(units)))
    lost = (zeros(), zeros(units), zeros(units, units))
    return Scatter(zeros(), zeros(units), zeros(units, units), lost)


def update_moments(
    state: Moments,
    x: Float[Array, "samples units"],
    /,
    *,
    mask: Bool[Array, " samples"] | None = None,
) -> Moments:
    """The moments with more samples seen.

    Args:
      state: from `start_moments`.
      x: samples, a row each.
      mask: which samples count, all by default; the others may hold anything.

    Returns:
      The new state, of the same shapes. Pure, and at home in `jax.jit` and `jax.lax.scan`.

    Raises:
      ValueError: if there is no sample, or its length is not that of the state.
    """
    units = state.mean.shape[0]
    if x.shape[0] == 0 or x.shape[1] != units:
        raise ValueError(f"x must be at least one sample of {units} units; got shape {x.shape}")
    x = x.astype(state.mean.dtype)
    count = jnp.asarray(x.shape[0], x.dtype)
    if mask is not None:
        x = jnp.where(mask[:, None], x, 0)
        count = jnp.sum(mask.astype(x.dtype))
    safe = jnp.maximum(count, 1)

    def centre(x: Array) -> tuple[Array, Array]:
        mean = jnp.sum(x, axis=0) / safe
        x = x - mean[None]
        return mean, x if mask is None else jnp.where(mask[:, None], x, 0)

    mean, deviation = centre(x)
    # Rounding leaves the deviations a mean of their own where values lie far from zero.
    rest, deviation = centre(deviation)
    if isinstance(state, Root):
        return _merge_roots(state, count, mean, rest, deviation)
    scatter = jnp.matmul(deviation.T, deviation, precision="highest")
    lost = (jnp.zeros_like(count), rest, jnp.zeros_like(scatter))
    return merge_moments(state, Scatter(count, mean, scatter, lost))


def merge_moments(a: Moments, b: Moments, /) -> Moments:
    """The moments of two sets of samples together.

    Args:
      a: moments of some samples.
      b: moments of others, of the same form and units.

    Returns:
      The moments of both.

    Raises:
      TypeError: if the two are not of one form.
    """
    if isinstance(a, Root) and isinstance(b, Root):
        return _merge_roots(a, b.count, b.mean, b.lost[1], b.root, b.lost[0])
    if isinstance(a, Scatter) and isinstance(b, Scatter):
        count, mean, lost, row = _merge_means(a, b.count, b.mean, b.lost[1], b.lost[0])
        total, low = _two_sum(a.scatter, b.scatter)
        total, more = _two_sum(total, row[:, None] * row[None])
        total, low = _two_sum(total, low + more + a.lost[2] + b.lost[2])
        return Scatter(count, mean, total, (*lost, low))
    raise TypeError(f"a and b must be of one form; got {type(a).__name__} and {type(b).__name__}")


def reduce_moments(state: Moments, axis_name: str, /) -> Moments:
    """The moments of all devices' samples together, inside `jax.shard_map` or `jax.vmap`.

    Args:
      state: this device's moments.
      axis_name: the mesh axis (or axes of vmap) that the samples are spread over.

    Returns:
      The same moments on every device, merged in one order, so that they are equal to the bit.
    """
    stacked = lax.all_gather(state, axis_name)
    first = jax.tree.map(lambda leaf: leaf[0], stacked)
    rest = jax.tree.map(lambda leaf: leaf[1:], stacked)
    return lax.scan(lambda total, one: (merge_moments(total, one), None), first, rest)[0]


def covariance(state: Moments, /, *, centred: bool = True) -> Float[Array, "u u"]:
    """The second moments per sample.

    Args:
      state: moments of at least one sample.
      centred: whether about the mean (the covariance, divided by n) or about zero.

    Returns:
      A symmetric matrix (units, units); zeros where no sample was seen.
    """
    count = jnp.where(state.count > 0, state.count, 1)
    if isinstance(state, Root):
        scatter = jnp.matmul(state.root.T, state.root, precision="highest")
    else:
        scatter = state.scatter
    second = scatter / count
    return second if centred else second + state.mean[:, None] * state.mean[None]


def moments_spectrum(state: Moments, /, *, centred: bool = True) -> Float[Array, " u"]:
    """Singular values of the matrix whose rows are all the samples seen.

    Args:
      state: moments of at least one sample.
      centred: whether the mean is subtracted from every row.

    Returns:
      (units,), largest first. Of a `Root` they are right to the machine epsilon times the largest,
      of a `Scatter` to its square root.
    """
    if isinstance(state, Root):
        rows = state.root
        if not centred:
            rows = jnp.concatenate([rows, (jnp.sqrt(state.count) * state.mean)[None]])
        return spectral.singular_values(rows)
    values = jnp.linalg.eigvalsh(covariance(state, centred=centred))
    values = jnp.where(values > 0, values, 0) * state.count
    return jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), 0)[::-1]


def spectrum_floor(state: Moments, /) -> float:
    """The share of the largest singular value below which `moments_spectrum` is rounding.

    Args:
      state: moments of either form.

    Returns:
      ``units * eps`` of a `Root`, its square root of a `Scatter`.
    """
    floor = state.mean.shape[-1] * float(jnp.finfo(state.mean.dtype).eps)
    return floor if isinstance(state, Root) else floor**0.5


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """A + b as a rounded sum and what it lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _merge_means(
    a: Moments, count: Array, mean: Array, mean_low: Array, count_low: Array
) -> tuple[Array, Array, tuple[Array, Array], Array]:
    """Count and mean of both, their low parts, and the row whose square joins the scatters."""
    total, low = _two_sum(a.count, count)
    total, low = _two_sum(total, low + a.lost[0] + count_low)
    gap = (mean - a.mean) + (mean_low - a.lost[1])
    safe = jnp.where(total > 0, total, 1)
    share = count / safe
    new, new_low = _two_sum(a.mean, gap * share)
    new, new_low = _two_sum(new, new_low + a.lost[1])
    return total, new, (low, new_low), gap * jnp.sqrt(a.count * share)


def _merge_roots(
    a: Root, count: Array, mean: Array, mean_low: Array, rows: Array, count_low: Array | None = None
) -> Root:
    count_low = jnp.zeros_like(count) if count_low is None else count_low
    total, new, lost, row = _merge_means(a, count, mean, mean_low, count_low)
    root = jnp.linalg.qr(jnp.concatenate([a.root, rows, row[None]]), mode="r")
    return Root(total, new, root, lost)
