"""One block against each placement's published equation, and every combination of choices."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import models
from jaxact._compat import enable_x64
from jaxact.models._norms import NORMS
from jaxact.wiring import PLACEMENTS, SKIPS

WIDTH = 6
N = 5


def relu(x):
    return np.maximum(x, 0)


# The equations of docs/models.md for two layers, written as in the papers. W and M are the layers
# and norms as functions; M[-1] is the norm at the branch's end or after the addition.
EQUATIONS = {
    "original": lambda x, W, M: relu(x + M[1](W[1](relu(M[0](W[0](x)))))),
    "norm_after_addition": lambda x, W, M: relu(M[-1](x + W[1](relu(M[0](W[0](x)))))),
    "pre": lambda x, W, M: x + W[1](relu(M[1](W[0](relu(M[0](x)))))),
    "relu_before_addition": lambda x, W, M: x + relu(M[1](W[1](relu(M[0](W[0](x)))))),
    "relu_only_pre": lambda x, W, M: x + M[1](W[1](relu(M[0](W[0](relu(x)))))),
    "sandwich": lambda x, W, M: x + M[-1](W[1](relu(M[1](W[0](relu(M[0](x))))))),
    "post": lambda x, W, M: M[-1](x + W[1](relu(W[0](relu(x))))),
    "res_post": lambda x, W, M: x + M[-1](W[1](relu(W[0](relu(x))))),
    # of a network of 3 blocks
    "deepnorm": lambda x, W, M: M[-1](3**0.25 * x + W[1](relu(W[0](relu(x))))),
    "norm_free": lambda x, W, M: x + W[1](relu(W[0](relu(x)))),
}
PLAIN = {
    "original": lambda x, W, M: relu(M[1](W[1](relu(M[0](W[0](x)))))),
    "pre": lambda x, W, M: W[1](relu(M[1](W[0](relu(M[0](x)))))),
    "relu_only_pre": lambda x, W, M: M[1](W[1](relu(M[0](W[0](relu(x)))))),
    "sandwich": lambda x, W, M: M[-1](W[1](relu(M[1](W[0](relu(M[0](x))))))),
    "res_post": lambda x, W, M: M[-1](W[1](relu(W[0](relu(x))))),
    "norm_free": lambda x, W, M: relu(W[1](relu(W[0](x)))),
}


def make(norm_placement="pre", *, norm=None, width=WIDTH, outputs=WIDTH, block=None, **choices):
    config = models.BlockConfig(norm_placement=norm_placement, norm=norm, gain=1.4, **choices)
    layers = [
        models.Layer(models.Dense, width, outputs),
        models.Layer(models.Dense, outputs, outputs),
    ]
    return models.Block(layers, config, depth=3, rngs=nnx.Rngs(0), **(block or {}))


def randomize(module, seed=1):
    """Every parameter and statistic away from zero and one."""
    leaves, structure = jax.tree.flatten(module)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        structure,
        [leaf + 0.3 * jax.random.uniform(k, leaf.shape) for leaf, k in zip(leaves, keys)],  # noqa: B905
    )


def norm_function(norm):
    """Batch normalization with the batch's statistics, in float64."""
    scale, bias = (np.asarray(p[...], np.float64) for p in (norm.scale, norm.bias))
    return lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias


def layer_function(layer):
    kernel = np.asarray(layer.kernel[...], np.float64)
    bias = 0 if layer.bias is None else np.asarray(layer.bias[...], np.float64)
    return lambda x: x @ kernel + bias


def functions(block):
    return list(map(layer_function, block.layers)), list(map(norm_function, block.norms))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(7), (N, WIDTH))


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(0), (2, 7, 6, 3))


@pytest.mark.parametrize("plain", [False, True], ids=["residual", "plain"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_equation_of_every_placement(placement, plain, x):
    equations = PLAIN if plain else EQUATIONS
    if placement not in equations:
        return
    block = randomize(make(placement, skip="plain" if plain else "identity"))
    expected = equations[placement](np.asarray(x, np.float64), *functions(block))
    np.testing.assert_allclose(block(x), expected, rtol=2e-4, atol=2e-5)


def test_residual_dual_carries_two_streams(x):
    """ResiDual, eqs. 7 and 8: f reads the normalized stream, and both take its result."""
    block = randomize(make("residual_dual"))
    dual = 2 * x
    W, M = functions(block)
    branch = W[1](relu(W[0](relu(np.asarray(x, np.float64)))))
    found = block((x, dual))
    np.testing.assert_allclose(found[0], M[-1](np.asarray(x) + branch), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found[1], dual + branch, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("placement", ["pre", "norm_free"])
@pytest.mark.parametrize(
    ("skip", "scale"),
    [("scaled", 3**-0.5), (0.25, 0.25), ("rezero", None), ("skipinit", None), ("layerscale", None)],
)
def test_scaled_branches(skip, scale, placement, x):
    block = make(placement, skip=skip)
    if scale is None:
        start = 1e-4 if skip == "layerscale" else 0.0
        np.testing.assert_array_equal(block.scale[...], np.full(block.scale.shape, start, "f4"))
        block = randomize(block)
        scale = np.asarray(block.scale[...])
        assert scale.shape == ((WIDTH,) if skip == "layerscale" else ())
    full = EQUATIONS[placement](np.asarray(x, np.float64), *functions(block))
    expected = np.asarray(x) + scale * (full - np.asarray(x))
    np.testing.assert_allclose(block(x), expected, rtol=2e-4, atol=2e-5)


def test_fixup(x):
    """Zhang et al. 2019: a bias before each layer and activation, a multiplier, and its start."""
    block = make("norm_free", skip="fixup")
    assert not np.any(block.layers[1].kernel[...])
    deviation = float(jnp.std(make("norm_free", width=200).layers[0].kernel[...]))
    scaled = float(jnp.std(make("norm_free", skip="fixup", width=200).layers[0].kernel[...]))
    np.testing.assert_allclose(scaled / deviation, 3**-0.5, rtol=1e-5)  # m = 2: L^(-1/2)
    block = randomize(block)
    W, _ = functions(block)
    b = np.asarray(block.biases[...], np.float64)
    branch = W[1](relu(W[0](relu(np.asarray(x) + b[0]) + b[1]) + b[2]) + b[3])
    np.testing.assert_allclose(block(x), x + block.scale[...] * branch, rtol=2e-4, atol=2e-5)


def test_normalizer_free(x):
    block = make("norm_free", skip="normalizer_free", block={"beta": 1.7})
    W, _ = functions(block)
    branch = W[1](relu(W[0](relu(np.asarray(x, np.float64) / 1.7))))
    np.testing.assert_allclose(block(x), x + 0.2 * branch, rtol=2e-4, atol=2e-5)
    gradient = jax.grad(lambda block: jnp.sum(block(x)))(block)
    assert gradient.beta[...] == 0


def test_normalizer_free_predicts_the_variance_of_every_block():
    """With scaled standardized weights, Var of the inputs is beta^2 (Brock et al. 2021, sec. 3)."""
    net = models.MLPResNet(
        256, 2, width=256, depth=12, block_layers=2, norm_placement="norm_free",
        skip="normalizer_free", weights="scaled_standardized", rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(1), (512, 256))
    inputs = models.apply(net, x, train=True, trace=True).traces["blocks"].input
    found = np.var(np.asarray(inputs), axis=(1, 2)) / np.var(np.asarray(inputs[0]))
    np.testing.assert_allclose(found, np.square(net.blocks.beta[...]), rtol=0.05)
    np.testing.assert_allclose(net.blocks.beta[...] ** 2, 1 + 0.04 * np.arange(12), rtol=1e-5)
    gamma = net.blocks.layers[0].weights.gamma[...]
    np.testing.assert_allclose(gamma, (2 / (1 - 1 / np.pi)) ** 0.5, rtol=1e-6)


def test_predicted_deviations_have_the_digits_of_the_parameters():
    with enable_x64(True):
        net = models.MLPResNet(
            4, 3, width=4, depth=3, norm_placement="norm_free", skip="normalizer_free",
            param_dtype=jnp.float64, rngs=nnx.Rngs(0),
        )  # fmt: skip
        expected = np.sqrt([1.0, 1.04, 1.08])
        np.testing.assert_allclose(net.blocks.beta[...], expected, rtol=1e-14)


def test_normalizer_free_shortcut_starts_anew_from_variance_one():
    net = models.ResNet(
        depths=(1, 1), widths=(32, 64), strides=(1, 2), norm_placement="norm_free",
        skip="normalizer_free", weights="scaled_standardized", rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(1), (16, 8, 8, 128)) * 1.04**0.5
    np.testing.assert_allclose(np.var(net.stages[1].first(x)), 1.04, rtol=0.1)


class TestStochasticDepth:
    def test_each_branch_is_kept_or_dropped_whole(self):
        x = jax.random.normal(jax.random.key(0), (4000, WIDTH))
        block = make("pre", stochastic_depth=0.9, block={"drop": 0.3})
        whole = make("pre")(x) - x
        branch = block.trace(x, key=jax.random.key(3)).branch
        kept = np.any(np.asarray(branch) != 0, axis=1)
        np.testing.assert_allclose(branch[kept], whole[kept] / 0.7, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(kept.mean(), 0.7, atol=0.03)
        block.eval()
        np.testing.assert_allclose(block.trace(x).branch.shape, whole.shape)

    def test_needs_a_key_in_training_only(self, x):
        block = make("pre", stochastic_depth=0.5, block={"drop": 0.5})
        with pytest.raises(ValueError, match="key or rngs must be given in training"):
            block(x)
        block.eval()
        assert block(x).shape == x.shape

    @pytest.mark.parametrize(
        ("schedule", "rates"),
        [("linear", [0.1, 0.2, 0.3, 0.4]), ("uniform", [0.4] * 4)],
    )
    def test_schedules(self, schedule, rates):
        net = models.MLPResNet(
            3, 2, width=4, depth=4, stochastic_depth=0.4, stochastic_depth_schedule=schedule,
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        np.testing.assert_allclose(net.blocks.drop[...], rates, rtol=1e-6)


class TestShortcuts:
    def conv_block(self, shortcut, placement="original", stride=2, pool=False):
        config = models.BlockConfig(
            norm_placement=placement, norm="batch", shortcut=shortcut, gain=1.4
        )
        layers = [
            models.Layer(functools.partial(models.Conv, stride=stride), 3, 5),
            models.Layer(models.Conv, 5, 5),
        ]
        return models.Block(layers, config, depth=1, stride=stride, pool=pool, rngs=nnx.Rngs(0))

    def test_option_a_strides_and_appends_zeros(self, image):
        shortcut = self.conv_block("A").shortcut
        expected = np.zeros((2, 4, 3, 5))
        expected[..., :3] = image[:, ::2, ::2]
        np.testing.assert_array_equal(shortcut(image), expected.astype("f4"))
        assert not jax.tree.leaves(shortcut)

    def test_option_b_projects_and_norms(self, image):
        shortcut = self.conv_block("B").shortcut
        h = np.einsum("nhwc,co->nhwo", image[:, ::2, ::2], shortcut.layer.kernel[...][0, 0])
        expected = (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(shortcut(image), expected, rtol=1e-3, atol=1e-4)
        assert make("original").shortcut is None

    def test_option_c_projects_everywhere(self):
        assert make("original", shortcut="C").shortcut.layer.kernel.shape == (WIDTH, WIDTH)

    def test_resnet_d_averages_before_it_projects(self, image):
        shortcut = self.conv_block("A", pool=True).shortcut
        padded = np.pad(np.asarray(image), [(0, 0), (0, 1), (0, 0), (0, 0)])
        sums = padded.reshape(2, 4, 2, 3, 2, 3).sum((2, 4))
        counts = np.array([4, 4, 4, 2]).reshape(1, 4, 1, 1)
        np.testing.assert_allclose(shortcut(image)[..., :3], sums / counts, rtol=1e-5, atol=1e-6)

    def test_pre_norm_projects_what_its_first_layer_takes(self, image):
        """He et al. 2016: the projection shares the pre-activation."""
        block = self.conv_block("B", placement="pre")
        entry = jax.nn.relu(block.norms[0](image))
        trace = block.trace(image)
        np.testing.assert_allclose(
            trace.output - trace.branch, block.shortcut.layer(entry), rtol=1e-3, atol=1e-5
        )
        assert block.shortcut.norm is None


CHOICES = {
    "norm_placement": tuple(PLACEMENTS),
    "norm": (None, "none", *NORMS, functools.partial(nnx.BatchNorm, momentum=0.5)),
    "skip": (*SKIPS, 0.5),
    "shortcut": models.SHORTCUTS,
    "weights": ("raw", "standardized", "scaled_standardized", "spectral"),
    "stochastic_depth": (0.0, 0.5),
    "zero_init": (False, True),
}


def refusal(choices):
    try:
        models.BlockConfig(**choices, gain=1.0)
    except ValueError as error:
        return str(error)
    return None


def test_every_combination_is_accepted_or_refused_in_one_sentence():
    accepted = 0
    for values in itertools.product(*CHOICES.values()):
        choices = dict(zip(CHOICES, values, strict=True))
        message = refusal(choices)
        if message is None:
            accepted += 1
            continue
        found = re.fullmatch(r"(\w+)=(.+) and (\w+)=(.+) conflict: [^.]+", message)
        assert found, message
        for name in found.group(1, 3):
            assert repr(choices[name]) in message
    assert accepted > 1000


def runs(choices):
    """Shapes through a block that changes the shape."""
    dual = choices["norm_placement"] == "residual_dual"

    def run(x, key):
        block = make(**choices, outputs=8, block={"drop": 0.5})
        return block((x, x) if dual else x, key=key)

    shape = jax.ShapeDtypeStruct((N, 3, WIDTH), jnp.float32)
    for stream in jax.tree.leaves(jax.eval_shape(run, shape, jax.random.key(0))):
        assert stream.shape == (N, 3, 8)


def accepted(names):
    """Accepted combinations of some choices, the others at their defaults."""
    for values in itertools.product(*(CHOICES[name] for name in names)):
        choices = dict(zip(names, values, strict=True))
        if refusal(choices) is None:
            yield choices


# A norm, what is done to weights, and the wiring meet in no code but the call of a module, so each
# two of them in full cover what a product of all would run.
@pytest.mark.parametrize(
    "names",
    [
        ("norm_placement", "skip", "shortcut"),
        ("norm_placement", "skip", "stochastic_depth"),
        ("norm_placement", "norm", "zero_init"),
        ("norm_placement", "skip", "weights"),
    ],
    ids="-".join,
)
def test_what_is_accepted_runs(names, standard_promotion):
    for choices in accepted(names):
        runs(choices)


def test_activation_with_parameters_is_made_anew_at_each_place(x):
    class Slope(nnx.Module):
        def __init__(self, features, *, rngs):
            self.slope = nnx.Param(jnp.full(features, 0.25))

        def __call__(self, x):
            slope = jnp.broadcast_to(self.slope[...], x.shape)
            return jnp.where(x > 0, x, slope * x)

    for placement in ("pre", "original"):
        block = make(placement, activation=Slope)
        assert len(block.activations) == 2
        gradient = jax.grad(lambda b: jnp.sum(jnp.square(b(x))))(block)
        assert all(np.all(a.slope[...] != 0) for a in gradient.activations)
    # E f(Z)^2 = (1 + 0.25^2) / 2
    config = models.BlockConfig(activation=Slope)
    np.testing.assert_allclose(config.weight_gain, (2 / (1 + 0.25**2)) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"skip": "sum"}, ValueError, "skip must be one of"),
        ({"skip": None}, TypeError, "skip"),
        ({"shortcut": "D"}, ValueError, "shortcut must be one of A, B, C; got 'D'"),
        ({"weights": "orthogonal"}, ValueError, "weights must be one of raw, standardized"),
        ({"stochastic_depth": 1.0}, ValueError, "stochastic_depth must be from 0 to below 1"),
        ({"stochastic_depth_schedule": "cosine"}, ValueError, "must be one of linear, uniform"),
    ],
)
def test_unknown_choices(choices, error, message):
    with pytest.raises(error, match=message):
        models.BlockConfig(**choices)


def test_activations_that_change_the_shape_are_refused():
    with pytest.raises(ValueError, match="activation must keep the shape"):
        make("pre", activation=lambda x: x[..., :2])
