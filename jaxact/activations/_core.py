"""What every activation shares: the check of its input, its working precision, its rule.

float16 and bfloat16 are computed in float32 and rounded once; float32 and float64 stay. The rule is
a `custom_jvp`, so that forward mode, reverse mode and Hessians all follow from the derivative, and
reverse mode keeps nothing but that derivative (or masks), in the dtype of the input.
"""

import functools
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

Raw = Callable[..., Array]
"""A function of an array of float32 or float64 and of Python numbers."""

# A static option. Checkers of types read float; at run time `as_number` decides, so that whoever
# passes a traced or unfit value gets its sentence, with a run-time checker of types or without.
if TYPE_CHECKING:
    Number = float
else:
    Number = Any


def as_float(x: Any, name: str = "x") -> Array:
    """The input as an array of a real floating dtype; plain Python numbers stay weakly typed."""
    if isinstance(x, numbers.Real) and not isinstance(x, bool | np.generic):
        return jnp.asarray(float(x))
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must have a real floating dtype (float16, bfloat16, float32, float64), got "
            f"{array.dtype.name}; convert it first, for example {name}.astype(jnp.float32)"
        )
    return array


def as_number(value: Any, name: str, *, positive: bool = False, minimum: float | None = None):
    """A static option as a Python float; ValueError where it is out of range."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} must be a Python number known at trace time, got the traced {value}: "
            "make it static, or take a function whose parameters are arrays, such as prelu"
        )
    if isinstance(value, bool) or not (
        isinstance(value, numbers.Real)
        or (isinstance(value, np.ndarray | Array) and value.ndim == 0)
    ):
        raise TypeError(f"{name} must be a Python number, got {value!r}")
    number = float(value)
    if not np.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{name} must be {'positive and ' * positive}finite, got {value!r}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return number


def working_dtype(dtype: Any) -> Any:
    """float32 for the 16-bit (and 8-bit) dtypes, else the dtype itself."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def widen(x: Array) -> Array:
    """To the working precision; float32 and float64 pass untouched, weak types too."""
    wide = working_dtype(x.dtype)
    return x if x.dtype == wide else x.astype(wide)


def narrow(y: Array, like: Array) -> Array:
    """Round once, to the dtype of the input."""
    return y if y.dtype == like.dtype else y.astype(like.dtype)


def ruled(value: Raw, slope: Raw) -> Raw:
    """A building block at working precision with its exact derivative, itself differentiable."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def block(x, options):
        return value(x, *options)

    @block.defjvp
    def _(options, primals, tangents):
        (x,), (t,) = primals, tangents
        return block(x, options), t * slope(x, *options)

    @functools.wraps(value)
    def call(x, *options):
        return block(x, options)

    return call


def elementwise(
    value: Raw,
    slope: Raw | None = None,
    *,
    tangent: Raw | None = None,
    brief: Raw | None = None,
    selects: bool = False,
    name: str = "",
) -> Raw:
    """An activation from its value and its derivative, both stated at working precision.

    Args:
        value: ``value(x, *options)``.
        slope: ``slope(x, *options)``, the derivative; JAX differentiates it for higher orders, so
            it is made of blocks that know their own rules.
        tangent: Instead of the slope, ``tangent(x, t, *options)``, linear in t, where masks say
            all: reverse mode then keeps a byte an element.
        brief: The value for 16-bit inputs, of XLA's own elementary functions: the few ulp of
            float32 by which they err are nothing there, and XLA for TPU computes so short a value
            again where it is used instead of keeping it beside the slope.
        selects: The value is one of x and constants: there is nothing to widen for.
        name: Seen in jaxprs and profiles; by default from that of ``value``.

    Returns:
        ``f(x, *options)``, jitted, the options static and hashable.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def function(x, options):
        if selects:
            return value(x, *options)
        of_wide = value if brief is None or x.dtype == working_dtype(x.dtype) else brief
        return narrow(of_wide(widen(x), *options), x)

    @function.defjvp
    def _(options, primals, tangents):
        (x,), (t,) = primals, tangents
        if tangent is not None:
            return function(x, options), tangent(x, t, *options)
        assert slope is not None
        return function(x, options), t * narrow(slope(widen(x), *options), x)

    name = name or value.__name__.strip("_<>").removesuffix("_value")
    compiled = jax.jit(_named(function, name), static_argnums=1)

    def call(x, *options):
        return compiled(as_float(x), options)

    return call


def _named(function: Callable[..., Array], name: str) -> Callable[..., Array]:
    """A plain function of that name, so that jaxprs and profiles can be read."""

    def call(x, options):
        return function(x, options)

    call.__name__ = call.__qualname__ = name
    return call


def pick(x: Array, t: Array, *cases: tuple[Array, float]) -> Array:
    """The tangent t times the slope of the first true mask, 0 where none is, NaN where x is NaN.

    Reverse mode keeps one byte an element: which case holds.
    """
    code = jnp.where(jnp.isnan(x), jnp.uint8(len(cases) + 1), jnp.uint8(0))
    for i, (mask, _) in reversed(list(enumerate(cases, 1))):
        code = jnp.where(mask, jnp.uint8(i), code)

    def apply(code, t):
        factor = jnp.where(code > len(cases), np.nan, 1.0)
        for i, (_, slope) in enumerate(cases, 1):
            factor = factor if slope == 1.0 else jnp.where(code == i, slope, factor)
        # Transposed the zero comes last: XLA for TPU fuses a product of matrices with such a root.
        return jnp.where(code == 0, jnp.zeros_like(t), t) * factor.astype(t.dtype)

    # Rematerialized, so that the code is kept and not the factors made of it.
    return jax.checkpoint(apply, prevent_cse=False)(code, t)
