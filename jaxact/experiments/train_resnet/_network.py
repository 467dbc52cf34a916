"""Builds the network of a config, and the measurement of its ranks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxact import analysis, models, training
from jaxact.experiments._store import StudyError
from jaxact.experiments.train_resnet._config import TrainResNet, as_field


def build(config: TrainResNet, shape: tuple[int, ...], classes: int) -> nnx.Module:
    """The network, freshly initialized.

    Args:
      config: of the run.
      shape: of one image, (height, width, channels).
      classes: how many there are.

    Raises:
      StudyError: if the choices do not go together.
    """
    if config.model not in ("mlp", "conv"):
        raise StudyError(f"model: must be mlp or conv; got {config.model!r}")
    make: Any = models.MLPResNet if config.model == "mlp" else models.ConvResNet
    try:
        return make(
            int(np.prod(shape)) if config.model == "mlp" else shape[-1],
            classes,
            width=config.width,
            depth=config.depth,
            block_layers=config.block_layers,
            norm_placement=config.norm_placement,
            norm=config.norm,
            skip=config.skip,
            activation=config.activation,
            rngs=nnx.Rngs(config.seed),
        )
    except (TypeError, ValueError) as error:
        raise as_field(error, "model") from error


def ranks(network: training.Functional, x: Array) -> Callable[[training.State], Mapping[str, Any]]:
    """A measurement of a run: ranks of features and weights by layer.

    Args:
      network: the network taken apart.
      x: examples on which features are measured, as the network takes them.

    Returns:
      A function from a state to lists, one entry for each layer, named
      ``OBJECT/SEGMENT/QUANTITY``, with the object ``features`` or ``weight``. It compiles once.
    """

    @jax.jit
    def measured(params, stats):
        module = network.merge(params, stats)
        module.eval()
        chain = analysis.as_chain(module)
        found: dict[str, analysis.Ranks] = {}
        for segment, h in analysis.features(chain, x).items():
            matrices = analysis.feature_matrix(h.astype(jnp.float32))
            found[f"features/{segment}"] = analysis.matrix_ranks(matrices)
        for segment, stacks in analysis.weight_matrices(chain).items():
            for path, stack in stacks.items():
                found[f"weight/{segment}.{path}"] = analysis.matrix_ranks(stack)
        return found

    def measure(state: training.State) -> dict[str, Any]:
        found = measured(state.params, state.stats)
        return {
            f"{name}/{quantity}": np.asarray(values).tolist()
            for name, each in found.items()
            for quantity, values in each._asdict().items()
        }

    return measure
