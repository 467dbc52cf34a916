"""Blocks without a network: as linear maps, and as functions of a stream, by their wiring."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from jaxact import wiring
from jaxact.experiments._networks import Spec


def linear_maps(spec: Spec, blocks: Any, space: tuple[int, ...]) -> tuple[Array, Array]:
    """The blocks' weights, and the blocks, as linear maps.

    Args:
      spec: of the network.
      blocks: the parameters of its blocks.
      space: height and width of a convolution's map.

    Returns:
      Every weight, (weights, f, o, i), and every block, skip included, (blocks, f, o, i); f counts
      the frequencies of a circular convolution, and is 1 for a dense layer.
    """
    kernels = [leaf for leaf in jax.tree.leaves(blocks) if leaf.ndim in (3, 5)]
    if spec.kind == "mlp":
        maps = [jnp.swapaxes(kernel, -1, -2)[:, None] for kernel in kernels]
    else:
        maps = [_frequencies(kernel, space) for kernel in kernels]
    branch = functools.reduce(
        lambda first, then: jnp.matmul(then, first, precision="highest"), maps
    )
    weights = jnp.stack(maps, axis=1).reshape(-1, *branch.shape[1:])
    wired = wiring.get(spec.wiring)
    if wired.plain:
        return weights, branch
    identity = jnp.eye(branch.shape[-1], dtype=branch.dtype)
    stream = wired.placed.stream_scale(spec.depth) * jnp.broadcast_to(identity, branch.shape)
    branch = wired.skip.factor(spec.depth) * branch
    if (learned := getattr(blocks, "scale", None)) is not None:  # one a block, or one a channel
        branch = learned[...].reshape(len(branch), 1, -1, 1) * branch
    return weights, stream + branch


def _frequencies(
    kernel: Float[Array, "layer kh kw i o"], space: tuple[int, ...]
) -> Complex[Array, "layer f o i"]:
    """Circular convolutions as one matrix for each frequency of the feature map."""
    height, width = kernel.shape[1:3]
    margin = [(0, 0), (0, space[0] - height), (0, space[1] - width), (0, 0), (0, 0)]
    padded = jnp.pad(kernel, margin)
    centred = jnp.roll(padded, (-(height // 2), -(width // 2)), axis=(1, 2))
    transfer = jnp.fft.fft2(centred, axes=(1, 2))
    return jnp.swapaxes(transfer.reshape(len(kernel), -1, *kernel.shape[3:]), -1, -2)


def walk(
    word: str,
    depth: int,
    branch: Callable[[Array], Array],
    h: Array,
    /,
    *,
    block: int | Array = 1,
    activation: Callable[[Array], Array] = lambda h: h,
) -> Array:
    """What a block of one branch makes of the stream, its norm dividing by the root mean square.

    A plain network is seen at its pre-activations.

    Args:
      word: of its wiring.
      depth: blocks of the network.
      branch: the weights, or a whole sublayer.
      h: the stream (..., units).
      block: its number, from 1 on; a norm scaled by depth asks for it.
      activation: that acts before the weights; none where the sublayer has its own.

    Returns:
      The stream after the block.
    """
    wired = wiring.get(word)
    placement = wired.placement
    act = {
        "N": lambda h: placement.norm_scale(block) * rms_norm(h),
        "a": activation,
        "W": lambda h: placement.weight_scale(depth) * branch(h),
    }
    x = h
    for token in placement.layer + placement.end:
        h = act[token](h)
    h = wired.skip.factor(depth) * h
    if wired.skip.added:
        h = placement.stream_scale(depth) * x + h
    for token in placement.after:
        h = act[token](h)
    return h


def rms_norm(h: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Divides by the root mean square over the units."""
    return h * lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True))
