"""What the study's table must show because theory says so, as properties, not as pinned numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import polygamma

from jaxact import analysis, spectral, theory
from jaxact.experiments import rank_collapse
from jaxact.experiments.rank_collapse import RankCollapse

WIDTH = 64


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """1,000 blocks at initialization, for a plain, an unscaled and a scaled residual network."""
    out = tmp_path_factory.mktemp("deep") / "study"
    config = RankCollapse(
        networks=("mlp",),
        wirings=("plain", "norm_free", "scaled"),
        activations=("tanh",),
        depths=(1000,),
        seeds=(0, 1, 2),
        steps=0,
        examples=32,
        jacobian_examples=1,
        out=out,
    )
    rank_collapse.run(config)
    return pd.read_parquet(out / "table.parquet")


def at_last_block(table, object_, quantity, word):
    rows = table[
        (table.object == object_)
        & (table.quantity == quantity)
        & (table.wiring == word)
        & (table.layer == 1000)
    ]
    return rows.value.to_numpy()


@pytest.mark.slow
class TestThousandBlocks:
    @pytest.mark.parametrize("object_", ["block_product", "jacobian"])
    def test_only_the_scaled_branch_keeps_rank(self, table, object_):
        """The first two exponents lie 8 nat apart at L = 1,000, give or take 4 (Newman).

        So a plain network has its energy in one direction to two decimals, while the effective
        rank, which takes the singular values themselves, still sees the second one in some.
        """
        for word, energy, values in (("plain", 1.005, 1.5), ("norm_free", 2.0, 4.0)):
            participation = at_last_block(table, object_, "participation_ratio", word)
            assert len(participation) == 3
            assert np.all(participation < energy), word
            assert np.all(at_last_block(table, object_, "effective_rank", word) < values)
        assert np.all(at_last_block(table, object_, "participation_ratio", "scaled") > 4)
        assert np.all(at_last_block(table, object_, "effective_rank", "scaled") > 16)

    def test_plain_product_falls_apart_at_newmans_rate(self, table):
        """Log singular values of 1,000 Gaussian layers follow L * mu_i within sampling error.

        log R_ii of one layer has variance trigamma((n - i + 1) / 2) / 4; singular values of a long
        product add a bounded part, small against the spread of exponents at L = 1,000.
        """
        rows = table[
            (table.object == "block_product")
            & (table.quantity == "log_singular_value")
            & (table.wiring == "plain")
            & (table.layer == 1000)
        ].sort_values("index")
        layers = 1000
        gain = theory.gain("tanh")
        exponents = np.asarray(theory.newman_exponents(WIDTH)) + np.log(gain)
        i = np.arange(1, WIDTH + 1)
        deviation = np.sqrt(layers * polygamma(1, (WIDTH - i + 1) / 2) / 4)
        z = (rows.value.to_numpy() - layers * exponents) / deviation
        assert np.max(np.abs(z)) < 5
        assert np.sqrt(np.mean(z**2)) < 1.7

    def test_weights_keep_their_rank(self, table):
        """The factors are of full rank: what collapses is the product."""
        weights = table[
            (table.object == "weight")
            & (table.quantity == "effective_rank")
            & (table.parameter.str.startswith("blocks"))
        ]
        # A square Gaussian matrix: singular values of density sqrt(4 - s^2) / pi on [0, 2].
        s = np.linspace(0, 2, 200_001)
        density = np.sqrt(4 - s**2) / np.pi
        mean = np.trapezoid(s * density, s)
        entropy_rank = (
            np.exp(
                -np.trapezoid(np.where(s > 0, s * np.log(np.maximum(s, 1e-300)), 0) * density, s)
                / mean
            )
            * mean
        )
        np.testing.assert_allclose(weights.value.mean(), WIDTH * entropy_rank, rtol=0.01)


def test_orthogonal_linear_network_loses_nothing():
    depth = 500
    keys = jax.random.split(jax.random.key(0), depth)
    kernels = jax.vmap(lambda k: jax.random.orthogonal(k, WIDTH))(keys)

    def layer(kernel, x):
        return jnp.matmul(x, kernel, precision="highest")

    chain = analysis.as_chain([("blocks", layer, kernels, depth)])
    products = analysis.input_jacobians(chain, jnp.ones(WIDTH))["blocks"]
    last = jax.tree.map(lambda leaf: leaf[-1], products)
    log_s = spectral.graded_spectrum(last)
    assert log_s.dtype == jnp.float32
    assert float(spectral.effective_rank(log_s, log=True)) == pytest.approx(WIDTH, rel=1e-6)
    weights = analysis.weight_matrices(chain)["blocks"][""]
    product = spectral.product_spectrum(weights).log_singular_values
    assert float(spectral.effective_rank(product, log=True)) == pytest.approx(WIDTH, rel=1e-6)
