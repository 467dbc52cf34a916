"""What a training run is made of, and what it accepts."""

import dataclasses
import importlib.util
import pathlib
from typing import Any, Literal

import jax

from jaxact import activations, training
from jaxact.experiments._store import StudyError

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"skip": "none", "norm": "none", "norm_placement": "none"},
    "quick": {"depth": 16, "steps": 100, "warmup_steps": 10, "log_every": 20, "eval_every": 50},
    "cifar10": {
        "model": "cifar_resnet20",
        "dataset": "cifar-10-binary.tar.gz",
        "steps": 64_000,
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "clip_norm": None,
        "schedule": "step",
        "warmup_steps": 0,
        "pad": 4,
        "flip": True,
        "log_every": 100,
        "eval_every": 1000,
        "checkpoint_every": 1000,
    },
    "imagenet": {
        "model": "resnet50",
        "dataset": "imagenet",
        "steps": 112_600,
        "batch_size": 1024,
        "optimizer": "sgd",
        "learning_rate": 0.4,
        "weight_decay": 1e-4,
        "clip_norm": None,
        "warmup_steps": 6256,
        "label_smoothing": 0.1,
        "pad": 0,
        "resized_crop": True,
        "flip": True,
        "precision": "bfloat16",
        "log_every": 100,
        "eval_every": 1251,
        "checkpoint_every": 1000,
    },
}

# what mlp and conv are where a field is not given; named networks bring their own
UNIFORM: dict[str, Any] = {
    "width": 64,
    "depth": 200,
    "block_layers": 1,
    "norm_placement": "pre",
    "norm": "layer",
    "skip": "scaled",
    "activation": "relu",
    "stochastic_depth": 0.0,
}


@dataclasses.dataclass(frozen=True)
class TrainResNet:
    """Trains a residual network on images and measures its ranks by depth on the way."""

    preset: Literal["default", "plain", "quick", "cifar10", "imagenet"] = "default"
    """Where the values come from that are not given: default (a pre-norm network of 200 blocks on
    digits), plain (the same depth without skip and norm, which does not train), quick (some
    seconds), cifar10 (ResNet-20 as He et al. 2015 trained it; needs the archive and an
    accelerator), imagenet (ResNet-50 for 90 epochs; needs --dataset and accelerators)."""
    model: str = "mlp"
    """mlp (blocks of dense layers), conv (blocks of 3 x 3 convolutions at constant size), or the
    name of an image network in jaxact.models.presets(), such as cifar_resnet20, wrn_28_10,
    resnet50, densenet121."""
    width: int | None = None
    """Units of mlp, channels of conv (64)."""
    depth: int | None = None
    """Blocks of mlp and conv (200)."""
    block_layers: int | None = None
    """Weight layers in a block of mlp and conv (1)."""
    norm_placement: str | None = None
    """Where the norm stands in a block: a norm_placement of jaxact.models, such as post, pre,
    sandwich, res_post, deepnorm or none (pre; a named network has its own)."""
    norm: str | None = None
    """A norm of jaxact.models, such as batch, group, layer, rms, or none with norm_placement none
    (layer; a named network has its own)."""
    skip: str | None = None
    """A skip of jaxact.models, such as identity, scaled (branch over sqrt of the depth), rezero,
    layerscale, or none (scaled; a named network has its own)."""
    activation: str | None = None
    """Name of an activation function in jaxact.activations (relu)."""
    stochastic_depth: float | None = None
    """Share of the examples whose branch is dropped in the last block; less in those before."""
    dataset: str = "digits"
    """digits (shipped with scikit-learn); the path of an .npz file with arrays x and y; of CIFAR-10
    or CIFAR-100 as published, archive or unpacked folder; of a folder that holds a folder of images
    for each class, or train and val folders of such; or hf:NAME[:CONFIGURATION] of a data set of
    Hugging Face, downloaded once."""
    label_column: str | None = None
    """Column of the classes of a Hugging Face data set that has several, such as fine_label."""
    test_share: float = 0.2
    """Share of the examples held out for testing, where the data set is not split already."""
    image_size: int = 224
    """Pixels a side to which images of a folder or of Hugging Face are scaled and cut."""
    steps: int = 1500
    """Updates."""
    batch_size: int = 64
    """Examples an update."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, lamb or lion."""
    learning_rate: float = 2e-3
    """The schedule's largest step size."""
    schedule: str = "cosine"
    """constant, cosine, linear, or step (a tenth at each milestone)."""
    warmup_steps: int = 50
    """Steps in which the step size rises linearly from 0."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Of the step schedule, as shares of the steps."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-2
    """Of kernels only: added to the gradient by sgd and adam, to the update by the others."""
    clip_norm: float | None = 1.0
    """Largest norm of the whole gradient; None for no clipping."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the classes."""
    pad: int = 1
    """Pixels of zeros around a training image before it is cropped at random; 0 for no cropping."""
    resized_crop: bool = False
    """Cut a random rectangle out of each training image and scale it to the image's size, as is
    usual for photographs (with --pad 0)."""
    flip: bool = False
    """Mirror training images at random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, statistics, loss and update are float32 always."""
    ema_decay: float | None = None
    """Of moving averages of the parameters, which are then tested too; None for no averages."""
    seed: int = 0
    """Of weights, batches, augmentation, and the data's split."""
    log_every: int = 50
    """Steps a row of metrics.jsonl."""
    eval_every: int = 100
    """Steps between tests; the last step is always tested."""
    eval_batch_size: int = 256
    """Examples at a time in tests."""
    measure_every: int | None = None
    """Steps between measurements of ranks by layer; None for no measurements."""
    measure_examples: int = 256
    """Training examples on which features are measured."""
    checkpoint_every: int = 200
    """Steps between checkpoints; a multiple of log_every."""
    keep: int = 2
    """Checkpoints that are kept."""
    chunk: int = 50
    """Largest number of steps in one compiled call; 1 for no loop around the step."""
    devices: int = 1
    """Devices over which each batch is split, with --distributed those of all processes; must
    divide batch_size."""
    shard_state: bool = False
    """Split parameters and optimizer state over the devices too, instead of keeping all on each."""
    distributed: bool = False
    """Join the processes of a cluster by jax.distributed first; all run the same command, and see
    the same --out. Several hosts of a TPU pod find each other."""
    tensorboard: bool = False
    """Write event files for TensorBoard as well; needs pip install 'jaxact[train]'."""
    progress: bool = True
    """Show a progress bar."""
    out: pathlib.Path = pathlib.Path("runs/train_resnet")
    """Folder of the run; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder; the losses are those of a run that was not
    interrupted."""


_NOT_OUTCOME = (
    *("preset", "out", "resume", "progress", "tensorboard", "keep", "checkpoint_every"),
    *("devices", "shard_state", "distributed"),
)


def outcome_fields(config: TrainResNet) -> dict[str, Any]:
    """The fields that decide the results, as JSON values."""
    fields = dataclasses.asdict(config)
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in fields.items()
        if k not in _NOT_OUTCOME
    }


def validate(config: TrainResNet) -> None:
    """Refuses a config that cannot run, whatever the data and the network are.

    Raises:
      StudyError: one sentence that names the field, its value and what is allowed.
    """
    for name in ("width", "depth", "block_layers"):
        if getattr(config, name) is not None:
            _at_least(name, getattr(config, name), 1)
    for name in (
        *("image_size", "steps", "batch_size", "log_every"),
        *("eval_every", "eval_batch_size", "measure_examples", "checkpoint_every", "keep", "chunk"),
        "devices",
    ):
        _at_least(name, getattr(config, name), 1)
    if config.measure_every is not None:
        _at_least("measure_every", config.measure_every, 1)
        _at_least("measure_examples", config.measure_examples, 2)
    for name in ("pad", "seed", "warmup_steps"):
        _at_least(name, getattr(config, name), 0)
    if config.devices > jax.device_count():
        raise StudyError(
            f"devices: must be from 1 to the {jax.device_count()} there are; got {config.devices}"
        )
    if jax.process_count() > 1 and config.devices < jax.device_count():
        raise StudyError(
            f"devices: must be the {jax.device_count()} of all processes; got {config.devices}"
        )
    if config.shard_state and config.devices == 1:
        raise StudyError("shard_state: must be off with one device; got --devices 1")
    if config.batch_size % config.devices:
        raise StudyError(
            f"devices: must divide batch_size, {config.batch_size}; got {config.devices}"
        )
    if config.seed >= 2**31:
        raise StudyError(f"seed: must be less than 2**31; got {config.seed}")
    if not 0 < config.test_share < 1:
        raise StudyError(f"test_share: must be between 0 and 1; got {config.test_share}")
    if not 0 <= config.label_smoothing < 1:
        raise StudyError(
            f"label_smoothing: must be from 0 to below 1; got {config.label_smoothing}"
        )
    if config.ema_decay is not None and not 0 <= config.ema_decay < 1:
        raise StudyError(f"ema_decay: must be from 0 to below 1; got {config.ema_decay}")
    if not 0 < config.learning_rate < float("inf"):
        raise StudyError(f"learning_rate: must be positive and finite; got {config.learning_rate}")
    if config.checkpoint_every % config.log_every:
        raise StudyError(
            f"checkpoint_every: must be a multiple of log_every, {config.log_every}; "
            f"got {config.checkpoint_every}"
        )
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise StudyError(
            "tensorboard: needs tensorboardX; install it by pip install 'jaxact[train]'"
        )
    try:
        activations.get(config.activation or UNIFORM["activation"])
    except ValueError as error:
        raise StudyError(f"activation: {error}") from error
    try:
        rate = training.schedule(
            config.schedule,
            peak=config.learning_rate,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            milestones=config.milestones,
        )
        training.optimizer(
            config.optimizer,
            rate,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            momentum=config.momentum,
        )
    except ValueError as error:
        raise as_field(error, "optimizer") from error


def as_field(error: Exception, default: str) -> StudyError:
    """The library's sentence, ``NAME must be ...``, as one of the field with that name.

    Args:
      error: what the library raised.
      default: the field that is named where the sentence names none.
    """
    name, must, rest = str(error).partition(" must ")
    if must and name in {field.name for field in dataclasses.fields(TrainResNet)}:
        return StudyError(f"{name}: must {rest}")
    return StudyError(f"{default}: {error}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise StudyError(f"{name}: must be at least {least}; got {value}")
