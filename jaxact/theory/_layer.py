"""A wide random layer: what every map, recursion and law starts from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxact._checks import one_of, whole
from jaxact.theory import _quadrature as quad

Function = Callable[[Array], Array]
Points = np.ndarray | Array

WEIGHTS = ("gaussian", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Layer:
    """The layer W f(h) + b of a wide random network.

    The functions of `jaxact.theory` take one, or a bare activation for a layer of the defaults.

    Attributes:
        activation: A name, or an elementwise callable f, continuous but where a function says so.
        weight_variance: sigma_w^2 > 0, the weights' variance times the fan-in; by default the
            squared gain 1 / E f(Z)^2, which makes q = 1 a fixed point of the variance.
        bias_variance: sigma_b^2 >= 0.
        weights: Entries "gaussian", or "orthogonal" (Haar) matrices times sigma_w.
        breakpoints: Where a callable is not smooth; those of a name are known. A traced array is
            differentiated through.
        nodes: Nodes a piece of the quadratures. Raise it for a function that oscillates within one
            standard deviation.

    Raises:
        ValueError: ``weights`` or the activation's name unknown, ``nodes`` below 2.
        TypeError: The activation is neither a name nor a callable.
    """

    activation: quad.Activation
    weight_variance: ArrayLike | None = None
    bias_variance: ArrayLike = 0.0
    weights: str = "gaussian"
    breakpoints: Sequence[ArrayLike] | ArrayLike = ()
    nodes: int = quad.NODES

    def __post_init__(self):
        one_of("weights", self.weights, WEIGHTS)
        whole("nodes", self.nodes, 2)
        quad.resolve(self.activation, ())


Given = Layer | quad.Activation


class Resolved(NamedTuple):
    """A layer's function and constants, in one dtype."""

    function: Function
    points: Points
    nodes: int
    dtype: np.dtype
    weight_variance: Array
    bias_variance: Array
    orthogonal: bool


def as_layer(layer: Given) -> Layer:
    """The layer; of a bare activation that of the defaults."""
    return layer if isinstance(layer, Layer) else Layer(layer)


def resolve(layer: Given, *values: ArrayLike) -> Resolved:
    """What a function computes with, in the widest dtype of the layer and of ``values``."""
    layer = as_layer(layer)
    function, points = quad.resolve(layer.activation, layer.breakpoints)
    given = [] if layer.weight_variance is None else [layer.weight_variance]
    dtype = quad.scalar_dtype(*values, layer.bias_variance, *given)
    nothing = jnp.zeros((), dtype)
    bias2 = quad.as_positive("bias_variance", layer.bias_variance, dtype, zero=True)
    orthogonal = layer.weights == "orthogonal"
    it = Resolved(function, points, layer.nodes, dtype, nothing, bias2, orthogonal)
    if layer.weight_variance is None:
        sigma2 = 1 / second_moment(it, jnp.ones((), dtype))
    else:
        sigma2 = quad.as_positive("weight_variance", layer.weight_variance, dtype)
    return it._replace(weight_variance=sigma2)


def second_moment(it: Resolved, q: Array) -> Array:
    """E f(X)^2 for X ~ N(0, q), q an array scalar."""
    x, w = quad.line_nodes(it.points, q, it.nodes, q.dtype)
    return quad.total(jnp.square(it.function(x)), w)


def slope_moment(it: Resolved, q: Array, power: int) -> Array:
    """E |f'(X)|^power for X ~ N(0, q), jumps of f left out; an even power."""
    x, w = quad.line_nodes(it.points, q, it.nodes, q.dtype)
    return quad.total(quad.derivative(it.function)(x) ** power, w)


def pair_moment(it: Resolved, q1: Array, q2: Array, defect: Array) -> Array:
    """E f(X1) f(X2) of a Gaussian pair of correlation 1 - defect."""
    x1, x2, w = quad.pair_nodes(it.points, q1, q2, defect, it.nodes)
    return jnp.sum(w * it.function(x1) * it.function(x2))
