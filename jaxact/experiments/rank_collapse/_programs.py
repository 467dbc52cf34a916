"""The compiled programs of the study: build, observe and train a network; take spectra.

A program is compiled once for each network, placement and depth. The activation is an index into a
`lax.switch`, so all activations share it, and seeds are a `vmap`. Spectra depend on shapes alone
and are compiled once for all placements.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Complex, Float, Int, Integer, Num

from jaxact import activations, analysis, models, spectral, theory, training
from jaxact.experiments._depths import depth_grid
from jaxact.experiments.rank_collapse._config import RankCollapse


class Observations(NamedTuple):
    """What networks show on data, before any spectrum is taken; the leading axis is the seed.

    Attributes:
      weights: by parameter, the weight matrices of all layers, (seed, layer, o, i).
      gradients: the loss's gradient in each, in the same shapes.
      weight_maps: every weight of the blocks as the linear map it is, (seed, weight, f, o, i); f
        counts the frequencies of a circular convolution, and is 1 for a dense layer.
      block_maps: every block with its activation and norm left out, skip included,
        (seed, block, f, o, i).
      features: the input of the first block and the output of each, (seed, block + 1, samples, c).
      cosine: mean cosine similarity between examples, (seed, block + 1).
      jacobian: input-to-block Jacobians at the depths of the grid, (seed, example, depth, ...).
      loss: mean cross-entropy on the examples, (seed,).
      accuracy: on the test set, (seed,).
    """

    weights: dict[str, Array]
    gradients: dict[str, Array]
    weight_maps: Array
    block_maps: Array
    features: Array
    cosine: Array
    jacobian: spectral.GradedProduct
    loss: Array
    accuracy: Array


# Optimizing what runs once or twice for each activation takes longer than it saves.
_RUNS_SELDOM: dict[str, Any] = {"xla_backend_optimization_level": 1}


class Program:
    """One network, placement and depth; all activations and seeds."""

    def __init__(
        self, config: RankCollapse, data: training.Dataset, network: str, placement: str, depth: int
    ):
        self.config = config
        self.network = network
        self.placement = placement
        self.depth = depth
        self.grid = depth_grid(depth, config.grid)
        self.functions = [activations.get(name) for name in config.activations]
        self.gains = np.array([theory.gain(name) for name in config.activations], np.float32)
        flat = network == "mlp"
        images = (data.train_x, data.test_x)
        self.train_x, self.test_x = (x.reshape(len(x), -1) if flat else x for x in images)
        self.train_y, self.test_y = data.train_y, data.test_y
        self.inputs = self.train_x.shape[-1]
        self.outputs = data.num_classes
        seeds = np.asarray(config.seeds, np.uint32)
        local = jax.local_devices()
        most = max(n for n in range(1, len(local) + 1) if len(seeds) % n == 0)
        mesh = Mesh(np.array(local[:most]), ("seed",))
        self.by_seed = NamedSharding(mesh, PartitionSpec("seed"))
        self.seeds = jax.device_put(seeds, self.by_seed)

    def compile(self) -> "Program":
        """Compiles what is run for every activation; may be called from another thread."""
        index = jnp.zeros((), jnp.int32)
        initialize = jax.jit(self._init, out_shardings=self.by_seed).lower(index, self.seeds)
        self.initialize = initialize.compile(_RUNS_SELDOM)
        leaves = [
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.by_seed)
            for leaf in jax.eval_shape(self._init, index, self.seeds)
        ]
        self.observe = jax.jit(self._observe).lower(index, leaves).compile(_RUNS_SELDOM)
        if self.config.steps:
            # Training ends where it began, so that what observes the start observes the end.
            train = jax.jit(self._train, out_shardings=self.by_seed)
            self.train = train.lower(index, leaves, self.seeds).compile()
        return self

    def _build(self, index: Int[Array, ""], key: Array) -> nnx.Module:
        norm_placement = self.placement if self.placement in ("post", "pre") else "none"
        norm = "none" if norm_placement == "none" else self.config.norm
        skip = {"plain": "none", "scaled": "scaled"}.get(self.placement, "identity")
        make, width = {
            "mlp": (models.MLPResNet, self.config.width),
            "conv": (models.ConvResNet, self.config.conv_width),
        }[self.network]
        return make(
            self.inputs,
            self.outputs,
            width=width,
            depth=self.depth,
            norm_placement=norm_placement,
            norm=norm,
            skip=skip,
            activation=lambda x: lax.switch(index, self.functions, x),
            gain=jnp.asarray(self.gains)[index],
            rngs=nnx.Rngs(key),
        )

    def _network(self, index: Int[Array, ""], leaves: list[Array]) -> Any:
        """A network whose leaves are given: its structure holds the index, which is traced."""
        shapes = jax.eval_shape(lambda: self._build(index, jax.random.key(0)))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    def _init(self, index: Int[Array, ""], seeds: Integer[Array, " seed"]) -> list[Array]:
        """The leaves of freshly initialized networks, (seed, ...)."""

        def one(seed):
            return jax.tree.leaves(self._build(index, jax.random.key(seed)))

        return jax.vmap(one)(seeds)

    def _train(
        self, index: Int[Array, ""], leaves: list[Array], seeds: Integer[Array, " seed"]
    ) -> training.Fit:
        """Trains every seed's network."""

        def loss(leaves, x, y):
            return training.cross_entropy(self._network(index, leaves)(x), y)

        def one(leaves, seed):
            return training.fit(
                loss,
                leaves,
                jnp.asarray(self.train_x),
                jnp.asarray(self.train_y),
                optimizer=optax.adam(self.config.learning_rate),
                steps=self.config.steps,
                batch_size=self.config.batch_size,
                key=jax.random.fold_in(jax.random.key(seed), 1),
            )

        def in_turn(leaves, seeds):
            return lax.map(lambda of_seed: one(*of_seed), (leaves, seeds))

        # One convolution with a kernel for each seed is a grouped one: on CPU half as fast.
        if self.network == "mlp" or jax.default_backend() != "cpu":
            return jax.vmap(one)(leaves, seeds)
        split = PartitionSpec("seed")
        return jax.shard_map(
            in_turn, mesh=self.by_seed.mesh, in_specs=split, out_specs=split, check_vma=False
        )(leaves, seeds)

    def _observe(self, index: Int[Array, ""], leaves: list[Array]) -> Observations:
        """Observes every seed's network."""
        return jax.vmap(lambda leaves: self._observe_one(self._network(index, leaves)))(leaves)

    def _observe_one(self, network: Any) -> Observations:
        x = jnp.asarray(self.train_x[: self.config.examples])
        y = jnp.asarray(self.train_y[: self.config.examples])
        chain = analysis.as_chain(network)
        names = [segment.name for segment in chain.segments]
        trunk = analysis.Chain(chain.segments[: names.index("blocks") + 1])
        outputs = analysis.features(trunk, x)
        stem = trunk.segments[-2].name
        hidden = jnp.concatenate([outputs[stem], outputs["blocks"]])
        loss, gradient = analysis.gradients(chain, lambda o: training.cross_entropy(o, y), x)
        start = jax.random.orthogonal(jax.random.key(0), x[0].size)
        jacobians = jax.vmap(lambda p: analysis.input_jacobians(trunk, p, start=start)["blocks"])(
            x[: self.config.jacobian_examples]
        )
        weight_maps, block_maps = self._maps(trunk.segments[-1].params, x.shape[1:3])
        return Observations(
            weights=_by_parameter(chain),
            gradients=_by_parameter(gradient),
            weight_maps=weight_maps,
            block_maps=block_maps,
            features=analysis.feature_matrix(hidden),
            cosine=analysis.cosine_similarity(hidden),
            jacobian=jax.tree.map(lambda leaf: leaf[:, np.array(self.grid) - 1], jacobians),
            loss=loss,
            accuracy=training.accuracy(network(jnp.asarray(self.test_x)), jnp.asarray(self.test_y)),
        )

    def _maps(self, blocks: Any, space: tuple[int, ...]) -> tuple[Array, Array]:
        """The blocks' weights, and the blocks, as linear maps (layer, f, o, i)."""
        kernels = [leaf for leaf in jax.tree.leaves(blocks) if leaf.ndim in (3, 5)]
        if self.network == "mlp":
            maps = [jnp.swapaxes(kernel, -1, -2)[:, None] for kernel in kernels]
        else:
            maps = [_frequencies(kernel, space) for kernel in kernels]
        branch = functools.reduce(lambda first, then: _matmul(then, first), maps)
        weight_maps = jnp.stack(maps, axis=1).reshape(-1, *branch.shape[1:])
        if self.placement == "plain":
            return weight_maps, branch
        scale = self.depth**-0.5 if self.placement == "scaled" else 1.0
        identity = jnp.eye(branch.shape[-1], dtype=branch.dtype)
        return weight_maps, scale * branch + jnp.broadcast_to(identity, branch.shape)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _frequencies(
    kernel: Float[Array, "layer kh kw i o"], space: tuple[int, ...]
) -> Complex[Array, "layer f o i"]:
    """Circular convolutions as one matrix for each frequency of the feature map."""
    height, width = kernel.shape[1:3]
    margin = [(0, 0), (0, space[0] - height), (0, space[1] - width), (0, 0), (0, 0)]
    padded = jnp.pad(kernel, margin)
    centred = jnp.roll(padded, (-(height // 2), -(width // 2)), axis=(1, 2))
    transfer = jnp.fft.fft2(centred, axes=(1, 2))
    return jnp.swapaxes(transfer.reshape(len(kernel), -1, *kernel.shape[3:]), -1, -2)


def _by_parameter(chain: analysis.Chain) -> dict[str, Array]:
    return {
        f"{segment}.{name}": stack
        for segment, stacks in analysis.weight_matrices(chain).items()
        for name, stack in stacks.items()
    }


@jax.jit
def matrix_ranks(stack: Float[Array, "seed layer m n"]) -> analysis.Ranks:
    """Ranks of stacked matrices."""
    return analysis.matrix_ranks(stack)


@functools.partial(jax.jit, static_argnames="prefixes")
def product_logs(
    maps: Num[Array, "seed layer f n n"], prefixes: tuple[int, ...]
) -> Float[Array, "seed prefix fn"]:
    """Log singular values of the products of the first layers, over all frequencies together."""

    def one(stack):
        return spectral.product_spectrum(stack, prefixes=prefixes).log_singular_values

    logs = jax.vmap(jax.vmap(one, in_axes=1, out_axes=1))(maps)
    return -jnp.sort(-logs.reshape(*logs.shape[:2], -1), axis=-1)


@jax.jit
def jacobian_logs(product: spectral.GradedProduct) -> Float[Array, "seed example depth k"]:
    """Log singular values of factored Jacobians."""
    return jax.vmap(jax.vmap(jax.vmap(spectral.graded_spectrum)))(product)


@jax.jit
def log_ranks(logs: Float[Array, "*batch k"]) -> analysis.Ranks:
    """Ranks of square products, from the logarithms of their singular values."""
    k = logs.shape[-1]
    return analysis.ranks(logs, shape=(k, k), log=True)
