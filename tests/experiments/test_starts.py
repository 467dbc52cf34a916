"""Networks whose blocks' product has a prescribed spectrum at the start."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxact import analysis, training
from jaxact.experiments import _networks as networks
from jaxact.experiments import _starts as starts
from jaxact.experiments.verdicts.studies import _causal

WIDTH, DEPTH = 16, 6
HALF = WIDTH // 2
NAMES = (starts.OWN, starts.ISOMETRY, "exponential 1.3", "power 3", "spike 1.1")


@functools.cache
def _network(name):
    """A network as it was made and from one start, and the inputs that its head is scaled by."""
    data = training.load("digits")
    trials = networks.Trials(networks.Spec("plain", DEPTH, WIDTH, ("relu",)), data)
    key = jax.random.key(0)
    x = jnp.asarray(trials.x[:32])
    made = trials.network(jnp.int32(0), key)
    names = (*NAMES, name) if name == starts.TWIN else NAMES
    number = jnp.int32(names.index(name))
    return made, _start(names, made, number, x, key), x


_start = jax.jit(starts.start, static_argnums=0)


def _jacobian(network, x):
    """The blocks' Jacobian at an input, by automatic differentiation of the calls."""
    stem, blocks = (analysis.Chain((s,)) for s in analysis.as_chain(network).segments[:2])
    h = analysis.run(stem, x[None])
    return jax.jacobian(lambda h: analysis.run(blocks, h)[0])(h)[:, 0]


def _by_hand(network, x):
    """Singular values of the blocks' Jacobian at inputs, from the weights alone, in float64."""
    kernels = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(network)
    }
    (stem,) = (k for name, k in kernels.items() if name.startswith("stem") and "kernel" in name)
    (stack,) = (k for name, k in kernels.items() if name.startswith("stages") and "kernel" in name)
    found = []
    for h in np.asarray(x, np.float64) @ stem:
        product = np.eye(WIDTH)
        for kernel in stack:
            h = h @ kernel
            product = product @ kernel * (h > 0)
            h = np.maximum(h, 0)
        found.append(np.linalg.svd(product, compute_uv=False))
    return np.array(found)


class TestSpectrum:
    @pytest.mark.parametrize("name", ["power 1.05", "power 20", "exponential 2", "spike 1.001"])
    def test_has_the_participation_ratio_it_names(self, name):
        logs = starts.spectrum(name, 32)
        squares = np.exp(2 * logs)
        assert np.sum(squares) ** 2 / np.sum(squares**2) == pytest.approx(float(name.split()[1]))
        assert np.mean(squares) == pytest.approx(1)
        assert np.all(np.diff(logs) <= 0)

    def test_shapes_differ_where_their_names_say(self):
        power, exponential, spike = (
            starts.spectrum(f"{shape} 2", 32) for shape in ("power", "exponential", "spike")
        )
        np.testing.assert_allclose(np.diff(exponential), exponential[1] - exponential[0])
        slopes = np.diff(power) / np.diff(np.log(np.arange(1, 33)))
        np.testing.assert_allclose(slopes, slopes[0])
        np.testing.assert_allclose(spike[1:], spike[1])
        assert starts.spectrum(starts.ISOMETRY, 4).tolist() == [0.0] * 4

    @pytest.mark.parametrize("name", ["power", "power 1", "power 32", "power nan", "steep 2", ""])
    def test_errors(self, name):
        with pytest.raises(ValueError, match=f"name must be .* got {name!r}"):
            starts.spectrum(name, 32)


class TestStart:
    @pytest.mark.parametrize("name", ["isometry", "exponential 1.3", "power 3", "spike 1.1"])
    def test_the_jacobian_has_the_spectrum_at_every_input(self, name):
        _, network, x = _network(name)
        for example in x[:3]:
            jacobian = _jacobian(network, example)
            s = np.linalg.svd(np.asarray(jacobian, np.float64), compute_uv=False)
            expected = np.exp(starts.spectrum(name, HALF))
            np.testing.assert_allclose(s[:HALF] / s[0], expected / expected[0], rtol=2e-4)
            assert s[HALF] < 1e-5 * s[0]

    @pytest.mark.parametrize("name", ["isometry", "exponential 1.3", "power 3", "spike 1.1"])
    def test_the_spectrum_by_hand(self, name):
        """That of D over the root of two: the first block's units are pairs before it and after."""
        _, network, x = _network(name)
        expected = np.exp(starts.spectrum(name, HALF)) / 2**0.5
        np.testing.assert_allclose(_by_hand(network, x)[:, :HALF], [expected] * len(x), rtol=2e-4)
        assert np.max(_by_hand(network, x)[:, HALF:]) < 1e-6

    def test_twin_by_hand(self):
        """Logarithms are averaged over inputs, those cut off taken as the least that are left."""
        made, network, x = _network(starts.TWIN)
        logs = [np.log(np.maximum(s, s[s > 1e-9].min())) for s in _by_hand(made, x[:4])]
        expected = np.mean(logs, axis=0)[:HALF]
        expected -= np.log(2 * np.mean(np.exp(2 * expected))) / 2
        found = np.log(_by_hand(network, x)[:, :HALF])
        np.testing.assert_allclose(found, [expected] * len(x), atol=2e-3)

    @pytest.mark.parametrize("name", ["isometry", "exponential 1.3"])
    def test_looks_linear(self, name):
        _, network, x = _network(name)
        a, b = x[:8], x[8:16]
        found = network(2 * a - 3 * b)
        np.testing.assert_allclose(found, 2 * network(a) - 3 * network(b), atol=2e-4)

    def test_twin_has_the_spectrum_of_the_network_as_it_was_made(self):
        made, network, x = _network(starts.TWIN)
        s = [
            np.linalg.svd(np.asarray(_jacobian(made, example), np.float64), compute_uv=False)
            for example in x[: starts.EXAMPLES]
        ]
        # What rectifiers cut off is as small as the least that is left.
        logs = [np.log(np.maximum(own, own[own > 1e-6].min())) for own in s]
        expected = np.mean(logs, axis=0)[:HALF]
        found = np.log(np.linalg.svd(_jacobian(network, x[0]), compute_uv=False)[:HALF])
        np.testing.assert_allclose(found - found[0], expected - expected[0], atol=2e-3)
        a, b = x[:8], x[8:16]
        np.testing.assert_allclose(network(a - 2 * b), network(a) - 2 * network(b), atol=2e-4)

    @pytest.mark.parametrize("name", NAMES)
    def test_logits_have_mean_square_one(self, name):
        _, network, x = _network(name)
        assert float(jnp.mean(jnp.square(network(x)))) == pytest.approx(1, rel=1e-4)

    def test_own_is_the_network_as_it_was_made_but_for_the_head(self):
        made, network, x = _network(starts.OWN)
        ratio = np.asarray(network(x) / made(x))
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_ranks_are_judged_by_how_they_order_losses():
    """Decay grows with the loss here, the entropy's rank falls, the participation ratio is not."""
    names = (starts.ISOMETRY, "power 2", "exponential 2")
    values = {
        "loss": (0.1, 0.2, 0.3),
        "jacobian/spectral_decay": (1.0, 2.0, 3.0),
        "jacobian/effective_rank": (9.0, 5.0, 2.0),
        "jacobian/participation_ratio": (3.0, 1.0, 2.0),
    }
    rows = [
        dict(quantity=quantity, start=start, spread=0.0, seed=seed, step=step, layer=layer,
             rate=1e-3, chance=1.0, value=value if layer else -value)
        for quantity, each in values.items()
        for start, value in zip(names, each, strict=True)
        for seed in (0, 1)
        for step in (0, 5)
        for layer in ((0,) if quantity == "loss" else (1, 2))
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[table.quantity == "loss", "value"] *= -1
    assert _causal.orders(table, "jacobian/spectral_decay").tolist() == [1.0, 1.0]
    assert _causal.orders(table, "jacobian/effective_rank").tolist() == [1.0, 1.0]
    assert _causal.orders(table, "jacobian/participation_ratio").tolist() == [0.5, 0.5]


@pytest.mark.usefixtures("standard_promotion")
class TestTrials:
    def test_batch_norms_have_the_statistics_of_what_is_measured(self):
        """The loss is that of a batch of all measured examples, as in training."""
        spec = networks.Spec(
            "original", 2, 4, ("relu",), kind="conv", norm="batch", marks="ends", steps=8,
            batch_size=256,
        )  # fmt: skip
        data = training.load("digits")
        trials = networks.Trials(spec, data, lambda v: analysis.measure_view(v, ("loss",)))
        (trial,) = trials.run("relu", [0], [networks.Arm(0.01)])
        network = trials.network(jnp.int32(0), jax.random.key(0))
        x, y = jnp.asarray(data.train_x[:256]), jnp.asarray(data.train_y[:256])
        whole = training.cross_entropy(network(x), y)
        assert float(trial.observed["loss"][0, 0]) == pytest.approx(float(whole), rel=0.02)

    def test_arms_have_the_starts_that_they_name(self):
        """With logits of mean square one on the measured examples, and bases of their seed's."""

        def observe(view):
            chain = analysis.Chain((view.body,))
            (weights,) = analysis.weight_matrices(chain)["blocks"].values()
            return {"weights": weights, "size": jnp.mean(jnp.square(view.outputs))}

        names = ("isometry", "spike 1.1")
        spec = networks.Spec("plain", 2, 8, ("relu",), examples=20, starts=names)
        trials = networks.Trials(spec, training.load("digits"), observe)
        arms = [networks.Arm(start=start) for start in (1, 0)]
        found = [trial.observed for trial in trials.run("relu", [0, 1], arms)]
        for name, own in zip(reversed(names), found, strict=True):
            np.testing.assert_allclose(own["size"], 1, rtol=1e-4)
            s = np.linalg.svd(np.asarray(own["weights"]), compute_uv=False)[:, 0, :, :4]
            d = np.exp(starts.spectrum(name, 4) / 2)
            np.testing.assert_allclose(s, [[d, 2 * d]] * 2, rtol=1e-4)
            assert np.max(np.abs(own["weights"][0] - own["weights"][1])) > 0.1

    def test_spread_is_the_mean_logarithm_of_the_participation_of_centred_features(
        self, monkeypatch
    ):
        """Of a batch, here of all examples, and over blocks; it is subtracted from the loss."""

        def fit(loss, leaves, x, y, **_):
            return types.SimpleNamespace(measured={}, losses=loss(leaves, x, y)[None])

        monkeypatch.setattr(training, "fit", fit)
        spec = networks.Spec("plain", 3, 8, ("relu",), steps=1, spread=0.5)
        trials = networks.Trials(spec, training.load("digits"))
        (trial,) = trials.run("relu", [0])
        network = trials.network(jnp.int32(0), jax.random.key(0))
        x, y = jnp.asarray(trials.x), jnp.asarray(trials.y)
        ranks = []
        for h in np.asarray(analysis.features(analysis.as_chain(network), x)["blocks"], np.float64):
            squares = np.linalg.eigvalsh(np.cov(h.T))
            ranks.append(np.sum(squares) ** 2 / np.sum(squares**2) / 8)
        expected = training.cross_entropy(network(x), y) - 0.5 * np.mean(np.log(ranks))
        assert float(trial.losses[0, 0]) == pytest.approx(float(expected), rel=1e-4)

    def test_spread_raises_the_rank_of_features(self):
        data = training.load("digits")
        names = ("feature_participation",)
        found = []
        for spread in (0.0, 3.0):
            spec = networks.Spec("plain", 4, 16, ("relu",), marks="ends", steps=60, spread=spread)
            trials = networks.Trials(spec, data, lambda v: analysis.measure_view(v, names))
            (trial,) = trials.run("relu", [0, 1], [networks.Arm(3e-3)])
            found.append(trial.observed["feature_participation"][:, -1, -1])
        assert np.all(found[1] > 1.3 * found[0])
