"""What networks have besides blocks: stems, heads, squeeze-and-excitation, Res2Net's hierarchy."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from jaxact._compat import module_list
from jaxact.models._block import Layer
from jaxact.models._config import BlockConfig
from jaxact.models._layers import Conv, Dense, average_pool3, max_pool


class Stem(nnx.Module):
    """Layers before the blocks, each but the last followed by norm and activation.

    A monotone activation comes after the maximum that ends the stem: a(max x) = max a(x), of a
    quarter as many values, and nothing large lies between norm and maximum in the backward pass.

    Args:
      layers: the layers.
      config: the network's choices.
      finish: whether norm and activation follow the last layer too.
      gain: of the last layer's weights, where no activation follows it.
      pool: whether a 3 x 3 maximum of stride 2 ends the stem.
      rngs: Flax's PRNG keys.
    """

    def __init__(
        self,
        layers: list[Layer],
        config: BlockConfig,
        *,
        finish: bool,
        gain: float | Array,
        pool: bool = False,
        rngs: nnx.Rngs,
    ):
        followed = [True] * (len(layers) - 1) + [finish]
        self.layers = module_list(
            [
                layer.make(
                    layer.inputs,
                    layer.outputs,
                    **config.layer_options(gain=None if after else gain),
                    rngs=rngs,
                )
                for layer, after in zip(layers, followed, strict=True)
            ]
        )
        widths = [layer.outputs for layer, after in zip(layers, followed, strict=True) if after]
        normed = config.wiring.normed
        self.norms = module_list([config.make_norm(width, rngs) for width in widths * normed])
        self.activations = module_list([config.make_activation(width, rngs) for width in widths])
        self.pool = pool
        self.pool_first = pool and finish and config.monotone
        self.dual = config.wiring.placed.dual

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


POOLS = ("mean", "first", "none")


class Head(nnx.Module):
    """What is after the blocks: norm and activation where they leave them open, mean, logits.

    Args:
      features: channels.
      rngs: Flax's PRNG keys.
      outputs: logits; with 0 a call gives the pooled features.
      config: the network's choices.
      pool: over positions: ``"mean"``, ``"first"`` or ``"none"``.
      sublayer: whether the blocks' branches are sublayers, which have their own activations.
      bias: whether the logits have biases.
    """

    def __init__(
        self,
        features: int,
        rngs: nnx.Rngs,
        *,
        outputs: int,
        config: BlockConfig,
        pool: str = "mean",
        sublayer: bool = False,
        bias: bool = True,
    ):
        placed = config.wiring.placed
        tokens = (placed.of_sublayers() if sublayer else placed).head
        self.pool = pool
        self.norm = config.make_norm(features, rngs) if "N" in tokens else None
        self.activation = config.make_activation(features, rngs) if "a" in tokens else None
        linear = None
        if outputs:
            options = dict(gain=config.wiring.skip.head_gain, param_dtype=config.param_dtype)
            linear = Dense(features, outputs, bias=bias, **options, rngs=rngs)
        self.linear = linear

    def __call__(self, x: PyTree[Float[Array, "n *space c"]]) -> Float[Array, "n *space2 o"]:
        x = self.pooled(x)
        return x if self.linear is None else self.linear(x)

    def pooled(self, x: PyTree[Float[Array, "n *space c"]]) -> Float[Array, "n *space2 c"]:
        """The features from which the logits are made."""
        stream, dual = x if isinstance(x, tuple) else (None, x)
        x = dual if self.norm is None else self.norm(dual)
        if stream is not None:
            x = stream + x
        if self.activation is not None:
            x = self.activation(x)
        if self.pool == "none":
            return x
        return x[:, 0] if self.pool == "first" else jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


class SqueezeExcitation(nnx.Module):
    """x times a gate by channel, sigmoid(W_2 a(W_1 mean(x))).

    Args:
      features: channels.
      config: the network's choices; its activation is a.
      reduction: channels over those of the bottleneck.
      divisor: of the bottleneck's channels; see `ResNetConfig`.
      rngs: Flax's PRNG keys.

    Reference:
      Hu et al. 2018, "Squeeze-and-Excitation Networks", eqs. 2 to 4.
    """

    def __init__(
        self,
        features: int,
        config: BlockConfig,
        *,
        reduction: int,
        divisor: int = 1,
        rngs: nnx.Rngs,
    ):
        asked = features // reduction
        inner = max(divisor, (asked + divisor // 2) // divisor * divisor)
        inner += divisor * (inner < 0.9 * asked)
        options = {"param_dtype": config.param_dtype, "rngs": rngs}
        self.reduce = Dense(features, inner, gain=config.weight_gain, **options)
        self.expand = Dense(inner, features, gain=1.0, **options)
        self.activation = config.make_activation(inner, rngs)

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
        config: BlockConfig,
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
        self.layers = module_list(
            [
                Conv(width, width, stride=stride, groups=groups, rngs=rngs, **options)
                for _ in range(scale - 1)
            ]
        )
        self.norms = module_list([config.make_norm(width, rngs) for _ in range(scale - 1)])
        self.activations = module_list(
            [config.make_activation(width, rngs) for _ in range(scale - 1)]
        )

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
