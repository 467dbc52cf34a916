"""The networks that studies measure: built, trained and observed over seeds and arms at once.

A program is compiled once for each wiring, depth and width. The activation is an index into a
`lax.switch`, so all activations share it; seeds and what differs between arms are a `vmap`, split
over the devices where there are several.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from jaxact import activations, analysis, models, theory, training, wiring
from jaxact.experiments._cli import Must
from jaxact.experiments._starts import start
from jaxact.experiments._store import StudyError

DataSet = Annotated[str, Must("", lambda name: True, training.DATASETS)]
"""The type of a config's field: what `training.load` takes. The help lists the names."""

TOKENS = 4
"""Rows and columns of tokens that a transformer makes of an image."""
HEADS = 4


def _mlp(shape: tuple[int, ...], classes: int, **choices: Any) -> Any:
    return models.MLPResNet(math.prod(shape), classes, **choices)


def _conv(shape: tuple[int, ...], classes: int, **choices: Any) -> Any:
    return models.ConvResNet(shape[-1], classes, **choices)


def _transformer(shape: tuple[int, ...], classes: int, **choices: Any) -> Any:
    size, channels = shape[0], shape[-1]
    fixed = dict(stem="patches", positions="learned", mask="none", pool="mean", bias=True)
    sizes = dict(inputs=channels, outputs=classes, size=size, patch=size // TOKENS, heads=HEADS)
    return models.Transformer(**fixed, **sizes, remat=None, **choices)


NETWORKS: dict[str, Callable[..., Any]] = {"mlp": _mlp, "conv": _conv, "transformer": _transformer}
"""Kinds of network by how one is made for images of a shape: one square weight a block, two 3 x 3
convolutions a block, or a layer of attention and feed-forward, each wired by itself, on 16
patches."""


def takes(kind: str, word: str) -> bool:
    """Whether a kind of network has a wiring: a transformer's sublayers have their activations."""
    return kind != "transformer" or wiring.get(word).sublayers


class Function(NamedTuple):
    """An activation with the gain that keeps its layers' second moment at one."""

    apply: Callable[[Array], Array]
    gain: float


@functools.cache
def function(name: str, depth: int = 1) -> Function:
    """An activation by name; ``tat_relu`` and ``dks_NAME`` are tailored to a plain network's depth.

    Args:
      name: of `jaxact.activations`, or ``tat_relu`` (tailored leaky rectifier, Zhang et al. 2022),
        ``tat_NAME`` (tailored activation transformation), ``dks_NAME`` (deep kernel shaping,
        Martens et al. 2021), ``gelu_tanh`` or ``gelu_sigmoid``.
      depth: layers that a tailored one is made for.

    Returns:
      The function and its gain.
    """
    if name == "tat_relu":
        leaky = theory.tailor_leaky_relu(depth)
        slope, scale = float(leaky.negative_slope), float(leaky.output_scale)
        return Function(lambda x: scale * activations.leaky_relu(x, negative_slope=slope), 1.0)
    method, _, rest = name.partition("_")
    if method in ("tat", "dks"):
        make = theory.tailor_tat if method == "tat" else theory.tailor_dks
        made = make(rest, depth)
        scales = {k: float(v) for k, v in made._asdict().items() if k != "residual"}
        return Function(activations.tailored(rest, **scales), 1.0)
    if name in ("gelu_tanh", "gelu_sigmoid"):
        apply = functools.partial(activations.gelu, approximate=rest)
        return Function(apply, float(theory.gain(apply)))
    return Function(activations.get(name), float(theory.gain(name)))


def options(word: str, norm: str = "layer") -> dict[str, Any]:
    """What a network of `jaxact.models` takes for a wiring; ``norm`` is of those that have one."""
    found = wiring.get(word)
    return {**found.options, "norm": norm if found.normed else "none"}


def load_arrays(name: Any, /, **options: Any) -> training.Dataset:
    """A data set that lies in memory, as `training.load` finds it.

    Raises:
      StudyError: if there is none, or it is one of files.
    """
    try:
        data = training.load(name, **options)
    except (ValueError, ModuleNotFoundError) as error:
        raise StudyError(f"dataset: {error}") from error
    if not isinstance(data, training.Dataset):
        raise StudyError(f"dataset: must lie in memory for this study; got the files of {name!r}")
    return data


class Spec(NamedTuple):
    """A network and how it is trained: all that shapes a compiled program.

    Attributes:
      wiring: of its blocks.
      depth: number of blocks.
      width: units, or channels.
      activations: names that `function` takes.
      kind: one of `NETWORKS`.
      norm: of wirings that have one.
      marks: when it is observed: ``"log"``, at logarithmically spaced steps, ``"ends"``, or the
        steps themselves.
      steps: Adam steps.
      batch_size: examples a step.
      examples: training examples that are measured on.
      starts: names of `jaxact.experiments._starts.start`; networks start as they are made if none.
      spread: what multiplies, in what is subtracted from the loss, the mean over blocks of the
        logarithm of the participation ratio of a batch's centred features.
    """

    wiring: str
    depth: int
    width: int
    activations: tuple[str, ...]
    kind: str = "mlp"
    norm: str = "layer"
    marks: str | tuple[int, ...] = "log"
    steps: int = 0
    batch_size: int = 64
    examples: int = 256
    starts: tuple[str, ...] = ()
    spread: float = 0.0


class Arm(NamedTuple):
    """What differs between networks trained by one compiled program.

    Attributes:
      rate: Adam's step size.
      warmup: steps over which it rises linearly.
      scale: what the gain of the blocks is multiplied by.
      start: number of one of the spec's starts.
    """

    rate: float = 1e-3
    warmup: float = 0.0
    scale: float = 1.0
    start: float = 0.0


class Trial(NamedTuple):
    """What one arm shows, over all seeds.

    Attributes:
      observed: by name arrays (seed, mark, ...).
      losses: of each step's batch before its update, (seed, step).
    """

    observed: dict[str, Any]
    losses: Array


class Trials:
    """One architecture, compiled once for all activations, seeds and arms.

    Args:
      spec: the architecture.
      data: what it is trained and measured on.
      observe: ``observe(view) -> dict``, what is looked at of a network; beside it stands
        ``test_accuracy``.
    """

    def __init__(
        self,
        spec: Spec,
        data: training.Dataset,
        observe: Callable[[analysis.View], dict[str, Any]] = lambda view: {},
        /,
    ):
        self.spec = spec
        self.observe = observe
        images = (data.train_x, data.test_x)
        flat = spec.kind == "mlp"
        self.x, self.test_x = (x.reshape(len(x), -1) if flat else x for x in images)
        self.y, self.test_y = data.train_y, data.test_y
        self.classes = data.num_classes
        functions = [function(name, spec.depth) for name in spec.activations]
        self.functions = [f.apply for f in functions]
        self.gains = np.array([f.gain for f in functions], np.float32)
        named = {"log": training.log_steps(spec.steps), "ends": tuple(sorted({0, spec.steps}))}
        self.at = named[spec.marks] if isinstance(spec.marks, str) else spec.marks
        # One convolution with a kernel for each arm is a grouped one: on CPU half as fast.
        in_turn = not flat and jax.default_backend() == "cpu"
        self.program = Sharded(self._one, shared=1, in_turn=in_turn)

    def _activation(self, index: Int[Array, ""]) -> Callable[[Array], Array]:
        if len(self.functions) == 1:
            return self.functions[0]
        return lambda x: lax.switch(index, self.functions, x)

    def network(self, index: Int[Array, ""], key: Array, scale: Array | float = 1.0) -> Any:
        """A freshly initialized network, the gain of its blocks multiplied by ``scale``."""
        return NETWORKS[self.spec.kind](
            self.x.shape[1:],
            self.classes,
            width=self.spec.width,
            depth=self.spec.depth,
            **options(self.spec.wiring, self.spec.norm),
            activation=self._activation(index),
            gain=jnp.asarray(self.gains)[index] * scale,
            rngs=nnx.Rngs(key),
        )

    def _one(
        self,
        index: Int[Array, ""],
        seed: Array,
        rate: Array,
        warmup: Array,
        scale: Array,
        number: Array,
    ) -> Trial:
        key = jax.random.key(seed)
        network = self.network(index, key, scale)
        if self.spec.starts:
            x = jnp.asarray(self.x[: self.spec.examples])
            number = number.astype(jnp.int32)
            network = start(self.spec.starts, network, number, x, jax.random.fold_in(key, 3))
        leaves, structure = jax.tree.flatten(network)

        def build(leaves: list[Array]) -> Any:
            return jax.tree.unflatten(structure, leaves)

        def loss(leaves, x, y):
            network = build(leaves)
            if not self.spec.spread:
                return training.cross_entropy(network(x), y)
            found = analysis.features(analysis.as_chain(network.segments(train=True)), x)
            h = analysis.feature_matrix(found["blocks"], centred=True)
            gained = jnp.mean(jnp.log(analysis.participation(h)))
            return training.cross_entropy(found["head"][-1], y) - self.spec.spread * gained

        def schedule(step):
            done = (step + 1).astype(jnp.float32)
            return rate * jnp.minimum(1.0, done / jnp.maximum(warmup, 1.0))

        if not self.spec.steps:
            observed = jax.tree.map(lambda leaf: leaf[None], self._observe(index, build(leaves)))
            return Trial(observed, jnp.zeros(0))
        fit = training.fit(
            loss,
            leaves,
            jnp.asarray(self.x),
            jnp.asarray(self.y),
            optimizer=optax.adam(schedule),
            steps=self.spec.steps,
            batch_size=self.spec.batch_size,
            key=jax.random.fold_in(key, 1),
            measure=lambda leaves: self._observe(index, build(leaves)),
            at=self.at,
        )
        return Trial(fit.measured, fit.losses)

    def _observe(self, index: Int[Array, ""], network: Any) -> dict[str, Any]:
        """What is looked at of a network; batch norms have the statistics of what it is shown."""
        slope = jax.grad(self._activation(index))
        x = jnp.asarray(self.x[: self.spec.examples])
        if self.spec.norm == "batch":
            network.set_attributes(momentum=0.0, raise_if_not_found=False)
            network(x)
            network.eval()
        view = analysis.view(
            analysis.as_chain(network),
            x,
            jnp.asarray(self.y[: self.spec.examples]),
            loss=training.cross_entropy,
            slope=lambda h: jax.vmap(slope)(h.reshape(-1)).reshape(h.shape),
        )
        logits = network(jnp.asarray(self.test_x))
        right = training.accuracy(logits, jnp.asarray(self.test_y))
        return {**self.observe(view), "test_accuracy": right}

    def _arguments(
        self, activation: str, seeds: Sequence[int], arms: Sequence[Arm]
    ) -> tuple[tuple[Array], tuple[np.ndarray, ...]]:
        index = jnp.asarray(self.spec.activations.index(activation), jnp.int32)
        own = np.repeat(np.array(arms, np.float32), len(seeds), axis=0)
        return (index,), (np.tile(np.array(seeds, np.uint32), len(arms)), *own.T)

    def compile(self, seeds: Sequence[int], arms: Sequence[Arm] = (Arm(),)) -> "Trials":
        """Compiles for as many seeds and arms; may be called from another thread."""
        self.program.compile(*self._arguments(self.spec.activations[0], seeds, arms))
        return self

    def run(
        self, activation: str, seeds: Sequence[int], arms: Sequence[Arm] = (Arm(),)
    ) -> list[Trial]:
        """Trains and observes, over all seeds and arms at once.

        Args:
          activation: one of the spec's.
          seeds: of weights and batches.
          arms: step sizes, warm-ups, scales of the initial branch, and starts.

        Returns:
          For each arm what it shows.
        """
        found = self.program(*self._arguments(activation, seeds, arms))
        starts = range(0, len(seeds) * len(arms), len(seeds))
        return [jax.tree.map(lambda a, i=i: a[i : i + len(seeds)], found) for i in starts]


class Sharded:
    """A function of one arm as one of any number of arms, over this process's devices.

    Args:
      one: a pure function whose first ``shared`` arguments all arms share.
      shared: how many arguments are shared.
      in_turn: whether each device runs its arms one after the other, not as one batch.
    """

    def __init__(self, one: Callable[..., Any], /, *, shared: int = 0, in_turn: bool = False):
        self._mesh = Mesh(np.array(jax.local_devices()), ("arm",))
        self._compiled: dict[int, Callable[..., Any]] = {}
        # On a CPU this halves the compilation, and what is compiled ran no slower (2026-11).
        on_cpu = jax.default_backend() == "cpu"
        self._options: Any = {"xla_backend_optimization_level": 1} if on_cpu else None

        def all_arms(*arguments):
            common, arms = arguments[:shared], arguments[shared:]
            if in_turn:
                return lax.map(lambda own: one(*common, *own), arms)
            return jax.vmap(lambda *own: one(*common, *own))(*arms)

        def call(*arguments):
            arm, whole = PartitionSpec("arm"), PartitionSpec()
            specs = (whole,) * shared + (arm,) * (len(arguments) - shared)
            # Arms have nothing to do with one another: no collectives, and nothing to check.
            return jax.shard_map(
                all_arms, mesh=self._mesh, in_specs=specs, out_specs=arm, check_vma=False
            )(*arguments)

        self._call = jax.jit(call)

    def _padded(self, arms: Sequence[np.ndarray]) -> list[np.ndarray]:
        full = math.ceil(len(arms[0]) / self._mesh.size) * self._mesh.size
        return [np.resize(values, full) for values in arms]

    def compile(self, shared: Sequence[Any], arms: Sequence[np.ndarray], /) -> None:
        """Compiles for as many arms."""
        padded = self._padded(arms)
        if len(padded[0]) not in self._compiled:
            lowered = self._call.lower(*shared, *padded)
            self._compiled[len(padded[0])] = lowered.compile(self._options)

    def __call__(self, shared: Sequence[Any], arms: Sequence[np.ndarray], /) -> Any:
        """What the function gives, with a leading axis over the arms."""
        self.compile(shared, arms)
        padded = self._padded(arms)
        found = self._compiled[len(padded[0])](*shared, *padded)
        return jax.tree.map(lambda leaf: leaf[: len(arms[0])], found)
