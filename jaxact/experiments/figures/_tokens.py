"""The collapse of attention to rank one, below what plain evaluation in any precision can show."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from jaxact import analysis
from jaxact.analysis import graded
from jaxact.experiments._plots import SERIES, Drawing, panels, style, where
from jaxact.experiments.figures._sizes import Sizes

TOKENS, HEADS, LAYERS = 8, 2, 8
LOG10 = float(np.log(10))
Tokens = graded.GradedTokens


def _weights(d: int) -> list[tuple[Array, ...]]:
    """W_Q, W_K, W_V, W_O by layer, of entries N(0, 1/d)."""
    keys = jax.random.split(jax.random.key(0), LAYERS)
    shapes = [(d, HEADS, d // HEADS)] * 3 + [(HEADS, d // HEADS, d)]
    return [
        tuple(jax.random.normal(k, s) / d**0.5 for k, s in zip(split, shapes, strict=True))
        for split in (jax.random.split(key, 4) for key in keys)
    ]


def _plain(x: np.ndarray, w: tuple[np.ndarray, ...]) -> np.ndarray:
    """Attention as it is usually written, in the dtype of what it is given."""
    q, k, v = (np.einsum("nd,dhk->hnk", x, a) for a in w[:3])
    logits = q @ np.swapaxes(k, 1, 2) * x.dtype.type(q.shape[-1] ** -0.5)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("hnk,hkd->nd", p / p.sum(-1, keepdims=True) @ v, w[3])


def _causal(x: Tokens, w: tuple[Array, ...]) -> Tokens:
    return graded.attention(x, *w, mask="causal")


def _normed(x: Tokens, w: tuple[Array, ...]) -> Tokens:
    return graded.layer_norm(graded.attention(x, *w))


def _post(x: Tokens, w: tuple[Array, ...]) -> Tokens:
    return graded.layer_norm(graded.add(x, graded.attention(x, *w)))


def _pre(x: Tokens, w: tuple[Array, ...]) -> Tokens:
    return graded.add(x, graded.attention(graded.layer_norm(x), *w))


PURE = "attention alone"
NETWORKS: dict[str, Callable[..., Tokens]] = {
    PURE: lambda x, w: graded.attention(x, *w),
    "with layer norm": _normed,
    "with causal mask": _causal,
    "with skip, post-norm": _post,
    "with skip, pre-norm": _pre,
}


def measure_attention_collapse(sizes: Sizes) -> pd.DataFrame:
    """Log of the residual of rank one by layer: graded, and by plain evaluation."""
    x = jax.random.normal(jax.random.key(1), (TOKENS, sizes.width))
    weights = _weights(sizes.width)
    axes = {"layer": list(range(LAYERS + 1))}
    table = functools.partial(
        analysis.tidy,
        object="tokens",
        quantity="log_rank_one_residual",
        definition="ln |X - 1 m^T| / |X|, m the mean token",
        centring="none",
    )
    frames = []
    for name, layer in NETWORKS.items():
        step = jax.jit(layer)
        layers = [(str(i), functools.partial(step, w=w)) for i, w in enumerate(weights, 1)]
        states = graded.by_layer(layers, graded.tokens(x))
        logs = jnp.stack([state.log_relative_residual for state in states.values()])
        frames.append(table(logs, axes, network=name, source="graded", dtype="float32"))
    for dtype in ("float32", "float64"):
        h, logs = np.asarray(x, dtype), []
        for w in [None, *weights]:
            h = h if w is None else _plain(h, tuple(np.asarray(a, dtype) for a in w))
            residual, size = np.linalg.norm(h - h.mean(0)), np.linalg.norm(h)
            logs.append(np.log(max(residual / size, np.finfo(dtype).tiny)))
        frames.append(table(np.array(logs), axes, network=PURE, source="plain", dtype=dtype))
    return pd.concat(frames, ignore_index=True)


def draw_attention_collapse(table: pd.DataFrame) -> Drawing:
    """Decades below rank one on a logarithmic axis, where the cube law is a straight line."""
    with style():
        figure, axes = panels(1, 2, 2.8, sharey=True)
        left, right = axes[0]
        pure = where(table, network=PURE)
        for series, (source, dtype) in zip(
            SERIES,
            (("graded", "float32"), ("plain", "float64"), ("plain", "float32")),
            strict=False,
        ):
            rows = where(pure, source=source, dtype=dtype)
            left.plot(rows.layer, -rows.value / LOG10, label=f"{source}, {dtype}", **series)
        rows = where(pure, source="graded")
        decades = -rows.value.to_numpy() / LOG10
        start = int(np.argmax(decades > 2))
        law = decades[start] * 3.0 ** (rows.layer - start)
        left.plot(
            rows.layer[start:], law[start:], "k--", linewidth=0.8, label="cube of the layer before"
        )
        for series, name in zip(SERIES, NETWORKS, strict=False):
            rows = where(table, network=name, source="graded")
            right.plot(rows.layer, -rows.value / LOG10, label=name, **series)
        left.set_yscale("log")
        left.invert_yaxis()
        left.set_ylabel("decades below rank one")
        for ax in (left, right):
            ax.set_xlabel("layer")
            ax.legend(handlelength=3)
    return Drawing(
        "attention_collapse",
        figure,
        f"How far {TOKENS} tokens are from all being the same, |X - 1 m^T| / |X| with the mean "
        f"token m, in decades below 1 (logarithmic, downwards), by layers of softmax attention of "
        f"{HEADS} heads with weights N(0, 1/d). Left: attention alone, by graded tokens in float32 "
        "and by plain evaluation, which ends at the rounding of its precision; dashed, the cube of "
        "the residual before (Dong et al. 2021). Right, graded: layer norm alone does not stop it; "
        "with a causal mask the residual falls by a factor a layer, and with a skip slower still.",
        table,
    )
