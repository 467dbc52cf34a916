"""Transformers: equations written anew in float64, PyTorch's own layers, Hugging Face's models."""

import dataclasses
import itertools
import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import activations, io, models, wiring
from jaxact._compat import enable_x64
from jaxact.models._sublayers import SUBLAYERS, sinusoids

D, T = 8, 7


def randomize(module, seed=1):
    """Every parameter away from zero and one, and every weight of its size."""
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        leaf + (0.3 * jax.random.normal(k, leaf.shape)).astype(leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(structure, moved), rest)


def transformer(**options):
    given = dict(inputs=11, width=D, depth=3, heads=2, rngs=nnx.Rngs(0)) | options
    return models.Transformer(**given)


def tokens(n=2, t=T, inputs=11, seed=0):
    return jax.random.randint(jax.random.key(seed), (n, t), 0, inputs)


def wide(parameter):
    return np.asarray(parameter[...], np.float64)


def dense(layer, x):
    y = x @ wide(layer.kernel)
    return y if layer.bias is None else y + wide(layer.bias)


def norm_of(norm, x):
    if isinstance(norm, models.DynamicTanh):
        return np.tanh(wide(norm.alpha) * x) * wide(norm.scale) + wide(norm.bias)
    centred = x if isinstance(norm, models.RMSNorm) else x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.epsilon) * wide(norm.scale)
    return y if norm.bias is None else y + wide(norm.bias)


def turned(x, base):
    """Rotary positions by complex numbers: pair i of token t times exp(i t base^(-2 i / d))."""
    half = x.shape[-1] // 2
    z = x[..., :half] + 1j * x[..., half:]
    angle = np.arange(len(x))[:, None] * base ** (-2 * np.arange(half) / x.shape[-1])[None]
    z = z * np.exp(1j * angle)[:, None]
    return np.concatenate([z.real, z.imag], -1)


def attention_of(layer, config, x):
    """Of one example (t, d): loops over heads, queries and keys."""
    t, size = len(x), config.head_size
    q, k, v = (
        dense(part, x).reshape(t, -1, size) for part in (layer.query, layer.key, layer.value)
    )
    if config.query_key_norm:
        q, k = norm_of(layer.query_norm, q), norm_of(layer.key_norm, k)
    if config.positions == "rotary":
        q, k = turned(q, config.rotary_base), turned(k, config.rotary_base)
    out = np.zeros((t, config.heads, size))
    for head, i in itertools.product(range(config.heads), range(t)):
        own = head // (config.heads // config.shared_heads)
        seen = [
            j
            for j in range(t)
            if not (config.causal and j > i)
            and not (config.window is not None and abs(i - j) >= config.window)
        ]
        logits = np.array([q[i, head] @ k[j, own] / math.sqrt(size) for j in seen])
        p = np.exp(logits - logits.max())
        out[i, head] = sum(w * v[j, own] for w, j in zip(p / p.sum(), seen, strict=True))
    return dense(layer.out, out.reshape(t, -1))


def silu(x):
    return x / (1 + np.exp(-x))


def feed_of(layer, config, x):
    """With silu, or the gated unit of silu."""
    if config.activation == "silu":
        return dense(layer.down, silu(dense(layer.up, x)))
    return dense(layer.down, dense(layer.up, x) * silu(dense(layer.gate, x)))


def sublayers_of(layer, config):
    return [
        (layer.attention, lambda x: attention_of(layer.attention.layers[0], config, x)),
        (layer.feed_forward, lambda x: feed_of(layer.feed_forward.layers[0], config, x)),
    ]


# F is the sublayer, N its norms; 6 blocks (3 layers of two); ℓ the layer.
EQUATIONS = {
    "pre": lambda x, F, N, s, ell: x + F(N[0](x)),
    "post": lambda x, F, N, s, ell: N[0](x + F(x)),
    "sandwich": lambda x, F, N, s, ell: x + N[1](F(N[0](x))),
    "res_post": lambda x, F, N, s, ell: x + N[0](F(x)),
    "deepnorm": lambda x, F, N, s, ell: N[0](6**0.25 * x + F(x)),
    "norm_scaling": lambda x, F, N, s, ell: x + F(N[0](x) / math.sqrt(ell)),
    "norm_free": lambda x, F, N, s, ell: x + F(x),
    "scaled": lambda x, F, N, s, ell: x + F(x) / math.sqrt(6),
    "rezero": lambda x, F, N, s, ell: x + s * F(x),
    "pre+layerscale": lambda x, F, N, s, ell: x + s * F(N[0](x)),
    "plain": lambda x, F, N, s, ell: F(x),
}


def forward(net, x, equation):
    """The network in float64, one example of vectors."""
    config, net = net.config, models.unroll(net)
    h = dense(net.stem.embed, x)
    for number, layer in enumerate(net.blocks):
        for block, f in sublayers_of(layer, config):
            norms = [lambda x, norm=norm: norm_of(norm, x) for norm in block.norms]
            scale = None if block.scale is None else wide(block.scale)
            h = equation(h, f, norms, scale, number + 1)
    if net.head.norm is not None:
        h = norm_of(net.head.norm, h)
    return dense(net.head.linear, h)


@pytest.mark.parametrize("word", EQUATIONS)
def test_the_equation_of_every_wiring(word):
    options = wiring.get(word).options
    net = randomize(transformer(stem="vectors", inputs=5, outputs=3, activation="silu", **options))
    x = jax.random.normal(jax.random.key(3), (2, T, 5))
    expected = np.stack([forward(net, np.asarray(a, np.float64), EQUATIONS[word]) for a in x])
    found = net(x)
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-4 * np.abs(expected).max())


def test_residual_dual_sums_every_branch():
    """ResiDual, eqs. 7 and 8: the head reads x + N(d)."""
    net = randomize(transformer(stem="vectors", inputs=5, norm_placement="residual_dual",
                                activation="silu"))  # fmt: skip
    x = np.asarray(jax.random.normal(jax.random.key(3), (T, 5)), np.float64)
    h = dual = dense(net.stem.embed, x)
    for layer in models.unroll(net).blocks:
        for block, f in sublayers_of(layer, net.config):
            branch = f(h)
            h, dual = norm_of(block.norms[0], h + branch), dual + branch
    expected = dense(net.head.linear, h + norm_of(net.head.norm, dual))
    found = net(jnp.asarray(x, jnp.float32)[None])[0]
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-4)


ATTENTIONS = {
    "causal": dict(),
    "open": dict(mask="none"),
    "window": dict(window=3),
    "open_window": dict(mask="none", window=2),
    "shared": dict(heads=4, kv_heads=2, head_dim=4),
    "one_shared": dict(heads=4, kv_heads=1),
    "no_positions": dict(positions="none"),
    "normed": dict(query_key_norm=True, norm="rms"),
    "base": dict(rotary_base=50.0, bias=True),
}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention_by_loops(case):
    net = randomize(transformer(**ATTENTIONS[case]), seed=4)
    layer = models.unroll(net).blocks[1].attention.layers[0]
    x = jax.random.normal(jax.random.key(5), (2, T, D))
    for a, found in zip(x, layer(x), strict=True):
        expected = attention_of(layer, net.config, np.asarray(a, np.float64))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    with enable_x64():
        # the same in float64 has its digits: no softmax in float32
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), layer)
        expected = attention_of(layer, net.config, np.asarray(x[0], np.float64))
        found = double(x.astype(jnp.float64))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_attention_maps_are_what_attention_takes():
    net = randomize(transformer(norm_placement="sandwich", kv_heads=1, window=4))
    x = tokens()
    maps = net.attention_maps(x)
    assert maps.shape == (3, 2, 2, T, T)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-6)
    assert not np.triu(np.asarray(maps), 1).any()
    traces = models.apply(net, x, train=False, trace=True).traces["blocks.attention"]
    for number, layer in enumerate(models.unroll(net).blocks):
        block = layer.attention
        attention = block.layers[0]
        h = block.enter(traces.input[number])
        v = np.repeat(np.asarray(attention.value(h)).reshape(2, T, 1, D // 2), 2, axis=2)
        mixed = np.einsum("nhts,nshd->nthd", maps[number], v).reshape(2, T, D)
        expected = block.norms[1](attention.out(jnp.asarray(mixed)))
        np.testing.assert_allclose(traces.branch[number], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="sublayers must have attention"):
        transformer(sublayers=["feed_forward"]).attention_maps(x)


@pytest.mark.parametrize("sublayers", [("attention", "feed_forward"), ("convolution",)])
@pytest.mark.parametrize(("window", "reach"), [(None, T), (2, 2)])
def test_no_token_sees_what_follows(sublayers, window, reach):
    """By the gradient of every token's logits in every embedding: exact zeros."""
    if sublayers == ("convolution",):
        reach = 2
    net = randomize(transformer(stem="vectors", inputs=5, depth=1, sublayers=sublayers,
                                window=window, kernel_size=2, activation="swiglu"))  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (1, T, 5))
    jacobian = jax.jacrev(lambda x: jnp.sum(net(x), axis=(0, 2)))(x)[:, 0]
    felt = np.asarray(jnp.any(jacobian != 0, axis=-1))
    apart = np.arange(T)[:, None] - np.arange(T)
    np.testing.assert_array_equal(felt, (apart >= 0) & (apart < reach))


def test_gated_convolution_by_loops():
    """Dauphin et al. 2017, eq. 1."""
    net = randomize(transformer(sublayers=["convolution"], activation="glu", kernel_size=3,
                                norm_placement="norm_free"))  # fmt: skip
    layer = models.unroll(net).blocks[0].convolution.layers[0]
    x = np.asarray(jax.random.normal(jax.random.key(0), (T, D)), np.float64)

    def convolved(part, t):
        seen = [(i, t - 2 + i) for i in range(3) if t - 2 + i >= 0]
        return sum((x[j] @ wide(part.kernel)[i] for i, j in seen), wide(part.bias))

    rows = [convolved(layer.value, t) / (1 + np.exp(-convolved(layer.gate, t))) for t in range(T)]
    expected = np.stack(rows) * wide(layer.scale)
    found = layer(jnp.asarray(x, jnp.float32)[None])[0]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("unit", activations.GATED_UNITS)
def test_a_gated_feed_forward_keeps_the_second_moment(unit):
    """Of a wide one at initialization, whatever its unit: the gain is that of value and gate."""
    net = transformer(width=256, hidden=2048, heads=1, depth=1, activation=unit)
    layer = models.unroll(net).blocks[0].feed_forward.layers[0]
    y = layer(jax.random.normal(jax.random.key(0), (1, 256, 256)))
    assert float(jnp.mean(jnp.square(y))) == pytest.approx(1, rel=0.1)


def test_norms_and_stems_by_hand():
    net = randomize(transformer(norm="dynamic_tanh", positions="learned", length=T, depth=1,
                                activation="silu", sublayers=["feed_forward"]))  # fmt: skip
    x = np.asarray(tokens(1))[0]
    h = wide(net.stem.embed.table)[x] + wide(net.stem.positions.table)
    block = models.unroll(net).blocks[0].feed_forward
    h = h + feed_of(block.layers[0], net.config, norm_of(block.norms[0], h))
    expected = dense(net.head.linear, norm_of(net.head.norm, h))
    np.testing.assert_allclose(net(tokens(1))[0], expected, rtol=1e-4, atol=1e-5)


def test_sinusoids_of_the_paper():
    """Vaswani et al. 2017, sec. 3.5."""
    net = transformer(positions="sinusoidal", stem="vectors", inputs=3, bias=True, depth=1)
    h = net.stem(jnp.zeros((1, T, 3)))[0]
    for t, i in itertools.product(range(T), range(D // 2)):
        angle = t / 10_000 ** (2 * i / D)
        found = [float(h[t, 2 * i]), float(h[t, 2 * i + 1])]
        assert found == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    with enable_x64():
        assert float(sinusoids(4, D, jnp.float64)[3, 3]) == pytest.approx(math.cos(0.3), abs=1e-15)
        assert net.stem(jnp.zeros((1, 4, 3), jnp.float64))[0, 3, 3] == sinusoids(4, D, float)[3, 3]


def test_tied_logits_are_products_with_the_embeddings():
    net = randomize(transformer(tie_embeddings=True))
    traced = net.forward_features(tokens())
    expected = net.head(traced) @ net.stem.embed.table[...].T
    np.testing.assert_allclose(net(tokens()), expected, rtol=1e-5, atol=1e-5)
    x = tokens()
    for segment in net.segments():
        for i in range(segment.depth or 1):
            own = segment.params
            if segment.depth:
                own = jax.tree.map(lambda a, i=i: a[i], own)
            x = segment.apply(own, x)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


def test_unknown_tokens_are_nan():
    """Neither the last vector of the table nor one counted from its end."""
    net = transformer()
    for bad in (-1, 11, 200):
        y = net(jnp.asarray([[1, 2, bad, 3], [1, 2, 3, 4]]))
        assert np.isnan(y[0, 2:]).all()
        assert np.isfinite(y[1]).all()
    with enable_x64():
        y = net(jnp.asarray([[1, 2, 2**64 - 1], [1, 2, 3]], jnp.uint64))
        assert np.isnan(y[0, 2]).all()
        np.testing.assert_allclose(y[1], net(jnp.asarray([[1, 2, 3]]))[0], rtol=1e-4, atol=1e-5)
    small = transformer(inputs=256)
    np.testing.assert_array_equal(
        small(jnp.asarray([[1, 255]], jnp.uint8)), small(jnp.asarray([[1, 255]]))
    )


@pytest.mark.parametrize("sublayers", [("attention", "feed_forward"), ("convolution",)])
def test_stacked_and_unrolled_rematerialized_and_saved(sublayers, tmp_path):
    options = dict(inputs=11, width=D, depth=4, heads=2, activation="swiglu", sublayers=sublayers)
    net = models.create("transformer", **options, rngs=nnx.Rngs(0))
    x = tokens()

    def gradient(net):
        return jax.grad(lambda net: jnp.mean(jnp.square(net(x))))(net)

    expected = gradient(net)
    for other in (
        models.create("transformer", **options, remat="full", rngs=nnx.Rngs(0)),
        models.create("transformer", **options, remat="conv", rngs=nnx.Rngs(0)),
        models.stack(models.unroll(net)),
    ):
        for a, b in zip(*map(jax.tree.leaves, (gradient(other), expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    unrolled = models.unroll(net)
    np.testing.assert_allclose(unrolled(x), net(x), rtol=1e-5, atol=1e-6)
    models.save(tmp_path / "net.safetensors", net)
    np.testing.assert_array_equal(models.load(tmp_path / "net.safetensors")(x), net(x))


def test_classes_are_given_again_when_loaded(tmp_path):
    options = dict(inputs=11, width=D, depth=2, heads=2, activation=models.PReLU)
    net = models.create("transformer", **options, rngs=nnx.Rngs(0))
    models.save(tmp_path / "net.safetensors", net)
    again = models.load(tmp_path / "net.safetensors", activation=models.PReLU)
    np.testing.assert_array_equal(again(tokens()), net(tokens()))
    with pytest.raises(ValueError, match="made with activation that have no name"):
        models.load(tmp_path / "net.safetensors")


def test_the_program_does_not_grow_with_depth():
    def program(depth):
        net = nnx.eval_shape(lambda: transformer(depth=depth))
        gradient = jax.grad(lambda net, x: jnp.sum(net(x)))
        return str(jax.make_jaxpr(gradient)(net, tokens())).count(" = ")

    assert program(3) == program(300)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_bfloat16_computes_near_float32(placement):
    options = dict(norm_placement=placement, activation="geglu", query_key_norm=True)
    net, low = (transformer(**options, dtype=dtype) for dtype in (None, jnp.bfloat16))
    y = low(tokens())
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    expected = net(tokens())
    gap = np.abs(np.asarray(y, np.float32) - expected).max()
    assert 0 < gap < 0.05 * np.abs(expected).max()
    half = transformer(**options, dtype=jnp.float16)(tokens())
    assert 0 < np.abs(np.asarray(half, np.float32) - expected).max() < gap


def test_dropped_branches_and_their_keys():
    net = transformer(stochastic_depth=0.9, stochastic_depth_schedule="uniform", depth=2)
    x = tokens(64)
    with pytest.raises(ValueError, match="key or rngs must be given"):
        models.apply(net, x, train=True)
    out = models.apply(net, x, train=True, key=jax.random.key(0), trace=True)
    kept = [np.any(trace.branch != 0, axis=(2, 3)) for trace in out.traces.values()]
    assert not np.array_equal(*kept)  # each sublayer by itself
    assert 0.02 < np.mean(kept) < 0.25


def test_a_learned_activation_in_the_feed_forward():
    net = transformer(activation=models.PReLU)
    slope = net.blocks.feed_forward.layers[0].activation.slope[...]
    assert slope.shape[0] == 3
    gradient = jax.grad(lambda net: jnp.sum(jnp.square(net(tokens()))))(net)
    assert np.abs(gradient.blocks.feed_forward.layers[0].activation.slope[...]).min() > 0


REFUSED = [
    (dict(norm_placement="original"), "norm_placement='original' and a transformer conflict"),
    (dict(norm_placement="relu_only_pre"), "conflict: its activations are outside"),
    (dict(norm_placement="norm_free", skip="fixup"), "skip='fixup' and a transformer conflict"),
    (dict(norm="batch"), "norm must be one of layer, rms, dynamic_tanh .* got 'batch'"),
    (dict(norm=models.BatchNorm), "norm must be one of layer, rms, dynamic_tanh"),
    (dict(shortcut="C"), "shortcut='C' and a transformer conflict: its skips keep their shape"),
    (dict(norm="lyer"), "norm must be one of"),
    (dict(heads=3), "heads must divide width=8 where head_dim is None; got 3"),
    (dict(heads=4, kv_heads=3), "kv_heads must divide heads=4; got 3"),
    (dict(head_dim=3), "positions='rotary' and head_dim=3 conflict"),
    (dict(positions="learned"), "length must be given for positions='learned'; got None"),
    (dict(positions="alibi"), "positions must be one of rotary, learned, sinusoidal, none"),
    (dict(mask="local"), "mask must be one of causal, none; got 'local'"),
    (dict(window=0), "window must be an integer of at least 1; got 0"),
    (dict(sublayers=()), "sublayers must be some, each once"),
    (dict(sublayers="attention"), "sublayers must be a list of words; got 'attention'"),
    (dict(weights="standardized"), "weights='standardized' and a transformer conflict"),
    (dict(sublayers=("attention", "attention")), "sublayers must be some, each once"),
    (dict(sublayers=("mlp",)), "sublayers must be one of attention, feed_forward, convolution"),
    (dict(stem="images"), "stem must be one of tokens, patches, vectors; got 'images'"),
    (dict(stem="patches", size=10), "patch must divide size=10; got 4"),
    (dict(stem="patches", positions="learned"), "size must be given for positions='learned'"),
    (dict(tie_embeddings=True, outputs=5), "tie_embeddings=True and outputs=5 conflict"),
    (dict(tie_embeddings=True, stem="vectors"), "tie_embeddings=True and stem='vectors' conflict"),
    (dict(tie_embeddings=True, head_bias=True), "conflict: the logits have no layer"),
    (dict(norm="dynamic_tanh", norm_epsilon=1e-5), "norm_epsilon=1e-05 and norm="),
    (dict(norm_epsilon=-1.0), "norm_epsilon must be a positive finite number; got -1.0"),
    (dict(class_token=True, pool="first"), "conflict: it sees no other token"),
    (dict(class_token=True, pool="first", mask="none", sublayers=["convolution"]), "sees no other"),
    (dict(implementation="flash"), "implementation must be None, xla or cudnn; got 'flash'"),
    (dict(pool="max"), "pool must be one of mean, first, none; got 'max'"),
    (dict(activation="swigelu"), "unknown activation 'swigelu'"),
    (dict(depth=0), "depth must be an integer of at least 1; got 0"),
    (dict(remat="most"), "remat must be one of full, conv; got 'most'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        transformer(**options)


def test_batches_that_do_not_fit():
    learned = transformer(stem="patches", inputs=3, positions="learned", size=16)
    for net, x, message in [
        (transformer(), jnp.ones((2, 3)), "x must be integers"),
        (transformer(), jnp.ones((2,), int), "x must be integers"),
        (transformer(), jnp.ones((0, 3), int), "at least one example and token; got"),
        (transformer(), jnp.ones((2, 0), int), "at least one example and token; got"),
        (transformer(positions="learned", length=4), tokens(), "at most 4 tokens"),
        (transformer(class_token=True, length=T - 1), tokens(), "at most 6 tokens"),
        (transformer(stem="vectors", inputs=5), jnp.ones((2, 3, 4)), "x must be"),
        (transformer(stem="patches", inputs=3), jnp.ones((2, 8, 8, 1)), "x must be"),
        (transformer(stem="patches", inputs=3), jnp.ones((2, 8, 9, 3)), "sides that patch=4"),
        (learned, jnp.ones((2, 8, 8, 3)), "sides of size=16 with positions='learned'"),
        (learned, jnp.ones((2, 8, 32, 3)), "sides of size=16 with positions='learned'"),
    ]:
        with pytest.raises(ValueError, match=message):
            net(x)
    net = transformer(class_token=True, positions="learned", length=T)  # beside the class token
    assert net(tokens()).shape == (2, T + 1, 11)


def test_every_field_is_documented():
    text = models.TransformerConfig.__doc__ + models.BlockConfig.__doc__
    for field in dataclasses.fields(models.TransformerConfig):
        assert f"{field.name}:" in text or field.name in ("scan", "remat", "dtype"), field.name
    assert all(f'"{name}"' in text for name in SUBLAYERS)


@pytest.mark.parametrize("norm_first", [True, False])
def test_pytorchs_encoder_layer(norm_first):
    """Four `nn.TransformerEncoderLayer`s with their weights: outputs and input gradient."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [
        torch.nn.TransformerEncoderLayer(
            D, 2, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        ).train()
        for _ in range(4)
    ]
    net = transformer(stem="vectors", inputs=D, outputs=0, depth=4, hidden=24, mask="none",
                      positions="none", bias=True, activation="gelu", norm_epsilon=1e-5,
                      norm_placement="pre" if norm_first else "post", scan=False)  # fmt: skip
    net.stem.embed.kernel[...] = jnp.eye(D)

    def give(layer, weight, bias):
        layer.kernel[...] = jnp.asarray(weight.detach().numpy().T)
        layer.bias[...] = jnp.asarray(bias.detach().numpy())

    for block, theirs in zip(net.blocks, layers, strict=True):
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, 0.1, 0.4)
        attention, feed = block.attention.layers[0], block.feed_forward.layers[0]
        inner = theirs.self_attn
        for number, part in enumerate((attention.query, attention.key, attention.value)):
            rows = slice(number * D, (number + 1) * D)
            give(part, inner.in_proj_weight[rows], inner.in_proj_bias[rows])
        give(attention.out, inner.out_proj.weight, inner.out_proj.bias)
        give(feed.up, theirs.linear1.weight, theirs.linear1.bias)
        give(feed.down, theirs.linear2.weight, theirs.linear2.bias)
        for ours, norm in ((block.attention, theirs.norm1), (block.feed_forward, theirs.norm2)):
            ours.norms[0].scale[...] = jnp.asarray(norm.weight.detach().numpy())
            ours.norms[0].bias[...] = jnp.asarray(norm.bias.detach().numpy())
    x = np.array(jax.random.normal(jax.random.key(0), (3, T, D)))
    given = torch.tensor(x, requires_grad=True)
    h = given
    for layer in layers:
        h = layer(h)
    h.square().sum().backward()

    def through(x):
        traced = models.apply(net, x, train=True, trace=True).traces["blocks.feed_forward"]
        return jnp.sum(jnp.square(traced.output[-1])), traced.output[-1]

    (_, y), gradient = jax.value_and_grad(through, has_aux=True)(jnp.asarray(x))
    scale = float(h.detach().abs().max())
    np.testing.assert_allclose(y, h.detach().numpy(), rtol=1e-5, atol=1e-5 * scale)
    slope = float(given.grad.abs().max())
    np.testing.assert_allclose(gradient, given.grad.numpy(), rtol=1e-4, atol=1e-5 * slope)


SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80)
LANGUAGE = SIZES | dict(
    vocab_size=99, num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=None
)
HUGGING_FACE = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", dict(
        vocab_size=99, n_positions=32, n_embd=32, n_layer=3, n_head=4, bos_token_id=None,
        eos_token_id=None)),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LANGUAGE),
    "llama, tied": ("LlamaForCausalLM", "LlamaConfig", LANGUAGE | dict(tie_word_embeddings=True)),
    "mistral": ("MistralForCausalLM", "MistralConfig", LANGUAGE | dict(sliding_window=5)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", LANGUAGE | dict(head_dim=16)),
    "vit": ("ViTForImageClassification", "ViTConfig", SIZES | dict(
        image_size=16, patch_size=4, num_labels=7)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_faces_models(name, tmp_path):
    """Random weights of small configs: logits to 1e-5, and the same arrays written back."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("transformers")
        model, config, options = HUGGING_FACE[name]
        torch.manual_seed(0)
        theirs = getattr(library, model)(getattr(library, config)(**options)).eval()
        for parameter in theirs.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
        theirs.save_pretrained(tmp_path, max_shard_size="50KB")
        x = torch.randn(2, 3, 16, 16) if name == "vit" else torch.randint(0, 99, (2, 20))
        with torch.no_grad():
            expected = theirs(x).logits.numpy()
    net = models.load_hugging_face(tmp_path)
    x = x.numpy()
    found = net(jnp.asarray(x.transpose(0, 2, 3, 1) if name == "vit" else x.astype(np.int32)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]

    there = {
        k: v for file in tmp_path.glob("*.safetensors") for k, v in io.read_arrays(file).items()
    }
    back = models.to_hugging_face(net, kind)
    assert set(back) == set(there)
    for key, value in back.items():
        np.testing.assert_array_equal(value, there[key])


GPT2 = dict(model_type="gpt2", vocab_size=11, n_positions=T, n_embd=D, n_layer=2, n_head=2)


def gpt2():
    net = models.Transformer(**models.hugging_face_options(GPT2), rngs=nnx.Rngs(0))
    return net, models.to_hugging_face(net, "gpt2")


def test_weights_by_name_come_back():
    net, state = gpt2()
    # older files have no prefix, and hold the mask
    old = {key.removeprefix("transformer."): value for key, value in state.items()}
    old["h.0.attn.bias"] = np.ones((1, 1, T, T), np.float32)
    for given in (state, old):
        again = models.load_hugging_face(given, config=GPT2)
        np.testing.assert_array_equal(again(tokens()), net(tokens()))
    low = models.load_hugging_face(state, config=GPT2, param_dtype=jnp.bfloat16)
    assert low.stem.embed.table[...].dtype == jnp.bfloat16


@pytest.mark.parametrize("change", [
    dict(norm_placement="norm_scaling"), dict(skip="scaled"),
    dict(embedding_scale=None), dict(mask="none"), dict(window=2), dict(pool="mean"),
    dict(sublayers=("feed_forward", "attention")),
])  # fmt: skip
def test_networks_that_no_model_there_is(change):
    """Of the same variables, which would there mean another network."""
    options = models.hugging_face_options(GPT2) | change
    net = nnx.eval_shape(lambda: models.Transformer(**options, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=f"network must have {next(iter(change))}=.* for gpt2"):
        models.to_hugging_face(net, "gpt2")


def test_weights_in_a_changed_network():
    """Unrolled, and with numbers that no checkpoint holds."""
    net, state = gpt2()
    unrolled = models.load_hugging_face(state, config=GPT2, scan=False)
    assert len(unrolled.blocks) == 2
    np.testing.assert_allclose(unrolled(tokens()), net(tokens()), rtol=1e-5, atol=1e-6)
    dropping = models.load_hugging_face(state, config=GPT2, stochastic_depth=0.5)
    np.testing.assert_array_equal(dropping.blocks.attention.drop[...], [0.25, 0.5])
    dropping.eval()
    np.testing.assert_array_equal(dropping(tokens()), net(tokens()))
    for changes, name in (
        (dict(norm_placement="sandwich"), "attention.norms.1.bias"),
        (dict(positions="none"), "stem.positions.table"),
        (dict(weights="spectral"), "query.weights.u"),
    ):
        with pytest.raises(ValueError, match=f"changes must leave the variables.*{name}"):
            models.load_hugging_face(state, config=GPT2, **changes)


def test_a_table_of_one_row_is_a_table():
    """An axis of one is dropped of ViT's three, and of no matrix."""
    config = GPT2 | dict(n_positions=1)
    net = models.Transformer(**models.hugging_face_options(config), rngs=nnx.Rngs(0))
    state = models.to_hugging_face(net, "gpt2")
    assert state["transformer.wpe.weight"].shape == (1, D)
    again = models.load_hugging_face(state, config=config)
    np.testing.assert_array_equal(again.stem.positions.table[...], net.stem.positions.table[...])


def test_weights_that_do_not_fit():
    net, state = gpt2()
    key = "transformer.h.1.mlp.c_fc.weight"
    for given, message in [
        ({k: v for k, v in state.items() if k != key}, f"missing {key}"),
        (state | {"transformer.h.2.ln_1.weight": np.ones(D)}, "left over transformer.h.2.ln_1"),
        (state | {key: np.ones((3, 3))}, rf"{key} is \(3, 3\), which does not fit \(8, 32\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.load_hugging_face(given, config=GPT2)
    with pytest.raises(ValueError, match="config must be given"):
        models.load_hugging_face(state)
    with pytest.raises(ValueError, match="model_type must be one of gpt2, llama"):
        models.load_hugging_face(state, config=GPT2 | dict(model_type="bert"))
    with pytest.raises(ValueError, match="network must have the variables of llama"):
        models.to_hugging_face(net, "llama")
    with pytest.raises(ValueError, match="rotary positions of type default"):
        models.hugging_face_options(
            LANGUAGE | dict(model_type="llama", rope_scaling={"rope_type": "llama3"})
        )


WINDOW = dict(use_sliding_window=True, sliding_window=5)


@pytest.mark.parametrize(("kind", "option", "window"), [
    ("llama", WINDOW, None),
    ("mistral", dict(sliding_window=5), 5),
    ("mistral", dict(), 4096),
    ("qwen3", dict(sliding_window=5), None),
    ("qwen3", WINDOW | dict(max_window_layers=0), 5),
    ("qwen3", WINDOW, None),
])  # fmt: skip
def test_windows_of_their_configs(kind, option, window):
    options = models.hugging_face_options(LANGUAGE | dict(model_type=kind) | option)
    assert options["window"] == window


@pytest.mark.parametrize(("kind", "option", "message"), [
    ("gpt2", dict(tie_word_embeddings=False), "tie_word_embeddings True; got False"),
    ("gpt2", dict(scale_attn_weights=False), "scale_attn_weights True; got False"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "inverse_layer_idx False; got True"),
    ("llama", dict(hidden_act="gelu_new"), "one of silu, swish, gelu, relu; got 'gelu_new'"),
    ("qwen3", WINDOW | dict(max_window_layers=1), "one window in all layers"),
    ("qwen3", WINDOW | dict(layer_types=["full_attention", "sliding_attention"]), "one window"),
])  # fmt: skip
def test_what_is_not_here_of_their_configs(kind, option, message):
    """None of these has other arrays, and so each would give other logits in silence."""
    given = GPT2 if kind == "gpt2" else LANGUAGE
    with pytest.raises(ValueError, match=message):
        models.hugging_face_options(given | dict(model_type=kind) | option)


def test_configs_that_lack_a_size():
    with pytest.raises(ValueError, match="config must have 'n_embd'; got model_type, vocab_size"):
        models.hugging_face_options(dict(model_type="gpt2", vocab_size=11))


def test_shardings_of_heads_hidden_units_and_embeddings():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    net = nnx.eval_shape(lambda: transformer(activation="swiglu", bias=True, inputs=12))
    there = models.shardings(net, mesh)
    attention, feed = there.blocks.attention.layers[0], there.blocks.feed_forward.layers[0]

    def spec(parameter):
        return tuple(jax.tree.leaves(parameter)[0].spec)

    for layer in (attention.query, attention.key, attention.value, feed.up, feed.gate):
        assert spec(layer.kernel) == (None, "data", "model")
        assert spec(layer.bias) == (None, "model")
    for layer in (attention.out, feed.down):
        assert spec(layer.kernel) == (None, "model", "data")
        assert not any(spec(layer.bias))
    assert spec(there.stem.embed.table) == ("model", "data")
    assert not any(spec(there.head.norm.scale))
    only = models.shardings(net, mesh, model=None)
    assert spec(only.blocks.attention.layers[0].query.kernel) == (None, "data", None)
    odd = models.shardings(nnx.eval_shape(lambda: transformer(inputs=11)), mesh)
    assert spec(odd.stem.embed.table) == (None, "data")
    with pytest.raises(ValueError, match="data must be an axis of the mesh"):
        models.shardings(net, mesh, data="batch")
    with pytest.raises(ValueError, match="data and model must be two axes"):
        models.shardings(net, mesh, data="model")
