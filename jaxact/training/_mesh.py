"""Where a training state and its batches lie on a mesh of devices, in one process or several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jaxact.training._step import State


def place(state: State, mesh: Mesh, /, *, shard_state: bool = False) -> State:
    """Puts a state on the devices of a mesh, which may belong to several processes.

    With ``shard_state`` every array is cut along its last axis that the number of devices divides
    (in stacked layers seldom that of depth, which a scan slices), and one without such an axis is
    replicated: the parameters, averages and optimizer's moments then take a share of the memory on
    each device (Rajbhandari et al. 2020, "ZeRO: Memory optimizations toward training trillion
    parameter models", where the optimizer's state and the parameters are split).

    Args:
      state: the same in every process.
      mesh: the devices.
      shard_state: whether the state is split over the devices, not replicated on each.

    Returns:
      The state; an array that lies there already is not copied.
    """
    return jax.tree.map(_put, state, shardings(state, mesh, shard_state=shard_state))


def shardings(state: State, mesh: Mesh, /, *, shard_state: bool) -> PyTree[NamedSharding]:
    """How `place` lays out each array of a state."""

    def of(leaf: Any) -> NamedSharding:
        if shard_state and not is_key(leaf):
            for axis in reversed(range(leaf.ndim)):
                if leaf.shape[axis] and leaf.shape[axis] % mesh.size == 0:
                    return along(mesh, axis)
        return along(mesh, None)

    return jax.tree.map(of, state)


def untyped(mesh: Mesh) -> Mesh:
    """The devices of a mesh, their sharding left to the compiler instead of being in types."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def along(mesh: Mesh, axis: int | None) -> NamedSharding:
    """Arrays split along one axis over all devices of a mesh, or replicated."""
    if axis is None:
        return NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def local(tree: PyTree[Array], /) -> PyTree[Array]:
    """Whole arrays of this process alone, from arrays over the devices of several.

    Every process must make the call; arrays that are this process's already are left as they are.

    Args:
      tree: arrays, such as a state or its parameters.

    Returns:
      The arrays, with the same values in every process.
    """

    def own(leaf: Any) -> Any:
        if leaf.is_fully_addressable:
            return leaf
        if is_key(leaf):
            data = own(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(own, tree)


class Spreader:
    """Spreads over a mesh the batches that each process fetched.

    An array that is the same object as in the fetch before is not sent again.
    """

    def __init__(self, mesh: Mesh, split: int | None):
        self._sharding = along(mesh, split)
        self._several = len({device.process_index for device in mesh.devices.flat}) > 1
        self._last: tuple[list[Any], list[Any]] = ([], [])

    def __call__(self, batches: Any) -> Any:
        """The batches as arrays over the whole mesh."""
        leaves, structure = jax.tree.flatten(batches)
        before, there = self._last
        if len(before) != len(leaves):
            before = there = [None] * len(leaves)
        spread = [
            old if leaf is same else self._put(leaf)
            for leaf, same, old in zip(leaves, before, there, strict=True)
        ]
        self._last = (leaves, spread)
        return jax.tree.unflatten(structure, spread)

    def _put(self, leaf: Any) -> jax.Array:
        if not self._several:
            return jax.device_put(leaf, self._sharding)
        return jax.make_array_from_process_local_data(self._sharding, np.asarray(leaf))


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if leaf.sharding == sharding:
        return leaf
    if is_key(leaf):  # a key cannot be put on another process's devices; its data can
        data = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(leaf, sharding)


def is_key(leaf: Any) -> bool:
    """Whether an array is of PRNG keys, which devices and files take as their data alone."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
