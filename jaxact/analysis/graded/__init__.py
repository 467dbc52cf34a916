r"""Tokens that have almost collapsed, followed at any distance from rank one.

The tokens of a sequence are kept as :math:`x_i = m + 2^{k} r_i`, their mean and their deviations
from it, whose common power of two stands apart. Each map here gives the same of its image, as plain
evaluation would in enough digits: the mean goes through the map, and the deviations through its
divided difference, which is computed without a difference of nearly equal numbers. So the rank
collapse of attention, whose residual falls as the cube of that of the layer before, is followed in
float32 far below all numbers of float64.

A network is a composition of these maps on `GradedTokens`; they take arrays and functions, and
compose with `jax.jit`, `jax.grad`, `jax.vmap` (over sequences) and `jax.lax.scan` (over layers).
"""

from jaxact.analysis.graded._activation import activation as activation
from jaxact.analysis.graded._attention import attention as attention
from jaxact.analysis.graded._maps import add as add
from jaxact.analysis.graded._maps import by_layer as by_layer
from jaxact.analysis.graded._maps import gated as gated
from jaxact.analysis.graded._maps import layer_norm as layer_norm
from jaxact.analysis.graded._maps import linear as linear
from jaxact.analysis.graded._maps import rms_norm as rms_norm
from jaxact.analysis.graded._tokens import GradedTokens as GradedTokens
from jaxact.analysis.graded._tokens import tokens as tokens
