"""The study of a checkpoint that jaxact did not make, from the file to the report."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from jaxact import io
from jaxact.experiments import StudyError, checkpoint


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
    checkpoint.run(checkpoint.Checkpoint(file, out=out))
    return out


class TestStudy:
    def test_table(self, folder):
        table = pd.read_parquet(folder / "table.parquet")
        rows = checkpoint.summary(table).set_index("name")
        assert list(rows.index) == ["conv1.weight", "conv2.weight", "fc.weight"]
        assert rows.loc["conv1.weight", ["rows", "columns"]].tolist() == [8, 27]
        assert rows.eliminated_outputs.tolist()[::2] == [1, 0]
        assert rows.numerical_rank.tolist()[::2] == [7, 5]
        assert rows.non_finite.tolist() == [0, 8, 0]
        assert not table.value.isna().any()

    def test_folder(self, folder):
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        figures = {f"figures/{n}.{k}" for n in ("ranks", "spectra") for k in ("png", "svg")}
        assert names == {"table.parquet", "manifest.json", "report.html", *figures}
        page = (folder / "report.html").read_text()
        assert "1 output units without incoming weights in 1 of them: conv1.weight (1)" in page
        assert "NaN or infinity in conv2.weight (8 entries)" in page

    def test_results_are_not_overwritten_unasked(self, file, folder):
        with pytest.raises(StudyError, match="pass --overwrite"):
            checkpoint.run(checkpoint.Checkpoint(file, out=folder))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"file": pathlib.Path("nothing.pth")}, "file: path must be an existing file"),
            ({"match": "["}, r"match: '\[' is no regular expression"),
            ({"match": "bn"}, "matching 'bn': source must hold at least one matrix"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_written(self, file, tmp_path, change, message):
        config = checkpoint.Checkpoint(**{"file": file, "out": tmp_path / "out", **change})
        with pytest.raises(StudyError, match=message):
            checkpoint.run(config)
        assert not (tmp_path / "out").exists()

    def test_command_line(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr("sys.argv", ["analyze_checkpoint.py", str(tmp_path / "absent.onnx")])
        assert checkpoint.main() == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("error: file: path must be an existing file")
