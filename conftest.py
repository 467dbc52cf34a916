"""Slow tests, shares of the tests, and compiled programs dropped before a process holds too many.

`tests/slow.txt` lists the tests of over two seconds, each with the seconds of its longest case on
one core. A plain `pytest` leaves them out; those of over ten are marked `long` besides.
"""

import pathlib
import zlib

import jax
import pytest

_LINES = (pathlib.Path(__file__).parent / "tests" / "slow.txt").read_text().splitlines()
SECONDS = {test: int(seconds) for seconds, test in (line.split(" ", 1) for line in _LINES)}


def pytest_addoption(parser):
    """Adds ``--share``."""
    parser.addoption("--share", default="1/1", help="K/N: the K-th of N parts, by tests' names")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what the list names, before `-m` selects."""
    for item in items:
        seconds = SECONDS.get(item.nodeid.split("[")[0], 0)
        if seconds:
            item.add_marker(pytest.mark.slow)
        if seconds > 10:
            item.add_marker(pytest.mark.long)
    part, parts = map(int, config.getoption("--share").split("/"))
    shares = ([], [])
    for item in items:
        name = item.nodeid.split("[")[0]
        shares[zlib.crc32(name.encode()) % parts == part - 1].append(item)
    items[:] = shares[True]
    config.hook.pytest_deselected(items=shares[False])


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Linux allows a process 65,530 memory maps, and each compiled program takes several."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
