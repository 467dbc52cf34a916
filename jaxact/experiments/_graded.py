"""A transformer followed through the collapse of its tokens, below the rounding of any dtype."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxact import activations, models
from jaxact.analysis import graded
from jaxact.analysis.graded import GradedTokens

Tokens = GradedTokens


def graded_states(network: models.Transformer, x: Array, /) -> dict[str, GradedTokens]:
    """The tokens of one sequence after every sublayer of a transformer, in graded form.

    Args:
      network: of attention and feed-forward, in one stream, without learned activations.
      x: one example, as the network takes it without the axis of examples.

    Returns:
      Under ``"input"`` what enters the first layer, and by ``"LAYER.SUBLAYER"`` the stream after
      each, LAYER counted from 1; each has its ``log_residual``, however small.

    Raises:
      ValueError: if the network has a part without a graded form.

    Example:
      >>> from flax import nnx
      >>> net = models.Transformer(
      ...     width=8, depth=6, heads=1, sublayers=("attention",), mask="none", positions="none",
      ...     norm_placement="norm_free", skip="plain", rngs=nnx.Rngs(0),
      ... )
      >>> states = graded_states(net, jnp.arange(8))
      >>> logs = [float(state.log_residual) for state in states.values()]
      >>> logs[-1] < -400, f"{logs[-1] / logs[-2]:.1f}"
      (True, '3.0')

    Reference:
      Dong et al. 2021, "Attention is not all you need", theorem 2.1, for the cube.
    """
    network = models.unroll(network)
    network.eval()
    config = network.config
    for name, wrong in (
        ("sublayers", "convolution" in config.sublayers),
        ("norm_placement", config.wiring.placed.dual),
        ("activation", config.learnable),
        ("norm", config.wiring.normed and config.chosen_norm not in models.POINTWISE),
    ):
        if wrong:
            raise ValueError(
                f"network must have a graded form; {name}={getattr(config, name)!r} has none"
            )

    @jax.jit
    def step(x: Tokens, block: Any) -> Tokens:
        return _through(block, config, x)

    state = jax.jit(lambda x: graded.tokens(network.stem(x[None])[0]))(x)
    found = {"input": state}
    for number, layer in enumerate(network.blocks):
        for name in layer.names:
            state = step(state, getattr(layer, name))
            found[f"{number + 1}.{name}"] = state
    return found


def _through(block: Any, config: models.TransformerConfig, x: Tokens) -> Tokens:
    """A block's sum, its tokens walked as `models.Block` walks them."""

    def walk(steps: Any, h: Tokens) -> Tokens:
        for token, number, _ in steps:
            if token == "W":
                layer = block.layers[number]
                attends = isinstance(layer, models.Attention)
                h = _attention(layer, h) if attends else _feed_forward(layer, config, h)
            else:
                h = _norm(block.norms[number], h)
                if block.norm_scale is not None:
                    h = graded.add(h, h, alpha=block.norm_scale[...], beta=0.0)
        return h

    branch = walk(block.branch, walk(block.entry, x))
    beta = jnp.asarray(block.factor, x.mean.dtype)
    if block.scale is not None:
        beta = beta * block.scale[...]
    if not block.added:
        return walk(block.after, graded.add(branch, branch, alpha=beta, beta=0.0))
    return walk(block.after, graded.add(x, branch, alpha=block.stream_scale, beta=beta))


def _norm(norm: Any, x: Tokens) -> Tokens:
    scale = norm.scale[...]
    bias = None if norm.bias is None else norm.bias[...]
    if isinstance(norm, models.DynamicTanh):
        alpha = norm.alpha[...]
        h = graded.activation(x, lambda h: activations.tanh(alpha * h))
        return graded.linear(h, jnp.diag(scale), bias)
    function = graded.rms_norm if isinstance(norm, models.RMSNorm) else graded.layer_norm
    return function(x, scale, bias, epsilon=norm.epsilon)


def _linear(layer: models.Dense, x: Tokens) -> Tokens:
    return graded.linear(x, _kernel(layer), None if layer.bias is None else layer.bias[...])


def _kernel(layer: models.Dense) -> Array:
    kernel = layer.kernel[...]
    return kernel if layer.weights is None else layer.weights(kernel)


def _attention(layer: models.Attention, x: Tokens) -> Tokens:
    weights, biases = {}, {}
    for name in ("query", "key", "value"):
        part = getattr(layer, name)
        weights[name] = _kernel(part).reshape(len(x.mean), -1, layer.size)
        if part.bias is not None:
            biases[f"{name}_bias"] = part.bias[...].reshape(-1, layer.size)
    weights["out"] = _kernel(layer.out).reshape(layer.heads, layer.size, -1)
    if layer.out.bias is not None:
        biases["output_bias"] = layer.out.bias[...]
    mask: Any = "causal" if layer.causal else None
    if layer.window is not None:
        length = x.deviation.shape[-2]
        mask = models.visible(length, causal=layer.causal, window=layer.window)[0, 0]
    base: Any = layer.rotary_base
    norms: dict[str, Any] = {}
    if layer.query_norm is not None:
        names = ("query_norm", "key_norm")
        norms = {name: functools.partial(_norm, getattr(layer, name)) for name in names}

    def positions(a: Array) -> Array:
        return models.rotated(a[None, :, None], base)[0, :, 0]

    return graded.attention(
        x,
        *weights.values(),
        **biases,
        mask=mask,
        **norms,
        positions=None if base is None else positions,
    )


def _feed_forward(layer: Any, config: models.TransformerConfig, x: Tokens) -> Tokens:
    up, function = _linear(layer.up, x), layer.activation
    if layer.gate is None:
        given = config.activation
        kinks = activations.info(given).breakpoints if isinstance(given, str) else (0.0,)
        return _linear(layer.down, graded.activation(up, function, breakpoints=kinks))
    # u(v) g(w), either factor taken by itself, the other at one
    both = function(jnp.ones(()), jnp.ones(()))
    value = graded.activation(
        up, lambda v: function(v, jnp.ones_like(v)) / both, breakpoints=(0.0,)
    )
    gate = graded.activation(
        _linear(layer.gate, x), lambda w: function(jnp.ones_like(w), w), breakpoints=(0.0,)
    )
    return _linear(layer.down, graded.gated(value, gate))
