"""The claims that are put to the test: a file each, with its ``STUDY``, in order of numbers."""

import importlib
import pkgutil

from jaxact.experiments.verdicts._protocol import Study


def _found() -> list[Study]:
    modules = pkgutil.iter_modules(__path__, f"{__name__}.")
    return [importlib.import_module(module.name).STUDY for module in modules]


STUDIES: tuple[Study, ...] = tuple(sorted(_found(), key=lambda study: study.number))
