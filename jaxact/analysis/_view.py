"""What a network shows on data, and the measures that are taken of it as a whole."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxact import spectral
from jaxact.analysis import _residual
from jaxact.analysis._chain import Chain, Segment, run, until
from jaxact.analysis._features import feature_matrix, features
from jaxact.analysis._gradients import gradients
from jaxact.analysis._jacobians import input_jacobians
from jaxact.analysis._measures import (
    MEASURES,
    SHARE,
    Measure,
    matrix_measures,
    measured,
    spectrum_measures,
    taking,
)
from jaxact.analysis._similarity import cosine_similarity
from jaxact.analysis._weights import weight_matrices


class View(NamedTuple):
    """A network with data, as its measures see it.

    Attributes:
      chain: the network, of a few segments before its blocks, the blocks, and a head.
      x: inputs (n, ...).
      y: what the loss compares the outputs with, (n,).
      loss: ``loss(outputs, y) -> scalar``.
      hidden: the input of the first block and the output of each, (block + 1, n, ...).
      outputs: of the network, (n, ...).
      slope: the derivative of the activation, elementwise; None where nothing asks for it.
      blocks: the name of the segment whose layers are measured.
    """

    chain: Chain
    x: Array
    y: Array
    loss: Callable[[Any, Any], Float[Array, ""]]
    hidden: Float[Array, "b n ..."]
    outputs: Float[Array, "n c"]
    slope: Callable[[Array], Array] | None
    blocks: str

    def cost(self, outputs: Array) -> Float[Array, ""]:
        """The loss of outputs on the view's inputs."""
        return self.loss(outputs, self.y)

    @property
    def body(self) -> Segment:
        """The blocks."""
        return next(s for s in self.chain.segments if s.name == self.blocks)


def view(
    chain: Chain,
    x: Array,
    y: Array,
    /,
    *,
    loss: Callable[[Any, Any], Float[Array, ""]],
    slope: Callable[[Array], Array] | None = None,
    blocks: str = "blocks",
) -> View:
    """A network with data.

    Args:
      chain: a network, from `as_chain`, with a segment before its blocks that gives their input.
      x: inputs.
      y: targets.
      loss: ``loss(outputs, y) -> scalar``.
      slope: the derivative of its activation.
      blocks: the name of the segment whose layers are measured.

    Returns:
      The `View`.

    Raises:
      ValueError: if there is no such segment, none before it, or its layers carry two streams.
    """
    trunk = until(chain, blocks)
    if len(trunk.segments) < 2:
        raise ValueError(f"chain must have a segment before {blocks!r}; it is the first")
    found = features(trunk, x)
    if not isinstance(found[blocks], jax.Array):
        raise ValueError(
            f"chain must pass one array from block to block; {blocks!r} passes "
            f"{jax.tree.structure(found[blocks])}"
        )
    hidden = jnp.concatenate([found[trunk.segments[-2].name], found[blocks]])
    rest = Chain(chain.segments[len(trunk.segments) :])
    outputs = run(rest, hidden[-1]) if rest.segments else hidden[-1]
    return View(chain, x, y, loss, hidden, outputs, slope, blocks)


def measure_view(view: View, names: Sequence[str], /) -> dict[str, Array]:
    """Measures of a network with data, by name; pure, at home in `jax.jit` and `jax.vmap`.

    Args:
      view: the network.
      names: of `MEASURES`; one that takes a spectrum with its object, ``"OBJECT/NAME"``, the object
        being ``weight``, ``gradient``, ``features`` or ``jacobian`` (at the first example).

    Returns:
      By name a scalar of the whole network, or a value for each block (for each weight matrix of
      the blocks).

    Raises:
      ValueError: if a name is unknown, or its object is none of these.
    """
    return {name: _measured(view, name) for name in names}


def resolve(name: str, /) -> tuple[str, Measure]:
    """A measure by the name that `measure_view` takes.

    Args:
      name: ``"NAME"``, or ``"OBJECT/NAME"`` of a spectrum.

    Returns:
      The object, "" where the measure itself has it, and the measure.

    Raises:
      ValueError: if there is no such measure, or it cannot be taken of that object.
    """
    of, _, short = name.rpartition("/")
    found = MEASURES.get(short)
    spectra = (*_MATRICES, "jacobian")
    allowed = spectra if found is not None and found.takes == "spectrum" else ("",)
    if found is None or found.function is None or of not in allowed:
        words = names_of_view()
        ranks = [m.name for m in taking("spectrum")]
        raise ValueError(
            f"measures must be among {', '.join(words)}, or OBJECT/NAME with an object "
            f"({', '.join(spectra)}) and a measure of spectra ({', '.join(ranks)}); got {name!r}"
        )
    return of, found


def names_of_view() -> list[str]:
    """The names that `measure_view` takes without an object."""
    return [measure.name for measure in (*taking("features"), *taking("view"))]


def _measured(view: View, name: str) -> Array:
    of, found = resolve(name)
    assert found.function is not None
    if found.takes == "view":
        return found.function(view)
    if found.takes == "features":
        return found.function(view.hidden[1:])
    if of == "jacobian":
        trunk = until(view.chain, view.blocks)
        logs = jax.vmap(spectral.graded_spectrum)(input_jacobians(trunk, view.x[0])[view.blocks])
        k = logs.shape[-1]
        return spectrum_measures(logs, (found.name,), shape=(k, k), log=True)[found.name]
    return matrix_measures(_MATRICES[of](view), (found.name,))[found.name]


def weights(view: View) -> Float[Array, "layer o i"]:
    """The weight matrices of the blocks."""
    stacks = weight_matrices(Chain((view.body,)))[view.blocks]
    return jnp.concatenate(list(stacks.values()))


def gradient_matrices(view: View) -> Float[Array, "layer o i"]:
    """The loss's gradient in each of them."""
    _, gradient = gradients(view.chain, view.cost, view.x)
    return weights(view._replace(chain=gradient))


def _feature_matrices(view: View) -> Float[Array, "layer samples u"]:
    return feature_matrix(view.hidden[1:])


_MATRICES: dict[str, Callable[[View], Array]] = {
    "weight": weights,
    "gradient": gradient_matrices,
    "features": _feature_matrices,
}


def participation(a: Float[Array, "layer m n"], /) -> Float[Array, " layer"]:
    """Participation ratio over the smaller side, from the Gram matrix: no spectrum is needed.

    With s the singular values it is (sum s^2)^2 / sum s^4, two traces, so that following it through
    training costs little; a decomposition at every mark would cost more than the training.

    Args:
      a: matrices.

    Returns:
      From 1 over the smaller side to 1; 0 for a zero matrix, NaN for one that holds NaN.
    """
    return participation_of_gram(smaller_gram(a)) / min(a.shape[-2:])


def smaller_gram(a: Float[Array, "layer m n"], /) -> Float[Array, "layer k k"]:
    """A^T A or A A^T, whichever is smaller."""
    a = a if a.shape[-2] >= a.shape[-1] else jnp.swapaxes(a, -1, -2)
    return jnp.matmul(jnp.swapaxes(a, -1, -2), a, precision="highest")


def participation_of_gram(gram: Float[Array, "layer k k"], /) -> Float[Array, " layer"]:
    """Participation ratio, (sum s^2)^2 / sum s^4, of the matrices that have these Gram matrices."""
    trace = jnp.trace(gram, axis1=-2, axis2=-1)
    # Divided first: squares of large features would overflow.
    gram = gram / jnp.where(trace > 0, trace, 1)[:, None, None]
    square = jnp.sum(jnp.square(gram), axis=(-2, -1))
    zero = square == 0  # NaN is not, and stays
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, square))


def participation_by_block(body: Segment, h: Float[Array, " w"], /) -> Float[Array, " block"]:
    """Participation ratio over width of the Jacobian of the first l blocks at h, by l.

    The ratio belongs to the largest singular values, so that the product itself serves, scaled to
    length one after each block.

    Args:
      body: a stacked segment of blocks.
      h: the input of the first, one example without batch axis.

    Returns:
      From 1 over the width to 1.
    """

    def step(carry, layer):
        h, product = carry
        block = Chain((body._replace(params=layer, depth=None),))
        h, tangent = jax.linearize(lambda h: run(block, h[None])[0], h)
        product = jax.vmap(tangent)(product)
        product = product / jnp.linalg.norm(product)
        gram = jnp.matmul(product, product.T, precision="highest")
        return (h, product), 1 / (len(gram) * jnp.sum(jnp.square(gram)))

    start = jnp.eye(len(h), dtype=h.dtype)
    return lax.scan(step, (h, start), body.params)[1]


@measured("network", "view", unit="nats")
def _loss(view: View) -> Array:
    """Mean loss on the measured examples."""
    return view.cost(view.outputs)


@measured("network", "view", **SHARE)
def _accuracy(view: View) -> Array:
    """Share of the measured examples classified rightly."""
    best = jnp.max(view.outputs, axis=-1)  # NaN where an output is: no class is right
    right = (jnp.argmax(view.outputs, axis=-1) == view.y) & ~jnp.isnan(best)
    return jnp.mean(right.astype(view.outputs.dtype))


@measured("network", "view", unit="cosine", floor="-1", greatest="1")
def _input_cosine(view: View) -> Array:
    """Mean cosine between two different examples before the first block."""
    return cosine_similarity(view.hidden[:1])[0]


@measured("features", "view", **SHARE)
def _feature_participation(view: View) -> Array:
    """Participation ratio over the smaller side of the features after each block."""
    return participation(_feature_matrices(view))


@measured("weight", "view", **SHARE)
def _weight_participation(view: View) -> Array:
    """Participation ratio over the smaller side of each weight matrix of the blocks."""
    return participation(weights(view))


@measured("jacobian", "view", **SHARE)
def _jacobian_participation(view: View) -> Array:
    """Participation ratio over width of the Jacobian of the first l blocks, by l."""
    _only_vectors(view, "jacobian_participation")
    # Four examples: the ratio is a property of the network more than of the example.
    of_example = jax.vmap(lambda h: participation_by_block(view.body, h))
    return jnp.mean(of_example(view.hidden[0, :4]), axis=0)


@measured("features", "view", **SHARE)
def _flat_share(view: View) -> Array:
    """Share of the inputs of the activation where its slope is at most 0.01 in size.

    For a plain network at initialization, where biases are zero.
    """
    if view.slope is None:
        raise ValueError("flat_share needs the slope of the activation; the view has none")
    _only_vectors(view, "flat_share")
    z = jnp.einsum("lni,loi->lno", view.hidden[:-1], weights(view))
    share = jnp.mean((jnp.abs(view.slope(z)) <= 0.01).astype(jnp.float32), axis=(1, 2))
    return jnp.where(jnp.all(jnp.isfinite(z), axis=(1, 2)), share, jnp.nan)


def _only_vectors(view: View, name: str) -> None:
    if view.hidden.ndim != 3:
        raise ValueError(f"{name} is of vectors; the blocks put out {view.hidden.shape[2:]}")


@measured("gradient", "view", unit="nats over the entries' unit")
def _gradient_norm(view: View) -> Array:
    """Frobenius norm of the loss's gradient in each weight matrix of the blocks."""
    return jnp.linalg.norm(gradient_matrices(view), axis=(-2, -1))


@measured("network", "view", unit="ratio")
def _contribution(view: View) -> Array:
    """Size of what each block adds, over the size of its input."""
    return _residual.contributions(view.chain, view.x)[view.blocks]


@measured("network", "view", unit="nats")
def _lesion_loss(view: View) -> Array:
    """Loss without one block, for each block (Veit et al. 2016)."""
    return _lesions(view).single


@measured("network", "view", unit="nats")
def _lesions_loss(view: View) -> Array:
    """Loss without 1, 2, ... of the blocks, up to half of them, mean over four random choices."""
    half = max(1, (view.hidden.shape[0] - 1) // 2)
    return _lesions(view, removed=range(1, half + 1), samples=4, key=jax.random.key(0)).mean


def _lesions(view: View, **options: Any) -> _residual.Lesions:
    return _residual.lesion_study(view.chain, view.cost, view.x, name=view.blocks, **options)


@measured("network", "view", unit="share of the blocks", greatest="1")
def _effective_depth(view: View) -> Array:
    """Mean share of the blocks that the gradient at the input has passed through."""
    # A path's length is that of one example's gradient: a few examples tell it.
    few = view._replace(x=view.x[:16], y=view.y[:16])
    paths = _residual.path_gradients(few.chain, few.cost, few.x)
    return _residual.effective_depth(paths.log_norm) / (view.hidden.shape[0] - 1)
