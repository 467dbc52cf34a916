"""What may be chosen of a block, and which choices do not go together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike

from jaxact import activations, theory
from jaxact.models._checks import conflict, one_of
from jaxact.models._layers import Weights, get_weights
from jaxact.models._norms import Norm, get_norm

Activation = Callable[..., Any]


class Placement(NamedTuple):
    """Where a block applies its norms and activation.

    Attributes:
      activation_first: whether the branch begins with the activation, or with a weight layer.
      before: a norm before each weight layer (before its activation).
      between: a norm after each weight layer but the last.
      end: a norm after the last.
      after_addition: a norm after the addition.
      activation_at: where the last activation is: the ``"branch"``'s end, after the ``"addition"``,
        or None where the branch begins with one.
    """

    activation_first: bool
    before: bool = False
    between: bool = False
    end: bool = False
    after_addition: bool = False
    activation_at: str | None = None


PLACEMENTS = {
    "post": Placement(False, between=True, end=True, activation_at="addition"),
    "post_add": Placement(False, between=True, after_addition=True, activation_at="addition"),
    "pre": Placement(True, before=True),
    "relu_before_addition": Placement(False, between=True, end=True, activation_at="branch"),
    "relu_only_pre": Placement(True, between=True, end=True),
    "sandwich": Placement(True, before=True, end=True),
    "res_post": Placement(True, end=True),
    "deepnorm": Placement(True, after_addition=True),
    "residual_dual": Placement(True, after_addition=True),
    "none": Placement(True),
}
PLAIN = Placement(False, activation_at="addition")
ALIASES = {"peri": "sandwich"}
NORM_PLACEMENTS = (*PLACEMENTS, *ALIASES)
AROUND_ADDITION = ("post_add", "relu_before_addition", "deepnorm", "residual_dual")

SKIPS = (
    "identity",
    "scaled",
    "rezero",
    "skipinit",
    "layerscale",
    "fixup",
    "normalizer_free",
    "none",
)
SHORTCUTS = ("A", "B", "C")
SCHEDULES = ("linear", "uniform")


@dataclasses.dataclass(frozen=True)
class Wiring:
    """The choices that every block of a network shares.

    Attributes:
      norm_placement: one of `NORM_PLACEMENTS`; ``"peri"`` is another name of ``"sandwich"``.
      norm: ``"batch"``, ``"group"``, ``"layer"``, ``"rms"``, ``"instance"``, ``"none"``, or any
        ``make(features, *, rngs) -> module`` with ``module(x) -> y`` of the shape of x.
      skip: how the branch F is added: ``"identity"`` (x + F), ``"scaled"`` (x + F / sqrt(blocks)),
        a number s (x + s F), ``"rezero"`` or ``"skipinit"`` (s learned, from 0), ``"layerscale"``
        (s learned by channel, from ``layer_scale``), ``"fixup"``, ``"normalizer_free"``
        (x + 0.2 F(x / beta), beta from the depth), or ``"none"``: a plain network, F alone.
      shortcut: what a skip does where the shape changes: ``"A"`` strides and appends zero channels,
        ``"B"`` projects by a 1x1 convolution, ``"C"`` projects in every block.
      weights: ``"plain"``, ``"standardized"``, ``"scaled_standardized"``, ``"spectral"``, or any
        ``make(shape, *, kernel, gain, param_dtype, rngs) -> module`` from kernels to kernels.
      activation: a name or elementwise callable of `jaxact.activations`, or an `nnx.Module` class
        (or partial of one) made as ``make(features, rngs=rngs)`` at each place: a learnable one.
      gain: weights have variance gain^2 / fan_in; if None `jaxact.theory.gain` of the activation,
        1 / sqrt(E f^2), or 1 / sqrt(Var f) with scaled standardized weights, which pass no mean.
      bias: whether weight layers have biases; if None, where there is no norm.
      zero_init: whether the scale of the norm that ends each branch starts at zero.
      layer_scale: the first scales of ``skip="layerscale"``.
      stochastic_depth: the share of examples whose branch is dropped in training, in the last
        block; what is kept is divided by the share kept.
      stochastic_depth_schedule: ``"linear"``, l / L of it in the l-th of L blocks, or
        ``"uniform"``.
      param_dtype: of the parameters.

    Raises:
      ValueError: if a choice is unknown, or two of them conflict.
    """

    norm_placement: str = "pre"
    norm: str | Norm = "batch"
    skip: str | float = "identity"
    shortcut: str = "B"
    weights: str | Weights = "plain"
    activation: str | Activation = "relu"
    gain: float | Array | None = None
    bias: bool | None = None
    zero_init: bool = False
    layer_scale: float = 1e-4
    stochastic_depth: float = 0.0
    stochastic_depth_schedule: str = "linear"
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        one_of("norm_placement", self.norm_placement, NORM_PLACEMENTS)
        placement = ALIASES.get(self.norm_placement, self.norm_placement)
        object.__setattr__(self, "norm_placement", placement)
        if isinstance(self.skip, str):
            one_of("skip", self.skip, SKIPS)
        elif not isinstance(self.skip, int | float):
            raise TypeError(f"skip must be a number or one of {', '.join(SKIPS)}; got {self.skip}")
        one_of("shortcut", self.shortcut, SHORTCUTS)
        one_of("stochastic_depth_schedule", self.stochastic_depth_schedule, SCHEDULES)
        if self.norm != "none":
            get_norm(self.norm)
        get_weights(self.weights)
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(
                f"stochastic_depth must be from 0 to below 1; got {self.stochastic_depth}"
            )
        self._refuse_conflicts()

    def _refuse_conflicts(self):
        placement = f"norm_placement={self.norm_placement!r}"
        norm, skip = f"norm={self.norm!r}", f"skip={self.skip!r}"
        weights, drop = f"weights={self.weights!r}", f"stochastic_depth={self.stochastic_depth}"
        plain_weights = self.weights == "plain"
        if (self.norm == "none") != (self.norm_placement == "none"):
            raise conflict(norm, placement, "either both are 'none' or neither is")
        if self.plain and self.norm_placement in AROUND_ADDITION:
            raise conflict(placement, skip, "a plain network has no addition to place it by")
        if self.plain and self.shortcut != "B":
            raise conflict(f"shortcut={self.shortcut!r}", skip, "a plain network has no shortcut")
        if self.plain and self.stochastic_depth:
            raise conflict(drop, skip, "without a skip a dropped branch leaves nothing")
        if self.norm_placement == "deepnorm" and self.skip != "identity":
            raise conflict(placement, skip, "DeepNorm itself scales the skip")
        if self.norm_placement == "deepnorm" and not plain_weights:
            raise conflict(placement, weights, "DeepNorm's initial scale of the weights is undone")
        if self.skip == "fixup" and self.norm_placement != "none":
            raise conflict(skip, placement, "Fixup is an initialization without norms")
        if self.skip == "fixup" and not plain_weights:
            raise conflict(skip, weights, "Fixup's initial scale of the weights is undone")
        if self.skip == "normalizer_free" and self.norm_placement != "none":
            raise conflict(skip, placement, "its variances are predicted for blocks without norms")
        if self.zero_init and not self.place.end:
            raise conflict("zero_init=True", placement, "no norm ends its branch")
        if self.zero_init and self.plain:
            raise conflict("zero_init=True", skip, "a plain block would put out zeros")

    @property
    def plain(self) -> bool:
        """Whether there is no skip."""
        return self.skip == "none"

    @property
    def place(self) -> Placement:
        """Where norms and activations are."""
        if self.plain and self.norm_placement == "none":
            return PLAIN
        return PLACEMENTS[self.norm_placement]

    @property
    def learnable(self) -> bool:
        """Whether the activation has parameters, and is made anew at each place."""
        function = self.activation
        while isinstance(function, functools.partial):
            function = function.func
        return inspect.isclass(function) and issubclass(function, nnx.Module)

    @property
    def monotone(self) -> bool:
        """Whether the activation is known never to decrease."""
        return isinstance(self.activation, str) and activations.info(self.activation).monotone

    def make_activation(self, features: int, rngs: nnx.Rngs) -> Activation:
        """The activation of one place."""
        if not self.learnable:
            return self._function()
        make: Any = self.activation
        return make(features, rngs=rngs)

    def _function(self) -> Activation:
        if isinstance(self.activation, nnx.Module):
            raise TypeError(
                "activation must be a module's class, so that every place has its own; "
                f"got an instance of {type(self.activation).__name__}"
            )
        function = activations.get(self.activation)
        found = jax.eval_shape(function, jax.ShapeDtypeStruct((2, 4), jnp.float32))
        if getattr(found, "shape", None) != (2, 4):
            raise ValueError(
                f"activation must keep the shape of its input; {self.activation!r} does not"
            )
        return function

    def make_norm(self, features: int, rngs: nnx.Rngs, *, zero: bool = False) -> Any:
        """A norm of one place; with ``zero`` its scale starts there."""
        make = get_norm(self.norm)
        if isinstance(self.norm, str):
            make = functools.partial(make, param_dtype=self.param_dtype)
        norm = make(features, rngs=rngs)
        if zero:
            if getattr(norm, "scale", None) is None:
                raise conflict("zero_init=True", f"norm={self.norm!r}", "the norm has no scale")
            norm.scale[...] = jnp.zeros_like(norm.scale[...])
        return norm

    def layer_options(self, *, gain: float | Array | None = None) -> dict[str, Any]:
        """Options of every weight layer."""
        bias = self.norm == "none" if self.bias is None else self.bias
        return {
            "gain": self.weight_gain if gain is None else gain,
            "bias": bias and self.skip != "fixup",
            "weights": get_weights(self.weights),
            "param_dtype": self.param_dtype,
        }

    @functools.cached_property
    def weight_gain(self) -> float | Array:
        """The gain of weights that follow the activation."""
        if self.gain is not None:
            return self.gain
        function = self._function() if not self.learnable else self._first_function()
        if self.weights == "scaled_standardized":
            # Weights that sum to zero pass on no mean: what counts is the variance (Brock 2021).
            return theory.moments(function).variance ** -0.5
        return theory.gain(function)

    def _first_function(self) -> Activation:
        """A learnable activation as it is initialized."""
        module = self.make_activation(1, nnx.Rngs(0))
        # Nodes of the quadrature are examples of one channel.
        return lambda x: module(x.reshape(-1, 1)).reshape(x.shape)

    def drop_rates(self, depth: int) -> list[float]:
        """The share of examples dropped, by block."""
        if self.stochastic_depth_schedule == "uniform":
            return [self.stochastic_depth] * depth
        return [self.stochastic_depth * (block + 1) / depth for block in range(depth)]
