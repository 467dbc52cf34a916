"""Residual and plain networks on images: rank by depth, object, branch scale and training step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from jaxact import analysis, spectral, wiring
from jaxact.experiments._blocks import linear_maps, walk
from jaxact.experiments._depths import depth_grid
from jaxact.experiments._networks import Spec, Trial, Trials, load_arrays
from jaxact.experiments._plots import (
    COLUMN_WIDTH,
    FIRST,
    FLOOR,
    SERIES,
    Drawing,
    by_depth,
    legend,
    look,
    panels,
    plain_log,
    style,
    values_of,
    where,
)
from jaxact.experiments.figures._sizes import Sizes

ACTIVATIONS = ("relu", "tanh", "gelu")


def images(sizes: Sizes) -> Array:
    """Training images as vectors."""
    x = load_arrays(sizes.dataset).train_x
    return jnp.asarray(x.reshape(len(x), -1)[: sizes.examples])


def pick(stack: Array, depths: tuple[int, ...]) -> Array:
    """The layers at the given depths, counted from 1."""
    return stack[np.array(depths) - 1]


def rank_rows(
    s: Array, shape: tuple[int, int], depths: tuple[int, ...], **options: Any
) -> pd.DataFrame:
    """The four ranks of spectra by depth, as rows with what is needed to read them."""
    names = tuple(f"block {d}" for d in depths)
    found = analysis.measure_spectrum(s, shape=shape, layers=names, **options)
    frame = analysis.table({name: found[name] for name in analysis.RANKS})
    return frame.assign(depth=np.array(depths)[frame.layer - 1])


def _features(view: analysis.View, depths: tuple[int, ...]) -> Array:
    h = analysis.feature_matrix(pick(view.hidden[1:], depths), centred=True)
    return spectral.singular_values(h)


def _jacobians(view: analysis.View, depths: tuple[int, ...]) -> Array:
    start = jax.random.orthogonal(jax.random.key(1), view.x[0].size)
    trunk = analysis.until(view.chain, view.blocks)
    found = analysis.input_jacobians(trunk, view.x[0], start=start)[view.blocks]
    return jax.vmap(spectral.graded_spectrum)(jax.tree.map(lambda a: pick(a, depths), found))


def measure_rank_by_depth(sizes: Sizes) -> pd.DataFrame:
    """Ranks of centred features by depth, for each wiring and activation."""
    data = load_arrays(sizes.dataset)
    depths = depth_grid(sizes.depth)
    frames = []
    for word in FIRST:
        spec = Spec(word, sizes.depth, sizes.width, ACTIVATIONS, examples=sizes.examples)
        trials = Trials(spec, data, lambda view: {"s": _features(view, depths)})
        for name in ACTIVATIONS:
            (trial,) = trials.run(name, [0])
            s = trial.observed["s"][0, 0]
            shape = (sizes.examples, sizes.width)
            rows = rank_rows(s, shape, depths, object="features", centring="mean")
            frames.append(rows.assign(wiring=word, activation=name))
    return pd.concat(frames, ignore_index=True)


def draw_rank_by_depth(table: pd.DataFrame) -> Drawing:
    """A row for each metric, a column for each activation, a line for each wiring."""
    names = values_of(table, "activation")
    limit = int(table[["columns", "rows"]].to_numpy().min())
    with style():
        figure, axes = panels(len(analysis.RANKS), len(names), 5.4, sharex=True, sharey=True)
        for i, metric in enumerate(analysis.RANKS):
            for j, name in enumerate(names):
                ax = axes[i, j]
                for word in values_of(table, "wiring"):
                    line = where(table, quantity=metric, activation=name, wiring=word)
                    ax.plot(line.depth, line.value, **look(word))
                ax.axhline(limit, **FLOOR)
                by_depth(ax)
                plain_log(ax.yaxis)
                if not i:
                    ax.set_title(name)
            axes[i, 0].set_ylabel(metric.replace("_", " "))
        figure.supxlabel("block", fontsize=8)
        legend(figure, axes[0, 0])
    return Drawing(
        "rank_by_depth",
        figure,
        "Ranks of the features of images, centred, by depth at initialization: four metrics, three "
        "activations, six wirings of a block. The dashed line is the width, which no rank "
        "exceeds; the numerical rank counts s_i above max(m, n) eps s_1 in float32.",
        table,
    )


OBJECTS = {
    "weight": "weight $W_l$",
    "product": r"product $W_l \cdots W_1$",
    "features": "features, centred",
    "jacobian": "input-to-layer Jacobian",
}


def _shown(sizes: Sizes, trial: Trial, inputs: int) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """By object the spectra observed, the shape of its matrices, and how they were taken."""
    n = sizes.width
    kinds: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
        "weight": ((n, n), {}),
        "product": ((n, n), dict(log=True)),
        "features": ((sizes.examples, n), dict(centring="mean")),
        "jacobian": ((n, inputs), dict(log=True)),
    }
    seen = trial.observed
    return {name: (seen[name][0], *of) for name, of in kinds.items() if name in seen}


def measure_four_objects(sizes: Sizes) -> pd.DataFrame:
    """Effective ranks of the weights, their product, features and Jacobian of one network."""
    data = load_arrays(sizes.dataset)
    depths = depth_grid(sizes.depth, 10)
    frames = []
    for word in ("plain", "pre"):
        spec = Spec(word, sizes.depth, sizes.width, ("relu",), examples=sizes.examples)

        def observe(view: analysis.View, spec: Spec = spec) -> dict[str, Array]:
            _, blocks = linear_maps(spec, view.body.params, ())
            product = spectral.product_spectrum(blocks[:, 0], prefixes=depths, errors=False)
            return {
                "weight": spectral.singular_values(pick(analysis.weights(view), depths)),
                "product": product.log_singular_values,
                "features": _features(view, depths),
                "jacobian": _jacobians(view, depths),
            }

        trials = Trials(spec, data, observe)
        (trial,) = trials.run("relu", [0])
        shown = _shown(sizes, trial, trials.x.shape[1])
        for name, (s, shape, options) in shown.items():
            rows = rank_rows(s[0], shape, depths, object=name, **options)
            frames.append(rows.assign(wiring=word, activation="relu"))
    return pd.concat(frames, ignore_index=True)


def draw_four_objects(table: pd.DataFrame) -> Drawing:
    """A panel for each network, a line for each object."""
    rows = where(table, quantity="effective_rank")
    limit = int(rows["columns"].to_numpy().min())
    with style():
        figure, axes = panels(1, 2, 2.5, sharex=True, sharey=True)
        for ax, word in zip(axes[0], values_of(rows, "wiring"), strict=True):
            for series, (name, text) in zip(SERIES, OBJECTS.items(), strict=False):
                line = where(rows, wiring=word, object=name)
                ax.plot(line.depth, line.value, label=text, **series)
            ax.axhline(limit, **FLOOR)
            by_depth(ax)
            plain_log(ax.yaxis)
            ax.set_title(wiring.get(word).label)
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
            return walk("norm_free", depth, lambda h: a * (h @ w), h, activation=jax.nn.relu)

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
    rows = where(table, quantity="effective_rank")
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
    """Ranks of features and Jacobian and the loss while networks train on images."""
    data = load_arrays(sizes.dataset)
    depth = max(sizes.depth // 4, 1)
    marks = tuple(np.unique(np.linspace(0, sizes.steps, 7).round().astype(int)).tolist())
    frames = []
    for word in ("plain", "pre", "scaled"):
        spec = Spec(
            *(word, depth, sizes.width, ("relu",)),
            marks=marks,
            steps=sizes.steps,
            examples=sizes.examples,
        )

        def observe(view: analysis.View) -> dict[str, Array]:
            found = {"features": _features(view, (depth,)), "jacobian": _jacobians(view, (depth,))}
            return {**found, **analysis.measure_view(view, ("loss",))}

        trials = Trials(spec, data, observe)
        (trial,) = trials.run("relu", [0])
        shown = _shown(sizes, trial, trials.x.shape[1])
        loss = analysis.tidy(
            trial.observed["loss"][0],
            {"step": marks},
            object="network",
            quantity="loss",
            definition=analysis.MEASURES["loss"].definition,
            centring="none",
            dtype="float32",
            depth=depth,
        )
        frames.append(loss.assign(wiring=word))
        for name, (spectra, shape, options) in shown.items():
            for s, step in zip(spectra, marks, strict=True):
                rows = rank_rows(s, shape, (depth,), object=name, **options)
                frames.append(rows.assign(wiring=word, step=step))
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
            rows = where(table, object=name, quantity=quantity)
            for word in values_of(rows, "wiring"):
                line = where(rows, wiring=word)
                ax.plot(line.step, line.value, **look(word))
            ax.set_ylabel(label)
            ax.set_xlabel("training step")
            ax.set_ylim(bottom=0)
        legend(figure, axes[0, 0])
    depth = int(table.depth.max())
    return Drawing(
        "trajectory",
        figure,
        f"Rectified networks of {depth} blocks trained on images with Adam: the loss, and the "
        "effective ranks of the last block's centred features and of the input-to-last-block "
        "Jacobian at one image.",
        table,
    )
