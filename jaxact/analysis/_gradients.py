"""Gradients of a loss by layer, in the shape of the network, and example by example; kernels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxact.analysis._chain import Chain, run


def gradients(
    chain: Chain, loss: Callable[[Any], Float[Array, ""]], x: PyTree[Array], /
) -> tuple[Float[Array, ""], Chain]:
    """A loss and its gradient in every parameter.

    Args:
      chain: a network, from `as_chain`.
      loss: ``loss(outputs) -> scalar``, of the network's output on the batch.
      x: a batch, as the first segment takes it.

    Returns:
      The loss, and a chain whose ``params`` are the gradients, so that
      ``weight_matrices(gradient)`` gives the gradient of every weight matrix by layer. Parameters
      that are not floats (a module's counters and keys) stand there as they are.
    """
    params, rebuild = split_params(chain)
    value, grads = jax.value_and_grad(lambda p: loss(run(rebuild(p), x)))(params)
    return value, rebuild(grads)


def split_params(chain: Chain) -> tuple[list[Array], Callable[[list[Array]], Chain]]:
    """The parameters that have a derivative, and the way back to a chain."""
    leaves, structure = jax.tree.flatten([segment.params for segment in chain.segments])
    floats = [hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def rebuild(given: list[Array]) -> Chain:
        following = iter(given)
        merged = [next(following) if f else a for f, a in zip(floats, leaves, strict=True)]
        params = jax.tree.unflatten(structure, merged)
        return Chain(
            tuple(s._replace(params=p) for s, p in zip(chain.segments, params, strict=True))
        )

    return [jnp.asarray(a) for f, a in zip(floats, leaves, strict=True) if f], rebuild


def _by_layer(chain: Chain, leading: int) -> dict[str, dict[str, Array]]:
    """Leaves with ``leading`` axes first, as (layer, *leading, parameters), by segment and path."""
    found: dict[str, dict[str, Array]] = {}
    for segment in chain.segments:
        leaves = found.setdefault(segment.name, {})
        for path, leaf in jax.tree_util.tree_leaves_with_path(segment.params):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            front = leaf.shape[:leading]
            if segment.depth is None:
                leaf = leaf.reshape(1, *front, -1)
            else:
                leaf = jnp.moveaxis(leaf, leading, 0).reshape(segment.depth, *front, -1)
            leaves[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return found


def per_example_gradients(
    chain: Chain,
    loss: Callable[..., Float[Array, ""]],
    x: PyTree[Array],
    /,
    *targets: PyTree[Array],
) -> dict[str, dict[str, Float[Array, "layer n p"]]]:
    """The gradient of each example's own loss in every parameter, a row for each example.

    The singular values of these matrices say how many directions of a layer's parameters the
    examples pull in.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently.
      loss: ``loss(outputs, *targets) -> scalar``, of a batch of one.
      x: a batch (n, ...).
      *targets: what else the loss takes, with n as leading axis.

    Returns:
      By segment name and path of the parameter, matrices (layers, n, parameters of the layer).
      Memory is n times that of the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxact.analysis import as_chain
      >>> chain = as_chain([("dense", lambda w, x: x @ w, jnp.ones((3, 2)), None)])
      >>> rows = per_example_gradients(chain, lambda y: jnp.sum(y), jnp.eye(3))
      >>> rows["dense"][""].shape
      (1, 3, 6)
    """
    params, rebuild = split_params(chain)

    def one(*example: Any) -> list[Array]:
        batch, *rest = jax.tree.map(lambda leaf: leaf[None], example)
        return jax.grad(lambda p: loss(run(rebuild(p), batch), *rest))(params)

    return _by_layer(rebuild(jax.vmap(one)(x, *targets)), 1)


def tangent_kernel(chain: Chain, x: PyTree[Array], /) -> dict[str, Float[Array, "layer no no"]]:
    r"""The empirical neural tangent kernel, by layer.

    .. math:: \Theta_l = \frac{\partial f}{\partial \theta_l}
       \frac{\partial f}{\partial \theta_l}^T

    with a row for each pair of an example and an output (examples first). The kernel of the network
    is the sum over all layers; `jnp.linalg.eigvalsh` gives its spectrum.

    Args:
      chain: a network, from `as_chain`, whose layers treat examples independently.
      x: a batch (n, ...).

    Returns:
      By segment name, (layers, n * outputs, n * outputs), symmetric. A segment without parameters
      is left out. Memory is n * outputs times that of the parameters.

    Reference:
      Jacot, Gabriel & Hongler 2018, "Neural tangent kernel: convergence and generalization in
      neural networks", eq. 4.
    """
    params, rebuild = split_params(chain)

    def one(example: Any) -> list[Array]:
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        return jax.jacrev(lambda p: run(rebuild(p), batch).reshape(-1))(params)

    kernels = {}
    for name, leaves in _by_layer(rebuild(jax.vmap(one)(x)), 2).items():
        rows = [leaf.reshape(len(leaf), -1, leaf.shape[-1]) for leaf in leaves.values()]
        if rows:
            kernels[name] = sum(
                jnp.matmul(r, jnp.swapaxes(r, 1, 2), precision="highest") for r in rows
            )
    return kernels
