"""Runs: the loop against single steps, what happens between chunks, and exact resumption."""

import errno
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxact import training

KEY = jax.random.key(5)


@pytest.fixture
def begin(network, data):
    """A function that makes recipe, first state and feed."""

    def make(**options):
        recipe = training.Recipe(network.apply, optax.sgd(0.1, 0.9), ema_decay=0.9, **options)
        feed = training.ArrayFeed(*data, batch_size=16, key=KEY)
        return recipe, training.init(recipe, network.params, network.stats, key=KEY), feed

    return make


def _unkeyed(state):
    return state._replace(key=jax.random.key_data(state.key))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_run_is_its_steps(begin, chunk):
    recipe, state, feed = begin(learning_rate=optax.linear_schedule(1.0, 0.0, 20))
    rows = []
    last = training.train(
        recipe, begin()[1], feed, steps=17, log=rows.append, log_every=5, chunk=chunk
    )
    losses = []
    one = jax.jit(functools.partial(training.step, recipe))
    for i in range(17):
        state, metrics = one(state, *feed.take(feed.fetch(i, 1, 1), 0))
        losses.append(float(metrics.loss))
    chex.assert_trees_all_close(_unkeyed(last), _unkeyed(state), rtol=1e-4, atol=1e-6)
    assert [row["step"] for row in rows] == [5, 10, 15, 17]
    means = [np.mean(losses[a:b]) for a, b in ((0, 5), (5, 10), (10, 15), (15, 17))]
    np.testing.assert_allclose([row["loss"] for row in rows], means, rtol=1e-4)
    np.testing.assert_allclose(rows[1]["learning_rate"], 1 - 9 / 20, rtol=1e-6)


def test_step_is_compiled_once_for_chunks_of_every_length(begin):
    recipe, state, feed = begin()
    traces = []

    def apply(*args, **options):
        traces.append(options["train"])
        return recipe.apply(*args, **options)

    counted = training.Recipe(apply, recipe.optimizer, ema_decay=0.9)
    state = training.train(counted, state, feed, steps=3, log_every=3)
    per_compile = len(traces)
    state = training.train(counted, state, feed, steps=40, log_every=7, chunk=6)
    assert len(traces) == 2 * per_compile


def test_observers_and_checkpoints_come_when_due(begin):
    recipe, state, feed = begin()
    seen = []
    training.train(
        recipe,
        state,
        feed,
        steps=10,
        log=lambda row: seen.append((row["step"], *(k for k in ("loss", "a", "b") if k in row))),
        log_every=4,
        observers=[
            training.Observer(3, lambda s: {"a": int(s.step)}),
            training.Observer(100, lambda s: {"b": int(s.step)}),
        ],
        checkpoint=lambda s: seen.append((int(s.step), "save")),
        checkpoint_every=8,
    )
    a, b, loss, save = "a", "b", "loss", "save"
    assert seen == [
        *((0, a), (0, b), (3, a), (4, loss), (6, a), (8, loss), (8, save), (9, a)),
        *((10, loss), (10, a), (10, b), (10, save)),
    ]


def test_scorer_reports_the_averages_too(begin, data):
    recipe, state, feed = begin()
    state = training.train(recipe, state, feed, steps=5)
    found = training.scorer(recipe, *data, batch_size=20)(state)
    for prefix, params, stats in (("", state.params, state.stats), ("ema_", *state.ema)):
        loss, accuracy = training.evaluate(recipe, params, stats, *data, batch_size=50)
        np.testing.assert_allclose(found[f"{prefix}test_loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(found[f"{prefix}test_accuracy"], accuracy, rtol=1e-5)


def test_divergence_is_logged_and_raised(begin, network):
    _, _, feed = begin()
    recipe = training.Recipe(network.apply, optax.sgd(float("inf")))
    state = training.init(recipe, network.params, network.stats, key=KEY)
    rows = []
    with pytest.raises(FloatingPointError, match="the loss is nan in the 4 steps up to 4"):
        training.train(recipe, state, feed, steps=20, log=rows.append, log_every=4)
    assert len(rows) == 1
    assert np.isnan(rows[0]["loss"])


def test_no_steps_measure_the_first_state_only(begin):
    recipe, state, feed = begin()
    rows = []
    observers = [training.Observer(1, lambda s: {"a": 1.0})]
    last = training.train(recipe, state, feed, steps=0, log=rows.append, observers=observers)
    chex.assert_trees_all_equal(_unkeyed(last), _unkeyed(begin()[1]))
    assert rows == [{"step": 0, "a": 1.0}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(steps=-1), "steps must be at least 0; got -1"),
        (dict(log_every=0), "log_every must be at least 1; got 0"),
        (dict(chunk=0), "chunk must be at least 1; got 0"),
        (dict(observers=[training.Observer(0, dict)]), "observer's every must be at least 1"),
        (dict(checkpoint_every=50), "must be given together"),
        (dict(checkpoint_every=30, checkpoint=id), "multiple of log_every=50; got 30"),
        (dict(checkpoint_every=75, checkpoint=id), "multiple of log_every=50; got 75"),
    ],
)
def test_bad_intervals(begin, options, message):
    with pytest.raises(ValueError, match=message):
        training.train(*begin(), **{"steps": 1, **options})


PARALLEL = """
import chex, jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh
from jaxact import training

assert jax.device_count() == 4
x = jax.random.normal(jax.random.key(3), (64, 4))
y = jnp.argmax(x[:, :3], axis=-1)
params = {"a": jax.random.normal(jax.random.key(0), (4, 8)) / 2,
          "b": jax.random.normal(jax.random.key(1), (8, 3)) / 3}

def apply(params, stats, x, /, *, train, key):
    h = x @ params["a"]
    mean = jnp.mean(h, axis=0) if train else stats
    return jnp.tanh(h - mean) @ params["b"], 0.9 * stats + 0.1 * mean

recipe = training.Recipe(apply, optax.adam(1e-2))
ends, rows = [], []
four = Mesh(np.array(jax.devices()), ("data",))
for mesh, shard in ((None, False), (four, False), (four, True)):
    state = training.init(recipe, params, jnp.zeros(8), key=jax.random.key(0))
    feed = training.ArrayFeed(x, y, batch_size=16, key=jax.random.key(1))
    found = []
    ends.append(training.train(
        recipe, state, feed, steps=12, log=found.append, log_every=4, mesh=mesh,
        shard_state=shard))
    rows.append(found)
assert ends[1].params["a"].sharding.is_fully_replicated
assert len(ends[1].params["a"].sharding.device_set) == 4
assert ends[2].params["a"].addressable_shards[0].data.shape == (4, 2)
assert ends[2].opt_state[0].mu["b"].addressable_shards[0].data.shape == (2, 3)
chex.assert_trees_all_close(*(jax.device_get((e.params, e.stats)) for e in ends), rtol=1e-4,
                            atol=1e-6)
chex.assert_trees_all_close(*rows, rtol=1e-4)

# a checkpoint of four devices' shares goes on, to the bit, on two, on one, and replicated
import pathlib, sys
two = Mesh(np.array(jax.devices()[:2]).reshape(2, 1), ("data", "model"))
with training.Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    checkpoints.save(ends[2])
    checkpoints.wait()
    start = training.init(recipe, params, jnp.zeros(8), key=jax.random.key(0))
    for like in (start, training.place(start, two, shard_state=True), training.place(start, four)):
        found = checkpoints.restore(like)
        assert found.params["a"].sharding == like.params["a"].sharding
        chex.assert_trees_all_equal(
            *(jax.device_get(s._replace(key=jax.random.key_data(s.key))) for s in (found, ends[2]))
        )
"""


@pytest.mark.slow
def test_a_batch_and_a_state_split_over_devices_give_the_same(tmp_path):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run(
        [sys.executable, "-c", PARALLEL, tmp_path], env=environment, check=True, timeout=240
    )


def test_array_feed_goes_through_all_examples_each_epoch(data):
    x, y = data
    feed = training.ArrayFeed(x, y, batch_size=16, key=KEY)
    assert feed.steps_per_epoch == 3
    batches = feed.fetch(0, 9, 12)
    orders = np.asarray(batches[2])[:9].reshape(3, 48)
    for order in orders:
        assert len(set(order.tolist())) == 48
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(feed.fetch(4, 2, 2)[2], np.asarray(batches[2])[4:6])
    found_x, found_y = feed.take(batches, 4)
    np.testing.assert_array_equal(found_x, x[orders[1, 16:32]])
    np.testing.assert_array_equal(found_y, y[orders[1, 16:32]])
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 50 examples; got 51"):
        training.ArrayFeed(x, y, batch_size=51, key=KEY)


def test_checkpoint_keeps_every_bit(begin, tmp_path):
    recipe, state, feed = begin(compute_dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        state = training.train(recipe, state, feed, steps=3)
    state = state._replace(params=jax.tree.map(lambda a: a.astype(jnp.bfloat16), state.params))
    like = jax.tree.map(lambda a: a, state)
    with training.Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(ValueError, match="holds no checkpoint"):
            checkpoints.restore(like)
        checkpoints.save(state)
    with training.Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.latest() == 3
        found = checkpoints.restore(like)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
    chex.assert_trees_all_equal(_unkeyed(found), _unkeyed(state))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write 5 bytes: No space left on device"),
    ],
)
def test_a_full_disk_is_told_and_leaves_no_half_of_a_checkpoint(begin, tmp_path, error):
    half = tmp_path / "3.orbax-checkpoint-tmp"

    def full(*_, **__):
        half.mkdir()
        raise error

    with training.Checkpoints(tmp_path) as checkpoints:
        checkpoints._manager.save = full
        with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}'"):
            checkpoints.save(begin()[1])
    assert not half.exists()


def test_save_does_not_hold_on_to_donated_buffers(begin, tmp_path):
    recipe, state, feed = begin()
    kept = []

    def save(state):
        kept.append(jax.tree.map(np.array, _unkeyed(state)))
        checkpoints.save(state)

    with training.Checkpoints(tmp_path, keep=20) as checkpoints:
        training.train(
            recipe, state, feed, steps=10, log_every=1, checkpoint=save, checkpoint_every=1
        )
        checkpoints.wait()
        for expected in kept:
            found = checkpoints.restore(begin()[1], step=int(expected.step))
            chex.assert_trees_all_equal(_unkeyed(found), expected)


def test_only_the_newest_checkpoints_are_kept(begin, tmp_path):
    with training.Checkpoints(tmp_path, keep=2) as checkpoints:
        training.train(
            *begin(), steps=5, log_every=1, checkpoint=checkpoints.save, checkpoint_every=1
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5"]
    with pytest.raises(ValueError, match="keep must be at least 1; got 0"):
        training.Checkpoints(tmp_path, keep=0)


# Orbax drops a reader half way; when the collector meets it, it warns, here or in pytest.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("damaged", ["_METADATA", "manifest.ocdbt", "d"])
def test_a_damaged_newest_checkpoint_costs_itself_only(begin, tmp_path, damaged):
    """What a full disk or a copy cut short leaves: the one before is taken, and said so."""
    with training.Checkpoints(tmp_path, keep=3) as checkpoints:
        state = training.train(
            *begin(), steps=4, log_every=2, checkpoint=checkpoints.save, checkpoint_every=2
        )
    files = [p for p in (tmp_path / "4").rglob("*") if p.is_file()]
    hit = [p for p in files if damaged in (p.name, p.parent.name)]
    assert hit
    for path in hit:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with training.Checkpoints(tmp_path, keep=3) as checkpoints:
        with pytest.warns(UserWarning, match="4 is damaged; an earlier one is taken"):
            found = checkpoints.restore(begin()[1])
        assert found.step == 2
        assert checkpoints.latest() == 2
        checkpoints.save(state)
    with training.Checkpoints(tmp_path, keep=3) as checkpoints:
        chex.assert_trees_all_equal(_unkeyed(checkpoints.restore(begin()[1])), _unkeyed(state))


def test_checkpoint_of_another_network_is_refused(begin, tmp_path, network):
    recipe, state, _ = begin()
    with training.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        wider = jax.tree.map(lambda a: jnp.concatenate([a, a]), network.params)
        other = training.init(recipe, wider, network.stats, key=KEY)
        with pytest.raises(ValueError, match=r"another network .*bias has shape \(8,\)"):
            checkpoints.restore(other)
        plain = training.Recipe(network.apply, optax.sgd(0.1))
        other = training.init(plain, network.params, network.stats, key=KEY)
        with pytest.raises(ValueError, match="another network or optimizer: it has besides"):
            checkpoints.restore(other)


def _run(begin, folder, steps, *, chunk=6):
    """What a script does: go on from the newest checkpoint, if there is one."""
    recipe, state, feed = begin()
    recipe = training.Recipe(
        recipe.apply,
        recipe.optimizer,
        ema_decay=0.9,
        augment=lambda key, x: x + 0.1 * jax.random.normal(key, x.shape),
    )
    with training.Checkpoints(folder / "checkpoints") as checkpoints:
        latest = checkpoints.latest()
        if latest is not None:
            state = checkpoints.restore(state)
        with training.JsonLines(folder / "metrics.jsonl", after=latest) as log:
            state = training.train(
                recipe,
                state,
                feed,
                steps=steps,
                log=log,
                log_every=2,
                observers=[
                    training.Observer(5, lambda s: {"weight": np.asarray(s.params["in"]["bias"])})
                ],
                checkpoint=checkpoints.save,
                checkpoint_every=8,
                chunk=chunk,
            )
    return state


def test_stopped_and_resumed_is_the_same_to_the_bit(begin, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = _run(begin, tmp_path / "whole", 40)

    def dying(stop, **options):
        """The same, lost when the batches of step ``stop`` are asked for."""
        recipe, state, feed = begin(**options)
        fetch = feed.fetch

        def until(start, count, size):
            if start >= stop:
                raise ConnectionError
            return fetch(start, count, size)

        feed.fetch = until
        return recipe, state, feed

    for stop in (11, 25, 26):
        with pytest.raises(ConnectionError):
            _run(functools.partial(dying, stop), tmp_path / "parts", 40)
    resumed = _run(begin, tmp_path / "parts", 40)
    chex.assert_trees_all_equal(_unkeyed(resumed), _unkeyed(whole))
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") == 20 + 1 + 8
    again = _run(begin, tmp_path / "parts", 40)
    chex.assert_trees_all_equal(_unkeyed(again), _unkeyed(whole))
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == logs[0]


VICTIM = """
import pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np, optax
from jaxact import training

folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
x = jax.random.normal(jax.random.key(3), (50, 4))
y = jnp.argmax(x[:, :3], axis=-1)
params = {"a": jax.random.normal(jax.random.key(0), (4, 300)) / 2,
          "b": jax.random.normal(jax.random.key(1), (300, 3)) / 17}

def apply(params, stats, x, /, *, train, key):
    return jnp.tanh(x @ params["a"]) @ params["b"], stats

recipe = training.Recipe(apply, optax.adam(1e-2), ema_decay=0.9, augment=training.compose(
    lambda key, x: x + 0.1 * jax.random.normal(key, x.shape)))
state = training.init(recipe, params, {}, key=jax.random.key(0))
feed = training.ArrayFeed(x, y, batch_size=16, key=jax.random.key(1))
with training.Checkpoints(folder / "checkpoints") as checkpoints:
    latest = checkpoints.latest()
    state = state if latest is None else checkpoints.restore(state)
    with training.JsonLines(folder / "metrics.jsonl", after=latest) as log:
        def slow(row):
            log(row)
            time.sleep(0.004)
        training.train(recipe, state, feed, steps=300, log=slow, log_every=1,
                       checkpoint=checkpoints.save, checkpoint_every=10, chunk=3)
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_is_the_same_to_the_bit(tmp_path):
    def start(name):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.Popen([sys.executable, "-c", VICTIM, tmp_path / name], env=environment)

    def lines(name):
        path = tmp_path / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    assert start("whole").wait(timeout=120) == 0
    rng = random.Random()  # other moments in every run of the tests
    kills = 0
    for _ in range(2):
        process = start("killed")
        deadline = time.monotonic() + 120
        aim = rng.randrange(10, 200)
        before = lines("killed")
        seen = False
        while process.poll() is None and time.monotonic() < deadline:
            # once the process has cut the log to its checkpoint, or gone beyond what was there
            seen = seen or lines("killed") != before
            if seen and lines("killed") >= min(before + aim, 295):
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        code = process.wait(timeout=60)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills, "no process was killed before it ended"
    assert start("killed").wait(timeout=120) == 0
    found, expected = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in ("killed", "whole"))
    assert expected.count(b"\n") == 300
    assert found == expected
    _same_files(tmp_path / "whole" / "checkpoints", tmp_path / "killed" / "checkpoints")


def _same_files(a: pathlib.Path, b: pathlib.Path) -> None:
    """Both folders hold the same checkpoints, and nothing half written."""
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
