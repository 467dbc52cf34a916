"""The spectrum of a product of matrices, of any spread, in the matrices' own precision."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact, Int

from jaxact.spectral._graded import (
    GradedProduct,
    graded_spectrum,
    graded_start,
    graded_step,
    refined_step,
    transposed,
)
from jaxact.spectral._spectrum import widen

LONGEST_PERIOD = 8
"""Shapes of layers that repeat after up to so many are scanned over."""


class ProductSpectrum(NamedTuple):
    """The spectrum of a product of matrices; with leading axis ``prefixes`` where those are asked.

    Attributes:
      log_singular_values: natural logarithms, largest first, (..., k); -inf for a direction that is
        exactly lost.
      structural_rank: how many are not exactly lost, int32: an exact rank, without a tolerance.
      spread: in nats, the logarithm of the largest over the smallest value not exactly lost; 0
        where there are fewer than two.
    """

    log_singular_values: Float[Array, "*prefixes k"]
    structural_rank: Int[Array, "*prefixes"]
    spread: Float[Array, "*prefixes"]


def product_spectrum(
    matrices: Inexact[Array, "layer n n"] | Sequence[Inexact[Array, "_ _"]],
    /,
    *,
    prefixes: Sequence[int] | None = None,
    top: int | None = None,
    tolerance: float | None = 0.0,
    refined: bool = False,
    sweeps: int = 3,
) -> ProductSpectrum:
    r"""Log singular values of W_L ... W_1, and of its prefixes W_l ... W_1 where asked.

    All of them are right however far they lie apart, in the arithmetic of the matrices' dtype: the
    product itself is never formed (see `graded_step`). A stack takes one `jax.lax.scan`, and so do
    the stretches of a sequence in which shapes repeat; the compiled program does not grow with
    depth.

    Args:
      matrices: real or complex, the first acts first: a stack (L, n, n), or a sequence of L
        matrices in which each has as many columns as the one before has rows. float16 and bfloat16
        are computed in float32. For a batch use `jax.vmap`.
      prefixes: numbers of layers l, each from 1 to L, static; the whole product if not given.
      top: only so many of the largest values, at cost ``top n^2`` a layer: Q has 2 ``top`` + 8
        columns, and starts from where ``sweeps`` passes back and forth through the layers take it.
        The deeper the product the better they are separated; a tie at the cut is resolved last.
      tolerance: a direction is taken as exactly lost once what a layer leaves of it, orthogonal to
        the directions before it, is at most this share of its length. 0 keeps whatever rounding
        leaves, except exact zeros; None takes 4 sqrt(n) machine epsilons, for layers that are
        exactly singular (ReLU's masks). If not 0 the product starts from a fixed basis in general
        position, so that the directions lost are the last ones.
      refined: find every R to about 1.5 times the digits of the dtype (the residual of each QR, by
        exact partial products, corrects Q and R): about two to three times the cost, for products
        of hundreds of layers to which single layers of condition number 1e4 and more would add
        errors of hundredths of a nat. Real matrices with ``top=None`` only.
      sweeps: passes back and forth for ``top``.

    Returns:
      A `ProductSpectrum` with k = ``top``, or the smallest dimension of the chain; of prefixes the
      widest spectrum's k, the others being padded with -inf. Differentiable, where singular values
      are distinct and not lost.

    Raises:
      ValueError: if the matrices do not chain, a prefix or ``top`` is out of range, or options
        exclude each other.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.stack([jnp.diag(jnp.array([2.0, 1e-30]))] * 3)
      >>> [round(float(v), 3) for v in product_spectrum(w).log_singular_values]
      [2.079, -207.233]

    Reference:
      Stewart 1995, "On graded QR decompositions of products of matrices", for the form kept;
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
        columns = min(2 * top + 8, narrow)
        ends = (layers,) if prefixes is None else tuple(prefixes)
        spectra = [_top(chain.slice(0, end), columns, sweeps, act)[:top] for end in ends]
        logs = spectra[0] if prefixes is None else jnp.stack(spectra)
    elif prefixes is not None:
        logs = _prefixes(chain, prefixes, act, share)
    else:
        # From the narrowest side: back to the input, and from there with that many columns on.
        at = int(np.argmin(chain.widths))
        product = graded_start(basis(narrow, share, chain.dtype))
        if at:
            backward = chain.slice(0, at).adjoint()
            product = transposed(act(product, backward)[0])
        logs = graded_spectrum(act(product, chain.slice(at, layers))[0])
    return summary(logs)


def summary(logs: Array) -> ProductSpectrum:
    alive = jnp.isfinite(logs)
    rank = jnp.sum(alive.astype(jnp.int32), axis=-1)
    smallest = jnp.min(jnp.where(alive, logs, jnp.inf), axis=-1)
    some = rank > 1
    spread = jnp.where(some, logs[..., 0] - jnp.where(some, smallest, 0), 0)
    return ProductSpectrum(logs, rank, spread)


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
            return cls(widen(jnp.asarray(matrices)))
        parts = [widen(jnp.asarray(matrix)) for matrix in matrices]
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


def _act(
    product: GradedProduct, chain: _Chain, *, tolerance: float, refined: bool
) -> tuple[GradedProduct, list[list[GradedProduct]]]:
    """The product with a chain acting after it; and all between: by run, by member, stacked."""

    def one(carry, w):
        product, x = carry
        if refined and w.shape[0] >= product.q.shape[1]:
            return refined_step(product, x, w, tolerance)
        q = product.q
        if refined:
            q = q + jnp.matmul(q, x, precision="highest")
        aq = jnp.matmul(w, q, precision="highest")
        product = graded_step(product, aq, tolerance=tolerance)
        return product, jnp.zeros_like(product.u) if refined else None

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
            carry, kept = lax.scan(step, carry, run)
            between.append(kept)
    return carry[0], between


def _prefixes(chain: _Chain, prefixes: Sequence[int], act, tolerance: float) -> Array:
    product = graded_start(basis(chain.widths[0], tolerance, chain.dtype))
    rows: dict[int, Array] = {}
    before = 0
    for members in act(product, chain)[1]:
        rounds = len(members[0].log_scale)
        for offset, products in enumerate(members):
            ends = [before + offset + 1 + len(members) * i for i in range(rounds)]
            chosen = [i for i, end in enumerate(ends) if end in prefixes]
            if chosen:
                take = functools.partial(jnp.take, indices=np.array(chosen), axis=0)
                found = jax.vmap(graded_spectrum)(jax.tree.map(take, products))
                rows.update((ends[i], row) for i, row in zip(chosen, found, strict=True))
        before += rounds * len(members)
    width = max(len(row) for row in rows.values())
    padded = [
        jnp.pad(rows[end], (0, width - len(rows[end])), constant_values=-jnp.inf)
        for end in prefixes
    ]
    return jnp.stack(padded)


def _top(chain: _Chain, columns: int, sweeps: int, act) -> Array:
    start = basis(chain.widths[0], 1.0, chain.dtype)[:, :columns]
    there = functools.partial(_orthonormal_pass, chain)
    back = functools.partial(_orthonormal_pass, chain.adjoint())
    q = lax.fori_loop(0, sweeps, lambda _, q: back(there(q)), start)
    return graded_spectrum(act(graded_start(lax.stop_gradient(q)), chain)[0])


def _orthonormal_pass(chain: _Chain, q: Array) -> Array:
    def step(q, ws):
        for w in ws:
            q = jnp.linalg.qr(jnp.matmul(w, q, precision="highest"))[0]
        return q, None

    for run in chain.runs():
        q = lax.scan(step, q, run)[0]
    return q


def basis(n: int, tolerance: float, dtype) -> Array:
    if tolerance == 0:
        return jnp.eye(n, dtype=dtype)
    real = jnp.finfo(dtype).dtype
    return jax.random.orthogonal(jax.random.key(0), n, dtype=real).astype(dtype)
