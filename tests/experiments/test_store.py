"""A study's folder: files whole or absent, nothing overwritten, nothing finished redone."""

import dataclasses
import errno
import importlib.metadata
import json
import os

import pandas as pd
import pytest

from jaxact.experiments import Grid, Run, StudyError, _cli, manifest, run_grid
from jaxact.experiments._grid import product

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
    with pytest.raises(StudyError, match=r"holds a study; pass --resume"):
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


def test_resume_without_a_field_is_refused(tmp_path):
    Run.open(tmp_path, CONFIG, resume=False)
    with pytest.raises(StudyError, match=r"norm: the study in .* started with layer .* with None"):
        Run.open(tmp_path, {"depths": (1, 2)}, resume=True)


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


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"out: must be a folder; .*file is a file"):
        Run.open(tmp_path / "file", CONFIG, resume=False)


def test_resume_where_nothing_is_says_so(tmp_path, capsys):
    Run.open(tmp_path / "new", CONFIG, resume=True)
    assert "new to go on with: a new one starts" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
@pytest.mark.parametrize("text", ['{"depths": [1', "[]", "null", "3"])
def test_damaged_json_is_named(tmp_path, name, text):
    Run.open(tmp_path, CONFIG, resume=False)
    (tmp_path / name).write_text(text)
    with pytest.raises(StudyError, match=rf"out: .*{name} is damaged"):
        Run.open(tmp_path, CONFIG, resume=True)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    run = Run.open(tmp_path, CONFIG, resume=False)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError, match=r"cannot write .*/cells/one.parquet \(No space left on"):
        run.store("one", rows(1.0))
    assert not any(run.cells.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_a_command_in_one_sentence(code, capsys):
    def full():
        raise OSError(code, "No room", "/run/figures/ranks.png")

    assert _cli.command_line(full) == 2
    assert capsys.readouterr().err == "error: out: cannot write /run/figures/ranks.png (No room)\n"


def test_other_trouble_of_the_system_is_not_taken_for_a_full_disk():
    def refused():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    with pytest.raises(ConnectionRefusedError):
        _cli.command_line(refused)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:40] + b"x" * 20 + b[60:]]
)
def test_damaged_cells_are_set_aside_and_measured_again(tmp_path, capsys, damage):
    measured = []

    def measure(cells, prepared):
        measured.extend(cell["depth"] for cell in cells)
        return [rows(float(cell["depth"])) for cell in cells]

    grid = Grid(product({"depth": (1, 2, 3)}), ["depth"], lambda cell: f"d{cell['depth']}", measure)
    run = Run.open(tmp_path, CONFIG, resume=False)
    with _cli.Progress(3) as bar:
        assert run_grid(grid, run, bar)
    path = run.cells / "d2.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with _cli.Progress(3) as bar:
        assert run_grid(grid, Run.open(tmp_path, CONFIG, resume=True), bar)
    assert measured == [1, 2, 3, 2]
    assert (run.cells / "d2.parquet.corrupt").exists()
    assert "cell d2 is damaged" in capsys.readouterr().err
    assert run.table(grid.names).value.tolist()[::2] == [1.0, 2.0, 3.0]


def test_manifest_of_a_source_tree_that_is_not_installed(monkeypatch):
    version = importlib.metadata.version

    def without_jaxact(name):
        if name == "jaxact":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_jaxact)
    assert set(manifest()["packages"]) >= {"jaxact", "jax", "flax"}


def test_progress_is_a_line_a_cell_where_there_is_no_terminal(capsys):
    with _cli.Progress(3, done=1) as bar:
        bar.done("pre-8")
        bar.done("pre-64")
    assert capsys.readouterr().err == "pre-8 (2 of 3)\npre-64 (3 of 3)\n"


def test_tables_and_paragraphs_fit_a_terminal():
    names = [f"model.layers.{i}.self_attn.query_key_value_projection.kernel" for i in range(70)]
    frame = pd.DataFrame({"file": "runs_of_a_long_name_epoch_0001", "name": names})
    frame = frame.assign(effective_rank=1.23456, **{"jacobian, trained": float("nan")})
    frame = frame.assign(**{f"a_measure_{i}": 12.5 for i in range(4)})
    lines = _cli.as_text(frame, digits=3).splitlines()
    assert len(lines) == 72
    assert max(map(len, lines)) <= 100
    assert "effective" in lines[0]
    assert "rank" in lines[1]
    assert "runs_of…name_epoch_0001" in lines[2]
    assert "model…ion.kernel      1.23 " in lines[2]
    assert " - " in lines[2]
    assert "Empty" in _cli.as_text(frame[:0], digits=3)
    short = frame[["name", "effective_rank"]]
    assert names[3] in _cli.as_text(short, digits=3)
    assert len(_cli.as_text(short, digits=3, rows=10).splitlines()) < 20
    text = _cli.paragraph("word " * 80, indent="    ").splitlines()
    assert max(map(len, text)) <= 100
    assert [len(line) - len(line.lstrip()) for line in text[:2]] == [4, 6]


class TestGrid:
    """The runner: groups, shares, and what is finished."""

    CELLS = product({"depth": (1, 2), "activation": ("relu", "tanh", "gelu")})

    def grid(self, log, fail_at=None, error: type[BaseException] = KeyboardInterrupt):
        def measure(cells, prepared):
            for cell in cells:
                if cell == fail_at:
                    raise error
                log.append((prepared, tuple(cell.values())))
                yield pd.DataFrame({"value": [cell["depth"]], "of": [cell["activation"]]})

        return Grid(
            self.CELLS,
            ("depth",),
            lambda cell: "-".join(map(str, cell.values())),
            measure,
            lambda cells: f"{len(cells)} of depth {cells[0]['depth']}",
        )

    def run(self, grid, folder, **options):
        run = Run.open(folder, CONFIG, resume=True)
        with _cli.Progress(len(grid.cells)) as bar:
            return run_grid(grid, run, bar, **options), run

    def test_groups_are_prepared_once_and_cells_stored_in_order(self, tmp_path):
        log = []
        whole, run = self.run(self.grid(log), tmp_path)
        assert whole
        assert [prepared for prepared, _ in log] == ["3 of depth 1"] * 3 + ["3 of depth 2"] * 3
        table = run.table(self.grid([]).names)
        assert table.value.tolist() == [1, 1, 1, 2, 2, 2]
        assert table.of.tolist() == ["relu", "tanh", "gelu"] * 2

    def test_what_is_finished_is_not_done_again(self, tmp_path):
        log = []
        stop = {"depth": 2, "activation": "tanh"}
        with pytest.raises(KeyboardInterrupt):
            self.run(self.grid(log, fail_at=stop), tmp_path)
        assert len(log) == 4
        assert self.run(self.grid(log), tmp_path)[0]
        assert [cell for _, cell in log] == [tuple(cell.values()) for cell in self.CELLS]
        assert log[-1][0] == "2 of depth 2"

    def test_a_failing_cell_costs_no_other(self, tmp_path, capsys):
        log = []
        grid = self.grid(log, fail_at={"depth": 1, "activation": "tanh"}, error=MemoryError)
        for attempt in range(2):
            with pytest.raises(StudyError, match=r"1 of 6 cells .* 1-tanh first \(MemoryError"):
                self.run(grid, tmp_path)
            assert "in measure" in capsys.readouterr().err, attempt
        assert [cell for _, cell in log] == [
            tuple(cell.values()) for cell in self.CELLS if tuple(cell.values()) != (1, "tanh")
        ]
        assert self.run(self.grid(log), tmp_path)[0]
        assert log[-1][1] == (1, "tanh")

    def test_a_full_disk_ends_it_at_once(self, tmp_path, capsys):
        def measure(cells, prepared):
            raise OSError(errno.ENOSPC, "No room", "log")

        with pytest.raises(OSError, match="No room: 'log'"):
            self.run(dataclasses.replace(self.grid([]), measure=measure), tmp_path)
        assert "Traceback" not in capsys.readouterr().err

    def test_a_group_that_cannot_be_prepared_costs_no_other(self, tmp_path):
        def prepare(cells):
            if cells[0]["depth"] == 1:
                raise RuntimeError("out of memory")

        log = []
        grid = dataclasses.replace(self.grid(log), prepare=prepare)
        with pytest.raises(StudyError, match=r"3 of 6 cells .*, 1-relu first \(RuntimeError: out"):
            self.run(grid, tmp_path)
        assert [cell[0] for _, cell in log] == [2, 2, 2]

    @pytest.mark.parametrize("count", [2, 4])
    def test_rows_for_other_than_the_cells_are_said(self, tmp_path, count):
        rows = [pd.DataFrame({"value": [1.0]})] * count
        grid = dataclasses.replace(self.grid([]), measure=lambda cells, prepared: rows)
        with pytest.raises(StudyError, match=r"ValueError: zip\(\) argument 2 is"):
            self.run(grid, tmp_path)

    def test_cells_have_names_of_their_own(self):
        with pytest.raises(ValueError, match="name must tell cells apart; '1' is of several"):
            Grid(self.CELLS, ("depth",), lambda cell: str(cell["depth"]), lambda *_: [])
        with pytest.raises(ValueError, match="cells must be at least one"):
            Grid([], ("depth",), str, lambda *_: [])

    @pytest.mark.parametrize("share", [(2, 2), (0, 0), (-1, 2)])
    def test_shares_that_are_none(self, tmp_path, share):
        with pytest.raises(StudyError, match="share: must be I N with 0 <= I < N"):
            self.run(self.grid([]), tmp_path, share=share)

    def test_shares_make_the_whole(self, tmp_path):
        logs = [[], []]
        assert not self.run(self.grid(logs[1]), tmp_path, share=(1, 2))[0]
        assert self.run(self.grid(logs[0]), tmp_path, share=(0, 2))[0]
        assert {cell[0] for _, cell in logs[0]} == {1}
        assert {cell[0] for _, cell in logs[1]} == {2}
