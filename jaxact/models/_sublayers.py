"""What acts inside the branches of a transformer: attention, feed-forward, gated convolution."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, DTypeLike, Float, Integer

from jaxact.models._convolution import convolve
from jaxact.models._layers import Constant, Dense, Weighted, wide_dtype

if TYPE_CHECKING:
    from jaxact.models._transformer import TransformerConfig


class Attention(nnx.Module):
    r"""Softmax attention of several heads, softmax(Q K^T / sqrt(head_dim)) V W_O.

    Queries, keys and values are dense layers of the tokens; with fewer key-value heads than heads,
    as many neighbouring heads share each. At initialization weights have variance 1 / fan_in, those
    of values and outputs times what the wiring asks for.

    Args:
      inputs: width of a token.
      outputs: width of what is put out.
      config: the network's choices: heads, mask, positions.
      gain: of the weights of values and outputs.
      rngs: Flax's PRNG keys.
      options: ``bias``, ``weights`` and ``param_dtype`` of every layer.

    Reference:
      Vaswani et al. 2017, "Attention Is All You Need", eq. 1; rotary positions Su et al. 2021, eq.
      34; shared keys Ainslie et al. 2023; norms of queries and keys Dehghani et al. 2023, sec. 2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        config: "TransformerConfig",
        gain: float | Array,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        size = config.head_size
        self.heads, self.kv_heads, self.size = config.heads, config.shared_heads, size
        self.causal, self.window = config.causal, config.window
        self.rotary_base = config.rotary_base if config.positions == "rotary" else None
        self.implementation: Any = config.implementation
        self.query = Dense(inputs, self.heads * size, gain=1.0, rngs=rngs, **options)
        self.key = Dense(inputs, self.kv_heads * size, gain=1.0, rngs=rngs, **options)
        self.value = Dense(inputs, self.kv_heads * size, gain=gain, rngs=rngs, **options)
        self.out = Dense(self.heads * size, outputs, gain=gain, rngs=rngs, **options)
        norms = config.query_key_norm
        self.query_norm = config.make_norm(size, rngs) if norms else None
        self.key_norm = config.make_norm(size, rngs) if norms else None

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n t o"]:
        query, key, value = self.project(x)
        # `jax.nn` takes every softmax in float32, and CPUs have no product of float16 that it asks
        if x.dtype in (jnp.float64, jnp.float16):
            shared = jnp.repeat(value, self.heads // self.kv_heads, axis=-2)
            weights = self._probabilities(query, key).astype(x.dtype)
            mixed = jnp.einsum("nhts,nshd->nthd", weights, shared)
        else:
            seen = mask = None
            if self.window is not None and self.causal:
                seen = (self.window - 1, 0)
            elif self.window is not None:  # which jax 0.7.2 overlooks without a causal mask
                mask = visible(query.shape[1], causal=False, window=self.window)
            with jax.numpy_dtype_promotion("standard"):  # it promotes half precision itself
                mixed = jax.nn.dot_product_attention(
                    query,
                    key,
                    value,
                    mask=mask,
                    is_causal=self.causal,
                    local_window_size=seen,
                    implementation=self.implementation,
                )
        return self.out(mixed.reshape(*x.shape[:-1], -1))

    def probabilities(self, x: Float[Array, "n t i"]) -> Float[Array, "n heads t t"]:
        """How much each token (rows) takes of each (columns), by head; in at least float32."""
        query, key, _ = self.project(x)
        return self._probabilities(query, key)

    def project(self, x: Float[Array, "n t i"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, (n, t, heads, head_dim), at their positions."""
        query = self.query(x).reshape(*x.shape[:-1], self.heads, self.size)
        key, value = (
            layer(x).reshape(*x.shape[:-1], self.kv_heads, self.size)
            for layer in (self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary_base is not None:
            query, key = (rotated(a, self.rotary_base) for a in (query, key))
        return query, key, value

    def _probabilities(self, query: Array, key: Array) -> Array:
        key = jnp.repeat(key, self.heads // self.kv_heads, axis=-2)
        wide = wide_dtype(query.dtype)
        logits = jnp.einsum("nthd,nshd->nhts", query, key, preferred_element_type=wide)
        logits = logits * jnp.asarray(self.size**-0.5, wide)
        seen = visible(query.shape[1], causal=self.causal, window=self.window)
        return jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)


def visible(length: int, /, *, causal: bool, window: int | None) -> Bool[Array, "1 1 t t"]:
    """Which tokens (columns) a token (row) may take of.

    Args:
      length: t.
      causal: whether none that follow it.
      window: how many to either side, itself included; None for all.
    """
    apart = jnp.arange(length)[:, None] - jnp.arange(length)[None]
    seen = jnp.ones((length, length), bool)
    if causal:
        seen &= apart >= 0
    if window is not None:
        seen &= jnp.abs(apart) < window
    return seen[None, None]


def rotated(x: Float[Array, "n t heads size"], base: float, /) -> Float[Array, "n t heads size"]:
    """Queries or keys turned by their position, each pair (i, i + size / 2) at its own frequency.

    Args:
      x: of an even size.
      base: the frequencies are base^(-2 i / size).
    """
    half = x.shape[-1] // 2
    wide = wide_dtype(x.dtype)
    frequency = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    angle = jnp.outer(jnp.arange(x.shape[1], dtype=wide), frequency)[None, :, None]
    cos, sin = (jnp.broadcast_to(f(angle), (*x.shape[:-1], half)) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class FeedForward(nnx.Module):
    r"""Two dense layers with the activation between, W_2 a(W_1 x), or W_2 (a(W_g x) W_1 x) gated.

    Weights of the first have variance 1 / fan_in at initialization, those of the second what keeps
    a second moment of one, times what the wiring asks for.

    Args:
      inputs: width of a token.
      outputs: width of what is put out.
      config: the network's choices: hidden units, activation or gated unit.
      gain: of the weights.
      rngs: Flax's PRNG keys.
      options: ``bias``, ``weights`` and ``param_dtype`` of every layer.

    Reference:
      Vaswani et al. 2017, eq. 2; Shazeer 2020, "GLU Variants Improve Transformer", eq. 6.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        config: "TransformerConfig",
        gain: float | Array,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        hidden = config.hidden_size
        self.up = Dense(inputs, hidden, gain=gain, rngs=rngs, **options)
        gated = config.gated
        self.gate = Dense(inputs, hidden, gain=1.0, rngs=rngs, **options) if gated else None
        self.down = Dense(hidden, outputs, gain=gain * config.weight_gain, rngs=rngs, **options)
        self.activation: Any = config.make_activation(hidden, rngs)

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n t o"]:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.up(x), self.gate(x)))


class CausalConv(Weighted):
    """A convolution along the tokens that sees none that follow."""

    def __init__(self, inputs: int, outputs: int, *, size: int, **options: Any):
        self.size = size
        super().__init__((size, inputs, outputs), **options)

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n t o"]:
        padding = ((0, 0), (self.size - 1, 0))
        return self._biased(convolve(x[:, None], self._kernel(x)[None], padding=padding)[:, 0])


class GatedConvolution(nnx.Module):
    r"""A causal convolution with a gate, (X * W + b) sigma(X * V + c), of any activation or gate.

    Args:
      inputs: width of a token.
      outputs: width of what is put out.
      config: the network's choices: kernel size, activation or gated unit.
      gain: of the weights, times what keeps a second moment of one.
      rngs: Flax's PRNG keys.
      options: ``bias``, ``weights`` and ``param_dtype`` of every layer.

    Reference:
      Dauphin et al. 2017, "Language Modeling with Gated Convolutional Networks", eq. 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        config: "TransformerConfig",
        gain: float | Array,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        size = config.kernel_size
        self.value = CausalConv(inputs, outputs, size=size, gain=gain, rngs=rngs, **options)
        gated = config.gated
        options = dict(size=size, rngs=rngs, **options)
        self.gate = CausalConv(inputs, outputs, gain=1.0, **options) if gated else None
        self.activation: Any = config.make_activation(outputs, rngs)
        self.scale = Constant(jnp.asarray(config.weight_gain, config.param_dtype))

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n t o"]:
        value = self.value(x)
        unit = self.activation(value) if self.gate is None else self.activation(value, self.gate(x))
        return unit * lax.stop_gradient(self.scale[...]).astype(unit.dtype)


SUBLAYERS: dict[str, Any] = {
    "attention": Attention,
    "feed_forward": FeedForward,
    "convolution": GatedConvolution,
}


class Embedding(nnx.Module):
    """A table of vectors, one for each token."""

    def __init__(self, count: int, features: int, *, deviation: float, param_dtype: Any, rngs: Any):
        table = jax.random.normal(rngs.params(), (count, features), param_dtype)
        self.table = nnx.Param(table * jnp.asarray(deviation, param_dtype))

    def __call__(self, tokens: Integer[Array, "n t"]) -> Float[Array, "n t c"]:
        """The tokens' vectors; NaN where there is no such token."""
        kind = jax.typeof(tokens).sharding
        typed = AxisType.Explicit in kind.mesh.axis_types
        spread = NamedSharding(kind.mesh, PartitionSpec(*kind.spec, None)) if typed else None
        table = self.table[...]
        if tokens.dtype.itemsize < 8:  # of uint64 NumPy would make a float
            tokens = tokens.astype(np.promote_types(tokens.dtype, np.int32))
        beyond = jnp.asarray(len(table), tokens.dtype)  # where a negative one would count back
        known = (tokens >= 0) & (tokens < beyond)  # the largest of uint64 would be negative
        vectors = table.at[jnp.where(known, tokens, beyond)]
        return vectors.get(mode="fill", fill_value=jnp.nan, out_sharding=spread)


class Patches(Weighted):
    """Square patches of images as tokens, row by row, by one dense layer of each."""

    def __init__(self, inputs: int, outputs: int, *, size: int, **options: Any):
        self.size = size
        super().__init__((size, size, inputs, outputs), **options)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n t o"]:
        strides, padding = (self.size, self.size), ((0, 0), (0, 0))
        y = self._biased(convolve(x, self._kernel(x), strides=strides, padding=padding))
        return y.reshape(y.shape[0], -1, y.shape[-1])


def sinusoids(
    length: int, width: int, /, dtype: DTypeLike = jnp.float32
) -> Float[Array, "t width"]:
    """Positions as sines and cosines of geometric frequencies (Vaswani et al. 2017, sec. 3.5)."""
    pairs = -(-width // 2)
    angle = jnp.arange(length, dtype=dtype)[:, None] * jnp.exp(
        jnp.arange(pairs, dtype=dtype)[None] * jnp.asarray(-math.log(1e4) * 2 / width, dtype)
    )
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return lax.slice_in_dim(both.reshape(length, -1), 0, width, axis=1)
