"""Dependencies point one way: what each subpackage may import of jaxact, and who may load Flax."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jaxact

ROOT = pathlib.Path(jaxact.__file__).parent
ALLOWED = {
    "activations": set(),
    "spectral": set(),
    "io": set(),
    "theory": {"activations"},
    "models": {"activations", "theory", "io"},
    "analysis": {"spectral", "io"},
    "training": set(),
    "experiments": {"activations", "spectral", "io", "theory", "models", "analysis", "training"},
}
WITHOUT_FLAX = ("activations", "spectral", "io", "theory", "analysis")


def _imports(path: pathlib.Path) -> set[str]:
    """The dotted names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.add(module)
            if module == "jaxact":
                names.update(f"jaxact.{alias.name}" for alias in node.names)
    return names


def test_every_subpackage_has_a_rule():
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("package", ALLOWED)
def test_direction_of_imports(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "jaxact" and len(parts) > 1:
                target = parts[1]
                assert target == package or target in ALLOWED[package], f"{path} imports {name}"


@pytest.mark.parametrize("package", WITHOUT_FLAX)
def test_flax_is_not_loaded(package):
    code = f"import sys, jaxact.{package}; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
