"""Transformers in graded form: where nothing has collapsed, what the network itself computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxact import models
from jaxact.experiments import graded_states

CASES = {
    "post": dict(norm_placement="post", activation="gelu"),
    "pre": dict(norm_placement="pre", activation="relu", norm="rms", kv_heads=1, bias=True),
    "deepnorm": dict(norm_placement="deepnorm", activation="swiglu", window=3),
    "norm_scaling": dict(norm_placement="norm_scaling", norm="dynamic_tanh", mask="none"),
    "sandwich": dict(norm_placement="sandwich", query_key_norm=True, activation="gtu"),
    "layerscale": dict(skip="layerscale", layer_scale=0.3, positions="learned", length=9),
    "plain": dict(norm_placement="norm_free", skip="plain", activation="reglu", mask="none"),
    "scaled": dict(norm_placement="norm_free", skip="scaled", weights="scaled_standardized"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_of_tokens_that_have_not_collapsed(case):
    net = models.Transformer(inputs=20, width=8, depth=2, heads=2, rngs=nnx.Rngs(0), **CASES[case])
    x = jax.random.randint(jax.random.key(0), (9,), 0, 20)
    states = graded_states(net, x)
    traces = models.apply(net, x[None], train=False, trace=True).traces
    assert list(states)[:2] == ["input", "1.attention"]
    for number in range(2):
        for name in ("attention", "feed_forward"):
            expected = traces[f"blocks.{name}"].output[number, 0]
            found = states[f"{number + 1}.{name}"].array
            largest = float(np.abs(expected).max())
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * largest)


class Own(models.LayerNorm):
    """A norm that could be anything."""


def test_what_has_no_graded_form():
    for options, message in [
        (dict(sublayers=("convolution",)), "sublayers=.*has none"),
        (dict(norm_placement="residual_dual"), "norm_placement='residual_dual' has none"),
        (dict(norm=Own), "norm=.*has none"),
    ]:
        net = models.Transformer(width=8, depth=1, heads=2, rngs=nnx.Rngs(0), **options)
        with pytest.raises(ValueError, match=message):
            graded_states(net, jnp.arange(4))
