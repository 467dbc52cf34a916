"""The study of a checkpoint that jaxact did not make, from the file to the report."""

import dataclasses
import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from jaxact import io
from jaxact.experiments import StudyError, _cli, checkpoint
from jaxact.experiments.checkpoint import _figures, _study


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A convolutional network in PyTorch's layout, with a dead channel and a layer that is NaN."""
    rng = np.random.default_rng(0)
    arrays = {
        "conv1.weight": rng.normal(size=(8, 3, 3, 3)),
        "bn1.weight": rng.normal(size=8),
        "conv2.weight": rng.normal(size=(8, 8, 1, 1)),
        "fc.weight": rng.normal(size=(5, 8)),
    }
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    arrays["conv1.weight"][3] = 1e-13
    arrays["conv2.weight"][0] = np.nan
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    io.write_safetensors(path, arrays)
    return path


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    checkpoint.run(checkpoint.Checkpoint((file,), out=out))
    return out


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A language model in shards, with a weak head, a layer of low rank and a config."""
    rng = np.random.default_rng(0)
    arrays, d = {"model.embed_tokens.weight": rng.normal(size=(40, 16))}, 4
    for i in range(3):
        own = f"model.layers.{i}"
        for part, rows in {"q": 16, "k": 8, "v": 8, "o": 16}.items():
            arrays[f"{own}.self_attn.{part}_proj.weight"] = rng.normal(size=(rows, 16))
        arrays[f"{own}.mlp.up_proj.weight"] = rng.normal(size=(32, 16))
    arrays["model.layers.2.mlp.up_proj.weight"] = rng.normal(size=(32, 3)) @ rng.normal(
        size=(3, 16)
    )
    query = arrays["model.layers.1.self_attn.q_proj.weight"]
    query[2 * d : 3 * d] = query[2 * d]
    folder = tmp_path_factory.mktemp("model") / "tiny-1.5"
    folder.mkdir()
    embedding = arrays["model.embed_tokens.weight"]
    embedding[:] = np.round(embedding * 4) / 4
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    shards = {"a.safetensors": list(arrays)[:9], "b.safetensors": list(arrays)[9:]}
    for shard, names in shards.items():
        io.write_safetensors(folder / shard, {name: arrays[name] for name in names})
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text('{"num_attention_heads": 4}')
    return folder, arrays


@pytest.fixture(scope="module")
def of_transformer(transformer, tmp_path_factory):
    out = tmp_path_factory.mktemp("transformer") / "out"
    return out, checkpoint.run(checkpoint.Checkpoint((transformer[0],), out=out))


class TestTransformer:
    """Heads and circuits of a language model's folder, in the table, sentences and report."""

    def test_table(self, transformer, of_transformer):
        table = of_transformer[1]
        weights = table[(table.object == "weight") & (table.quantity == "numerical_rank")]
        assert list(weights.name) == list(transformer[1])
        counts = table[table.quantity == "effective_rank"].groupby("object").size()
        assert counts.to_dict() == {"weight": 16, "head": 3 * (4 + 2 + 2 + 4), "circuit": 3 * 8}
        row = table[(table.name == "model.layers.1.self_attn.query_key.2")]
        row = row[row.quantity == "numerical_rank"].iloc[0]
        assert row[["value", "possible", "share", "part", "head"]].tolist() == [
            1, 4, 0.25, "query_key", 2
        ]  # fmt: skip
        assert (row["rows"], row["columns"]) == (16, 16)
        norms = table[table.quantity == "frobenius_norm"]
        assert norms.share.isna().all()

    def test_by_attention(self, of_transformer):
        table = of_transformer[1]
        rows = checkpoint.by_attention(table)
        assert rows.part.value_counts().to_dict() == dict.fromkeys(
            ("query", "key", "value", "output", "query_key", "value_output"), 3
        )
        row = rows[(rows.attention == "model.layers.1.self_attn") & (rows.part == "query_key")]
        assert row.numerical_rank.tolist() == [(4 + 4 + 1 + 4) / 4]
        assert row[["heads", "least_head"]].to_numpy().tolist() == [[4, 2]]

    def test_sentences(self, of_transformer):
        found = checkpoint.findings(of_transformer[1])
        assert list(found) == ["ranks", "layers", "heads"]
        assert "halves in model.layers.#.mlp.up_proj.weight at 2" in found["layers"]
        assert (
            "Numerically singular: model.layers.1.self_attn.q_proj.weight (13 of 16)"
            in (found["ranks"])
        )
        assert "model.layers.2.mlp.up_proj.weight (" in found["ranks"]
        assert "head 2 of model.layers.1.self_attn" in found["heads"]
        assert "1 of 16 matrices take few distinct values: they are quantized." in found["ranks"]
        rows = checkpoint.summary(of_transformer[1]).set_index("name")
        floor = 0.25 / 12**0.5 * (40**0.5 + 16**0.5)
        assert rows.rounding_floor["model.embed_tokens.weight"] == pytest.approx(floor)
        assert (rows.rounding_floor > 0).sum() == 1

    def test_lines_by_layer_are_shares(self, of_transformer):
        table = of_transformer[1]
        drawn = {drawing.name: drawing for drawing in _figures.draw(table)}
        numbers = drawn["layers"].numbers.set_index("name").value
        ranks = table[(table.object == "weight") & (table.quantity == "effective_rank")]
        shares = ranks.set_index("name").share.reindex(numbers.index)
        np.testing.assert_allclose(numbers, shares, rtol=1e-6)

    def test_a_terminal_is_told_files_where_there_are_several(self, of_transformer):
        table = of_transformer[1]
        assert "file" not in _study.brief(table)
        both = pd.concat([table, table.assign(file="other")])
        assert _study.brief(both).file.nunique() == 2
        for frame in (table, both):
            lines = _cli.as_text(_study.brief(frame), digits=4).splitlines()
            assert max(map(len, lines)) <= 100
            assert sum("mlp.up_proj" in line for line in lines) >= 2

    def test_report_fits_its_window(self, of_transformer, beyond):
        page = (of_transformer[0] / "report.html").read_text()
        assert beyond(page) == {"1280": [], "390": []}

    def test_report_and_definitions(self, of_transformer):
        page = (of_transformer[0] / "report.html").read_text()
        places = [page.index(text) for text in (
            "<h2>Findings</h2>", '<figure id="layers">', "<h2>In numbers</h2>",
            "<h3>By attention</h3>", '<figure id="spectra">',
        )]  # fmt: skip
        assert places == sorted(places)
        assert 'style="--share:0.25"' in page
        definitions = json.loads((of_transformer[0] / "definitions.json").read_text())
        assert {"weight", "head", "circuit", "effective_rank"} <= set(definitions)
        assert set(definitions["columns"]) == set(of_transformer[1])

    def test_heads_by_hand(self, transformer, tmp_path):
        config = checkpoint.Checkpoint((transformer[0],), heads=3, out=tmp_path / "out")
        with pytest.raises(StudyError, match=r"heads: must divide .*self_attn, of 16 rows"):
            checkpoint.run(config)
        config = dataclasses.replace(config, heads=None, by_head=False)
        assert set(checkpoint.run(config).object) == {"weight"}


class TestOrder:
    """Layers in order of depth, whatever order the file has them in."""

    def test_layers_of_two_digits(self, tmp_path):
        names = ["model.embed_tokens", *(f"model.layers.{i}.mlp.up" for i in range(12)), "lm_head"]
        arrays = {f"{name}.weight": np.eye(3, dtype=np.float32) for name in names}
        io.write_safetensors(tmp_path / "model.safetensors", arrays)
        assert list(io.read_arrays(tmp_path / "model.safetensors")) == list(arrays)
        np.savez(tmp_path / "model.npz", **dict(sorted(arrays.items())))
        assert list(io.read_arrays(tmp_path / "model.npz")) == list(arrays)

    def test_convolutional_networks(self, tmp_path):
        names = ["conv1", "bn1", "layer1.0.conv1", "layer1.10.conv1", "layer2.0.fc", "fc"]
        arrays = {f"{name}.weight": np.eye(3, dtype=np.float32) for name in names}
        io.write_safetensors(tmp_path / "model.safetensors", arrays)
        found = list(io.read_arrays(tmp_path / "model.safetensors"))
        assert set(found[:2]) == {"conv1.weight", "bn1.weight"}
        assert found[2:] == list(arrays)[2:]

    def test_a_files_own_order_is_kept(self, tmp_path):
        arrays = {name: np.eye(2) for name in ("stem", "b10", "b2", "a")}
        np.savez(tmp_path / "model.npz", **arrays)
        assert list(io.read_arrays(tmp_path / "model.npz")) == list(arrays)


class TestSeveral:
    """Files of one training run, or two networks, side by side."""

    def test_compared_and_resumed(self, tmp_path, monkeypatch):
        files = []
        for step in (1, 2):
            (tmp_path / f"step{step}").mkdir()
            files.append(tmp_path / f"step{step}" / "model.safetensors")
            arrays = {f"layer{i}": np.diag(np.arange(4.0) + step - 1) for i in (1, 2, 10)}
            arrays["layer2"] = arrays["layer1"] if step == 1 else np.diag([1.0, 0, 0, 0])
            io.write_safetensors(files[-1], arrays)
        config = checkpoint.Checkpoint(
            tuple(files), measures=("numerical_rank", "effective_rank"), out=tmp_path / "out"
        )
        table = checkpoint.run(config)
        rows = checkpoint.summary(table)
        assert rows.file.tolist() == ["step1_model"] * 3 + ["step2_model"] * 3
        assert rows.name.tolist() == ["layer1", "layer2", "layer10"] * 2
        assert rows.numerical_rank.tolist() == [3, 3, 3, 4, 1, 4]
        found = checkpoint.findings(table)
        # From singular values 3, 2, 1, 0 to 4, 3, 2, 1: of the shares, entropies 1.0114 and 1.2799.
        assert found["compared"] == (
            "From step1_model to step2_model the effective rank of the 3 matrices in both is "
            "multiplied by 1.31 at the median, least in layer2 (0.36) and most in layer1 (1.31)."
        )
        assert {p.stem for p in (tmp_path / "out" / "figures").iterdir()} >= {
            "compared", "ranks_step1_model", "ranks_step2_model"
        }  # fmt: skip
        (tmp_path / "out" / "cells" / "step2_model.parquet").unlink()
        measured = []
        real = checkpoint._study._measured
        monkeypatch.setattr(
            checkpoint._study, "_measured", lambda *a: measured.append(a) or real(*a)
        )
        again = checkpoint.run(dataclasses.replace(config, resume=True))
        assert len(measured) == 1
        pd.testing.assert_frame_equal(again, table)

    def test_one_file_twice_is_refused(self, file, tmp_path):
        with pytest.raises(StudyError, match="files: must differ"):
            checkpoint.run(checkpoint.Checkpoint((file, file), out=tmp_path / "out"))


class TestStudy:
    def test_table(self, folder):
        table = pd.read_parquet(folder / "table.parquet")
        rows = checkpoint.summary(table).set_index("name")
        assert list(rows.index) == ["conv1.weight", "conv2.weight", "fc.weight"]
        assert rows.loc["conv1.weight", ["rows", "columns"]].tolist() == [8, 27]
        assert rows.numerical_rank_share.tolist()[::2] == [7 / 8, 1]
        share = rows.effective_rank / [8, 8, 5]
        assert rows.effective_rank_share.tolist()[::2] == pytest.approx(share.tolist()[::2])
        fc = rows.loc["fc.weight"]
        random = 5 * np.exp(-5 / 8 / 2)
        found = fc.effective_rank_squared_of_random_share
        assert found == pytest.approx(fc.effective_rank_squared / random)
        assert rows.eliminated_outputs.tolist()[::2] == [1, 0]
        assert rows.numerical_rank.tolist()[::2] == [7, 5]
        assert rows.non_finite.tolist() == [0, 8, 0]
        assert not table.value.isna().any()

    def test_folder(self, folder):
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        figures = {f"figures/{n}.{k}" for n in ("ranks", "spectra") for k in ("png", "svg")}
        cells = {"cells/model.parquet"}
        files = {"table.parquet", "config.json", "manifest.json", "report.html", "definitions.json"}
        assert names == files | cells | figures
        page = (folder / "report.html").read_text()
        assert "1 output units without incoming weights in 1 of them: conv1.weight (1)" in page
        assert "NaN or infinity in conv2.weight (8 entries)" in page

    def test_results_are_not_overwritten_unasked(self, file, folder):
        with pytest.raises(StudyError, match="pass --resume"):
            checkpoint.run(checkpoint.Checkpoint((file,), out=folder))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"files": (pathlib.Path("nothing.pth"),)}, "files: path must be an existing file"),
            ({"files": ()}, "files: must name at least one; got none"),
            ({"match": "["}, r"match: '\[' is no regular expression"),
            ({"match": "bn"}, "matching 'bn': source must hold at least one matrix"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_written(self, file, tmp_path, change, message):
        config = checkpoint.Checkpoint(**{"files": (file,), "out": tmp_path / "out", **change})
        with pytest.raises(StudyError, match=message):
            checkpoint.run(config)
        assert not (tmp_path / "out").exists()

    def test_an_archive_that_unpacks_to_more_than_the_limit_is_not_unpacked(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", w=np.zeros((1024, 256), np.float32))
        config = checkpoint.Checkpoint((tmp_path / "a.npz",), out=tmp_path / "out", limit=2**-11)
        with pytest.raises(
            StudyError, match=r"limit: must be at least 0.0009\d+ GiB .*; got 0.000"
        ):
            checkpoint.run(config)
        assert not (tmp_path / "out").exists()

    def test_complex_weights_are_named(self, tmp_path):
        np.savez(tmp_path / "c.npz", a=np.eye(3), b=np.eye(4) * 1j)
        config = checkpoint.Checkpoint((tmp_path / "c.npz",), out=tmp_path / "out")
        with pytest.raises(StudyError, match=r"c.npz: b must be of real numbers; got complex128"):
            checkpoint.run(config)

    def test_an_empty_name_is_not_the_current_folder(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.argv", ["analyze_checkpoint.py", ""])
        assert checkpoint.main() == 2
        assert capsys.readouterr().err.endswith("file or folder; got ''\n")

    def test_command_line(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr("sys.argv", ["analyze_checkpoint.py", str(tmp_path / "absent.onnx")])
        assert checkpoint.main() == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: files: path must be an existing file")
