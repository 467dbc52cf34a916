"""A convolution whose gradient is as fast inside a loop as outside one.

On CPU XLA computes the kernel gradient that `lax` writes for a convolution up to 60 times slower
inside a while loop than outside. Here the three faces of the trilinear form

    sum over n, h, w, i, j, c, o of  dy[n, h, w, o] x[n, s h + i - p, s w + j - p, c] k[i, j, c, o],

output, input gradient and kernel gradient, are one primitive. Each is linear in both operands, and
its derivatives are the other faces, so every order and mode of differentiation stays among the
three. On CPU each is a forward convolution, or a matrix product, of operands in the layout for
which XLA has a kernel; on every other platform it is exactly what `lax` would write.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, use_abstract_mesh
from jaxtyping import Array, Float

from jaxact._compat import vary, varying

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]
_NO_MESH = AbstractMesh((), ())


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c_group o"],
    /,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Pairs | None = None,
    groups: int = 1,
) -> Float[Array, "n h2 w2 o"]:
    """A two-dimensional cross-correlation, NHWC and HWIO, with zero padding.

    Differentiable to any order in forward and reverse mode; fast inside `lax.scan` on CPU. Its
    products, and those of its derivatives, have the precision of `jax.default_matmul_precision` at
    the call, as those of `lax` have.

    Args:
      x: images.
      kernel: (height, width, c / groups, outputs), in the dtype of ``x``.
      strides: of rows and columns.
      padding: rows above and below, columns left and right, none negative; half the kernel's size
        on every side if None, as ``padding=size // 2`` in PyTorch. ("SAME" of `lax` pads less on
        the left where the stride is even.)
      groups: channels are split into as many groups, each convolved with its own outputs.

    Returns:
      Maps of height ``(h + padding - kh) // stride + 1``, and width likewise.

    Raises:
      ValueError: if the channels do not fit the kernel and the groups, or no output is left.
    """
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    padding = ((rows, rows), (columns, columns)) if padding is None else padding
    channels, outputs = kernel.shape[2:]
    if x.shape[-1] != channels * groups or outputs % groups:
        raise ValueError(
            f"kernel {kernel.shape} with groups={groups} takes {channels * groups} channels and "
            f"outputs that {groups} divides; got x with {x.shape[-1]} channels"
        )
    space = [
        (size + sum(pad) - k) // stride + 1
        for size, pad, k, stride in zip(x.shape[1:3], padding, kernel.shape, strides, strict=False)
    ]
    if min(space) < 1:
        raise ValueError(f"x of {x.shape[1:3]} pixels is too small for kernel {kernel.shape[:2]}")
    shapes = (x.shape, kernel.shape, (x.shape[0], *space, outputs))
    return _bind(
        x,
        kernel,
        face="output",
        shapes=shapes,
        strides=tuple(strides),
        padding=tuple(map(tuple, padding)),
        groups=groups,
        precision=jax.config.jax_default_matmul_precision,
    )


_convolution = Primitive("jaxact_convolution")


def _bind(a: Any, b: Any, **params: Any) -> Any:
    """Binds after both operands vary over the same mesh axes, as `lax` does inside `shard_map`."""
    axes = [varying(operand) for operand in (a, b)]
    if axes[0] != axes[1]:
        both = axes[0] | axes[1]
        a, b = (
            vary(operand, both - own) if both - own else operand
            for operand, own in zip((a, b), axes, strict=True)
        )
    return _convolution.bind(a, b, **params)


@functools.partial(
    jax.jit, static_argnames=("face", "shapes", "strides", "padding", "groups", "precision")
)
def _eager(a, b, **params):
    return _convolution.bind(a, b, **params)


_convolution.def_impl(lambda a, b, **params: _eager(a, b, **params))


@_convolution.def_abstract_eval
def _abstract(a, b, *, face, shapes, **params):
    if a.dtype != b.dtype:
        raise TypeError(f"a convolution's operands must have one dtype; got {a.dtype}, {b.dtype}")
    target = shapes[{"output": 2, "input": 0, "kernel": 1}[face]]
    return a.update(shape=target, weak_type=False, sharding=_sharding(a, b, face))


def _sharding(a, b, face):
    """The result's sharding in types: images may be split, and the kernel's outputs."""
    meshed = [operand for operand in (a, b) if not operand.sharding.mesh.empty]
    if not meshed:
        return a.sharding
    full = ((*operand.sharding.spec, *[None] * 4)[:4] for operand in (a, b))
    specs = dict(zip(_OPERANDS[face], full, strict=True))
    images = next(spec[0] for name, spec in specs.items() if name != "kernel")
    outputs = next((spec[3] for name, spec in specs.items() if name != "x"), None)
    whole = {
        "x": (images, None, None, None),
        "kernel": (None, None, None, outputs),
        "y": (images, None, None, outputs),
    }
    if any(spec != whole[name] for name, spec in specs.items()):
        found = ", ".join(f"{name} by {PartitionSpec(*spec)}" for name, spec in specs.items())
        raise ValueError(
            "a convolution on an explicit mesh takes x split along images and kernel along outputs "
            f"only (jax.reshard, or jax.sharding.auto_axes); got {found}"
        )
    spec = whole[{"output": "y", "input": "x", "kernel": "kernel"}[face]]
    return NamedSharding(meshed[0].sharding.mesh, PartitionSpec(*spec))


_OPERANDS = {"output": ("x", "kernel"), "input": ("y", "kernel"), "kernel": ("x", "y")}


# <face(a, b), v> is the trilinear form; its derivative by either operand is the face below, of
# the cotangent and the other operand in the order that the face takes: (x, k), (dy, k), (x, dy).
def _by_first(cotangent, a, b, *, face, **params):
    if face == "output":
        return _bind(cotangent, b, face="input", **params)
    if face == "input":
        return _bind(cotangent, b, face="output", **params)
    return _bind(b, cotangent, face="input", **params)


def _by_second(cotangent, a, b, *, face, **params):
    if face == "output":
        return _bind(a, cotangent, face="kernel", **params)
    if face == "input":
        return _bind(cotangent, a, face="kernel", **params)
    return _bind(a, cotangent, face="output", **params)


ad.defbilinear(_convolution, _by_first, _by_second)


def _batched(operands, axes, *, face, shapes, groups, **params):
    """Folds a mapped axis into the images where it can, else into the groups."""
    size = next(a.shape[d] for a, d in zip(operands, axes, strict=True) if d is not None)
    if face != "kernel" and axes[1] is None:
        first = _to_front(operands[0], axes[0], size)
        many = [(size * shape[0], *shape[1:]) for shape in (shapes[0], shapes[2])]
        out = _bind(
            first.reshape(-1, *first.shape[2:]),
            operands[1],
            face=face,
            shapes=(many[0], shapes[1], many[1]),
            groups=groups,
            **params,
        )
        return out.reshape(size, -1, *out.shape[1:]), 0
    first, second = (_to_front(a, d, size) for a, d in zip(operands, axes, strict=True))
    wide = tuple((*shape[:-1], size * shape[-1]) for shape in shapes)
    out = _bind(
        _to_channels(first),
        _to_channels(second),
        face=face,
        shapes=wide,
        groups=size * groups,
        **params,
    )
    out = out.reshape(*out.shape[:-1], size, -1)
    return jnp.moveaxis(out, -2, 0), 0


def _to_front(a: Array, axis: int | None, size: int) -> Array:
    if axis is None:
        return jnp.broadcast_to(a[None], (size, *a.shape))
    return jnp.moveaxis(a, axis, 0)


def _to_channels(a: Array) -> Array:
    a = jnp.moveaxis(a, 0, -2)
    return a.reshape(*a.shape[:-2], -1)


batching.primitive_batchers[_convolution] = _batched


def _plain(x, kernel, *, strides, padding, groups, dilation=(1, 1), spread=(1, 1)):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def _at_precision(lowering):
    """Lowers under the context of the call: that of the lowering may be another."""

    def at_precision(a, b, *, precision, **params):
        with jax.default_matmul_precision(precision):
            return lowering(a, b, **params)

    lower = mlir.lower_fun(at_precision, multiple_results=False)

    def without_types(ctx, *operands, **params):
        """What a form does to split operands is the partitioner's business, not that of types."""
        mesh = ctx.avals_in[0].sharding.mesh
        if mesh.empty or mesh.are_all_axes_manual:
            return lower(ctx, *operands, **params)
        with use_abstract_mesh(_NO_MESH):
            plain = [ShapedArray(a.shape, a.dtype) for a in ctx.avals_in]
            return lower(ctx.replace(avals_in=plain), *operands, **params)

    return without_types


def _as_lax(a, b, *, face, shapes, strides, padding, groups):
    forward = functools.partial(_plain, strides=strides, padding=padding, groups=groups)
    if face == "output":
        return forward(a, b)
    if face == "input":
        x = jax.ShapeDtypeStruct(shapes[0], a.dtype)
        return jax.linear_transpose(lambda x: forward(x, b), x)(a)[0]
    kernel = jax.ShapeDtypeStruct(shapes[1], a.dtype)
    return jax.linear_transpose(lambda kernel: forward(a, kernel), kernel)(b)[0]


def _on_cpu(a, b, *, face, shapes, strides, padding, groups):
    given = dict(shapes=shapes, strides=strides, padding=padding, groups=groups)
    pointwise = shapes[1][:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0))
    forms: dict[str, Callable[..., Array]] = _POINTWISE if pointwise else _CANONICAL
    return forms[face](a, b, **given)


def _input_gradient(dy, kernel, *, shapes, strides, padding, groups):
    """A convolution of the spread cotangent with the flipped kernel, channels swapped."""
    kh, kw, channels, outputs = kernel.shape
    kernel = jnp.flip(kernel, (0, 1)).reshape(kh, kw, channels, groups, outputs // groups)
    kernel = jnp.transpose(kernel, (0, 1, 4, 3, 2)).reshape(kh, kw, outputs // groups, -1)
    margins = []
    for axis in (0, 1):
        before = (kh, kw)[axis] - 1 - padding[axis][0]
        reach = (dy.shape[1 + axis] - 1) * strides[axis] + 1
        after = shapes[0][1 + axis] + (kh, kw)[axis] - 1 - reach - before
        margins.append((before, after))
    return _plain(dy, kernel, strides=(1, 1), padding=margins, groups=groups, spread=strides)


def _kernel_gradient(x, dy, *, shapes, strides, padding, groups):
    """A convolution of the channels, as images, with the cotangent, as a kernel."""
    kh, kw, channels, _ = shapes[1]
    n, height, width, _ = x.shape
    x = jnp.transpose(x.reshape(n, height, width, groups, channels), (4, 1, 2, 3, 0))
    x = x.reshape(channels, height, width, groups * n)
    dy = jnp.transpose(dy, (1, 2, 0, 3))
    margins = []
    for axis in (0, 1):
        reach = (dy.shape[axis] - 1) * strides[axis] + 1
        after = (kh, kw)[axis] - 1 + reach - x.shape[1 + axis] - padding[axis][0]
        margins.append((padding[axis][0], after))
    gradient = _plain(x, dy, strides=(1, 1), padding=margins, groups=groups, dilation=strides)
    return jnp.transpose(gradient, (1, 2, 0, 3))


def _skip_rows(x, strides):
    return x if strides == (1, 1) else x[:, :: strides[0], :: strides[1]]


def _pointwise_output(x, kernel, *, strides, **given):
    return jnp.einsum("nhwc,co->nhwo", _skip_rows(x, strides), kernel[0, 0])


def _pointwise_input(dy, kernel, *, shapes, strides, **given):
    dx = jnp.einsum("nhwo,co->nhwc", dy, kernel[0, 0])
    if strides == (1, 1):
        return dx
    space = [
        (0, shapes[0][1 + i] - (dy.shape[1 + i] - 1) * strides[i] - 1, strides[i] - 1)
        for i in (0, 1)
    ]
    return lax.pad(dx, np.zeros((), dx.dtype), [(0, 0, 0), *space, (0, 0, 0)])


def _pointwise_kernel(x, dy, *, strides, **given):
    return jnp.einsum("nhwc,nhwo->co", _skip_rows(x, strides), dy)[None, None]


_CANONICAL = {
    "output": lambda x, kernel, *, shapes, **given: _plain(x, kernel, **given),
    "input": _input_gradient,
    "kernel": _kernel_gradient,
}
_POINTWISE = {
    "output": _pointwise_output,
    "input": _pointwise_input,
    "kernel": _pointwise_kernel,
}

mlir.register_lowering(_convolution, _at_precision(_as_lax))
mlir.register_lowering(_convolution, _at_precision(_on_cpu), platform="cpu")
