"""Studies run as a user runs them: from a command line, in a process of their own."""

import dataclasses
import os
import subprocess
import sys

import pytest


def arguments(config):
    """The command line of a study's config, without the fields that have their default."""
    args = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            args += [f"--{name}", *map(str, values)]
    return args


@pytest.fixture(scope="session")
def start():
    """``start(config, devices=1, before="")``: the study's process, ``before`` run in it first."""

    def run(config, devices=1, before=""):
        study = type(config).__module__.rpartition(".")[0]
        entry = f"import sys; from {study} import main; sys.exit(main())"
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{entry}", *arguments(config)],
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
