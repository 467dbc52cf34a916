"""Matrices from whatever holds them, their measurements, and the table of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import analysis, io


@pytest.fixture(scope="module")
def checkpoint():
    rng = np.random.default_rng(0)
    arrays = {
        "conv.weight": rng.normal(size=(8, 3, 2, 2)),
        "bn.weight": rng.normal(size=8),
        "fc.weight": rng.normal(size=(5, 8)),
        "fc2.weight": rng.normal(size=(5, 8)),
        "steps": np.array(3),
    }
    arrays = {k: v.astype(np.float32) if v.dtype == float else v for k, v in arrays.items()}
    arrays["conv.weight"][2] *= 1e-12
    arrays["fc2.weight"][0, :3] = [np.nan, np.inf, -np.inf]
    return arrays


class TestSources:
    def test_checkpoint(self, checkpoint):
        found = analysis.as_matrices(checkpoint, layout="oihw")
        assert list(found) == ["conv.weight", "fc.weight", "fc2.weight"]
        np.testing.assert_array_equal(
            found["conv.weight"], checkpoint["conv.weight"].reshape(8, 12)
        )

    def test_layouts_agree(self, checkpoint):
        kernel = checkpoint["conv.weight"]
        flax = {"conv": kernel.transpose(2, 3, 1, 0)}
        s, t = (
            np.linalg.svd(m, compute_uv=False)
            for m in (
                analysis.as_matrices(flax)["conv"],
                analysis.as_matrices({"conv": kernel}, layout="oihw")["conv"],
            )
        )
        np.testing.assert_allclose(s, t, atol=1e-5)

    def test_tensors_of_pytorch_have_their_outputs_first(self):
        torch = pytest.importorskip("torch")
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 2), torch.nn.Linear(8, 5))
        found = analysis.as_matrices(network.to(torch.bfloat16).state_dict(keep_vars=True))
        assert {name: m.shape for name, m in found.items()} == {
            "0.weight": (8, 12),
            "1.weight": (5, 8),
        }
        kernel = network[0].weight.detach().float().numpy()
        np.testing.assert_array_equal(found["0.weight"], kernel.reshape(8, 12))

    def test_what_is_no_weight_of_a_transformer(self):
        arrays = {
            "h.0.attn.bias": np.tril(np.ones((1, 1, 4, 4))),
            "cls_token": np.ones((1, 1, 6)),
            "pos_embed": np.ones((1, 5, 6)),
            "mlp.experts.down_proj": np.ones((2, 3, 6)),
        }
        found = analysis.as_matrices(arrays, layout="oihw")
        assert {name: m.shape for name, m in found.items()} == {
            "pos_embed": (5, 6),
            "mlp.experts.down_proj.0": (3, 6),
            "mlp.experts.down_proj.1": (3, 6),
        }

    def test_stack_list_and_chain(self):
        stack = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
        chain = analysis.as_chain([("blocks", lambda w, x: x @ w, jnp.asarray(stack), 3)])
        found = [analysis.as_matrices(source) for source in (stack, list(stack), chain)]
        assert list(found[0]) == ["layer_1", "layer_2", "layer_3"]
        assert list(found[2]) == ["blocks.1", "blocks.2", "blocks.3"]
        np.testing.assert_array_equal(found[0]["layer_2"], found[1]["layer_2"])
        np.testing.assert_array_equal(found[0]["layer_2"], found[2]["blocks.2"].T)

    def test_file(self, checkpoint, tmp_path):
        weights = {k: v for k, v in checkpoint.items() if v.ndim}
        io.write_safetensors(tmp_path / "model.safetensors", weights)
        np.savez(tmp_path / "flax.npz", conv=checkpoint["conv.weight"].transpose(2, 3, 1, 0))
        found = analysis.as_matrices(tmp_path / "model.safetensors")
        kernel = checkpoint["conv.weight"]
        np.testing.assert_array_equal(found["conv.weight"], kernel.reshape(8, 12))
        assert analysis.as_matrices(str(tmp_path / "flax.npz"))["conv"].shape == (8, 12)

    @pytest.mark.parametrize(
        ("source", "error", "message"),
        [
            ([], ValueError, "at least one matrix"),
            ([np.ones(3)], ValueError, r"layer_1 must be a matrix of floats; got shape \(3,\)"),
            ([np.ones((2, 2), int)], ValueError, "dtype int64"),
            ({"w": np.ones((0, 3))}, ValueError, "w must not be empty"),
            ({"w": "text"}, TypeError, "w must be an array of numbers; got str"),
            (7, TypeError, "got int"),
        ],
    )
    def test_refused(self, source, error, message):
        with pytest.raises(error, match=message):
            analysis.as_matrices(source)

    def test_layout(self, checkpoint):
        with pytest.raises(ValueError, match="layout must be one of hwio, oihw; got 'nchw'"):
            analysis.as_matrices(checkpoint, layout="nchw")


class TestMeasurements:
    def test_against_numpy(self, checkpoint):
        found = analysis.measure_matrices(checkpoint, layout="oihw")
        s = np.linalg.svd(checkpoint["fc.weight"].astype(np.float64), compute_uv=False)
        p, q = s / s.sum(), s**2 / (s**2).sum()
        expected = {
            "stable_rank": (s**2).sum() / s[0] ** 2,
            "effective_rank": np.exp(-(p * np.log(p)).sum()),
            "effective_rank_squared": np.exp(-(q * np.log(q)).sum()),
            "participation_ratio": (s**2).sum() ** 2 / (s**4).sum(),
            "numerical_rank": 5,
            "spectral_decay": np.log(s[0] / s[1]),
            "spectral_norm": s[0],
            "frobenius_norm": np.linalg.norm(s),
            "eliminated_outputs": 0,
            "non_finite": 0,
        }
        assert set(found) == {*expected, "log_singular_value"}
        logs = np.asarray(found["log_singular_value"].value[1])
        np.testing.assert_allclose(np.exp(logs[[0, 8, 16, 24, 32]]), s, rtol=1e-5)
        for quantity, value in expected.items():
            assert float(found[quantity].value[1]) == pytest.approx(value, rel=1e-5), quantity

    def test_batches_are_bounded(self, checkpoint, monkeypatch):
        rng = np.random.default_rng(0)
        stack = list(rng.normal(size=(5, 4, 6)).astype(np.float32))
        whole = analysis.measure_matrices(stack)
        monkeypatch.setattr(analysis._weights, "BATCH", 50)
        sizes = []
        observe = analysis._weights.observe
        monkeypatch.setattr(
            analysis._weights, "observe", lambda a: sizes.append(len(a)) or observe(a)
        )
        waited = []
        ready = jax.block_until_ready
        monkeypatch.setattr(
            jax, "block_until_ready", lambda a: waited.append(len(a[0])) or ready(a)
        )
        chex.assert_trees_all_close(analysis.measure_matrices(stack), whole, rtol=1e-6)
        assert sizes == waited == [2, 2, 1]
        monkeypatch.setattr(analysis._weights, "BATCH", 1)
        chex.assert_trees_all_close(analysis.measure_matrices(stack), whole, rtol=1e-6)
        assert sizes[3:] == [1] * 5

    def test_dead_channel_is_reported(self, checkpoint):
        found = analysis.measure_matrices(checkpoint, layout="oihw")
        assert found["eliminated_outputs"].value.tolist() == [1, 0, 0]
        assert float(found["eliminated_outputs"].tolerance[0]) == pytest.approx(1e-6)

    def test_what_is_not_finite_is_named_and_the_rest_measured(self, checkpoint):
        frame = analysis.table(analysis.measure_matrices(checkpoint, layout="oihw"))
        assert not frame.value.isna().any()
        broken = frame[frame.name == "fc2.weight"]
        assert broken[["quantity", "value"]].to_numpy().tolist() == [["non_finite", 3.0]]
        assert len(frame[frame.name == "fc.weight"]) == 10 + 33

    def test_zero_matrix(self):
        frame = analysis.table(analysis.measure_matrices([np.zeros((3, 4))]))
        logs = frame[frame.quantity == "log_singular_value"]
        assert (logs.value == -np.inf).all()
        values = frame.drop(logs.index).set_index("quantity").value
        assert values["eliminated_outputs"] == 3
        assert values["spectral_decay"] == np.inf
        assert (values.drop(["eliminated_outputs", "spectral_decay"]) == 0).all()

    def test_is_a_pytree_under_jit(self):
        stack = jax.random.normal(jax.random.key(0), (3, 4, 4))

        @jax.jit
        def measure(stack):
            s = jnp.linalg.svd(stack, compute_uv=False)
            return analysis.measure_spectrum(s, shape=(4, 4), object="weight")

        found = measure(stack)["stable_rank"]
        assert found.object == "weight"
        assert found.definition == "Sum of s_i^2 over s_1^2."
        chex.assert_trees_all_close(
            found.value, analysis.matrix_measures(stack)["stable_rank"], rtol=1e-5
        )

    def test_logarithms_and_infinite_values(self):
        s = jnp.log(jnp.array([[4.0, 2.0], [1.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 1.0]]))
        found = analysis.measure_spectrum(s, shape=(2, 2), object="product", log=True)
        assert found["stable_rank"].value.tolist() == [1.25, 1, 0, 0]
        assert found["stable_rank"].valid.tolist() == [True, True, False, False]

    def test_select(self, checkpoint):
        found = analysis.measure_matrices(checkpoint, layout="oihw")["stable_rank"]
        one = analysis.select(found, ["fc.weight"])
        assert one.shapes == ((5, 8),)
        assert float(one.value[0]) == float(found.value[1])
        with pytest.raises(ValueError, match="got 'head'"):
            analysis.select(found, ["head"])

    def test_concatenate_is_of_one_thing(self, checkpoint):
        found = analysis.measure_matrices(checkpoint, layout="oihw")
        with pytest.raises(ValueError, match="must measure one thing"):
            analysis.concatenate([found["stable_rank"], found["effective_rank"]])


class TestTable:
    def test_every_number_says_what_it_is(self, checkpoint):
        frame = analysis.table(analysis.measure_matrices(checkpoint, layout="oihw"))
        row = frame[(frame.name == "conv.weight") & (frame.quantity == "numerical_rank")].iloc[0]
        assert (row.object, row.layer, row.rows, row.columns) == ("weight", 1, 8, 12)
        assert row.tolerance == pytest.approx(12 * 2.0**-23)
        assert (row["dtype"], row.centring) == ("float32", "none")
        assert "tolerance * s_1" in row.definition

    def test_nan_is_refused(self):
        found = analysis.measure_matrices([np.eye(2)])["stable_rank"]
        spoilt = jax.tree.map(lambda leaf: leaf, found)
        spoilt = analysis.Measurement(**{**vars(spoilt), "value": jnp.array([jnp.nan])})
        with pytest.raises(ValueError, match="stable_rank of weight 'layer_1' is NaN"):
            analysis.table([spoilt])

    def test_parquet(self, checkpoint, tmp_path):
        frame = analysis.table(analysis.measure_matrices(checkpoint, layout="oihw"))
        frame.to_parquet(tmp_path / "table.parquet")

    def test_empty(self):
        assert list(analysis.table([]).columns) == list(
            analysis.table(analysis.measure_matrices([np.eye(2)])).columns
        )
