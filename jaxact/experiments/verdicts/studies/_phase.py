"""Claim 5: which skips keep the rank; a diagram of skip, scale and norm.

Claim: Residual connections break the symmetry of deep networks and keep their rank.

Source: Orhan & Pitkow 2018; Balduzzi et al. 2017; Feng et al. 2022

Sentence: "We argue that skip connections eliminate these singularities by breaking the permutation
symmetry of nodes, by reducing the possibility of node elimination and by making the nodes less
linearly dependent" (Orhan & Pitkow 2018, abstract).

Hypothesis: With a skip, whatever the scale of the branch and the norm, the Jacobian of the blocks
keeps at least twice the participation ratio that it has in the plain network of the same depth,
width and seed; and the units of the last block overlap less by a tenth or more. Both at
initialization and trained.

Measurement: Participation ratio over width of the Jacobian of the first l blocks at four digits,
and the overlap of units, the mean over units of the greatest correlation with another one over 256
digits (1 for a constant unit), in MLPs that differ in skip, scale and norm only, before and after
Adam on digits. The second figure multiplies the initial branch by depth to the power of -alpha.

Theory: As for claim 4, with the branch's scale in the recursion; black lines. Where the ratio comes
near 1 over the width the limit of infinite width no longer holds.

Practice: A skip alone keeps no rank; a branch made small by 1/sqrt(depth), or norm before the
branch, does.
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
from jaxact.experiments.verdicts._effects import by_seed, select, trains
from jaxact.experiments.verdicts._protocol import (
    Cell,
    Gate,
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


PHASES = {"at initialization": "first", "trained": "last"}


def _gates(word: str, when: str) -> tuple[Gate, ...]:
    """Of trained networks it is asked that they are."""
    if when != "trained":
        return ()
    arms = dict.fromkeys(("plain", word))
    return tuple(trains(wiring=arm, exponent=0.0, activation="relu") for arm in arms)


def _of_last_block(table: pd.DataFrame, quantity: str, word: str, when: str) -> pd.Series:
    where = dict(wiring=word, exponent=0.0, activation="relu", step=PHASES[when], layer="last")
    return by_seed(table, quantity, **where)


def _overlaps(word: str, when: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        plain, own = (_of_last_block(table, "unit_overlap", w, when) for w in ("plain", word))
        return plain - own

    return Prediction(
        f"symmetry: {LABELS[word]} ({when})",
        f"The units of the last block overlap less than in the plain network ({LABELS[word]}, "
        f"ReLU, {when}).",
        effect,
        bound=0.1,
        unit="correlation",
        reason="a tenth of a whole correlation",
        gates=_gates(word, when),
    )


def _keeps(word: str, when: str) -> Prediction:
    name = LABELS[word]

    def kept(table: pd.DataFrame, word: str) -> pd.Series:
        return _of_last_block(table, "jacobian_participation", word, when)

    return Prediction(
        f"{name} ({when})",
        f"The Jacobian of the blocks has at least twice the participation ratio that it has in the "
        f"plain network ({name}, ReLU, {when}).",
        lambda table: kept(table, word) / kept(table, "plain"),
        bound=KEPT,
        unit="times the plain network's",
        reason="seeds of one plain network differ by nearly a factor of two",
        gates=_gates(word, when),
    )


@plotted("phase_depth")
def _draw_depth(table: pd.DataFrame) -> Figure:
    """Participation ratio over width of the blocks' Jacobian by depth, ReLU."""
    rows = select(table, "jacobian_participation", exponent=0.0, activation="relu")
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
def _predicted(word: str, depth: int, exponents: jax.Array | np.ndarray) -> jax.Array:
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
    if cell["exponent"] == 0.0:
        return True
    return cell["wiring"] in ("norm_free", "pre") and cell["activation"] == "relu"


STUDY = Study(
    name="phase",
    **words(__doc__),
    predictions=tuple(
        of(word, when)
        for of in (_keeps, _overlaps)
        for when in PHASES
        for word in ("norm_free", "scaled", "post", "pre")
    ),
    depends="the scale of the branch, the placement of the norm and training",
    budgets=budgets(
        by_preset(12, 16, 32),
        dict(
            wiring=WIRINGS,
            exponent=(0.0, 0.25, 0.5, 0.75, 1.0),
            activation=by_preset(("relu",), ("relu", "tanh"), ("relu", "tanh", "gelu", "silu")),
        ),
        dict(
            depth=by_preset(24, 32, 256),
            width=by_preset(32, 64, 256),
            steps=by_preset(150, 1500, 20000),
            batch_size=32,
            marks="ends",
            rate=by_preset(0.001, 0.0005, 0.0001),
            measures=[
                "jacobian_participation",
                "jacobian/spectral_decay",
                "feature_participation",
                "unit_overlap",
                "loss",
                "accuracy",
            ],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("wiring",),
    keep=_keep,
    plots=(_draw_depth, _draw_exponents),
)
