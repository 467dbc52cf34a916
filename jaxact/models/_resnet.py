"""Residual and plain networks of equal blocks, stacked over depth and scanned."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jaxact import activations, theory
from jaxact.models._layers import NORMS, Conv, Dense, at_least_one, make_norm, one_of
from jaxact.models._segments import Segment

NORM_PLACEMENTS = ("post", "pre", "none")
SKIPS = ("identity", "scaled", "none")

Activation = Callable[[Array], Array]


class Block(nnx.Module):
    r"""A block of weight layers W_1 ... W_k with activation a, norms N_i and skip.

    * ``pre`` (full pre-activation, He et al. 2016): :math:`x + s\,W_k a(N_k(\cdots W_1 a(N_1 x)))`
    * ``post`` (original, He et al. 2015): :math:`a(x + s\,N_k W_k \cdots a(N_1 W_1 x))`
    * ``none``: :math:`x + s\,W_k a(\cdots W_1 a(x))`; without a skip
      :math:`a(W_k \cdots a(W_1 x))`, a plain network, with norms between W and a for ``post``.
    """

    def __init__(
        self,
        make_layer: Callable[..., nnx.Module],
        width: int,
        *,
        layers: int,
        norm_placement: str,
        norm: str,
        skip: str,
        scale: float,
        activation: Activation,
        gain: float | Array,
        rngs: nnx.Rngs,
    ):
        self.norm_placement = norm_placement
        self.skip = skip
        self.scale = scale
        self.activation = activation
        self.layers = nnx.List(
            [make_layer(width, width, gain=gain, rngs=rngs) for _ in range(layers)]
        )
        normed = norm_placement != "none"
        self.norms = nnx.List([make_norm(norm, width, rngs) for _ in range(layers * normed)])

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        plain = self.skip == "none"
        h = x
        for number, layer in enumerate(self.layers):
            if self.norm_placement == "pre":
                h = layer(self.activation(self.norms[number](h)))
            elif self.norm_placement == "post" or plain:
                h = self.activation(h) if number else h
                h = layer(h)
                h = self.norms[number](h) if self.norms else h
            else:
                h = layer(self.activation(h))
        if not plain:
            h = x + self.scale * h
        return (
            h if self.norm_placement == "pre" or not (plain or self.norms) else self.activation(h)
        )


class _ResNet(nnx.Module):
    """Stem, equal blocks, head."""

    def __init__(
        self,
        make_layer: Callable[..., nnx.Module],
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        block_layers: int,
        norm_placement: str,
        norm: str,
        skip: str,
        activation: str | Activation,
        gain: float | Array | None,
        rngs: nnx.Rngs,
    ):
        for name, size in (
            ("inputs", inputs),
            ("out_features", outputs),
            ("width", width),
            ("depth", depth),
            ("block_layers", block_layers),
        ):
            at_least_one(name, size)
        one_of("norm_placement", norm_placement, NORM_PLACEMENTS)
        one_of("skip", skip, SKIPS)
        one_of("norm", norm, (*NORMS, "none"))
        if (norm == "none") != (norm_placement == "none"):
            raise ValueError(
                f"norm={norm!r} and norm_placement={norm_placement!r} conflict: either both are "
                "'none' or neither is"
            )
        activation = activations.get(activation)
        gain = theory.gain(activation) if gain is None else gain
        self.depth = depth

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs):
            return Block(
                make_layer,
                width,
                layers=block_layers,
                norm_placement=norm_placement,
                norm=norm,
                skip=skip,
                scale=depth**-0.5 if skip == "scaled" else 1.0,
                activation=activation,
                gain=gain,
                rngs=rngs,
            )

        # A plain block applies its weights first: what they put out is to have variance one.
        stem_gain = 1 / gain if skip == "none" else 1.0
        self.stem = make_layer(inputs, width, gain=stem_gain, rngs=rngs)
        self.blocks = blocks(rngs)
        self.head = Dense(width, outputs, gain=1.0, rngs=rngs)
        self.head_norm = make_norm(norm, width, rngs) if norm_placement == "pre" else None

    def segments(self) -> tuple[Segment, ...]:
        """The network as a chain of pure functions: stem, blocks, head."""
        head = {"head": self.head, "norm": self.head_norm}
        return (
            Segment("stem", lambda layer, x: layer(x), self.stem, None),
            Segment("blocks", lambda block, x: block(x), self.blocks, self.depth),
            Segment("head", _head, head, None),
        )

    def __call__(self, x: Float[Array, "n *space i"]) -> Float[Array, "n o"]:
        x, _ = lax.scan(lambda x, block: (block(x), None), self.stem(x), self.blocks)
        return _head({"head": self.head, "norm": self.head_norm}, x)


def _head(parts: dict[str, Any], x: Array) -> Array:
    if parts["norm"] is not None:
        x = parts["norm"](x)
    return parts["head"](jnp.mean(x, axis=tuple(range(1, x.ndim - 1))))


class MLPResNet(_ResNet):
    """A residual or plain MLP of equal blocks: stem, ``depth`` blocks of width x width, head.

    Args:
      in_features: length of an input.
      out_features: number of logits.
      width: units of every block.
      depth: number of blocks.
      block_layers: weight layers a block.
      norm_placement: ``"pre"``, ``"post"`` or ``"none"`` (see `Block`).
      norm: ``"layer"``, ``"rms"`` or ``"none"``.
      skip: ``"identity"``, ``"scaled"`` (branch over the root of the depth) or ``"none"`` (plain).
      activation: a name or callable of `jaxact.activations`.
      gain: weights have variance gain^2 / fan_in; `jaxact.theory.gain` of the activation if None.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        depth: int,
        block_layers: int = 1,
        norm_placement: str = "pre",
        norm: str = "layer",
        skip: str = "identity",
        activation: str | Activation = "relu",
        gain: float | Array | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            Dense,
            in_features,
            out_features,
            width=width,
            depth=depth,
            block_layers=block_layers,
            norm_placement=norm_placement,
            norm=norm,
            skip=skip,
            activation=activation,
            gain=gain,
            rngs=rngs,
        )


class ConvResNet(_ResNet):
    """A residual or plain convolutional network of constant resolution and channels, NHWC.

    A stem convolution, ``depth`` blocks of ``block_layers`` convolutions with zero padding, the
    mean over positions, and a dense head. Arguments are those of `MLPResNet`, with ``in_channels``
    for ``in_features``.

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.
    """

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        *,
        width: int,
        depth: int,
        block_layers: int = 2,
        norm_placement: str = "pre",
        norm: str = "layer",
        skip: str = "identity",
        activation: str | Activation = "relu",
        gain: float | Array | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            Conv,
            in_channels,
            out_features,
            width=width,
            depth=depth,
            block_layers=block_layers,
            norm_placement=norm_placement,
            norm=norm,
            skip=skip,
            activation=activation,
            gain=gain,
            rngs=rngs,
        )
