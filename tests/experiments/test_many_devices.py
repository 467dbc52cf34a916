"""The study on several devices and in several processes: the same table, nothing finished lost."""

import dataclasses
import signal
import socket
import time

import numpy as np
import pandas as pd
import pytest

from jaxact.experiments import rank_collapse
from jaxact.experiments.rank_collapse import RankCollapse

SMALL = RankCollapse(
    networks=("mlp",),
    activations=("tanh",),
    depths=(2,),
    seeds=(0, 1, 2, 3),
    width=8,
    steps=2,
    batch_size=8,
    examples=16,
    jacobian_examples=1,
    grid=2,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory, standard_promotion):
    """The table as one process makes it on one device."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    rank_collapse.run(dataclasses.replace(SMALL, out=folder))
    return pd.read_parquet(folder / "table.parquet")


def same(folder, table):
    other = pd.read_parquet(folder / "table.parquet")
    keys = [c for c in table.columns if c != "value"]
    assert other[keys].astype(str).equals(table[keys].astype(str))
    whole = table.quantity == "numerical_rank"
    np.testing.assert_array_equal(other.value[whole], table.value[whole])
    np.testing.assert_allclose(other.value, table.value, rtol=2e-3, atol=2e-3)


def test_seeds_over_eight_devices(alone, tmp_path, start, finish):
    finish(start(dataclasses.replace(SMALL, out=tmp_path / "study"), devices=8))
    same(tmp_path / "study", alone)


def test_two_processes_joined_by_jax_distributed(alone, tmp_path, start, finish):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    config = dataclasses.replace(SMALL, out=tmp_path / "study")
    both = [
        start(config, before=f"import jax; jax.distributed.initialize({address!r}, 2, {number})")
        for number in range(2)
    ]
    for process in both:
        finish(process)
    same(tmp_path / "study", alone)


def test_a_killed_process_costs_its_unfinished_cells_only(alone, tmp_path, start, finish):
    config = dataclasses.replace(SMALL, out=tmp_path / "study")
    shares = [start(dataclasses.replace(config, share=(number, 2))) for number in range(2)]
    cells = tmp_path / "study" / "cells"
    deadline = time.monotonic() + 300
    while not list(cells.glob("*-plain-*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shares[0].send_signal(signal.SIGKILL)
    shares[0].communicate()
    finish(shares[1])
    finished = {path: path.stat().st_mtime_ns for path in cells.glob("*.parquet")}
    assert not (tmp_path / "study" / "table.parquet").exists()
    finish(start(dataclasses.replace(config, resume=True)))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    same(tmp_path / "study", alone)
