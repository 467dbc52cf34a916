"""Builds the network of a config, and the measurement of its ranks."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxact import analysis, models, training
from jaxact.experiments._store import StudyError
from jaxact.experiments.train_resnet._config import UNIFORM, TrainResNet, as_field


def build(config: TrainResNet, shape: tuple[int, ...], classes: int) -> nnx.Module:
    """The network, freshly initialized.

    Args:
      config: of the run.
      shape: of one image, (height, width, channels).
      classes: how many there are.

    Raises:
      StudyError: if the choices do not go together.
    """
    given = {name: getattr(config, name) for name in UNIFORM}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        if config.model in ("mlp", "conv"):
            inputs = {"in_features": int(np.prod(shape))}
            if config.model == "conv":
                inputs = {"in_channels": shape[-1]}
            choices = {**inputs, "out_features": classes, **UNIFORM, **given}
            return models.create(f"{config.model}_resnet", **choices, rngs=nnx.Rngs(config.seed))
        if config.model not in named() and not re.fullmatch(r"wrn_\d+_\d+", config.model):
            raise StudyError(
                f"model: must be mlp, conv or an image network of jaxact.models.presets(); got "
                f"{config.model!r}{_nearest(config.model)}"
            )
        for name in ("width", "depth", "block_layers"):
            if name in given:
                raise StudyError(
                    f"{name}: must not be given with model {config.model}, which has its own; "
                    f"got {given[name]}"
                )
        sizes = {"in_channels": shape[-1], "num_classes": classes}
        return models.create(config.model, **sizes, **given, rngs=nnx.Rngs(config.seed))
    except (TypeError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise as_field(error, "model") from error


def named() -> tuple[str, ...]:
    """The networks of `models.presets` that take images and give logits."""
    others = ("mlp_resnet", "conv_resnet", "one_neuron_resnet", "i_resnet")
    return tuple(name for name in models.presets() if name not in others)


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, named(), n=3, cutoff=0.5)
    return f"; nearest: {', '.join(near)}" if near else ""


def measurement(
    network: training.Functional, names: tuple[str, ...], x: Array
) -> Callable[[training.State], Mapping[str, Any]]:
    """A measurement of a run: ranks of features and weights by layer.

    Args:
      network: the network taken apart.
      names: of measures that take a spectrum.
      x: examples on which features are measured, as the network takes them.

    Returns:
      A function from a state to lists, one entry for each layer, named
      ``OBJECT/SEGMENT/QUANTITY``, with the object ``features`` or ``weight``; of two streams each
      has its own, ``SEGMENT.1`` and ``SEGMENT.2``. It compiles once.
    """

    @jax.jit
    def measured(params, stats):
        module = network.merge(params, stats)
        module.eval()
        chain = analysis.as_chain(module)
        found: dict[str, dict[str, Array]] = {}
        for segment, h in analysis.features(chain, x).items():
            streams = jax.tree.leaves(h)  # two where blocks carry a pair
            for number, stream in enumerate(streams, 1):
                name = segment if len(streams) == 1 else f"{segment}.{number}"
                matrices = analysis.feature_matrix(stream.astype(jnp.float32))
                found[f"features/{name}"] = analysis.matrix_measures(matrices, names)
        for segment, stacks in analysis.weight_matrices(chain).items():
            for path, stack in stacks.items():
                found[f"weight/{segment}.{path}"] = analysis.matrix_measures(stack, names)
        return found

    def measure(state: training.State) -> dict[str, Any]:
        return {
            f"{name}/{quantity}": np.asarray(values).tolist()
            for name, each in measured(state.params, state.stats).items()
            for quantity, values in each.items()
        }

    return measure
