"""Weights that were rounded to few values: how large the rounding is."""

import numpy as np
from jaxtyping import Shaped

LEVELS = 256
"""Up to so many distinct values are few, of at least four times as many entries."""

RUN, RUN_LEVELS = 32, 16
"""Runs of a row that are scaled by themselves, in formats of four bits and less."""

_SAMPLE = 64


def rounding_noise(matrix: Shaped[np.ndarray, "m n"], /) -> float:
    """Standard deviation of the rounding of a matrix that takes few distinct values.

    Few are up to 256: in the whole matrix, in each row or each column, or up to 16 in each run of
    32 entries of a row; three at least, since two make masks and permutations. 64 rows (columns)
    are looked at. The rounding is step / sqrt(12), with the step of the grid that the values lie
    on; where they lie on none (float8), with the smaller gap of each value to a neighbour.

    Args:
      matrix: real, finite or not.

    Returns:
      The root mean square over the entries; 0 of a matrix that is not quantized.

    Example:
      >>> w = np.random.default_rng(0).normal(size=(64, 256))
      >>> rounding_noise(w), round(rounding_noise(np.round(w * 8) / 8) * 8 * 12**0.5, 6)
      (0.0, 1.0)

    Reference:
      Widrow & Kollar 2008, "Quantization noise", for uniform rounding as white noise.
    """
    rows, columns = _spread(matrix), _spread(matrix.T)
    if not (np.isfinite(rows).all() and np.isfinite(columns).all()):
        return 0.0
    runs = rows[:, : rows.shape[1] // RUN * RUN].reshape(-1, RUN)
    # Rows that are constant make few values without rounding.
    whole = [rows.ravel()] if np.mean(np.ptp(rows, axis=1) > 0) > 0.5 else []
    blocks = ((runs, RUN_LEVELS), (whole, LEVELS), (rows, LEVELS), (columns, LEVELS))
    for candidates, most in blocks:
        found = [np.unique(block, return_counts=True) for block in candidates]
        # Zeros may be pruned, not rounded: they count as a level only.
        found = [(u, np.where(u == 0, 0, n)) for u, n in found if np.any(u)]
        if len(found) > len(candidates) // 2 and all(_few(u, n, most) for u, n in found):
            squares = [np.average(_steps(u, n) ** 2, weights=n) for u, n in found]
            return float(np.sqrt(np.mean(squares) / 12))
    return 0.0


def _spread(matrix: np.ndarray) -> np.ndarray:
    places = np.linspace(0, len(matrix) - 1, min(_SAMPLE, len(matrix))).astype(int)
    return matrix[np.unique(places)].astype(np.float64)


def _few(values: np.ndarray, counts: np.ndarray, most: int) -> bool | np.bool:
    share = 4 if most == LEVELS else 1.5
    return len(values) >= 3 and np.sum(values != 0) <= min(most, counts.sum() / share)


def _steps(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The step of a grid that some ascending values lie on, or of each its gap to a neighbour."""
    gaps = np.diff(values)
    own = np.minimum(np.append(gaps, gaps[-1]), np.insert(gaps, 0, gaps[0]))
    order = np.argsort(own)
    step = own[order][np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)]
    whole = gaps / step
    # Levels that no entry takes leave gaps of several steps.
    if np.mean(np.abs(whole - np.maximum(np.rint(whole), 1)) < 0.25) > 0.9:
        return np.full(len(values), step)
    return own
