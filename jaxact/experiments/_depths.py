"""Depths at which deep networks are measured."""

import numpy as np


def depth_grid(depth: int, count: int = 12) -> tuple[int, ...]:
    """At most ``count`` depths from 1 to ``depth``, spaced by ratio.

    Example:
      >>> depth_grid(128, 8)
      (1, 2, 4, 8, 16, 32, 64, 128)
    """
    return tuple(sorted({round(d) for d in np.geomspace(1, depth, count)} | {depth}))
