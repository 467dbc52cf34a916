"""A study's folder: files whole or absent, nothing overwritten, nothing finished redone."""

import json
import os

import pandas as pd
import pytest

from jaxact.experiments import Run, StudyError

CONFIG = {"depths": (1, 2), "norm": "layer"}


def rows(value):
    return pd.DataFrame({"layer": [1, 2], "value": [value, float("-inf")]})


def test_cells_come_back_in_the_order_asked_for(tmp_path):
    run = Run.open(tmp_path / "a" / "study", CONFIG, resume=False)
    assert not run.finished("one")
    run.store("two", rows(2.0))
    run.store("one", rows(1.0))
    assert run.finished("one")
    expected = pd.concat([rows(1.0), rows(2.0)], ignore_index=True)
    pd.testing.assert_frame_equal(run.table(["one", "two"]), expected)


def test_existing_folder_is_not_overwritten(tmp_path):
    Run.open(tmp_path / "study", CONFIG, resume=False)
    with pytest.raises(StudyError, match=r"is not empty; pass --resume"):
        Run.open(tmp_path / "study", CONFIG, resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(StudyError, match="not empty and holds no study"):
        Run.open(tmp_path / "other", CONFIG, resume=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_resume_keeps_cells_and_clears_what_a_killed_process_left(tmp_path):
    run = Run.open(tmp_path, CONFIG, resume=False)
    run.store("one", rows(1.0))
    leftover = run.cells / ".two.parquet.abc.tmp"
    leftover.write_bytes(b"half")
    young = run.cells / ".three.parquet.abc.tmp"
    young.write_bytes(b"being written by another process")
    os.utime(leftover, (0, 0))
    again = Run.open(tmp_path, CONFIG, resume=True)
    assert again.finished("one")
    assert not again.finished("two")
    assert not leftover.exists()
    assert young.exists()


def test_resume_with_another_config_is_refused(tmp_path):
    Run.open(tmp_path, CONFIG, resume=False)
    with pytest.raises(StudyError, match=r"depths: .* started with \[1, 2\] .* with \[3\]"):
        Run.open(tmp_path, {**CONFIG, "depths": (3,)}, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["depths"] == [1, 2]


def test_resume_in_a_new_folder_starts(tmp_path):
    assert not Run.open(tmp_path / "new", CONFIG, resume=True).finished("one")


def test_join_waits_for_the_study_to_be_started(tmp_path):
    with pytest.raises(StudyError, match=r"no study was started in .* in 0\.2 seconds"):
        Run.join(tmp_path / "study", CONFIG, patience=0.2)
    Run.open(tmp_path / "study", CONFIG, resume=False).store("one", rows(1.0))
    assert Run.join(tmp_path / "study", CONFIG).finished("one")
    with pytest.raises(StudyError, match="depths"):
        Run.join(tmp_path / "study", {**CONFIG, "depths": (3,)})


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"out: cannot write to .*file/study \(Not a directory\)"):
        Run.open(tmp_path / "file" / "study", CONFIG, resume=False)
