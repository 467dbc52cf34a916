"""What is measured on a network, against direct computations by other means."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxact import analysis, spectral
from jaxact.models import _norms

N = 6
DEPTH = 4


def layer(w, x):
    return x + jnp.tanh(x @ w)


def stem(w, x):
    return jnp.maximum(x @ w, 0)


@pytest.fixture
def weights():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (3, N)), jax.random.normal(keys[1], (DEPTH, N, N)) / 2


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(7), (5, 3))


@pytest.fixture
def chain(weights):
    return analysis.as_chain(
        [("stem", stem, weights[0], None), ("blocks", layer, weights[1], DEPTH)]
    )


def unrolled(weights, x):
    """The outputs of stem and blocks, by a plain loop."""
    outputs = [stem(weights[0], x)]
    for w in weights[1]:
        outputs.append(layer(w, outputs[-1]))
    return outputs


class TestChain:
    def test_run_and_features(self, chain, weights, x):
        expected = unrolled(weights, x)
        chex.assert_trees_all_close(analysis.run(chain, x), expected[-1], rtol=1e-5)
        features = analysis.features(chain, x)
        chex.assert_trees_all_close(features["stem"], expected[0][None], rtol=1e-5)
        chex.assert_trees_all_close(features["blocks"], jnp.stack(expected[1:]), rtol=1e-5)

    def test_functions_of_any_library(self, weights, x):
        functions = [lambda h: stem(weights[0], h)]
        functions += [lambda h, w=w: layer(w, h) for w in weights[1]]
        chain = analysis.as_chain(functions)
        chex.assert_trees_all_close(analysis.run(chain, x), unrolled(weights, x)[-1], rtol=1e-5)
        assert [s.name for s in chain.segments] == [f"layer_{i}" for i in range(1, DEPTH + 2)]

    def test_object_with_segments_and_single_function(self, chain, x):
        class Network:
            def segments(self):
                return tuple(tuple(s) for s in chain.segments)

        assert analysis.as_chain(Network()) == chain
        assert analysis.as_chain(chain) is chain
        chex.assert_trees_all_equal(analysis.run(analysis.as_chain(jnp.tanh), x), jnp.tanh(x))

    @pytest.mark.parametrize("bad", [3, "relu", [3]])
    def test_not_a_network(self, bad):
        with pytest.raises(TypeError, match="must be"):
            analysis.as_chain(bad)

    def test_empty(self):
        with pytest.raises(ValueError, match="at least one layer"):
            analysis.as_chain([])

    def test_wrong_depth(self):
        with pytest.raises(ValueError, match=r"leading axis 3; .*shape \(4, 2\)"):
            analysis.as_chain([("blocks", layer, {"w": jnp.zeros((4, 2))}, 3)])

    def test_repeated_name(self, chain, x):
        twice = analysis.Chain(chain.segments + chain.segments[1:])
        with pytest.raises(ValueError, match="'blocks' occurs twice"):
            analysis.run(twice, x)

    def test_program_does_not_grow_with_depth(self, x):
        def length(depth):
            w = jnp.zeros((depth, 3, 3))
            chain = analysis.as_chain([("blocks", layer, w, depth)])
            jaxpr = jax.make_jaxpr(lambda x: analysis.input_jacobians(chain, x))(x[0])
            return len(str(jaxpr).splitlines())

        assert length(4) == length(400)


class TestJacobians:
    def test_against_dense(self, chain, weights, x):
        products = analysis.input_jacobians(chain, x[0])
        logs = jax.vmap(spectral.graded_spectrum)(products["blocks"])
        for number in range(1, DEPTH + 1):
            dense = jax.jacobian(lambda v, n=number: unrolled(weights, v[None])[n][0])(x[0])
            s = np.linalg.svd(np.asarray(dense, np.float64), compute_uv=False)
            np.testing.assert_allclose(np.exp(logs[number - 1]), s, rtol=2e-4)

    def test_start_changes_only_rounding(self, chain, x):
        start = jax.random.orthogonal(jax.random.key(3), 3)
        a, b = (
            jax.vmap(spectral.graded_spectrum)(
                analysis.input_jacobians(chain, x[0], start=s)["blocks"]
            )
            for s in (None, start)
        )
        chex.assert_trees_all_close(a, b, atol=1e-4)

    def test_start_must_be_square_of_the_inputs(self, chain, x):
        with pytest.raises(ValueError, match=r"start must have shape \(3, 3\)"):
            analysis.input_jacobians(chain, x[0], start=jnp.eye(4))

    def test_images(self):
        kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 2)) / 4

        def conv(k, h):
            return jnp.tanh(
                lax.conv_general_dilated(
                    h, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )

        image = jax.random.normal(jax.random.key(1), (3, 3, 2))
        chain = analysis.as_chain([("convs", conv, jnp.stack([kernel, kernel]), 2)])
        logs = jax.vmap(spectral.graded_spectrum)(analysis.input_jacobians(chain, image)["convs"])
        dense = jax.jacobian(lambda v: conv(kernel, conv(kernel, v[None]))[0])(image)
        s = np.linalg.svd(np.asarray(dense).reshape(18, 18), compute_uv=False)
        np.testing.assert_allclose(np.exp(logs[1]), s, rtol=1e-3, atol=1e-6)

    def test_vmaps_over_examples_and_jits(self, chain, x):
        def logs(v):
            return jax.vmap(spectral.graded_spectrum)(analysis.input_jacobians(chain, v)["blocks"])

        batched = jax.jit(jax.vmap(logs))(x[:2])
        chex.assert_trees_all_close(batched[1], logs(x[1]), atol=1e-4)


class TestOutputJacobians:
    def test_against_dense(self, chain, weights, x):
        found = analysis.output_jacobians(chain, x[0])
        assert found["stem"].log_scale.shape == (1, 3)
        hidden = unrolled(weights, x[:1])
        for number in range(DEPTH):

            def rest(h, first=number):
                for w in weights[1][first:]:
                    h = layer(w, h)
                return h[0]

            dense = jax.jacobian(rest)(hidden[number])[:, 0]
            product = jax.tree.map(lambda leaf, n=number: leaf[n], found["blocks"])
            logs = spectral.graded_spectrum(product)
            s = np.linalg.svd(np.asarray(dense, np.float64), compute_uv=False)
            np.testing.assert_allclose(np.exp(logs), s, rtol=3e-4)
        logs = spectral.graded_spectrum(jax.tree.map(lambda leaf: leaf[0], found["stem"]))
        forward = analysis.input_jacobians(chain, x[0])["blocks"]
        last = spectral.graded_spectrum(jax.tree.map(lambda leaf: leaf[-1], forward))
        chex.assert_trees_all_close(logs, last, atol=1e-4)

    def test_start_must_be_square_of_the_outputs(self, chain, x):
        with pytest.raises(ValueError, match=r"start must have shape \(6, 6\)"):
            analysis.output_jacobians(chain, x[0], start=jnp.eye(3))


@pytest.mark.parametrize("jacobians", [analysis.input_jacobians, analysis.output_jacobians])
def test_jacobians_where_values_overflow_are_nan(jacobians):
    norm = _norms.LayerNorm(3)
    chain = analysis.as_chain([lambda h: norm(h)])

    @jax.jit
    def logs(x):
        return spectral.graded_spectrum(
            jax.tree.map(lambda a: a[0], jacobians(chain, x)["layer_1"])
        )

    for scale in (np.nan, np.inf, 1e20):
        assert np.all(np.isnan(logs(scale * jnp.arange(1.0, 4))))
    assert not np.any(np.isnan(logs(jnp.arange(1.0, 4))))


class TestPerExample:
    def test_rows_are_gradients_of_single_examples(self, chain, x):
        targets = jnp.arange(5.0)

        def loss(y, t):
            return jnp.sum(jnp.square(y - t[:, None]))

        rows = analysis.per_example_gradients(chain, loss, x, targets)
        assert rows["stem"][""].shape == (1, 5, 3 * N)
        assert rows["blocks"][""].shape == (DEPTH, 5, N * N)
        _, single = analysis.gradients(chain, lambda y: loss(y, targets[2:3]), x[2:3])
        expected = single.segments[1].params.reshape(DEPTH, -1)
        chex.assert_trees_all_close(rows["blocks"][""][:, 2], expected, rtol=1e-4, atol=1e-5)
        _, whole = analysis.gradients(chain, lambda y: loss(y, targets), x)
        total = jnp.sum(rows["stem"][""][0], axis=0)
        chex.assert_trees_all_close(total, whole.segments[0].params.ravel(), rtol=1e-4)

    def test_tangent_kernel(self, chain, weights, x):
        found = analysis.tangent_kernel(chain, x)
        assert found["blocks"].shape == (DEPTH, 5 * N, 5 * N)
        j = jax.jacobian(lambda w: unrolled((weights[0], w), x)[-1].reshape(-1))(weights[1])
        flat = j.reshape(5 * N, DEPTH, N * N)
        expected = jnp.einsum("ilp,jlp->lij", flat, flat)
        chex.assert_trees_all_close(found["blocks"], expected, rtol=1e-3, atol=1e-4)

    def test_layers_without_parameters(self, x):
        w = jnp.ones((3, 2))
        chain = analysis.as_chain([("dense", lambda w, x: x @ w, w, None), jnp.tanh])
        assert set(analysis.tangent_kernel(chain, x)) == {"dense"}


class TestWeightsAndGradients:
    def test_gradients_are_jax_grads(self, chain, weights, x):
        def loss(y):
            return jnp.mean(jnp.square(y))

        value, gradient = analysis.gradients(chain, loss, x)
        expected, grads = jax.value_and_grad(lambda w: loss(unrolled(w, x)[-1]))(weights)
        chex.assert_trees_all_close(value, expected, rtol=1e-5)
        found = analysis.weight_matrices(gradient)
        chex.assert_trees_all_close(found["stem"][""][0], grads[0].T, rtol=1e-4)
        chex.assert_trees_all_close(found["blocks"][""], jnp.swapaxes(grads[1], 1, 2), rtol=1e-4)

    def test_convolution_is_unfolded(self):
        kernel = jax.random.normal(jax.random.key(0), (3, 2, 4, 5))
        x = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
        layout = ("NHWC", "HWIO", "NHWC")
        chain = analysis.as_chain([("conv", lambda p, h: h, {"kernel": kernel}, None)])
        matrix = analysis.weight_matrices(chain)["conv"]["kernel"][0]
        patches = lax.conv_general_dilated_patches(
            x, (3, 2), (1, 1), "VALID", dimension_numbers=layout
        )
        # The patches list the channel first; the unfolded kernel lists it last.
        patches = jnp.swapaxes(patches.reshape(*patches.shape[:3], 4, 6), -1, -2)
        expected = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        found = patches.reshape(*patches.shape[:3], -1) @ matrix.T
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_only_kernels_are_weights(self):
        params = {
            "scale": jnp.ones((2, 3)),
            "kernel": jnp.ones((2, 3, 3)),
            "bias": jnp.ones((2, 3)),
        }
        chain = analysis.as_chain([("blocks", layer, params, 2)])
        assert set(analysis.weight_matrices(chain)["blocks"]) == {"kernel"}


class TestFeatures:
    def test_positions_are_samples(self):
        h = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
        matrix = analysis.feature_matrix(h)
        assert matrix.shape == (2, 60, 6)
        chex.assert_trees_all_equal(matrix[1, 0], h[1, 0, 0, 0])
        centred = analysis.feature_matrix(h, centred=True)
        chex.assert_trees_all_close(jnp.mean(centred, 1), jnp.zeros((2, 6)), atol=1e-6)

    def test_cosine_similarity(self):
        h = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        for number in range(2):
            unit = h[number] / np.linalg.norm(h[number], axis=1, keepdims=True)
            expected = np.mean([unit[i] @ unit[j] for i, j in pairs])
            found = analysis.cosine_similarity(jnp.asarray(h))[number]
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_cosine_similarity_of_alike_and_of_nothing(self):
        alike = jnp.ones((1, 5, 3)) * jnp.arange(1.0, 6.0)[None, :, None]
        np.testing.assert_allclose(analysis.cosine_similarity(alike), 1, rtol=1e-6)
        chex.assert_trees_all_equal(analysis.cosine_similarity(jnp.zeros((1, 5, 3))), jnp.zeros(1))
        with pytest.raises(ValueError, match="at least two examples; got 1"):
            analysis.cosine_similarity(jnp.ones((1, 1, 3)))


class TestRanks:
    def test_of_known_spectra(self):
        found = analysis.matrix_measures(jnp.diag(jnp.array([2.0, 1.0, 1.0, 0.0])))
        p = np.array([0.5, 0.25, 0.25])
        assert float(found["stable_rank"]) == pytest.approx(6 / 4)
        assert float(found["effective_rank"]) == pytest.approx(np.exp(-np.sum(p * np.log(p))))
        assert int(found["numerical_rank"]) == 3
        assert float(found["participation_ratio"]) == pytest.approx(36 / 18)

    def test_zero_matrix(self):
        found = analysis.matrix_measures(jnp.zeros((3, 4)))
        assert {name: float(value) for name, value in found.items()} == dict.fromkeys(
            analysis.RANKS, 0.0
        )


class TestTable:
    def test_rows(self):
        values = np.arange(6).reshape(2, 3)
        frame = analysis.tidy(values, {"seed": [4, 5], "layer": [1, 2, 3]}, object="weight")
        assert list(frame.columns) == ["object", "seed", "layer", "value"]
        for row in frame.itertuples():
            assert row.value == values[row.seed - 4, row.layer - 1]

    def test_axes_must_fit(self):
        with pytest.raises(ValueError, match=r"shape \(2,\); got \{seed: 3\}"):
            analysis.tidy([1.0, 2.0], {"seed": [1, 2, 3]})
