# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
"""Claim 13: whether the rank at initialization predicts trainability, over all trained cells."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import CHANCE
from jaxact.experiments.verdicts._protocol import Batch, Budget, Plot, Prediction, Study
from jaxact.experiments.verdicts._statistics import rank_correlation
from jaxact.experiments.verdicts.studies import _phase, _placement, _trainability

USES = (_trainability.STUDY.name, _phase.STUDY.name, _placement.STUDY.name)
NETWORK = ["study", "wiring", "depth", "activation", "exponent"]
QUANTITIES = {
    "feature_rank": "participation of the features",
    "jacobian_participation": "participation of the Jacobian",
}


def networks(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """For each network and seed the rank at the last block before training, and the loss after.

    Of several step sizes and warm-ups, those of the smallest median loss are taken.
    """
    table = table.copy()
    for column, value in (("wiring", "plain"), ("activation", "relu"), ("exponent", 0.0)):
        table[column] = table[column].fillna(value)
    table["depth"] = table.depth.fillna(table.groupby("study").layer.transform("max"))
    arms = [*NETWORK, "rate", "warmup"]
    table[["rate", "warmup"]] = table[["rate", "warmup"]].fillna(0.0)
    last = table.groupby("study").step.transform("max")
    loss = table[(table.quantity == "loss") & (table.step == last)]
    loss = loss.assign(loss=(loss.value / CHANCE).fillna(1.0).clip(upper=1.0))
    medians = loss.groupby(arms).loss.median().reset_index()
    best = medians.loc[medians.groupby(NETWORK).loss.idxmin(), arms]
    rank = table[(table.quantity == quantity) & (table.step == 0)]
    rank = rank[rank.layer == rank.groupby(["study", "depth"]).layer.transform("max")]
    rank = rank.rename(columns={"value": "rank"})
    keys = [*arms, "seed"]
    both = loss[[*keys, "loss"]].merge(rank[[*keys, "rank"]], on=keys)
    return both.merge(best, on=arms)


def _predicts(quantity: str) -> Prediction:
    def effect(table: pd.DataFrame) -> np.ndarray:
        both = networks(table, quantity)
        return np.array([-rank_correlation(of["rank"], of.loss) for _, of in both.groupby("seed")])

    return Prediction(
        QUANTITIES[quantity],
        f"Over networks, the {QUANTITIES[quantity]} at the last block at initialization and the "
        "loss after training are ordered oppositely.",
        effect,
        bound=0.5,
        unit="rank correlation",
    )


def _measure(batch: Batch) -> list[pd.DataFrame]:
    """Nothing of its own: the rows are those of the studies it uses."""
    empty = pd.DataFrame({"quantity": ["none"], "value": [0.0], "seed": [-1]})
    return [empty for _ in batch.cells]


def _draw(table: pd.DataFrame) -> Figure:
    frames = []
    for quantity, label in QUANTITIES.items():
        both = networks(table, quantity)
        medians = both.groupby(NETWORK)[["rank", "loss"]].median().reset_index()
        frames.append(medians.assign(panel=label))
    points = pd.concat(frames).rename(columns={"loss": "value"})
    return _plots.scatter(
        points,
        x="rank",
        by="wiring",
        panel="panel",
        xlabel="rank at initialization over width",
        ylabel="loss over that of a guess",
        names=_phase.LABELS,
    )


STUDY = Study(
    name="prediction",
    number=13,
    claim="The rank at initialization predicts trainability.",
    source="Schoenholz et al. 2017; Daneshmand et al. 2020",
    hypothesis="Over all networks trained for claims 2, 5 and 6, the rank at the last block at "
    "initialization and the loss after training at the best step size have a rank correlation "
    "below -0.5, for the participation ratio of the features and of the Jacobian.",
    measurement="Spearman's correlation over networks (wiring, depth, activation, initial scale), "
    "one for each seed; its sign turned. Networks of the three studies differ in steps and batch.",
    theory="",
    predictions=tuple(map(_predicts, QUANTITIES)),
    depends="which rank is meant",
    budgets={preset: Budget(12, {"cells": ("all",)}) for preset in ("quick", "default", "paper")},
    measure=_measure,
    uses=USES,
    plots=(
        Plot(
            "prediction",
            _draw,
            "Loss after training against rank at initialization, a point for each network: "
            "medians over seeds.",
        ),
    ),
)
