"""Weights of torchvision and timm: PyTorch's logits, and their own arrays back."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import io, models

# A process with PyTorch: it makes a network of each name asked for, with random weights and random
# statistics, and writes its state dict, an input, its logits, and its statistics after training.
WORKER = """
import json, sys, torch
from safetensors.torch import save_file
try:
    import torchvision
except RuntimeError:  # declare the operators of a torchvision without its compiled part
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import torchvision
torch.set_num_threads(2)
print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    torch.manual_seed(0)
    if given["library"] == "timm":
        import timm
        net = timm.create_model(given["name"], num_classes=11)
    else:
        net = torchvision.models.get_model(given["name"], num_classes=11, weights=None)
    for module in net.modules():
        if hasattr(module, "gain"):
            torch.nn.init.uniform_(module.gain, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    if given["state"]:
        from safetensors.torch import load_file
        net.load_state_dict(load_file(given["state"]), strict=True)
    x = torch.randn(2, 3, *given["size"])
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        logits = net.eval()(x)
        trained = net.train()(x)
    save_file(
        {**{"state." + k: v for k, v in state.items()},
         **{"after." + k: v.clone() for k, v in net.state_dict().items() if "running" in k},
         "x": x.permute(0, 2, 3, 1).contiguous(), "logits": logits, "trained": trained},
        given["file"])
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def torch_network(tmp_path_factory):
    for package in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    folder = tmp_path_factory.mktemp("torch")

    with subprocess.Popen(command, **pipes) as process:

        def ask(name, library, *, size=(64, 64), state=None):
            file = folder / "answer.safetensors"
            given = dict(name=name, library=library, size=size, state=state, file=str(file))
            assert process.poll() is None
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            if process.stdout.readline().strip() != "done":
                raise RuntimeError(f"PyTorch did not make {name}")
            arrays = io.read_arrays(file)
            file.unlink()  # the map keeps it
            parts = {"state": {}, "after": {}}
            for key in list(arrays):
                part, _, rest = key.partition(".")
                if rest and "num_batches" not in key:
                    parts[part][rest] = arrays.pop(key)
            return parts["state"], parts["after"], arrays

        assert process.stdout.readline().strip() == "ready"
        yield ask
        process.stdin.close()


LOAD = {"torchvision": models.load_torchvision, "timm": models.load_timm}
EXPORT = {"torchvision": models.to_torchvision, "timm": models.to_timm}


def ours(name, **overrides):
    """A network whose arrays are placeholders: all are to be replaced."""
    return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **overrides))


SMALL = [
    ("resnet18", "torchvision", "resnet18", {}),
    ("resnet50", "torchvision", "resnet50", {}),
    ("resnext50_32x4d", "torchvision", "resnext50_32x4d", {}),
    ("resnetv2_50", "timm", "resnet50_v2", {}),
]
LARGE = [
    ("resnet34", "torchvision", "resnet34", {}),
    ("resnet101", "torchvision", "resnet101", {}),
    ("resnet152", "torchvision", "resnet152", {}),
    ("wide_resnet50_2", "torchvision", "wide_resnet50_2", {}),
    ("wide_resnet101_2", "torchvision", "wide_resnet101_2", {}),
    ("resnext101_32x8d", "torchvision", "resnext101_32x8d", {}),
    ("resnext101_64x4d", "torchvision", "resnext101_64x4d", {}),
    ("densenet121", "torchvision", "densenet121", {}),
    ("densenet161", "torchvision", "densenet161", {}),
    ("resnet50c", "timm", "resnet50c", {}),
    ("resnet50d", "timm", "resnet50d", {}),
    ("seresnet18", "timm", "seresnet18", {}),
    ("seresnet50", "timm", "seresnet50", {}),
    ("seresnext50_32x4d", "timm", "seresnext50_32x4d", {}),
    ("res2net50_26w_4s", "timm", "res2net50_26w_4s", {}),
    ("dpn68", "timm", "dpn68", {}),
    ("dpn98", "timm", "dpn98", {}),
    ("nf_resnet50", "timm", "nf_resnet50", {"pool_shortcut": True}),
]


@pytest.mark.parametrize(
    ("theirs", "library", "name", "overrides"),
    [*SMALL, *(pytest.param(*row, marks=pytest.mark.slow) for row in LARGE)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_logits_are_those_of_pytorch(torch_network, theirs, library, name, overrides):
    state, _, arrays = torch_network(theirs, library)
    net = LOAD[library](ours(name, num_classes=11, **overrides), state)
    net.eval()
    logits = jax.jit(lambda net, x: net(x))(net, arrays["x"])
    scale = np.max(np.abs(arrays["logits"]))
    assert np.max(np.abs(logits - arrays["logits"])) < 1e-4 * scale
    back = EXPORT[library](net)
    assert back.keys() == state.keys()
    for key, value in state.items():
        if key.endswith(".gain"):  # ours hold timm's epsilon and constant
            np.testing.assert_allclose(back[key], value, rtol=3e-7, err_msg=key, strict=True)
        else:
            np.testing.assert_array_equal(back[key], value, err_msg=key, strict=True)


NAMES = "densenet161 densenet169 densenet201 dpn68 dpn92 dpn98 dpn131 seresnet18 seresnet34"
SHAPES = """
import json, sys, timm, torch
for name in sys.argv[1:]:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    print(json.dumps({k: v.shape for k, v in state.items() if "num_batches" not in k}))
"""


@pytest.mark.slow
def test_every_array_has_timms_name_and_shape():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    command = [sys.executable, "-W", "ignore", "-c", SHAPES, *NAMES.split()]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, line in zip(NAMES.split(), found.splitlines(), strict=True):
        theirs = {key: np.broadcast_to(np.float32(0), s) for key, s in json.loads(line).items()}
        models.load_timm(ours(name), theirs)  # refuses what is missing, left over or misshapen


def test_training_statistics_are_those_of_pytorch(torch_network):
    """Epsilon and momentum of the norms, and the variance that runs: unbiased."""
    state, after, arrays = torch_network("resnet18", "torchvision", size=(49, 67))
    net = models.load_torchvision(ours("resnet18", num_classes=11), state)
    out = jax.jit(lambda net, x: models.apply(net, x, train=True)[:2])(net, arrays["x"])
    scale = np.max(np.abs(arrays["trained"]))
    assert np.max(np.abs(out[0] - arrays["trained"])) < 1e-4 * scale
    nnx.update(net, out[1])
    back = models.to_torchvision(net)
    for key, value in after.items():
        np.testing.assert_allclose(back[key], value, rtol=2e-4, atol=2e-5, err_msg=key)


def test_pytorch_takes_what_is_exported(torch_network, tmp_path):
    net = models.create("resnet18", num_classes=11, rngs=nnx.Rngs(0))
    io.write_safetensors(tmp_path / "a.safetensors", models.to_torchvision(net))
    _, _, arrays = torch_network("resnet18", "torchvision", state=str(tmp_path / "a.safetensors"))
    net.eval()
    logits = jax.jit(lambda net, x: net(x))(net, arrays["x"])
    scale = np.max(np.abs(arrays["logits"]))
    assert np.max(np.abs(logits - arrays["logits"])) < 1e-4 * scale


def test_a_name_serves_as_the_network():
    state = models.to_torchvision(models.create("resnet18", rngs=nnx.Rngs(1)))
    loaded = models.load_torchvision("resnet18", state)
    given = models.load_torchvision(
        nnx.eval_shape(lambda: models.create("resnet18", rngs=nnx.Rngs(0))), state
    )
    for one, other in zip(*(jax.tree.leaves(nnx.state(n)) for n in (loaded, given)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="unknown preset 'resnet19'"):
        models.load_torchvision("resnet19", state)


@pytest.fixture(scope="module")
def tiny():
    """A small bottleneck network with all that has a name in timm, and its state dict."""
    net = nnx.eval_shape(
        lambda: models.create(
            "resnet50d",
            depths=(2, 2),
            widths=(8, 16),
            strides=(1, 2),
            stem_width=8,
            squeeze_excitation=4,
            res2net_scale=2,
            num_classes=3,
            rngs=nnx.Rngs(0),
        )
    )
    draw = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), leaf.dtype), nnx.state(net)
    )
    nnx.update(net, values)
    return net, models.to_timm(net)


def equal(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_names_and_layouts(tiny):
    _, state = tiny
    assert state["conv1.3.weight"].shape == (4, 4, 3, 3)
    assert state["layer2.0.convs.0.weight"].shape == (16, 16, 3, 3)
    assert state["layer2.0.downsample.1.weight"].shape == (64, 32, 1, 1)
    assert state["layer1.1.se.fc1.weight"].shape == (8, 32, 1, 1)
    assert state["layer1.1.bn3.running_var"].shape == (32,)
    assert state["fc.weight"].shape == (3, 64)


def test_out_and_in_again_stacked_and_unrolled(tiny):
    net, state = tiny
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), net)
    assert equal(models.load_timm(empty, state), net)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(empty))
    flat = models.unroll(net)
    assert models.to_timm(flat).keys() == state.keys()
    assert equal(models.load_timm(models.unroll(empty), state), flat)


def test_wrapped_and_half_precision_files(tiny, tmp_path):
    net, state = tiny
    wrapped = {f"state_dict.module.{k}": v.astype(np.float16) for k, v in state.items()}
    wrapped["state_dict.module.bn1.num_batches_tracked"] = np.asarray(3)
    io.write_safetensors(tmp_path / "a.safetensors", wrapped)
    loaded = models.load_timm(net, tmp_path / "a.safetensors")
    for before, after in zip(jax.tree.leaves(net), jax.tree.leaves(loaded), strict=True):
        assert after.dtype == jnp.float32
        np.testing.assert_array_equal(after, np.asarray(before).astype(np.float16))


def test_all_that_does_not_fit_is_in_one_error(tiny):
    net, state = tiny
    wrong = dict(state)
    del wrong["bn1.bias"], wrong["layer2.1.conv3.weight"]
    wrong["aux.weight"] = np.zeros(3)
    wrong["fc.weight"] = np.zeros((5, 64))
    with pytest.raises(ValueError, match="does not fit") as caught:
        models.load_timm(net, wrong)
    message = str(caught.value)
    assert "missing: layer2.1.conv3.weight, bn1.bias;" in message
    assert "left over: aux.weight" in message
    assert "misshapen: fc.weight is (5, 64) where (3, 64) is needed" in message


def test_without_the_head(tiny):
    net, state = tiny
    other = {k: 2 * v for k, v in state.items()} | {"fc.weight": np.zeros((1000, 64))}
    loaded = models.load_timm(net, other, head=False)
    assert equal(loaded.head, net.head)
    assert equal(loaded.stem, jax.tree.map(lambda leaf: 2 * leaf, net.stem))


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (models.load_torchvision, "resnet50_v2", "got a ResNet with norm_placement='pre'"),
        (models.load_torchvision, "resnet50d", r"it has no name for stages\.0\.first\.shortcut"),
        (models.load_torchvision, "dpn68", "got a DualPathNet"),
        (models.load_timm, "cifar_revnet38", "got a RevNet"),
        (models.load_timm, "nf_resnet50", "with norm_placement='norm_free'"),
    ],
)
def test_networks_without_names(load, name, message):
    with pytest.raises(ValueError, match=message):
        load(ours(name), {})
