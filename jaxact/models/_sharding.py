"""Where a network's arrays lie on a mesh: split by data (FSDP) and by model (tensor parallel)."""

from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

AnyModule = TypeVar("AnyModule", bound=nnx.Module)
_REDUCING = ("out", "down")  # the second of two layers between which units are split


def shardings(
    network: AnyModule,
    mesh: Mesh | AbstractMesh,
    /,
    *,
    data: str | None = "data",
    model: str | None = "model",
) -> AnyModule:
    """How every array of a network is split over a mesh.

    Kernels are split along outputs by ``model`` and along inputs by ``data``, those of the layers
    that end attention and feed-forward the other way, so that heads and hidden units stay on their
    devices between the two; embeddings along tokens by ``model`` and along the width by ``data``.
    Biases follow their outputs where these are split by ``model``; all else lies whole on each
    device, as does any axis that the devices do not divide.

    Args:
      network: any network of this package.
      mesh: of devices.
      data: the mesh axis over which parameters are split, gathered where they are used (Zhao et al.
        2023, FSDP); None where they are not.
      model: the mesh axis of heads, hidden units and outputs (Shoeybi et al. 2019); None for none.

    Returns:
      The network with a `NamedSharding` in the place of each array: what `jax.device_put` and the
      ``in_shardings`` of `jax.jit` take.

    Raises:
      ValueError: if the mesh has no such axis, or both are one.

    Example:
      >>> from jaxact import models
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
      >>> net = models.Transformer(width=8, depth=3, heads=2, rngs=nnx.Rngs(0))
      >>> there = models.shardings(net, mesh)
      >>> tuple(jax.tree.leaves(there.blocks.attention.layers[0].query)[0].spec)
      (None, 'data', 'model')
      >>> net = jax.device_put(net, there)
    """
    if data is not None and data == model:
        raise ValueError(f"data and model must be two axes of the mesh; got {data!r} for both")
    for name, axis in (("data", data), ("model", model)):
        if axis is not None and axis not in mesh.axis_names:
            raise ValueError(f"{name} must be an axis of the mesh, {mesh.axis_names}; got {axis!r}")

    def of(path: Any, leaf: Any) -> NamedSharding:
        names = [str(getattr(key, "name", getattr(key, "key", key))).strip(".[]'") for key in path]
        names = [name for name in names if name not in ("value", "raw_value")]
        owner, last = names[-2] if len(names) > 1 else "", names[-1]
        ends: tuple[str | None, ...] = ()
        if last == "kernel":
            ends = (model, data) if owner in _REDUCING else (data, model)
        elif last == "table":
            ends = (model, data)
        elif last == "bias" and "layers" in names and owner not in _REDUCING:
            ends = (model,)
        if leaf.ndim < len(ends):
            ends = ()
        spec = [None] * (leaf.ndim - len(ends)) + list(ends)
        for axis, name in enumerate(spec):
            if name is not None and leaf.shape[axis] % mesh.shape[name]:
                spec[axis] = None
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(of, network)
