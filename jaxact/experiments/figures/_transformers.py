"""Transformers at initialization: what placement does to tokens, stream and gradient by depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jaxtyping import Array

from jaxact import analysis, models, training, wiring
from jaxact.experiments._plots import (
    Drawing,
    band,
    look,
    panels,
    plain_log,
    spread,
    style,
    values_of,
    where,
)
from jaxact.experiments.figures._sizes import Sizes

WIRINGS = ("post", "pre", "norm_scaling", "sandwich", "deepnorm")
BY_DEPTH = ("post", "pre")
"""Those whose gradient is measured at every depth: Xiong et al. 2020, theorem 1."""
VOCABULARY, TOKENS, EXAMPLES, HEADS = 64, 32, 8, 4


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _observed(word: str, depth: int, width: int, seeds: Array) -> dict[str, Array]:
    """By seed, what a causal decoder shows on random tokens; targets are the next ones."""

    def one(seed: Array) -> dict[str, Array]:
        key = jax.random.key(seed)
        x = jax.random.randint(key, (EXAMPLES, TOKENS + 1), 0, VOCABULARY)
        network = models.Transformer(
            inputs=VOCABULARY, width=width, depth=depth, heads=HEADS, activation="relu",
            **wiring.get(word).options, rngs=nnx.Rngs(jax.random.fold_in(key, 1)),
        )  # fmt: skip

        def loss(network: models.Transformer) -> Array:
            logits = network(x[:, :-1])
            return training.cross_entropy(logits.reshape(-1, VOCABULARY), x[:, 1:].reshape(-1))

        gradient = jax.grad(loss)(network).blocks.feed_forward.layers[0].down.kernel[...]
        traces = models.apply(network, x[:, :-1], train=False, trace=True).traces
        h = traces["blocks.feed_forward"].output
        return {
            "token_cosine": jnp.mean(analysis.token_cosine(h), axis=1),
            "stream_variance": jnp.mean(jnp.square(h), axis=(1, 2, 3)),
            "gradient_norm": jnp.linalg.norm(gradient[-1]),
        }

    return jax.vmap(one)(seeds)


def depths(sizes: Sizes) -> list[int]:
    """Layers of the networks: powers of two."""
    return [2**i for i in range(1, int(np.log2(sizes.depth)))]


def measure_transformer_signal(sizes: Sizes) -> pd.DataFrame:
    """Token cosine and mean square of the stream by layer, and the last gradient by depth."""
    seeds = jnp.arange(sizes.seeds, dtype=jnp.uint32)
    width, grid = 2 * sizes.width, depths(sizes)
    frames = []

    def rows(values: Array, axes: dict[str, list[int]], word: str, **said: str) -> None:
        table = analysis.tidy(
            values, {"seed": seeds.tolist(), **axes}, centring="none", dtype="float32", **said
        )
        frames.append(table.assign(wiring=word))

    definitions = {
        "token_cosine": analysis.MEASURES["token_cosine"].definition,
        "stream_variance": "Mean square of the stream after a layer.",
    }
    for word in WIRINGS:
        found = _observed(word, grid[-1], width, seeds)
        for name, definition in definitions.items():
            axes = {"layer": list(range(1, grid[-1] + 1))}
            rows(found[name], axes, word, object="tokens", quantity=name, definition=definition)
    for word in BY_DEPTH:
        norms = [_observed(word, depth, width, seeds)["gradient_norm"] for depth in grid]
        rows(
            jnp.stack(norms, axis=1),
            {"depth": grid},
            word,
            object="gradient",
            quantity="gradient_norm",
            definition="|dL/dW_2|_F of the last feed-forward layer's second weight.",
        )
    return pd.concat(frames, ignore_index=True)


def slope(table: pd.DataFrame, x: str) -> float:
    """Of the logarithm of the median over seeds against that of a column, by least squares."""
    median = table.groupby(x).value.median()
    return float(np.polyfit(np.log(median.index.to_numpy()), np.log(median.to_numpy()), 1)[0])


def draw_transformer_signal(table: pd.DataFrame) -> Drawing:
    """A panel for each quantity, a line for each wiring: medians over seeds, bands their range."""
    grid = np.unique(table.depth.dropna().to_numpy(int))
    with style():
        figure, axes = panels(1, 3, 2.6)
        for ax, (name, x, label) in zip(
            axes[0],
            (
                ("token_cosine", "layer", "token cosine"),
                ("stream_variance", "layer", "mean square of the stream"),
                ("gradient_norm", "depth", "last gradient, of depth 2"),
            ),
            strict=True,
        ):
            rows = where(table, quantity=name)
            for word in values_of(rows, "wiring"):
                own = where(rows, wiring=word)
                if name == "gradient_norm":
                    first = own[own.depth == grid[0]].value.median()
                    own = own.assign(value=own.value / first)
                band(ax, x, spread(own, x), look(word))
            ax.set_xscale("log", base=2)
            plain_log(ax.xaxis)
            ax.set_xlabel("layer" if x == "layer" else "layers of the network")
            ax.set_ylabel(label)
            if name != "token_cosine":
                ax.set_yscale("log")
                plain_log(ax.yaxis)
        last = axes[0, 2]
        last.plot(grid, (grid / grid[0]) ** -0.5, "k--", linewidth=0.8, label="1 / √L")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more, law = last.get_legend_handles_labels()
        handles, labels = [*handles, more[-1]], [*labels, law[-1]]
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
    slopes = {
        word: slope(where(table, quantity="gradient_norm", wiring=word), "depth")
        for word in BY_DEPTH
    }
    growth = slope(where(table, quantity="stream_variance", wiring="pre"), "layer")
    return Drawing(
        "transformer_signal",
        figure,
        f"Causal transformers at initialization, {grid[-1]} layers of attention and "
        f"feed-forward, {HEADS} heads, on {TOKENS} random tokens: mean cosine of two tokens and "
        "mean square of the stream by layer, and the norm of the gradient in the last feed-forward "
        f"layer by the network's depth. Slopes of the logarithms: gradient {slopes['post']:.2f} "
        f"under post-norm and {slopes['pre']:.2f} under pre-norm (Xiong et al. 2020: 0 and -1/2), "
        f"pre-norm's stream {growth:.2f} (1). Medians over seeds, bands from least to largest.",
        table,
    )
