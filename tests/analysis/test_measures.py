"""The registry of measures: each entry does what it says, and each is found by its name."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxact
from jaxact import analysis

DEPTH, N = 3, 5


def relu(x):
    return jnp.maximum(x, 0)


@pytest.fixture(scope="module")
def view():
    keys = jax.random.split(jax.random.key(0), 4)
    w = jax.random.normal(keys[0], (DEPTH, N, N)) / 2
    chain = analysis.as_chain(
        [
            ("stem", lambda p, x: x @ p, jax.random.normal(keys[1], (4, N)), None),
            ("blocks", lambda p, x: x + relu(x @ p), w, DEPTH),
            ("head", lambda p, x: x @ p, jax.random.normal(keys[2], (N, 3)), None),
        ]
    )
    x, y = jax.random.normal(keys[3], (20, 4)), jnp.arange(20) % 3

    def loss(outputs, y):
        return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(len(y)), y])

    def slope(h):
        return (h > 0).astype(h.dtype)

    return analysis.view(chain, x, y, loss=loss, slope=slope)


class TestView:
    def test_it_holds_what_the_network_shows(self, view):
        h = analysis.features(view.chain, view.x)
        np.testing.assert_array_equal(view.hidden[0], h["stem"][0])
        np.testing.assert_array_equal(view.hidden[1:], h["blocks"])
        np.testing.assert_allclose(view.outputs, analysis.run(view.chain, view.x), rtol=1e-6)

    def test_blocks_need_an_input(self, view):
        alone = analysis.Chain(view.chain.segments[1:])
        with pytest.raises(ValueError, match="a segment before 'blocks'; it is the first"):
            analysis.view(alone, view.hidden[0], view.y, loss=view.loss)
        with pytest.raises(ValueError, match=r"the segments \(stem, blocks, head\); got 'trunk'"):
            analysis.until(view.chain, "trunk")


ROOT = pathlib.Path(jaxact.__file__).parents[1]
FEATURES = [measure.name for measure in analysis.MEASURES.values() if measure.takes == "features"]


class TestRegistry:
    @pytest.mark.parametrize("name", FEATURES)
    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
    def test_measures_of_features_have_no_scale(self, name, dtype):
        """Squares of large features overflow, of small ones vanish: neither may show."""
        of = analysis.MEASURES[name].function
        assert of is not None
        h = jax.random.normal(jax.random.key(1), (2, 6, 4)) + 0.3
        h = h.astype(dtype)
        expected = of(h)
        for scale in (2.0**-13, 2.0**13) if dtype == jnp.float16 else (2.0**-100, 2.0**100):
            np.testing.assert_allclose(of(h * dtype(scale)), expected, rtol=2e-2, err_msg=name)

    @pytest.mark.parametrize("name", FEATURES)
    def test_measures_of_features_at_the_edge(self, name):
        of = analysis.MEASURES[name].function
        assert of is not None
        h = jax.random.normal(jax.random.key(1), (2, 6, 4))
        found = of(h.at[1, 2, 1].set(jnp.nan))
        assert np.isfinite(found[0]), name
        assert np.isnan(found[1]), name
        assert np.isfinite(of(h * 0)).all(), name
        assert np.isfinite(of(h[..., :1])).all(), name

    @pytest.mark.skipif(not (ROOT / "docs").exists(), reason="not a checkout")
    def test_the_page_lists_them(self):
        script = ROOT / "scripts" / "measures.py"
        found = subprocess.run([sys.executable, script, "--check"], check=False)
        assert found.returncode == 0, "python scripts/measures.py writes docs/analysis.md anew"

    def test_counts_of_what_is_not_finite(self):
        s = jnp.array([[jnp.nan, 1.0, 0.0], [jnp.inf, 1.0, 0.0], [2.0, 1.0, 0.0]])
        found = analysis.spectrum_measures(s, ["numerical_rank"], shape=(3, 3))["numerical_rank"]
        assert found.tolist() == [-1, -1, 2]

    def test_saturated_units_need_the_limits(self, view):
        """Features alone do not tell them: no number is given that is always zero."""
        with pytest.raises(ValueError, match="measures must be among"):
            analysis.measure_view(view, ["saturated"])

    def test_no_class_is_right_where_an_output_is_nan(self, view):
        broken = view._replace(outputs=view.outputs.at[0].set(jnp.nan), y=view.y * 0)
        right = int(jnp.sum(jnp.argmax(view.outputs[1:], axis=-1) == 0))
        found = analysis.measure_view(broken, ["accuracy"])["accuracy"]
        assert float(found) == pytest.approx(right / 20)

    def test_what_is_of_vectors_says_so(self, view):
        wide = view._replace(hidden=view.hidden[..., None, :])
        for name in ("flat_share", "jacobian_participation"):
            with pytest.raises(ValueError, match=f"{name} is of vectors; .* put out"):
                analysis.measure_view(wide, [name])

    def test_two_streams_are_refused(self, view):
        segments = list(view.chain.segments)
        stem = segments[0]._replace(apply=lambda p, x: (x @ p, x @ p))
        body = segments[1]._replace(apply=lambda p, x: (x[1], x[0] @ p))
        with pytest.raises(ValueError, match="one array from block to block; 'blocks' passes"):
            analysis.view(analysis.Chain((stem, body)), view.x, view.y, loss=view.loss)

    def test_entries_say_what_they_are(self):
        for name, measure in analysis.MEASURES.items():
            assert measure.name == name
            assert len(measure.definition) > 5
            assert all((measure.unit, measure.floor, measure.greatest))

    @pytest.mark.parametrize("name", analysis.names_of_view())
    def test_a_measure_of_a_network_lies_within_what_its_entry_says(self, view, name):
        found = analysis.measure_view(view, [name])[name]
        assert found.shape in ((), (DEPTH,), (DEPTH // 2,))
        assert np.all(np.isfinite(found))
        measure = analysis.MEASURES[name]
        greatest = 10 / 19 if name == "flip_share" else measure.greatest
        if greatest != "no bound":
            assert np.all(found <= float(greatest) + 1e-6)
            assert np.all(found >= float(measure.floor) - 1e-6)

    @pytest.mark.parametrize("of", ["weight", "gradient", "features", "jacobian"])
    def test_spectra_of_each_object(self, view, of):
        names = [f"{of}/{measure.name}" for measure in analysis.taking("spectrum")]
        found = analysis.measure_view(view, names)
        assert {values.shape for values in found.values()} == {(DEPTH,)}
        matrices = {
            "weight": np.swapaxes(view.body.params, 1, 2),
            "features": view.hidden[1:],
            "jacobian": jax.vmap(
                lambda n: jax.jacobian(lambda x: _hidden(view, x)[n])(view.x[0]),
            )(jnp.arange(DEPTH)),
        }
        if of in matrices:
            s = np.linalg.svd(np.asarray(matrices[of]), compute_uv=False)
            np.testing.assert_allclose(
                found[f"{of}/stable_rank"], (s**2).sum(1) / s[:, 0] ** 2, rtol=1e-4
            )

    def test_unknown_names_and_objects(self, view):
        for name in ("rank", "effective_rank", "network/effective_rank", "features/loss"):
            with pytest.raises(ValueError, match=rf"measures must be among .* got '{name}'"):
                analysis.measure_view(view, [name])

    def test_a_name_is_registered_once_and_for_something(self):
        with pytest.raises(ValueError, match="there is a measure 'loss'"):
            analysis.register(analysis.MEASURES["loss"])
        with pytest.raises(ValueError, match=r"object must be among weight, .* got 'brain'"):
            analysis.Measure("size", "brain", "Its size.", len, "view")
        with pytest.raises(ValueError, match=r"takes must be among spectrum, .* got 'nothing'"):
            analysis.Measure("size", "network", "Its size.", len, "nothing")

    def test_one_more_is_in_every_spectrum(self):
        @analysis.measured("", "spectrum", unit="directions")
        def count(s, log, tolerance):
            """How many singular values there are."""
            return jnp.full(s.shape[:-1], s.shape[-1])

        try:
            found = analysis.measure_matrices([np.eye(3), np.ones((3, 3))])["count"]
            assert found.value.tolist() == [3, 3]
            assert found.definition == "How many singular values there are."
        finally:
            del analysis.MEASURES["count"]
        assert "count" not in analysis.measure_matrices([np.eye(3)])


def _hidden(view, x):
    h = x[None] @ view.chain.segments[0].params
    outputs = []
    for w in view.body.params:
        h = h + relu(h @ w)
        outputs.append(h[0])
    return jnp.stack(outputs)


class TestPlainAndStreamed:
    """What is measured of features at hand, and of a stream over them."""

    def test_unit_overlap(self):
        h = np.random.default_rng(0).normal(size=(3, 50, 6)).astype(np.float32)
        h[1, :, 2] = -1e-3 * h[1, :, 4] + 5
        h[1, :, 0] = 7
        h[2, 3, 1] = np.nan
        found = np.asarray(analysis.unit_overlap(jnp.asarray(h)))
        own = np.eye(6, dtype=bool)
        expected = np.where(own, 0, np.abs(np.corrcoef(h[0].T))).max(0).mean()
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)
        moving = np.where(own[1:, 1:], 0, np.abs(np.corrcoef(h[1, :, 1:].T))).max(0)
        np.testing.assert_allclose(found[1], (1 + moving.sum()) / 6, rtol=1e-4)
        assert moving[[1, 3]] == pytest.approx(1, abs=1e-4)
        assert np.isnan(found[2])
        np.testing.assert_array_equal(analysis.unit_overlap(jnp.zeros((1, 4, 3))), 1)

    @pytest.mark.parametrize("size", [4, 7, 8])
    def test_spectral_decay(self, size):
        s = np.exp(-np.arange(size, dtype=np.float32))[::-1] * 3
        decay, none = analysis.MEASURES["spectral_decay"].function, jnp.zeros(())
        quarter = {4: 0, 7: 1, 8: 1}[size]
        for values, log in ((s, False), (np.log(s), True)):
            np.testing.assert_allclose(decay(jnp.asarray(values), log, none), quarter, atol=1e-6)
            assert np.isnan(decay(jnp.asarray(values).at[0].set(jnp.nan), log, none))
        assert decay(jnp.zeros(size), False, none) == np.inf
        assert decay(jnp.zeros(size).at[0].set(1), False, none) == (0 if quarter == 0 else np.inf)

    @pytest.mark.parametrize("form", ["root", "scatter"])
    def test_mean_shift(self, view, form):
        h = view.hidden[1:]
        state = analysis.stream(analysis.as_chain([lambda x: x]), [h[0, :7], h[0, 7:]], form=form)[
            "layer_1"
        ]
        found = analysis.streamed_mean_shift(state.moments)
        np.testing.assert_allclose(found, analysis.mean_shift(h[:1]), rtol=1e-4)
        if form == "root":
            huge = jax.tree.map(lambda leaf: 1e20 * leaf, state.moments)
            np.testing.assert_allclose(
                analysis.streamed_mean_shift(huge._replace(count=state.moments.count)),
                found,
                rtol=1e-5,
            )
        np.testing.assert_allclose(analysis.mean_shift(jnp.ones((1, 3, 2, 2))), 1)
        np.testing.assert_array_equal(analysis.mean_shift(jnp.zeros((1, 3, 2))), 0)

    def test_unit_states(self, view):
        h = relu(view.hidden[1:].at[0, :, 1].set(-1.0).at[1, :, 2].set(3.0))
        found = analysis.unit_states(h, limits=(0.0, 3.0))
        state = analysis.start_units(N)
        for part in (h[0, :7], h[0, 7:]):
            state = analysis.update_units(state, part, limits=(0.0, 3.0))
        streamed = analysis.range_states(state)
        for name in streamed._fields:
            np.testing.assert_array_equal(getattr(found, name)[0], getattr(streamed, name))
        assert bool(found.dead[0, 1])
        assert bool(found.saturated[0, 1])  # at the lower limit
        assert bool(found.saturated[1, 2])
        assert not bool(found.dead[1, 2])

    def test_constant_units_and_mean_outputs(self):
        h = jnp.stack([jnp.arange(4.0), jnp.full(4, 2.0)], axis=1)[None]
        np.testing.assert_array_equal(analysis.constant_units(h), [0.5])
        np.testing.assert_allclose(analysis.output_mean(h), 1.75 / np.sqrt((14 + 16) / 8))


@pytest.mark.parametrize(
    "measure", [analysis.mean_shift, analysis.output_mean, analysis.constant_units,
                analysis.flip_share, analysis.participation]
)  # fmt: skip
def test_nan_is_never_a_plausible_number(measure):
    h = jax.random.normal(jax.random.key(0), (2, 5, 4)).at[1, 2, 3].set(jnp.nan)
    assert np.isnan(measure(h)).tolist() == [False, True]
