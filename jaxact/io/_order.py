"""Names in order of depth, where a file's own order says nothing."""

import itertools
import re
from collections.abc import Mapping

import numpy as np

# Parts of names by which the libraries call what acts before, or after, all numbered layers.
_FIRST = re.compile(r"embed\w*|\w+_embed\w*|wte|wpe|stem|conv_stem|conv1|bn1|norm_pre")
_LAST = re.compile(r"lm_head|embed_out|head|classifier|fc|logits|score|ln_f|norm_f|norm|final_\w+")


def by_depth(arrays: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
    """Arrays in order of depth.

    A file whose names are not in alphabetical order (within each dtype, as safetensors writes them)
    has an order of its own, which is kept. Else names are ordered by the numbers in them, so that
    2 comes before 10; embeddings and stems come first, final norms and heads last.
    """
    runs = [list(run) for _, run in itertools.groupby(arrays, lambda name: arrays[name].dtype)]
    if any(run != sorted(run) for run in runs) or len(runs) > len(
        {a.dtype for a in arrays.values()}
    ):
        return dict(arrays)
    return {name: arrays[name] for name in sorted(arrays, key=_key)}


def _key(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    unnumbered = itertools.takewhile(
        lambda part: _FIRST.fullmatch(part) or not re.search(r"\d", part), name.split(".")
    )
    place = 0
    for part in unnumbered:
        if _LAST.fullmatch(part):
            place = 1
        elif _FIRST.fullmatch(part):
            place = -1
    pieces = re.findall(r"\d+|\D+", name)
    return place, [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]
