"""Sentences for packages that are not installed."""

import importlib.util


def require(extra: str, *packages: str) -> None:
    """Refuses to go on where packages of an extra are not installed.

    Raises:
      ModuleNotFoundError: one sentence that names the package and how to install it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{package} is not installed; install it by pip install 'jaxact[{extra}]'",
                name=package,
            )
