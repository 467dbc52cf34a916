"""The residual network with one neuron a block."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxact import activations
from jaxact._checks import whole
from jaxact.models._family import Part, Parts
from jaxact.models._layers import Dense
from jaxact.models._registry import register


class _OneNeuron(nnx.Module):
    """x + v a(u . x + b)."""

    def __init__(
        self, features: int, *, scale: float, activation: Callable[..., Any], rngs: nnx.Rngs
    ):
        self.activation = activation
        self.into = nnx.Param(jax.random.normal(rngs.params(), (features,)) / features**0.5)
        self.bias = nnx.Param(jax.random.normal(rngs.params(), ()))
        self.out = nnx.Param(scale * jax.random.normal(rngs.params(), (features,)))

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        before = x @ self.into[...].astype(x.dtype)
        neuron = self.activation(before + self.bias[...].astype(x.dtype))
        return x + neuron[..., None] * self.out[...].astype(x.dtype).reshape(
            (1,) * (x.ndim - 1) + (-1,)
        )


class OneNeuronResNet(Parts):
    r"""A residual network whose blocks have one hidden neuron, on vectors.

    .. math:: x_{l+1} = x_l + v_l\, a(u_l^\top x_l + b_l), \qquad \text{logits} = W x_L + c

    With enough blocks it approximates any integrable function of d inputs, though no layer is wider
    than d. A plain fully connected ReLU network of width d does not at any depth: the sets on which
    it decides alike are unbounded, so that it cannot tell a ball from what surrounds it.

    The blocks are stacked over depth and scanned; ``segments`` gives them to `jaxact.analysis`.

    Args:
      in_features: d, the length of an input.
      out_features: number of logits.
      depth: number of blocks.
      activation: a name or callable of `jaxact.activations`.
      rngs: Flax's PRNG keys. Entries of u have variance 1/d, of v 1/depth, of b 1.

    Raises:
      ValueError: if a size is below one or the activation is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> network = OneNeuronResNet(2, 1, depth=6, rngs=nnx.Rngs(0))
      >>> network(jnp.ones((5, 2))).shape
      (5, 1)

    Reference:
      Lin & Jegelka 2018, "ResNet with one-neuron hidden layers is a Universal Approximator", eq. 2,
      theorems 2.1 and 3.1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        depth: int,
        activation: str | Callable[..., Any] = "relu",
        rngs: nnx.Rngs,
    ):
        for name, size in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("depth", depth),
        ):
            whole(name, size)
        activation = activations.get(activation)

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs):
            return _OneNeuron(in_features, scale=depth**-0.5, activation=activation, rngs=rngs)

        self.depth = depth
        self.blocks = blocks(rngs)
        self.head = Dense(in_features, out_features, gain=1.0, rngs=rngs)

    def parts(self) -> list[Part]:
        """Blocks, head."""
        return [Part("blocks", self.blocks, self.depth), Part("head", self.head)]


register(OneNeuronResNet, {"one_neuron_resnet": {}})
