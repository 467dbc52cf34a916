"""Lowered for accelerators that are not here: what jaxact computes has a lowering on each."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import export

from jaxact import activations, analysis, models, spectral

X = jnp.ones((4, 8))
IMAGES = jnp.ones((2, 8, 8, 3))


def gradient_of_everything(x):
    names = [name for name in activations.names() if name != "log1mexp"]
    return jax.grad(lambda x: sum(activations.get(name)(x).sum() for name in names))(x)


def training_step(network, x):
    return jax.tree.leaves(jax.grad(lambda network: network(x).sum())(network))


def jacobians(network, x):
    trunk = analysis.Chain(analysis.as_chain(network).segments[:2])
    return analysis.input_jacobians(trunk, x)["blocks"].log_scale


def log_spectrum(stack):
    return spectral.product_spectrum(stack).log_singular_values


def rngs():
    return nnx.Rngs(0)


CASES = {
    "activations": (gradient_of_everything, lambda: (X,)),
    "product": (log_spectrum, lambda: (jnp.ones((3, 8, 8)),)),
    "ranks": (lambda x: spectral.effective_rank(spectral.singular_values(x)), lambda: (X,)),
    "mlp": (training_step, lambda: (models.MLPResNet(8, 3, width=8, depth=3, rngs=rngs()), X)),
    "conv": (
        training_step,
        lambda: (models.ConvResNet(3, 4, width=4, depth=2, rngs=rngs()), IMAGES),
    ),
    "jacobian": (
        jacobians,
        lambda: (models.MLPResNet(8, 3, width=8, depth=3, rngs=rngs()), X[0]),
    ),
}


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize("name", CASES)
def test_lowers(name, platform):
    function, arguments = CASES[name]
    exported = export.export(jax.jit(function), platforms=[platform])(*arguments())
    module = exported.mlir_module()
    assert "f64" not in module
    assert "callback" not in module
