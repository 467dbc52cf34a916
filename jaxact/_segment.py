"""A network as a chain of pure functions, for those who measure it."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Segment(NamedTuple):
    """A run of layers of one kind.

    Attributes:
      name: what the layers are called.
      apply: ``apply(params, x) -> x``, a pure function of one layer on a batch.
      params: a pytree of arrays; with ``depth`` given, every leaf has it as leading axis.
      depth: the number of layers, or None for a single one.
    """

    name: str
    apply: Callable[[Any, Any], Any]
    params: Any
    depth: int | None
