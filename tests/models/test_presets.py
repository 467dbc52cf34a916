"""Presets have the published numbers of parameters, and networks come back from files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import activations, io, models
from jaxact._compat import value_of

# torchvision's documentation, timm's results table, and of DPN, Res2Net and SE the same
EXACT = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_v1": 25_557_032,
    "resnet50_v2": 25_549_352,
    "resnet50c": 25_576_264,
    "resnet50d": 25_576_264,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet200": 64_673_832,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "seresnet50": 28_088_024,
    "seresnet101": 49_326_872,
    "seresnet152": 66_821_848,
    "seresnext50_32x4d": 27_559_896,
    "res2net50_26w_4s": 25_699_120,
    "res2net50_14w_8s": 25_059_816,
    "res2net50_48w_2s": 25_287_304,
    "nf_resnet50": 25_557_032,
    "nf_resnet101": 44_549_160,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "dpn68": 12_611_602,
    "dpn92": 37_668_392,
    "dpn98": 61_570_728,
    "dpn131": 79_254_504,
}
# in millions, as the papers print them (He et al. 2015, 2016; Zagoruyko & Komodakis 2016; Huang et
# al. 2017; Gomez et al. 2017)
ROUNDED = {
    "cifar_resnet20": "0.27",
    "cifar_resnet32": "0.46",
    "cifar_resnet44": "0.66",
    "cifar_resnet56": "0.85",
    "cifar_resnet110": "1.7",
    "cifar_resnet1202": "19.4",
    "cifar_preact_resnet110": "1.7",
    "cifar_preact_resnet164": "1.7",
    "wrn_16_8": "11.0",
    "wrn_28_10": "36.5",
    "wrn_40_4": "8.9",
    "wrn_22_8": "17.2",
    "cifar_densenet100_12": "0.8",
    "cifar_revnet38": "0.46",
    "cifar_revnet110": "1.73",
}


def abstract(name, **overrides):
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **overrides))


def sizes(network, *, kernels=False):
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return sum(value_of(v).size for path, v in flat if not kernels or "kernel" in path)


LONG = ("densenet161", "densenet169", "densenet201")  # their layers differ, and each is traced


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in EXACT]
)
def test_published_parameters(name):
    assert sizes(abstract(name)) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_published_millions_of_parameters(name):
    digits = len(ROUNDED[name].partition(".")[2])
    assert f"{sizes(abstract(name)) / 1e6:.{digits}f}" == ROUNDED[name]


def test_the_thousand_layers_have_the_published_weights():
    """He et al. 2016 print 10.2 M: the weights without the norms' scales and biases."""
    network = abstract("cifar_preact_resnet1001")
    assert f"{sizes(network, kernels=True) / 1e6:.1f}" == "10.2"
    assert f"{sizes(network) / 1e6:.1f}" == "10.3"


def test_weight_layers_of_the_thousand_layers():
    config = abstract("cifar_preact_resnet1001").config
    assert 2 + sum(config.depths) * 3 == 1001
    assert 2 + sum(abstract("cifar_resnet1202").config.depths) * 2 == 1202


def test_every_name_is_listed_and_builds_a_config():
    names = models.presets()
    assert list(names) == sorted(set(names))
    assert {"resnet", "mlp_resnet", "densenet", "revnet", "i_resnet"} <= set(names)


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(ValueError, match=r"unknown preset 'resnet5O'; nearest: .*resnet50"):
        models.create("resnet5O", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"with d = 6 n \+ 4 and k at least 1; got 'wrn_27_10'"):
        models.create("wrn_27_10", rngs=nnx.Rngs(0))


def test_overrides_reach_the_network():
    network = abstract("resnet18", num_classes=7, norm_placement="pre", activation="gelu")
    assert network.config.norm_placement == "pre"
    assert value_of(network.head.linear.kernel).shape == (512, 7)
    with pytest.raises(TypeError, match="colour"):
        abstract("resnet18", colour="red")


SMALL = {
    "cifar_resnet20": {
        "norm_placement": "pre",
        "activation": activations.silu,
        "widths": (4, 4, 8),
    },
    "resnet": {"depths": (1, 2), "widths": (4, 8), "strides": (1, 2), "num_classes": 3},
    "wrn_10_1": {"stochastic_depth": 0.5, "param_dtype": jnp.bfloat16},
    "mlp_resnet": {"in_features": 4, "out_features": 2, "width": 3, "depth": 5},
    "cifar_densenet100_12": {"depths": (2, 2), "growth": 4},
    "cifar_revnet38": {"widths": (4, 8), "depths": (2, 2)},
    "i_resnet": {"shape": (3,), "width": 4, "depth": 2, "coefficient": 0.5},
}


INPUTS = {"cifar_resnet20": (2, 8, 8, 3), "mlp_resnet": (2, 4), "i_resnet": (2, 3)}


def fresh(network):
    return jax.tree.map(lambda leaf: leaf, network)


def same(first, second):
    found = [nnx.to_flat_state(nnx.state(network)) for network in (first, second)]
    for (path, a), (other, b) in zip(*found, strict=True):
        assert path == other
        assert type(a) is type(b)
        values = (np.asarray(value_of(variable)) for variable in (a, b))
        np.testing.assert_array_equal(*values, strict=True)


def filled(name, **overrides):
    """A network of random numbers in every place, at no cost of initialization."""
    network = abstract(name, **overrides)
    draw = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape)).astype(leaf.dtype),
        nnx.state(network),
    )
    nnx.update(network, values)
    return network


@pytest.mark.parametrize("name", SMALL)
def test_networks_come_back_from_safetensors(name, tmp_path):
    network = filled(name, **SMALL[name])
    models.save(tmp_path / "net.safetensors", network)
    again = models.load(tmp_path / "net.safetensors")
    same(again, network)
    if name in INPUTS:  # the config came back too
        x = jnp.linspace(-1, 1, np.prod(INPUTS[name])).reshape(INPUTS[name])
        results = [jax.jit(lambda net, x: fresh(net)(x))(net, x) for net in (again, network)]
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_revnet38"])
def test_networks_come_back_from_orbax(name, tmp_path):
    network = filled(name, **SMALL[name])
    models.save(tmp_path / "net", network)
    same(models.load(tmp_path / "net"), network)
    with pytest.raises(ValueError, match=r"path must not exist yet, .* got .*net"):
        models.save(tmp_path / "net", network)


def at_the_start_of_a_line(path):
    """Pads a safetensors file's header, so that its arrays stand where JAX would not copy them."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" " * (-(8 + length) % 64)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return 8 + len(header)


def test_a_network_is_not_its_file(tmp_path):
    path = tmp_path / "net.safetensors"
    network = filled("cifar_resnet20", **SMALL["cifar_resnet20"])
    models.save(path, network)
    start = at_the_start_of_a_line(path)
    again = models.load(path)
    with path.open("r+b") as file:  # as others' writers do
        file.seek(start)
        file.write(bytes(path.stat().st_size - start))
    same(again, network)


def test_a_network_does_not_change_with_the_arrays_it_was_loaded_from():
    network = filled("resnet", **SMALL["resnet"])
    state = {}
    for name, value in models.to_torchvision(network).items():
        room = np.empty(value.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        state[name] = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
        state[name][...] = value
    again = models.load_torchvision(network, state)
    for value in state.values():
        value[...] = 0
    same(again, network)


def test_an_unrolled_network_comes_back_unrolled(tmp_path):
    network = models.unroll(filled("resnet", **SMALL["resnet"]))
    models.save(tmp_path / "net.safetensors", network)
    same(models.stack(models.load(tmp_path / "net.safetensors")), models.stack(network))


def test_what_has_no_name_is_asked_for(tmp_path):
    def activation(x):
        return x * x

    network = filled("cifar_resnet20", **SMALL["cifar_resnet20"] | {"activation": activation})
    models.save(tmp_path / "net.safetensors", network)
    with pytest.raises(ValueError, match="made with activation that have no name"):
        models.load(tmp_path / "net.safetensors")
    again = models.load(tmp_path / "net.safetensors", activation=activation)
    leaves = zip(jax.tree.leaves(again), jax.tree.leaves(network), strict=True)
    assert all(bool(jnp.all(a == b)) for a, b in leaves)


def test_files_that_are_no_network(tmp_path):
    io.write_safetensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
    with pytest.raises(ValueError, match="path must be a network written by"):
        models.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="path must be a network written by"):
        models.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="path must be an existing file"):
        models.load(tmp_path / "b.safetensors")
    bare = models.OneNeuronResNet(2, 1, depth=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"network must be made by jaxact\.models\.create"):
        models.save(tmp_path / "b.safetensors", bare)
    network = filled("i_resnet", **SMALL["i_resnet"])
    models.save(tmp_path / "c.safetensors", network)
    arrays = dict(io.read_arrays(tmp_path / "c.safetensors"))
    del arrays["biases.0"]
    metadata = io.read_metadata(tmp_path / "c.safetensors")
    io.write_safetensors(tmp_path / "d.safetensors", arrays, metadata=metadata)
    with pytest.raises(ValueError, match=r"differs in biases\.0"):
        models.load(tmp_path / "d.safetensors")
