"""PyTorch as an oracle, where its conventions are ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import activations
from jaxact._compat import enable_x64

torch = pytest.importorskip("torch")
F = torch.nn.functional

# PyTorch keeps 1/6 and celu's 1/alpha in float32, in float64 too: 2.0 has an exact inverse.
ROUNDED = {"hard_sigmoid": 3e-8}

# The name, options of ours, and PyTorch's function.
PAIRS = [
    ("relu", {}, F.relu),
    ("relu6", {}, F.relu6),
    ("leaky_relu", {"negative_slope": 0.2}, functools.partial(F.leaky_relu, negative_slope=0.2)),
    ("hard_tanh", {}, F.hardtanh),
    ("abs", {}, torch.abs),
    ("threshold", {"threshold": 0.5, "value": -1.0}, lambda x: F.threshold(x, 0.5, -1.0)),
    ("hard_shrink", {"width": 0.3}, functools.partial(F.hardshrink, lambd=0.3)),
    ("soft_shrink", {"width": 0.3}, functools.partial(F.softshrink, lambd=0.3)),
    ("tanh_shrink", {}, F.tanhshrink),
    ("rrelu", {}, F.rrelu),
    ("elu", {"alpha": 0.7}, functools.partial(F.elu, alpha=0.7)),
    ("celu", {"alpha": 2.0}, functools.partial(F.celu, alpha=2.0)),
    ("selu", {}, F.selu),
    ("softplus", {"beta": 1.5}, functools.partial(F.softplus, beta=1.5, threshold=50.0)),
    ("log_sigmoid", {}, F.logsigmoid),
    ("sigmoid", {}, torch.sigmoid),
    ("hard_sigmoid", {}, F.hardsigmoid),
    ("tanh", {}, torch.tanh),
    ("soft_sign", {}, F.softsign),
    ("erf", {}, torch.erf),
    ("arctan", {}, torch.arctan),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": "tanh"}, functools.partial(F.gelu, approximate="tanh")),
    ("silu", {}, F.silu),
    ("mish", {}, F.mish),
    ("hard_silu", {}, F.hardswish),
    ("sine", {}, torch.sin),
    ("cosine", {}, torch.cos),
]


@pytest.mark.parametrize(("name", "options", "peer"), PAIRS)
def test_value_and_gradient_agree_with_pytorch(name, options, peer):
    """In float64, at the joins 0, 1, 3 and 6 as well."""
    x = np.concatenate([np.linspace(-12.3, 12.3, 401), [0.0, 1.0, 6.0, -1.0]])
    theirs = torch.tensor(x, requires_grad=True)
    value = peer(theirs)
    (slope,) = torch.autograd.grad(value.sum(), theirs)
    with enable_x64(True):
        f = functools.partial(getattr(activations, name), **options)
        y, slopes = jax.jvp(f, (jnp.asarray(x),), (jnp.ones(x.shape),))
    near = {"rtol": ROUNDED.get(name, 1e-12), "atol": 1e-14}
    np.testing.assert_allclose(y, value.detach().numpy(), **near)
    np.testing.assert_allclose(slopes, slope.numpy(), **near)


@pytest.mark.parametrize(
    ("name", "peer"),
    [("glu", F.glu), ("softmax", F.softmax), ("log_softmax", F.log_softmax)],
)
def test_functions_of_an_axis_agree_with_pytorch(name, peer):
    x = np.random.default_rng(0).normal(size=(3, 6, 4))
    with enable_x64(True):
        for axis in (-1, 1):
            ours = getattr(activations, name)(jnp.asarray(x), axis=axis)
            np.testing.assert_allclose(ours, peer(torch.tensor(x), dim=axis), rtol=1e-12)


def test_prelu_agrees_with_pytorch():
    x, slopes = np.random.default_rng(1).normal(size=(5, 4)), np.asarray([0.1, 0.2, -0.3, 0.4])
    with enable_x64(True):
        ours = activations.prelu(jnp.asarray(x), jnp.asarray(slopes))
    np.testing.assert_allclose(ours, F.prelu(torch.tensor(x), torch.tensor(slopes)), rtol=1e-12)
