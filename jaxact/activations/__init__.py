"""Pure, jit-compiled activation functions, exact in value and gradient."""

from jaxact.activations._exponential import celu as celu
from jaxact.activations._exponential import elu as elu
from jaxact.activations._exponential import selu as selu
from jaxact.activations._exponential import softplus as softplus
from jaxact.activations._periodic import sine as sine
from jaxact.activations._rectified import abs as abs
from jaxact.activations._rectified import hard_tanh as hard_tanh
from jaxact.activations._rectified import identity as identity
from jaxact.activations._rectified import leaky_relu as leaky_relu
from jaxact.activations._rectified import relu as relu
from jaxact.activations._rectified import relu6 as relu6
from jaxact.activations._rectified import relu_n as relu_n
from jaxact.activations._rectified import squared_relu as squared_relu
from jaxact.activations._self_gated import gelu as gelu
from jaxact.activations._self_gated import hard_silu as hard_silu
from jaxact.activations._self_gated import mish as mish
from jaxact.activations._self_gated import silu as silu
from jaxact.activations._self_gated import swish as swish
from jaxact.activations._sigmoidal import erf as erf
from jaxact.activations._sigmoidal import sigmoid as sigmoid
from jaxact.activations._sigmoidal import soft_sign as soft_sign
from jaxact.activations._sigmoidal import tanh as tanh
from jaxact.activations._table import Info as Info
from jaxact.activations._table import get as get
from jaxact.activations._table import info as info
from jaxact.activations._table import names as names
