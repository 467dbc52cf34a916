"""What a training run is made of, and what it accepts."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import jax
import optax

from jaxact import activations, analysis, training, wiring
from jaxact.experiments import _cli
from jaxact.experiments._cli import BELOW_ONE, INSIDE, POSITIVE, Must, Words, among, at_least, known
from jaxact.experiments._networks import DataSet
from jaxact.experiments._store import StudyError

Count = Annotated[int, at_least(1)]
Some = Annotated[int | None, at_least(1)]
Size = Annotated[int, at_least(0)]

Activation = Annotated[str | None, known(activations.get, Words(activations.names))]
SPECTRA = Words(lambda: [measure.name for measure in analysis.taking("spectrum")])

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"skip": "plain", "norm": "none", "norm_placement": "norm_free"},
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
    width: Some = None
    """Units of mlp, channels of conv (64)."""
    depth: Some = None
    """Blocks of mlp and conv (200)."""
    block_layers: Some = None
    """Weight layers in a block of mlp and conv (1)."""
    norm_placement: Annotated[str | None, among(wiring.PLACEMENTS)] = None
    """Where the norm stands in a block (pre; a named network has its own)."""
    norm: str | None = None
    """A norm of jaxact.models, such as batch, group, layer, rms, or none with norm_placement
    norm_free (layer; a named network has its own)."""
    skip: Annotated[str | None, known(lambda word: wiring.of("norm_free", word), wiring.SKIPS)] = (
        None
    )
    """How the branch is added, or a number s for x + s F (scaled; a named network has its own)."""
    activation: Activation = None
    """Name of an activation function in jaxact.activations (relu)."""
    stochastic_depth: float | None = None
    """Share of the examples whose branch is dropped in the last block; less in those before."""
    dataset: DataSet = "digits"
    """A name in jaxact.training.DATASETS, such as digits (shipped with scikit-learn); the path of
    an .npz file with arrays x and y; of CIFAR-10 or CIFAR-100 as published, archive or unpacked
    folder; of a folder that holds a folder of images for each class, or train and val folders of
    such; or hf:NAME[:CONFIGURATION] of a data set of Hugging Face, downloaded once."""
    label_column: str | None = None
    """Column of the classes of a Hugging Face data set that has several, such as fine_label."""
    test_share: Annotated[float, INSIDE] = 0.2
    """Share of the examples held out for testing, where the data set is not split already."""
    image_size: Count = 224
    """Pixels a side to which images of a folder or of Hugging Face are scaled and cut."""
    steps: Count = 1500
    """Updates."""
    batch_size: Count = 64
    """Examples an update."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, lamb or lion."""
    learning_rate: Annotated[float, POSITIVE] = 2e-3
    """The schedule's largest step size."""
    schedule: str = "cosine"
    """constant, cosine, linear, or step (a tenth at each milestone)."""
    warmup_steps: Annotated[int | None, at_least(0)] = None
    """Steps in which the step size rises linearly from 0 (50, or a tenth of the steps if fewer)."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Of the step schedule, as shares of the steps."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-2
    """Of kernels only: added to the gradient by sgd and adam, to the update by the others."""
    clip_norm: float | None = 1.0
    """Largest norm of the whole gradient; None for no clipping."""
    label_smoothing: Annotated[float, BELOW_ONE] = 0.0
    """Share of the target that is spread evenly over the classes."""
    pad: Size = 1
    """Pixels of zeros around a training image before it is cropped at random; 0 for no cropping."""
    resized_crop: bool = False
    """Cut a random rectangle out of each training image and scale it to the image's size, as is
    usual for photographs (with --pad 0)."""
    flip: bool = False
    """Mirror training images at random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, statistics, loss and update are float32 always."""
    ema_decay: Annotated[float | None, BELOW_ONE] = None
    """Of moving averages of the parameters, which are then tested too; None for no averages."""
    seed: Annotated[Size, Must("be less than 2**31", lambda seed: seed < 2**31)] = 0
    """Of weights, batches, augmentation, and the data's split."""
    log_every: Count = 50
    """Steps a row of metrics.jsonl."""
    eval_every: Count = 100
    """Steps between tests; the last step is always tested."""
    eval_batch_size: Count = 256
    """Examples at a time in tests."""
    measure_every: Some = None
    """Steps between measurements of ranks by layer; None for no measurements."""
    measures: Annotated[tuple[str, ...], among(SPECTRA)] = analysis.RANKS
    """Which measures of spectra are taken of features and weights by layer."""
    measure_examples: Annotated[int, at_least(2)] = 256
    """Training examples on which features are measured."""
    checkpoint_every: Count = 200
    """Steps between checkpoints; a multiple of log_every."""
    keep: Count = 2
    """Checkpoints that are kept."""
    chunk: Count = 50
    """Largest number of steps in one compiled call; 1 for no loop around the step."""
    devices: Count = 1
    """Devices over which each batch is split, with --distributed those of all processes; must
    divide batch_size."""
    shard_state: bool = False
    """Split parameters and optimizer state over the devices too, instead of keeping all on each."""
    distributed: bool = False
    """Join the processes of a cluster by jax.distributed first; all run the same command, and see
    the same --out. Several hosts of a TPU pod find each other."""
    progress: bool = True
    """Show a progress bar."""
    out: pathlib.Path = pathlib.Path("runs/train_resnet")
    """Folder of the run; must be new or empty unless --resume is given."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder; the losses are those of a run that was not
    interrupted. A run that is finished goes on where --steps are more than it has."""


NOT_OUTCOME = ("progress", "keep", "checkpoint_every", "devices", "shard_state")


def validate(config: TrainResNet) -> None:
    """Refuses a config that cannot run, whatever the data and the network are.

    Raises:
      StudyError: one sentence that names the field, its value and what is allowed.
    """
    _cli.validate(config)
    count = jax.device_count()
    for field, wrong, must in (
        ("devices", config.devices > count, f"be from 1 to the {count} there are"),
        (
            "devices",
            jax.process_count() > 1 and config.devices < count,
            f"be the {count} of all processes",
        ),
        ("devices", config.batch_size % config.devices, f"divide batch_size, {config.batch_size}"),
        ("shard_state", config.shard_state and config.devices == 1, "be off with one device"),
        (
            "checkpoint_every",
            config.checkpoint_every % config.log_every,
            f"be a multiple of log_every, {config.log_every}",
        ),
    ):
        if wrong:
            raise StudyError(f"{field}: must {must}; got {getattr(config, field)}")
    try:
        make_optimizer(config)
    except ValueError as error:
        raise as_field(error, "optimizer") from error


def make_optimizer(config: TrainResNet) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a config, and its step size by step."""
    warmup = config.warmup_steps
    rate = training.schedule(
        config.schedule,
        peak=config.learning_rate,
        steps=config.steps,
        warmup_steps=min(50, config.steps // 10) if warmup is None else warmup,
        milestones=config.milestones,
    )
    options = {name: getattr(config, name) for name in ("weight_decay", "clip_norm", "momentum")}
    return training.optimizer(config.optimizer, rate, **options), rate


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
