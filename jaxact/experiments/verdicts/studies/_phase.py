# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false
"""Claim 5: which skips keep the rank; a diagram of skip, scale and norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import theory
from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import by_seed, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Budget, Cell, Plot, Prediction, Study

LABELS = {
    "plain": "plain",
    "plain_norm": "plain, norm",
    "identity": "skip, unscaled",
    "scaled": r"skip, branch/$\sqrt{L}$",
    "post": "skip, post-norm",
    "pre": "skip, pre-norm",
}
KEPT = 0.1
"""Participation over width from which the rank counts as kept."""


def _keeps(wiring: str, phase: str) -> Prediction:
    step, when = ("first", "at initialization") if phase == "initial" else ("last", "trained")
    name = LABELS[wiring].replace(r"$\sqrt{L}$", "sqrt(L)").removeprefix("skip, ")

    def effect(table: pd.DataFrame) -> pd.Series:
        return by_seed(
            table,
            "jacobian_participation",
            wiring=wiring,
            exponent=0.0,
            activation="relu",
            step=step,
            layer="last",
        )

    return Prediction(
        f"{name} ({when})",
        f"The Jacobian of the blocks keeps a participation ratio of a tenth of the width ({name} "
        f"residual ReLU network, {when}).",
        effect,
        bound=KEPT,
        unit="participation over width",
    )


def _draw_depth(table: pd.DataFrame) -> Figure:
    rows = select(table, "jacobian_participation", exponent=0.0, activation="relu")
    rows = rows[rows.step.isin((0, rows.step.max()))]
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
        bound=KEPT,
        names={**LABELS, **phases},
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predicted(placement: str, depth: int, exponents: np.ndarray) -> jax.Array:
    """Participation over width of a ReLU network in theory, by exponent of the branch's scale."""

    def one(exponent):
        field = theory.mean_field("relu", depth, placement=placement, branch_scale=depth**-exponent)
        return 1 / (1 + field.jacobian_dispersion[-1])

    return jax.vmap(one)(jnp.asarray(exponents, jnp.float32))


def _draw_exponents(table: pd.DataFrame) -> Figure:
    rows = select(
        table,
        "jacobian_participation",
        wiring=("identity", "pre"),
        layer="last",
        step="first",
        activation="relu",
    )
    depth = int(rows.layer.max())
    exponents = np.linspace(0, 1, 11)
    lines = {
        wiring: (list(exponents), list(np.asarray(_predicted(placement, depth, exponents))))
        for wiring, placement in (("identity", "none"), ("pre", "pre"))
    }
    return _plots.lines(
        rows,
        x="exponent",
        by="wiring",
        xlabel=r"exponent $\alpha$ of the branch's initial scale $L^{-\alpha}$",
        ylabel="participation over width",
        logy=True,
        bound=KEPT,
        theory=lines,
        names={"identity": "skip, no norm", "pre": "skip, pre-norm"},
    )


def _keep(cell: Cell) -> bool:
    return cell["exponent"] == 0.0 or cell["wiring"] in ("identity", "pre")


STUDY = Study(
    name="phase",
    number=5,
    claim="Residual connections break the symmetry of deep networks and keep their rank.",
    source="Orhan & Pitkow 2018; Balduzzi et al. 2017; Feng et al. 2022",
    hypothesis="With a skip, whatever the scale of the branch and the norm, the Jacobian of the "
    "blocks keeps a participation ratio of a tenth of the width, at initialization and trained.",
    measurement="Participation ratio over width of the Jacobian of the first l blocks at four "
    "digits, in MLPs that differ in skip, scale and norm only, before and after Adam on digits. "
    "The second figure multiplies the initial branch by depth to the power of -alpha.",
    theory="As for claim 4, with the branch's scale in the recursion; black lines. Where the ratio "
    "comes near 1 over the width the limit of infinite width no longer holds.",
    predictions=tuple(
        _keeps(wiring, phase)
        for phase in ("initial", "trained")
        for wiring in ("identity", "scaled", "post", "pre")
    ),
    depends="the scale of the branch, the placement of the norm and training",
    budgets={
        preset: Budget(
            seeds,
            {
                "wiring": tuple(LABELS),
                "exponent": (0.0, 0.25, 0.5, 0.75, 1.0),
                "activation": functions,
            },
            {
                "depth": depth,
                "width": width,
                "steps": steps,
                "rate": 1e-3,
                "measures": ["jacobian_participation", "feature_rank", "loss", "accuracy"],
            },
        )
        for preset, seeds, depth, width, steps, functions in (
            ("quick", 12, 32, 32, 60, ("relu",)),
            ("default", 12, 64, 64, 200, ("relu", "tanh")),
            ("paper", 32, 256, 256, 5000, ("relu", "tanh", "gelu", "silu")),
        )
    },
    measure=train_cells,
    together=("wiring",),
    keep=_keep,
    plots=(
        Plot(
            "phase_depth",
            _draw_depth,
            "Participation ratio over width of the blocks' Jacobian by depth, ReLU; dotted: what "
            "counts as kept.",
        ),
        Plot(
            "phase_exponent",
            _draw_exponents,
            "The same at the last block and initialization, by the scale of the branch; black: "
            "mean-field theory.",
        ),
    ),
)
