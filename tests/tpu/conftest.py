"""TPUs that are not here: libtpu's compiler compiles for them, and nothing is run on one."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, SingleDeviceSharding
from jax.stages import Compiled

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Several processes may compile at once: none of them holds a TPU.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


@pytest.fixture(scope="module", autouse=True)
def nothing_kept_in_a_compilation_cache():
    """Where the environment names one: a program cannot be read from it without a TPU."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.fixture(scope="session")
def tpu_devices() -> list[jax.Device]:
    """The four chips of a v5e 2x2, for a mesh or one by one; skips where libtpu is absent."""
    pytest.importorskip("libtpu", reason="libtpu compiles for a TPU (the extra tpu-aot)")
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


@pytest.fixture(scope="session")
def v6e_chip() -> SingleDeviceSharding:
    """A chip of a v6e 2x2, to compile for."""
    pytest.importorskip("libtpu", reason="libtpu compiles for a TPU (the extra tpu-aot)")
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2")
    return SingleDeviceSharding(topology.devices[0])


@pytest.fixture(scope="session")
def tpu_mesh(tpu_devices) -> Callable[..., Mesh]:
    """``tpu_mesh(data=2, model=2)``: a mesh of the chips, or of the first few of them."""

    def mesh(**axes: int) -> Mesh:
        shape = tuple(axes.values())
        chips = np.asarray(tpu_devices[: math.prod(shape)], dtype=object).reshape(shape)
        return Mesh(chips, tuple(axes))

    return mesh


@pytest.fixture(scope="session")
def compile_for_tpu(tpu_devices) -> Callable[..., Compiled]:
    """``compile_for_tpu(f, *arguments, **of_jit)``: f compiled for one chip.

    The arguments are arrays or `jax.ShapeDtypeStruct`; only their shapes and dtypes count. The
    result has ``cost_analysis()``, ``memory_analysis()`` and ``as_text()``.
    """
    chip = SingleDeviceSharding(tpu_devices[0])

    def compile_(f: Callable[..., Any], *arguments: Any, **of_jit: Any) -> Compiled:
        of_jit = {"in_shardings": chip, "out_shardings": chip, **of_jit}
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
        return jax.jit(f, **of_jit).lower(*shapes).compile()

    return compile_
