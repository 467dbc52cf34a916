"""Measurements beside predictions: correlations, Jacobians, and flips beside rank."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jaxtyping import Array
from matplotlib.axes import Axes

from jaxact import activations, analysis, spectral, theory, wiring
from jaxact.experiments._blocks import rms_norm, walk
from jaxact.experiments._depths import depth_grid
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
    style,
    where,
)
from jaxact.experiments.figures._sizes import Sizes

ACTIVATIONS = ("relu", "tanh", "gelu", "erf")
WIRINGS = tuple(word for word in FIRST if theory.covered(word)) + tuple(
    word for word in wiring.names() if theory.covered(word) and word not in FIRST
)


def _cosine(x: Array, y: Array) -> Array:
    # Without a norm activations double from layer to layer: squares would overflow.
    x, y = (h / jnp.max(jnp.abs(h)) for h in (x, y))
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(jnp.square(x)) * jnp.sum(jnp.square(y)))


def _pair(key: Array, n: int, c: Array) -> tuple[Array, Array]:
    x, z = jax.random.normal(key, (2, n))
    return x, c * x + jnp.sqrt(1 - c * c) * z


def _numbers(depth: int) -> Array:
    """Of the blocks, from 1 on; in floating point, as roots of them are asked for."""
    return 1 + jnp.arange(depth, dtype=jnp.float32)


def _with_error(samples: Array) -> tuple[Array, Array]:
    """Mean over the first axis and its standard error."""
    return jnp.mean(samples, 0), jnp.std(samples, 0, ddof=1) / len(samples) ** 0.5


def _table(value: Any, error: Any, axes: dict[str, Any], **constants: object) -> pd.DataFrame:
    error = np.full(np.shape(value), np.nan) if error is None else error
    frame = analysis.tidy(value, axes, centring="none", dtype="float32", **constants)
    return frame.assign(standard_error=np.asarray(error, np.float64).ravel())


def _both(
    samples: Array, x: Any, predicted: Array, predicted_x: Any = None, **constants: object
) -> list[pd.DataFrame]:
    """Rows of what was measured, the first axis being networks, and of what theory says."""
    measured, error = _with_error(samples)
    at = x if predicted_x is None else predicted_x
    return [
        _table(measured, error, {"x": x}, source="measured", **constants),
        _table(predicted, None, {"x": at}, source="theory", **constants),
    ]


def _beside(
    ax: Axes, table: pd.DataFrame, column: str, kinds: Sequence[str], styles: Mapping[Any, Any]
) -> None:
    """For each kind theory as a line, and measurements as marks with two standard errors."""
    for kind in kinds:
        rows = where(table, **{column: kind})
        line, points = (where(rows, source=s) for s in ("theory", "measured"))
        ax.plot(line.x, line.value, **{"label": kind, **styles[kind], "marker": None})
        ax.errorbar(
            points.x,
            points.value,
            2 * points.standard_error,
            fmt=styles[kind]["marker"],
            color=styles[kind]["color"],
            elinewidth=0.7,
            fillstyle="none",
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _defects(word: str, depth: int) -> Array:
    """1 - correlation by depth; under jit, what else the recursion predicts is never computed."""
    return theory.mean_field("relu", depth, wiring=word, correlation=0.2).defect


def measure_correlation(sizes: Sizes) -> pd.DataFrame:
    """One layer's correlation map, and the correlation by depth, beside mean-field theory."""
    n = sizes.wide
    grid = np.linspace(-0.95, 0.95, 11)
    fine = np.linspace(-1, 1, 41)
    frames = []
    for name in ACTIVATIONS:
        f = activations.get(name)
        gain = float(theory.gain(name))

        @jax.jit
        def layer(key: Array, c: Array, f: Any = f, gain: float = gain) -> Array:
            inputs, weights = jax.random.split(key)
            x, y = _pair(inputs, n, c)
            w = jax.random.normal(weights, (n, n)) * gain / n**0.5
            return _cosine(f(x) @ w, f(y) @ w)

        keys = jax.random.split(jax.random.key(0), sizes.seeds)
        samples = jax.vmap(lambda key, layer=layer: jax.vmap(lambda c: layer(key, c))(grid))(keys)
        predicted = jax.jit(lambda c, name=name: theory.correlation_map(name, c))(
            jnp.asarray(fine, jnp.float32)
        )
        common = dict(object="one layer", quantity="correlation", activation=name)
        frames += _both(samples, grid, predicted, fine, **common)
    return pd.concat([*frames, *_network_correlations(sizes)], ignore_index=True)


def _network_correlations(sizes: Sizes) -> Iterator[pd.DataFrame]:
    """One less the correlation of two inputs by depth in rectified networks, and its theory."""
    n, depths = sizes.wide, depth_grid(sizes.depth)
    gain = float(theory.gain("relu"))
    common = dict(object="network", quantity="correlation", activation="relu")

    @functools.partial(jax.jit, static_argnames="word")
    def network(key: Array, word: str) -> Array:
        x, y = _pair(key, n, jnp.float32(0.2))

        def step(h: Array, of: tuple[Array, Array]) -> tuple[Array, Array]:
            key, block = of
            w = jax.random.normal(key, (n, n)) * gain / n**0.5
            h = walk(word, sizes.depth, lambda h: h @ w, h, block=block, activation=jax.nn.relu)
            return h, _cosine(h[0], h[1])

        keys = jax.random.split(jax.random.fold_in(key, 1), sizes.depth)
        return lax.scan(step, rms_norm(jnp.stack([x, y])), (keys, _numbers(sizes.depth)))[1]

    keys = jax.random.split(jax.random.key(1), sizes.seeds)
    for word in WIRINGS:
        samples = lax.map(lambda key, word=word: network(key, word), keys)
        predicted = _defects(word, sizes.depth)[np.array(depths)]
        measured = 1 - samples[:, np.array(depths) - 1]
        yield from _both(measured, depths, predicted, wiring=word, **common)


def draw_correlation(table: pd.DataFrame) -> Drawing:
    """The map of one layer, and one less the correlation over depth."""
    with style():
        figure, axes = panels(1, 2, 2.8)
        for ax, name, column, kinds, styles in (
            (
                axes[0, 0],
                "one layer",
                "activation",
                ACTIVATIONS,
                dict(zip(ACTIVATIONS, SERIES, strict=False)),
            ),
            (axes[0, 1], "network", "wiring", WIRINGS, {word: look(word) for word in WIRINGS}),
        ):
            _beside(ax, where(table, object=name), column, kinds, styles)
            ax.legend(handlelength=3)
        axes[0, 0].plot([-1, 1], [-1, 1], **{**FLOOR, "linewidth": 0.5})
        axes[0, 0].set_xlabel("correlation $c$ of two inputs")
        axes[0, 0].set_ylabel("correlation after one layer")
        by_depth(axes[0, 1])
        axes[0, 1].set_xlabel("layer")
        axes[0, 1].set_ylabel("1 - correlation")
    return Drawing(
        "correlation",
        figure,
        "Correlation of two inputs, measured (marks, with two standard errors over networks) and "
        "by mean-field theory (lines). Left: after one layer, C(c). Right: one less the "
        "correlation by depth in rectified networks, from c = 0.2; every wiring answers inputs "
        "more and more alike, the plain network as 9 pi^2 / (2 l^2). Post-norm and no norm "
        "coincide, and so do pre-norm, sandwich and res-post-norm, since the rectifier commutes "
        "with the scale.",
        table,
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _log_singular_values(key: Array, word: str, n: int, depth: int) -> Array:
    """(prefixes, n): of the Jacobian of a network of branches W_2 tanh(W_1 h), by depth."""
    gain = theory.gain("tanh")

    def layer(h: Array, of: tuple[Array, Array]) -> tuple[Array, Array]:
        key, block = of
        first, second = jax.random.normal(key, (2, n, n)) / n**0.5

        def branch(h: Array) -> Array:
            return gain * (first @ activations.tanh(second @ h))

        def forward(h: Array) -> Array:
            return walk(word, depth, branch, h, block=block)

        return forward(h), jax.jacfwd(forward)(h)

    start, rest = jax.random.split(key)
    h = rms_norm(jax.random.normal(start, (n,)))
    layers = lax.scan(layer, h, (jax.random.split(rest, depth), _numbers(depth)))[1]
    return spectral.product_spectrum(
        layers, prefixes=depth_grid(depth), errors=False
    ).log_singular_values


def measure_jacobian_law(sizes: Sizes) -> pd.DataFrame:
    """Mean and standard deviation of the log singular values of the Jacobian, beside their law."""
    n, depths = sizes.wide // 2, depth_grid(sizes.depth)
    keys = jax.random.split(jax.random.key(0), sizes.seeds)
    frames = []
    for word in WIRINGS:
        logs = lax.map(lambda key, word=word: _log_singular_values(key, word, n, sizes.depth), keys)
        # A norm of the sum loses its own direction, whose logarithm is rounding.
        logs = logs[..., :-1] if wiring.get(word).placement.norm_after else logs
        law = theory.jacobian_log_moments("tanh", sizes.depth, layers=2, wiring=word)
        for quantity, samples, predicted in (
            ("mean_log_singular_value", jnp.mean(logs, -1), law.mean),
            ("std_log_singular_value", jnp.std(logs, -1), jnp.sqrt(law.variance)),
        ):
            common = dict(object="Jacobian", quantity=quantity, wiring=word)
            frames += _both(samples, depths, predicted[np.array(depths)], **common)
    return pd.concat(frames, ignore_index=True)


def draw_jacobian_law(table: pd.DataFrame) -> Drawing:
    """Mean and standard deviation over depth."""
    with style():
        figure, axes = panels(1, 2, 2.8)
        for ax, quantity, label in (
            (axes[0, 0], "mean_log_singular_value", r"mean of $\log s$"),
            (axes[0, 1], "std_log_singular_value", r"standard deviation of $\log s$"),
        ):
            rows = where(table, quantity=quantity)
            _beside(ax, rows, "wiring", WIRINGS, {word: look(word) for word in WIRINGS})
            by_depth(ax)
            ax.set_xlabel("layer")
            ax.set_ylabel(label)
        axes[0, 0].set_yscale("symlog", linthresh=0.1)
        legend(figure, axes[0, 0])
    return Drawing(
        "jacobian_law",
        figure,
        "Mean and standard deviation, over the spectrum, of the log singular values of the "
        "input-to-layer Jacobian at initialization, in nats: measured (marks, with two standard "
        "errors over networks) and by free probability (lines), for branches W_2 tanh(W_1 h). A "
        "skip without a norm after it keeps the mean near 0, while the spread, and with it the "
        "loss of rank, grows at the rate that the wiring sets.",
        table,
    )


BOTTLENECKS = (4, 10, 25)
HIDDEN = 60


def measure_flips(sizes: Sizes) -> pd.DataFrame:
    """Rank of J(x) - J(y) beside flips, in networks with a bottleneck after the units."""
    relu = analysis.tag_units(activations.get("relu"))
    distances = np.geomspace(0.01, 3, 10)
    rows = []
    for narrow in BOTTLENECKS:

        @jax.jit
        def pair(key: Array, distance: Array, narrow: int = narrow) -> tuple[Any, Array]:
            keys = jax.random.split(key, 4)
            shapes = ((HIDDEN, HIDDEN), (HIDDEN, narrow), (narrow, HIDDEN))
            a, b, c = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False))
            chain = analysis.as_chain(
                [
                    ("hidden", lambda w, x: relu(x @ w), a, None),
                    ("narrow", lambda w, x: x @ w, b, None),
                    ("wide", lambda w, x: relu(x @ w), c, None),
                ]
            )
            x, direction = jax.random.normal(keys[3], (2, HIDDEN))
            y = x + distance * direction
            flips = analysis.flips(chain, x, y)
            # The linear layer's outputs have no state to flip.
            units = jnp.stack([flips["hidden"][0], flips["wide"][0]])
            return analysis.flip_rank(chain, x, y), units

        keys = jax.random.split(jax.random.key(0), sizes.seeds)
        found, units = jax.vmap(jax.vmap(pair, (0, None)), (None, 0))(keys, distances)
        rows.append(
            pd.DataFrame(
                {
                    "bottleneck": narrow,
                    "distance": np.repeat(distances, sizes.seeds),
                    "flips": np.ravel(units.sum(-1)),
                    "by_layer": np.ravel(jnp.minimum(units, narrow).sum(-1)),
                    "value": np.ravel(found.rank),
                    "bound": np.ravel(found.rank_x + found.rank_y),
                }
            )
        )
    return pd.concat(rows, ignore_index=True).assign(
        object="J(x) - J(y)",
        quantity="numerical_rank",
        definition="number of s_i > max(m, n) eps (s_1(J(x)) + s_1(J(y)))",
        centring="none",
        dtype="float32",
    )


def draw_flips(table: pd.DataFrame) -> Drawing:
    """Rank over flips, with the line of equality and the saturations."""
    with style():
        figure, axes = panels(1, 1, 2.7, width=COLUMN_WIDTH)
        ax = axes[0, 0]
        most = int(table.flips.max())
        ax.plot([0, most], [0, most], color="0.5", linewidth=0.8)
        for series, (_, rows) in zip(SERIES[1:], table.groupby("bottleneck"), strict=False):
            ax.plot(
                rows.flips,
                rows.value,
                series["marker"],
                color=series["color"],
                fillstyle="none",
                label=f"rank J = {int(rows.bound.max()) // 2}",
            )
            ax.axhline(int(rows.bound.max()), **FLOOR)
        ax.set_xlabel("units whose state differs between $x$ and $y$")
        ax.set_ylabel("rank of $J(x) - J(y)$")
        legend(figure, ax, columns=3, length=1)
    equal = int((table.value == table.by_layer).sum())
    return Drawing(
        "flips",
        figure,
        "Rank of the change of the Jacobian between two inputs against the number of units that "
        "change their state, in networks of two rectified layers with a narrow linear one between: "
        "at most the flips (grey line), and at most rank J(x) + rank J(y) (dashed). Each layer "
        "adds its flips or the narrow width, whichever is less: that sum is the rank of "
        f"{equal} of {len(table)} pairs.",
        table,
    )
