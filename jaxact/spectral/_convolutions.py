r"""Singular values of a convolution, as each of the three matrices that it is taken for.

Kernels are laid out as Flax does: (*window, inputs / groups, outputs); what is computed is a
network's convolution, the cross-correlation of signal processing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxact.spectral._singular_values import singular_values
from jaxact.spectral._spectrum import descending, widen

Padding = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]


def unfolded(
    kernel: Inexact[Array, "*window inputs outputs"], /, *, groups: int = 1
) -> Float[Array, " k"]:
    """Singular values of the unfolded kernel: a matrix of outputs by window times inputs.

    The matrix that multiplies one patch (im2col). It is not the layer's operator: patches overlap,
    so that its largest value is below the operator's, by a factor of up to the root of the window.

    Args:
      kernel: ``(*window, inputs per group, outputs)``.
      groups: of the convolution; their matrices are the blocks of one block-diagonal matrix.

    Returns:
      Singular values, largest first, groups * min(outputs / groups, window * inputs per group).

    Raises:
      ValueError: if ``kernel`` is no kernel or ``groups`` does not divide the outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> unfolded(jnp.ones((2, 2, 1, 1))).round(4).tolist()
      [2.0]

    Reference:
      Martin & Mahoney 2021 measure slices of it; Yoshida & Miyato 2017 bound it.
    """
    blocks = _by_group(kernel, groups)
    matrices = jnp.moveaxis(blocks, -1, 1).reshape(groups, blocks.shape[-1], -1)
    return descending(singular_values(matrices).ravel())


def circular(
    kernel: Inexact[Array, "*window inputs outputs"],
    shape: tuple[int, ...],
    /,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Float[Array, " k"]:
    r"""Singular values of the convolution with circular padding, all of them, by FFT.

    For every frequency :math:`\omega` the transfer matrix
    :math:`\hat K(\omega) = \sum_x K(x) e^{i \omega x}` acts apart from the others. A stride t folds
    the :math:`t^d` frequencies that alias into one matrix of outputs by :math:`t^d` inputs, over
    :math:`\sqrt{t^d}` (polyphase form).

    Args:
      kernel: ``(*window, inputs per group, outputs)``; a window larger than the input wraps around.
      shape: spatial shape of the input, without channels.
      stride: of the convolution, one for all axes or one for each; it must divide ``shape``.
      dilation: of the kernel, likewise.
      groups: of the convolution.

    Returns:
      Real singular values, largest first: prod(shape / stride) * groups *
      min(outputs / groups, stride^d * inputs per group).

    Raises:
      ValueError: if ``shape`` does not fit the kernel, a stride does not divide it, or a count is
        not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> [round(float(s), 3) for s in circular(jnp.array([1.0, -1.0])[:, None, None], (4,))]
      [2.0, 1.414, 1.414, 0.0]

    Reference:
      Sedghi, Gupta & Long 2019, "The singular values of convolutional layers", theorem 6; strides
      as in Senderovich et al. 2022, "Towards practical control of singular values of convolutional
      layers".
    """
    kernel = widen(kernel)
    window, axes = _window(kernel, shape)
    steps = _per_axis("stride", stride, axes)
    holes = _per_axis("dilation", dilation, axes)
    if any(size % step for size, step in zip(shape, steps, strict=True)):
        raise ValueError(f"stride must divide the shape {shape}; got {stride}")
    blocks = _by_group(kernel, groups)
    # An explicit sum over the window, exact for windows that wrap, dilated or not.
    double = blocks.dtype in (jnp.float64, jnp.complex128)
    transfer = blocks.astype(jnp.complex128 if double else jnp.complex64)
    for axis, (size, taps, hole) in enumerate(zip(shape, window, holes, strict=True)):
        angle = np.outer(np.arange(size), hole * np.arange(taps)) % size * (2 * math.pi / size)
        wave = jnp.asarray(np.exp(1j * angle), transfer.dtype)
        moved = jnp.tensordot(wave, transfer, axes=[[1], [axis + 1]], precision="highest")
        transfer = jnp.moveaxis(moved, 0, axis + 1)
    # Frequency f + j size / t is the j-th alias of f.
    split = [n for size, step in zip(shape, steps, strict=True) for n in (step, size // step)]
    folded = transfer.reshape(groups, *split, *transfer.shape[-2:])
    aliases = [1 + 2 * axis for axis in range(axes)]
    places = [2 + 2 * axis for axis in range(axes)]
    folded = jnp.transpose(folded, [0, *places, *aliases, 2 * axes + 1, 2 * axes + 2])
    count = math.prod(steps)
    matrices = folded.reshape(-1, count * blocks.shape[-2], blocks.shape[-1])
    return descending(singular_values(matrices).ravel()) / math.sqrt(count)


def operator(
    kernel: Inexact[Array, "*window inputs outputs"],
    shape: tuple[int, ...],
    /,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding: Padding = "SAME",
) -> Callable[[Array], Array]:
    """The convolution as the network applies it, with its own stride and zero padding.

    Args:
      kernel: ``(*window, inputs per group, outputs)``.
      shape: spatial shape of the input, without channels.
      stride: of the convolution, one for all axes or one for each.
      dilation: of the kernel, likewise.
      groups: of the convolution.
      padding: "SAME", "VALID", or a pair (before, after) for each axis.

    Returns:
      A linear function from one input ``(*shape, inputs)`` to one output, for `dense_matrix`,
      `top_singular_values` and the other functions of linear maps.

    Raises:
      ValueError: if ``shape`` does not fit the kernel, or a count is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> f = operator(jnp.ones((3, 1, 1)), (4,))
      >>> f(jnp.ones((4, 1)))[:, 0].tolist()
      [2.0, 3.0, 3.0, 2.0]
    """
    kernel = widen(kernel)
    _, axes = _window(kernel, shape)
    steps = _per_axis("stride", stride, axes)
    holes = _per_axis("dilation", dilation, axes)
    inputs = _by_group(kernel, groups).shape[-2] * groups
    letters = "DHW"[-axes:] if axes <= 3 else "".join(map(str, range(axes)))
    layout = ("N" + letters + "C", letters + "IO", "N" + letters + "C")

    def apply(x):
        if x.shape != (*shape, inputs):
            raise ValueError(f"x must have shape {(*shape, inputs)}; got {x.shape}")
        pads = (
            padding if isinstance(padding, str) else [(before, after) for before, after in padding]
        )
        y = lax.conv_general_dilated(
            x[None],
            kernel,
            window_strides=steps,
            padding=pads,
            rhs_dilation=holes,
            feature_group_count=groups,
            dimension_numbers=layout,
            precision="highest",
        )
        return y[0]

    return apply


def _window(kernel: Array, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    window = kernel.shape[:-2]
    if not window or len(shape) != len(window) or min(shape) < 1:
        raise ValueError(
            f"shape must be the {len(window)} positive spatial sizes of the input of a kernel "
            f"{kernel.shape}; got {shape}"
        )
    return window, len(window)


def _per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or min(values) < 1:
        raise ValueError(f"{name} must be one or {axes} positive integers; got {value}")
    return values


def _by_group(kernel: Array, groups: int) -> Array:
    """(groups, *window, inputs per group, outputs per group)."""
    if kernel.ndim < 3 or 0 in kernel.shape:
        raise ValueError(f"kernel must be (*window, inputs, outputs), none 0; got {kernel.shape}")
    if groups < 1 or kernel.shape[-1] % groups:
        raise ValueError(f"groups must divide the {kernel.shape[-1]} outputs; got {groups}")
    split = kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups)
    return jnp.moveaxis(split, -2, 0)
