"""The residual block, written once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from jaxact._compat import module_list
from jaxact.models._config import BlockConfig
from jaxact.models._layers import Constant, Conv, Dense, average_pool
from jaxact.wiring import Placement

_Step = tuple[str, int, int]  # a token, which of its kind, its place in the branch


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


class LayerTrace(NamedTuple):
    """What passes through a layer of several blocks.

    Attributes:
      output: the next layer's input.
      parts: by the block's name.
    """

    output: PyTree[Array]
    parts: dict[str, BlockTrace]


class Shortcut(nnx.Module):
    """A skip where the shape changes, or option C."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: BlockConfig,
        *,
        stride: int,
        pool: bool,
        dense: bool,
        rngs: nnx.Rngs,
    ):
        self.outputs = outputs
        self.stride = stride
        self.pool = pool
        self.projects = config.shortcut != "A"
        layer = norm = None
        if self.projects:
            # It takes what the activation left; only beta's prediction asks for that to be undone.
            gain = config.weight_gain if config.wiring.skip.predicts else 1.0
            options: dict[str, Any] = {**config.layer_options(gain=gain), "rngs": rngs}
            if dense:
                layer = Dense(inputs, outputs, **options)
            else:
                own = 1 if pool else stride
                layer = Conv(inputs, outputs, size=1, stride=own, **options)
            placed = config.wiring.placed
            if placed.norm_last and not placed.norm_first:
                norm = config.make_norm(outputs, rngs)
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

    It walks the tokens of its `jaxact.wiring.Wiring`, which prints their equation.

    Args:
      layers: the weight layers, in order.
      config: the choices.
      depth: blocks of the network.
      stride: of the branch, as the skip is to follow it.
      pool: whether a shortcut averages instead of striding (ResNet-D).
      excite: ``make(channels, rngs=rngs)`` of a module at the end of the branch, or None.
      sublayer: whether the branch is one sublayer F, which has its own activations.
      beta: the standard deviation of the block's input that ``skip="normalizer_free"`` predicts.
      drop: the share of examples whose branch is dropped in training.
      norm_scale: the factor of what its norms put out, by `jaxact.wiring.Placement`.
      rngs: Flax's PRNG keys.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        config: BlockConfig,
        *,
        depth: int,
        stride: int = 1,
        pool: bool = False,
        excite: Any = None,
        sublayer: bool = False,
        beta: float | Array = 1.0,
        drop: float | Array = 0.0,
        norm_scale: float | Array = 1.0,
        rngs: nnx.Rngs,
    ):
        inputs, outputs = layers[0].inputs, layers[-1].outputs
        wiring = config.wiring
        placed = wiring.placed.of_sublayers() if sublayer else wiring.placed
        self.deterministic = False
        self.added = wiring.skip.added
        self.dual = placed.dual
        self.stream_scale = placed.stream_scale(depth)
        scale = placed.weight_scale(depth) * (1.0 if sublayer else config.weight_gain)
        self.layers = module_list(
            [
                layer.make(
                    layer.inputs,
                    layer.outputs,
                    **config.layer_options(
                        gain=scale * wiring.skip.gain(number, len(layers), depth)
                    ),
                    rngs=rngs,
                )
                for number, layer in enumerate(layers)
            ]
        )
        self._place(placed, layers, config, rngs, excites=excite is not None)
        self.excite = None if excite is None else excite(outputs, rngs=rngs)
        changes = stride > 1 or inputs != outputs
        shortcut = None
        if self.added and (changes or config.shortcut == "C"):
            dense = layers[0].make is Dense
            shortcut = Shortcut(
                inputs, outputs, config, stride=stride, pool=pool, dense=dense, rngs=rngs
            )
        self.shortcut = shortcut
        self._add_scales(config, len(layers), outputs, depth, beta, drop)
        scales = config.wiring.placed.scales_norms
        self.norm_scale = Constant(jnp.asarray(norm_scale, config.param_dtype)) if scales else None

    def _place(
        self,
        placed: Placement,
        layers: Sequence[Layer],
        config: BlockConfig,
        rngs: nnx.Rngs,
        *,
        excites: bool,
    ) -> None:
        """Makes what every token stands for, and the steps of branch and sum."""
        branch = [token for token, _ in placed.numbered(len(layers))]
        last = max(place for place, token in enumerate(branch) if token != "a")
        steps: list[_Step] = []
        norms, widths = [], []
        width, number, complete = layers[0].inputs, 0, False
        for place, token in enumerate((*branch, *placed.after)):
            if token == "W":
                steps.append(("W", number, place))
                width, complete = layers[number].outputs, layers[number].complete
                number += 1
            elif complete:  # the layer brought its own; lists count on, as names of weights do
                norms += [None] * (token == "N")
            elif token == "N":
                steps.append(("N", len(norms), place))
                zero = config.zero_init and place == last
                norms.append(config.make_norm(width, rngs, zero=zero))
            else:
                steps.append(("a", len(widths), place))
                widths.append(width)
            if place == last:
                steps += [("E", 0, place)] * excites
        first = [token for token, *_ in steps].index("W")
        end = sum(place < len(branch) for *_, place in steps)
        self.entry, self.branch, self.after = (
            tuple(steps[part]) for part in (slice(first), slice(first, end), slice(end, None))
        )
        self.norms = module_list(norms)
        learned = [config.make_activation(width, rngs) for width in widths * config.learnable]
        shared = bool(widths) and not config.learnable
        self.activations = module_list(learned) if config.learnable else None
        self.activation: Any = config.make_activation(width, rngs) if shared else None

    def _add_scales(self, config, layers, outputs, depth, beta, drop):
        dtype, skip = config.param_dtype, config.wiring.skip
        self.factor = skip.factor(depth)
        start = config.layer_scale if skip.learned == "layer_scale" else skip.learned
        shape = (outputs,) if skip.by_channel else ()
        self.scale = None if start is None else nnx.Param(jnp.full(shape, start, dtype))
        self.biases = nnx.Param(jnp.zeros(2 * layers, dtype)) if skip.biases else None
        self.beta = Constant(jnp.asarray(beta, dtype)) if skip.predicts else None
        drops = config.stochastic_depth > 0
        self.drop = Constant(jnp.asarray(drop, dtype)) if drops else None

    def set_view(self, deterministic: bool | None = None) -> None:
        """For `nnx.view`: whether no branch is dropped."""
        if deterministic is not None:
            self.deterministic = deterministic

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
        stream, dual = x if self.dual else (x, None)
        entry = self.enter(stream)
        branch = self._scaled(self._walk(self.branch, entry), key)
        if not self.added:
            return BlockTrace(x, branch, self._walk(self.after, branch))
        skip = self._skip(stream, entry)
        if self.stream_scale != 1:
            skip = self.stream_scale * skip
        out = self._walk(self.after, skip + branch)
        if dual is None:
            return BlockTrace(x, branch, out)
        if self.shortcut is not None and self.shortcut.projects:
            dual = self._walk(self.entry, dual)
        return BlockTrace(x, branch, (out, self._skip(dual, dual) + branch))

    def enter(self, stream: Array) -> Array:
        """What the branch's first weights are given, of the stream."""
        return self._walk(self.entry, self._divided(stream))

    def _walk(self, steps: Sequence[_Step], h: Array) -> Array:
        """What the tokens make of h."""
        for token, number, place in steps:
            if self.biases is not None and token != "E":
                h = h + self.biases[...][place].astype(h.dtype)
            if token == "W":
                h = self.layers[number](h)
            elif token == "N":
                h = self.norms[number](h)
                if self.norm_scale is not None:
                    h = h * lax.stop_gradient(self.norm_scale[...]).astype(h.dtype)
            elif token == "a":
                h = (self.activation if self.activations is None else self.activations[number])(h)
            elif self.excite is not None:
                h = self.excite(h)
        return h

    def _divided(self, x: Array) -> Array:
        if self.beta is None:
            return x
        return x / lax.stop_gradient(self.beta[...]).astype(x.dtype)

    def _scaled(self, h: Array, key: Key[Array, ""] | None) -> Array:
        if self.factor != 1:
            h = self.factor * h
        if self.scale is not None:
            h = h * jnp.broadcast_to(self.scale[...].astype(h.dtype), h.shape)
        if self.drop is None or self.deterministic:
            return h
        if key is None:
            raise ValueError(
                "key or rngs must be given in training where stochastic_depth is above 0; got None"
            )
        keep = 1 - lax.stop_gradient(self.drop[...])
        kept = jax.random.bernoulli(key, keep, (h.shape[0],))
        weight = jnp.where(kept, 1 / keep, 0).astype(h.dtype)
        return h * weight.reshape(-1, *(1,) * (h.ndim - 1))

    def _skip(self, x: Array, entry: Array) -> Array:
        if self.shortcut is None:
            return x
        return self.shortcut(entry if self.shortcut.projects else x)


class BlockSequence(nnx.Module):
    """Blocks in turn, each with a sublayer: a layer of a transformer.

    Args:
      sublayers: each by the name of its block, in the order in which they act.
      config: the choices.
      depth: layers of the network.
      rngs: Flax's PRNG keys.
      numbers: what `Block` takes for each block.
    """

    def __init__(
        self,
        sublayers: Mapping[str, Layer],
        config: BlockConfig,
        *,
        depth: int,
        rngs: nnx.Rngs,
        **numbers: Any,
    ):
        self.names = tuple(sublayers)
        blocks = depth * len(sublayers)
        for name, layer in sublayers.items():
            block = Block([layer], config, depth=blocks, sublayer=True, rngs=rngs, **numbers)
            setattr(self, name, block)

    def __call__(
        self, x: PyTree[Array], *, key: Key[Array, ""] | None = None
    ) -> PyTree[Float[Array, "n *space c"]]:
        """The next layer's input; arguments as of `Block`."""
        return self.trace(x, key=key).output

    def trace(self, x: PyTree[Array], *, key: Key[Array, ""] | None = None) -> LayerTrace:
        """What passes through the blocks."""
        parts: dict[str, BlockTrace] = {}
        for number, name in enumerate(self.names):
            own = None if key is None else jax.random.fold_in(key, number)
            parts[name] = getattr(self, name).trace(x, key=own)
            x = parts[name].output
        return LayerTrace(x, parts)
