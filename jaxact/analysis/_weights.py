"""Weight matrices: of a network by layer, of a checkpoint by name, and what is measured on them."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxact import io, spectral
from jaxact.analysis._chain import Chain
from jaxact.analysis._foreign import arrays_of, is_equinox, is_module, is_torch
from jaxact.analysis._measurement import (
    Measurement,
    default_tolerance,
    measure_spectrum,
    select,
    spectra_of_one_length,
)
from jaxact.analysis._quantized import rounding_noise
from jaxact.analysis._singularities import ELIMINATED, eliminated


class Matrix(NamedTuple):
    """A matrix that is read when it is measured.

    Attributes:
      view: its entries, of a file that is mapped or in memory, with any number of axes.
      shape: (outputs, inputs).
    """

    view: Shaped[np.ndarray, "..."]
    shape: tuple[int, int]

    def read(self) -> Shaped[np.ndarray, "o i"]:
        """The matrix; a copy only where its view has other axes in memory."""
        return self.view.reshape(self.shape)


LAYOUTS = ("hwio", "oihw")
BATCH = 2**24
"""Entries of the matrices that are decomposed at once, or one matrix if it has more."""

# Arrays of several axes that are no weights: masks, and axes of size one before embeddings.
_MASK = re.compile(r".*\battn\.(masked_)?bias")
_EMBEDDING = re.compile(r".*(pos\w*_embed\w*|_tokens?)")
_EXPERTS = re.compile(r".*\bexperts\b.*")


def unfold(kernel: Float[Array, "*batch i o"] | Float[Array, "*batch h w i o"], ndim: int) -> Array:
    """A kernel as the matrix that maps inputs (or patches) to outputs.

    Args:
      kernel: (..., inputs, outputs) with ``ndim=2``, (..., height, width, inputs, outputs) with
        ``ndim=4``: the layouts of Flax.
      ndim: axes of one kernel.

    Returns:
      Matrices (..., outputs, inputs), or the unfolded (..., outputs, height * width * inputs).
    """
    batch = kernel.shape[: kernel.ndim - ndim]
    return jnp.swapaxes(kernel.reshape(*batch, -1, kernel.shape[-1]), -1, -2)


def weight_matrices(chain: Chain) -> dict[str, dict[str, Float[Array, "layer o i"]]]:
    """Every weight matrix of a network.

    A leaf is a weight if it is of floats and one layer's share of it has two axes (a dense kernel)
    or four (a convolution's, taken unfolded).

    Args:
      chain: a network, from `as_chain`.

    Returns:
      By segment name and path of the leaf, a stack (layers, outputs, inputs), with one layer where
      the segment is not stacked.
    """
    found: dict[str, dict[str, Array]] = {}
    for segment in chain.segments:
        stacks = found.setdefault(segment.name, {})
        for path, leaf in jax.tree_util.tree_leaves_with_path(segment.params):
            stacked = leaf[None] if segment.depth is None else leaf
            if stacked.ndim in (3, 5) and jnp.issubdtype(stacked.dtype, jnp.floating):
                stacks[jax.tree_util.keystr(path, simple=True, separator=".")] = unfold(
                    stacked, stacked.ndim - 1
                )
    return found


def as_matrices(source: Any, /, *, layout: str | None = None) -> dict[str, np.ndarray]:
    """Matrices by name, from whatever holds them.

    Args:
      source: one of

        * a `Chain`: its weight matrices;
        * a mapping from names to arrays, such as a checkpoint's (floats of two axes are matrices,
          of three to five axes convolution kernels, taken unfolded, or ``experts``, one matrix
          each; all else is left out, and so are masks ``attn.bias`` and class tokens);
        * the path of a checkpoint, as `jaxact.io.read_arrays` reads it;
        * a module of Flax NNX or Equinox: its arrays, as a mapping's;
        * a stack (layers, m, n);
        * a sequence of matrices, whose shapes may differ.
      layout: of convolution kernels in a mapping or file: ``"hwio"`` (Flax: space, inputs,
        outputs) or ``"oihw"`` (PyTorch and ONNX: outputs, inputs, space). It also says which axis
        of a dense weight counts the outputs: the last, or the first. By default ``"oihw"`` for
        files of PyTorch, ONNX and safetensors, for a mapping to tensors of PyTorch, and for
        Equinox, else ``"hwio"``.

    Returns:
      By name, in the order of the source, matrices (outputs, inputs).

    Raises:
      TypeError, ValueError, FileNotFoundError: as `unread_matrices`.
    """
    return {name: m.read() for name, m in unread_matrices(source, layout=layout).items()}


def unread_matrices(source: Any, /, *, layout: str | None = None) -> dict[str, Matrix]:
    """`as_matrices`, of which none is copied before it is used.

    Args:
      source: as for `as_matrices`; also a mapping to such matrices.
      layout: see `as_matrices`.

    Returns:
      By name, in the order of the source.

    Raises:
      TypeError: if ``source`` is none of these, or holds something that is not an array of numbers.
      FileNotFoundError: if there is nothing at the path.
      ValueError: if ``layout`` is unknown, the file cannot be read, an item of a sequence is not a
        matrix, a matrix is empty or of complex numbers, or there is none.
    """
    if isinstance(source, str | pathlib.Path):
        foreign = io.outputs_first(source)
        layout = ("oihw" if foreign else "hwio") if layout is None else layout
        source = io.read_arrays(source)
    elif is_module(source):
        layout = "oihw" if layout is None and is_equinox(source) else layout
        source = arrays_of(source)
    elif layout is None and isinstance(source, Mapping) and any(map(is_torch, source.values())):
        layout = "oihw"
    layout = "hwio" if layout is None else layout
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    found: dict[str, Matrix] = {}
    if isinstance(source, Chain):
        for segment, stacks in weight_matrices(source).items():
            for path, stack in stacks.items():
                name = ".".join(part for part in (segment, path) if part)
                for number, matrix in enumerate(np.asarray(stack), start=1):
                    found[f"{name}.{number}" if len(stack) > 1 else name] = _plain(matrix)
    elif isinstance(source, Mapping):
        for name, value in source.items():
            if isinstance(value, Matrix):
                found[name] = value
                continue
            for part, array in _weights(str(name), _numbers(name, value)):
                if array.ndim >= 2 and jnp.issubdtype(array.dtype, jnp.complexfloating):
                    raise ValueError(
                        f"{part} must be of real numbers; got {array.dtype} of shape {array.shape}:"
                        " take its real and imaginary parts, or leave it out"
                    )
                if 2 <= array.ndim <= 5 and _is_float(array):
                    found[part] = _outputs_first(array, layout)
    elif isinstance(source, Sequence) or hasattr(source, "ndim"):
        for number, value in enumerate(source, start=1):
            array = _numbers(f"layer_{number}", value)
            if array.ndim != 2 or not _is_float(array):
                raise ValueError(
                    f"layer_{number} must be a matrix of floats; got shape {array.shape}, "
                    f"dtype {array.dtype}"
                )
            found[f"layer_{number}"] = _plain(array)
    else:
        raise TypeError(
            "source must be a chain, a module, a mapping of arrays, a path, a stack or a sequence "
            f"of matrices; got {type(source).__name__}"
        )
    for name, matrix in found.items():
        if 0 in matrix.shape:
            raise ValueError(f"{name} must not be empty; got shape {matrix.shape}")
    if not found:
        raise ValueError("source must hold at least one matrix of floats; it holds none")
    return found


def _weights(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The kernels in an array of a checkpoint: none of a mask, several of stacked experts."""
    if _EMBEDDING.fullmatch(name):
        array = array[(0,) * next((i for i, n in enumerate(array.shape) if n > 1), array.ndim)]
    if array.ndim == 3 and _EXPERTS.fullmatch(name):
        yield from ((f"{name}.{number}", expert) for number, expert in enumerate(array))
    elif not _MASK.fullmatch(name):
        yield name, array


def _is_float(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _numbers(name: object, value: Any) -> np.ndarray:
    if is_torch(value):  # NumPy takes none that has a gradient, nor of bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.itemsize < 4 else value
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "US":
        raise TypeError(f"{name} must be an array of numbers; got {type(value).__name__}")
    return array


def _plain(matrix: np.ndarray) -> Matrix:
    return Matrix(matrix, (matrix.shape[0], matrix.shape[1]))


def _outputs_first(kernel: np.ndarray, layout: str) -> Matrix:
    if layout == "hwio":
        kernel = np.moveaxis(kernel, -1, 0)
    return Matrix(kernel, (len(kernel), math.prod(kernel.shape[1:])))


def measure_matrices(
    source: Any,
    /,
    *,
    object: str = "weight",
    layout: str | None = None,
    quantized: bool = False,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, Measurement]:
    """Every rank and norm of every matrix, whatever holds them.

    Matrices of equal shape are measured in batches, in the widest dtype of all, at least float32.
    A file's are read as they are measured: memory is bounded by a batch, or by the largest matrix.

    Args:
      source: as `as_matrices` takes it.
      object: what the matrices are.
      layout: see `as_matrices`.
      quantized: look for matrices that were rounded to few values (`rounding_noise`). Of these the
        numerical rank counts what exceeds the largest singular value of such rounding,
        sigma (sqrt(rows) + sqrt(columns)), which is given as ``rounding_floor`` (0 of others).
      progress: wraps the sequence of batches, as tqdm does.

    Returns:
      By quantity a `Measurement` over all matrices, in the order of the source: what
      `measure_spectrum` gives, ``eliminated_outputs`` (rows of no size, see `eliminated`), and
      ``non_finite``, how many entries are NaN or infinite. A matrix with such entries is named
      there and not valid; the rest is measured all the same.

    Raises:
      TypeError, ValueError: as `as_matrices`.

    Example:
      >>> import numpy as np
      >>> found = measure_matrices([np.eye(3), np.zeros((2, 3)), np.full((2, 2), np.nan)])
      >>> found["numerical_rank"].value.tolist(), found["non_finite"].value.tolist()
      ([3, 0, 0], [0, 0, 4])
    """
    matrices = unread_matrices(source, layout=layout)
    kinds = {jax.dtypes.canonicalize_dtype(m.view.dtype) for m in matrices.values()}
    dtype = jnp.float64 if jnp.float64 in kinds else jnp.float32
    groups = batches({name: matrix.shape for name, matrix in matrices.items()})
    seen, sigma = [], []

    def read(name: str) -> np.ndarray:
        matrix = matrices[name].read()
        sigma.append(rounding_noise(matrix) if quantized else 0.0)
        return matrix

    for group in progress(groups):
        # Waited for, or the batches that follow would be read meanwhile.
        found = observe(jnp.asarray(stacked(map(read, group), len(group), dtype)))
        seen.append(jax.block_until_ready(found))
    # Spectra of one length are measured by one compiled program.
    s = spectra_of_one_length([found[0] for found in seen])
    missing, rows = (jnp.concatenate([found[i] for found in seen]) for i in (1, 2))
    names = [name for group in groups for name in group]
    shapes = [matrices[name].shape for name in names]
    floor = np.array(sigma) * [math.sqrt(m) + math.sqrt(n) for m, n in shapes]
    tolerance = default_tolerance(shapes, s.dtype)
    largest = np.asarray(s[:, 0], np.float64)
    kept = (floor > 0) & (largest > 0)
    tolerance[kept] = np.maximum(tolerance, np.clip(floor / np.where(kept, largest, 1), 0, 1))[kept]
    found = measure_spectrum(
        s, shape=shapes, object=object, layers=tuple(names), tolerance=tolerance
    )
    found = _with_counts(found, missing, rows)
    if quantized:
        value = jnp.asarray(floor, s.dtype)
        found["rounding_floor"] = dataclasses.replace(
            found["stable_rank"], value=value, quantity="rounding_floor"
        )
    return {quantity: select(m, list(matrices)) for quantity, m in found.items()}


def batches(shapes: Mapping[str, tuple[int, ...]], /) -> list[list[str]]:
    """Names of equal shape, or pairs of shapes, together up to `BATCH` entries."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes.items():
        groups.setdefault(shape, []).append(name)
    return [
        group[start : start + most]
        for shape, group in groups.items()
        for entries in [sum(math.prod(shape[i : i + 2]) for i in range(0, len(shape), 2))]
        for most in [max(1, BATCH // entries)]
        for start in range(0, len(group), most)
    ]


def stacked(matrices: Iterable[np.ndarray], count: int, dtype: Any) -> np.ndarray:
    """Matrices, made one after another, as one array."""
    stack = np.zeros(0)
    for place, matrix in enumerate(matrices):
        if not place:
            stack = np.empty((count, *matrix.shape), dtype)
        stack[place] = matrix
    return stack


def _with_counts(
    found: dict[str, Measurement], missing: Array, rows: Array
) -> dict[str, Measurement]:
    # A matrix that is not finite was measured as zeros.
    found = {k: dataclasses.replace(m, valid=missing == 0) for k, m in found.items()}
    common = found["stable_rank"]
    return found | {
        "eliminated_outputs": dataclasses.replace(
            common,
            value=jnp.where(missing == 0, rows, 0),
            tolerance=jnp.full(len(rows), ELIMINATED, common.value.dtype),
            quantity="eliminated_outputs",
        ),
        "non_finite": dataclasses.replace(
            common, value=missing, valid=jnp.ones(len(rows), bool), quantity="non_finite"
        ),
    }


@jax.jit
def observe(stack: Float[Array, "layer m n"]) -> tuple[Array, Array, Array]:
    """Singular values, entries that are not finite, and rows of no size."""
    missing = jnp.sum((~jnp.isfinite(stack)).astype(jnp.int32), axis=(1, 2))
    clean = jnp.where(missing[:, None, None] == 0, stack, 0)
    rows = jnp.sum(eliminated(clean).astype(jnp.int32), axis=-1)
    return spectral.singular_values(clean), missing, rows
