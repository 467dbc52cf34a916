"""Studies: from a config to a table, figures and a report; each is imported on first use."""

import importlib
from typing import TYPE_CHECKING

from jaxact.experiments import _needs as _needs
from jaxact.experiments._cli import at_least as at_least
from jaxact.experiments._cli import command_line as command_line
from jaxact.experiments._cli import parse as parse
from jaxact.experiments._cli import validate as validate
from jaxact.experiments._grid import Grid as Grid
from jaxact.experiments._grid import run_grid as run_grid
from jaxact.experiments._store import Run as Run
from jaxact.experiments._store import StudyError as StudyError
from jaxact.experiments._store import manifest as manifest
from jaxact.experiments._store import write_json as write_json

if TYPE_CHECKING:
    from jaxact.experiments import checkpoint as checkpoint
    from jaxact.experiments import device_check as device_check
    from jaxact.experiments import figures as figures
    from jaxact.experiments import rank_collapse as rank_collapse
    from jaxact.experiments import train_resnet as train_resnet
    from jaxact.experiments import verdicts as verdicts
    from jaxact.experiments._graded import graded_states as graded_states

_STUDIES = ("checkpoint", "device_check", "figures", "rank_collapse", "train_resnet", "verdicts")


def __getattr__(name: str) -> object:
    if name in _STUDIES:
        return importlib.import_module(f"jaxact.experiments.{name}")
    if name == "graded_states":
        return importlib.import_module("jaxact.experiments._graded").graded_states
    raise AttributeError(f"module 'jaxact.experiments' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_STUDIES, "graded_states"])
