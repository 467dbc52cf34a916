"""Claim 14: whether the loss of rank is what keeps deep networks from training.

Claim: Deep networks degrade because they lose rank: rank stability is a condition for training.

Source: Daneshmand et al. 2020; Saxe et al. 2014; Balduzzi et al. 2017; Pennington et al. 2017; Feng
et al. 2022

Sentence: "rank stability is indeed a crucial condition for training modern-day deep neural
architectures" (Daneshmand et al. 2020, abstract).

Hypothesis: Of plain networks that differ in nothing but the spectrum of their blocks' product,
those of little rank train worse, whatever the spectrum's shape; a network given He's spectrum, and
linear otherwise, degrades as He's does; a regularizer that keeps the features' rank lets He's
train. Which rank is meant is decided beside it: the ordering of the losses by each of four.

Measurement: Rectifier networks on digits at the best of the step sizes (Adam). Units in pairs
[u, -u] make a network linear at the start (Balduzzi et al. 2017), so that the singular values of
its blocks' Jacobian, at every input, are up to one factor the D that W = U D^(1/L) V^T prescribes,
with Haar random bases in which each block takes up where the one before ends. D falls as a power,
exponentially, or after its first value not at all, with a participation ratio between 1 and half
the width; or is measured in the network of the same seed at He's initialization, where logarithms
are averaged over four inputs. The mean square of D is the same in all that are linear at the start;
that of the logits, width, depth, data and batches are the same in all. Not the same are the norms
of the blocks' weights (the steeper D falls, the smaller) and of the head's, nor the share of the
logits that varies with the input, which is least at He's initialization. Adam's step in the weights
does not depend on a constant scale of the gradient; what it does to the logits does. The ranks that
order the losses are those of the Jacobian from the input, through the stem, at one example. At the
default budget seven of the twelve starts all but solve the task, and the smallest step size is the
best for eight: the order of losses rests on both.

Theory: By gradient descent a linear network whose blocks share their bases learns along a singular
direction at a speed that grows with its singular value (Saxe et al. 2014), so a direction at
exp(-20) waits while those before it are fitted: what decides is how many directions are within
reach, not how much of the square norm the first one holds (the participation ratio). The source's
rank is that of the features; where a network is linear they are its inputs times the Jacobian.

Practice: To learn whether a deep network will train, look at the tail of its Jacobian's spectrum of
logarithms, or at the entropy's effective rank; a participation or stable rank near 1 alone does not
say.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments import _plots
from jaxact.experiments._starts import ISOMETRY, OWN, TWIN
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    HALF_AGAIN,
    NOISE,
    by_seed,
    log_left,
    remaining,
    select,
    trains,
)
from jaxact.experiments.verdicts._protocol import (
    Cell,
    Gate,
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)
from jaxact.experiments.verdicts._statistics import rank_correlation

STEEP, FLAT = "exponential 1.05", "spike 1.05"
"""The same participation ratio, 1.05, with and without a tail that falls."""
RANKS = {
    "jacobian/participation_ratio": "participation ratio",
    "jacobian/stable_rank": "stable rank",
    "jacobian/effective_rank": "effective rank (entropy)",
    "jacobian/spectral_decay": r"decay, ln $s_1/s_k$ at a quarter",
}
TITLES = dict(
    zip(RANKS, ("participation", "stable rank", "effective rank", "decay, nats"), strict=True)
)
MORE = ("jacobian/spectral_decay",)
"""Of the ranks those that are the greater the less rank there is."""
SPREAD = 0.3
"""The regularizer's weight."""


def _log_left(table: pd.DataFrame, start: str, spread: float = 0.0) -> pd.Series:
    return log_left(table, start=start, spread=spread)


def _worse(start: str, label: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        return _log_left(table, start) - _log_left(table, ISOMETRY)

    return Prediction(
        f"less rank, more loss ({label})",
        f"A spectrum of {label} and a participation ratio of 1.05 leaves more of the loss than one "
        "of equal singular values.",
        effect,
        bound=HALF_AGAIN,
        unit="nats of the ratio of losses",
        reason=NOISE,
        gates=(trains(start=ISOMETRY, spread=0.0),),
    )


@predicts(
    "a participation ratio of 1.05 says it",
    bound=HALF_AGAIN,
    side="below",
    unit="nats of the ratio of losses",
    reason=NOISE,
    gates=(trains(start=ISOMETRY, spread=0.0),),
)
def _participation(table: pd.DataFrame) -> pd.Series:
    """At a participation ratio of 1.05 it makes no difference whether the tail of the spectrum
    falls.
    """
    return _log_left(table, STEEP) - _log_left(table, FLAT)


@predicts(
    "He's spectrum alone does what He's network does",
    bound=0.5,
    unit="share of the logarithm of the loss added",
    reason="the larger part of what there is to explain",
    gates=(trains(start=ISOMETRY, spread=0.0),),
)
def _twin(table: pd.DataFrame) -> pd.Series:
    """Of what He's initialization adds to the logarithm of the loss of equal singular values, more
    than half is added by its spectrum in a network that is linear at the start.
    """
    isometry = _log_left(table, ISOMETRY)
    return (_log_left(table, TWIN) - isometry) / (_log_left(table, OWN) - isometry)


def _raised(table: pd.DataFrame) -> pd.Series:
    """What the regularizer multiplies the features' participation at the last block by."""
    end = dict(step="last", layer="last", start=OWN)
    return by_seed(table, "feature_participation", spread=SPREAD, **end) / by_seed(
        table, "feature_participation", spread=0.0, **end
    )


@predicts(
    "keeping the rank lets He's network train",
    bound=HALF_AGAIN,
    unit="nats of the ratio of losses",
    reason=NOISE,
    gates=(Gate("features' participation, over that without", _raised, 1.5, "above"),),
)
def _kept(table: pd.DataFrame) -> pd.Series:
    """With a regularizer that raises the participation ratio of the features of every block, He's
    initialization ends at a lower loss.
    """
    return _log_left(table, OWN) - _log_left(table, OWN, SPREAD)


def orders(table: pd.DataFrame, quantity: str) -> np.ndarray:
    """For each seed the rank correlation, over starts, of a lack of rank with the loss left."""
    starts = _plots.values_of(table, "start")
    left = {start: remaining(table, start=start, spread=0.0) for start in starts}
    rank = {start: _at_start(table, quantity, start) for start in starts}
    sign = 1 if quantity in MORE else -1
    return np.array(
        [
            sign
            * rank_correlation([rank[s][seed] for s in starts], [left[s][seed] for s in starts])
            for seed in left[ISOMETRY].index
        ]
    )


def _at_start(table: pd.DataFrame, quantity: str, start: str) -> pd.Series:
    """A rank of the last block's Jacobian before training."""
    rows = select(table, quantity, step="first", start=start, spread=0.0)
    return by_seed(rows, quantity, layer="last")


def _predictor(quantity: str) -> Prediction:
    return Prediction(
        f"{RANKS[quantity]} orders the losses",
        f"Over starts, the {RANKS[quantity]} at initialization and the loss after training are "
        "ordered as less rank, more loss.",
        lambda table: orders(table, quantity),
        bound=0.8,
        unit="rank correlation",
        reason="two thirds of the variance of the ranks (0.8 squared); "
        f"{len(RANKS) - 1} others compete",
    )


@plotted("causal")
def _draw(table: pd.DataFrame) -> Figure:
    """Loss left after training against four ranks of the Jacobian from the input to the last block
    before training, at one example, a point for each start: medians over seeds. Effective rank: the
    exponential of the entropy; decay: ln of the largest singular value over that at a quarter of
    them. All but He's network are linear at the start, with the same bases at the same seed.
    """
    named = _plots.values_of(table, "start")
    starts = [s for kind in CALLED for s in named if s.partition(" ")[0] == kind]
    frames = [
        pd.DataFrame(
            {
                "start": start.partition(" ")[0],
                "rank": [_at_start(table, quantity, start).median()],
                "value": [remaining(table, start=start, spread=0.0).median()],
                "panel": TITLES[quantity],
            }
        )
        for quantity in RANKS
        for start in starts
    ]
    return _plots.scatter(
        pd.concat(frames),
        x="rank",
        by="start",
        panel="panel",
        xlabel="of the Jacobian before training",
        ylabel="loss over that of a guess",
        called=lambda start: CALLED[start],
        logy=True,
    )


CALLED = {
    OWN: "He's initialization",
    TWIN: "its spectrum alone",
    ISOMETRY: "equal singular values",
    "power": "power law",
    "exponential": "exponential",
    "spike": "one large, the rest equal",
}


def _keep(cell: Cell) -> bool:
    return cell["spread"] == 0 or cell["start"] == OWN


STUDY = Study(
    name="causal",
    **words(__doc__),
    predictions=(
        _worse(STEEP, "exponential fall"),
        _worse(FLAT, "one large value and equal others"),
        _participation,
        _twin,
        _kept,
        *map(_predictor, RANKS),
    ),
    depends="which rank is meant",
    budgets=budgets(
        by_preset(12, 12, 16),
        dict(
            spread=(0.0, SPREAD),
            start=by_preset(
                (OWN, TWIN, ISOMETRY, STEEP, FLAT),
                (
                    *(OWN, TWIN, ISOMETRY),
                    *("power 8", "power 2", "power 1.3"),
                    *("exponential 8", "exponential 2", "exponential 1.3", STEEP),
                    *("spike 2", FLAT),
                ),
                (
                    *(OWN, TWIN, ISOMETRY),
                    *("power 16", "power 8", "power 4", "power 2", "power 1.3", "power 1.05"),
                    *("exponential 16", "exponential 8", "exponential 4", "exponential 2"),
                    *("exponential 1.3", STEEP, "spike 8", "spike 2", "spike 1.3", FLAT),
                ),
            ),
            rate=by_preset((3e-4,), (1e-4, 3e-4, 1e-3), (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
        ),
        dict(
            wiring="plain",
            activation="relu",
            depth=by_preset(20, 50, 50),
            width=by_preset(32, 64, 256),
            steps=by_preset(120, 600, 5000),
            marks="ends",
            batch_size=32,
            examples=by_preset(64, 256, 256),
            measures=["loss", "feature_participation", "gradient_norm", *RANKS],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("spread",),
    keep=_keep,
    plots=(_draw,),
)
