"""Measures of tokens and attention against NumPy in float64, one matrix at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import analysis, models


def loops(h):
    """By quantity what each example's matrix has, in float64."""
    h = np.asarray(h, np.float64)
    t = len(h)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    s = np.linalg.svd(h, compute_uv=False)
    p, q = s / s.sum(), s**2 / (s**2).sum()
    return {
        "token_cosine": np.mean([unit[i] @ unit[j] for i in range(t) for j in range(t) if i != j]),
        "token_residual": np.linalg.norm(h - h.mean(0)) / np.linalg.norm(h),
        "token_norm": np.sqrt(np.mean(h**2)),
        "massive_activation": np.abs(h).max() / np.median(np.abs(h)),
        "stable_rank": (s**2).sum() / s[0] ** 2,
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "effective_rank_squared": np.exp(-np.sum(q * np.log(q))),
    }


@pytest.fixture(scope="module")
def net():
    return models.Transformer(inputs=20, width=16, depth=5, heads=2, rngs=nnx.Rngs(0))


def test_of_a_transformer_over_batches(net):
    x = jax.random.randint(jax.random.key(0), (6, 9), 0, 20)
    found = {m.quantity: m for m in analysis.measure(net, [x[:4], x[4:]], measures=["tokens"])}
    h = x
    for segment in net.segments()[:-1]:
        for i in range(segment.depth or 1):
            own = segment.params
            if segment.depth:
                own = jax.tree.map(lambda a, i=i: a[i], own)
            h = segment.apply(own, h)
    each = [loops(example) for example in h]
    for quantity in each[0]:
        m = found[quantity]
        i = m.layers.index("blocks.5")
        values = np.array([one[quantity] for one in each])
        np.testing.assert_allclose(m.value[i], values.mean(), rtol=2e-5)
        error = values.std(ddof=1) / np.sqrt(len(values))
        np.testing.assert_allclose(m.standard_error[i], error, rtol=2e-2)
        assert m.shapes[i] == (9, 16)
    assert set(analysis.definitions(found)) == set(found)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scales_cancel(scale):
    h = jax.random.normal(jax.random.key(0), (7, 5)) + 1
    expected = loops(h)
    for name in ("token_cosine", "token_residual", "massive_activation"):
        found = getattr(analysis, name)(h * jnp.float32(scale))
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)
    norm = analysis.token_norm(h * jnp.float32(scale))
    np.testing.assert_allclose(norm, expected["token_norm"] * scale, rtol=1e-5)


def test_structured_tokens():
    same = jnp.ones((4, 3))
    assert float(analysis.token_cosine(same)) == pytest.approx(1)
    assert float(analysis.token_residual(same)) == 0
    corners = jnp.eye(4)
    assert float(analysis.token_cosine(corners)) == 0
    assert float(analysis.token_residual(corners)) == pytest.approx(np.sqrt(3 / 4))
    centred = corners - 0.25
    assert float(analysis.token_cosine(centred)) == pytest.approx(-1 / 3)  # the least possible
    zero = jnp.zeros((4, 3))
    assert float(analysis.token_cosine(zero)) == 0
    assert float(analysis.token_residual(zero)) == 0
    assert float(analysis.token_norm(zero)) == 0
    assert np.isnan(analysis.token_cosine(jnp.ones((1, 3))))
    assert np.isnan(analysis.token_cosine(same.at[0, 0].set(jnp.nan)))


def test_examples_with_nan_are_left_out(net):
    function = (lambda _, x: analysis.tag(x, "h") * 1.0, {"w": jnp.ones(2)})
    x = jax.random.normal(jax.random.key(0), (3, 6, 4))
    bad = x.at[1, 0, 0].set(jnp.inf)
    expected = np.mean([loops(example)["token_cosine"] for example in x[jnp.array([0, 2])]])
    (found,) = analysis.measure(function, bad, measures=["tokens/token_cosine"], layers="h")
    np.testing.assert_allclose(found.value[0], expected, rtol=1e-5)
    (none,) = analysis.measure(function, bad[1:2], measures=["tokens/token_cosine"], layers="h")
    assert not none.valid[0]
    assert np.isnan(none.value[0])


def test_layers_without_tokens_are_refused():
    net = models.MLPResNet(4, 3, width=8, depth=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="tokens here: no layer has an axis of tokens"):
        analysis.measure(net, jnp.ones((2, 4)), measures=["tokens"])
    with pytest.raises(ValueError, match="token_cosine"):
        analysis.measure(net, jnp.ones((2, 4)), measures=["tokens/cosine"])


def test_attention_of_known_maps(net):
    t = 6
    uniform = np.tril(np.ones((t, t)))
    uniform /= uniform.sum(1, keepdims=True)
    sink = np.zeros((t, t))
    sink[:, 0] = 1
    maps = np.broadcast_to(np.stack([np.eye(t), uniform, sink])[:, None, None], (3, 2, 4, t, t))
    found = analysis.measure_attention(jnp.asarray(maps, jnp.float32))
    entropy = np.mean([np.log(i + 1) for i in range(t)])
    np.testing.assert_allclose(found["attention_entropy"].value, [0, entropy, 0], rtol=1e-5)
    first = np.mean([1 / (i + 1) for i in range(1, t)])
    np.testing.assert_allclose(found["first_token_share"].value, [0, first, 1], rtol=1e-5)
    np.testing.assert_allclose(found["stable_rank"].value[jnp.array([0, 2])], [t, 1], rtol=1e-5)
    assert found["stable_rank"].layers == ("layer_1", "layer_2", "layer_3")
    np.testing.assert_allclose(found["attention_entropy"].standard_error, 0, atol=1e-4)
    with pytest.raises((ValueError, TypeError), match="maps"):
        analysis.measure_attention(jnp.ones((3, 4, 4)))
    with pytest.raises(ValueError, match=r"names must be 3, one for each layer; got \['a'\]"):
        analysis.measure_attention(jnp.asarray(maps, jnp.float32), names=["a"])
    of_net = analysis.measure_attention(net.attention_maps(jnp.zeros((2, 9), int)))
    assert len(of_net["attention_entropy"].value) == 5
    bad = analysis.measure_attention(jnp.full((1, 1, 1, 3, 3), jnp.nan))
    assert not bad["attention_entropy"].valid[0]
    assert np.isnan(bad["attention_entropy"].value[0])
