"""What a layer is: the three objects called the spectrum of a convolution; the modes of a norm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jaxtyping import Array, Float

from jaxact import analysis, models, spectral
from jaxact.experiments._depths import depth_grid
from jaxact.experiments._networks import load_arrays, options
from jaxact.experiments._plots import (
    FLOOR,
    SERIES,
    Drawing,
    by_depth,
    legend,
    panels,
    plain_log,
    style,
    where,
)
from jaxact.experiments.figures._networks import images, pick, rank_rows
from jaxact.experiments.figures._sizes import Sizes

OBJECTS = {
    "unfolded": "kernel, unfolded",
    "circular": "circular operator",
    "operator": "operator, zero padding",
}


def _spectra(kernel: Float[Array, "h w i o"], space: int) -> dict[str, Array]:
    """Singular values of the three objects of a 3 x 3 kernel on a map of space x space."""
    shape = (space, space)
    dense = spectral.dense_matrix(
        spectral.operator(kernel, shape), jnp.zeros((*shape, kernel.shape[2]))
    )
    return {
        "unfolded": spectral.unfolded(kernel),
        "circular": spectral.circular(kernel, shape),
        "operator": spectral.singular_values(dense),
    }


def measure_convolutions(sizes: Sizes) -> pd.DataFrame:
    """The three spectra of a Gaussian kernel, and of one that is smooth in space."""
    c = sizes.channels
    noise = jax.random.normal(jax.random.key(0), (3, 3, c, c))
    blur = jnp.array([0.25, 0.5, 0.25])
    smooth = (blur[:, None] * blur[None])[..., None, None] * noise[:1, :1]
    kernels = {
        "Gaussian": noise / (9 * c) ** 0.5,
        "smooth": smooth / jnp.linalg.norm(smooth) * c**0.5,
    }
    frames = []
    for kernel, values in kernels.items():
        for name, s in jax.jit(_spectra, static_argnums=1)(values, sizes.space).items():
            k = len(s)
            chosen = np.unique(np.linspace(0, k - 1, min(k, 256)).round().astype(int))
            frame = analysis.tidy(
                s[chosen],
                {"index": chosen + 1},
                object=name,
                kernel=kernel,
                quantity="singular_value",
                definition="s_i",
                centring="none",
                dtype="float32",
                count=k,
            )
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def draw_convolutions(table: pd.DataFrame) -> Drawing:
    """A panel for each kernel, a line for each object."""
    kernels = list(dict.fromkeys(table.kernel))
    with style():
        figure, axes = panels(1, len(kernels), 2.5, sharey=True)
        for ax, kernel in zip(axes[0], kernels, strict=True):
            for series, (name, label) in zip(SERIES, OBJECTS.items(), strict=False):
                rows = table[(table.kernel == kernel) & (table.object == name)]
                look = {**series, "marker": series["marker"] if len(rows) < 40 else None}
                share = (rows["index"] - 1) / (rows["count"] - 1)
                ax.plot(share, rows.value, label=label, **look)
            ax.set_title(f"{kernel} kernel")
            ax.set_xlabel("$(i - 1)/(k - 1)$")
            ax.set_yscale("log")
            ax.set_ylim(1e-5 * table.value.max(), 2 * table.value.max())
        axes[0, 0].set_ylabel("singular value $s_i$")
        legend(figure, axes[0, 0])
    counts = table.groupby("object").count().index
    shapes = {name: int(where(table, object=name)["count"].to_numpy()[0]) for name in counts}
    return Drawing(
        "convolutions",
        figure,
        "One 3 x 3 convolution, three objects, three spectra: the unfolded kernel "
        f"({shapes['unfolded']} values) is not the operator that the network applies "
        f"({shapes['operator']} values), and its largest value is too small; the circular operator "
        "is near, except for its smallest values.",
        table,
    )


def measure_batch_norm(sizes: Sizes) -> pd.DataFrame:
    """Ranks of features by depth with batch norm in its two modes."""
    x = images(sizes)
    depths = depth_grid(sizes.depth)
    frames = []
    for activation in ("identity", "relu"):
        network = models.MLPResNet(
            x.shape[1],
            load_arrays(sizes.dataset).num_classes,
            width=sizes.width,
            depth=sizes.depth,
            **options("original+plain", "batch"),
            activation=activation,
            rngs=nnx.Rngs(0),
        )

        @functools.partial(nnx.jit, static_argnames="train")
        def spectra(network: models.MLPResNet, train: bool) -> Array:
            chain = analysis.until(analysis.as_chain(network.segments(train=train)), "blocks")
            h = analysis.features(chain, x)["blocks"]
            return spectral.singular_values(analysis.feature_matrix(pick(h, depths), centred=True))

        @nnx.jit
        def see(network: models.MLPResNet, x: Array) -> None:
            network(x)

        def rows_of(train: bool, network: Any = network, spectra: Any = spectra) -> pd.DataFrame:
            s = spectra(network, train)
            shape = (len(x), sizes.width)
            return rank_rows(s, shape, depths, object="features", centring="mean")

        modes = {"training": rows_of(True)}
        done = 0
        for updates in (0, 10, 100):
            network.train()
            for _ in range(updates - done):
                see(network, x)
            done = updates
            modes[f"evaluation after {updates} batches"] = rows_of(False)
        frames += [rows.assign(mode=m, activation=activation) for m, rows in modes.items()]
    return pd.concat(frames, ignore_index=True)


def draw_batch_norm(table: pd.DataFrame) -> Drawing:
    """A panel for each activation, a line for each mode."""
    rows = table[table.quantity == "effective_rank"]
    limit = int(table["columns"].to_numpy().min())
    with style():
        figure, axes = panels(1, 2, 2.6, sharey=True)
        for ax, (name, panel) in zip(axes[0], rows.groupby("activation", sort=False), strict=True):
            for series, (mode, line) in zip(
                SERIES, panel.groupby("mode", sort=False), strict=False
            ):
                ax.plot(line.depth, line.value, label=mode, **series)
            ax.axhline(limit, **FLOOR)
            by_depth(ax)
            plain_log(ax.yaxis)
            ax.set_title("linear" if name == "identity" else name)
            ax.set_xlabel("layer")
        axes[0, 0].set_ylabel("effective rank of features")
        legend(figure, axes[0, 0], columns=2)
    return Drawing(
        "batch_norm",
        figure,
        "Effective rank of centred features of images by depth in plain networks with batch norm "
        "at initialization: with the batch's own statistics it stays up (Daneshmand et al. 2020); "
        "in evaluation mode it depends on how many batches the running statistics have seen. "
        "Dashed: width.",
        table,
    )
