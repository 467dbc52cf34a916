"""Networks of other libraries, read as chains."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from jaxact import analysis

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (5, 3))


@pytest.fixture
def sequential():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Linear(3, 4, rngs=rngs),
        nnx.relu,
        nnx.BatchNorm(4, rngs=rngs),
        nnx.Linear(4, 2, rngs=rngs),
    )


class TestNNX:
    def test_sequence_and_sequential(self, sequential, x):
        expected = nnx.clone(sequential)(x)
        for network in (sequential, list(sequential.layers)):
            chain = analysis.as_chain(network)
            assert len(chain.segments) == 4
            chex.assert_trees_all_close(analysis.run(chain, x), expected, rtol=1e-6)

    def test_parameters_are_read(self, sequential):
        found = analysis.as_matrices(analysis.as_chain(sequential))
        assert {name: m.shape for name, m in found.items()} == {
            "layer_1.kernel.value": (4, 3),
            "layer_4.kernel.value": (2, 4),
        }

    def test_state_written_while_called_is_dropped(self, sequential, x):
        before = jax.tree.map(jnp.copy, jax.tree.leaves(sequential))
        chain = analysis.as_chain(sequential)
        jax.jacobian(lambda v: analysis.run(chain, v))(x)
        analysis.gradients(chain, lambda y: jnp.sum(jnp.square(y)), x)
        chex.assert_trees_all_equal(jax.tree.leaves(sequential), before)


class TestLinen:
    def test_sequential_with_its_variables(self, x):
        module = linen.Sequential([linen.Dense(4), linen.relu, linen.Dense(2)])
        variables = module.init(jax.random.key(0), x)
        chain = analysis.as_chain((module, variables))
        assert len(chain.segments) == 3
        chex.assert_trees_all_close(analysis.run(chain, x), module.apply(variables, x), rtol=1e-6)
        found = analysis.as_matrices(chain)
        assert [m.shape for m in found.values()] == [(4, 3), (2, 4)]

    def test_module_with_its_variables_is_one_layer(self, x):
        module = linen.Dense(4)
        variables = module.init(jax.random.key(0), x)
        second = linen.Dense(2)
        h = jnp.tanh(module.apply(variables, x))
        chain = analysis.as_chain(
            [
                (module, variables),
                linen.tanh,
                (second, second.init(jax.random.key(1), h)),
            ]
        )
        chex.assert_trees_all_close(analysis.features(chain, x)["layer_2"][0], h, rtol=1e-6)
        assert analysis.run(chain, x).shape == (5, 2)

    def test_a_module_without_variables_is_refused(self):
        with pytest.raises(TypeError, match="must be"):
            analysis.as_chain((linen.Dense(4), 3))
