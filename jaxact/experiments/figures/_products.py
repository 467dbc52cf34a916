"""Products of Gaussian layers: their spectrum by depth, and what a float32 product loses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from jaxact import analysis, spectral, theory
from jaxact.experiments._depths import depth_grid
from jaxact.experiments._plots import COLUMN_WIDTH, FLOOR, SERIES, Drawing, legend, panels, style
from jaxact.experiments.figures._sizes import Sizes

LOG10 = float(np.log(10))


def gaussian_layers(key: Array, layers: int, n: int) -> Float[Array, "layer n n"]:
    """Independent N(0, 1/n) entries: the mean square of a vector is kept."""
    return jax.random.normal(key, (layers, n, n)) / jnp.sqrt(n)


@functools.partial(jax.jit, static_argnames="prefixes")
def _graded(w: Array, prefixes: tuple[int, ...]) -> Array:
    return spectral.product_spectrum(w, prefixes=prefixes, errors=False).log_singular_values


def _logs_table(logs: Array, depths: tuple[int, ...], **constants: object) -> pd.DataFrame:
    labels = {"depth": list(depths), "index": list(range(1, logs.shape[-1] + 1))}
    return analysis.tidy(
        logs,
        labels,
        object="product of Gaussian layers",
        quantity="log_singular_value",
        definition="ln s_i",
        centring="none",
        **constants,
    )


def measure_product_spectrum(sizes: Sizes) -> pd.DataFrame:
    """Log singular values of the products of the first layers, beside Newman's exponents."""
    n = sizes.width
    depths = depth_grid(sizes.layers, 24)
    logs = _graded(gaussian_layers(jax.random.key(0), sizes.layers, n), depths)
    theory_logs = jnp.array(depths, jnp.float32)[:, None] * theory.newman_exponents(n)[None]
    return pd.concat(
        [
            _logs_table(logs, depths, source="graded", dtype="float32"),
            _logs_table(theory_logs, depths, source="Newman", dtype="float32"),
        ],
        ignore_index=True,
    )


def draw_product_spectrum(table: pd.DataFrame) -> Drawing:
    """The heat map with Newman's contours, and the exponents at the last depth."""
    wide = {
        source: rows.pivot_table(index="index", columns="depth", values="value") / LOG10
        for source, rows in table.groupby("source", sort=False)
    }
    measured, newman = (wide[s] - wide[s].iloc[0] for s in ("graded", "Newman"))
    depths, n = measured.columns.to_numpy(), len(measured)
    last = depths[-1]
    with style(**{"axes.grid": False}):
        figure, axes = panels(1, 2, 2.5, width_ratios=[1.6, 1])
        ax = axes[0, 0]
        lowest = max(float(np.floor(measured.to_numpy().min() / 10) * 10), -100.0)
        mesh = ax.pcolormesh(
            depths,
            measured.index,
            measured,
            vmin=lowest,
            vmax=0,
            shading="nearest",
            rasterized=True,
        )
        levels = [level for level in (-100.0, -30.0, -10.0, -3.0, -1.0) if level >= lowest]
        for frame, line, name in ((measured, "-", "measured"), (newman, "--", "Newman")):
            ax.contour(
                depths, frame.index, frame, levels, colors="w", linestyles=line, linewidths=0.9
            )
            ax.plot([], [], color="0.4", linestyle=line, label=f"{name}, contours")
        ax.axhline(n + 0.5, color="none")
        ax.set_xscale("log")
        ax.set_ylim(n + 0.5, 0.5)
        ax.set_xlabel("layers $L$")
        ax.set_ylabel("singular value, by rank $i$")
        figure.colorbar(mesh, ax=ax, extend="min", label=r"$\log_{10}(s_i/s_1)$")
        right = axes[0, 1]
        index = measured.index
        right.plot(
            index, wide["graded"][last] * LOG10 / last, "o", color="#0072B2", label="measured"
        )
        right.plot(index, wide["Newman"][last] * LOG10 / last, color="k", label="Newman")
        right.set_xlabel("rank $i$")
        right.set_ylabel(rf"$\ln s_i / L$ at $L = {last}$")
        right.legend()
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return Drawing(
        "product_spectrum",
        figure,
        f"Singular values of the product of L Gaussian layers of width {n}, in float32 by the "
        f"graded product; contours at {', '.join(f'{level:g}' for level in levels)} decades below "
        "the largest, solid as measured, dashed by Newman's exponents, which hold for L much "
        "larger than the width. Right: the logarithms over L, with the exponents.",
        table,
    )


TOLERANCES = np.geomspace(1e-16, 1, 65)


def measure_rank_tolerance(sizes: Sizes) -> pd.DataFrame:
    """Numerical rank of products of Gaussian layers against the relative tolerance."""
    n = sizes.width
    depths = tuple(d for d in (1, 3, 10, 30, 100) if d <= sizes.layers)
    logs = _graded(gaussian_layers(jax.random.key(0), max(depths), n), depths)
    counts = np.stack([spectral.numerical_rank(logs, log=True, relative=t) for t in TOLERANCES])
    return analysis.tidy(
        counts,
        {"tolerance": TOLERANCES, "depth": depths},
        object="product of Gaussian layers",
        quantity="numerical_rank",
        definition="number of s_i > tolerance * s_1",
        centring="none",
        dtype="float32",
        width=n,
    )


def draw_rank_tolerance(table: pd.DataFrame) -> Drawing:
    """A line for each depth, the floors of three precisions marked."""
    n = int(table.width.iloc[0])
    with style():
        figure, axes = panels(1, 1, 2.6, width=COLUMN_WIDTH)
        ax = axes[0, 0]
        for series, (depth, rows) in zip(SERIES, table.groupby("depth"), strict=False):
            ax.step(
                rows.tolerance,
                rows.value,
                where="mid",
                label=f"$L = {depth}$",
                **series | dict(marker=""),
            )
        for name, eps in (("float64", 2.0**-52), ("float32", 2.0**-23), ("bfloat16", 2.0**-7)):
            ax.axvline(n * eps, **FLOOR)
            ax.text(n * eps * 0.8, 0.5, name, rotation=90, ha="right", va="bottom", fontsize=7)
        ax.set_xscale("log")
        ax.set_ylim(0, n * 1.05)
        ax.set_xlabel(r"tolerance, as a share of $s_1$")
        ax.set_ylabel("numerical rank")
        legend(figure, ax, columns=3, length=2)
    return Drawing(
        "rank_tolerance",
        figure,
        f"Numerical rank of the product of 1 to 100 Gaussian layers of width {n} against the "
        "tolerance. Dashed: the floor n eps of each precision, below which the values of a product "
        "formed in it are rounding; the graded product counts below it all the same.",
        table,
    )


def measure_naive_graded(sizes: Sizes) -> pd.DataFrame:
    """The spectrum of a product formed in float32 beside the graded one."""
    n = sizes.width
    depths = tuple(d for d in (5, 30, 100) if d <= sizes.layers)
    w = gaussian_layers(jax.random.key(0), max(depths), n)
    graded = _graded(w, depths)

    @jax.jit
    def naive(w: Array) -> Array:
        products = jax.lax.scan(
            lambda p, w: (q := jnp.matmul(w, p, precision="highest"), q), jnp.eye(n), w
        )[1]
        return jnp.log(spectral.singular_values(products[np.array(depths) - 1]))

    return pd.concat(
        [
            _logs_table(graded, depths, source="graded", dtype="float32"),
            _logs_table(naive(w), depths, source="naive", dtype="float32"),
        ],
        ignore_index=True,
    )


def draw_naive_graded(table: pd.DataFrame) -> Drawing:
    """A panel for each depth."""
    depths = sorted(set(table.depth))
    eps = 2.0**-23
    with style():
        figure, axes = panels(1, len(depths), 2.3, sharex=True)
        for ax, depth in zip(axes[0], depths, strict=True):
            for source, mark in (("graded", "-"), ("naive", "o")):
                rows = table[(table.depth == depth) & (table.source == source)]
                color = SERIES[1 if source == "naive" else 0]["color"]
                label = "product, then SVD (float32)" if source == "naive" else "graded (float32)"
                value = (rows.value - rows.value.max()) / LOG10
                ax.plot(rows["index"], value, mark, color=color, label=label, fillstyle="none")
            ax.axhline(np.log10(eps), **FLOOR)
            ax.set_title(f"{depth} layers")
            ax.set_xlabel("rank $i$")
        axes[0, 0].set_ylabel(r"$\log_{10}(s_i/s_1)$")
        legend(figure, axes[0, 0], columns=2)
    return Drawing(
        "naive_graded",
        figure,
        "Singular values of products of Gaussian layers: the product formed in float32 and then "
        "decomposed, and the graded product. Dashed: the machine epsilon of float32, under which "
        "the naive values are rounding.",
        table,
    )
