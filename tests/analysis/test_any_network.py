"""One network written in every library, measured as it is, against NumPy in float64."""

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxact import _compat, analysis, models
from jaxact.analysis._foreign import foreign
from jaxact.analysis._inside import look_inside
from jaxact.analysis._measure import _batches

DEPTH, WIDTH, CLASSES, EXAMPLES = 4, 8, 3, 40
KERNELS = np.random.default_rng(0).normal(size=(DEPTH, WIDTH, WIDTH)) / WIDTH**0.5
HEAD = np.random.default_rng(1).normal(size=(WIDTH, CLASSES))
X = np.random.default_rng(2).normal(size=(EXAMPLES, WIDTH))
Y = np.random.default_rng(3).integers(0, CLASSES, EXAMPLES)
INPUTS = jnp.asarray(X, jnp.float32)


def loss(outputs, y):
    log = jax.nn.log_softmax(outputs)
    return -jnp.mean(jnp.take_along_axis(log, y[:, None], axis=-1))


def truth():
    """By object, the matrices of every block and of the head, in float64."""
    h, derivative = X, np.eye(WIDTH)
    features, jacobians, inputs, slopes = [], [], [], []
    for w in KERNELS:
        inputs.append(h)
        slope = 1 - np.tanh(h @ w) ** 2
        slopes.append(slope)
        h = h + np.tanh(h @ w)
        derivative = derivative + (w * slope[0]).T @ derivative
        features.append(h)
        jacobians.append(derivative)
    outputs = h @ HEAD
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    error = (probabilities - np.eye(CLASSES)[Y]) / EXAMPLES
    gradients, back, after = [h.T @ error], error @ HEAD.T, [HEAD.T]
    for number in reversed(range(DEPTH)):
        through = back * slopes[number]
        gradients.append(inputs[number].T @ through)
        back = back + through @ KERNELS[number].T
        after.append(after[-1] + after[-1] * slopes[number][0] @ KERNELS[number].T)
    return {
        "weight": [*KERNELS, HEAD],
        "features": [*features, outputs],
        "jacobian": [*jacobians, HEAD.T @ jacobians[-1]],
        "gradient": gradients[::-1],
        "output_jacobian": [*after[:-1][::-1], np.eye(CLASSES)],
    }


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


class Unrolled(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.head = nnx.Linear(WIDTH, CLASSES, use_bias=False, rngs=rngs)
        self.blocks = _compat.module_list(Block(rngs) for _ in range(DEPTH))
        for block, w in zip(self.blocks, KERNELS, strict=True):
            _compat.set_value(block.linear.kernel, jnp.asarray(w, jnp.float32))
        _compat.set_value(self.head.kernel, jnp.asarray(HEAD, jnp.float32))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Scanned(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        make = nnx.vmap(lambda rngs: Block(rngs), in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=DEPTH)(make)(rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, use_bias=False, rngs=rngs)
        _compat.set_value(self.blocks.linear.kernel, jnp.asarray(KERNELS, jnp.float32))
        _compat.set_value(self.head.kernel, jnp.asarray(HEAD, jnp.float32))

    def __call__(self, x):
        step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(step(x, self.blocks))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + jnp.tanh(nn.Dense(WIDTH, use_bias=False, name="linear")(x)), None


class LinenNet(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, x):
        if self.scanned:
            split = dict(variable_axes={"params": 0}, split_rngs={"params": True})
            x, _ = nn.scan(LinenBlock, length=DEPTH, **split)(name="blocks")(x, None)
        else:
            for number in range(DEPTH):
                x, _ = LinenBlock(name=f"blocks_{number}")(x)
        return nn.Dense(CLASSES, use_bias=False, name="head")(x)


def linen(scanned):
    stacks = {"linear": {"kernel": jnp.asarray(KERNELS, jnp.float32)}}
    blocks = {"blocks": stacks}
    if not scanned:
        take = functools.partial(jax.tree.map, lambda leaf, i: leaf[i], stacks)
        blocks = {f"blocks_{i}": take(jax.tree.map(lambda _, i=i: i, stacks)) for i in range(DEPTH)}
    params = {**blocks, "head": {"kernel": jnp.asarray(HEAD, jnp.float32)}}
    return LinenNet(scanned), {"params": params}


class EquinoxBlock(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


class EquinoxNet(eqx.Module):
    blocks: list
    head: eqx.nn.Linear

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def equinox():
    def linear(w):
        layer = eqx.nn.Linear(*w.shape, use_bias=False, key=jax.random.key(0))
        return eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(w.T, jnp.float32))

    return EquinoxNet([EquinoxBlock(linear(w)) for w in KERNELS], linear(HEAD))


class HaikuBlock(hk.Module):
    def __call__(self, x):
        return x + jnp.tanh(hk.Linear(WIDTH, with_bias=False, name="linear")(x))


def haiku():
    def forward(x):
        for number in range(DEPTH):
            x = HaikuBlock(name=f"blocks_{number}")(x)
        return hk.Linear(CLASSES, with_bias=False, name="head")(x)

    params = {
        f"blocks_{i}/linear": {"w": jnp.asarray(w, jnp.float32)} for i, w in enumerate(KERNELS)
    }
    return hk.transform(forward), {"head": {"w": jnp.asarray(HEAD, jnp.float32)}, **params}


def tagged(params, x):
    for number, w in enumerate(params["blocks"]):
        x = analysis.tag(x + jnp.tanh(x @ w), f"blocks.{number}")
    return x @ params["head"]


def tagged_scan(params, x):
    def step(x, w):
        return analysis.tag(x + jnp.tanh(x @ w), "blocks"), None

    return lax.scan(step, x, params["blocks"])[0] @ params["head"]


def scopes(params, x):
    for w in params["blocks"]:
        with jax.named_scope("block"):
            with jax.named_scope("linear"):
                h = jnp.einsum("ni,io->no", x, w)
            x = x + jnp.tanh(h)
    return x @ params["head"]


def scanned_scopes(params, x):
    @jax.jit
    def block(x, w):
        with jax.named_scope("block"):
            return x + jnp.tanh(x @ w)

    return lax.scan(lambda x, w: (block(x, w), None), x, params["blocks"])[0] @ params["head"]


PARAMS = {"blocks": jnp.asarray(KERNELS, jnp.float32), "head": jnp.asarray(HEAD, jnp.float32)}
NETWORKS = {
    "nnx": Unrolled,
    "nnx, scanned": Scanned,
    "nnx, called by hand": lambda: (lambda module, x: module(x), Unrolled()),
    "linen": lambda: linen(False),
    "linen, scanned": lambda: linen(True),
    "equinox": equinox,
    "haiku": haiku,
    "plain": lambda: (tagged, {**PARAMS, "blocks": list(PARAMS["blocks"])}),
    "plain, indexed": lambda: (tagged, PARAMS),
    "plain, jitted": lambda: (jax.jit(tagged), PARAMS),
    "plain, scanned": lambda: (tagged_scan, PARAMS),
    "plain, scopes": lambda: (scopes, {**PARAMS, "blocks": list(PARAMS["blocks"])}),
    "plain, scopes scanned": lambda: (scanned_scopes, PARAMS),
    "plain, remat": lambda: (jax.checkpoint(tagged_scan), PARAMS),
}
OBJECTS = ("weight", "features", "jacobian", "output_jacobian", "gradient")


def of_blocks(m):
    """The layers that `truth` has: not the products inside the blocks."""
    if m.object in ("weight", "gradient"):
        return m
    return analysis.select(m, [name for name in m.layers if "linear" not in name])


def singular_values(matrices):
    return [np.linalg.svd(a, compute_uv=False) for a in matrices]


@pytest.mark.parametrize("library", NETWORKS)
def test_every_library_is_measured_as_numpy_measures(library):
    network = NETWORKS[library]()
    found = analysis.measure(network, INPUTS, y=jnp.asarray(Y), loss=loss, measures=OBJECTS)
    expected = truth()
    seen = {(m.object, m.quantity): of_blocks(m) for m in found}
    for of in OBJECTS:
        assert len(seen[of, "spectral_norm"].layers) == DEPTH + 1
        for number, s in enumerate(singular_values(expected[of])):
            shares = s / s.sum()
            values = {
                "spectral_norm": s[0],
                "effective_rank": np.exp(-np.sum(shares * np.log(shares))),
                "stable_rank": np.sum(s**2) / s[0] ** 2,
            }
            for quantity, value in values.items():
                given = float(seen[of, quantity].value[number])
                assert given == pytest.approx(value, rel=2e-5), (of, quantity, number)
    assert seen["features", "cosine_similarity"].value[-1] == pytest.approx(
        cosine(expected["features"][-1]), abs=1e-5
    )


def cosine(h):
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    gram = unit @ unit.T
    return (gram.sum() - len(h)) / (len(h) * (len(h) - 1))


def layers(network, x=INPUTS, of="features", **options):
    return analysis.measure(network, x, measures=[f"{of}/stable_rank"], **options)[0].layers


class TestNames:
    def test_order_is_that_of_use_and_natural(self):
        keys = jax.random.split(jax.random.key(0), 12)

        def network(params, x):
            for number in reversed(range(12)):
                x = analysis.tag(x @ params[f"w{number}"], f"h{number}")
            return x

        params = {f"w{number}": jax.random.normal(key, (4, 4)) for number, key in enumerate(keys)}
        pair = network, params
        assert layers(pair, jnp.eye(4)) == tuple(f"h{i}" for i in reversed(range(12)))
        assert layers(pair, jnp.eye(4), "weight") == tuple(f"w{i}" for i in reversed(range(12)))

    def test_of_one_loop_come_step_after_step(self):
        assert layers(Scanned())[:4] == (
            "blocks.linear.1",
            "blocks.1",
            "blocks.linear.2",
            "blocks.2",
        )

    def test_a_module_called_twice(self):
        class Twice(nnx.Module):
            def __init__(self):
                self.linear = nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0))

            def __call__(self, x):
                return 2 * self.linear(jnp.tanh(self.linear(x)))

        assert layers(Twice()) == ("linear", "linear_2", "output")
        assert layers(Twice(), of="weight") == ("linear.kernel",)

    @pytest.mark.parametrize(
        ("pattern", "features", "weights"),
        [
            ("blocks.?", 4, 4),
            ("blocks.1*", 2, 1),
            (["head", "blocks.0"], 2, 2),
            ("*.linear", 4, 4),
        ],
    )
    def test_patterns(self, pattern, features, weights):
        assert len(layers(Unrolled(), layers=pattern)) == features
        assert len(layers(Unrolled(), of="weight", layers=pattern)) == weights
        assert len(layers(Unrolled(), of="jacobian", layers=pattern)) == features

    def test_of_a_network_of_ours_as_its_chain_has_them(self):
        network = models.MLPResNet(WIDTH, CLASSES, width=8, depth=3, rngs=nnx.Rngs(0))
        chain = analysis.as_chain(network)
        streamed = analysis.measure_stream(chain, analysis.stream(chain, [INPUTS]), centred=False)
        found = analysis.measure(network, INPUTS, measures=["features/effective_rank"])[0]
        alone = streamed["effective_rank"]
        shared = [name for name in found.layers if name in alone.layers]
        assert [name for name in shared if name.startswith("blocks")] == [
            f"blocks.{i}" for i in (1, 2, 3)
        ]
        np.testing.assert_allclose(
            analysis.select(found, shared).value, analysis.select(alone, shared).value, rtol=1e-5
        )

    def test_of_linen_called_by_a_function(self):
        module = nn.Sequential([nn.Dense(4), nn.Dense(3)])
        variables = module.init(jax.random.key(0), INPUTS)
        pair = (lambda variables, x: module.apply(variables, x)), variables
        names = ["features/participation_ratio", "weight/participation_ratio"]
        found = analysis.measure(pair, INPUTS, measures=names, layers="layers_0")
        assert {m.object: m.layers for m in found} == {
            "features": ("layers_0",),
            "weight": ("layers_0.kernel",),
        }

    def test_of_haiku_with_state(self):
        def forward(x, is_training=False):
            x = hk.nets.MLP([WIDTH, WIDTH])(x)
            return hk.BatchNorm(True, True, 0.9)(x, is_training)

        transformed = hk.without_apply_rng(hk.transform_with_state(forward))
        params, state = transformed.init(jax.random.key(0), INPUTS, is_training=True)
        network = transformed, params, state
        assert layers(network) == ("mlp/linear_0", "mlp/linear_1", "batch_norm")
        assert layers(network, of="weight") == ("mlp/linear_0.w", "mlp/linear_1.w")


def cuts(network):
    return tuple(look_inside(foreign(network), INPUTS).layers)


class TestAsAUserHasIt:
    @pytest.mark.parametrize(
        "wrap", [eqx.filter_vmap, lambda m: eqx.filter_jit(eqx.filter_vmap(m))]
    )
    def test_equinox_mapped_over_the_examples_is_the_network(self, wrap):
        assert cuts(wrap(equinox())) == cuts(equinox())

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_targets_that_a_loader_gives_are_not_needed(self, kind):
        batches = [kind((INPUTS, INPUTS))]
        assert [pair[1] is None for pair in _batches(INPUTS, None, None)] == [True]
        ((x, _),) = _batches(batches, None, None)
        assert x.shape == INPUTS.shape

    def test_a_jitted_call_that_sows(self):
        class Sows(nnx.Module):
            def __init__(self):
                self.first, self.second = (
                    nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0)) for _ in range(2)
                )

            @nnx.jit
            def __call__(self, x):
                h = self.first(x)
                with warnings.catch_warnings(action="ignore"):  # newer Flax has another way
                    self.sow(nnx.Intermediate, "h", h)
                return self.second(h)

        assert cuts(Sows()) == ("first", "second")


class TestScopes:
    def test_repeated_and_nested(self):
        pair = scopes, {**PARAMS, "blocks": list(PARAMS["blocks"][:2])}
        names = ("block/linear", "block", "block/linear_2", "block_2", "output")
        assert cuts(pair) == names

    def test_in_a_loop_are_numbered_by_step(self):
        assert cuts((scanned_scopes, PARAMS))[:2] == ("block.1", "block.2")

    def test_one_value_has_the_innermost_name(self):
        @jax.named_scope("inner")
        def inner(x):
            return jnp.tanh(x)

        def network(params, x):
            with jax.named_scope("outer"):
                x = inner(x @ params[0])
            return x @ params[1]

        assert cuts((network, [KERNELS[0], HEAD])) == ("outer/inner", "output")

    def test_the_last_array_that_is_used_outside(self):
        def network(params, x):
            with jax.named_scope("layer"):
                early = x @ params[0]
                h = jnp.tanh(early)
                size = jnp.mean(h**2)
            return (h + early) @ params[1] + size

        measures = ["features/frobenius_norm"]
        (found,) = analysis.measure((network, [KERNELS[0], HEAD]), INPUTS, measures=measures)
        assert found.layers == ("layer", "output")
        expected = np.linalg.norm(np.tanh(X @ KERNELS[0]))
        assert found.value[0] == pytest.approx(expected, rel=1e-5)

    def test_under_vmap_over_examples(self):
        def one(params, x):
            for w in params["blocks"]:
                with jax.named_scope("layer"):
                    x = jnp.tanh(w.T @ x)
            return params["head"].T @ x

        pair = (lambda params, x: jax.vmap(functools.partial(one, params))(x)), PARAMS
        (found,) = analysis.measure(pair, INPUTS, measures=["features/frobenius_norm"])
        assert found.layers[:2] == ("layer", "layer_2")
        expected = np.linalg.norm(np.tanh(X @ KERNELS[0]))
        assert found.value[0] == pytest.approx(expected, rel=1e-5)

    def test_of_a_backward_pass_are_not_seen(self):
        def energy(params, x):
            for w in params[:2]:
                with jax.named_scope("layer"):
                    x = jnp.sin(x @ w)
            return jnp.sum(x**2)

        pair = (lambda params, x: jax.grad(energy, argnums=1)(params, x)), list(KERNELS)
        assert cuts(pair) == ("layer", "layer_2", "output")

    def test_tags_and_modules_go_before(self):
        def both(params, x):
            with jax.named_scope("layer"):
                x = jnp.tanh(x @ params[0])
            return analysis.tag(x @ params[1], "tagged") @ params[2]

        assert cuts((both, list(KERNELS[:3]))) == ("tagged", "output")

    def test_one_around_everything_cuts_nothing(self):
        network = jax.named_scope("all")(lambda params, x: x @ params[0] @ params[1])
        with pytest.raises(ValueError, match="network must show values inside"):
            layers((network, list(KERNELS[:2])))


class TestWeights:
    """What multiplies, whichever way a program spells it."""

    W = jax.random.normal(jax.random.key(0), (WIDTH, 2 * WIDTH))

    @pytest.mark.parametrize(
        ("network", "shape"),
        [
            (lambda w, x: x @ w, (16, 8)),
            (lambda w, x: (w.T @ x.T).T, (16, 8)),
            (lambda w, x: jnp.einsum("io,ni->no", w, x), (16, 8)),
            (lambda w, x: jax.vmap(lambda x: w.T @ x)(x), (16, 8)),
            (lambda w, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32), (16, 8)),
            (lambda w, x: x @ (w / jnp.linalg.norm(w)), (16, 8)),
            (lambda w, x: x @ jax.jit(lambda w: w - jnp.mean(w))(w), (16, 8)),
            (
                lambda w, x: jnp.einsum("ihd,ni->nhd", w.reshape(8, 4, 4), x).reshape(-1, 16),
                (16, 8),
            ),
            (lambda w, x: lax.map(lambda x: x @ w, x), (16, 8)),
            (lambda w, x: lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: -(x @ w), x), (16, 8)),
            (lambda w, x: lax.fori_loop(0, 2, lambda i, x: x @ (w @ w.T), x), None),
            (lambda w, x: x + w[:, 0][None], None),
        ],
    )
    def test_spellings(self, network, shape):
        pair = (lambda w, x: analysis.tag(network(w, x), "h")), self.W
        if shape is None:
            with pytest.raises(ValueError, match="measures must not hold weight here"):
                layers(pair, of="weight")
        else:
            (found,) = analysis.measure(pair, INPUTS, measures=["weight/spectral_norm"])
            assert found.shapes == (shape,)
            assert found.value[0] == pytest.approx(np.linalg.norm(self.W, 2), rel=1e-5)

    def test_attention_kernels_by_what_is_summed(self):
        module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=12)
        x = jax.random.normal(jax.random.key(1), (3, 5, 8))
        pair = module, module.init(jax.random.key(0), x, x)
        call = (lambda variables, x: module.apply(variables, x, x)), pair[1]
        (found,) = analysis.measure(call, x, measures=["weight/stable_rank"])
        shapes = dict(zip(found.layers, found.shapes, strict=True))
        assert shapes == {
            "query.kernel": (12, 8),
            "key.kernel": (12, 8),
            "value.kernel": (12, 8),
            "out.kernel": (8, 12),
        }

    def test_embedding_and_convolution(self):
        class Net(nnx.Module):
            def __init__(self):
                rngs = nnx.Rngs(0)
                self.embed = nnx.Embed(11, 6, rngs=rngs)
                self.conv = nnx.Conv(6, 4, (3,), rngs=rngs)

            def __call__(self, ids):
                return self.conv(self.embed(ids))

        ids = jnp.arange(20).reshape(2, 10) % 11
        (found,) = analysis.measure(Net(), ids, measures=["weight/stable_rank"])
        assert dict(zip(found.layers, found.shapes, strict=True)) == {
            "embed.embedding": (6, 11),
            "conv.kernel": (4, 18),
        }

    @pytest.mark.parametrize(
        ("module", "names"),
        [
            (Unrolled, [*(f"blocks.{i}.linear.kernel" for i in range(DEPTH)), "head.kernel"]),
            (equinox, [*(f"blocks.{i}.linear.weight" for i in range(DEPTH)), "head.weight"]),
        ],
    )
    def test_of_a_module_without_data(self, module, names):
        found = analysis.measure_matrices(module())["spectral_norm"]
        measured = analysis.measure(module(), INPUTS, measures=["weight/spectral_norm"])[0]
        assert set(found.layers) == set(names)
        found = analysis.select(found, names)
        assert found.shapes == measured.shapes
        np.testing.assert_allclose(found.value, measured.value, rtol=1e-6)


class TestData:
    @pytest.mark.parametrize(
        ("measures", "drawn"), [("weight", 1), ("jacobian/stable_rank", 1), ("tokens", 3)]
    )
    def test_batches_are_drawn_where_they_are_needed(self, measures, drawn):
        batches = iter([jnp.ones((2, 3, 4))] * 3)
        network = (lambda w, x: analysis.tag(jnp.tanh(x @ w), "layer"), jnp.eye(4))
        analysis.measure(network, batches, measures=[measures])
        assert len(list(batches)) == 3 - drawn

    def test_batches_are_as_one(self):
        pieces = [INPUTS[:7], INPUTS[7:30], INPUTS[30:]]
        targets = [jnp.asarray(y) for y in (Y[:7], Y[7:30], Y[30:])]
        names = ["features", "gradient"]
        whole = analysis.measure(Unrolled(), INPUTS, y=jnp.asarray(Y), loss=loss, measures=names)
        parts = analysis.measure(
            Unrolled(), zip(pieces, targets, strict=True), loss=loss, measures=names
        )
        for one, other in zip(whole, parts, strict=True):
            assert one.quantity == other.quantity
            if one.quantity != "log_singular_value":
                np.testing.assert_allclose(one.value, other.value, rtol=2e-4, atol=1e-5)

    def test_values_need_no_axis_of_examples_first(self):
        def network(params, x):  # time first, as recurrent networks are written
            h = jnp.swapaxes(x, 0, 1)
            h = analysis.tag(jnp.tanh(h @ params), "time first")
            return jnp.mean(h, axis=0)

        x = jax.random.normal(jax.random.key(0), (6, 5, 4))
        found = analysis.measure((network, jnp.eye(4)), x, measures=["features/cosine_similarity"])
        h = np.tanh(np.asarray(x, np.float64))
        assert found[0].value[0] == pytest.approx(cosine(h.reshape(6, -1)), abs=1e-5)

    def test_units_stay_last_under_vmap(self):
        """As Equinox's transformers are written: a layer mapped over positions, then examples."""
        w = jax.random.normal(jax.random.key(0), (6, 4))

        def of_position(w, h):
            return analysis.tag(w @ h, "h")

        def network(w, x):
            return jax.vmap(lambda x: jax.vmap(lambda h: of_position(w, h), out_axes=1)(x))(x)

        x = jax.random.normal(jax.random.key(1), (5, 7, 4))
        found = analysis.measure((network, w), x, measures=["features", "output_jacobian"])
        ranks = {m.object: m for m in found if m.quantity == "spectral_norm"}
        assert ranks["features"].layers[0] == "h"
        assert ranks["features"].shapes[0] == (35, 6)
        h = np.asarray(x, np.float64).reshape(35, 4) @ np.asarray(w, np.float64).T
        norm = np.linalg.norm(h, 2)
        assert ranks["features"].value[0] == pytest.approx(norm, rel=1e-5)
        assert ranks["output_jacobian"].value[0] == pytest.approx(1, rel=1e-5)

    def test_a_network_made_for_one_size_of_batch(self):
        def network(w, x):
            return analysis.tag(x.reshape(EXAMPLES, WIDTH) @ w, "h")

        found = analysis.measure(
            (network, jnp.eye(WIDTH)), INPUTS, measures=["features/stable_rank"]
        )
        assert (found[0].layers, found[0].shapes) == (("h",), ((EXAMPLES, WIDTH),))

    def test_integers_have_no_jacobian(self):
        network = nn.Embed(5, 4)
        pair = network, network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
        ids = jnp.array([[0, 1], [2, 3]])
        assert {m.object for m in analysis.measure(pair, ids)} == {"weight", "features"}
        with pytest.raises(ValueError, match="measures must not hold jacobian here: x holds more"):
            analysis.measure(pair, ids, measures=["jacobian"])

    def test_outputs_that_are_complex_or_integers(self):
        w = jax.random.normal(jax.random.key(2), (2, 4, 3))

        def network(w, x):
            h = analysis.tag(jnp.tanh(x), "h")
            return {
                "z": h.astype(jnp.complex64) @ jax.lax.complex(*w),
                "class": jnp.argmax(h, axis=-1),
            }

        x = jax.random.normal(jax.random.key(3), (5, 4))
        found = analysis.measure((network, w), x, measures=["output_jacobian/effective_rank"])[0]
        s = np.linalg.svd(np.concatenate(np.asarray(w, np.float64), axis=1), compute_uv=False)
        p = s / s.sum()
        assert (found.layers, found.shapes) == (("h",), ((4, 6),))
        assert found.value[0] == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-5)
        with pytest.raises(ValueError, match="output_jacobian here: the output holds no floats"):
            analysis.measure(
                (lambda w, x: network(w, x)["class"], w), x, measures=["output_jacobian"]
            )

    @pytest.mark.parametrize("kind", [jnp.complex64, jnp.int32, jnp.bool_])
    def test_tags_of_other_than_floats_are_refused(self, kind):
        pair = (lambda w, x: analysis.tag((x @ w).astype(kind), "h"), jnp.eye(WIDTH))
        message = f"values tagged in a network must be of floats; 'h' is of {jnp.dtype(kind)}"
        with pytest.raises(ValueError, match=message):
            analysis.measure(pair, INPUTS)

    def test_directions_of_a_large_input(self):
        found = analysis.measure(Unrolled(), INPUTS, measures=["jacobian"], directions=3)
        rank = next(m for m in found if m.quantity == "numerical_rank")
        assert set(rank.shapes) == {(8, 3), (3, 3)}
        assert np.max(rank.value) == 3
        norm = next(m for m in found if m.quantity == "spectral_norm")
        whole = analysis.measure(Unrolled(), INPUTS, measures=["jacobian/spectral_norm"])[0]
        assert np.all(norm.value < whole.value)

    def test_what_is_not_finite_is_counted_and_not_measured(self):
        params = {**PARAMS, "blocks": PARAMS["blocks"].at[2].set(jnp.nan)}
        for m in analysis.measure((tagged_scan, params), INPUTS):
            if m.quantity == "non_finite":
                first_broken = {"weight": [0, 0, 64, 0, 0]}.get(m.object)
                counts = m.value.tolist()
                assert first_broken in (None, counts)
                assert counts[0] == counts[1] == 0
                assert counts[2] > 0
            else:
                assert not m.valid[2]
                assert m.valid[1]

    def test_sixteen_bits(self):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
        found = analysis.measure((tagged_scan, half), INPUTS.astype(jnp.bfloat16))
        exact = {(m.object, m.quantity): m for m in analysis.measure((tagged_scan, PARAMS), INPUTS)}
        for m in found:
            assert m.dtype == "float32"
            if m.quantity == "effective_rank":
                np.testing.assert_allclose(m.value, exact[m.object, m.quantity].value, rtol=0.02)


ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxact import analysis

def network(params, x):
    for number, w in enumerate(params):
        x = analysis.tag(jnp.tanh(x @ w), f"h{number}")
    return x

params = list(jax.random.normal(jax.random.key(0), (3, 8, 8)) / 3)
x = jax.random.normal(jax.random.key(1), (32, 8))
alone = analysis.measure((network, params), x)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    spread = jax.device_put(x, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        inside = analysis.measure((network, params), spread)
    for found in (inside, analysis.measure((network, params), spread)):
        for one, other in zip(alone, found, strict=True):
            assert (one.object, one.quantity) == (other.object, other.quantity)
            if one.quantity in ("effective_rank", "spectral_norm", "cosine_similarity"):
                np.testing.assert_allclose(one.value, other.value, rtol=1e-4)
print("same", len(jax.devices()))
"""


def test_a_sharded_batch_on_auto_and_explicit_axes():
    if not hasattr(jax, "set_mesh"):
        pytest.skip("jax.set_mesh came later")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", ON_A_MESH], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "same 8", done.stderr[-2000:]


class TestNetworkStaysAsItIs:
    def test_nnx(self):
        class Counting(nnx.Module):
            def __init__(self):
                self.norm = nnx.BatchNorm(WIDTH, rngs=nnx.Rngs(0))
                self.linear = nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0))

            def __call__(self, x):
                return self.linear(self.norm(x))

        network = Counting()
        before, kinds = nnx.state(network), (type(network.norm), type(network.linear))
        analysis.measure(network, INPUTS)
        assert kinds == (type(network.norm), type(network.linear)) == (nnx.BatchNorm, nnx.Linear)
        jax.tree.map(np.testing.assert_array_equal, before, nnx.state(network))
        network.eval()
        assert "jaxact" not in str(jax.make_jaxpr(lambda x: network(x))(INPUTS))

    def test_equinox(self):
        network = equinox()
        analysis.measure(network, INPUTS)
        assert type(network.head) is eqx.nn.Linear
        assert "jaxact" not in str(jax.make_jaxpr(jax.vmap(network))(INPUTS))


class Transformed(EquinoxNet):
    """Its blocks are called by a transformation, which makes copies of them."""

    call: Callable = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(self, x):
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x)


class Stacking(EquinoxNet):
    """It stacks its blocks, to scan over them."""

    def __call__(self, x):
        weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.blocks)
        return self.head(jax.lax.scan(lambda h, block: (block(h), None), x, weights)[0])


class TestEquinoxCopies:
    @pytest.mark.parametrize(
        "call",
        [
            lambda block, x: eqx.filter_jit(block)(x),
            lambda block, x: eqx.filter_checkpoint(block)(x),
            lambda block, x: eqx.filter_vmap(block)(x[None])[0],
        ],
    )
    def test_modules_keep_their_paths(self, call):
        plain = equinox()
        network = Transformed(plain.blocks, plain.head, call)
        (found,) = analysis.measure(network, INPUTS, measures=["features/participation_ratio"])
        (expected,) = analysis.measure(plain, INPUTS, measures=["features/participation_ratio"])
        blocks = [f"blocks.{i}{end}" for i in range(DEPTH) for end in (".linear", "")]
        assert found.layers == expected.layers == (*blocks, "head")
        chex.assert_trees_all_close(found.value, expected.value, rtol=1e-5)

    @pytest.mark.parametrize(
        "transform",
        [eqx.filter_jit, eqx.filter_checkpoint, lambda f: jax.jit(eqx.filter_jit(f))],
    )
    def test_a_whole_network_transformed_is_the_network(self, transform):
        names = ["features/participation_ratio", "weight/participation_ratio"]
        found = analysis.measure(transform(equinox()), INPUTS, measures=names)
        for m, expected in zip(
            found, analysis.measure(equinox(), INPUTS, measures=names), strict=True
        ):
            assert m.layers == expected.layers
            chex.assert_trees_all_close(m.value, expected.value, rtol=1e-5)

    def test_aliases_of_types_are_no_modules(self):
        class Typed(EquinoxNet):
            kind: object = eqx.field(static=True, default=tuple[int, ...])

        network = Typed(equinox().blocks, equinox().head)
        (found,) = analysis.measure(network, INPUTS, measures=["features/participation_ratio"])
        assert found.layers[-1] == "head"

    def test_stacked_inside(self):
        network = Stacking(equinox().blocks, equinox().head)
        (found,) = analysis.measure(network, INPUTS, measures=["features/participation_ratio"])
        assert [name for name in found.layers if "linear." not in name][:-1] == [
            f"equinoxblock.{i + 1}" for i in range(DEPTH)
        ]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(measures=["weights"]), "measures must be OBJECT or OBJECT/NAME.*got 'weights'"),
            (dict(measures=["weight/dead"]), "a measure of it.*got 'weight/dead'"),
            (dict(measures="weight"), "measures must be a list of names; got 'weight'"),
            (dict(measures=[]), "measures must hold at least one name"),
            (dict(measures=["gradient"]), "loss must be given where measures hold 'gradient'"),
            (dict(loss=loss), "y must be given with loss"),
            (dict(y=Y), "loss must be given with y"),
            (
                dict(layers="block"),
                "layers must match some of blocks.0.linear, blocks.0.*got 'block'",
            ),
            (dict(directions=0), "directions must be an integer of at least 1; got 0"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            analysis.measure(Unrolled(), INPUTS, **options)

    @pytest.mark.parametrize("x", [jnp.zeros((0, WIDTH)), [], [jnp.zeros((0, WIDTH))], iter([])])
    def test_no_data(self, x):
        with pytest.raises(ValueError, match="x must"):
            analysis.measure(Unrolled(), x)

    @pytest.mark.parametrize(
        "network",
        [
            lambda x: jnp.tanh(x),
            lambda x: Unrolled()(x),
            (lambda params, x: x @ params[0] @ params[1], KERNELS[:2].astype(np.float32)),
        ],
    )
    def test_nothing_to_see_names_the_way(self, network):
        with pytest.raises(ValueError, match=r"network must show values inside.*analysis\.tag"):
            analysis.measure(network, INPUTS)

    def test_one_example_is_told_to_be_a_batch(self):
        with pytest.raises(ValueError, match=r"one example is a batch of one, x\[None\]"):
            analysis.measure(Unrolled(), INPUTS[0])

    def test_one_sample_has_no_spectrum_about_its_mean(self):
        names = ["features/participation_ratio"]
        with pytest.raises(ValueError, match="at least two samples for centred=True"):
            analysis.measure(Unrolled(), INPUTS[:1], measures=names, centred=True)

    def test_neither_module_nor_function(self):
        with pytest.raises(TypeError, match="network must be"):
            analysis.measure(3.0, INPUTS)

    @pytest.mark.parametrize("layer", [nn.BatchNorm(False), nn.Dropout(0.5, deterministic=False)])
    def test_linen_in_training_mode_is_told_the_way(self, layer):
        module = nn.Sequential([nn.Dense(WIDTH), layer])
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        with pytest.raises(ValueError, match=r"network must run as in evaluation.*train=False"):
            look_inside(foreign((module, module.init(keys, INPUTS))), INPUTS)

    def test_linen_without_its_variables(self):
        module = nn.Dense(WIDTH)
        variables = module.init(jax.random.key(0), INPUTS)
        with pytest.raises(TypeError, match=r"pair \(module, variables\).*got Dense alone"):
            foreign(module)
        with pytest.raises(ValueError, match=r"network must come with the variables.*; Dense: "):
            look_inside(foreign((module, variables["params"])), INPUTS)
        abstract = jax.eval_shape(module.init, jax.random.key(0), INPUTS)
        with pytest.raises(TypeError, match=r"params.bias is abstract, of shape \(8,\)"):
            foreign((module, abstract))

    def test_equinox_mapped_over_another_axis(self):
        with pytest.raises(ValueError, match=r"map over its first axis.*got in_axes=1"):
            foreign(eqx.filter_vmap(equinox(), in_axes=1))

    def test_a_loss_and_batches_without_targets(self):
        with pytest.raises(
            ValueError, match=r"x must be of pairs .*; got a batch of type \w*Array"
        ):
            analysis.measure(Unrolled(), [INPUTS[:2]], loss=loss)

    def test_a_module_of_pytorch_is_told_the_way(self):
        torch = pytest.importorskip("torch")
        module = torch.nn.Linear(WIDTH, 3)
        for network in (module, (module, module.state_dict())):
            with pytest.raises(TypeError, match=r"in JAX; got Linear of PyTorch.*state_dict"):
                analysis.measure(network, INPUTS)


class TestFollow:
    def test_is_measure_at_each_interval_and_compiles_once(self):
        traced = []

        def network(params, x):
            traced.append(1)
            return tagged_scan(params, x)

        watch = analysis.follow(INPUTS, every=2, measures=["features/effective_rank", "weight"])
        for step in range(5):
            params = jax.tree.map(lambda leaf, c=1 + step: c * leaf, PARAMS)
            assert (watch(step, (network, params)) is None) == (step % 2 == 1)
            if step == 0:
                count = len(traced)
        assert len(traced) == count
        assert list(watch.found) == [0, 2, 4]
        alone = analysis.measure(
            (tagged_scan, params), INPUTS, measures=["features/effective_rank"]
        )
        rank = next(m for m in watch.found[4] if m.object == "features")
        np.testing.assert_allclose(rank.value, alone[0].value, rtol=1e-5)
        table = watch.table()
        assert set(table["step"]) == {0, 2, 4}

    @pytest.mark.parametrize("centred", [False, True])
    def test_what_needs_no_decomposition_is_what_one_gives(self, centred):
        names = ["weight", "features", "gradient"]
        options = dict(y=jnp.asarray(Y), loss=loss, centred=centred)
        quick = [f"{name}/participation_ratio" for name in names]
        pair = tagged_scan, {**PARAMS, "blocks": PARAMS["blocks"].at[1].set(0)}
        whole = {
            m.object: m
            for m in analysis.measure(pair, INPUTS, measures=names, **options)
            if m.quantity == "participation_ratio"
        }
        alone = analysis.measure(pair, INPUTS, measures=quick, **options)
        assert [m.object for m in alone] == names
        for m in alone:
            other = whole[m.object]
            assert (m.layers, m.shapes, m.centring) == (other.layers, other.shapes, other.centring)
            np.testing.assert_allclose(m.value, other.value, rtol=1e-5)

    def test_another_network_is_refused(self):
        watch = analysis.follow(INPUTS, every=1)
        watch(0, (tagged, {**PARAMS}))
        with pytest.raises(ValueError, match="network must be as at first"):
            watch(1, Unrolled())

    def test_the_last_of_many_arrays_counts(self):
        def network(params, x):
            for w in params:
                x = analysis.tag(x @ w, "h")
            return x

        square, narrow = jnp.eye(WIDTH), jnp.ones((WIDTH, 2))
        watch = analysis.follow(INPUTS, every=1, measures=["weight/participation_ratio"])
        watch(0, (network, [square] * 12))
        message = r"its 12 arrays; now there are 12, and new or changed are 11 float32\[8, 2\]"
        with pytest.raises(ValueError, match=message):
            watch(1, (network, [square] * 11 + [narrow]))

    def test_an_iterator_is_refused(self):
        with pytest.raises(ValueError, match="x must be a batch or a list of batches"):
            analysis.follow(iter([INPUTS]), every=1)


class TestSummary:
    def test_says_where_rank_halves_and_is_lost(self):
        params = {
            "blocks": jnp.stack(
                [
                    jnp.eye(8),
                    jnp.diag(jnp.repeat(jnp.array([1.0, 0]), jnp.array([3, 5]))),
                    jnp.eye(8),
                ]
            )
        }
        params["blocks"] = (
            params["blocks"].at[2].set(jnp.diag(jnp.repeat(jnp.array([1.0, 0]), jnp.array([1, 7]))))
        )

        def network(params, x):
            for number, w in enumerate(params["blocks"]):
                x = analysis.tag(x @ w, f"h{number}")
            return x

        found = analysis.measure((network, params), INPUTS)
        said = analysis.summary(found)
        assert all(len(line) <= 100 for line in said.splitlines())
        text = " ".join(said.split())
        assert (
            "jacobian: effective rank is 8.0 of 8 in h0 and 1.0 of 8 in h2; it halves at h1" in text
        )
        assert "(3.0 of 8) and is lost from h2 on." in text
        assert "Dead units: h1 (62%), h2 (88%)." in text
        assert "Numerically singular: h1 (3 of 8), h2 (1 of 8)." in text

    def test_of_one_layer_of_a_checkpoint_and_of_no_rank(self):
        one = analysis.measure_matrices({"fc": np.eye(3)})
        assert analysis.summary(one) == "weight: effective rank is 3.0 of 3 in fc."
        with pytest.raises(ValueError, match="measurements must hold a rank"):
            analysis.summary([one["non_finite"]])
        broken = analysis.measure_matrices({"fc": np.full((3, 3), np.nan)})
        broken = " ".join(analysis.summary(broken).split())
        assert "could not be measured in any layer. NaN or infinite, and left out: fc." in broken
