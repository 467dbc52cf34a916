"""Refusals of bad choices, before anything is built."""

import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def whole(name: str, value: Any, least: int = 1) -> int:
    """Refuses what is not an integer of at least ``least``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    return int(value)


def number(name: str, value: Any, *, positive: bool = False) -> None:
    """Refuses what is not a finite real number; an array passes if its numbers are not known."""
    if isinstance(value, Tracer):
        return
    known = np.asarray(value)
    real = known.dtype.kind in "fiuV" and known.shape == ()
    if not real or not np.isfinite(wide := float(known)) or (positive and wide <= 0):
        be = "a positive finite number" if positive else "a finite number"
        raise ValueError(f"{name} must be {be}; got {value!r}")


def floating(name: str, value: Any) -> None:
    """Refuses what is not a floating dtype."""
    try:
        found = jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        found = False
    if not found:
        raise ValueError(f"{name} must be a floating dtype; got {value!r}")


def flag(name: str, value: Any) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuses a choice that is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def conflict(first: str, second: str, why: str) -> ValueError:
    """The error for two choices that do not go together."""
    return ValueError(f"{first} and {second} conflict: {why}")
