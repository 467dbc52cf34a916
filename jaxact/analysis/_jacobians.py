"""Jacobians from the input to every layer, and from every layer to the output, as products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxact import spectral
from jaxact.analysis._chain import Chain, ravel_example, scan_layers


def input_jacobians(
    chain: Chain, x: PyTree[Array], /, *, start: Array | None = None, tolerance: float | None = None
) -> dict[str, spectral.GradedProduct]:
    """The input-to-layer Jacobian J_l = dh_l/dx at one example, for every layer l.

    Each layer's own Jacobian acts by `jax.linearize` on the orthonormal factor of a graded product
    (`jaxact.spectral.graded_step`), so that no product is formed, and singular values of any spread
    come out right in the input's dtype.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently.
      x: one example, without batch axis; all its coordinates together are the k inputs.
      start: orthogonal (k, k), the basis that the product starts from; it changes nothing but
        rounding. Where masks make layers exactly singular (ReLU), a Haar random one
        (`jax.random.orthogonal`) keeps the directions lost apart from those kept; the identity
        by default.
      tolerance: below which share of its length a direction is exactly lost (see
        `jaxact.spectral.graded_step`); ``4 sqrt(k)`` machine epsilons by default.

    Returns:
      By segment name the factored products, with a leading layer axis;
      `jaxact.spectral.graded_spectrum` turns each into k log singular values.

    Raises:
      ValueError: if ``start`` is not (k, k).
    """
    h = jax.tree.map(lambda leaf: leaf[None], x)
    flat, _ = ravel_example(h)
    k = flat.size
    if start is None:
        start = jnp.eye(k, dtype=flat.dtype)
    if start.shape != (k, k):
        raise ValueError(f"start must have shape {(k, k)} for this input; got {start.shape}")

    share = _share(tolerance, k, flat)

    def visit(layer, carry, _):
        h, product = carry
        flat, unravel = ravel_example(h)

        def on_vector(v):
            y = layer(unravel(v))
            return ravel_example(y)[0], y

        _, tangent, y = jax.linearize(on_vector, flat, has_aux=True)
        columns = jax.vmap(tangent, in_axes=-1, out_axes=-1)(product.q)
        product = spectral.graded_step(product, columns, tolerance=share)
        return (y, product), product

    return scan_layers(chain, visit, (h, spectral.graded_start(start)))[1]


def _share(tolerance: float | None, k: int, like: Array) -> float:
    return 4 * k**0.5 * float(jnp.finfo(like.dtype).eps) if tolerance is None else tolerance


def output_jacobians(
    chain: Chain, x: PyTree[Array], /, *, start: Array | None = None, tolerance: float | None = None
) -> dict[str, spectral.GradedProduct]:
    """The layer-to-output Jacobian dy/dh_{l-1} at one example, from the input of every layer l.

    The transposes of the layers' own Jacobians act by `jax.vjp`, from the last layer to the first,
    on the orthonormal factor of a graded product; see `input_jacobians`.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently.
      x: one example, without batch axis.
      start: orthogonal (k, k), k counting the outputs; see `input_jacobians`.
      tolerance: see `input_jacobians`.

    Returns:
      By segment name the factored products (of the transposes, which have the same singular
      values), with a leading layer axis; `jaxact.spectral.graded_spectrum` turns each into its
      log singular values.

    Raises:
      ValueError: if ``start`` is not (k, k).
    """

    def remember(layer, h, _):
        y = layer(h)
        return y, h

    y, hidden = scan_layers(chain, remember, jax.tree.map(lambda leaf: leaf[None], x))
    flat, _ = ravel_example(y)
    k = flat.size
    if start is None:
        start = jnp.eye(k, dtype=flat.dtype)
    if start.shape != (k, k):
        raise ValueError(f"start must have shape {(k, k)} for this output; got {start.shape}")
    share = _share(tolerance, k, flat)

    def visit(layer, product, h):
        flat, unravel = ravel_example(h)
        _, transpose = jax.vjp(lambda v: ravel_example(layer(unravel(v)))[0], flat)
        rows = jax.vmap(lambda v: transpose(v)[0], in_axes=-1, out_axes=-1)(product.q)
        product = spectral.graded_step(product, rows, tolerance=share)
        return product, product

    return scan_layers(chain, visit, spectral.graded_start(start), hidden, reverse=True)[1]
