"""Data sets and the training loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jaxact import training


def test_digits_are_sklearns_and_standardized():
    data = training.load("digits")
    images = np.concatenate([data.train_x, data.test_x])[..., 0].reshape(1797, -1)
    scale = np.ptp(load_digits().data) / np.ptp(images)
    recovered = np.rint((images - images.min()) * scale).astype(int)
    expected = load_digits().data.astype(int)
    np.testing.assert_array_equal(
        recovered[np.lexsort(recovered.T)], expected[np.lexsort(expected.T)]
    )
    assert abs(data.train_x.mean()) < 1e-5
    assert abs(data.train_x.std() - 1) < 1e-5
    counts = np.bincount(data.test_y) / np.bincount(np.r_[data.train_y, data.test_y])
    np.testing.assert_allclose(counts, 0.2, atol=0.01)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_file_is_named(tmp_path, save):
    path = tmp_path / "cut short.npz"
    save(path, x=np.random.default_rng(0).normal(size=(40, 4, 4)), y=np.arange(40) % 2)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[1000:1100] = bytes(100)
    for content in (b"", whole[:200], bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cut short\.npz must be a whole \.npz file"):
            training.load(str(path))


def test_npz_file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, x=rng.normal(size=(40, 3, 5)), y=np.repeat([3, 7], 20))
    data = training.load(str(path))
    assert data.train_x.shape == (32, 3, 5, 1)
    assert data.num_classes == 2
    assert set(data.train_y) == {0, 1}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(x=np.zeros((4, 2, 2))), "must hold arrays x and y"),
        (dict(x=np.zeros((4, 2)), y=np.zeros(4, int)), "must have x of shape"),
        (dict(x=np.zeros((4, 2, 2)), y=np.zeros(4)), "integer labels"),
        (dict(x=np.full((4, 2, 2), np.nan), y=np.zeros(4, int)), "NaN"),
        (dict(x=np.zeros((8, 2, 2)), y=np.repeat([0, 1], 4)), "all alike"),
    ],
)
def test_bad_files_are_refused(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        training.load(str(path), test_share=0.5)


def test_unknown_dataset():
    with pytest.raises(ValueError, match=r"'digits' or the path .* got 'mnist'"):
        training.load("mnist")


class TestArrays:
    """Data sets that are no name and no file."""

    def arrays(self):
        rng = np.random.default_rng(0)
        return rng.normal(size=(40, 3, 5)), np.repeat([3, 7], 20)

    def test_a_pair_and_batches_of_pairs_are_one_data_set(self):
        x, y = self.arrays()
        whole = training.load((x, y))
        assert whole.train_x.shape == (32, 3, 5, 1)
        batches = ((x[i : i + 7], y[i : i + 7]) for i in range(0, 40, 7))
        chex.assert_trees_all_equal(training.load(batches), whole)
        two = training.load(iter([(x[:20], y[:20]), (x[20:], y[20:])]))
        chex.assert_trees_all_equal(two, whole)
        assert training.load(whole) is whole

    def test_a_name_that_was_added(self, monkeypatch):
        with pytest.raises(ValueError, match="got 'mine'"):
            training.load("mine")
        monkeypatch.setitem(training.DATASETS, "mine", self.arrays)
        assert training.load("mine").num_classes == 2

    @pytest.mark.parametrize("bad", [[], [np.ones(3)], [(np.ones(3),)]], ids=str)
    def test_what_is_no_pair(self, bad):
        with pytest.raises(ValueError, match="must be a pair of arrays x and y, or an iterable"):
            training.load(bad)


def test_a_folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            image.new("RGB", (6, 6), (i, i, i)).save(tmp_path / name / f"{i}.png")
    found = training.load(str(tmp_path), size=4)
    assert found.classes == ("a", "b")
    assert (len(found.train), len(found.test)) == (8, 2)
    assert found.train[0][0].shape == (4, 4, 3)


def test_every_epoch_is_a_permutation():
    order = training.batch_order(jax.random.key(0), 10, steps=7, batch_size=3)
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(np.ravel(epoch).tolist())) == 9
    assert not np.array_equal(order[:3], order[3:6])


@pytest.mark.parametrize("batch_size", [0, 11])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 10 examples"):
        training.batch_order(jax.random.key(0), 10, steps=1, batch_size=batch_size)


def _regression():
    x = jax.random.normal(jax.random.key(1), (12, 3))
    y = jnp.arange(12) % 2

    def loss(w, x, y):
        return jnp.mean(jnp.square(x @ w - y.astype(x.dtype)))

    return loss, jnp.zeros(3), x, y


def test_fit_is_plain_gradient_descent():
    loss, w, x, y = _regression()
    fit = training.fit(
        loss, w, x, y, optimizer=optax.sgd(0.1), steps=5, batch_size=12, key=jax.random.key(0)
    )
    losses = []
    for _ in range(5):
        residual = x @ w - y.astype(x.dtype)
        losses.append(jnp.mean(residual**2))
        w = w - 0.1 * 2 / 12 * x.T @ residual
    chex.assert_trees_all_close(fit.params, w, rtol=1e-5)
    chex.assert_trees_all_close(fit.losses, jnp.stack(losses), rtol=1e-5)


def test_fit_vmaps_over_keys_and_does_nothing_in_no_steps(standard_promotion):
    loss, w, x, y = _regression()

    def fit(key, steps=4):
        return training.fit(
            loss, w, x, y, optimizer=optax.adam(0.1), steps=steps, batch_size=4, key=key
        )

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(fit))(keys)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[1], both), fit(keys[1]), rtol=1e-5)
    none = fit(keys[0], steps=0)
    chex.assert_trees_all_equal(none.params, w)
    assert none.losses.shape == (0,)


def test_loss_and_accuracy():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(
        training.cross_entropy(logits, labels), -(np.log(0.5) + np.log(0.1)) / 2, rtol=1e-6
    )
    assert training.accuracy(logits, labels) == 0.5
    assert training.accuracy(logits.at[0, 0].set(jnp.nan), labels) == 0
