"""Claim 5: which skips keep the rank; a diagram of skip, scale and norm.

Claim: Residual connections break the symmetry of deep networks and keep their rank.

Source: Orhan & Pitkow 2018; Balduzzi et al. 2017; Feng et al. 2022

Hypothesis: With a skip, whatever the scale of the branch and the norm, the Jacobian of the blocks
keeps at least twice the participation ratio that it has in the plain network of the same depth,
width and seed, at initialization and trained.

Measurement: Participation ratio over width of the Jacobian of the first l blocks at four digits, in
MLPs that differ in skip, scale and norm only, before and after Adam on digits. The second figure
multiplies the initial branch by depth to the power of -alpha.

Theory: As for claim 4, with the branch's scale in the recursion; black lines. Where the ratio comes
near 1 over the width the limit of infinite width no longer holds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import theory, wiring
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import by_seed, select
from jaxact.experiments.verdicts._protocol import (
    Cell,
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    words,
)

WIRINGS = ("plain", "original+plain", "norm_free", "scaled", "post", "pre")
LABELS = {word: wiring.get(word).label for word in WIRINGS}
KEPT = 2.0
"""Ratio to the plain network's participation from which a skip counts as keeping the rank."""


def _keeps(word: str, phase: str) -> Prediction:
    step, when = ("first", "at initialization") if phase == "initial" else ("last", "trained")
    name = LABELS[word]

    def kept(table: pd.DataFrame, word: str) -> pd.Series:
        where = dict(wiring=word, exponent=0.0, activation="relu", step=step, layer="last")
        return by_seed(table, "jacobian_participation", **where)

    return Prediction(
        f"{name} ({when})",
        f"The Jacobian of the blocks has at least twice the participation ratio that it has in the "
        f"plain network ({name}, ReLU, {when}).",
        lambda table: kept(table, word) / kept(table, "plain"),
        bound=KEPT,
        unit="times the plain network's",
    )


@plotted("phase_depth")
def _draw_depth(table: pd.DataFrame) -> Figure:
    """Participation ratio over width of the blocks' Jacobian by depth, ReLU."""
    rows = select(table, "jacobian_participation", exponent=0.0, activation="relu")
    rows = _plots.where(rows, step=(0, rows.step.max()))
    phases = {0: "at initialization", int(rows.step.max()): "after training"}
    return _plots.lines(
        rows,
        x="layer",
        by="wiring",
        panel="step",
        xlabel="block",
        ylabel="participation over width",
        logx=True,
        logy=True,
        names={**LABELS, **phases},
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predicted(word: str, depth: int, exponents: np.ndarray) -> jax.Array:
    """Participation over width of a ReLU network in theory, by exponent of the branch's scale."""

    def one(exponent):
        field = theory.mean_field("relu", depth, wiring=word, branch_scale=depth**-exponent)
        return 1 / (1 + field.jacobian_dispersion[-1])

    return jax.vmap(one)(jnp.asarray(exponents, jnp.float32))


@plotted("phase_exponent")
def _draw_exponents(table: pd.DataFrame) -> Figure:
    """The same at the last block and initialization, by the scale of the branch; black: mean-field
    theory.
    """
    rows = select(
        table,
        "jacobian_participation",
        wiring=("norm_free", "pre"),
        layer="last",
        step="first",
        activation="relu",
    )
    depth = int(rows.layer.max())
    exponents = np.linspace(0, 1, 11)
    lines = {
        word: (list(exponents), list(np.asarray(_predicted(word, depth, exponents))))
        for word in ("norm_free", "pre")
    }
    return _plots.lines(
        rows,
        x="exponent",
        by="wiring",
        xlabel=r"exponent $\alpha$ of the branch's initial scale $L^{-\alpha}$",
        ylabel="participation over width",
        logy=True,
        theory=lines,
        names=LABELS,
    )


def _keep(cell: Cell) -> bool:
    return cell["exponent"] == 0.0 or cell["wiring"] in ("norm_free", "pre")


STUDY = Study(
    name="phase",
    **words(__doc__),
    predictions=tuple(
        _keeps(word, phase)
        for phase in ("initial", "trained")
        for word in ("norm_free", "scaled", "post", "pre")
    ),
    depends="the scale of the branch, the placement of the norm and training",
    budgets=budgets(
        by_preset(12, 12, 32),
        dict(
            wiring=WIRINGS,
            exponent=(0.0, 0.25, 0.5, 0.75, 1.0),
            activation=by_preset(("relu",), ("relu", "tanh"), ("relu", "tanh", "gelu", "silu")),
        ),
        dict(
            depth=by_preset(32, 64, 256),
            width=by_preset(32, 64, 256),
            steps=by_preset(60, 200, 5000),
            rate=0.001,
            measures=["jacobian_participation", "feature_participation", "loss", "accuracy"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("wiring",),
    keep=_keep,
    plots=(_draw_depth, _draw_exponents),
)
