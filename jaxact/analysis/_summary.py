"""What measurements say, in sentences."""

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np

from jaxact.analysis._measurement import Measurement

RANK_OF = ("effective_rank", "participation_ratio", "stable_rank", "numerical_rank")
"""Ranks, the one that sentences are about first."""

BY_DEPTH = ("features", "jacobian", "output_jacobian")
"""Objects that each layer makes from the one before, so that a loss has a place."""

COLLAPSED = 1.5
WIDTH = 90


def summary(measurements: Iterable[Measurement] | Mapping[str, Measurement], /) -> str:
    """What was measured, in words: where rank halves, where it is lost, what is dead or not finite.

    Args:
      measurements: from `measure`, `measure_matrices` or `measure_stream`, of several objects if
        need be. Of the ranks that are there, the sentences take the first of `RANK_OF`.

    Returns:
      A paragraph for each object, in lines of at most 90 columns. Rank is said to halve at the
      first layer with less than half the first layer's share of the possible rank,
      min(rows, columns), and to be lost where it stays below 1.5 of at least 3 to the end.

    Raises:
      ValueError: if there is nothing to say, since no rank was measured.

    Example:
      >>> import numpy as np
      >>> from jaxact.analysis import measure_matrices
      >>> print(summary(measure_matrices({"fc1": np.eye(8), "fc2": np.ones((8, 8))})))
      weight: effective rank is 8.0 of 8 in fc1 and 1.0 of 8 in fc2; the least share of the
        possible is 13% in fc2. Numerically singular: fc2 (1 of 8).
    """
    if isinstance(measurements, Mapping):
        measurements = measurements.values()
    objects: dict[str, dict[str, Measurement]] = {}
    for m in measurements:
        objects.setdefault(m.object, {})[m.quantity] = m
    paragraphs = [
        textwrap.fill(f"{of}: {' '.join(said)}", WIDTH, subsequent_indent="  ")
        for of, found in objects.items()
        if (said := _sentences(of, found))
    ]
    if not paragraphs:
        raise ValueError(f"measurements must hold a rank ({', '.join(RANK_OF)}); got none")
    return "\n".join(paragraphs)


def _sentences(of: str, found: dict[str, Measurement]) -> list[str]:
    name = next((quantity for quantity in RANK_OF if quantity in found), None)
    said = [] if name is None else [_of_rank(found[name], name.replace("_", " "), of in BY_DEPTH)]
    if (rank := found.get("numerical_rank")) is not None:
        layers, values, possible = _valid(rank)
        said += _list_of(
            "Numerically singular",
            [
                f"{layer} ({value:.0f} of {most})"
                for layer, value, most in zip(layers, values, possible, strict=True)
                if value < most
            ],
            len(layers),
        )
    if (dead := found.get("dead")) is not None:
        layers, values, _ = _valid(dead)
        listed = [f"{n} ({v:.0%})" for n, v in zip(layers, values, strict=True) if v > 0]
        said += _list_of("Dead units", listed, len(layers))
    if (missing := found.get("non_finite")) is not None:
        counts = np.asarray(missing.value)
        listed = [n for n, count in zip(missing.layers, counts, strict=True) if count > 0]
        said += _list_of("NaN or infinite, and left out", listed, len(counts))
    return said


def _valid(m: Measurement) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Layers that were measured, with values and the greatest rank possible."""
    kept = np.flatnonzero(np.asarray(m.valid))
    possible = np.min(m.shapes or [(0, 0)] * len(m.layers), axis=-1)
    return [m.layers[i] for i in kept], np.asarray(m.value, np.float64)[kept], possible[kept]


def _of_rank(m: Measurement, words: str, by_depth: bool) -> str:
    layers, rank, possible = _valid(m)
    if not layers:
        return f"{words} could not be measured in any layer."

    def at(i: int) -> str:
        return f"{rank[i]:.1f} of {possible[i]} in {layers[i]}"

    share = rank / possible
    if len(layers) == 1:
        return f"{words} is {at(0)}."
    text = f"{words} is {at(0)} and {at(len(layers) - 1)}; "
    if by_depth and len(halved := np.flatnonzero(share < share[0] / 2)):
        text += f"it halves at {layers[halved[0]]} ({rank[halved[0]]:.1f} of {possible[halved[0]]})"
        low = (rank < COLLAPSED) & (possible >= 3)
        if low[-1]:
            start = len(low) - int(np.argmin(low[::-1])) if not low.all() else 0
            return f"{text} and is lost from {layers[start]} on."
        return f"{text}."
    least = int(np.argmin(share))
    return f"{text}the least share of the possible is {share[least]:.0%} in {layers[least]}."


def _list_of(words: str, names: list[str], count: int) -> list[str]:
    if not names:
        return []
    rest = f" and {len(names) - 4} more of {count} layers" if len(names) > 4 else ""
    return [f"{words}: {', '.join(names[:4])}{rest}."]
