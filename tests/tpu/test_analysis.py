"""The streamed features compiled for four TPU chips: full precision, no traffic until the end."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import P

from jaxact import analysis, models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tpu_mesh):
    """An update of the stream on four chips' shares of a batch, and the merging of their states."""
    mesh = tpu_mesh(data=4)
    chain = analysis.as_chain(models.MLPResNet(256, 10, width=256, depth=4, rngs=nnx.Rngs(0)))
    over_chips = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)

    def each(f):
        """Of the states of all chips, stacked, each chip's own."""
        return lambda states, *rest: jax.tree.map(
            lambda leaf: leaf[None], f(jax.tree.map(lambda leaf: leaf[0], states), *rest)
        )

    update = over_chips(
        each(lambda states, x: analysis.update_stream(chain, states, x)),
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
    )
    merge = over_chips(
        lambda states: analysis.reduce_streams(jax.tree.map(lambda leaf: leaf[0], states), "data"),
        in_specs=P("data"),
        out_specs=P(),
    )
    sharding = jax.NamedSharding(mesh, P("data"))

    def spread(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    x = spread(jax.ShapeDtypeStruct((4096, 256), jnp.float32))
    states = jax.eval_shape(lambda x: analysis.start_stream(chain, x), x)
    states = jax.tree.map(lambda s: spread(jax.ShapeDtypeStruct((4, *s.shape), s.dtype)), states)
    return (
        jax.jit(update, donate_argnums=0).lower(states, x).compile(),
        jax.jit(merge).lower(states).compile(),
    )


def collectives(program):
    text = program.as_text()
    return [name for name in ("all-reduce", "all-gather", "all-to-all") if f" {name}" in text]


def test_chips_talk_only_when_they_are_merged(compiled):
    update, merge = compiled
    assert collectives(update) == []
    assert collectives(merge) != []


def test_arithmetic_is_single_precision_throughout(compiled):
    """bfloat16 stands only in the passes that make up a product in full precision."""
    for program in compiled:
        text = program.as_text()
        assert "f64" not in text
        assert "callback" not in text
    assert "operand_precision={highest,highest}" in compiled[0].as_text()


def test_temporaries_fit_the_chip(compiled):
    assert max(p.memory_analysis().temp_size_in_bytes for p in compiled) < 2**30


def test_layers_are_computed_in_full_precision():
    """Unless a context asks for less, in which a network's Jacobian would be one of bfloat16."""
    chain = analysis.as_chain(models.MLPResNet(8, 3, width=8, depth=3, rngs=nnx.Rngs(0)))

    def products(x):
        measure = jax.jit(lambda x: analysis.input_jacobians(chain, x)["blocks"].log_scale)
        text = measure.trace(x).lower(lowering_platforms=("tpu",)).as_text()
        return [line for line in text.splitlines() if "stablehlo.dot_general" in line]

    x = jnp.ones(8)
    assert all("HIGHEST" in line for line in products(x))
    with jax.default_matmul_precision("bfloat16"):
        assert not all("HIGHEST" in line for line in products(x))
