"""Flax's own guides, each with a network of this package in place of theirs."""

import inspect

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxact import models


def cifar(**changes):
    """A small ResNet as CIFAR's, with a block that leads and one that is stacked."""
    small = dict(depths=(1, 2), widths=(4, 8), strides=(1, 2), rngs=nnx.Rngs(0))
    return models.create("cifar_resnet20", **small | changes)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (8, 8, 8, 3))


@pytest.fixture(scope="module")
def labels():
    return jnp.arange(8) % 4


def loss_of(network, x, y):
    logits = network(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits


def flat(tree):
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(tree)}


WITH_VIEWS = pytest.mark.skipif(not hasattr(nnx, "view"), reason="nnx.view came after Flax 0.11")
WITH_CAPTURE = pytest.mark.skipif(
    tuple(map(int, flax.__version__.split(".")[:3])) < (0, 12, 12),
    reason="Flax 0.12.8 cannot sort what is captured beside the items of a list",
)


@WITH_VIEWS
class TestMnistTutorial:
    def test_training(self, images, labels, standard_promotion):
        """The tutorial's step and evaluation: optimizer, metrics, `nnx.jit`, two views."""
        network = cifar()
        optimizer = nnx.Optimizer(network, optax.adamw(1e-2), wrt=nnx.Param)
        metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

        @nnx.jit
        def train_step(network, optimizer, metrics, x, y):
            (loss, logits), grads = nnx.value_and_grad(loss_of, has_aux=True)(network, x, y)
            metrics.update(loss=loss, logits=logits, labels=y)
            optimizer.update(network, grads)

        training = nnx.view(network, deterministic=False, use_running_average=False)
        evaluation = nnx.view(network, deterministic=True, use_running_average=True)
        before = evaluation(images)
        losses = []
        for _ in range(12):
            train_step(training, optimizer, metrics, images, labels)
            losses.append(float(metrics.compute()["loss"]))
            metrics.reset()
        assert losses[-1] < 0.7 * losses[0]
        # one set of variables: the views saw each update, of statistics too
        assert not np.allclose(evaluation(images), before)
        np.testing.assert_array_equal(network.stem.norms[0].mean[...], training.stem.norms[0].mean)

    @pytest.mark.parametrize("name", ["cifar_resnet20", "densenet121", "cifar_revnet38", "dpn68"])
    def test_every_family_takes_the_tutorials_view(self, name):
        network = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
        view = nnx.view(network, deterministic=True, use_running_average=True)
        modes = [
            module.use_running_average
            for _, module in nnx.iter_graph(view)
            if isinstance(module, models.BatchNorm)
        ]
        assert modes
        assert all(modes)
        assert network.stem is not view.stem


@WITH_VIEWS
def test_view_changes_what_its_filter_names_and_leaves_the_network(images):
    network = cifar(stochastic_depth=0.9)
    view = nnx.view(network, deterministic=True)
    assert view.stages[0].rest.deterministic
    assert not view.stages[0].rest.norms[0].use_running_average
    assert not network.stages[0].rest.deterministic
    view(images)  # asks for no key
    with pytest.raises(ValueError, match="key or rngs must be given"):
        network(images)
    by_type = nnx.view(network, only=models.BatchNorm, use_running_average=True)
    assert by_type.stem.norms[0].use_running_average
    assert not by_type.stages[0].rest.deterministic
    spectral = nnx.view(cifar(weights="spectral"), use_running_average=True)
    assert spectral.stem.layers[0].weights.use_running_average
    with pytest.raises(ValueError, match="Unused keys"):
        nnx.view(network, nonsense=True)


def test_modes_as_flaxs_modules_have_them(images):
    network = cifar(stochastic_depth=0.5)
    network.eval()
    logits = network(images)
    np.testing.assert_array_equal(logits, network(images))
    network.train()
    drawn = nnx.Rngs(3)
    first, second = network(images, rngs=drawn), network(images, rngs=drawn)
    assert not np.allclose(first, second)
    # another running mean shifts the sums of a batch's statistics, to rounding
    same = network(images, key=nnx.Rngs(3).dropout())
    np.testing.assert_allclose(first, same, rtol=1e-3, atol=1e-5)
    features = network.features(images, rngs=nnx.Rngs(3))
    assert features.shape == (8, 8)
    assert not np.allclose(features, network.features(images, key=jax.random.key(4)))
    network.set_attributes(deterministic=True, use_running_average=True)
    np.testing.assert_array_equal(network(images).shape, (8, 10))


class Sowing(nnx.LayerNorm):
    """A caller's norm, which sows."""

    def __call__(self, x):
        y = super().__call__(x)
        self.sow(nnx.Intermediate, "means", jnp.mean(y, tuple(range(1, y.ndim))))
        return y


@WITH_CAPTURE
class TestExtractingIntermediates:
    def sown(self, x, capture, **changes):
        network = cifar(norm=Sowing, **changes)
        run = nnx.jit(capture)
        return {name: leaf.get_value() for name, leaf in flat(run(network, x)).items()}

    def test_capture_stacked_and_unrolled(self, images):
        def capture(network, x):
            return nnx.capture(network, nnx.Intermediate)(x)[1]

        stacked, unrolled = (self.sown(images, capture, scan=scan) for scan in (True, False))
        assert len(stacked) == 1 + 2 + 2 + 2
        (rest,) = stacked["stages.1.rest.norms.1.means"]
        (last,) = unrolled["stages.1.blocks.1.norms.1.means"]
        assert rest.shape == (1, 8)
        np.testing.assert_allclose(rest[0], last, rtol=1e-4, atol=1e-6)
        remat = self.sown(images, capture, remat="full")
        jax.tree.map(np.testing.assert_array_equal, remat, stacked)

    @pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
    def test_sow_without_capture(self, images):
        def sow(network, x):
            network(x)
            return nnx.pop(network, nnx.Intermediate)

        def capture(network, x):
            return nnx.capture(network, nnx.Intermediate)(x)[1]

        jax.tree.map(
            np.testing.assert_array_equal, self.sown(images, sow), self.sown(images, capture)
        )

    def test_outputs_of_methods(self, images):
        network = cifar()
        logits, found = nnx.capture(network, nnx.Intermediate, method_outputs=nnx.Intermediate)(
            images
        )
        found = flat(found)
        np.testing.assert_array_equal(found["head.__call__"].get_value()[0], logits)
        assert found["stages.1.rest.norms.0.__call__"].get_value()[0].shape == (1, 8, 4, 4, 8)


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")  # older orbax
def test_checkpointing(images, tmp_path):
    """Orbax with the state of `nnx.split`, restored into a network that was never computed."""
    import orbax.checkpoint as ocp

    network = cifar()
    network(images)
    _, state = nnx.split(network)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        structure, shapes = nnx.split(nnx.eval_shape(cifar))
        again = nnx.merge(structure, checkpointer.restore(tmp_path / "state", shapes))
    again.eval()
    network.eval()
    np.testing.assert_array_equal(again(images), network(images))
    # the pure-dict form, as the guide has it
    pure = nnx.to_pure_dict(state)
    nnx.replace_by_pure_dict(shapes, pure)
    merged = nnx.merge(structure, shapes)
    merged.eval()
    np.testing.assert_array_equal(merged(images), network(images))


class TestTransforms:
    def test_vmap_makes_and_runs_an_ensemble(self, images):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return cifar(rngs=rngs)

        ensemble = make(nnx.Rngs(0))
        run = nnx.jit(nnx.vmap(lambda network, x: network(x), in_axes=(0, None), out_axes=0))
        logits = run(ensemble, images)
        assert logits.shape == (3, 8, 10)
        structure, state = nnx.split(ensemble)
        second = nnx.merge(structure, jax.tree.map(lambda leaf: leaf[1], state))
        alone = models.apply(second, images, train=True).logits
        np.testing.assert_allclose(logits[1], alone, rtol=1e-3, atol=1e-4)

    def test_scan_over_steps_and_state_axes(self, images):
        network = models.MLPResNet(3, 2, width=4, depth=2, norm="batch", rngs=nnx.Rngs(0))
        x = images[:, 0]  # eight batches of eight
        state_axes = nnx.StateAxes({...: nnx.Carry})

        @nnx.jit
        @nnx.scan(in_axes=(state_axes, 0), out_axes=0)
        def run(network, x):
            return network(x)

        one, other = nnx.clone(network), network
        together = run(one, x)
        singly = jnp.stack([other(each) for each in x])
        np.testing.assert_allclose(together, singly, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.blocks.norms[0].mean, other.blocks.norms[0].mean, rtol=1e-4)

    def test_remat_grad_and_merge(self, images, labels):
        network = cifar()
        plain, kept = (nnx.clone(network) for _ in range(2))

        def loss(network):
            return loss_of(network, images, labels)[0]

        first = nnx.jit(nnx.grad(loss))(plain)
        second = nnx.jit(nnx.grad(nnx.remat(loss)))(kept)
        third = jax.jit(jax.grad(lambda n: loss(nnx.clone(n))))(network)
        first, second = flat(first), flat(second)
        third = flat(nnx.state(third, nnx.Param))
        assert first.keys() == second.keys() == third.keys()
        for name, leaf in first.items():
            for other in (second, third):
                np.testing.assert_allclose(leaf, other[name], rtol=1e-3, atol=1e-5, err_msg=name)


class LoRA(nnx.Module):
    """A dense or convolutional layer beside a low-rank one, as the guide writes it."""

    def __init__(self, layer, rank, rngs):
        inputs, outputs = layer.kernel.shape[-2:]
        self.layer = layer
        self.down = models.Dense(inputs, rank, gain=1.0, bias=False, rngs=rngs)
        self.up = models.Dense(rank, outputs, gain=0.0, bias=False, rngs=rngs)

    def __call__(self, x):
        return self.layer(x) + self.up(self.down(x))


class TestModelSurgery:
    def test_a_new_head(self, images):
        network = cifar()
        features = models.apply(cifar(num_classes=0), images, train=True).logits
        network.head.linear = models.Dense(8, 3, gain=1.0, rngs=nnx.Rngs(1))
        np.testing.assert_allclose(
            network(images), network.head.linear(features), rtol=1e-4, atol=1e-5
        )
        assert models.stack(models.unroll(network))(images).shape == (8, 3)

    def test_lora_in_every_stacked_block(self):
        network = models.MLPResNet(3, 2, width=6, depth=3, rngs=nnx.Rngs(0))
        x = jax.random.normal(jax.random.key(1), (4, 3))
        before = network(x)

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0, 0), out_axes=0)
        def adapt(layer, rngs):
            return LoRA(layer, 2, rngs)

        network.blocks.layers[0] = adapt(network.blocks.layers[0], nnx.Rngs(1))
        np.testing.assert_array_equal(network(x), before)
        adapters = nnx.All(nnx.Param, nnx.Any(nnx.PathContains("up"), nnx.PathContains("down")))
        grads = nnx.grad(lambda n: jnp.mean(jnp.square(n(x))), argnums=nnx.DiffState(0, adapters))(
            network
        )
        assert {leaf.shape for leaf in jax.tree.leaves(grads)} == {(3, 6, 2), (3, 2, 6)}
        assert any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))

    def test_partial_initialization_from_another_network(self, images):
        donor, network = cifar(), cifar(num_classes=3, rngs=nnx.Rngs(5))
        nnx.update(network, nnx.state(donor, lambda path, _: path[0] != "head"))
        network.eval()
        donor.eval()
        np.testing.assert_array_equal(network.features(images), donor.features(images))


class TestOptimizationCookbook:
    def test_averages_of_parameters(self, images, labels, standard_promotion):
        network = cifar()
        params = nnx.state(network, nnx.Param)
        averages = optax.ema(0.5)
        state = averages.init(params)
        optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=nnx.Param)

        @nnx.jit
        def step(network, optimizer):
            grads = nnx.grad(lambda n: loss_of(n, images, labels)[0])(network)
            optimizer.update(network, grads)

        for _ in range(2):
            step(network, optimizer)
            average, state = averages.update(nnx.state(network, nnx.Param), state)
        nnx.update(network, average)
        assert np.all(np.isfinite(network(images)))

    def test_gradients_accumulate(self, images, labels, standard_promotion):
        """Two half batches make the step of the whole one (layer norm: examples by themselves)."""

        def trained(every, batches):
            network = cifar(norm="layer")
            transform = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=every)
            optimizer = nnx.Optimizer(network, transform, wrt=nnx.Param)
            step = nnx.jit(
                lambda n, o, x, y: o.update(n, nnx.grad(lambda n: loss_of(n, x, y)[0])(n))
            )
            for x, y in batches:
                step(network, optimizer, x, y)
            return flat(nnx.state(network, nnx.Param))

        whole = trained(1, [(images, labels)])
        halves = trained(2, [(images[:4], labels[:4]), (images[4:], labels[4:])])
        for name, leaf in whole.items():
            np.testing.assert_allclose(leaf, halves[name], rtol=1e-3, atol=1e-5, err_msg=name)

    def test_rates_by_layer(self, standard_promotion):
        """`optax.multi_transform` over the paths of the parameters."""
        network = models.MLPResNet(3, 2, width=4, depth=2, rngs=nnx.Rngs(0))
        params = nnx.state(network, nnx.Param)
        labels = nnx.map_state(lambda path, _: "head" if path[0] == "head" else "rest", params)
        transform = optax.multi_transform({"head": optax.sgd(0.1), "rest": optax.sgd(0.0)}, labels)
        optimizer = nnx.Optimizer(network, transform, wrt=nnx.Param)
        before = flat(jax.tree.map(jnp.copy, params))
        grads = nnx.grad(lambda n: jnp.mean(jnp.square(n(jnp.ones((4, 3))))))(network)
        optimizer.update(network, grads)
        changed = {
            name for name, leaf in flat(nnx.state(network, nnx.Param)).items()
            if not np.array_equal(leaf, before[name])
        }  # fmt: skip
        assert changed
        assert {name.split(".")[0] for name in changed} == {"head"}


LEARNABLE = [
    value
    for name, value in inspect.getmembers(models, inspect.isclass)
    if value.__module__.endswith("_learnable")
]


@pytest.mark.parametrize("activation", LEARNABLE, ids=lambda cls: cls.__name__)
def test_every_learnable_activation_is_made_as_the_wiring_says(activation, images):
    assert len(LEARNABLE) == 10
    sizes = dict(width=4, depth=2, norm="layer", activation=activation, rngs=nnx.Rngs(0))
    network = models.ConvResNet(3, 2, **sizes)
    out = models.apply(network, images, train=True)
    assert np.all(np.isfinite(out.logits))


def test_lists_of_sizes_make_a_hashable_network(images):
    network = cifar(depths=[1, 2], widths=[4, 8], strides=[1, 2])
    assert network.config == cifar().config
    assert hash(nnx.graphdef(network)) == hash(nnx.graphdef(cifar()))
    nnx.jit(lambda n, x: n(x))(network, images)


SMALL = {
    "cifar_resnet20": dict(depths=(1,), widths=(4,), strides=(1,)),
    "cifar_densenet100_12": dict(depths=(1,), growth=4),
    "cifar_revnet38": dict(depths=(1,), widths=(4,)),
}


@pytest.mark.parametrize("name", SMALL)
def test_without_classes_a_call_gives_the_features(name, images):
    def make(**changes):
        return models.create(name, **SMALL[name], **changes, rngs=nnx.Rngs(0))

    network, headless = make(), make(num_classes=0)
    logits, features = (models.apply(n, images, train=True).logits for n in (network, headless))
    np.testing.assert_allclose(network.head.linear(features), logits, rtol=1e-4, atol=1e-5)
    maps = nnx.clone(network).forward_features(images)
    np.testing.assert_allclose(network.head.pooled(maps), features, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 0; got -1"):
        make(num_classes=-1)


def test_a_replaced_layer_is_refused_at_save(tmp_path):
    network = cifar()
    network.head.linear = models.Dense(8, 3, gain=1.0, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match=r"differs in head\.linear\.bias, head\.linear\.kernel"):
        models.save(tmp_path / "net.safetensors", network)
    assert not list(tmp_path.iterdir())


class TestSummary:
    def test_counts_and_shapes(self):
        net = nnx.eval_shape(lambda: models.create("resnet50", rngs=nnx.Rngs(0)))
        lines = models.summary(net, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)).splitlines()
        assert lines[0].startswith("ResNet, ")
        assert lines[0].endswith("a(x + N_3 W_3 a(N_2 W_2 a(N_1 W_1 x)))")
        assert lines[-1] == "25,557,032 parameters, 53,120 other numbers"
        rows = {line.split()[0]: line for line in lines[2:-1]}
        assert "(2, 2, 3, 2048)" in rows["stage4"]
        assert rows["stage3"].split()[1] == "5"
        counts = [int(line.split()[-1].replace(",", "")) for line in rows.values()]
        assert sum(counts) == 25_557_032
        assert len({len(line) for line in lines[1:-1]}) == 1

    @pytest.mark.parametrize(
        ("name", "shape", "sizes"),
        [
            ("densenet121", (2, 32, 32, 3), {}),
            ("cifar_revnet38", (2, 8, 8, 3), {}),
            ("i_resnet", (2, 6), dict(shape=(6,), width=8, depth=3)),
            ("one_neuron_resnet", (2, 6), dict(in_features=6, out_features=2, depth=3)),
            ("cifar_resnet20", (2, 8, 8, 3), dict(norm_placement="residual_dual", num_classes=0)),
        ],
    )
    def test_every_family_has_one(self, name, shape, sizes):
        def make():
            return models.create(name, **sizes, rngs=nnx.Rngs(0))

        net = make() if name == "i_resnet" else nnx.eval_shape(make)  # its bounds are computed
        lines = models.summary(net, jax.ShapeDtypeStruct(shape, jnp.float32)).splitlines()
        params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))
        assert lines[-1].startswith(f"{params:,} parameters")


def test_a_chain_prints_in_one_line():
    network = models.MLPResNet(4, 3, width=8, depth=100, rngs=nnx.Rngs(0))
    from jaxact import analysis

    found = repr(analysis.as_chain(network))
    assert found == "Chain(stem (40 numbers), blocks x 100 (8,800 numbers), head (43 numbers))"
