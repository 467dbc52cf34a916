"""Transformers: sublayers on tokens, wired as every other network is."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from jaxact import activations, theory
from jaxact._checks import conflict, flag, number, one_of, whole
from jaxact._segment import Segment
from jaxact.models._block import Layer
from jaxact.models._config import Activation, BlockConfig
from jaxact.models._layers import Dense, wide_dtype
from jaxact.models._network import Network, StagePlan, stack
from jaxact.models._norms import NORMS, POINTWISE
from jaxact.models._parts import POOLS, Head
from jaxact.models._registry import register
from jaxact.models._stage import Remat, check_run, fresh
from jaxact.models._sublayers import SUBLAYERS, Embedding, Patches, sinusoids

STEMS = ("tokens", "patches", "vectors")
POSITIONS = ("rotary", "learned", "sinusoidal", "none")


@dataclasses.dataclass(frozen=True)
class TransformerConfig(BlockConfig):
    """All that defines a `Transformer`; see also the choices of every block in `BlockConfig`.

    A layer is one block for each sublayer, wired alike; scales by the depth count blocks. Of the
    placements and skips those go that have nothing but norms and factors around the sublayer. Norms
    are those that look at one token: ``"layer"`` (the default), ``"rms"``, ``"dynamic_tanh"``.

    Attributes:
      inputs: tokens known, channels of an image, or the length of vectors.
      outputs: logits; with 0 a call gives the features; if None as many as ``inputs``.
      width: of a token in the stream.
      depth: layers.
      sublayers: of every layer in turn: ``"attention"``, ``"feed_forward"``, ``"convolution"`` (a
        causal one, gated where the activation is).
      heads: of attention.
      kv_heads: of keys and values, which divide ``heads``; as many if None.
      head_dim: of queries, keys and values; width / heads if None.
      hidden: units of the feed-forward; 4 width if None, and gated 8/3 width up to a multiple of 8.
      kernel_size: tokens that a convolution sees.
      activation: as in `BlockConfig`, or a gated unit: a name of `jaxact.activations.GATED_UNITS`
        or its function of value and gate.
      mask: ``"causal"``, each token takes of itself and those before; or ``"none"``.
      window: tokens to either side that one takes of, itself included; None for all.
      positions: ``"rotary"``, ``"learned"``, ``"sinusoidal"`` or ``"none"``.
      rotary_base: of rotary frequencies.
      length: the most tokens beside the class token, needed for learned positions; images have one
        for each patch.
      query_key_norm: whether queries and keys are normed by head.
      stem: ``"tokens"``, a table of embeddings for integers (n, t); ``"patches"``, a dense layer of
        square patches of images NHWC; ``"vectors"``, a dense layer of (n, t, inputs).
      patch: rows and columns of a patch.
      size: rows and columns of an image with learned positions.
      class_token: whether a learned token goes first; causal, it sees no other.
      pool: ``"none"``, logits at every token; ``"mean"`` over them; ``"first"``, the first's.
      tie_embeddings: whether logits are products with the embeddings.
      embedding_scale: the factor of embeddings in the stream; if None sqrt(width) where tied
        (Vaswani et al. 2017, sec. 3.4), else 1. They start with variance one in the stream, or 1 /
        width where tied and the scale is given.
      norm_epsilon: of every norm; what the norm has if None.
      head_bias: whether logits have biases.
      implementation: of `jax.nn.dot_product_attention`: None, ``"xla"`` or ``"cudnn"``.
      scan: as in `ResNetConfig`, and so dtype.
      remat: as there; by default attention and what is elementwise is recomputed, which takes no
        more time than to keep it.
    """

    norm: Any = None
    activation: str | Activation = "gelu"
    inputs: int = 256
    outputs: int | None = None
    width: int = 256
    depth: int = 6
    sublayers: Sequence[str] = ("attention", "feed_forward")
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    kernel_size: int = 4
    mask: str = "causal"
    window: int | None = None
    positions: str = "rotary"
    rotary_base: float = 10_000.0
    length: int | None = None
    query_key_norm: bool = False
    stem: str = "tokens"
    patch: int = 4
    size: int | None = None
    class_token: bool = False
    pool: str = "none"
    tie_embeddings: bool = False
    embedding_scale: float | None = None
    norm_epsilon: float | None = None
    head_bias: bool = False
    implementation: str | None = None
    scan: bool = True
    remat: Remat = "conv"
    dtype: DTypeLike | None = None

    def __post_init__(self):
        if isinstance(self.sublayers, str):
            raise ValueError(f"sublayers must be a list of words; got {self.sublayers!r}")
        object.__setattr__(self, "sublayers", tuple(self.sublayers))
        super().__post_init__()
        check_run(self.remat, self.dtype)
        for name in ("inputs", "width", "depth", "heads", "kernel_size", "patch"):
            whole(name, getattr(self, name))
        for name in ("kv_heads", "head_dim", "hidden", "window", "length", "size"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        if self.outputs is not None:
            whole("outputs", self.outputs, 0)
        for name in ("query_key_norm", "class_token", "tie_embeddings", "head_bias", "scan"):
            flag(name, getattr(self, name))
        for name in ("rotary_base", "embedding_scale", "norm_epsilon"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), positive=True)
        one_of("mask", self.mask, ("causal", "none"))
        one_of("positions", self.positions, POSITIONS)
        one_of("stem", self.stem, STEMS)
        one_of("pool", self.pool, POOLS)
        if self.implementation not in (None, "xla", "cudnn"):
            raise ValueError(
                f"implementation must be None, xla or cudnn; got {self.implementation!r}"
            )
        if not self.sublayers or len(set(self.sublayers)) < len(self.sublayers):
            raise ValueError(f"sublayers must be some, each once; got {self.sublayers}")
        for sublayer in self.sublayers:
            one_of("sublayers", sublayer, tuple(SUBLAYERS))
        self._refuse_sizes()
        self._refuse_wirings()

    def _refuse_sizes(self):
        if "attention" in self.sublayers:
            if self.head_dim is None and self.width % self.heads:
                raise ValueError(
                    f"heads must divide width={self.width} where head_dim is None; got {self.heads}"
                )
            if self.heads % self.shared_heads:
                raise ValueError(
                    f"kv_heads must divide heads={self.heads}; got {self.shared_heads}"
                )
            if self.positions == "rotary" and self.head_size % 2:
                raise conflict("positions='rotary'", f"head_dim={self.head_size}", "it turns pairs")
        if self.positions == "learned" and self.tokens is None:
            of = "size" if self.stem == "patches" else "length"
            raise ValueError(f"{of} must be given for positions='learned'; got None")
        if self.size is not None and self.size % self.patch:
            raise ValueError(f"patch must divide size={self.size}; got {self.patch}")
        if self.tie_embeddings and self.stem != "tokens":
            raise conflict("tie_embeddings=True", f"stem={self.stem!r}", "it has no embeddings")
        if self.tie_embeddings and self.outputs not in (None, self.inputs):
            raise conflict("tie_embeddings=True", f"outputs={self.outputs}", "there is one a token")
        if self.tie_embeddings and self.head_bias:
            raise conflict("tie_embeddings=True", "head_bias=True", "the logits have no layer")
        if self.class_token and self.pool == "first" and not self._sees_behind:
            given = f"mask={self.mask!r}, sublayers={self.sublayers}"
            raise conflict("class_token=True, pool='first'", given, "it sees no other token")

    def _refuse_wirings(self):
        placement = f"norm_placement={self.norm_placement!r}"
        if not self.wiring.placement.sublayers:
            raise conflict(
                placement, "a transformer", "its activations are outside of the sublayers"
            )
        if self.wiring.skip.normless:
            raise conflict(f"skip={self.skip!r}", "a transformer", self.wiring.skip.normless)
        if self.shortcut == "C":
            raise conflict("shortcut='C'", "a transformer", "its skips keep their shape")
        if self.weights == "standardized":
            why = "its weights have variance one, and no norm follows each"
            raise conflict("weights='standardized'", "a transformer", why)
        mixing = [make for name, make in NORMS.items() if name not in POINTWISE]
        if self.norm in NORMS.keys() - POINTWISE or self.norm in mixing:
            raise ValueError(
                f"norm must be one of {', '.join(POINTWISE)} in a transformer, or a callable: "
                f"others mix tokens; got {self.norm!r}"
            )

    @property
    def chosen_norm(self) -> Any:
        """The norm; ``"none"`` where there is none."""
        return "layer" if self.norm is None and self.wiring.normed else super().chosen_norm

    @property
    def causal(self) -> bool:
        """Whether no token sees one that follows."""
        return self.mask == "causal"

    @property
    def _sees_behind(self) -> bool:
        """Whether a token sees those that follow."""
        return not self.causal and "attention" in self.sublayers and self.window != 1

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_size(self) -> int:
        """Length of a query."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def hidden_size(self) -> int:
        """Units of the feed-forward."""
        if self.hidden is not None:
            return self.hidden
        return -(-8 * self.width // 24) * 8 if self.gated else 4 * self.width

    @property
    def classes(self) -> int:
        """Logits of a token, or of an example."""
        return self.inputs if self.outputs is None else self.outputs

    @property
    def tokens(self) -> int | None:
        """The most tokens in the stream, the class token among them, if it is known."""
        count = self.length
        if self.stem == "patches":
            count = None if self.size is None else (self.size // self.patch) ** 2
        return None if count is None else count + self.class_token

    @property
    def gated(self) -> bool:
        """Whether the activation is of a value and a gate."""
        units = activations.GATED_UNITS
        return self.activation in (*units, *units.values())

    def _function(self) -> Activation:
        if not self.gated:
            return super()._function()
        unit = self.activation
        return activations.GATED_UNITS[unit] if isinstance(unit, str) else unit

    @functools.cached_property
    def weight_gain(self) -> float | Array:
        """The gain of weights that follow the activation."""
        if self.gain is not None or not self.gated:
            return super().weight_gain
        unit = self._function()
        # u(v) g(w) of independent v, w: the mean square is that of either factor, the other fixed
        value = theory.gain(lambda v: unit(v, jnp.ones_like(v)))
        gate = theory.gain(lambda w: unit(jnp.ones_like(w), w))
        return value * gate * jnp.abs(unit(jnp.ones(()), jnp.ones(())))

    def make_norm(self, features: int, rngs: nnx.Rngs, *, zero: bool = False) -> Any:
        """A norm of one place; with ``zero`` its scale starts there."""
        norm = super().make_norm(features, rngs, zero=zero)
        if self.norm_epsilon is not None:
            if not hasattr(norm, "epsilon"):
                raise conflict(
                    f"norm_epsilon={self.norm_epsilon}", f"norm={self.norm!r}", "it has none"
                )
            norm.epsilon = self.norm_epsilon
        return norm

    def plan(self) -> StagePlan:
        """The layers."""
        layers = {
            name: Layer(functools.partial(SUBLAYERS[name], config=self), self.width, self.width)
            for name in self.sublayers
        }
        return StagePlan(layers, layers, self.depth)


class SequenceStem(nnx.Module):
    """Tokens of the stream: embeddings, patches or vectors, with their positions."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.stem, self.patch = config.stem, config.patch
        self.size = config.size if config.positions == "learned" else None
        self.inputs, self.tokens = config.inputs, config.tokens
        self.dual = config.wiring.placed.dual
        self.dtype = config.dtype
        self.sinusoidal = config.positions == "sinusoidal"
        width, param_dtype = config.width, config.param_dtype
        make = functools.partial(Embedding, param_dtype=param_dtype, rngs=rngs)
        self.scale, deviation = 1.0, 1.0
        if config.stem == "tokens":
            root = math.sqrt(width)
            deviation = 1 / root if config.tie_embeddings else 1.0
            scale = config.embedding_scale
            self.scale = (root if config.tie_embeddings else 1.0) if scale is None else scale
            if not config.tie_embeddings:
                deviation = 1 / self.scale
            self.embed: Any = make(config.inputs, width, deviation=deviation)
        else:
            bias = True if config.bias is None else config.bias
            options: dict[str, Any] = dict(gain=1.0, bias=bias, param_dtype=param_dtype, rngs=rngs)
            if config.stem == "patches":
                self.embed = Patches(config.inputs, width, size=config.patch, **options)
            else:
                self.embed = Dense(config.inputs, width, **options)
        deviation *= self.scale
        count = config.tokens if config.positions == "learned" else None
        self.positions = None if count is None else make(count, width, deviation=deviation)
        self.first = make(1, width, deviation=deviation) if config.class_token else None

    def __call__(self, x: Array) -> Any:
        if 0 in x.shape:
            raise ValueError(f"x must hold at least one example and token; got {x.shape}")
        h = self._embedded(x)
        if self.first is not None:  # a sum, so that it lies where the batch does
            first = jnp.zeros_like(h[:, :1]) + self.first.table[...][None].astype(h.dtype)
            h = jnp.concatenate([first, h], axis=1)
        length = h.shape[1]
        if self.tokens is not None and length > self.tokens:
            most = self.tokens - (self.first is not None)
            raise ValueError(f"x must have at most {most} tokens; got shape {x.shape}")
        if self.positions is not None:
            h = h + self.positions.table[...][None, :length].astype(h.dtype)
        if self.sinusoidal:
            h = h + sinusoids(length, h.shape[2], wide_dtype(h.dtype))[None].astype(h.dtype)
        return (h, h) if self.dual else h

    def _embedded(self, x: Array) -> Array:
        if self.stem == "tokens":
            if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
                raise ValueError(f"x must be integers (n, t); got {x.dtype} {x.shape}")
            h = self.embed(x)
            h = h if self.dtype is None else h.astype(self.dtype)
            return h if self.scale == 1 else h * jnp.asarray(self.scale, h.dtype)
        space = 4 if self.stem == "patches" else 3
        if x.ndim != space or x.shape[-1] != self.inputs:
            axes = "(n, height, width, {})" if space == 4 else "(n, t, {})"
            raise ValueError(f"x must be {axes.format(self.inputs)}; got {x.shape}")
        x = x if self.dtype is None else x.astype(self.dtype)
        if self.stem == "patches" and (x.shape[1] % self.patch or x.shape[2] % self.patch):
            raise ValueError(f"x must have sides that patch={self.patch} divides; got {x.shape}")
        if self.stem == "patches" and self.size and x.shape[1:3] != (self.size, self.size):
            side = f"size={self.size} with positions='learned'"
            raise ValueError(f"x must have sides of {side}; got {x.shape}")
        return self.embed(x)


class Transformer(Network):
    """A transformer: embeddings, layers of sublayers, norm, logits.

    Its layers are stacked and scanned, so that compile time does not grow with depth, and it is
    called, traced, taken apart, saved and measured as every `Network`. What passes through the
    blocks is found under ``"blocks.attention"`` and ``"blocks.feed_forward"``.

    Args:
      config: a `TransformerConfig`; its defaults, a small causal decoder of bytes, if None.
      rngs: Flax's PRNG keys.
      changes: fields of the config that are to differ from it.

    Raises:
      ValueError: if a size is below one, a choice is unknown, or two choices conflict.

    Example:
      >>> import jax.numpy as jnp
      >>> net = Transformer(width=16, depth=48, heads=2, norm_placement="post", rngs=nnx.Rngs(0))
      >>> net.equation.partition(":")[0]
      'post-norm'
      >>> net(jnp.zeros((2, 8), int)).shape
      (2, 8, 256)
      >>> vit = Transformer(
      ...     stem="patches", inputs=3, outputs=10, pool="mean", mask="none", width=16, depth=2,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> vit(jnp.ones((2, 32, 32, 3))).shape
      (2, 10)
    """

    def __init__(
        self, config: TransformerConfig | None = None, /, *, rngs: nnx.Rngs, **changes: Any
    ):
        config = dataclasses.replace(config or TransformerConfig(), **changes)
        self.config = config
        head = functools.partial(
            Head,
            outputs=0 if config.tie_embeddings else config.classes,
            config=config,
            pool=config.pool,
            sublayer=True,
            bias=config.head_bias,
        )
        super().__init__(
            functools.partial(SequenceStem, config),
            [config.plan()],
            head,
            config,
            scan=config.scan,
            remat=config.remat,
            dtype=config.dtype,
            rngs=rngs,
        )

    def _enter(self, x: Array) -> Array:
        return x  # the stem casts what it makes of integers

    def _finish(self, h: Any) -> Array:
        return _logits(self.head, self.stem.embed if self.config.tie_embeddings else None, h)

    def _last_segment(self) -> Segment:
        if not self.config.tie_embeddings:
            return super()._last_segment()

        def run(parts: Any, h: Any) -> Array:
            head, embed = fresh(parts)
            return _logits(head, embed, h)

        return Segment("head", run, (self.head, self.stem.embed), None)

    def attention_maps(self, x: Array, /) -> Float[Array, "depth n heads t t"]:
        """How much each token (rows) takes of each (columns), by layer and head.

        Args:
          x: a batch.

        Raises:
          ValueError: if no sublayer is attention.
        """
        if "attention" not in self.config.sublayers:
            raise ValueError(f"sublayers must have attention; got {self.config.sublayers}")
        network = stack(self)
        network.eval()
        _, traces = network._to_head(network._enter(x), None, True)

        def maps(given: tuple[Any, Any]) -> Array:
            layer, h = given
            block = layer.attention
            return block.layers[0].probabilities(block.enter(h[0] if block.dual else h))

        return jax.lax.map(maps, (network.blocks, traces["blocks.attention"].input))


def _logits(head: Any, embed: Any, h: Any) -> Array:
    h = head(h)
    return h if embed is None else h @ embed.table[...].astype(h.dtype).T


register(
    Transformer,
    {
        "transformer": {},
    },
)
