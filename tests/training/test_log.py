"""Rows on the disk: whole, once, and readable by others."""

import errno
import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import training


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with training.JsonLines(tmp_path / "metrics.jsonl") as log:
        monkeypatch.setattr(log, "_file", types.SimpleNamespace(write=full, close=log._file.close))
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'"):
            log({"step": 1})


def test_rows_are_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with training.JsonLines(path) as log:
        log({"step": 1, "loss": np.float32(0.1), "ranks": jnp.array([1.5, math.inf]), "tag": "a"})
        log({"step": 2, "loss": math.nan, "more": {"x": [np.int64(3), None, True]}})
        log.sync()
        lines = path.read_text().splitlines()

    def refuse(constant):
        raise AssertionError(constant)

    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows == training.read_log(path)
    assert rows[0] == {"step": 1, "loss": 0.1, "ranks": [1.5, None], "tag": "a"}
    assert rows[1] == {"step": 2, "loss": None, "more": {"x": [3, None, True]}}


@pytest.mark.parametrize("end", [b"", b'{"step": 4, "lo', b'{"step": 4, "loss": 1}'])
@pytest.mark.parametrize("after", [None, 0, 2, 9])
def test_going_on_drops_what_comes_later_and_what_is_half_written(tmp_path, end, after):
    path = tmp_path / "metrics.jsonl"
    with training.JsonLines(path) as log:
        for step in (0, 1, 2, 2, 3):
            log({"step": step})
    path.write_bytes(path.read_bytes() + end)
    with training.JsonLines(path, after=after) as log:
        log({"step": 10})
    kept = [s for s in (0, 1, 2, 2, 3) if after is not None and s <= after]
    assert [row["step"] for row in training.read_log(path)] == [*kept, 10]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_numbers_of_float32_keep_their_bits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    bits = np.random.default_rng(0).integers(0, 2**32, 3000, np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    half = values[np.abs(values) < 6e4].astype(np.float16)
    with training.JsonLines(path) as log:
        log({"step": 0, "single": values, "half": half, "double": values.astype(np.float64) / 3})
    (row,) = training.read_log(path)
    np.testing.assert_array_equal(np.array(row["single"]).astype(np.float32), values)
    np.testing.assert_array_equal(np.array(row["half"]).astype(np.float16), half)
    np.testing.assert_array_equal(np.array(row["double"]), values.astype(np.float64) / 3)


def test_reading_while_a_line_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step"')
    assert training.read_log(path) == [{"step": 1}]


def test_scalars_for_a_writer_are_the_same_numbers():
    found = []

    class Writer:
        def add_scalar(self, name, value, step):
            found.append((step, name, float(value)))

    write = training.tee([training.scalars(Writer()), lambda row: None])
    write({"step": 3, "loss": 0.5, "name": "x", "rank": np.array([1.0, 2.0])})
    assert found == [(3, "loss", 0.5), (3, "rank/1", 1.0), (3, "rank/2", 2.0)]
