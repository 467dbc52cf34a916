"""Streamed features against all of them at once, in float64."""

import dataclasses
import os
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxact import analysis

FORMS = ("root", "scatter")


@pytest.fixture(scope="module")
def samples():
    """Ill-conditioned samples far from zero, 12 units."""
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.normal(size=(12, 12)))[0] * np.geomspace(1, 1e-4, 12)
    return (rng.normal(size=(1000, 12)) @ mix.T + 30 * rng.normal(size=12)).astype(np.float32)


def streamed(samples, form, sizes=(300, 1, 299, 400)):
    state = analysis.start_moments(samples.shape[1], form=form)
    update = jax.jit(analysis.update_moments, donate_argnums=0)
    for x in np.split(samples, np.cumsum(sizes)[:-1]):
        state = update(state, x)
    return state


class TestMoments:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("centred", [True, False])
    def test_covariance(self, samples, form, centred):
        x = samples.astype(np.float64)
        x = x - x.mean(0) if centred else x
        expected = x.T @ x / len(x)
        found = analysis.covariance(streamed(samples, form), centred=centred)
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("centred", [True, False])
    def test_spectrum_is_right_to_its_floor(self, samples, form, centred):
        x = samples.astype(np.float64)
        x = x - x.mean(0) if centred else x
        s = np.linalg.svd(x, compute_uv=False)
        state = streamed(samples, form)
        found = analysis.moments_spectrum(state, centred=centred)
        np.testing.assert_allclose(found, s, atol=analysis.spectrum_floor(state) * s[0])

    def test_mean_far_from_zero(self, samples):
        expected = samples.astype(np.float64).mean(0)
        np.testing.assert_allclose(streamed(samples, "root").mean, expected, rtol=1e-7)

    def test_a_million_single_samples_do_not_wear_out(self):
        # A float32 sum of as many ones as this, one by one, would stop at 2^24.
        state = analysis.start_moments(2, form="scatter")
        x = jnp.array([[1.0, 2.0], [3.0, -2.0]])
        full = analysis.Scatter(
            jnp.float32(2.0**25),
            jnp.array([2.0, 0.0]),
            2.0**25 * jnp.eye(2),
            jax.tree.map(jnp.zeros_like, state.lost),
        )
        end, _ = jax.lax.scan(
            lambda s, _: (analysis.update_moments(s, x), None), full, None, length=1000
        )
        assert float(end.count) + float(end.lost[0]) == 2**25 + 2000
        expected = 2.0**25 * np.eye(2) + 2000 * np.array([[1.0, -2.0], [-2.0, 4.0]])
        found = np.asarray(end.scatter, np.float64) + np.asarray(end.lost[2])
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    @pytest.mark.parametrize("form", FORMS)
    def test_merge_and_masks(self, samples, form):
        whole = streamed(samples, form)
        parts = [streamed(part, form, (len(part),)) for part in np.split(samples, [123])]
        both = analysis.merge_moments(*parts)
        garbage = np.where(np.arange(1500) % 3 == 0, np.nan, 0)[:, None].repeat(12, 1)
        mask = np.arange(1500) % 3 != 0
        garbage[mask] = samples
        masked = analysis.update_moments(
            analysis.start_moments(12, form=form),
            jnp.asarray(garbage, jnp.float32),
            mask=jnp.asarray(mask),
        )
        for state in (both, masked):
            assert float(state.count) == 1000
            chex.assert_trees_all_close(
                analysis.covariance(state), analysis.covariance(whole), atol=1e-6
            )

    @pytest.mark.parametrize("form", FORMS)
    def test_over_devices(self, samples, form):
        if jax.device_count() < 2:
            reduced = jax.vmap(
                lambda x: analysis.reduce_moments(
                    analysis.update_moments(analysis.start_moments(12, form=form), x), "device"
                ),
                axis_name="device",
            )(samples.reshape(4, 250, 12))
            reduced = jax.tree.map(lambda leaf: leaf[0], reduced)
        else:
            mesh = jax.make_mesh((jax.device_count(),), ("device",))
            reduced = jax.shard_map(
                lambda x: analysis.reduce_moments(
                    analysis.update_moments(analysis.start_moments(12, form=form), x), "device"
                ),
                mesh=mesh,
                in_specs=PartitionSpec("device"),
                out_specs=PartitionSpec(),
                check_vma=False,
            )(samples)
        chex.assert_trees_all_close(
            analysis.covariance(reduced), analysis.covariance(streamed(samples, form)), atol=1e-6
        )

    def test_a_measure_of_streamed_features_has_a_gradient(self):
        x = jax.random.normal(jax.random.key(0), (20, 4))

        def shrunk(scale, streamed):
            h = x * jnp.stack([jnp.ones(()), scale, jnp.ones(()), jnp.ones(())])[None]
            if streamed:
                state = analysis.start_moments(4, form="scatter")
                for part in jnp.split(h, 2):
                    state = analysis.update_moments(state, part)
                c = analysis.covariance(state)
            else:
                c = jnp.cov(h.T, bias=True)
            return jnp.square(jnp.trace(c)) / jnp.sum(jnp.square(c))

        found = jax.grad(shrunk)(jnp.float32(0.5), True)
        assert float(found) == pytest.approx(
            float(jax.grad(shrunk)(jnp.float32(0.5), False)), rel=1e-4
        )

    def test_arguments(self):
        with pytest.raises(ValueError, match="units must be at least 1; got 0"):
            analysis.start_moments(0)
        with pytest.raises(ValueError, match="form must be one of root, scatter; got 'gram'"):
            analysis.start_moments(3, form="gram")
        with pytest.raises(ValueError, match="at least one sample of 3 units"):
            analysis.update_moments(analysis.start_moments(3), jnp.zeros((0, 3)))
        with pytest.raises(TypeError, match="one form; got Root and Scatter"):
            analysis.merge_moments(
                analysis.start_moments(3), analysis.start_moments(3, form="scatter")
            )


@pytest.fixture(scope="module")
def network():
    """A rectified layer with known unit states, then a stack of two tanh layers."""
    w = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    b = np.array([0, 0, 0, 0, -1e3, 1e3], np.float32)  # unit 4 is dead, unit 5 always on
    stack = np.random.default_rng(2).normal(size=(2, 6, 6)).astype(np.float32)
    stack[0, 5] = [1, 0, 0, 0, 0, 0]  # what is always on saturates unit 0, and no other
    stack[1, :, 3] = 0  # a unit that answers every input alike
    return analysis.as_chain(
        [
            ("first", lambda p, x: jnp.maximum(x @ p[0] + p[1][None], 0), (w, b), None),
            ("deep", lambda p, x: jnp.tanh(x @ p), jnp.asarray(stack), 2),
        ]
    )


@pytest.fixture(scope="module")
def data():
    return jax.random.normal(jax.random.key(3), (90, 4))


class TestStream:
    @pytest.mark.parametrize("form", FORMS)
    def test_equals_all_at_once(self, network, data, form):
        found = analysis.measure_stream(
            network, analysis.stream(network, jnp.split(data, [45]), form=form)
        )
        h = analysis.features(network, data)
        layers = [h["first"][0], *h["deep"]]
        assert found["stable_rank"].layers == ("first", "deep.1", "deep.2")
        for number, layer in enumerate(layers):
            x = np.asarray(layer, np.float64)
            s = np.linalg.svd(x - x.mean(0), compute_uv=False)
            p = s / s.sum()
            p = p[p > 0]
            assert float(found["stable_rank"].value[number]) == pytest.approx(
                (s**2).sum() / s[0] ** 2, rel=1e-4
            )
            assert float(found["effective_rank"].value[number]) == pytest.approx(
                np.exp(-(p * np.log(p)).sum()), rel=2e-3
            )
            shift = (x.mean(0) ** 2).sum() / (x**2).mean(0).sum()
            assert float(found["mean_shift"].value[number]) == pytest.approx(shift, rel=1e-4)
            assert float(found["cosine_similarity"].value[number]) == pytest.approx(
                float(analysis.cosine_similarity(layer[None])[0]), abs=1e-5
            )

    def test_unit_states(self, network, data):
        states = analysis.stream(network, jnp.split(data, 3), limits=(-1.0, 1.0))
        first = analysis.range_states(states["first"].units)
        assert first.dead[0].tolist() == [False] * 4 + [True, False]
        assert first.always_on[0].tolist() == [False] * 5 + [True]
        assert first.switching[0].tolist() == [True] * 4 + [False] * 2
        deep = analysis.range_states(states["deep"].units)
        assert deep.saturated[0].tolist() == [True] + [False] * 5
        assert deep.dead[1].tolist() == [False] * 3 + [True] + [False] * 2
        found = analysis.measure_stream(network, states)
        assert float(found["dead"].value[0]) == pytest.approx(1 / 6)
        assert float(found["unit_diversity"].value[0]) == pytest.approx(5 / 6)

    def test_example_with_nan_is_left_out_and_named(self, network, data):
        bad = data.at[7].set(jnp.nan)
        found = analysis.measure_stream(network, analysis.stream(network, [bad]))
        good = jnp.delete(data, 7, axis=0)
        clean = analysis.measure_stream(network, analysis.stream(network, [good]))
        assert found["non_finite"].value.tolist() == [1, 1, 1]
        assert found["samples"].value.tolist() == [89, 89, 89]
        chex.assert_trees_all_close(
            found["effective_rank"].value, clean["effective_rank"].value, rtol=1e-4
        )

    def test_layer_with_nan_is_named_and_the_rest_measured(self, network, data):
        broken = analysis.as_chain(
            [*network.segments, ("last", lambda p, x: x * p, jnp.float32(jnp.nan), None)]
        )
        frame = analysis.table(analysis.measure_stream(broken, analysis.stream(broken, [data])))
        assert not frame.value.isna().any()
        last = frame[frame.name == "last"].set_index("quantity").value
        assert last.to_dict() == {"non_finite": 90}
        assert len(frame[frame.name == "deep.2"]) > 10

    def test_merge_equals_whole(self, network, data):
        parts = [analysis.stream(network, [part]) for part in jnp.split(data, [33])]
        whole = analysis.measure_stream(network, analysis.stream(network, [data]))
        found = analysis.measure_stream(network, analysis.merge_streams(*parts))
        # The logarithms of values at the floor of rounding are rounding too.
        del whole["log_singular_value"]
        for quantity, m in whole.items():
            chex.assert_trees_all_close(found[quantity].value, m.value, rtol=2e-3, atol=1e-5)

    def test_positions_are_samples(self):
        chain = analysis.as_chain([lambda x: x])
        x = jax.random.normal(jax.random.key(0), (5, 3, 2, 4))
        states = analysis.stream(chain, [x])
        assert int(states["layer_1"].units.count[0, 0]) == 30
        assert states["layer_1"].similarity.direction.shape == (1, 24)

    def test_masked_examples_do_not_count(self, network, data):
        filled = jnp.concatenate([data, jnp.full((2, 4), jnp.nan), 100 * data[:3]])
        states = analysis.update_stream(
            network,
            analysis.start_stream(network, filled),
            filled,
            mask=jnp.arange(95) < 90,
        )
        expected = analysis.stream(network, [data])
        assert states["first"].non_finite.tolist() == [0]
        chex.assert_trees_all_close(states["deep"].units, expected["deep"].units, rtol=1e-5)
        for name in expected:
            chex.assert_trees_all_close(
                states[name].similarity, expected[name].similarity, rtol=1e-5, atol=1e-5
            )

    def test_modules_with_leaves_that_are_no_arrays(self, data):
        """As Equinox keeps an activation: a function among a module's leaves."""

        @jax.tree_util.register_dataclass
        @dataclasses.dataclass
        class Dense:
            weight: jax.Array
            activation: object

            def __call__(self, x):
                return self.activation(x @ self.weight)

        chain = analysis.as_chain([Dense(jnp.eye(4), jnp.tanh)])
        states = analysis.stream(chain, [data])
        assert float(states["layer_1"].units.largest.max()) == float(jnp.tanh(data).max())

    def test_too_little_data(self, network, data):
        with pytest.raises(ValueError, match="at least one batch; got none"):
            analysis.stream(network, [])
        with pytest.raises(ValueError, match="an empty one"):
            analysis.stream(network, [data[:0]])
        one = analysis.stream(network, [data[:1]])
        with pytest.raises(ValueError, match="at least two samples for centred=True"):
            analysis.measure_stream(network, one)
        found = analysis.measure_stream(network, one, centred=False)
        assert found["numerical_rank"].value.tolist() == [1, 1, 1]
        assert not analysis.table(found).value.isna().any()


SPREAD = """
import sys, chex, jax, jax.numpy as jnp
from jaxact import analysis

address, processes, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if processes > 1:
    jax.distributed.initialize(address, processes, number)
mesh = jax.make_mesh((2, jax.device_count() // 2), ("data", "model"))
keys = jax.random.split(jax.random.key(0))
chain = analysis.as_chain(
    [("first", lambda w, x: jnp.tanh(x @ w), jax.random.normal(keys[0], (3, 4, 4)), 3)]
)
x = jax.random.normal(keys[1], (101, 4)).at[17].set(jnp.nan)
# each process has its own share, in batches of its own count and sizes
parts = jnp.split(x, [61])[number:][:1] if processes > 1 else [x]
batches = jnp.split(parts[0], [7, 14] if number == 0 else [1])
for form in ("root", "scatter"):
    found = analysis.stream(chain, batches, form=form, limits=(-1, 1), mesh=mesh)
    expected = analysis.stream(chain, [x], form=form, limits=(-1, 1))
    assert found["first"].non_finite.tolist() == [1, 1, 1]
    chex.assert_trees_all_close(found["first"].units, expected["first"].units, rtol=1e-5)
    covariances = [jax.vmap(analysis.covariance)(s["first"].moments) for s in (found, expected)]
    chex.assert_trees_all_close(*covariances, rtol=1e-5, atol=1e-6)
    ranks = [analysis.measure_stream(chain, s) for s in (found, expected)]
    for quantity in ("effective_rank", "cosine_similarity", "samples"):
        chex.assert_trees_all_close(*(r[quantity].value for r in ranks), rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 2)])
def test_over_devices_and_processes(processes, devices):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SPREAD, address, str(processes), str(number)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors
