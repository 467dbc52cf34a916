"""Studies and training on several devices and in several processes: the same numbers."""

import dataclasses
import signal
import socket
import time

import numpy as np
import pandas as pd
import pytest

from jaxact import training
from jaxact.experiments import rank_collapse, train_resnet
from jaxact.experiments.rank_collapse import RankCollapse
from jaxact.experiments.train_resnet import TrainResNet

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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


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


@pytest.fixture
def in_two_processes(start, finish):
    """``in_two_processes(config, devices=1)``: runs a study in two processes that are joined."""

    def run(config, devices=1):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        join = "import jax; jax.distributed.initialize({!r}, 2, {})"
        both = [start(config, devices, join.format(address, number)) for number in range(2)]
        for process in both:
            finish(process)

    return run


def test_two_processes_joined_by_jax_distributed(alone, tmp_path, in_two_processes):
    in_two_processes(dataclasses.replace(SMALL, out=tmp_path / "study"))
    same(tmp_path / "study", alone)


def test_training_from_files_in_two_processes_of_two_devices(tmp_path, in_two_processes):
    """Each reads half of every batch; parameters and optimizer state lie in four parts."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("grain")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    config = TrainResNet(
        width=8,
        depth=2,
        dataset=str(tmp_path / "images"),
        image_size=4,
        steps=8,
        batch_size=8,
        warmup_steps=2,
        pad=0,
        log_every=2,
        eval_every=4,
        checkpoint_every=4,
        progress=False,
    )
    train_resnet.run(dataclasses.replace(config, out=tmp_path / "one"))
    several = dataclasses.replace(config, devices=4, shard_state=True, out=tmp_path / "four")
    in_two_processes(several, devices=2)
    one, four = (training.read_log(tmp_path / name / "metrics.jsonl") for name in ("one", "four"))
    assert [row.keys() for row in one] == [row.keys() for row in four]
    for expected, found in zip(one, four, strict=True):
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3)
    train_resnet.run(dataclasses.replace(several, devices=1, shard_state=False, resume=True))


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
