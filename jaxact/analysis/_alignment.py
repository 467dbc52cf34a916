"""Centred kernel alignment between all layers of a network, over a stream of batches."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxact.analysis._chain import Chain, scan_layers, split_arrays
from jaxact.analysis._similarity import align, hsic, unit_gram


def batch_hsic(chain: Chain, x: PyTree[Array], /) -> Float[Array, "layer layer"]:
    """Unbiased HSIC between the outputs of all layers on one batch.

    Args:
      chain: a network, from `as_chain`.
      x: a batch of n >= 4 examples.

    Returns:
      (layers, layers), of all segments in their order. The memory is that of ``layers`` Gram
      matrices (n, n): no features are kept.
    """
    return _of_size(*_unit_hsic(chain, x))


def _unit_hsic(chain: Chain, x: PyTree[Array]) -> tuple[Array, Array]:
    """`batch_hsic` of each layer's features over their largest size, and the layers' sizes."""

    def visit(layer, h, _):
        h = layer(h)
        return h, unit_gram(h)

    found = scan_layers(chain, visit, x)[1]
    grams, sizes = zip(*(found[segment.name] for segment in chain.segments), strict=True)
    return hsic(jnp.concatenate(grams)), jnp.concatenate(sizes)


def _of_size(criterion: Array, size: Array) -> Array:
    square = jnp.square(size)
    return criterion * square[:, None] * square[None]


def stream_cka(chain: Chain, batches: Iterable[PyTree[Array]], /) -> Float[Array, "layer layer"]:
    """Linear centred kernel alignment between all pairs of layers over a data set, debiased.

    The mean of `batch_hsic` over batches estimates without bias what it is on all examples at
    once; one pass, in memory that does not grow with the data.

    Args:
      chain: a network, from `as_chain`.
      batches: batches of at least four examples; each shape is compiled once. They count by their
        examples.

    Returns:
      As `cka`; the scale of the features changes nothing.

    Raises:
      ValueError: if there is no batch, or one has fewer than four examples.

    Example:
      >>> import jax
      >>> from jaxact.analysis import as_chain
      >>> chain = as_chain([jnp.tanh, lambda h: 2 * h])
      >>> x = jax.random.normal(jax.random.key(0), (3, 8, 5))
      >>> [[round(float(v), 3) for v in row] for row in stream_cka(chain, x)]
      [[1.0, 1.0], [1.0, 1.0]]

    Reference:
      Nguyen, Raghu & Kornblith 2021, "Do wide and deep networks learn the same things?", eq. 3.
    """
    arrays, rebuild = split_arrays(chain)
    step = jax.jit(lambda arrays, x: _unit_hsic(rebuild(arrays), x))
    total, first, count = None, None, 0
    for x in batches:
        size = jax.tree.leaves(x)[0].shape[0]
        if size < 4:
            raise ValueError(f"batches must each hold at least four examples; got {size}")
        found, largest = step(arrays, x)
        first = largest if first is None else first
        found = size * _of_size(found, largest / first)
        total, count = (found if total is None else total + found), count + size
    if total is None:
        raise ValueError("batches must hold at least one batch; got none")
    return align(total / count)
