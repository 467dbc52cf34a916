"""Learnable activations as modules, with the initialization that their papers publish.

All are made as ``make(features, rngs=rngs)``, whether they draw or not.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxact import activations

# The least-squares fit, with b1 = b3 = 0; off by at most 0.034.
_PAU_NUMERATOR = (0.033572, 0.505, 1.652668, 2.008108, 0.930567, 0.152131)
_PAU_DENOMINATOR = (0.0, 3.976451, 0.0, 0.30125)


def _shape(features: int | None) -> tuple[int, ...]:
    if features is not None and features < 1:
        raise ValueError(f"features must be at least 1 or None, got {features}")
    return () if features is None else (features,)


def _kernel(rngs: nnx.Rngs, inputs: int, outputs: int) -> nnx.Param:
    """Normal entries of variance 1/inputs."""
    return nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) / math.sqrt(inputs))


class PReLU(nnx.Module):
    """`activations.prelu` with a learned slope, at first 0.25 (He et al. 2015).

    Args:
        features: One slope for each channel (the last axis); None learns one for all.
    """

    def __init__(self, features: int | None = None, *, rngs: nnx.Rngs | None = None):
        self.slope = nnx.Param(jnp.full(_shape(features), 0.25))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.prelu(x, self.slope[...])


class Swish(nnx.Module):
    """`activations.parametric_swish` with a learned beta, at first 1 (Ramachandran et al. 2017).

    Args:
        features: One beta for each channel (the last axis); None learns one for all.
    """

    def __init__(self, features: int | None = None, *, rngs: nnx.Rngs | None = None):
        self.beta = nnx.Param(jnp.ones(_shape(features)))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.parametric_swish(x, self.beta[...])


class SReLU(nnx.Module):
    """`activations.srelu` with learned thresholds and slopes (Jin et al. 2016).

    It starts as a leaky rectifier of slope 0.2: lower 0, upper 1 and the slope 1 above it.

    Args:
        features: Channels, the last axis.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs | None = None):
        shape = _shape(features)
        self.lower, self.upper = nnx.Param(jnp.zeros(shape)), nnx.Param(jnp.ones(shape))
        self.lower_slope = nnx.Param(jnp.full(shape, 0.2))
        self.upper_slope = nnx.Param(jnp.ones(shape))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        parameters = (self.lower, self.lower_slope, self.upper, self.upper_slope)
        return activations.srelu(x, *(p[...] for p in parameters))


class TLU(nnx.Module):
    """`activations.tlu` with a learned threshold, at first 0 (Singh and Krishnan 2020).

    Args:
        features: Channels, the last axis.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs | None = None):
        self.threshold = nnx.Param(jnp.zeros(_shape(features)))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.tlu(x, self.threshold[...])


class AconC(nnx.Module):
    """`activations.acon_c`, at first with p1 and p2 standard normal and beta 1 (Ma et al. 2021).

    Args:
        features: Channels, the last axis.
        rngs: Its stream ``params`` draws p1 and p2.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.p1 = nnx.Param(jax.random.normal(rngs.params(), _shape(features)))
        self.p2 = nnx.Param(jax.random.normal(rngs.params(), _shape(features)))
        self.beta = nnx.Param(jnp.ones(_shape(features)))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.acon_c(x, self.p1[...], self.p2[...], self.beta[...])


class MetaAcon(nnx.Module):
    """`activations.meta_acon`: beta comes from the mean of the map, through a bottleneck.

    p1 and p2 are at first standard normal (Ma et al. 2021). The norms that the authors' code adds
    within the bottleneck are left out.

    Args:
        features: Channels, the last axis.
        reduction: The bottleneck has max(features // reduction, 1) units; 16 in the paper.
        rngs: Its stream ``params`` draws.
    """

    def __init__(self, features: int, *, reduction: int = 16, rngs: nnx.Rngs):
        units = max(features // reduction, 1)
        self.p1 = nnx.Param(jax.random.normal(rngs.params(), _shape(features)))
        self.p2 = nnx.Param(jax.random.normal(rngs.params(), _shape(features)))
        self.reduce = _kernel(rngs, features, units)
        self.expand = _kernel(rngs, units, features)

    def __call__(
        self, x: Float[Array, "batch *space channels"]
    ) -> Float[Array, "batch *space channels"]:
        return activations.meta_acon(
            x, self.p1[...], self.p2[...], self.reduce[...], self.expand[...]
        )


class DynamicReLU(nnx.Module):
    """`activations.dynamic_relu` of two pieces, whose parameters the mean of the map decides.

    The slopes are (1, 0) + 1.0 d and the intercepts 0.5 d, with d in (-1, 1) from two dense layers
    of the mean; at first d = 0, and it is the rectifier. Form C multiplies d by
    min(space/3 softmax(z/10), 1) of a 1x1 convolution z at every place.

    Args:
        features: Channels, the last axis.
        form: "A" (one function for all channels), "B" (one for each) or "C" (and for each place).
        reduction: The hidden layer has max(features // reduction, 1) units; 8 in the paper.
        rngs: Its stream ``params`` draws.

    Raises:
        ValueError: No such form.

    Reference:
        Chen et al. 2020, "Dynamic ReLU", sections 3.2 to 3.4.
    """

    def __init__(self, features: int, *, form: str = "B", reduction: int = 8, rngs: nnx.Rngs):
        if form not in ("A", "B", "C"):
            raise ValueError(f'form must be "A", "B" or "C", got {form!r}')
        units = max(features // reduction, 1)
        self.form, self.features = form, features
        self.hidden = _kernel(rngs, features, units)
        self.out = nnx.Param(jnp.zeros((units, 4 * (1 if form == "A" else features))))
        self.attention = _kernel(rngs, features, 1) if form == "C" else None

    def __call__(
        self, x: Float[Array, "batch *space channels"]
    ) -> Float[Array, "batch *space channels"]:
        wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        space = tuple(range(1, x.ndim - 1))
        hidden = activations.relu(wide.mean(space) @ self.hidden[...].astype(wide.dtype))
        d = activations.tanh(0.5 * (hidden @ self.out[...].astype(wide.dtype)))
        # (slopes or intercepts, piece, batch, ..., channels)
        d = d.reshape(x.shape[0], 2, 2, *(1 for _ in space), -1).transpose(
            1, 2, 0, *range(3, x.ndim + 2)
        )
        if self.attention is not None:
            z = (wide @ self.attention[...].astype(wide.dtype)).reshape(x.shape[0], -1) / 10.0
            share = jnp.minimum(z.shape[1] / 3 * activations.softmax(z), 1.0)
            d = d * share.reshape(1, 1, *x.shape[:-1], 1)
        start = jnp.asarray([1.0, 0.0], wide.dtype).reshape(2, *(1 for _ in x.shape))
        return activations.dynamic_relu(x, start + d[0], 0.5 * d[1])


class FReLU(nnx.Module):
    """`activations.frelu` with a depthwise 3x3 kernel, at first normal with deviation 0.01.

    The norm that the paper puts after the convolution is left to the block.

    Args:
        features: Channels, the last axis.
        size: Odd height and width of the kernel.
        rngs: Its stream ``params`` draws the kernel.

    Reference:
        Ma et al. 2020, "Funnel Activation for Visual Recognition"; the deviation is ours.
    """

    def __init__(self, features: int, *, size: int = 3, rngs: nnx.Rngs):
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size must be odd and positive, got {size}")
        shape = (size, size, 1, features)
        self.kernel = nnx.Param(0.01 * jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(_shape(features)))

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        return activations.frelu(x, self.kernel[...], self.bias[...])


class PAU(nnx.Module):
    """`activations.pau` of degrees 5 and 4, at first close to leaky relu on [-3, 3].

    Started, as the paper does, from a least-squares fit of leaky relu (ours, slope 0.01).

    Args:
        features: Not used: it is one function for all channels.

    Reference:
        Molina et al. 2020, "Padé Activation Units".
    """

    def __init__(self, features: int | None = None, *, rngs: nnx.Rngs | None = None):
        self.numerator = nnx.Param(jnp.asarray(_PAU_NUMERATOR))
        self.denominator = nnx.Param(jnp.asarray(_PAU_DENOMINATOR))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.pau(x, self.numerator[...], self.denominator[...])


class APL(nnx.Module):
    """`activations.apl`, at first the rectifier, with hinges spread evenly over [-1, 1].

    Args:
        features: Channels, the last axis.
        hinges: How many; 5 or fewer in the paper.

    Reference:
        Agostinelli et al. 2015, "Learning Activation Functions to Improve Deep Neural Networks";
        the paper states no initialization, this one is ours.
    """

    def __init__(self, features: int, *, hinges: int = 2, rngs: nnx.Rngs | None = None):
        if hinges < 1:
            raise ValueError(f"hinges must be at least 1, got {hinges}")
        places = (2 * jnp.arange(hinges) + 1) / hinges - 1.0
        self.slopes = nnx.Param(jnp.zeros((hinges, *_shape(features))))
        self.hinges = nnx.Param(
            jnp.broadcast_to(places[:, None].astype(jnp.float32), (hinges, features))
        )

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return activations.apl(x, self.slopes[...], self.hinges[...])
