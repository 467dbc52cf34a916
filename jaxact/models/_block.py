"""The residual block, written once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from jaxact.models._layers import Constant, Conv, Dense, average_pool
from jaxact.models._wiring import Wiring

NORMALIZER_FREE_SCALE = 0.2


class Layer(NamedTuple):
    """A weight layer to be made.

    Attributes:
      make: ``make(inputs, outputs, *, gain, bias, weights, param_dtype, rngs) -> module``.
      inputs: channels in.
      outputs: channels out.
      complete: whether it brings its own norms and activations.
    """

    make: Any
    inputs: int
    outputs: int
    complete: bool = False


class BlockTrace(NamedTuple):
    """What passes through a block; a pair (x, dual) where the block carries two streams.

    Attributes:
      input: x.
      branch: F as it is added to the skip, scaled.
      output: the next block's input.
    """

    input: PyTree[Array]
    branch: Array
    output: PyTree[Array]


class Shortcut(nnx.Module):
    """A skip where the shape changes, or option C."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        wiring: Wiring,
        *,
        stride: int,
        pool: bool,
        dense: bool,
        rngs: nnx.Rngs,
    ):
        self.outputs = outputs
        self.stride = stride
        self.pool = pool
        self.projects = wiring.shortcut != "A"
        layer = norm = None
        if self.projects:
            # It takes what the activation left; only beta's prediction asks for that to be undone.
            gain = wiring.weight_gain if wiring.skip == "normalizer_free" else 1.0
            options: dict[str, Any] = {**wiring.layer_options(gain=gain), "rngs": rngs}
            if dense:
                layer = Dense(inputs, outputs, **options)
            else:
                own = 1 if pool else stride
                layer = Conv(inputs, outputs, size=1, stride=own, **options)
            if wiring.place.end and not wiring.place.before:
                norm = wiring.make_norm(outputs, rngs)
        self.layer: Any = layer
        self.norm = norm

    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space2 c2"]:
        if self.pool and self.stride > 1:
            x = average_pool(x, self.stride)
        elif self.stride > 1 and not self.projects:
            x = x[:, :: self.stride, :: self.stride]
        if not self.projects:
            missing = self.outputs - x.shape[-1]
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        x = self.layer(x)
        return x if self.norm is None else self.norm(x)


class Block(nnx.Module):
    r"""A residual or plain block of weight layers W_1 ... W_k.

    Its wiring is a `Wiring`; `docs/models.md` gives the equation of each placement.

    Args:
      layers: the weight layers, in order.
      wiring: the choices.
      depth: blocks of the network.
      stride: of the branch, as the skip is to follow it.
      pool: whether a shortcut averages instead of striding (ResNet-D).
      excite: ``make(channels, rngs=rngs)`` of a module at the end of the branch, or None.
      beta: the standard deviation of the block's input that ``skip="normalizer_free"`` predicts.
      drop: the share of examples whose branch is dropped in training.
      rngs: Flax's PRNG keys.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        wiring: Wiring,
        *,
        depth: int,
        stride: int = 1,
        pool: bool = False,
        excite: Any = None,
        beta: float | Array = 1.0,
        drop: float | Array = 0.0,
        rngs: nnx.Rngs,
    ):
        inputs, outputs = layers[0].inputs, layers[-1].outputs
        self.norm_placement = wiring.norm_placement
        self.skip = wiring.skip
        self.place = place = wiring.place
        self.deterministic = False
        self.alpha = depth**0.25 if wiring.norm_placement == "deepnorm" else 1.0

        self.layers = nnx.List(
            [
                layer.make(
                    layer.inputs,
                    layer.outputs,
                    **wiring.layer_options(gain=_gain(wiring, number, len(layers), depth)),
                    rngs=rngs,
                )
                for number, layer in enumerate(layers)
            ]
        )
        last = len(layers) - 1
        self.complete = tuple(layer.complete for layer in layers)
        norms = []
        for number, layer in enumerate(layers):
            if place.before:
                norms.append(wiring.make_norm(layer.inputs, rngs))
            elif layer.complete:
                norms.append(None)
            elif place.between and number < last:
                norms.append(wiring.make_norm(layer.outputs, rngs))
            elif place.between and place.end:
                norms.append(wiring.make_norm(layer.outputs, rngs, zero=wiring.zero_init))
        self.norms = nnx.List(norms)
        out = place.after_addition or (place.end and not place.between)
        zero = wiring.zero_init
        self.out_norm: Any = wiring.make_norm(outputs, rngs, zero=zero) if out else None

        places = [layer.inputs for layer in layers]
        if not place.activation_first:
            places = [*places[1:], outputs]
        learned = nnx.List([wiring.make_activation(c, rngs) for c in places * wiring.learnable])
        self.activations = learned if wiring.learnable else None
        self.activation: Any = None if wiring.learnable else wiring.make_activation(outputs, rngs)

        self.excite = None if excite is None else excite(outputs, rngs=rngs)
        changes = stride > 1 or inputs != outputs
        shortcut = None
        if not wiring.plain and (changes or wiring.shortcut == "C"):
            dense = layers[0].make is Dense
            shortcut = Shortcut(
                inputs, outputs, wiring, stride=stride, pool=pool, dense=dense, rngs=rngs
            )
        self.shortcut = shortcut
        self._add_scales(wiring, len(layers), outputs, depth, beta, drop)

    def _add_scales(self, wiring, layers, outputs, depth, beta, drop):
        dtype = wiring.param_dtype
        factors = {"scaled": depth**-0.5, "normalizer_free": NORMALIZER_FREE_SCALE}
        named = isinstance(wiring.skip, str)
        self.factor = factors.get(wiring.skip, 1.0) if named else float(wiring.skip)
        scale = {
            "rezero": jnp.zeros((), dtype),
            "skipinit": jnp.zeros((), dtype),
            "layerscale": jnp.full((outputs,), wiring.layer_scale, dtype),
            "fixup": jnp.ones((), dtype),
        }.get(wiring.skip)
        self.scale = None if scale is None else nnx.Param(scale)
        fixup = wiring.skip == "fixup"
        self.biases = nnx.Param(jnp.zeros(2 * layers, dtype)) if fixup else None
        predicted = wiring.skip == "normalizer_free"
        self.beta = Constant(jnp.asarray(beta, dtype)) if predicted else None
        drops = wiring.stochastic_depth > 0
        self.drop = Constant(jnp.asarray(drop, dtype)) if drops else None

    def __call__(
        self, x: PyTree[Array], *, key: Key[Array, ""] | None = None
    ) -> PyTree[Float[Array, "n *space c"]]:
        """The next block's input.

        Args:
          x: (n, *space, c), or a pair of such where the block carries two streams.
          key: PRNG key of stochastic depth, needed only where it acts.
        """
        return self.trace(x, key=key).output

    def trace(self, x: PyTree[Array], *, key: Key[Array, ""] | None = None) -> BlockTrace:
        """What passes through the block; arguments as in a call."""
        dual = None
        stream = x
        if self.norm_placement == "residual_dual":
            stream, dual = x
        h, entry = self._branch(stream)
        branch = self._scaled(h, key)
        if self.skip == "none":
            return BlockTrace(x, branch, self._leave(branch))
        skip = self._skip(stream, entry)
        out = self._leave((self.alpha * skip if self.alpha != 1 else skip) + branch)
        if dual is None:
            return BlockTrace(x, branch, out)
        dual_entry = dual
        if self.shortcut is not None and self.shortcut.projects:
            dual_entry = self._act(0, dual)
        return BlockTrace(x, branch, (out, self._skip(dual, dual_entry) + branch))

    def _act(self, number: int, h: Array) -> Array:
        """The activation before layer ``number``, or the last one."""
        if self.activations is None:
            return self.activation(h)
        return self.activations[number if self.place.activation_first else number - 1](h)

    def _branch(self, x: Array) -> tuple[Array, Array]:
        """F(x), and what its first layer takes, which a projection takes too."""
        place = self.place
        h = entry = x
        if self.beta is not None:
            h = h / lax.stop_gradient(self.beta[...]).astype(h.dtype)
        for number, layer in enumerate(self.layers):
            if place.before:
                h = self.norms[number](h)
            activated = number and not self.complete[number - 1]
            if activated or (place.activation_first and not number):
                h = self._act(number, self._shifted(h, 2 * number))
            if not number:
                entry = h
            h = layer(self._shifted(h, 2 * number + 1))
            if not place.before and number < len(self.norms) and self.norms[number] is not None:
                h = self.norms[number](h)
        if self.out_norm is not None and place.end:
            h = self.out_norm(h)
        if self.excite is not None:
            h = self.excite(h)
        if place.activation_at == "branch":
            h = self._act(len(self.layers), h)
        return h, entry

    def _shifted(self, h: Array, place: int) -> Array:
        """Fixup's scalar biases."""
        if self.biases is None:
            return h
        return h + self.biases[...][place].astype(h.dtype)

    def _scaled(self, h: Array, key: Key[Array, ""] | None) -> Array:
        if self.factor != 1:
            h = self.factor * h
        if self.scale is not None:
            h = h * jnp.broadcast_to(self.scale[...].astype(h.dtype), h.shape)
        if self.drop is None or self.deterministic:
            return h
        if key is None:
            raise ValueError(
                "key must be given in training where stochastic_depth is above 0; got None"
            )
        keep = 1 - lax.stop_gradient(self.drop[...])
        kept = jax.random.bernoulli(key, keep, (h.shape[0],))
        weight = jnp.where(kept, 1 / keep, 0).astype(h.dtype)
        return h * weight.reshape(-1, *(1,) * (h.ndim - 1))

    def _skip(self, x: Array, entry: Array) -> Array:
        if self.shortcut is None:
            return x
        return self.shortcut(entry if self.shortcut.projects else x)

    def _leave(self, h: Array) -> Array:
        """What comes after the addition."""
        if self.place.after_addition:
            h = self.out_norm(h)
        if self.place.activation_at == "addition":
            h = self._act(len(self.layers), h)
        return h


def _gain(wiring: Wiring, number: int, layers: int, depth: int) -> Any:
    """The initial gain of a layer of the branch."""
    gain = wiring.weight_gain
    if wiring.norm_placement == "deepnorm":
        return gain * (4 * depth) ** -0.25
    if wiring.skip == "fixup":
        return 0.0 if number == layers - 1 else gain * depth ** (-1 / (2 * layers - 2))
    return gain
