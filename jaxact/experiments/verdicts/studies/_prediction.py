"""Claim 13: whether the rank at initialization predicts trainability, over all trained cells.

Claim: The rank at initialization predicts trainability.

Source: Schoenholz et al. 2017; Daneshmand et al. 2020

Sentence: "Random networks may be trained precisely when information can travel through them"
(Schoenholz et al. 2017, abstract).

Hypothesis: Over all networks trained for claims 2, 5 and 6, the rank at the last block at
initialization and the loss after training at the best step size have a rank correlation below -0.5,
for the participation ratio of the features and of the Jacobian; and so have, over the networks of
claims 2 and 5, the logarithm of the Jacobian's s_k over s_1, k a quarter of its directions, and the
loss: the tail, which a participation ratio does not see.

Measurement: Spearman's correlation over networks (wiring, depth, activation, initial scale), one
for each seed; its sign turned. Networks of the three studies differ in steps.

Practice: Do not read trainability off a rank alone at initialization; look at the tail of the
Jacobian's spectrum and at the gradient's size.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import wiring
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._effects import over_chance
from jaxact.experiments.verdicts._protocol import Batch, Budget, Prediction, Study, plotted, words
from jaxact.experiments.verdicts._statistics import rank_correlation
from jaxact.experiments.verdicts.studies import _phase, _placement, _trainability

USES = (_trainability.STUDY.name, _phase.STUDY.name, _placement.STUDY.name)
NETWORK = ["study", "wiring", "depth", "activation", "exponent"]
QUANTITIES = {
    "feature_participation": "participation of the features",
    "jacobian_participation": "participation of the Jacobian",
    "jacobian/spectral_decay": "tail of the Jacobian",
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
    loss = _plots.where(table, table.step == last, quantity="loss")
    loss = over_chance(loss).rename(columns={"value": "loss"})
    medians = loss.groupby(arms).loss.median().reset_index()
    best = medians.loc[medians.groupby(NETWORK).loss.idxmin(), arms]
    rank = _plots.where(table, quantity=quantity, step=0)
    deepest = rank.groupby(["study", "depth"]).layer.transform("max")
    rank = _plots.where(rank, rank.layer == deepest).rename(columns={"value": "rank"})
    keys = [*arms, "seed"]
    both = loss.filter([*keys, "loss"]).merge(rank.filter([*keys, "rank"]), on=keys)
    return both.merge(best, on=arms)


def _predicts(quantity: str) -> Prediction:
    def effect(table: pd.DataFrame) -> np.ndarray:
        both = networks(table, quantity)
        # A decay is the more the less rank there is.
        sign = 1 if quantity.endswith("decay") else -1
        pairs = (of for _, of in both.groupby("seed"))
        return np.array([sign * rank_correlation(of["rank"], of.loss) for of in pairs])

    return Prediction(
        QUANTITIES[quantity],
        f"Over networks, the {QUANTITIES[quantity]} at the last block at initialization and the "
        "loss after training are ordered oppositely.",
        effect,
        bound=0.5,
        unit="rank correlation",
        reason="a quarter of the variance of the ranks (0.5 squared)",
    )


def _measure(batch: Batch) -> list[pd.DataFrame]:
    """Nothing of its own: the rows are those of the studies it uses."""
    empty = pd.DataFrame({"quantity": ["none"], "value": [0.0], "seed": [-1]})
    return [empty for _ in batch.cells]


@plotted("prediction")
def _draw(table: pd.DataFrame) -> Figure:
    """Loss after training against rank at initialization, a point for each network: medians over
    seeds.
    """
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
        called=lambda word: wiring.get(word).label,
    )


STUDY = Study(
    name="prediction",
    **words(__doc__),
    predictions=tuple(map(_predicts, QUANTITIES)),
    depends="which rank is meant",
    budgets={preset: Budget(12, {"cells": ("all",)}) for preset in ("quick", "default", "paper")},
    measure=_measure,
    uses=USES,
    plots=(_draw,),
)
