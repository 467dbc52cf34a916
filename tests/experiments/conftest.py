"""Studies run as a user runs them: from a command line, in a process of their own."""

import dataclasses
import os
import subprocess
import sys

import pytest

ENTRY = "import sys; from jaxact.experiments import rank_collapse; sys.exit(rank_collapse.main())"


def arguments(config):
    """The command line of a config of rank_collapse, without the fields that have their default."""
    args = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name != "resume":
            values = value if isinstance(value, tuple) else (value,)
            args += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return args + ["--resume"] * config.resume


@pytest.fixture(scope="session")
def start():
    """``start(config, devices=1, before="")``: the process, ``before`` run in it first."""

    def run(config, devices=1, before=""):
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{ENTRY}", *arguments(config)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def finish():
    """``finish(process)``: waits for it, and refuses one that failed."""

    def wait(process):
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors

    return wait
