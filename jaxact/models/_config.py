"""What may be chosen of a block beside its wiring, and which choices do not go together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike

from jaxact import activations, theory
from jaxact._checks import conflict, flag, floating, number, one_of
from jaxact.models._layers import Weights, get_weights
from jaxact.models._norms import Norm, get_norm
from jaxact.wiring import Wiring
from jaxact.wiring import of as wiring_of

Activation = Callable[..., Any]


SHORTCUTS = ("A", "B", "C")
SCHEDULES = ("linear", "uniform")


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """The choices that every block of a network shares.

    Attributes:
      norm_placement: one of `jaxact.wiring.PLACEMENTS`.
      norm: ``"batch"``, ``"group"``, ``"layer"``, ``"rms"``, ``"instance"``,
        ``"dynamic_tanh"``, or any ``make(features, *, rngs) -> module`` with ``module(x) -> y`` of
        the shape of x; ``"none"`` goes with ``norm_placement="norm_free"`` and is what None stands
        for there, elsewhere ``"batch"``.
      skip: how the branch is added: one of `jaxact.wiring.SKIPS`, or a number s for x + s F(x).
      shortcut: what a skip does where the shape changes: ``"A"`` strides and appends zero channels,
        ``"B"`` projects by a 1x1 convolution, ``"C"`` projects in every block.
      weights: ``"raw"``, ``"standardized"``, ``"scaled_standardized"``, ``"spectral"``, or any
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
    norm: str | Norm | None = None
    skip: str | float = "identity"
    shortcut: str = "B"
    weights: str | Weights = "raw"
    activation: str | Activation = "relu"
    gain: float | Array | None = None
    bias: bool | None = None
    zero_init: bool = False
    layer_scale: float = 1e-4
    stochastic_depth: float = 0.0
    stochastic_depth_schedule: str = "linear"
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        wiring_of(self.norm_placement, self.skip)
        one_of("shortcut", self.shortcut, SHORTCUTS)
        one_of("stochastic_depth_schedule", self.stochastic_depth_schedule, SCHEDULES)
        if self.chosen_norm != "none":
            get_norm(self.chosen_norm)
        get_weights(self.weights)
        if self.gain is not None:
            number("gain", self.gain, positive=True)
        if self.bias is not None:
            flag("bias", self.bias)
        flag("zero_init", self.zero_init)
        for name in ("layer_scale", "stochastic_depth"):
            number(name, getattr(self, name))
        floating("param_dtype", self.param_dtype)
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(
                f"stochastic_depth must be from 0 to below 1; got {self.stochastic_depth}"
            )
        self._refuse_conflicts()

    def _refuse_conflicts(self):
        placement = f"norm_placement={self.norm_placement!r}"
        skip, weights = f"skip={self.skip!r}", f"weights={self.weights!r}"
        wired, reparametrized = self.wiring, self.weights != "raw"
        if (self.chosen_norm == "none") == wired.normed:
            why = "norm_free is the placement without norm, and any other has one"
            raise conflict(f"norm={self.norm!r}", placement, why)
        if wired.plain and self.shortcut != "B":
            raise conflict(f"shortcut={self.shortcut!r}", skip, "a plain network has no shortcut")
        if wired.plain and self.stochastic_depth:
            drop = f"stochastic_depth={self.stochastic_depth}"
            raise conflict(drop, skip, "without a skip a dropped branch leaves nothing")
        if reparametrized and wired.placement.scales_weights:
            why = f"{wired.label}'s initial scale of the weights is undone"
            raise conflict(placement, weights, why)
        if reparametrized and wired.skip.scales_weights:
            why = f"{wired.skip.label}'s initial scale of the weights is undone"
            raise conflict(skip, weights, why)
        if self.zero_init and not wired.placed.norm_last:
            raise conflict("zero_init=True", placement, "no norm ends its branch")
        if self.zero_init and wired.plain:
            raise conflict("zero_init=True", skip, "a plain block would put out zeros")

    @functools.cached_property
    def wiring(self) -> Wiring:
        """Where norms, activations, skips and scales are."""
        return wiring_of(self.norm_placement, self.skip)

    @property
    def chosen_norm(self) -> str | Norm:
        """The norm; ``"none"`` where there is none."""
        if self.norm is None:
            return "batch" if self.wiring.normed else "none"
        return self.norm

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
        make = get_norm(self.chosen_norm)
        if isinstance(self.chosen_norm, str):
            make = functools.partial(make, param_dtype=self.param_dtype)
        norm = make(features, rngs=rngs)
        if zero:
            if getattr(norm, "scale", None) is None:
                raise conflict("zero_init=True", f"norm={self.norm!r}", "the norm has no scale")
            norm.scale[...] = jnp.zeros_like(norm.scale[...])
        return norm

    def layer_options(self, *, gain: float | Array | None = None) -> dict[str, Any]:
        """Options of every weight layer."""
        bias = not self.wiring.normed if self.bias is None else self.bias
        return {
            "gain": self.weight_gain if gain is None else gain,
            "bias": bias and not self.wiring.skip.biases,
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
        # Nodes of the quadrature are examples of one channel and one position.
        return lambda x: module(x.reshape(-1, 1, 1, 1)).reshape(x.shape)

    def drop_rates(self, depth: int) -> list[float]:
        """The share of examples dropped, by block."""
        if self.stochastic_depth_schedule == "uniform":
            return [self.stochastic_depth] * depth
        return [self.stochastic_depth * (block + 1) / depth for block in range(depth)]
