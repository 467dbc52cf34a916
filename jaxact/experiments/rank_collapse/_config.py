"""What the study of rank collapse runs over, and what it accepts."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from jaxact import activations
from jaxact.experiments._store import StudyError

NETWORKS = ("mlp", "conv")

PLACEMENTS = {
    "plain": "no skip, no norm: a(W x)",
    "post": "post-norm residual: a(x + N(W x))",
    "pre": "pre-norm residual: x + W a(N(x))",
    "none": "residual without norm: x + W a(x)",
    "scaled": "residual without norm, branch over sqrt(L): x + W a(x) / sqrt(L)",
}

NORMS = ("layer", "rms")

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "quick": {
        "activations": ("relu", "tanh"),
        "depths": (16,),
        "conv_depths": (4,),
        "seeds": (0, 1),
        "steps": 20,
        "examples": 64,
    },
    "paper": {
        "activations": ("relu", "leaky_relu", "tanh", "gelu", "silu", "selu"),
        "depths": (8, 32, 128, 512, 1000),
        "conv_depths": (4, 16, 64),
        "conv_width": 32,
        "seeds": tuple(range(10)),
        "steps": 2000,
        "examples": 512,
        "jacobian_examples": 8,
    },
}


@dataclasses.dataclass(frozen=True)
class RankCollapse:
    """How rank degrades with depth in plain and residual networks, on real images."""

    preset: Literal["default", "quick", "paper"] = "default"
    """Where the values come from that are not given: default (some minutes on 2 cores), quick
    (about a minute), paper (an accelerator)."""
    networks: tuple[str, ...] = NETWORKS
    """Kinds of network: mlp (one square weight a block), conv (two 3 x 3 convolutions a block)."""
    placements: tuple[str, ...] = tuple(PLACEMENTS)
    """Wiring of a block: plain, post, pre, none (residual without norm), scaled (none with the
    branch over sqrt(depth))."""
    activations: tuple[str, ...] = ("relu", "tanh", "gelu")
    """Names of activation functions in jaxact.activations."""
    depths: tuple[int, ...] = (8, 64)
    """Numbers of blocks of the mlp networks."""
    conv_depths: tuple[int, ...] = (6,)
    """Numbers of blocks of the conv networks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and batches; a seed is shared by all placements and activations, so that
    comparisons are paired."""
    norm: str = "layer"
    """Norm of the post and pre placements: layer or rms."""
    width: int = 64
    """Units of the mlp networks."""
    conv_width: int = 8
    """Channels of the conv networks."""
    dataset: str = "digits"
    """digits (shipped with scikit-learn), or the path of an .npz file with arrays x and y."""
    steps: int = 100
    """Training steps between the two measurements (Adam); 0 measures at initialization only."""
    batch_size: int = 64
    """Examples a training step."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    examples: int = 256
    """Training examples on which features and the loss's gradient are measured."""
    jacobian_examples: int = 2
    """Examples at which the input-to-layer Jacobian is measured."""
    grid: int = 8
    """Depths, spaced by ratio, at which products and Jacobians are measured in one network."""
    out: pathlib.Path = pathlib.Path("runs/rank_collapse")
    """Folder of the results; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on with a study that was stopped, without redoing its finished cells."""
    share: tuple[int, int] | None = None
    """Two numbers I N: measure the I-th of N shares of the cells, I from 0. N processes that see
    one folder measure a study together; the first starts it, and whoever finishes the last cell
    writes the table and the report. By default the process's share in jax.distributed, if any."""
    distributed: bool = False
    """Join the processes of a cluster that JAX detects, such as the hosts of a TPU pod."""


class Cell(NamedTuple):
    """One point of the study's grid, measured over all seeds at once."""

    network: str
    placement: str
    depth: int
    activation: str

    @property
    def name(self) -> str:
        """The cell's file name, without suffix."""
        return f"{self.network}-{self.placement}-{self.depth}-{self.activation}"


def cells(config: RankCollapse) -> Iterator[Cell]:
    """The cells of a study, in the order of its table."""
    for network in config.networks:
        depths = config.depths if network == "mlp" else config.conv_depths
        grid = itertools.product(config.placements, depths, config.activations)
        yield from (Cell(network, *rest) for rest in grid)


_NOT_OUTCOME = ("preset", "out", "resume", "share", "distributed")


def outcome_fields(config: RankCollapse) -> dict[str, Any]:
    """The fields that decide the results, as JSON values."""
    fields = dataclasses.asdict(config)
    return {k: v for k, v in fields.items() if k not in _NOT_OUTCOME}


def validate(config: RankCollapse) -> None:
    """Refuses a config that cannot run.

    Raises:
      StudyError: one sentence that names the field, its value and what is allowed.
    """
    _subset("networks", config.networks, NETWORKS)
    _subset("placements", config.placements, tuple(PLACEMENTS))
    _subset("norm", (config.norm,), NORMS)
    _nonempty("activations", config.activations)
    for name in config.activations:
        try:
            activations.get(name)
        except ValueError as error:
            raise StudyError(f"activations: {error}") from error
    for name in ("depths", "conv_depths", "seeds"):
        _nonempty(name, getattr(config, name))
    for name in ("depths", "conv_depths"):
        for depth in getattr(config, name):
            _at_least(name, depth, 1)
    for seed in config.seeds:
        _at_least("seeds", seed, 0)
        if seed >= 2**32:
            raise StudyError(f"seeds: each must be less than 2**32; got {seed}")
    for name in ("width", "conv_width", "batch_size", "examples", "jacobian_examples", "grid"):
        _at_least(name, getattr(config, name), 1)
    _at_least("examples", config.examples, 2)
    _at_least("steps", config.steps, 0)
    if not 0 < config.learning_rate < float("inf"):
        raise StudyError(f"learning_rate: must be positive and finite; got {config.learning_rate}")
    if config.share is not None and not 0 <= config.share[0] < config.share[1]:
        raise StudyError(
            f"share: must be I N with 0 <= I < N; got {' '.join(map(str, config.share))}"
        )


def _nonempty(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise StudyError(f"{name}: must name at least one; got none")
    if len(set(values)) < len(values):
        raise StudyError(f"{name}: must not repeat; got {' '.join(map(str, values))}")


def _subset(name: str, values: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    _nonempty(name, values)
    for value in values:
        if value not in allowed:
            raise StudyError(f"{name}: must be among {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise StudyError(f"{name}: must be at least {least}; got {value}")
