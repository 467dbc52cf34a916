"""Refusals of bad choices, before anything is built."""

from typing import Any


def at_least_one(name: str, value: int) -> None:
    """Refuses a size below one."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


def not_negative(name: str, value: int) -> None:
    """Refuses a size below zero."""
    if value < 0:
        raise ValueError(f"{name} must be at least 0; got {value}")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuses a choice that is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def conflict(first: str, second: str, why: str) -> ValueError:
    """The error for two choices that do not go together."""
    return ValueError(f"{first} and {second} conflict: {why}")
