"""The study: what it accepts, what its table must show, and that nothing finished is lost."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jaxact.experiments import StudyError, _cli, rank_collapse
from jaxact.experiments.rank_collapse import RankCollapse

TINY = RankCollapse(
    networks=("mlp", "conv"),
    wirings=("plain", "original", "pre"),
    activations=("relu", "tanh"),
    depths=(3,),
    conv_depths=(2,),
    seeds=(0, 5),
    width=16,
    conv_width=4,
    steps=3,
    batch_size=16,
    examples=32,
    jacobian_examples=2,
)
ENTRY = "import sys; from jaxact.experiments import rank_collapse; sys.exit(rank_collapse.main())"


def command(*args, **options):
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, standard_promotion):
    """A finished tiny study: its folder and table."""
    folder = tmp_path_factory.mktemp("study") / "tiny"
    rank_collapse.run(dataclasses.replace(TINY, out=folder))
    return folder, pd.read_parquet(folder / "table.parquet")


@pytest.mark.slow
class TestOutcome:
    def test_files(self, study):
        folder, _ = study
        names = {p.name for p in folder.iterdir()}
        assert names == {
            "config.json",
            "manifest.json",
            "definitions.json",
            "table.parquet",
            "report.html",
            "figures",
            "cells",
        }
        figures = {p.stem for p in (folder / "figures").glob("*.png")}
        assert figures == {p.stem for p in (folder / "figures").glob("*.svg")}
        assert {
            f"{of}_effective_rank" for of in ("mlp_block_product", "mlp_features", "conv_jacobian")
        } <= figures
        assert json.loads((folder / "config.json").read_text())["depths"] == [3]

    def test_report_fits_its_window(self, study, beyond):
        page = (study[0] / "report.html").read_text()
        assert beyond(page) == {"1280": [], "390": []}

    def test_report_needs_no_network(self, study):
        folder, _ = study
        page = (folder / "report.html").read_text()
        figures = list((folder / "figures").glob("*.svg"))
        assert page.count("data:image/svg+xml;base64,") == len(figures)
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)

    def test_table_is_complete(self, study):
        _, table = study
        cells = table[["network", "wiring", "depth", "activation"]].drop_duplicates()
        assert len(cells) == 2 * 3 * 1 * 2
        ranks = table[table.quantity.isin(["stable_rank", "effective_rank", "numerical_rank"])]
        counts = ranks.groupby(["phase", "object", "quantity"], observed=True).size()
        assert (counts > 0).all()
        assert set(ranks.object) == {
            "weight",
            "weight_product",
            "block_product",
            "features",
            "jacobian",
            "gradient",
        }
        keys = [c for c in table.columns if c != "value"]
        assert not table.duplicated(keys).any()
        finite = table[table.quantity != "log_singular_value"]
        assert np.isfinite(finite.value).all()

    def test_ranks_are_within_their_bounds(self, study):
        _, table = study
        ranks = table[table.quantity.isin(["stable_rank", "effective_rank", "participation_ratio"])]
        circular = (ranks.network == "conv") & ranks.object.isin(
            ["weight_product", "block_product"]
        )
        most = np.where(circular, 64 * TINY.conv_width, 64)
        assert ranks.value.between(1 - 1e-4, most * (1 + 1e-4)).all()

    def test_seeds_are_paired(self, study):
        """A seed's weights are the same whatever the wiring, up to the activation's gain."""
        _, table = study
        weights = table[
            (table.object == "weight")
            & (table.quantity == "effective_rank")
            & (table.phase == "initial")
            & (table.network == "mlp")
        ]
        spread = weights.groupby(["parameter", "seed", "layer", "activation"], observed=True).value
        np.testing.assert_allclose(spread.max(), spread.min(), rtol=1e-4)
        by_seed = weights[weights.layer == 1].groupby("seed").value.mean()
        assert by_seed.nunique() == 2

    def test_summary_has_a_row_for_each_cell(self, study):
        _, table = study
        summary = rank_collapse.summary(table)
        assert len(summary) == 12
        assert not summary.isna().any(axis=None)


@pytest.mark.slow
class TestFindings:
    @pytest.fixture
    def table(self, study):
        """With ranks of our own at the last block, so that what is found is known."""
        table = study[1].copy()
        last = (table.layer == table.depth) & (table.quantity == "effective_rank")
        for of, best, scale in (("jacobian", "pre", 1), ("features", "plain", 3)):
            rows = last & (table.object == of)
            table.loc[rows, "value"] = 4.0 * scale
            table.loc[rows & (table.wiring == best), "value"] = 8.0 * scale
        trained = (table.quantity == "test_accuracy") & (table.phase == "trained")
        table.loc[trained, "value"] = np.where(table[trained].activation == "relu", 0.25, 0.75)
        return table

    def test_name_what_keeps_and_what_loses_rank(self, table):
        found = rank_collapse.findings(table)
        assert set(found) == {
            f"{network}_{of}"
            for network in ("mlp", "conv")
            for of in ("jacobian_effective_rank", "features_effective_rank", "training_loss")
        }
        text = found["mlp_jacobian_effective_rank"]
        assert "mlp, 3 blocks, after training: the effective rank of the Jacobian" in text
        assert "greatest with pre, relu: 8 [8, 8] and least with " in text
        assert text.endswith(": 4 [4, 4] (range over 2 seeds).")
        text = found["mlp_features_effective_rank"]
        assert "greatest with plain, relu: 24 [24, 24]" in text
        assert "With plain, " in text
        assert "it is 6.0 times that of the Jacobian" in text
        text = found["conv_training_loss"]
        assert "0.75 [0.75, 0.75]; under 0.5 with " in text
        assert text.count("relu") == 3

    def test_follow_the_table(self, table):
        other = table.copy()
        last = (table.layer == table.depth) & (table.quantity == "effective_rank")
        other.loc[last & (table.object == "jacobian") & (table.wiring == "plain"), "value"] = 1.25
        text = rank_collapse.findings(other)["mlp_jacobian_effective_rank"]
        assert re.search(r"least with plain, \w+: 1\.25 \[1\.25, 1\.25\]", text)

    def test_open_the_report_before_their_figures(self, study):
        folder, table = study
        page = (folder / "report.html").read_text()
        marks = ("<h2>Findings</h2>", "<figure", "<h2>In numbers</h2>", "<h2>Figures</h2>")
        places = [page.index(mark) for mark in marks]
        names = list(rank_collapse.findings(table))
        for name in names:
            assert f'<a href="#{name}">' in page
        figures = re.findall(r'<figure id="(\w+)">', page)
        assert set(figures[: len(names)]) == set(names)
        assert places == sorted(places)

    def test_a_terminal_has_room(self, study):
        lines = _cli.as_text(rank_collapse.brief(study[1]), digits=3).splitlines()
        assert max(map(len, lines)) <= 100
        assert len(lines) == 14


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"activations": ("relu", "rleu")}, r"activations: .*'rleu'.*relu"),
            ({"activations": ()}, "activations: must name at least one"),
            ({"depths": (8, 0)}, "depths: must be at least 1; got 0"),
            ({"depths": ()}, "depths: must name at least one"),
            ({"seeds": (1, 1)}, "seeds: must not repeat; got 1 1"),
            ({"seeds": (-1,)}, "seeds: must be at least 0; got -1"),
            ({"wirings": ("prenorm",)}, "wirings: wiring must be one of pre, post, .*'prenorm'"),
            ({"wirings": ("residual_dual",)}, "wirings: must pass one array from block to block"),
            ({"networks": ("vit",)}, "networks: must be among mlp, conv, transformer; got 'vit'"),
            ({"measures": ("rank",)}, "measures: must be among stable_rank, .*'rank'"),
            ({"measures": ("samples",)}, "measures: must be among .*'samples'"),
            ({"norm": "batchnorm"}, "norm: must be among"),
            ({"dataset": "mnist"}, "dataset: .*'mnist'"),
            ({"examples": 1}, "examples: must be at least 2"),
            ({"examples": 10**6}, "examples: must be at most the 1437"),
            ({"batch_size": 0}, "batch_size: must be at least 1"),
            ({"learning_rate": 0.0}, "learning_rate: must be positive"),
            ({"steps": -1}, "steps: must be at least 0"),
            ({"transformer_width": 18}, "transformer_width: must be a multiple of the 4 heads"),
            (
                {"networks": ("transformer",), "wirings": ("original", "fixup")},
                "wirings: must hold one that transformers have; got 'original fixup'",
            ),
            ({"share": (2, 2)}, r"share: must be I N with 0 <= I < N; got \(2, 2\)"),
        ],
    )
    def test_bad_values(self, tmp_path, change, message):
        config = dataclasses.replace(TINY, out=tmp_path / "study", **change)
        with pytest.raises(StudyError, match=message):
            rank_collapse.run(config)
        assert not (tmp_path / "study").exists()

    def test_one_sentence_and_exit_code_2(self, tmp_path):
        done = command("--depths", 0, "--out", tmp_path / "study")
        assert done.returncode == 2
        assert done.stderr.strip() == "error: depths: must be at least 1; got 0"
        done = command("--depths", "--out", tmp_path / "study")
        assert done.returncode == 2
        assert "depths" in done.stderr

    def test_help_explains_every_field(self):
        done = command("--help")
        assert done.returncode == 0
        for field in dataclasses.fields(RankCollapse):
            assert f"--{field.name.replace('_', '-')}" in done.stdout


@pytest.mark.slow
def test_transformers(tmp_path):
    """Wirings that they cannot have are left out; tokens are measured, products are not."""
    folder = tmp_path / "study"
    wirings = ("original", "post", "pre")
    options = dict(transformer_depths=(2,), transformer_width=8, activations=("gelu",))
    config = dataclasses.replace(TINY, networks=("transformer",), wirings=wirings, **options)
    rank_collapse.run(dataclasses.replace(config, seeds=(0,), out=folder))
    table = pd.read_parquet(folder / "table.parquet")
    assert set(table.wiring) == {"post", "pre"}
    assert set(table.object) == {
        "weight", "features", "jacobian", "gradient", "tokens", "network",
    }  # fmt: skip
    cosine = table[table.quantity == "token_cosine"]
    assert set(cosine.layer) == {0, 1, 2}
    assert cosine.value.between(-1, 1).all()
    parameters = " ".join(table[table.object == "weight"].parameter.unique())
    assert all(f"{name}.kernel" in parameters for name in ("query", "key", "value", "up", "down"))
    assert np.isfinite(table[table.quantity != "log_singular_value"].value).all()


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_table(tmp_path, study, start, finish):
    """SIGKILL once a few cells are stored; the rest is done by --resume, to the same table."""
    _, whole = study
    expected = whole[whole.network == "mlp"].astype({"network": str}).reset_index(drop=True)
    folder = tmp_path / "killed"
    config = dataclasses.replace(TINY, networks=("mlp",), out=folder)
    process = start(config)
    try:
        deadline = time.monotonic() + 400
        while len(list(folder.glob("cells/*.parquet"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*.parquet")}
    assert 3 <= len(finished) < 6
    finish(start(dataclasses.replace(config, resume=True)))
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    resumed = pd.read_parquet(folder / "table.parquet").astype({"network": str})
    for column in resumed.select_dtypes("category"):
        resumed[column] = resumed[column].astype(str)
        expected[column] = expected[column].astype(str)
    pd.testing.assert_frame_equal(resumed, expected)
