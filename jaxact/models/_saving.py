"""Networks to files and back, with what they were made of."""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxact import io
from jaxact._compat import set_value, value_of
from jaxact.models._network import Network
from jaxact.models._registry import recreate, unnamed

_MADE_OF = "jaxact.made_of"


def save(path: str | pathlib.Path, network: nnx.Module, /) -> None:
    """Writes a network, with its statistics and what it was made of; whole or not at all.

    Args:
      path: a file that ends in ``.safetensors``, or a folder for an orbax checkpoint (which must
        not exist yet).
      network: made by `create`.

    Raises:
      ValueError: if the network was not made by `create` or has other arrays than `create` made (a
        layer was replaced), or the folder exists.

    Example:
      >>> import tempfile
      >>> from jaxact import models
      >>> sizes = dict(in_features=2, out_features=1, depth=9)
      >>> net = models.create("one_neuron_resnet", **sizes, rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     models.save(f"{folder}/net.safetensors", net)
      ...     again = models.load(f"{folder}/net.safetensors")
      >>> bool(jnp.all(again.head.kernel[...] == net.head.kernel[...]))
      True
    """
    path = pathlib.Path(path)
    made_of = getattr(network, "made_of", None)
    if made_of is None:
        raise ValueError(
            f"network must be made by jaxact.models.create, which keeps what it was made of; got a "
            f"{type(network).__name__} made otherwise"
        )
    if isinstance(network, Network):  # it may have been stacked or unrolled since
        given = json.loads(made_of)
        stacked = network.stages[0].stacked
        if stacked != given["overrides"].get("scan", True):
            given["overrides"]["scan"] = stacked
            made_of = json.dumps(given)
    arrays = {name: value_of(variable) for name, variable in _variables(network).items()}
    if not unnamed(made_of):  # else its makers are known to the one who loads it only
        _check(arrays, _variables(_placeholders(made_of)), f"network must be as {made_of} made it")
    if path.suffix == ".safetensors":
        io.write_safetensors(path, arrays, metadata={_MADE_OF: made_of})
        return
    if path.exists():
        raise ValueError(f"path must not exist yet, or end in .safetensors; got {path}")
    import orbax.checkpoint as ocp  # slow to import, and only needed here

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays),
            made_of=ocp.args.JsonSave(json.loads(made_of)),
        )
        checkpointer.save(path.absolute(), items)


def load(path: str | pathlib.Path, /, **given: Any) -> Any:
    """Reads a network that `save` wrote.

    Args:
      path: of the file or folder.
      given: arguments of the network that could not be written, such as an activation that is not
        one of `jaxact.activations`.

    Returns:
      The network, in training mode, with equal bits.

    Raises:
      FileNotFoundError: if there is nothing at ``path``.
      ValueError: if it was not written by `save`, or is damaged, or an argument has to be given.
    """
    path = pathlib.Path(path)
    made_of, arrays = _read(path)
    network = _placeholders(made_of, **given)
    variables = _variables(network)
    _check(arrays, variables, f"path must hold the network it says; {path}")
    for name, variable in variables.items():
        set_value(variable, jnp.asarray(np.array(arrays[name])))
    return network


def _placeholders(made_of: str, **given: Any) -> Any:
    return nnx.eval_shape(lambda: recreate(made_of, rngs=nnx.Rngs(0), **given))


def _check(arrays: dict[str, Any], variables: dict[str, Any], must: str) -> None:
    """Refuses arrays that are not those of the variables."""
    shapes = {name: (value_of(v).shape, value_of(v).dtype) for name, v in variables.items()}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if shapes != found:
        differ = sorted(k for k in shapes | found if shapes.get(k) != found.get(k))
        raise ValueError(f"{must}; it differs in {', '.join(differ)}")


def _read(path: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    if path.is_dir():
        if not (path / "arrays").is_dir() or not (path / "made_of").is_dir():
            raise ValueError(f"path must be a network written by jaxact.models.save; got {path}")
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            items = ocp.args.Composite(made_of=ocp.args.JsonRestore())
            made_of = checkpointer.restore(path.absolute(), items)["made_of"]
        return json.dumps(made_of), io.read_arrays(path / "arrays")
    made_of = io.read_metadata(path).get(_MADE_OF)
    if made_of is None:
        raise ValueError(f"path must be a network written by jaxact.models.save; got {path}")
    return made_of, io.read_arrays(path)


def _variables(network: nnx.Module) -> dict[str, Any]:
    """The network's own variables, by their path."""
    paths = nnx.iter_graph(network)
    return {".".join(map(str, path)): v for path, v in paths if isinstance(v, nnx.Variable)}
