"""The page on extending: its diffs apply, and what they add is found wherever a user looks."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pandas as pd
import pytest

from jaxact import analysis, training
from jaxact.experiments import StudyError, rank_collapse

ROOT = pathlib.Path(__file__).parents[1]

STUDY = """
import pathlib, sys
from jaxact.experiments import rank_collapse, verdicts
out = pathlib.Path(sys.argv[1])
config = rank_collapse.RankCollapse(
    networks=("mlp",), wirings=("plain", "late"), activations=("sine_squared",), depths=(3,),
    seeds=(0, 1), width=8, dataset="stripes", steps=2, batch_size=16, examples=32,
    jacobian_examples=1, measures=("effective_rank", "positive_share", "loss"), out=out / "ranks",
)
rank_collapse.run(config)
claim = verdicts.Verdicts(
    preset="quick", claims=(101,), dataset="stripes", measures=("positive_share",),
    out=out / "claim",
)
verdicts.run(claim)
"""


def _run(folder, *arguments):
    # What is run from the copy must not find the package that is installed.
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with every diff of the page applied."""
    folder = tmp_path_factory.mktemp("extended")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jaxact", folder / "jaxact", ignore=ignore)
    page = (ROOT / "docs" / "extending.md").read_text()
    diffs = re.findall(r"^```diff\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(diffs) == 5
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for diff in diffs:
        command = ["git", "apply", "--recount", "--verbose", "-"]
        done = subprocess.run(command, cwd=folder, input=diff, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
class TestDiffs:
    def test_help_lists_the_words(self, extended):
        entry = "import sys; from jaxact.experiments import {0}; sys.exit({0}.main())"
        page = _run(extended, "-c", entry.format("rank_collapse"), "--help")
        for word in ("late", "positive_share", "stripes", "sine_squared"):
            assert re.search(rf"\b{word}\b", page), word
        page = _run(extended, "-c", entry.format("verdicts"), "--help")
        for word in ("101 softplus", "positive_share", "stripes"):
            assert word in page, word

    def test_tables_figures_and_reports_have_them(self, extended):
        out = extended / "out"
        _run(extended, "-c", STUDY, out)
        table = pd.read_parquet(out / "ranks" / "table.parquet")
        share = table[(table.quantity == "positive_share") & (table.wiring == "late")]
        assert set(share.activation) == {"sine_squared"}
        assert share.value.between(0, 1).all()
        assert (out / "ranks" / "figures" / "mlp_features_positive_share.svg").exists()
        definitions = json.loads((out / "ranks" / "definitions.json").read_text())
        assert definitions["positive_share"]["definition"] == "Share of features above zero."
        report = (out / "ranks" / "report.html").read_text()
        for word in ("late (x + N(W a(x)))", "stripes", "Share of features above zero."):
            assert word in report, word
        assert (out / "claim" / "figures" / "softplus.svg").exists()
        page = (out / "claim" / "verdicts.md").read_text()
        assert "Softplus shifts the mean more than ReLU does." in page
        rows = pd.read_parquet(out / "claim" / "tables" / "softplus.parquet")
        assert {"mean_shift", "positive_share"} <= set(rows.quantity)


SMALL = rank_collapse.RankCollapse(
    networks=("mlp",),
    wirings=("plain",),
    activations=("relu",),
    depths=(2,),
    seeds=(0,),
    width=4,
    dataset="few",
    steps=0,
    examples=8,
    jacobian_examples=1,
    measures=("units",),
)


class TestFromOutside:
    """Nothing has to be edited: measures and data sets register from anywhere."""

    def test_they_are_unknown_before(self, tmp_path):
        with pytest.raises(StudyError, match=r"measures: must be among .*; got 'units'"):
            rank_collapse.run(dataclasses.replace(SMALL, out=tmp_path / "study"))

    def test_a_measure_and_a_data_set(self, tmp_path, monkeypatch):
        digits = training.load("digits")
        monkeypatch.setitem(training.DATASETS, "few", lambda: (digits.test_x, digits.test_y))

        def units(h):
            return jnp.full(h.shape[0], h.shape[-1], h.dtype)

        measure = analysis.Measure("units", "features", "How many.", units, "features")
        monkeypatch.setitem(analysis.MEASURES, "units", measure)
        rank_collapse.run(dataclasses.replace(SMALL, out=tmp_path / "study"))
        table = pd.read_parquet(tmp_path / "study" / "table.parquet")
        assert table[table.quantity == "units"].value.tolist() == [4.0, 4.0, 4.0]
        assert (tmp_path / "study" / "figures" / "mlp_features_units.png").exists()
