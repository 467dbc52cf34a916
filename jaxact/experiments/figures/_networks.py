# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Residual and plain networks on digits: rank by depth, object, branch scale and training step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx
from jax import lax
from jaxtyping import Array, Int, Key

from jaxact import activations, analysis, models, spectral, theory, training
from jaxact.experiments._depths import depth_grid
from jaxact.experiments._plots import (
    COLUMN_WIDTH,
    FLOOR,
    LABELS,
    PLACEMENTS,
    SERIES,
    Drawing,
    by_depth,
    legend,
    panels,
    plain_log,
    style,
)
from jaxact.experiments.figures._sizes import Sizes

CHOICES: dict[str, dict[str, Any]] = {
    "plain": dict(norm_placement="none", norm="none", skip="none"),
    "post": dict(norm_placement="post", norm="layer", skip="identity"),
    "pre": dict(norm_placement="pre", norm="layer", skip="identity"),
    "none": dict(norm_placement="none", norm="none", skip="identity"),
    "scaled": dict(norm_placement="none", norm="none", skip="scaled"),
}
ACTIVATIONS = ("relu", "tanh", "gelu")
METRICS = {
    "stable_rank": "stable rank",
    "participation_ratio": "participation ratio",
    "effective_rank": "effective rank",
    "numerical_rank": "numerical rank",
}


def build(placement: str, activation: Any, gain: Any, sizes: Sizes, depth: int, key: Array) -> Any:
    """An MLP on digits' 64 pixels."""
    return models.MLPResNet(
        64,
        10,
        width=sizes.width,
        depth=depth,
        activation=activation,
        gain=gain,
        rngs=nnx.Rngs(key),
        **CHOICES[placement],
    )


def trunk(network: Any) -> analysis.Chain:
    """The network without its head."""
    chain = analysis.as_chain(network)
    names = [segment.name for segment in chain.segments]
    return analysis.Chain(chain.segments[: names.index("blocks") + 1])


def digits(examples: int) -> Array:
    """Training images as vectors."""
    x = training.load("digits").train_x
    return jnp.asarray(x.reshape(len(x), -1)[:examples])


def pick(stack: Array, depths: tuple[int, ...]) -> Array:
    """The layers at the given depths, counted from 1."""
    return stack[np.array(depths) - 1]


def _names(depths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"block {d}" for d in depths)


def rank_rows(
    s: Array, shape: tuple[int, int], depths: tuple[int, ...], **options: Any
) -> pd.DataFrame:
    """The four ranks of spectra by depth, as rows with what is needed to read them."""
    found = analysis.measure_spectrum(s, shape=shape, layers=_names(depths), **options)
    frame = analysis.table({name: found[name] for name in METRICS})
    return frame.assign(depth=np.array(depths)[frame.layer - 1])


def measure_rank_by_depth(sizes: Sizes) -> pd.DataFrame:
    """Ranks of centred features by depth, for each placement and activation."""
    x = digits(sizes.examples)
    depths = depth_grid(sizes.depth)
    functions = [activations.get(name) for name in ACTIVATIONS]
    gains = jnp.array([float(theory.gain(name)) for name in ACTIVATIONS])

    @functools.partial(jax.jit, static_argnames="placement")
    def spectra(placement: str, index: Int[Array, ""], key: Key[Array, ""]) -> Array:
        def activation(h: Array) -> Array:
            return lax.switch(index, functions, h)

        network = build(placement, activation, gains[index], sizes, sizes.depth, key)
        h = pick(analysis.features(trunk(network), x)["blocks"], depths)
        return spectral.singular_values(analysis.feature_matrix(h, centred=True))

    frames = []
    for placement in CHOICES:
        for number, name in enumerate(ACTIVATIONS):
            s = spectra(placement, jnp.int32(number), jax.random.key(0))
            shape = (len(x), sizes.width)
            rows = rank_rows(s, shape, depths, object="features", centring="mean")
            frames.append(rows.assign(placement=placement, activation=name))
    return pd.concat(frames, ignore_index=True)


def draw_rank_by_depth(table: pd.DataFrame) -> Drawing:
    """A row for each metric, a column for each activation, a line for each placement."""
    names = list(dict.fromkeys(table.activation))
    limit = int(min(table["columns"].min(), table["rows"].min()))
    with style():
        figure, axes = panels(len(METRICS), len(names), 5.4, sharex=True, sharey=True)
        for i, (metric, label) in enumerate(METRICS.items()):
            for j, name in enumerate(names):
                ax = axes[i, j]
                rows = table[(table.quantity == metric) & (table.activation == name)]
                for placement, line in rows.groupby("placement", sort=False):
                    ax.plot(
                        line.depth, line.value, label=LABELS[placement], **PLACEMENTS[placement]
                    )
                ax.axhline(limit, **FLOOR)
                by_depth(ax)
                plain_log(ax.yaxis)
                if not i:
                    ax.set_title(name)
            axes[i, 0].set_ylabel(label)
        figure.supxlabel("block", fontsize=8)
        legend(figure, axes[0, 0])
    return Drawing(
        "rank_by_depth",
        figure,
        "Ranks of the features of digits, centred, by depth at initialization: four metrics, three "
        "activations, five wirings of a block. The dashed line is the width, which no rank "
        "exceeds; the numerical rank counts s_i above max(m, n) eps s_1 in float32.",
        table,
    )


OBJECTS = ("weight", "product", "features", "jacobian")


def measure_four_objects(sizes: Sizes) -> pd.DataFrame:
    """Effective ranks of the weights, their product, features and Jacobian of one network."""
    x = digits(sizes.examples)
    depths = depth_grid(sizes.depth, 10)
    start = jax.random.orthogonal(jax.random.key(1), 64)

    @functools.partial(jax.jit, static_argnames="placement")
    def observe(placement: str, key: Key[Array, ""]) -> tuple[Array, Array, Array, Array]:
        network = build(placement, "relu", None, sizes, sizes.depth, key)
        chain = trunk(network)
        (w,) = analysis.weight_matrices(chain)["blocks"].values()
        h = pick(analysis.features(chain, x)["blocks"], depths)
        jacobians = analysis.input_jacobians(chain, x[0], start=start)["blocks"]
        maps = w if placement == "plain" else w + jnp.eye(sizes.width)[None]
        return (
            spectral.singular_values(pick(w, depths)),
            spectral.product_spectrum(maps, prefixes=depths).log_singular_values,
            spectral.singular_values(analysis.feature_matrix(h, centred=True)),
            jax.vmap(spectral.graded_spectrum)(jax.tree.map(lambda a: pick(a, depths), jacobians)),
        )

    frames = []
    square = (sizes.width, sizes.width)
    for placement in ("plain", "pre"):
        weight, product, h, jacobian = observe(placement, jax.random.key(0))
        for s, name, shape, options in (
            (weight, "weight", square, {}),
            (product, "product", square, dict(log=True)),
            (h, "features", (len(x), sizes.width), dict(centring="mean")),
            (jacobian, "jacobian", (sizes.width, 64), dict(log=True)),
        ):
            rows = rank_rows(s, shape, depths, object=name, **options)
            frames.append(rows.assign(placement=placement, activation="relu"))
    return pd.concat(frames, ignore_index=True)


def draw_four_objects(table: pd.DataFrame) -> Drawing:
    """A panel for each network, a line for each object."""
    rows = table[table.quantity == "effective_rank"]
    limit = int(rows["columns"].min())
    text = {
        "weight": "weight $W_l$",
        "product": r"product $W_l \cdots W_1$",
        "features": "features, centred",
        "jacobian": "input-to-layer Jacobian",
    }
    with style():
        figure, axes = panels(1, 2, 2.5, sharex=True, sharey=True)
        for ax, (placement, panel) in zip(
            axes[0], rows.groupby("placement", sort=False), strict=True
        ):
            for series, name in zip(SERIES, OBJECTS, strict=False):
                line = panel[panel.object == name]
                ax.plot(line.depth, line.value, label=text[name], **series)
            ax.axhline(limit, **FLOOR)
            by_depth(ax)
            plain_log(ax.yaxis)
            ax.set_title(LABELS[placement])
            ax.set_xlabel("block")
        axes[0, 0].set_ylabel("effective rank")
        legend(figure, axes[0, 0], columns=2)
    return Drawing(
        "four_objects",
        figure,
        "Four objects of one rectified network at initialization, effective rank by depth: each "
        "weight by itself keeps its rank while their product, the features and the Jacobian lose "
        "it. Pre-norm: the product is that of I + W, activation and norm left out. Dashed: width.",
        table,
    )


def measure_phase_diagram(sizes: Sizes) -> pd.DataFrame:
    """Ranks of the Jacobian of x + a W relu(x) over the scale a and the depth."""
    n, depth = sizes.width, sizes.layers
    depths = depth_grid(depth, 13)
    scales = np.geomspace(1 / 64, 2, 15)
    w = jax.random.normal(jax.random.key(0), (depth, n, n)) * (2 / n) ** 0.5
    x = jax.random.normal(jax.random.key(1), (n,))
    start = jax.random.orthogonal(jax.random.key(2), n)

    @jax.jit
    def logs(a: Array) -> Array:
        def block(w: Array, h: Array) -> Array:
            return h + a * (jnp.maximum(h, 0) @ w)

        chain = analysis.as_chain([("blocks", block, w, depth)])
        products = analysis.input_jacobians(chain, x, start=start)["blocks"]
        return jax.vmap(spectral.graded_spectrum)(
            jax.tree.map(lambda leaf: pick(leaf, depths), products)
        )

    frames = [
        rank_rows(logs(jnp.float32(a)), (n, n), depths, object="jacobian", log=True).assign(scale=a)
        for a in scales
    ]
    return pd.concat(frames, ignore_index=True)


def draw_phase_diagram(table: pd.DataFrame) -> Drawing:
    """Effective rank over width, over scale and depth, with the line a = 1 / sqrt L."""
    rows = table[table.quantity == "effective_rank"]
    n = int(rows["columns"].iloc[0])
    grid = rows.pivot_table(index="scale", columns="depth", values="value") / n
    with style(**{"axes.grid": False}):
        figure, axes = panels(1, 1, 2.6, width=COLUMN_WIDTH)
        ax = axes[0, 0]
        mesh = ax.pcolormesh(
            grid.columns, grid.index, grid, vmin=0, vmax=1, shading="nearest", rasterized=True
        )
        lines = ax.contour(
            grid.columns, grid.index, grid, [0.1, 0.25, 0.5, 0.75], colors="w", linewidths=0.7
        )
        ax.clabel(lines, fontsize=6, fmt="%g")
        depths = grid.columns.to_numpy(float)
        inside = depths**-0.5 >= grid.index.to_numpy(float).min()
        ax.plot(
            depths[inside], depths[inside] ** -0.5, "--", color="#D55E00", label=r"$1/\sqrt{L}$"
        )
        by_depth(ax)
        ax.set_yscale("log", base=2)
        ax.set_xlabel("blocks $L$")
        ax.set_ylabel("branch scale $a$")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left")
        figure.colorbar(mesh, ax=ax, label="effective rank / width")
    return Drawing(
        "phase_diagram",
        figure,
        f"Effective rank of the Jacobian of L blocks x + a W relu(x) of width {n}, over its width: "
        "a skip alone does not keep the rank; a branch of scale 1/sqrt(L) stays on one contour.",
        table,
    )


def measure_trajectory(sizes: Sizes) -> pd.DataFrame:
    """Ranks of features and Jacobian and the loss while networks train on digits."""
    data = training.load("digits")
    x = jnp.asarray(data.train_x.reshape(len(data.train_x), -1))
    y = jnp.asarray(data.train_y)
    depth, pieces = max(sizes.depth // 4, 1), 6
    piece = max(sizes.steps // pieces, 1)
    optimizer = optax.adam(1e-3)
    frames = []
    for placement in ("plain", "pre", "scaled"):
        network = build(placement, "relu", None, sizes, depth, jax.random.key(0))
        leaves, structure = jax.tree.flatten(network)

        def loss(leaves: list[Array], x: Array, y: Array, structure: Any = structure) -> Array:
            return training.cross_entropy(jax.tree.unflatten(structure, leaves)(x), y)

        @jax.jit
        def advance(leaves: list[Array], key: Array, loss: Any = loss) -> list[Array]:
            return training.fit(
                loss, leaves, x, y, optimizer=optimizer, steps=piece, batch_size=64, key=key
            ).params

        @jax.jit
        def observe(leaves: list[Array], loss: Any = loss, structure: Any = structure) -> Any:
            chain = trunk(jax.tree.unflatten(structure, leaves))
            seen = x[: sizes.examples]
            h = analysis.features(chain, seen)["blocks"][-1:]
            products = analysis.input_jacobians(chain, x[0])["blocks"]
            last = jax.tree.map(lambda leaf: leaf[-1], products)
            return (
                spectral.singular_values(analysis.feature_matrix(h, centred=True)),
                spectral.graded_spectrum(last)[None],
                loss(leaves, seen, y[: sizes.examples]),
            )

        for number in range(pieces + 1):
            h, jacobian, value = observe(leaves)
            for rows in (
                rank_rows(
                    h, (sizes.examples, sizes.width), (depth,), object="features", centring="mean"
                ),
                rank_rows(jacobian, (sizes.width, 64), (depth,), object="jacobian", log=True),
                analysis.tidy(
                    value[None],
                    {"depth": [depth]},
                    object="network",
                    quantity="loss",
                    definition="mean cross-entropy in nats",
                    centring="none",
                    dtype="float32",
                ),
            ):
                frames.append(rows.assign(placement=placement, step=number * piece))
            if number < pieces:
                leaves = advance(leaves, jax.random.fold_in(jax.random.key(1), number))
    return pd.concat(frames, ignore_index=True)


def draw_trajectory(table: pd.DataFrame) -> Drawing:
    """Loss, rank of features and rank of the Jacobian over the steps."""
    shown = (
        ("network", "loss", "loss (nats)"),
        ("features", "effective_rank", "effective rank,\nlast features"),
        ("jacobian", "effective_rank", "effective rank,\nJacobian"),
    )
    with style():
        figure, axes = panels(1, 3, 2.2, sharex=True)
        for ax, (name, quantity, label) in zip(axes[0], shown, strict=True):
            rows = table[(table.object == name) & (table.quantity == quantity)]
            for placement, line in rows.groupby("placement", sort=False):
                ax.plot(line.step, line.value, label=LABELS[placement], **PLACEMENTS[placement])
            ax.set_ylabel(label)
            ax.set_xlabel("training step")
            ax.set_ylim(bottom=0)
        legend(figure, axes[0, 0])
    depth = int(table.depth.max())
    return Drawing(
        "trajectory",
        figure,
        f"Rectified networks of {depth} blocks trained on digits with Adam: the loss, and the "
        "effective ranks of the last block's centred features and of the input-to-last-block "
        "Jacobian at one image.",
        table,
    )
