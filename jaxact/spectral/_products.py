"""The spectrum of a product of matrices, of any spread, in the matrices' own precision."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact, Int

from jaxact.spectral._graded import (
    GradedProduct,
    graded_layer,
    graded_start,
    spectrum_and_error,
    transposed,
)
from jaxact.spectral._qr import qr
from jaxact.spectral._spectrum import alike, exponents, scaled, widen

LONGEST_PERIOD = 8
"""Shapes of layers that repeat after up to so many are scanned over."""


class ProductSpectrum(NamedTuple):
    """The spectrum of a product of matrices; with leading axis ``prefixes`` where those are asked.

    Attributes:
      log_singular_values: natural logarithms, largest first, (..., k); -inf for a direction that is
        exactly lost.
      structural_rank: how many are not exactly lost, int32; -1 where a matrix holds NaN or
        infinity. Of these, the ones whose error is infinite may be exact zeros too.
      spread: in nats, the logarithm of the largest over the smallest value not exactly lost; 0
        where there are fewer than two.
      error: in nats, how far each value may be from the truth; infinite where rounding may hide an
        exact zero, 0 for an exact zero. None where errors were not asked for.
    """

    log_singular_values: Float[Array, "*prefixes k"]
    structural_rank: Int[Array, "*prefixes"]
    spread: Float[Array, "*prefixes"]
    error: Float[Array, "*prefixes k"] | None = None


def product_spectrum(
    matrices: Inexact[Array, "layer n n"] | Sequence[Inexact[Array, "_ _"]],
    /,
    *,
    prefixes: Sequence[int] | None = None,
    top: int | None = None,
    tolerance: float | None = 0.0,
    refined: bool = False,
    sweeps: int = 3,
    errors: bool = True,
) -> ProductSpectrum:
    r"""Log singular values of W_L ... W_1, and of its prefixes W_l ... W_1 where asked.

    They come out right however far they lie apart, in the arithmetic of the matrices' dtype, or
    with an ``error`` that says how far off they may be (``docs/accuracy.md``): the product itself
    is never formed. A stack takes one `jax.lax.scan`, and so do the stretches of a sequence in
    which shapes repeat; the compiled program does not grow with depth.

    Args:
      matrices: real or complex, the first acts first: a stack (L, n, n), or a sequence of L
        matrices in which each has as many columns as the one before has rows. float16 and bfloat16
        are computed in float32. For a batch use `jax.vmap`.
      prefixes: numbers of layers l, each from 1 to L, static; the whole product if not given.
      top: only so many of the largest values, at cost ``top n^2`` a layer: Q has 2 ``top`` + 8
        columns, and starts from where ``sweeps`` passes back and forth through the layers take it.
        The deeper the product the better they are separated; a tie at the cut is resolved last.
      tolerance: a direction is taken as exactly lost once what a layer leaves of it, orthogonal to
        the directions before it, is at most this share of its length: a cut, for who wants one. 0
        loses exact zeros only, rows and columns of zeros in a layer (ReLU's masks) among them; None
        cuts at 4 sqrt(n) machine epsilons. If not 0 the product starts from a fixed basis in
        general position, so that the directions lost are the last ones.
      refined: find every R to about 1.5 times the digits of the dtype (the residual of each QR, by
        exact partial products, corrects Q and R): about two to three times the cost, for products
        of hundreds of layers to which single layers of condition number 1e4 and more would add
        errors of hundredths of a nat. Real matrices with ``top=None`` only.
      sweeps: passes back and forth for ``top``.
      errors: whether to estimate them; without, the result is the same and takes less time. Under
        `jax.jit` what is not used of the result costs nothing anyway. With ``top`` the estimate
        is of rounding alone, not of directions not yet found; with ``refined`` it is that of the
        default form, which refining betters.

    Returns:
      A `ProductSpectrum` with k = ``top``, or the smallest dimension of the chain; of prefixes the
      widest spectrum's k, the others being padded with -inf. A NaN or infinity in any matrix makes
      all values NaN, of the prefixes that contain it. The derivative of the values is
      Re u_i^H dP v_i / s_i: at ties one of the subgradients, zero for a value that is exactly lost,
      always finite; ``refined`` betters the values, not their derivatives. Subnormal numbers are
      zeros, as everywhere in XLA.

    Raises:
      ValueError: if the matrices do not chain or are of integers, a prefix or ``top`` is out of
        range, or options exclude each other.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.stack([jnp.diag(jnp.array([2.0, 1e-30]))] * 3)
      >>> [round(float(v), 3) for v in product_spectrum(w).log_singular_values]
      [2.079, -207.233]

    Reference:
      Stewart 1995, "On graded QR decompositions of products of matrices", for the form kept; Bai,
      Lee, Li & Xu 2011, "Stable solutions of linear systems involving long chain of matrix
      multiplications", for the order of the columns;
      Drmac & Veselic 2008, "New fast and accurate Jacobi SVD algorithm", for its last step.
    """
    chain = _Chain.of(matrices)
    layers, narrow = len(chain.shapes), min(chain.widths)
    if prefixes is not None and not (
        len(prefixes) and all(1 <= prefix <= layers for prefix in prefixes)
    ):
        raise ValueError(f"prefixes must be from 1 to the {layers} layers; got {tuple(prefixes)}")
    if top is not None and not 1 <= top <= narrow:
        raise ValueError(f"top must be from 1 to the smallest dimension {narrow}; got {top}")
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1; got {sweeps}")
    rounding = 4 * max(chain.widths) ** 0.5 * float(jnp.finfo(chain.dtype).eps)
    share = rounding if tolerance is None else tolerance
    if refined and (top is not None or jnp.iscomplexobj(chain.parts[0])):
        raise ValueError("refined needs real matrices and top=None")
    if not 0 <= share < 1:
        raise ValueError(f"tolerance must be at least 0 and less than 1; got {tolerance}")
    act = functools.partial(_act, tolerance=share, refined=refined)

    if top is not None:
        ends = (layers,) if prefixes is None else tuple(prefixes)
        chains = [chain.slice(0, end) for end in ends]
        spectra = [_top(part, top, sweeps, act, errors) for part in chains]
        found = spectra[0] if prefixes is None else _padded(spectra)
    elif prefixes is not None:
        found = _prefixes(chain, prefixes, act, share, errors)
    else:
        # From the narrowest side: back to the input, and from there with that many columns on.
        at = int(np.argmin(chain.widths))
        product = graded_start(basis(narrow, share, chain.dtype), errors=errors)
        if at:
            product = act(product, chain.slice(0, at).adjoint())[0]
        if 0 < at < layers:
            product = transposed(product)
        if at < layers:
            product = act(product, chain.slice(at, layers))[0]
        found = spectrum_and_error(product)
    logs, error = found
    return summary(logs, error)


def summary(logs: Array, error: Array | None = None) -> ProductSpectrum:
    alive = logs > -jnp.inf
    broken = jnp.any(jnp.isnan(logs), axis=-1)
    rank = jnp.sum(alive.astype(jnp.int32), axis=-1)
    smallest = jnp.min(jnp.where(alive, logs, jnp.inf), axis=-1)
    some = rank > 1
    spread = jnp.where(some, logs[..., 0] - jnp.where(some, smallest, 0), 0)
    rank, spread = jnp.where(broken, -1, rank), jnp.where(broken, jnp.nan, spread)
    return ProductSpectrum(logs, rank, spread, error)


class _Chain:
    """Matrices of a chain, the first acts first, grouped so that repeated shapes can be scanned.

    ``runs`` are tuples of stacks; a run applies the first of every stack, then the second, and so
    on.
    """

    def __init__(self, parts: list[Array] | Array):
        self.parts = parts
        self.shapes = (
            [tuple(part.shape) for part in parts]
            if isinstance(parts, list)
            else ([tuple(parts.shape[1:])] * len(parts))
        )
        self.widths = [self.shapes[0][1], *(shape[0] for shape in self.shapes)]
        self.dtype = parts[0].dtype

    @classmethod
    def of(cls, matrices: Array | Sequence[Array]) -> "_Chain":
        if isinstance(matrices, jax.Array | np.ndarray):
            if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or 0 in matrices.shape:
                raise ValueError(
                    "matrices must be a stack (layers, n, n) with none of them 0, or a sequence; "
                    f"got {matrices.shape}"
                )
            return cls(_inexact(matrices, "matrices"))
        parts = [_inexact(matrix, f"matrices[{i}]") for i, matrix in enumerate(matrices)]
        if not parts:
            raise ValueError("matrices must hold at least one matrix; got an empty sequence")
        for index, part in enumerate(parts):
            if part.ndim != 2 or 0 in part.shape or part.dtype != parts[0].dtype:
                raise ValueError(
                    f"matrices[{index}] must be a matrix of dtype {parts[0].dtype}; got shape "
                    f"{part.shape}, {part.dtype}"
                )
            if index and part.shape[1] != parts[index - 1].shape[0]:
                raise ValueError(
                    f"matrices[{index}] must have {parts[index - 1].shape[0]} columns, the rows of "
                    f"the one before; got shape {part.shape}"
                )
        return cls(parts)

    def slice(self, start: int, stop: int) -> "_Chain":
        return self if (start, stop) == (0, len(self.shapes)) else _Chain(self.parts[start:stop])

    def adjoint(self) -> "_Chain":
        if isinstance(self.parts, list):
            return _Chain([part.T.conj() for part in self.parts[::-1]])
        return _Chain(jnp.swapaxes(self.parts[::-1], 1, 2).conj())

    def runs(self) -> list[tuple[Array, ...]]:
        """Stretches of repeated shapes, found greedily."""
        if not isinstance(self.parts, list):
            return [(self.parts,)]
        found, start, layers = [], 0, len(self.parts)
        while start < layers:
            best, covered = 1, 1
            for period in range(1, LONGEST_PERIOD + 1):
                cycle = self.shapes[start : start + period]
                stop = start + period
                while self.shapes[stop : stop + period] == cycle:
                    stop += period
                if len(cycle) == period and stop - start > max(covered, period):
                    best, covered = period, stop - start
            found.append(
                tuple(
                    jnp.stack(self.parts[start + offset : start + covered : best])
                    for offset in range(best)
                )
            )
            start += covered
        return found


def _inexact(a, name: str) -> Array:
    a = jnp.asarray(a)
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        raise ValueError(f"{name} must be of a real or complex floating dtype; got {a.dtype}")
    return widen(a)


def _act(
    product: GradedProduct, chain: _Chain, *, tolerance: float, refined: bool
) -> tuple[GradedProduct, list[list[GradedProduct]]]:
    """The product with a chain acting after it; and all between: by run, by member, stacked."""

    def one(carry, w):
        return graded_layer(carry[0], w, tolerance, carry[1])

    def step(carry, ws):
        kept = []
        for w in ws:
            carry = one(carry, w)
            kept.append(carry[0])
        return carry, kept

    carry, between = (product, jnp.zeros_like(product.u) if refined else None), []
    for run in chain.runs():
        # Where a run narrows the product it does so in its first round, which is not scanned.
        narrows = min(stack.shape[1] for stack in run) < carry[0].q.shape[1]
        if narrows or len(run[0]) == 1:
            carry, kept = step(carry, [stack[0] for stack in run])
            between.append(jax.tree.map(lambda leaf: leaf[None], kept))
            run = tuple(stack[1:] for stack in run)
        if len(run[0]):
            carry, kept = lax.scan(step, alike(carry, run), run)
            between.append(kept)
    return carry[0], between


def _prefixes(chain: _Chain, prefixes: Sequence[int], act, tolerance: float, errors: bool) -> Any:
    product = graded_start(basis(chain.widths[0], tolerance, chain.dtype), errors=errors)
    rows: dict[int, tuple[Array, Array | None]] = {}
    before = 0
    for members in act(product, chain)[1]:
        rounds = len(members[0].exponent)
        for offset, products in enumerate(members):
            ends = [before + offset + 1 + len(members) * i for i in range(rounds)]
            chosen = [i for i, end in enumerate(ends) if end in prefixes]
            if chosen:
                take = functools.partial(jnp.take, indices=np.array(chosen), axis=0)
                found = jax.vmap(spectrum_and_error)(jax.tree.map(take, products))
                for row, i in enumerate(chosen):
                    rows[ends[i]] = jax.tree.map(lambda leaf, row=row: leaf[row], found)
        before += rounds * len(members)
    return _padded([rows[end] for end in prefixes])


def _padded(spectra: list[tuple[Array, Array | None]]) -> Any:
    width = max(len(logs) for logs, _ in spectra)

    def padded(logs, error):
        # What a narrow layer takes is no value; NaN stays NaN everywhere.
        short = (0, width - len(logs))
        broken = jnp.any(jnp.isnan(logs))
        logs = jnp.pad(logs, short, constant_values=-jnp.inf)
        error = None if error is None else jnp.pad(error, short)
        return jax.tree.map(lambda leaf: jnp.where(broken, jnp.nan, leaf), (logs, error))

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[padded(*row) for row in spectra])


def _top(chain: _Chain, top: int, sweeps: int, act, errors: bool) -> Any:
    columns = min(2 * top + 8, *chain.widths)
    start = basis(chain.widths[0], 1.0, chain.dtype)[:, :columns]
    there = functools.partial(_orthonormal_pass, chain)
    back = functools.partial(_orthonormal_pass, chain.adjoint())
    start = alike(start, chain.parts)
    q = lax.fori_loop(0, sweeps, lambda _, q: back(there(q)), start)
    product = act(graded_start(lax.stop_gradient(q), errors=errors), chain)[0]
    return jax.tree.map(lambda leaf: leaf[:top], spectrum_and_error(product))


def _orthonormal_pass(chain: _Chain, q: Array) -> Array:
    def step(q, ws):
        for w in ws:
            w = scaled(w, -exponents(jnp.max(jnp.abs(w))))
            q = qr(jnp.matmul(w, q, precision="highest"))[0]
        return q, None

    for run in chain.runs():
        if len(run[0]) == 1:
            q = step(q, [stack[0] for stack in run])[0]
        else:
            q = lax.scan(step, q, run)[0]
    return q


def basis(n: int, tolerance: float, dtype) -> Array:
    if tolerance == 0:
        return jnp.eye(n, dtype=dtype)
    real = jnp.finfo(dtype).dtype
    return jax.random.orthogonal(jax.random.key(0), n, dtype=real).astype(dtype)
