"""The command ``jaxact``: every study by its name."""

import pathlib
import subprocess
import sys

import pytest

from jaxact import __main__ as command

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxact", *arguments], check=False, capture_output=True, text=True
    )


def test_without_a_study_they_are_listed():
    found = _run()
    assert found.returncode == 0
    assert all(f"  {name} " in found.stdout for name in command.STUDIES)


def test_an_unknown_study_is_refused():
    found = _run("rank_colapse")
    assert found.returncode == 2
    assert found.stderr.startswith("study: must be one of rank-collapse, ")
    assert "got 'rank_colapse'" in found.stderr


def test_a_study_runs_as_its_script_does():
    helped = _run("analyze", "--help")
    script = [sys.executable, str(SCRIPTS / "analyze_checkpoint.py"), "--help"]
    expected = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    assert helped.returncode == 0
    assert helped.stdout.splitlines()[0].startswith("usage: jaxact analyze")
    assert helped.stdout.splitlines()[1:] == expected.splitlines()[1:]


@pytest.mark.parametrize("name", command.STUDIES)
def test_every_study_has_a_main(name, monkeypatch):
    called = []
    module = __import__(f"jaxact.experiments.{command.STUDIES[name][0]}", fromlist=["main"])
    monkeypatch.setattr(module, "main", lambda: called.append(list(sys.argv)) or 7)
    monkeypatch.setattr(sys, "argv", ["jaxact", name, "--out", "x"])
    assert command.main() == 7
    assert called == [[f"jaxact {name}", "--out", "x"]]
