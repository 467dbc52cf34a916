"""Pure, jit-compiled activation functions, exact in value and gradient."""

from typing import Any

from jaxact.activations._exponential import celu as celu
from jaxact.activations._exponential import elu as elu
from jaxact.activations._exponential import exponential as exponential
from jaxact.activations._exponential import log1mexp as log1mexp
from jaxact.activations._exponential import log_sigmoid as log_sigmoid
from jaxact.activations._exponential import selu as selu
from jaxact.activations._exponential import soft_relu as soft_relu
from jaxact.activations._exponential import softplus as softplus
from jaxact.activations._exponential import squareplus as squareplus
from jaxact.activations._gated import eswish as eswish
from jaxact.activations._gated import hard_mish as hard_mish
from jaxact.activations._gated import logish as logish
from jaxact.activations._gated import phish as phish
from jaxact.activations._gated import quick_gelu as quick_gelu
from jaxact.activations._gated import serf as serf
from jaxact.activations._gated import smelu as smelu
from jaxact.activations._gated import su as su
from jaxact.activations._gated import tanhexp as tanhexp
from jaxact.activations._gated_linear import GATED_UNITS as GATED_UNITS
from jaxact.activations._gated_linear import bilinear as bilinear
from jaxact.activations._gated_linear import geglu as geglu
from jaxact.activations._gated_linear import glu as glu
from jaxact.activations._gated_linear import gtu as gtu
from jaxact.activations._gated_linear import reglu as reglu
from jaxact.activations._gated_linear import seglu as seglu
from jaxact.activations._gated_linear import swiglu as swiglu
from jaxact.activations._learnable import acon_c as acon_c
from jaxact.activations._learnable import apl as apl
from jaxact.activations._learnable import dynamic_relu as dynamic_relu
from jaxact.activations._learnable import frelu as frelu
from jaxact.activations._learnable import maxout as maxout
from jaxact.activations._learnable import meta_acon as meta_acon
from jaxact.activations._learnable import parametric_swish as parametric_swish
from jaxact.activations._learnable import pau as pau
from jaxact.activations._learnable import prelu as prelu
from jaxact.activations._learnable import srelu as srelu
from jaxact.activations._learnable import tlu as tlu
from jaxact.activations._periodic import cosine as cosine
from jaxact.activations._periodic import gcu as gcu
from jaxact.activations._periodic import sinc as sinc
from jaxact.activations._periodic import sine as sine
from jaxact.activations._periodic import snake as snake
from jaxact.activations._rectified import abs as abs
from jaxact.activations._rectified import hard_tanh as hard_tanh
from jaxact.activations._rectified import identity as identity
from jaxact.activations._rectified import leaky_relu as leaky_relu
from jaxact.activations._rectified import relu as relu
from jaxact.activations._rectified import relu6 as relu6
from jaxact.activations._rectified import relu_n as relu_n
from jaxact.activations._rectified import squared_relu as squared_relu
from jaxact.activations._searched import arcsinh_gated as arcsinh_gated
from jaxact.activations._searched import arctid as arctid
from jaxact.activations._searched import cosid as cosid
from jaxact.activations._searched import cube as cube
from jaxact.activations._searched import maxsig as maxsig
from jaxact.activations._searched import maxtanh as maxtanh
from jaxact.activations._searched import minsin as minsin
from jaxact.activations._searched import sign as sign
from jaxact.activations._searched import sincid as sincid
from jaxact.activations._searched import step as step
from jaxact.activations._self_gated import gelu as gelu
from jaxact.activations._self_gated import gelu_tanh as gelu_tanh
from jaxact.activations._self_gated import hard_silu as hard_silu
from jaxact.activations._self_gated import mish as mish
from jaxact.activations._self_gated import silu as silu
from jaxact.activations._self_gated import swish as swish
from jaxact.activations._shrink import concat_elu as concat_elu
from jaxact.activations._shrink import crelu as crelu
from jaxact.activations._shrink import hard_shrink as hard_shrink
from jaxact.activations._shrink import rrelu as rrelu
from jaxact.activations._shrink import shifted_relu as shifted_relu
from jaxact.activations._shrink import soft_shrink as soft_shrink
from jaxact.activations._shrink import sparse_plus as sparse_plus
from jaxact.activations._shrink import sparse_sigmoid as sparse_sigmoid
from jaxact.activations._shrink import star_relu as star_relu
from jaxact.activations._shrink import tanh_shrink as tanh_shrink
from jaxact.activations._shrink import threshold as threshold
from jaxact.activations._sigmoidal import arctan as arctan
from jaxact.activations._sigmoidal import bent_identity as bent_identity
from jaxact.activations._sigmoidal import erf as erf
from jaxact.activations._sigmoidal import gaussian as gaussian
from jaxact.activations._sigmoidal import hard_sigmoid as hard_sigmoid
from jaxact.activations._sigmoidal import isrlu as isrlu
from jaxact.activations._sigmoidal import isru as isru
from jaxact.activations._sigmoidal import lecun_tanh as lecun_tanh
from jaxact.activations._sigmoidal import log_log as log_log
from jaxact.activations._sigmoidal import penalized_tanh as penalized_tanh
from jaxact.activations._sigmoidal import sigmoid as sigmoid
from jaxact.activations._sigmoidal import soft_sign as soft_sign
from jaxact.activations._sigmoidal import sqnl as sqnl
from jaxact.activations._sigmoidal import symmetrical_sigmoid as symmetrical_sigmoid
from jaxact.activations._sigmoidal import tanh as tanh
from jaxact.activations._simplex import entmax15 as entmax15
from jaxact.activations._simplex import log_softmax as log_softmax
from jaxact.activations._simplex import softmax as softmax
from jaxact.activations._simplex import sparsemax as sparsemax
from jaxact.activations._table import Info as Info
from jaxact.activations._table import get as get
from jaxact.activations._table import info as info
from jaxact.activations._table import names as names
from jaxact.activations._tailored import tailored as tailored


def __getattr__(name: str) -> Any:
    """Aliases as attributes, such as ``hard_swish``; for any other name the nearest ones."""
    from jaxact.activations._table import ALIASES, TABLE, nearest

    if name in ALIASES:
        return TABLE[ALIASES[name]].function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name)}")
