r"""What the blocks of a residual network do: how much each adds, and how far gradients travel.

A block is a layer whose output has the shape of its input, read as :math:`y = h + F(h)`: F is the
block less the identity, whatever is written inside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxact.analysis._chain import Chain, Segment, run, scan_layers


def contributions(chain: Chain, x: PyTree[Array], /) -> dict[str, Float[Array, " layer"]]:
    r"""Relative contribution of each block: the mean over examples of :math:`\|F(h)\| / \|h\|`.

    Args:
      chain: a network, from `as_chain`.
      x: a batch, as the first segment takes it.

    Returns:
      By name of those segments that are blocks, a number for each layer.

    Reference:
      Csordas, Manning & Potts 2025, "Do language models use their depth efficiently?", section 3.
    """

    def visit(layer, h, _):
        y = layer(h)
        if _shape(h) != _shape(y):
            return y, None
        added, before = _norms(y - h), _norms(h)
        return y, jnp.mean(added / jnp.where(before > 0, before, 1))

    found = scan_layers(chain, visit, x)[1]
    return {name: value for name, value in found.items() if value is not None}


def _shape(h: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, h)


def _norms(h: Float[Array, "n ..."]) -> Float[Array, " n"]:
    return jnp.linalg.norm(h.reshape(h.shape[0], -1), axis=-1)


def lesion(chain: Chain, keep: Mapping[str, Bool[Array, " layer"]], /) -> Chain:
    """The network with some blocks replaced by the identity.

    Args:
      chain: a network, from `as_chain`.
      keep: by segment name, which of its layers stay. May be traced, so that `jax.vmap` runs over
        lesions.

    Returns:
      A chain like the one given.

    Raises:
      ValueError: if a name is not that of a segment, or a mask has another length than its depth.
    """
    names = [segment.name for segment in chain.segments]
    for name, mask in keep.items():
        if name not in names:
            raise ValueError(f"keep must name segments of the chain ({names}); got {name!r}")
        depth = chain.segments[names.index(name)].depth or 1
        if mask.shape != (depth,):
            raise ValueError(f"keep[{name!r}] must have shape ({depth},); got {mask.shape}")

    def cut(segment: Segment) -> Segment:
        if segment.name not in keep:
            return segment
        apply, mask = segment.apply, keep[segment.name]
        mask = mask if segment.depth is not None else mask[0]

        def apply_or_not(params: Any, x: Any) -> Any:
            params, stays = params
            return jax.tree.map(lambda y, h: jnp.where(stays, y, h), apply(params, x), x)

        return segment._replace(apply=apply_or_not, params=(segment.params, mask))

    return Chain(tuple(cut(segment) for segment in chain.segments))


class Lesions(NamedTuple):
    """A loss with blocks taken out.

    Attributes:
      whole: the loss of the network as it is.
      single: the loss with each one block taken out, (layers,).
      removed: how many blocks the random lesions take out, (sizes,).
      mean: the mean loss over random lesions of each size, (sizes,).
      standard_error: of the mean, (sizes,).
    """

    whole: Float[Array, ""]
    single: Float[Array, " layer"]
    removed: Int[Array, " size"]
    mean: Float[Array, " size"]
    standard_error: Float[Array, " size"]


def lesion_study(
    chain: Chain,
    loss: Callable[[Any], Float[Array, ""]],
    x: PyTree[Array],
    /,
    *,
    name: str,
    removed: Sequence[int] = (),
    samples: int = 8,
    key: Array | None = None,
) -> Lesions:
    """What a loss becomes with one block, or several at random, replaced by the identity.

    Args:
      chain: a network, from `as_chain`.
      loss: ``loss(outputs) -> scalar`` on the network's output (an error rate will do).
      x: a batch, as the first segment takes it.
      name: of the segment whose layers are taken out.
      removed: numbers of layers to take out at once.
      samples: random lesions of each size, at least 2.
      key: PRNG key; needed with ``removed``.

    Returns:
      `Lesions`.

    Raises:
      ValueError: if a size exceeds the depth, or there are sizes but no key.

    Reference:
      Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow
      networks", sections 4.1 and 4.2.
    """
    depth = next((s.depth or 1 for s in chain.segments if s.name == name), 0)
    if any(not 0 <= size <= depth for size in removed):
        raise ValueError(f"removed must be from 0 to the {depth} layers; got {tuple(removed)}")
    if removed and (key is None or samples < 2):
        raise ValueError(f"removed needs a key and at least 2 samples; got {key}, {samples}")

    def lesioned(keep: Array) -> Array:
        return loss(run(lesion(chain, {name: keep}), x))

    single = lax.map(lesioned, ~jnp.eye(depth, dtype=bool))
    sizes = jnp.asarray(removed, jnp.int32)
    if not removed:
        empty = jnp.zeros(0, single.dtype)
        return Lesions(loss(run(chain, x)), single, sizes, empty, empty)
    assert key is not None

    def sample(key: Array) -> Array:
        order = jax.random.permutation(key, depth)
        return lax.map(lambda size: lesioned(order >= size), sizes)

    losses = lax.map(sample, jax.random.split(key, samples))
    error = jnp.std(losses, axis=0, ddof=1) / samples**0.5
    return Lesions(loss(run(chain, x)), single, sizes, jnp.mean(losses, axis=0), error)


class PathGradients(NamedTuple):
    """The gradient at the network's input, by the number of blocks that it passes through.

    Attributes:
      log_norm: (blocks + 1,), the log of the norm, root mean square over examples, of the sum of
        the gradients along all paths through exactly k branches, k = 0, 1, ...; -inf where it
        vanishes.
      log_path_norm: (lengths,), the log of the mean norm of the gradient along a single path of
        each length asked for.
      standard_error: (lengths,), of the mean norm over itself.
    """

    log_norm: Float[Array, " order"]
    log_path_norm: Float[Array, " length"]
    standard_error: Float[Array, " length"]


def path_gradients(
    chain: Chain,
    loss: Callable[[Any], Float[Array, ""]],
    x: PyTree[Array],
    /,
    *,
    lengths: Sequence[int] = (),
    samples: int = 16,
    key: Array | None = None,
) -> PathGradients:
    r"""How far the gradient travels: its parts along paths of each length.

    The gradient is a product of factors :math:`I + J_l^T` over the blocks, so the sum over all
    paths through k branches is the coefficient of :math:`t^k` in
    :math:`\prod_l (I + t J_l^T)\,g`. It is found exactly, by carrying all coefficients backward.
    Single paths of one length are sampled as in the paper.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently. Segments whose
        output has the shape of their input are taken as blocks h + F(h).
      loss: ``loss(outputs) -> scalar``, of the network's output on the batch.
      x: a batch (n, ...), one array.
      lengths: lengths of paths to sample.
      samples: paths of each length, at least 2.
      key: PRNG key; needed with ``lengths``.

    Returns:
      `PathGradients`.

    Raises:
      ValueError: if no segment is a block, a length exceeds the number of blocks, or there are
        lengths but no key.

    Reference:
      Veit, Wilber & Belongie 2016, section 4.3.
    """

    def visit(layer, h, _):
        y = layer(h)
        return y, h

    out, hidden = scan_layers(chain, visit, x)
    blocks = {
        s.name: s.depth or 1
        for s in chain.segments
        if hidden[s.name].shape[1:] == jax.eval_shape(s.apply, *_one(s, hidden[s.name])).shape
    }
    total = sum(blocks.values())
    if not total:
        raise ValueError("chain must have a segment whose output has the shape of its input")
    if any(not 0 <= length <= total for length in lengths):
        raise ValueError(f"lengths must be from 0 to the {total} blocks; got {tuple(lengths)}")
    if lengths and (key is None or samples < 2):
        raise ValueError(f"lengths needs a key and at least 2 samples; got {key}, {samples}")
    cotangent = jax.grad(loss)(out)

    def backward(g: Array, chosen: dict[str, Any]) -> tuple[Array, Array]:
        inputs = {s.name: (hidden[s.name], chosen.get(s.name)) for s in chain.segments}
        alive = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim))) > 0
        scale = jnp.where(alive, jnp.zeros(len(g), g.dtype), -jnp.inf)
        (g, scale), _ = scan_layers(chain, _step_back, (g, scale), inputs, reverse=True)
        return g.reshape(len(g), len(x), -1), scale

    start = jnp.zeros((total + 1, *cotangent.shape), cotangent.dtype).at[0].set(cotangent)
    g, scale = backward(start, {name: jnp.zeros(depth, bool) for name, depth in blocks.items()})
    log_norm = jnp.log(jnp.sqrt(jnp.sum(jnp.square(g), axis=(1, 2)) / len(x))) + scale
    if not lengths:
        empty = jnp.zeros(0, g.dtype)
        return PathGradients(log_norm, empty, empty)
    assert key is not None

    orders = jax.vmap(lambda key: jax.random.permutation(key, total))(
        jax.random.split(key, len(lengths) * samples)
    ).reshape(len(lengths), samples, total)
    masks = orders < jnp.asarray(lengths, jnp.int32)[:, None, None]

    def one_length(mask: Array) -> tuple[Array, Array]:
        chosen, first = {}, 0
        for name, depth in blocks.items():
            chosen[name] = jnp.swapaxes(mask[:, first : first + depth], 0, 1)
            first += depth
        g, scale = backward(jnp.broadcast_to(cotangent, (samples, *cotangent.shape)), chosen)
        largest = jnp.max(scale)
        shift = jnp.where(jnp.isfinite(largest), largest, 0)
        norms = jnp.mean(jnp.linalg.norm(g, axis=-1), axis=-1) * jnp.exp(scale - shift)
        mean = jnp.mean(norms)
        error = jnp.std(norms, ddof=1) / samples**0.5 / jnp.where(mean > 0, mean, 1)
        return jnp.log(mean) + shift, error

    log_path_norm, error = lax.map(one_length, masks)
    return PathGradients(log_norm, log_path_norm, error)


def _step_back(layer: Any, carry: tuple[Array, Array], inputs: Any) -> tuple[Any, None]:
    """Gradients before a layer, each with the logarithm of a scale of its own, from those after it.

    ``inputs`` holds the layer's input and what its branch does: None where it is no block, a mask
    of the gradients that pass through it, or a scalar for all orders at once, of which each takes
    what the order below sends through the branch.
    """
    g, scale = carry
    h, chosen = inputs
    _, transpose = jax.vjp(layer, h)
    through = jax.vmap(lambda one: transpose(one)[0])(g)
    if chosen is None:
        g = through
    elif chosen.ndim:
        on = chosen.reshape(-1, *[1] * (g.ndim - 1))
        g = jnp.where(on, through - g, g)
    else:
        longer = jnp.roll((through - g).at[-1].set(0), 1, axis=0)
        of_longer = jnp.roll(scale.at[-1].set(-jnp.inf), 1)
        joint = jnp.maximum(scale, of_longer)
        g = _rescaled(g, scale - joint) + _rescaled(longer, of_longer - joint)
        scale = joint
    # Each carries its own power of two, so that binomials of any depth stay in range.
    largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)))
    alive = largest > 0
    power = jnp.exp2(jnp.floor(jnp.log2(jnp.where(alive, largest, 1))))
    g = g / power.reshape(-1, *[1] * (g.ndim - 1))
    return (g, jnp.where(alive, scale + jnp.log(power), -jnp.inf)), None


def _rescaled(g: Array, log_ratio: Array) -> Array:
    """Each slice times the exponential of a number that is not positive; NaN stands for zero."""
    ratio = jnp.where(jnp.isnan(log_ratio), 0, jnp.exp(log_ratio))
    return g * ratio.reshape(-1, *[1] * (g.ndim - 1))


def _one(segment: Segment, hidden: Array) -> tuple[Any, Any]:
    """Shapes of one layer's parameters and input."""
    params = segment.params
    if segment.depth is not None:
        params = jax.tree.map(lambda leaf: leaf[0], params)
    return params, hidden[0]


def effective_depth(log_norm: Float[Array, " order"], /) -> Float[Array, ""]:
    r"""Mean number of blocks that the gradient passes through, :math:`\sum_k k\,w_k`.

    Args:
      log_norm: from `path_gradients`; the weights w_k are proportional to the norms.

    Returns:
      From 0 to the number of blocks.
    """
    weight = jax.nn.softmax(log_norm)
    return jnp.sum(weight * jnp.arange(len(weight), dtype=weight.dtype))
