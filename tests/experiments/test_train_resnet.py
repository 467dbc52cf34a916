"""The training script: its folder, its resumption, and what it refuses."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx

from jaxact import analysis, models, training, wiring
from jaxact.experiments import StudyError, train_resnet
from jaxact.experiments.train_resnet import TrainResNet, _config, _network, _run

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "train_resnet.py"

SMALL = TrainResNet(
    width=16,
    depth=4,
    steps=12,
    warmup_steps=2,
    log_every=2,
    eval_every=5,
    checkpoint_every=4,
    measure_every=6,
    measure_examples=32,
    progress=False,
)

pytestmark = pytest.mark.usefixtures("standard_promotion")


def _with(folder, **changes):
    return dataclasses.replace(SMALL, out=folder, **changes)


@pytest.mark.slow
def test_folder_of_a_run(tmp_path):
    summary = train_resnet.run(_with(tmp_path / "run", ema_decay=0.9, label_smoothing=0.1))
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "summary.json",
        "network.safetensors",
        "table.parquet",
        "checkpoints",
        "cells",
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    rows = training.read_log(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    tests = [row for row in rows if "test_accuracy" in row]
    assert [row["step"] for row in tests] == [0, 5, 10, 12]
    assert all("ema_test_loss" in row for row in tests)
    ranks = [row for row in rows if "features/blocks/effective_rank" in row]
    assert [row["step"] for row in ranks] == [0, 6, 12]
    found = np.array([row["features/blocks/effective_rank"] for row in ranks])
    assert found.shape == (3, 4)
    assert np.all((found >= 1) & (found <= 16))
    assert summary["test_accuracy"] == tests[-1]["test_accuracy"]
    table = pd.read_parquet(folder / "table.parquet")
    rows = table[(table.quantity == "features/blocks/effective_rank") & (table.step == 12)]
    assert rows.layer.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(rows.value, found[-1])
    assert table[table.quantity == "loss"].layer.eq(0).all()
    # a run that is finished is not trained again
    config = _with(folder, ema_decay=0.9, label_smoothing=0.1, resume=True)
    assert train_resnet.run(config) == summary
    data = training.load("digits", seed=SMALL.seed)
    network = models.load(folder / "network.safetensors")
    x = jnp.asarray(data.test_x.reshape(360, -1))
    logits = models.apply(network, x, train=False).logits
    assert np.mean(np.argmax(logits, -1) == data.test_y) == pytest.approx(summary["test_accuracy"])


@pytest.mark.slow
def test_a_named_network(tmp_path):
    changes = dict(model="wrn_10_1", norm_placement="sandwich", stochastic_depth=0.2)
    changes |= dict(width=None, depth=None, steps=4, batch_size=16, eval_every=4)
    config = _with(tmp_path / "run", **changes, measure_every=4, ema_decay=0.9)
    told = []
    summary = train_resnet.run(config, sinks=[told.append])
    rows = training.read_log(tmp_path / "run" / "metrics.jsonl")
    assert [list(row) for row in rows] == [list(row) for row in told]
    ranks = [row for row in rows if "features/stage2.first/effective_rank" in row]
    assert [row["step"] for row in ranks] == [0, 4]
    assert 1 <= ranks[0]["features/stage2.first/effective_rank"][0] <= 32
    assert "ema_test_accuracy" in summary


@pytest.mark.slow
def test_a_run_cut_short_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    train_resnet.run(_with(tmp_path / "whole"))
    fetch = training.ArrayFeed.fetch

    def until(feed, start, count, size):
        if start >= 9:
            raise ConnectionError
        return fetch(feed, start, count, size)

    with monkeypatch.context() as patch:
        patch.setattr(training.ArrayFeed, "fetch", until)
        with pytest.raises(StudyError, match=r"training-12 first \(ConnectionError") as caught:
            train_resnet.run(_with(tmp_path / "parts"))
        assert isinstance(caught.value.__cause__, ConnectionError)
    with pytest.raises(StudyError, match=r"out: .* holds a study; pass --resume"):
        train_resnet.run(_with(tmp_path / "parts"))
    with pytest.raises(StudyError, match=r"learning_rate: .* 0.002 and cannot be resumed with 0.1"):
        train_resnet.run(_with(tmp_path / "parts", resume=True, learning_rate=0.1))
    train_resnet.run(_with(tmp_path / "parts", resume=True))
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_finished_run_is_prolonged(tmp_path, capsys):
    options = dict(schedule="constant", measure_every=None)
    train_resnet.run(_with(tmp_path / "whole", **options, steps=16))
    first = _with(tmp_path / "parts", **options)
    train_resnet.run(first)
    longer = dataclasses.replace(first, steps=16, resume=True)
    assert train_resnet.run(longer)["step"] == 16
    assert "holds a finished run of 12 steps: it is prolonged to 16" in capsys.readouterr().err
    whole, parts = (
        training.read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")
    )
    assert [row for row in parts if "loss" in row] == [row for row in whole if "loss" in row]
    assert pd.read_parquet(tmp_path / "parts" / "table.parquet").step.max() == 16
    assert json.loads((tmp_path / "parts" / "manifest.json").read_text())["earlier_steps"] == [12]
    with pytest.raises(
        StudyError, match=r"steps: .* started with 16 and cannot be resumed with 12"
    ):
        train_resnet.run(dataclasses.replace(first, resume=True))


def test_only_a_finished_run_of_fewer_steps_is_prolonged(tmp_path):
    config = _with(tmp_path, resume=True)
    assert not _run._prolongs(config)
    (tmp_path / "config.json").write_text('{"steps": 8}')
    assert not _run._prolongs(config)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "training-8.parquet").touch()
    assert _run._prolongs(config)
    assert not _run._prolongs(dataclasses.replace(config, steps=8))
    assert not _run._prolongs(dataclasses.replace(config, resume=False))


@pytest.mark.parametrize(("steps", "warmup"), [(1500, 50), (20, 2), (1, 0)])
def test_few_steps_have_a_short_warm_up(steps, warmup):
    config = TrainResNet(steps=steps)
    _config.validate(config)
    rate = _config.make_optimizer(config)[1]
    assert rate(warmup) == pytest.approx(config.learning_rate)
    assert rate(0) == (0 if warmup else pytest.approx(config.learning_rate))


@pytest.mark.slow
def test_a_folder_of_images_in_bfloat16(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("grain")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 80, (9, 7, 3), np.uint8) + np.uint8(150 * number)
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    summary = train_resnet.run(
        _with(
            tmp_path / "run",
            dataset=str(tmp_path / "images"),
            image_size=8,
            batch_size=8,
            steps=30,
            precision="bfloat16",
            flip=True,
            resized_crop=True,
            pad=0,
        )
    )
    assert summary["test_accuracy"] == 1.0


@pytest.mark.slow
def test_a_dataset_of_hugging_face(tmp_path, monkeypatch):
    pytest.importorskip("PIL.Image")
    pytest.importorskip("grain")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    datasets = pytest.importorskip("datasets")
    labels = [0, 1] * 20
    pixels = np.random.default_rng(0).integers(0, 80, (40, 9, 7), np.uint8)
    pixels += 150 * np.array(labels, np.uint8)[:, None, None]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["dark", "light"])
    )
    columns = {"image": list(pixels), "label": labels}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    changes = dict(image_size=8, batch_size=8, steps=20, pad=0)
    summary = train_resnet.run(
        _with(tmp_path / "run", dataset=f"hf:{tmp_path / 'saved'}", **changes)
    )
    assert summary["test_accuracy"] == 1.0
    with pytest.raises(StudyError, match=r"^dataset: dataset nobody/nothing cannot be l.*"):
        train_resnet.run(_with(tmp_path / "none", dataset="hf:nobody/nothing"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StudyError, match=r"^dataset: .*pip install 'jaxact\[hub\]'$"):
        train_resnet.run(_with(tmp_path / "none", dataset="hf:nobody/nothing"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=0), "width: must be at least 1; got 0"),
        (dict(model="vgg"), "model: must be .* got 'vgg'"),
        (dict(model="resnet5O", width=None, depth=None), "model: .* nearest: .*resnet50"),
        (dict(model="resnet50", depth=None), "width: must not be given with model resnet50"),
        (dict(stochastic_depth=1.0), "stochastic_depth: must be from 0 to below 1; got 1.0"),
        (dict(activation="rleu"), "activation: .*rleu"),
        (dict(norm_placement="sideways"), "norm_placement: must be .* got 'sideways'"),
        (dict(skip="both"), "skip: skip must be .* got 'both'"),
        (dict(norm="middle"), "norm: must be .* got 'middle'"),
        (dict(dataset="imagenet"), "dataset: must be 'digits' or .* got 'imagenet'"),
        (dict(batch_size=2000), "batch_size: must be from 1 to the 1437 examples; got 2000"),
        (dict(measure_examples=2000), "measure_examples: must be at most the 1437"),
        (dict(measure_examples=1), "measure_examples: must be at least 2; got 1"),
        (dict(optimizer="adagrad"), "optimizer: must be one of sgd, .* got 'adagrad'"),
        (dict(schedule="cyclic"), "schedule: must be one of constant, .* got 'cyclic'"),
        (dict(learning_rate=-1.0), "learning_rate: must be positive and finite; got -1.0"),
        (dict(learning_rate=float("nan")), "learning_rate: must be positive and finite; got nan"),
        (dict(warmup_steps=12), "warmup_steps: must be from 0 to steps - 1 = 11; got 12"),
        (dict(schedule="step", milestones=(2.0,)), "milestones: must be increasing shares"),
        (dict(momentum=1.5), "momentum: must be from 0 to below 1; got 1.5"),
        (dict(weight_decay=-1.0), "weight_decay: must be at least 0"),
        (dict(clip_norm=0.0), "clip_norm: must be positive"),
        (dict(label_smoothing=1.0), "label_smoothing: must be from 0 to below 1; got 1.0"),
        (dict(ema_decay=1.0), "ema_decay: must be from 0 to below 1; got 1.0"),
        (dict(test_share=1.0), "test_share: must be between 0 and 1; got 1.0"),
        (dict(pad=-1), "pad: must be at least 0; got -1"),
        (dict(seed=-1), "seed: must be at least 0; got -1"),
        (dict(seed=2**31), r"seed: must be less than 2\*\*31"),
        (dict(checkpoint_every=5), "checkpoint_every: must be a multiple of log_every, 2; got 5"),
        (dict(measures=("rank",)), "measures: must be among stable_rank, .* got 'rank'"),
        (dict(measure_every=0), "measure_every: must be at least 1; got 0"),
        (dict(devices=7), "devices: must be from 1 to the 1 "),
        (dict(devices=0), "devices: must be at least 1; got 0"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(StudyError, match=f"^{message}") as caught:
        train_resnet.run(_with(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    for resume in (False, True):
        with pytest.raises(StudyError, match=r"out: .* is not empty and holds no study"):
            train_resnet.run(_with(tmp_path, resume=resume))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_command_line(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def call(*args):
        return subprocess.run(
            [sys.executable, SCRIPT, *args], env=environment, capture_output=True, text=True
        )

    help_ = call("--help")
    assert help_.returncode == 0
    for field in dataclasses.fields(TrainResNet):
        assert f"--{field.name.replace('_', '-')}" in help_.stdout
    bad = call("--depth", "0", "--out", tmp_path / "run")
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1] == "error: depth: must be at least 1; got 0"
    assert call("--depth", "many").returncode == 2
    assert not (tmp_path / "run").exists()
    options = ["--preset", "quick", "--steps", "30", "--depth", "4", "--out", tmp_path / "run"]
    good = call(*options, "--optimizer", "sgd", "--learning-rate", "1e30", "--clip-norm", "None")
    assert good.returncode == 1
    assert "error: the loss is" in good.stderr


@pytest.mark.slow
def test_deep_pre_norm_trains_where_plain_does_not(tmp_path):
    config = TrainResNet(out=tmp_path / "pre", steps=300, width=48, progress=False)
    pre = train_resnet.run(config)
    plain = train_resnet.run(
        dataclasses.replace(
            config, skip="plain", norm="none", norm_placement="norm_free", out=tmp_path / "plain"
        )
    )
    print(pre, plain)
    assert pre["test_accuracy"] > 0.9
    assert plain["test_accuracy"] < 0.2
    assert plain["train_loss"] > 0.98 * np.log(10)


def test_each_of_two_streams_is_measured():
    net = models.MLPResNet(6, 3, width=4, depth=2, norm_placement="residual_dual", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, 6))
    network = training.functional(net)
    measure = _network.measurement(network, ("stable_rank",), x)
    key = jax.random.key(0)
    recipe = training.Recipe(network.apply, optax.sgd(0.1))
    found = measure(training.init(recipe, network.params, network.stats, key=key))
    stream, dual = models.apply(net, x, train=False, trace=True).traces["blocks"].output
    for number, h in enumerate((stream, dual), 1):
        expected = analysis.matrix_measures(h)["stable_rank"]
        np.testing.assert_allclose(
            found[f"features/blocks.{number}/stable_rank"], expected, rtol=1e-5
        )


def test_help_lists_the_words_of_wirings(capsys, monkeypatch):
    monkeypatch.setitem(wiring.PLACEMENTS, "late", wiring.PLACEMENTS["pre"])
    monkeypatch.setattr(sys, "argv", ["train_resnet", "--help"])
    with pytest.raises(SystemExit):
        train_resnet.main()
    page = " ".join(capsys.readouterr().out.split())
    assert "norm_free, late" in page
    assert "skip: identity, scaled, rezero," in page
