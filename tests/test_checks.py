"""Refusals of values of a wrong type, which the suite's own checks of types keep from packages."""

import subprocess
import sys

import pytest

CALLS = {
    "models.MLPResNet(4, 3, width=1.5, depth=1, rngs=rngs)": "width must be an integer of at least"
    " 1; got 1.5",
    "models.MLPResNet(4, 3, width='4', depth=1, rngs=rngs)": "width must be an integer of at least"
    " 1; got '4'",
    "models.MLPResNet(0, 3, width=4, depth=1, rngs=rngs)": "in_features must be an integer of at "
    "least 1; got 0",
    "models.ConvResNet(0, 3, width=4, depth=1, rngs=rngs)": "in_channels must be an integer of at "
    "least 1; got 0",
    "models.BlockConfig(bias='yes')": "bias must be True or False; got 'yes'",
    "models.BlockConfig(gain='a')": "gain must be a positive finite number; got 'a'",
    "models.BlockConfig(zero_init=2, norm_placement='sandwich')": "zero_init must be True or False;"
    " got 2",
    "models.BlockConfig(layer_scale=None)": "layer_scale must be a finite number; got None",
    "models.BlockConfig(stochastic_depth='a')": "stochastic_depth must be a finite number; got 'a'",
    "models.ResNetConfig(depths=(1.5, 1, 1, 1))": "depths[0] must be an integer of at least 1; got "
    "1.5",
    "models.ResNetConfig(remat=3)": "remat must be None, a policy, or one of full, conv; got 3",
    "theory.mean_field('relu', 2.5)": "depth must be an integer of at least 1; got 2.5",
    "wiring.of('pre', True)": "skip must be a number or one of identity, ",
    "wiring.get(None)": "wiring must be one of ",
}
SCRIPT = """
import sys
from flax import nnx
from jaxact import models, theory, wiring
rngs = nnx.Rngs(0)
for call in sys.argv[1:]:
    try:
        eval(call)
    except (TypeError, ValueError) as error:
        print(error)
    else:
        print("no error")
"""


@pytest.fixture(scope="module")
def sentences():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *CALLS], check=True, capture_output=True, text=True
    )
    return dict(zip(CALLS, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_refusals(sentences, call):
    assert sentences[call].startswith(CALLS[call])
