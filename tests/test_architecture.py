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
    "theory": {"activations", "wiring"},
    "models": {"activations", "theory", "io", "wiring"},
    "analysis": {"spectral", "io"},
    "training": {"io"},
    "experiments": {
        "activations",
        "spectral",
        "io",
        "theory",
        "models",
        "analysis",
        "training",
        "wiring",
    },
}
EVERYWHERE = {"_checks", "_compat", "_extras", "_segment"}  # import nothing
MODULES = {
    "wiring": EVERYWHERE,
    "_checks": set(),
    "_compat": set(),
    "_extras": set(),
    "_segment": set(),
}
WITHOUT_FLAX = ("wiring", "activations", "spectral", "io", "theory", "analysis")


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
                allowed = {package} | ALLOWED[package] | EVERYWHERE
                assert target in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_below_the_packages(module):
    names = {n.split(".")[1] for n in _imports(ROOT / f"{module}.py") if n.startswith("jaxact.")}
    assert names <= MODULES[module]


@pytest.mark.parametrize("package", WITHOUT_FLAX)
def test_flax_is_not_loaded(package):
    code = f"import sys, jaxact.{package}; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


EXTRAS = (
    *("flax", "grain", "jinja2", "matfree", "matplotlib", "optax", "orbax", "pandas", "pyarrow"),
    *("safetensors", "sklearn", "tqdm", "tyro"),
)


def _without_extras(code: str) -> subprocess.CompletedProcess[str]:
    absent = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
    return subprocess.run(
        [sys.executable, "-c", absent + code], check=False, capture_output=True, text=True
    )


def test_the_core_needs_no_extra():
    packages = ", ".join(WITHOUT_FLAX)
    code = (
        f"from jaxact import {packages}\nimport jax.numpy as jnp\n"
        "spectral.product_spectrum(jnp.ones((2, 3, 3)))\n"
        "analysis.measure_matrices([jnp.eye(3)])\n"
        "theory.mean_field('relu', 2)"
    )
    found = _without_extras(code)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("from jaxact import models", "flax", "models"),
        ("import jaxact.training", "flax", "studies"),
        ("from jaxact.experiments import rank_collapse", "pandas", "studies"),
        ("from jaxact import analysis as a; a.table([])", "pandas", "studies"),
        (
            "from jaxact import io; io.write_safetensors('absent/a.safetensors', {})",
            "safetensors",
            "studies",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_extra(code, package, extra):
    found = _without_extras(code)
    sentence = f"{package} is not installed; install it by pip install 'jaxact[{extra}]'"
    assert found.stderr.splitlines()[-1] == f"ModuleNotFoundError: {sentence}"


@pytest.mark.parametrize("folder", ["jaxact", "scripts"])
def test_text_files_have_one_encoding_on_every_system(folder):
    unsaid = []
    for path in (ROOT.parent / folder).rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            text = call.func.attr in ("read_text", "write_text")
            if call.func.attr == "open" and call.args and isinstance(call.args[0], ast.Constant):
                text = "b" not in str(call.args[0].value)
            if text and not any(keyword.arg == "encoding" for keyword in call.keywords):
                unsaid.append(f"{path}:{call.lineno}")
    assert not unsaid
