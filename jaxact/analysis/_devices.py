"""A stream over the devices of a mesh: each keeps what it has seen, until all are merged."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import P
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, PyTree

Update = Callable[[PyTree[Array], Any, PyTree[Array], Bool[Array, " batch"]], Any]
"""``update(params, state, x, mask) -> state``; examples where the mask is False do not count."""


class Devices:
    """The devices of a mesh that are this process's, each with a state of its own.

    Args:
      mesh: devices of one or several processes.
      update: sees more examples; pure.
      reduce: ``reduce(state, axis_name) -> state``, the states over a mesh axis together.

    Raises:
      ValueError: if no device of the mesh belongs to this process.
    """

    def __init__(self, mesh: Mesh, update: Update, reduce: Callable[[Any, str], Any]):
        own = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        if not own:
            raise ValueError(
                f"mesh must hold a device of every process; got {mesh.devices.size} devices, none "
                f"of process {jax.process_index()}"
            )
        self._count = len(own)
        self._several = len(own) < mesh.devices.size
        self._reduce = reduce
        over = Mesh(np.array(own), ("device",))
        self._replicated, self._split = (NamedSharding(over, spec) for spec in (P(), P("device")))

        def one(params: PyTree[Array], states: Any, x: PyTree[Array], mask: Array) -> Any:
            return jax.tree.map(lambda leaf: leaf[None], update(params, _first(states), x, mask))

        spread = functools.partial(jax.shard_map, mesh=over, check_vma=False)
        split = P("device")
        step = spread(one, in_specs=(P(), split, split, split), out_specs=split)
        self._update = jax.jit(step, donate_argnums=1)
        self._merge = jax.jit(
            spread(lambda states: reduce(_first(states), "device"), in_specs=split, out_specs=P())
        )

    def replicate(self, tree: PyTree[Array]) -> PyTree[Array]:
        """Arrays on every device, such as a network's parameters."""
        return jax.device_put(tree, self._replicated)

    def start(self, state: Any) -> Any:
        """A copy of a state for each device."""

        def copies(leaf: Array) -> Array:
            return jax.device_put(np.repeat(leaf[None], self._count, axis=0), self._split)

        return jax.tree.map(copies, state)

    def update(self, params: PyTree[Array], states: Any, x: PyTree[Array]) -> Any:
        """The devices' states, each with its share of a batch seen; the old ones are donated."""
        n = len(jax.tree.leaves(x)[0])
        numbers = np.arange(math.ceil(n / self._count) * self._count)
        if len(numbers) > n:  # the last example again fills the last shares
            x = jax.tree.map(lambda leaf: leaf[np.minimum(numbers, n - 1)], x)
        x, mask = jax.device_put((x, numbers < n), self._split)
        return self._update(params, states, x, mask)

    def merge(self, states: Any) -> Any:
        """What all devices have seen, those of other processes too; all must make the call."""
        total = jax.tree.map(lambda leaf: leaf.addressable_data(0), self._merge(states))
        if not self._several:
            return total
        every = jax.tree.map(jnp.asarray, multihost_utils.process_allgather(total))
        over_processes = jax.vmap(lambda state: self._reduce(state, "process"), axis_name="process")
        return _first(jax.jit(over_processes)(every))


def _first(states: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], states)
