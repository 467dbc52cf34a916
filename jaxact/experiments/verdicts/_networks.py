"""The networks that the studies measure, and their training, batched over seeds and step sizes."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxact import activations, analysis, models, theory, training
from jaxact.experiments.verdicts._protocol import Batch, Cell

WIRINGS = {
    "plain": "no skip, no norm: a(W x)",
    "plain_norm": "no skip, layer norm before the activation: a(N(W x))",
    "identity": "residual without norm: x + W a(x)",
    "scaled": "residual without norm, branch over sqrt(L): x + W a(x) / sqrt(L)",
    "pre": "pre-norm residual: x + W a(N(x))",
    "post": "post-norm residual: a(x + N(W x))",
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": dict(skip="none", norm_placement="none", norm="none"),
    "plain_norm": dict(skip="none", norm_placement="post", norm="layer"),
    "identity": dict(skip="identity", norm_placement="none", norm="none"),
    "scaled": dict(skip="scaled", norm_placement="none", norm="none"),
    "pre": dict(skip="identity", norm_placement="pre", norm="layer"),
    "post": dict(skip="identity", norm_placement="post", norm="layer"),
}


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


@functools.cache
def digits() -> training.Dataset:
    """scikit-learn's digits."""
    return training.load("digits")


class Spec(NamedTuple):
    """A network and how it is trained: all that shapes a compiled program.

    Attributes:
      wiring: one of `WIRINGS`.
      depth: number of blocks, of one square weight each.
      width: units.
      activations: names that `function` takes.
      measures: names of `MEASURES`.
      marks: when they are taken: ``"log"``, at logarithmically spaced steps, or ``"ends"``.
      steps: Adam steps.
      batch_size: examples a step.
      examples: training examples that are measured on.
    """

    wiring: str
    depth: int
    width: int
    activations: tuple[str, ...]
    measures: tuple[str, ...] = ("loss", "weight_rank", "feature_rank")
    marks: str = "log"
    steps: int = 0
    batch_size: int = 64
    examples: int = 256


class Arm(NamedTuple):
    """What differs between networks trained by one compiled program.

    Attributes:
      rate: Adam's step size.
      warmup: steps over which it rises linearly.
      scale: what the gain of the blocks is multiplied by.
    """

    rate: float = 1e-3
    warmup: float = 0.0
    scale: float = 1.0


Found = dict[str, np.ndarray]


class View(NamedTuple):
    """A network with data, as the measures see it.

    Attributes:
      chain: the network, segments stem, blocks, head.
      x: training inputs.
      y: their labels.
      hidden: the input of the first block and the output of each, (block + 1, n, width).
      logits: of ``x``.
      slope: the derivative of the activation, elementwise.
    """

    chain: analysis.Chain
    x: Array
    y: Array
    hidden: Float[Array, "b n w"]
    logits: Float[Array, "n c"]
    slope: Callable[[Array], Array]


def blocks(chain: analysis.Chain) -> analysis.Segment:
    """The blocks of a network."""
    return next(segment for segment in chain.segments if segment.name == "blocks")


def weights(chain: analysis.Chain) -> Float[Array, "layer o i"]:
    """The weight matrices of the blocks."""
    stacks = analysis.weight_matrices(analysis.Chain((blocks(chain),)))["blocks"]
    return jnp.concatenate(list(stacks.values()))


def participation_by_block(segment: analysis.Segment, h: Float[Array, " w"]) -> Array:
    """Participation ratio over width of the Jacobian of the first l blocks at h, by l.

    The ratio belongs to the largest singular values, so that the product itself serves, scaled to
    length one after each block.
    """

    def step(carry, layer):
        h, product = carry
        block = analysis.Chain((segment._replace(params=layer, depth=None),))
        h, tangent = jax.linearize(lambda h: analysis.run(block, h[None])[0], h)
        product = jax.vmap(tangent)(product)
        product = product / jnp.linalg.norm(product)
        gram = jnp.matmul(product, product.T, precision="highest")
        return (h, product), 1 / (len(gram) * jnp.sum(jnp.square(gram)))

    start = jnp.eye(len(h), dtype=h.dtype)
    return lax.scan(step, (h, start), segment.params)[1]


def jacobian_participation(view: View) -> Float[Array, " block"]:
    """Participation ratio over width of the Jacobian from the first block's input, by block."""
    body = blocks(view.chain)
    # Four examples: the ratio is a property of the network more than of the example.
    return jnp.mean(jax.vmap(lambda h: participation_by_block(body, h))(view.hidden[0, :4]), axis=0)


def flips(view: View) -> Float[Array, " block"]:
    """Share of units whose sign differs between two examples, by block: mean over pairs."""
    on = jnp.mean((view.hidden[1:] > 0).astype(jnp.float32), axis=1)
    n = view.hidden.shape[1]
    return jnp.mean(2 * on * (1 - on), axis=-1) * (n / (n - 1))


def constant_units(view: View) -> Float[Array, " block"]:
    """Share of units that answer every example alike (to 1e-6 of the layer's scale), by block."""
    h = view.hidden[1:]
    spread = jnp.max(h, axis=1) - jnp.min(h, axis=1)
    scale = jnp.sqrt(jnp.mean(jnp.square(h), axis=(1, 2)))
    return jnp.mean((spread <= 1e-6 * scale[:, None]).astype(jnp.float32), axis=-1)


def mean_shift(view: View) -> Float[Array, " block"]:
    """Share of the second moment that is the square of the units' means (Brock et al. 2021)."""
    h = view.hidden[1:]
    square = jnp.sum(jnp.square(jnp.mean(h, axis=1)), axis=-1)
    return square / jnp.sum(jnp.mean(jnp.square(h), axis=1), axis=-1)


def gradient_norm(view: View) -> Float[Array, " layer"]:
    """Frobenius norm of the loss's gradient in each weight matrix of the blocks."""
    _, gradient = analysis.gradients(view.chain, _loss(view), view.x)
    return jnp.linalg.norm(weights(gradient), axis=(-2, -1))


def contribution(view: View) -> Float[Array, " block"]:
    """Size of what each block adds, over the size of its input."""
    return analysis.contributions(view.chain, view.x)["blocks"]


def _loss(view: View) -> Callable[[Array], Array]:
    return lambda logits: training.cross_entropy(logits, view.y)


def lesion_loss(view: View) -> Float[Array, " block"]:
    """Loss without one block, for each block (Veit et al. 2016)."""
    return analysis.lesion_study(view.chain, _loss(view), view.x, name="blocks").single


def lesions_loss(view: View) -> Float[Array, " size"]:
    """Loss without 1, 2, ... of the blocks, up to half of them, a mean over four random choices."""
    half = max(1, (view.hidden.shape[0] - 1) // 2)
    return analysis.lesion_study(
        view.chain,
        _loss(view),
        view.x,
        name="blocks",
        removed=range(1, half + 1),
        samples=4,
        key=jax.random.key(0),
    ).mean


def effective_depth(view: View) -> Float[Array, ""]:
    """Mean share of the blocks that the gradient at the input has passed through."""
    # A path's length is that of one example's gradient: a few examples tell it.
    few = view._replace(x=view.x[:16], y=view.y[:16])
    paths = analysis.path_gradients(few.chain, _loss(few), few.x)
    return analysis.effective_depth(paths.log_norm) / (view.hidden.shape[0] - 1)


def participation(a: Float[Array, "layer m n"]) -> Float[Array, " layer"]:
    """Participation ratio over the smaller side, from the Gram matrix: no spectrum is needed.

    With s the singular values it is (sum s^2)^2 / sum s^4, two traces, so that following it through
    training costs little; a decomposition at every mark would cost more than the training.
    """
    a = a if a.shape[-2] >= a.shape[-1] else jnp.swapaxes(a, -1, -2)
    gram = jnp.matmul(jnp.swapaxes(a, -1, -2), a, precision="highest")
    trace = jnp.trace(gram, axis1=-2, axis2=-1)
    # Divided first: squares of large features would overflow.
    gram = gram / jnp.where(trace > 0, trace, 1)[:, None, None]
    square = jnp.sum(jnp.square(gram), axis=(-2, -1))
    return jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1), 0) / gram.shape[-1]


def output_mean(view: View) -> Float[Array, " block"]:
    """Mean over units and examples, over the root mean square, by block."""
    h = view.hidden[1:]
    return jnp.mean(h, axis=(1, 2)) / jnp.sqrt(jnp.mean(jnp.square(h), axis=(1, 2)))


def flat_share(view: View) -> Float[Array, " block"]:
    """Share of inputs of the activation at which its slope is at most 0.01 in size.

    For a plain network at initialization, where biases are zero.
    """
    z = jnp.einsum("lni,loi->lno", view.hidden[:-1], weights(view.chain))
    return jnp.mean((jnp.abs(view.slope(z)) <= 0.01).astype(jnp.float32), axis=(1, 2))


MEASURES: dict[str, Callable[[View], Array]] = {
    "loss": lambda view: training.cross_entropy(view.logits, view.y),
    "accuracy": lambda view: training.accuracy(view.logits, view.y),
    "feature_rank": lambda view: participation(view.hidden[1:]),
    "input_cosine": lambda view: analysis.cosine_similarity(view.hidden[:1])[0],
    "cosine": lambda view: analysis.cosine_similarity(view.hidden[1:]),
    "weight_rank": lambda view: participation(weights(view.chain)),
    "jacobian_participation": jacobian_participation,
    "flips": flips,
    "constant_units": constant_units,
    "mean_shift": mean_shift,
    "output_mean": output_mean,
    "flat_share": flat_share,
    "gradient_norm": gradient_norm,
    "contribution": contribution,
    "lesion_loss": lesion_loss,
    "lesions_loss": lesions_loss,
    "effective_depth": effective_depth,
}
"""What may be measured: scalars, or a value for each block. Ranks are participation ratios over the
smaller side of the matrix."""


class Trials:
    """One architecture, compiled once for all activations, seeds and step sizes.

    The activation is an index into a `lax.switch`; seeds and step sizes are a `vmap`, split over
    the devices where there are several.
    """

    def __init__(self, spec: Spec, /, *, data: training.Dataset | None = None):
        data = digits() if data is None else data
        self.spec = spec
        self.x, self.test_x = (x.reshape(len(x), -1) for x in (data.train_x, data.test_x))
        self.y, self.test_y = data.train_y, data.test_y
        self.classes = data.num_classes
        functions = [function(name, spec.depth) for name in spec.activations]
        self.functions = [f.apply for f in functions]
        self.gains = np.array([f.gain for f in functions], np.float32)
        marks = training.log_steps(spec.steps)
        self.at = marks if spec.marks == "log" else (marks[0], marks[-1])
        self.mesh = Mesh(np.array(jax.devices()), ("arm",))
        self.program = jax.jit(sharded(self._one, self.mesh, replicated=1))

    def _activation(self, index: Int[Array, ""]) -> Callable[[Array], Array]:
        if len(self.functions) == 1:
            return self.functions[0]
        return lambda x: lax.switch(index, self.functions, x)

    def network(self, index: Int[Array, ""], key: Array, scale: Array | float = 1.0) -> Any:
        """A freshly initialized network, the gain of its blocks multiplied by ``scale``."""
        return models.MLPResNet(
            self.x.shape[-1],
            self.classes,
            width=self.spec.width,
            depth=self.spec.depth,
            **_OPTIONS[self.spec.wiring],
            activation=self._activation(index),
            gain=jnp.asarray(self.gains)[index] * scale,
            rngs=nnx.Rngs(key),
        )

    def _one(
        self, index: Int[Array, ""], seed: Array, rate: Array, warmup: Array, scale: Array
    ) -> tuple[dict[str, Array], Array]:
        key = jax.random.key(seed)
        network = self.network(index, key, scale)
        test_x, test_y = jnp.asarray(self.test_x), jnp.asarray(self.test_y)
        if not self.spec.steps:
            measured = jax.tree.map(lambda leaf: leaf[None], self.measure(index, network))
            return measured, training.accuracy(network(test_x), test_y)
        leaves, structure = jax.tree.flatten(network)

        def build(leaves: list[Array]) -> Any:
            return jax.tree.unflatten(structure, leaves)

        def loss(leaves, x, y):
            return training.cross_entropy(build(leaves)(x), y)

        def schedule(step):
            done = (step + 1).astype(jnp.float32)
            return rate * jnp.minimum(1.0, done / jnp.maximum(warmup, 1.0))

        followed = training.follow(
            loss,
            leaves,
            jnp.asarray(self.x),
            jnp.asarray(self.y),
            optimizer=optax.adam(schedule),
            steps=self.spec.steps,
            batch_size=self.spec.batch_size,
            key=jax.random.fold_in(key, 1),
            measure=lambda leaves: self.measure(index, build(leaves)),
            at=self.at,
        )
        return followed.measured, training.accuracy(build(followed.params)(test_x), test_y)

    def measure(self, index: Int[Array, ""], network: Any) -> dict[str, Array]:
        """The spec's measures of a network."""
        x = jnp.asarray(self.x[: self.spec.examples])
        chain = analysis.as_chain(network)
        stem, body, head = chain.segments
        outputs = analysis.features(analysis.Chain((stem, body)), x)
        hidden = jnp.concatenate([outputs["stem"], outputs["blocks"]])
        slope = jax.grad(self._activation(index))
        view = View(
            chain,
            x,
            jnp.asarray(self.y[: self.spec.examples]),
            hidden,
            head.apply(head.params, hidden[-1]),
            lambda h: jax.vmap(slope)(h.reshape(-1)).reshape(h.shape),
        )
        return {name: MEASURES[name](view) for name in self.spec.measures}

    def run(self, activation: str, seeds: Sequence[int], arms: Sequence[Arm]) -> list[Found]:
        """Trains and measures, over all seeds and arms at once.

        Args:
          activation: one of the spec's.
          seeds: of weights and batches.
          arms: step sizes, warm-ups and scales of the initial branch.

        Returns:
          For each arm by measure an array (seed, mark, ...) over the spec's marks, and
          ``test_accuracy`` at the end, (seed,).
        """
        index = jnp.asarray(self.spec.activations.index(activation), jnp.int32)
        n = len(seeds)
        own = np.repeat(np.array(arms, np.float32), n, axis=0)
        seed = np.tile(np.array(seeds, np.uint32), len(arms))
        measured, test = run_sharded(self.program, self.mesh, (index,), (seed, *own.T))
        found = {**measured, "test_accuracy": test}
        return [
            {name: np.asarray(values[i : i + n]) for name, values in found.items()}
            for i in range(0, len(seed), n)
        ]


def sharded(one: Callable[..., Any], mesh: Mesh, *, replicated: int) -> Callable[..., Any]:
    """A function of one arm as one of all arms, each device taking its share of them.

    Args:
      one: a function whose first ``replicated`` arguments all arms share.
      mesh: of one axis.
      replicated: how many arguments are shared.

    Returns:
      ``f(*shared, *arms)``; the arms' arguments and the results have a leading axis, whose length
      the number of devices divides.
    """
    (axis,) = mesh.axis_names
    arm, whole = PartitionSpec(axis), PartitionSpec()

    def all_arms(*arguments):
        shared, arms = arguments[:replicated], arguments[replicated:]
        return jax.vmap(lambda *own: one(*shared, *own))(*arms)

    def call(*arguments):
        specs = (whole,) * replicated + (arm,) * (len(arguments) - replicated)
        # Arms have nothing to do with one another: no collectives, and nothing to check.
        return jax.shard_map(all_arms, mesh=mesh, in_specs=specs, out_specs=arm, check_vma=False)(
            *arguments
        )

    return call


def run_sharded(
    program: Callable[..., Any], mesh: Mesh, shared: tuple[Any, ...], arms: tuple[np.ndarray, ...]
) -> Any:
    """Calls a `sharded` program on any number of arms; arms that fill the devices are dropped."""
    count = len(arms[0])
    full = math.ceil(count / mesh.size) * mesh.size
    padded = tuple(np.resize(values, full) for values in arms)
    return jax.tree.map(lambda leaf: leaf[:count], jax.device_get(program(*shared, *padded)))


def train_cells(batch: Batch) -> list[pd.DataFrame]:
    """Measures cells that are networks: the ``measure`` of every study that trains.

    Factors of a cell, or settings of the budget, are the fields of `Spec` (``activation`` for one
    of its activations), ``rate`` and ``warmup``, and ``exponent``: the initial branch is multiplied
    by depth ** -exponent. The cells agree in all but the activation and these three.

    Args:
      batch: the cells.

    Returns:
      A frame for each cell, with the columns seed, step, layer (0 for a value of the whole
      network), quantity and value.
    """
    first = {**batch.settings, **batch.cells[0]}
    names = tuple(dict.fromkeys(_value(batch, cell, "activation") for cell in batch.cells))
    fields = {name: first[name] for name in Spec._fields if name in first}
    fields.update(activations=names)
    if "measures" in first:
        fields["measures"] = tuple(first["measures"])
    trials = Trials(Spec(**fields))
    frames: dict[int, pd.DataFrame] = {}
    for name in names:
        numbers = [
            i for i, cell in enumerate(batch.cells) if _value(batch, cell, "activation") == name
        ]
        arms = [_arm({**batch.settings, **batch.cells[i]}) for i in numbers]
        for i, found in zip(numbers, trials.run(name, batch.seeds, arms), strict=True):
            frames[i] = rows(found, batch.seeds, trials.at)
    return [frames[i] for i in range(len(batch.cells))]


def _value(batch: Batch, cell: Cell, name: str) -> Any:
    return cell[name] if name in cell else batch.settings[name]


def _arm(fields: Mapping[str, Any]) -> Arm:
    return Arm(
        fields.get("rate", 1e-3),
        fields.get("warmup", 0.0),
        fields["depth"] ** -fields.get("exponent", 0.0),
    )


def rows(found: Found, seeds: Sequence[int], at: Sequence[int]) -> pd.DataFrame:
    """Measured arrays (seed[, mark[, layer]]) as one tidy frame; layer 0 is the whole network."""
    frames = []
    for name, values in found.items():
        axes: dict[str, Sequence[int]] = {"seed": list(seeds)}
        if values.ndim > 1:
            axes["step"] = list(at)
        if values.ndim > 2:
            axes["layer"] = range(1, values.shape[2] + 1)
        constants = {"step": at[-1], "layer": 0, "quantity": name}
        constants = {k: v for k, v in constants.items() if k not in axes}
        frames.append(analysis.tidy(values, axes, **constants))
    return pd.concat(frames, ignore_index=True)
