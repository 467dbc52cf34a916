"""Units inside layers, and how their flips bound the rank of a change of the Jacobian."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import analysis

WIDTH = 40


@analysis.tag_units
def relu(x):
    return jnp.maximum(x, 0)


class TestTags:
    def test_values_and_order(self):
        def layer(x):
            h = relu(x)
            return x + jnp.sum(relu(h - 1))

        x = jnp.array([-1.0, 0.5, 3.0])
        y, marked = jax.jit(analysis.collect(layer))(x)
        chex.assert_trees_all_close(y, layer(x))
        chex.assert_trees_all_close(
            marked, [jnp.maximum(x, 0), jnp.maximum(jnp.maximum(x, 0) - 1, 0)]
        )

    def test_inside_calls_with_rules_of_their_own(self):
        @jax.custom_jvp
        def inner(x):
            return relu(jnp.sin(x))

        inner.defjvp(lambda primals, tangents: (inner(*primals), tangents[0]))

        @jax.jit
        def layer(x):
            return 2 * jax.checkpoint(inner)(x)

        x = jnp.array([-1.0, 1.0])
        y, marked = analysis.collect(layer)(x)
        chex.assert_trees_all_close(y, 2 * jnp.maximum(jnp.sin(x), 0))
        chex.assert_trees_all_close(marked, [jnp.maximum(jnp.sin(x), 0)])

    def test_a_tag_changes_no_derivative(self):
        x = jnp.array([-1.0, 0.5])
        chex.assert_trees_all_equal(
            jax.jacobian(relu)(x), jax.jacobian(lambda x: jnp.maximum(x, 0))(x)
        )

    def test_stream_sees_the_units_inside_a_residual_block(self):
        w = jnp.array([[1.0, -1.0], [0.0, 0.0]])

        def block(w, x):
            return x + relu(x @ w - jnp.array([[0.0, 100.0]]))

        chain = analysis.as_chain([("blocks", block, jnp.stack([w, w]), 2)])
        x = jax.random.normal(jax.random.key(0), (50, 2))
        states = analysis.stream(chain, [x[:30], x[30:]])
        found = analysis.range_states(states["blocks"].units)
        assert found.dead.tolist() == [[False, True], [False, True]]
        assert bool(jnp.all(found.switching[:, 0]))


def shallow(key, tag=True):
    """One hidden rectified layer of 40 units between 30 inputs and 30 outputs."""
    a, b = (jax.random.normal(k, (30, WIDTH)) for k in jax.random.split(key))
    return analysis.as_chain(
        [
            ("hidden", lambda w, x: (relu if tag else lambda v: jnp.maximum(v, 0))(x @ w), a, None),
            ("out", lambda w, x: x @ w.T, b, None),
        ]
    )


def hidden_flips(chain, x, y):
    """Only the hidden layer's: the output of a linear layer has no state."""
    return analysis.flips(chain, x, y)["hidden"][0]


class TestFlips:
    def test_counts(self):
        chain = shallow(jax.random.key(0))
        x, y = jax.random.normal(jax.random.key(1), (2, 30))
        w = np.asarray(chain.segments[0].params)
        expected = np.sum((np.asarray(x) @ w > 0) != (np.asarray(y) @ w > 0))
        assert int(hidden_flips(chain, x, y)) == expected

    @pytest.mark.parametrize("seed", range(3))
    def test_rank_is_the_number_of_flips_until_it_saturates(self, seed):
        chain = shallow(jax.random.key(seed))
        x, direction = jax.random.normal(jax.random.key(10 + seed), (2, 30))
        body = analysis.Chain(chain.segments)
        rank = jax.jit(functools.partial(analysis.flip_rank, body))
        seen = []
        for distance in (0.02, 0.1, 0.4, 2.0, 100.0):
            y = x + distance * direction if distance < 50 else -x
            found = rank(x, y)
            flips = int(hidden_flips(chain, x, y))
            bound = int(found.rank_x) + int(found.rank_y)
            assert int(found.rank) == min(flips, bound, 30)
            seen.append(flips)
        assert seen[0] < seen[2] < seen[-1] == WIDTH

    def test_saturates_at_the_sum_of_the_ranks(self):
        """A bottleneck of 6 after the units: 60 flips, but J and J' have rank 6 each."""
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = ((60, 60), (60, 6), (6, 60))
        weights = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
        chain = analysis.as_chain(
            [
                ("hidden", lambda w, x: relu(x @ w), weights[0], None),
                ("narrow", lambda w, x: x @ w, weights[1], None),
                ("wide", lambda w, x: relu(x @ w), weights[2], None),
            ]
        )
        x = jax.random.normal(jax.random.key(3), (60,))
        found = analysis.flip_rank(chain, x, -x)
        assert int(hidden_flips(chain, x, -x)) == 60
        assert (int(found.rank_x), int(found.rank_y)) == (6, 6)
        assert int(found.rank) == 12

    def test_the_same_input(self):
        chain = shallow(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (30,))
        found = analysis.flip_rank(chain, x, x)
        assert (int(found.flips), int(found.rank)) == (0, 0)
        assert bool(jnp.all(jnp.isneginf(found.log_singular_values)))
