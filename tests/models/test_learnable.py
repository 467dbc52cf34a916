"""The learnable activations as modules: what they start as, and that they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import activations, models

MODULES = {
    "prelu": lambda rngs: models.PReLU(16),
    "prelu of all": lambda rngs: models.PReLU(),
    "swish": lambda rngs: models.Swish(16),
    "tlu": lambda rngs: models.TLU(16),
    "srelu": lambda rngs: models.SReLU(16),
    "acon_c": lambda rngs: models.AconC(16, rngs=rngs),
    "meta_acon": lambda rngs: models.MetaAcon(16, rngs=rngs),
    "dynamic A": lambda rngs: models.DynamicReLU(16, form="A", reduction=2, rngs=rngs),
    "dynamic B": lambda rngs: models.DynamicReLU(16, form="B", reduction=2, rngs=rngs),
    "dynamic C": lambda rngs: models.DynamicReLU(16, form="C", reduction=2, rngs=rngs),
    "frelu": lambda rngs: models.FReLU(16, rngs=rngs),
    "pau": lambda rngs: models.PAU(),
    "apl": lambda rngs: models.APL(16),
}
X = jax.random.normal(jax.random.key(0), (2, 3, 3, 16))
STARTS = {
    "prelu": (lambda x: activations.leaky_relu(x, negative_slope=0.25), 0.0),
    "swish": (activations.silu, 1e-6),
    "tlu": (activations.relu, 0.0),
    "srelu": (lambda x: activations.leaky_relu(x, negative_slope=0.2), 0.0),
    "apl": (activations.relu, 0.0),
    "dynamic A": (activations.relu, 0.0),
    "dynamic B": (activations.relu, 0.0),
    "dynamic C": (activations.relu, 0.0),
    "pau": (lambda x: activations.leaky_relu(x), 0.2),
}


@pytest.mark.parametrize("name", MODULES)
def test_starts_as_published_and_has_gradients(name):
    module = MODULES[name](nnx.Rngs(0))
    y = module(X)
    assert y.shape == X.shape
    if name in STARTS:
        start, tolerance = STARTS[name]
        np.testing.assert_allclose(y, start(X), rtol=1e-6, atol=tolerance)
    half = module(X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    gradient = nnx.grad(lambda m: (m(X) ** 2).mean())(module)
    leaves = jax.tree.leaves(nnx.state(gradient))
    assert leaves
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    assert any(bool((leaf != 0).any()) for leaf in leaves) or name == "tlu"


def test_bad_arguments():
    with pytest.raises(ValueError, match="form"):
        models.DynamicReLU(4, form="D", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="size"):
        models.FReLU(4, size=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="features"):
        models.PReLU(0)
    with pytest.raises(ValueError, match="hinges"):
        models.APL(4, hinges=0)
