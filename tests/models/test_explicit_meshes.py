"""Sharding in types on eight devices: explicit, auto and manual axes give one device's numbers."""

import os
import subprocess
import sys

import pytest

HEAD = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxact import activations, models, spectral, training
assert len(jax.devices()) == 8
explicit = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
auto = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def on(mesh, x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))

def near(found, expected, rtol=2e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.max(np.abs(a - b)) <= rtol * max(np.max(np.abs(b)), 1e-3), (a, b)

def refused(message, f, *arguments):
    try:
        f(*arguments)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("not refused")
"""

CONVOLUTION = """
x = jax.random.normal(jax.random.key(0), (16, 8, 8, 4))
kernel = 0.1 * jax.random.normal(jax.random.key(1), (4, 4, 2, 8))  # every size is of the mesh

def loss(kernel, x):
    y = models.convolve(x, kernel, strides=(2, 2), padding=((1, 2), (2, 1)), groups=2)
    return jnp.sum(jnp.sin(y)), y

gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
hvp = jax.jit(lambda k, x: jax.jvp(lambda k: jax.grad(loss, has_aux=True)(k, x)[0], (k,), (k,))[1])
expected = gradient(kernel, x), hvp(kernel, x)
for split in (None, "model"):
    for mesh in (explicit, auto):
        with jax.set_mesh(mesh):
            there = on(mesh, kernel, None, None, None, split), on(mesh, x, "data")
            found = gradient(*there), hvp(*there)
        near(found, expected)
        if mesh is explicit:
            (by_kernel, by_x), y = found[0]
            assert jax.typeof(by_kernel).sharding.spec == P(None, None, None, split)
            assert jax.typeof(by_x).sharding.spec == P("data", None, None, None)
            assert jax.typeof(y).sharding.spec == P("data", None, None, split)
pointwise = jax.grad(lambda k, x: jnp.sum(jnp.sin(models.convolve(x, k, strides=(2, 2)))), (0, 1))
with jax.set_mesh(explicit):
    found = jax.jit(pointwise)(kernel[:1, :1].repeat(2, 2), on(explicit, x, "data"))
near(found, pointwise(kernel[:1, :1].repeat(2, 2), x))
with jax.set_mesh(explicit):
    whole = kernel.repeat(2, 2)
    refused("split along images", models.convolve, on(explicit, x, None, "data"), whole)
    refused("(None, None, None, 'model')", jax.jit(models.convolve),
            on(explicit, x, None, None, None, "model"), whole)
"""

ACTIVATIONS = """
# every activation's value and slope keep the type of their input
x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(explicit, P("data", "model")))
with jax.set_mesh(explicit):
    for name in activations.names():
        f = activations.get(name)
        for g in (f, jax.grad(lambda x: jnp.sum(f(x)))):
            found = jax.eval_shape(g, x)
            assert found.sharding.spec == P("data", "model"), (name, found)
"""

NETWORKS = """
x = 1e3 + jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
few = dict(depths=(2,), widths=(4,), strides=(1,), rngs=nnx.Rngs(0))
for changes in (dict(norm="batch", axis_name="data"), dict(norm="group", skip="layerscale"),
                dict(norm="instance", weights="spectral", stochastic_depth=0.5)):
    axis = changes.pop("axis_name", None)
    network = models.create("cifar_resnet20", **few, **(changes | dict(norm_placement="pre")))

    def step(network, x):
        def loss(network):
            out = models.apply(network, x, train=True, key=jax.random.key(2))
            return jnp.mean(jnp.square(out.logits)), out.stats
        return jax.grad(loss, has_aux=True)(network)

    gradient, stats = jax.jit(step)(network, x)
    for mesh in (explicit, auto):
        with jax.set_mesh(mesh):
            found = jax.jit(step)(network, on(mesh, x, "data"))
        near(found, (gradient, stats), 1e-3)
    if axis:
        for _, module in nnx.iter_graph(network):
            if isinstance(module, models.BatchNorm):
                module.axis_name = axis

        def mean_step(network, x):
            return jax.lax.pmean(step(network, x)[0], axis), step(network, x)[1]

        for mesh in (explicit, auto):
            manual = jax.shard_map(mean_step, mesh=mesh, in_specs=(P(), P(axis)), out_specs=P(),
                                   check_vma=False)
            near(jax.jit(manual)(network, on(mesh, x, axis)), (gradient, stats), 1e-3)
"""

TRAINING = """
net = models.MLPResNet(16, 4, width=32, depth=3, norm="batch", rngs=nnx.Rngs(0))
net = training.functional(net)
recipe = training.Recipe(net.apply, optax.sgd(0.1, momentum=0.9), ema_decay=0.9)
x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
feed = training.ArrayFeed(x, np.arange(64) % 4, batch_size=32, key=jax.random.key(0))

def run(**where):
    start = training.init(recipe, net.params, net.stats, key=jax.random.key(1))
    return training.train(recipe, start, feed, steps=4, chunk=2, **where)

expected = run().params
for shard in (False, True):
    found = run(mesh=explicit, shard_state=shard)
    near(found.params, expected)
    assert all(leaf.sharding.mesh == explicit for leaf in jax.tree.leaves(found.params))
    with jax.set_mesh(explicit):
        near(run(mesh=explicit, shard_state=shard).params, expected)
        again = training.place(found, explicit, shard_state=shard)
    assert jax.tree.leaves(again.params)[0] is jax.tree.leaves(found.params)[0]
"""

TRANSFORMERS = """
def loss(network, x):
    return jnp.mean(jnp.square(network(x)))

sizes = dict(inputs=64, width=32, depth=3, heads=4, kv_heads=2)
for changes in (
    dict(activation="swiglu", bias=True),
    dict(positions="learned", length=16, tie_embeddings=True, norm="rms", window=5),
    dict(sublayers=("convolution",), activation="glu"),
    dict(stem="vectors", inputs=5, outputs=3, pool="mean", norm_placement="residual_dual"),
    dict(stem="patches", inputs=3, class_token=True, size=16, positions="learned", pool="first",
         mask="none", query_key_norm=True, norm_placement="sandwich"),
):
    network = models.Transformer(**sizes | changes, rngs=nnx.Rngs(0))
    key = jax.random.key(0)
    x = jax.random.randint(key, (8, 16), 0, 64)
    if "stem" in changes:
        x = jax.random.normal(key, (8, 16, 5) if changes["stem"] == "vectors" else (8, 16, 16, 3))
    step = jax.jit(jax.value_and_grad(loss))
    expected = step(network, x)
    with jax.set_mesh(explicit):
        near(step(network, on(explicit, x, "data")), expected, 1e-4)
    there = models.shardings(network, auto)
    with jax.set_mesh(auto):
        found = jax.jit(jax.value_and_grad(loss), in_shardings=(there, None))(
            jax.device_put(network, there), on(auto, x, "data"))
        near(found, expected, 1e-4)
        if "stem" not in changes:
            maps = network.attention_maps(x) if "sublayers" not in changes else x
            assert np.isfinite(maps).all()
"""

SPECTRA = """
def total(stack):
    found = spectral.product_spectrum(stack)
    return jnp.sum(found.log_singular_values) + jnp.sum(found.error)

def by_hand(stack):
    product = spectral.graded_start(jnp.eye(3), errors=True)
    return spectral.graded_error(spectral.graded_step(product, stack[0]))

def of_layers(stack, x):
    return spectral.layer_jacobian_spectra(lambda w, h: jnp.tanh(w @ h), x, parameters=stack)

# an odd width takes one more row into the rotations
stacks = jax.random.normal(jax.random.key(0), (8, 3, 3, 3))
narrow = [stacks[:, 0, :2], stacks[:, 1, :, :2], stacks[:, 2]]
batches = [
    (jax.grad(lambda w: jnp.sum(jax.vmap(total)(w))), stacks),
    (jax.vmap(spectral.product_spectrum), narrow),
    (jax.vmap(lambda w: spectral.product_spectrum(w, top=1, errors=False)), stacks),
    (jax.vmap(lambda w: spectral.product_spectrum(w, refined=True, errors=False)), stacks),
    (jax.vmap(by_hand), stacks),
    (jax.vmap(lambda w: of_layers(w, jnp.ones(3))), stacks),
    (spectral.singular_values, jnp.swapaxes(narrow[0], 1, 2)),
]
for batch, arguments in batches:
    expected = jax.jit(batch)(arguments)
    with jax.set_mesh(explicit):
        there = jax.tree.map(lambda x: on(explicit, x, "data"), arguments)
        found = jax.jit(batch)(there)
        near(found, expected, 1e-4)
        assert jax.tree.leaves(found)[0].sharding.spec[0] == "data"
        manual = jax.shard_map(batch, in_specs=P("data"), out_specs=P("data"))
        near(jax.jit(manual)(there), expected, 1e-4)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["CONVOLUTION", "ACTIVATIONS", "NETWORKS", "TRAINING", "TRANSFORMERS", "SPECTRA"]
)
def test_on_eight_devices(what):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-W", "error", "-c", HEAD + globals()[what]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
