"""What networks have besides blocks: stems, heads, squeeze-and-excitation, Res2Net's hierarchy."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from jaxact.models._block import Layer
from jaxact.models._layers import Conv, Dense, average_pool3, max_pool
from jaxact.models._wiring import Wiring


class Stem(nnx.Module):
    """Layers before the blocks, each but the last followed by norm and activation.

    A monotone activation comes after the maximum that ends the stem: a(max x) = max a(x), of a
    quarter as many values, and nothing large lies between norm and maximum in the backward pass.

    Args:
      layers: the layers.
      wiring: the network's choices.
      finish: whether norm and activation follow the last layer too.
      gain: of the last layer's weights, where no activation follows it.
      pool: whether a 3 x 3 maximum of stride 2 ends the stem.
      rngs: Flax's PRNG keys.
    """

    def __init__(
        self,
        layers: list[Layer],
        wiring: Wiring,
        *,
        finish: bool,
        gain: float | Array,
        pool: bool = False,
        rngs: nnx.Rngs,
    ):
        followed = [True] * (len(layers) - 1) + [finish]
        self.layers = nnx.List(
            [
                layer.make(
                    layer.inputs,
                    layer.outputs,
                    **wiring.layer_options(gain=None if after else gain),
                    rngs=rngs,
                )
                for layer, after in zip(layers, followed, strict=True)
            ]
        )
        widths = [layer.outputs for layer, after in zip(layers, followed, strict=True) if after]
        normed = wiring.norm != "none"
        self.norms = nnx.List([wiring.make_norm(width, rngs) for width in widths * normed])
        self.activations = nnx.List([wiring.make_activation(width, rngs) for width in widths])
        self.pool = pool
        self.pool_first = pool and finish and wiring.monotone
        self.dual = wiring.norm_placement == "residual_dual"

    def __call__(self, x: Float[Array, "n *space i"]) -> PyTree[Float[Array, "n *space2 c"]]:
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < len(self.norms):
                x = self.norms[number](x)
            if number == last and self.pool_first:
                x = max_pool(x)
            if number < len(self.activations):
                x = self.activations[number](x)
        if self.pool and not self.pool_first:
            x = max_pool(x)
        return (x, x) if self.dual else x


class Head(nnx.Module):
    """What is after the blocks: norm and activation where they leave them open, mean, logits."""

    def __init__(self, features: int, outputs: int, wiring: Wiring, *, rngs: nnx.Rngs):
        placement = wiring.norm_placement
        normed = placement in ("pre", "sandwich", "res_post", "residual_dual")
        self.norm = wiring.make_norm(features, rngs) if normed else None
        active = wiring.place.activation_first
        self.activation = wiring.make_activation(features, rngs) if active else None
        self.linear = Dense(
            features,
            outputs,
            gain=0.0 if wiring.skip == "fixup" else 1.0,
            param_dtype=wiring.param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: PyTree[Float[Array, "n *space c"]]) -> Float[Array, "n o"]:
        return self.linear(self.pooled(x))

    def pooled(self, x: PyTree[Float[Array, "n *space c"]]) -> Float[Array, "n c"]:
        """The features from which the logits are made."""
        stream, dual = x if isinstance(x, tuple) else (None, x)
        x = dual if self.norm is None else self.norm(dual)
        if stream is not None:
            x = stream + x
        if self.activation is not None:
            x = self.activation(x)
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


class SqueezeExcitation(nnx.Module):
    """x times a gate by channel, sigmoid(W_2 a(W_1 mean(x))).

    Args:
      features: channels.
      wiring: the network's choices; its activation is a.
      reduction: channels over those of the bottleneck.
      rngs: Flax's PRNG keys.

    Reference:
      Hu et al. 2018, "Squeeze-and-Excitation Networks", eqs. 2 to 4.
    """

    def __init__(self, features: int, wiring: Wiring, *, reduction: int, rngs: nnx.Rngs):
        inner = max(features // reduction, 1)
        options = {"param_dtype": wiring.param_dtype, "rngs": rngs}
        self.reduce = Dense(features, inner, gain=wiring.weight_gain, **options)
        self.expand = Dense(inner, features, gain=1.0, **options)
        self.activation = wiring.make_activation(inner, rngs)

    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
        gate = jax.nn.sigmoid(self.expand(self.activation(self.reduce(mean))))
        return x * gate.reshape(gate.shape[0], *(1,) * (x.ndim - 2), -1)


class Res2Conv(nnx.Module):
    """Res2Net's hierarchy in place of a bottleneck's 3x3 convolution, norms and activation inside.

    The channels are split in ``scale`` parts; each but the last is convolved, after the result of
    the part before it is added. The last passes, averaged over 3 x 3 where the block strides; there
    the parts are not added.

    Reference:
      Gao et al. 2019, "Res2Net: A New Multi-scale Backbone Architecture", eq. 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        wiring: Wiring,
        scale: int,
        stride: int,
        groups: int,
        first: bool,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        width = inputs // scale
        self.stride = stride
        self.first = first
        self.scale = scale
        self.layers = nnx.List(
            [
                Conv(width, width, stride=stride, groups=groups, rngs=rngs, **options)
                for _ in range(scale - 1)
            ]
        )
        self.norms = nnx.List([wiring.make_norm(width, rngs) for _ in range(scale - 1)])
        self.activations = nnx.List([wiring.make_activation(width, rngs) for _ in range(scale - 1)])

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        parts = jnp.split(x, self.scale, axis=-1)
        done: list[Array] = []
        for number, layer in enumerate(self.layers):
            h = parts[number]
            if number and not self.first:
                h = h + done[-1]
            done.append(self.activations[number](self.norms[number](layer(h))))
        done.append(average_pool3(parts[-1], self.stride) if self.first else parts[-1])
        return jnp.concatenate(done, axis=-1)
