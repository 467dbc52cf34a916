"""Every notebook runs from start to end, and its two forms hold the same cells."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_there_are_pairs():
    assert NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pair_holds_the_same_cells(name):
    jupytext = pytest.importorskip("jupytext")
    script, notebook = (jupytext.read(FOLDER / f"{name}{end}") for end in (".py", ".ipynb"))
    cells = [[(cell.cell_type, cell.source) for cell in form.cells] for form in (script, notebook)]
    assert cells[0] == cells[1]
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "JAXACT_SMALL": "1", "MPLBACKEND": "agg", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
