"""Claim 15: more layers, more training loss: plain networks degrade, residual ones do not.

Claim: With batch norm, deeper plain networks end at a higher training error; with shortcuts they do
not.

Source: He et al. 2015

Sentence: "Unexpectedly, such degradation is not caused by overfitting, and adding more layers to a
suitably deep model leads to higher training error" (He et al. 2015, section 1 and figure 1).

Hypothesis: Of plain convolutional networks with batch norm the deeper one keeps more of the
training loss, from 20 to 56 layers as in the source's figure 1, and from 8; of residual networks
the deepest keeps no more than the shallowest. The ranks at the last block before training say so
in advance.

Measurement: Training loss of 3 x 3 convolutional networks of 8 channels at the best of the step
sizes; the network is the source's for CIFAR-10 (stem, blocks of two convolutions, mean over
positions, dense head) without its two changes of resolution and at 8 x 8 pixels of digits, trained
by Adam and without augmentation where the source takes SGD with momentum, crops and mirror images,
and judged by the loss where it shows the error. Batch norms are measured with the statistics of the
measured examples, 256 of those that are trained on; ranks of the Jacobian at one of them.

Theory: Batch norm keeps the rank of a linear network above a power of its width (Daneshmand et al.
2020), and makes the gradients of a network without shortcuts grow exponentially towards the input
(Yang et al. 2019, "A mean field theory of batch normalization"): the first speaks for deep plain
networks, the second against them.

Practice: A network of eight layers with batch norm needs no shortcuts; one of twenty keeps several
times the training loss without them, and one of fifty-six learns little.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import wiring
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    HALF_AGAIN,
    NOISE,
    at_best_rate,
    by_seed,
    log_left,
    over_chance,
    select,
    trains,
)
from jaxact.experiments.verdicts._protocol import (
    Prediction,
    Study,
    budgets,
    plotted,
    predicts,
    words,
)

PLAIN, RESIDUAL = "original+plain", "original"
UNIT = "nats of the ratio of losses"


def _depths(table: pd.DataFrame) -> list[int]:
    return sorted(_plots.values_of(select(table, "loss"), "depth"))


def _layers(blocks: int) -> int:
    """Layers of weights, as the source counts them."""
    return 2 * blocks + 2


def _deeper(deep: int, shallow: int) -> Prediction:
    which = {0: "shallowest", -2: "second deepest", -1: "deepest"}

    def effect(table: pd.DataFrame) -> pd.Series:
        depths = _depths(table)
        kept, other = (log_left(table, wiring=PLAIN, depth=depths[i]) for i in (deep, shallow))
        return kept - other

    return Prediction(
        f"plain: the {which[deep]} keeps more than the {which[shallow]}",
        f"The {which[deep]} plain network keeps half again as much of the training loss as the "
        f"{which[shallow]}.",
        effect,
        bound=HALF_AGAIN,
        unit=UNIT,
        reason=NOISE,
        gates=(trains(wiring=PLAIN, depth="first"),),
    )


@predicts(
    "residual: the deepest keeps no more than the shallowest",
    bound=HALF_AGAIN,
    side="below",
    unit=UNIT,
    reason=NOISE,
    gates=(trains(wiring=RESIDUAL, depth="first"),),
)
def _residual(table: pd.DataFrame) -> pd.Series:
    """The deepest residual network keeps less than half again of what the shallowest keeps."""
    last, first = (log_left(table, wiring=RESIDUAL, depth=depth) for depth in ("last", "first"))
    return last - first


@predicts(
    "deepest: plain keeps more than residual",
    bound=HALF_AGAIN,
    unit=UNIT,
    reason=NOISE,
    gates=(trains(wiring=RESIDUAL, depth="last"),),
)
def _shortcuts(table: pd.DataFrame) -> pd.Series:
    """The deepest plain network keeps half again as much of the training loss as the residual."""
    plain, residual = (log_left(table, wiring=word, depth="last") for word in (PLAIN, RESIDUAL))
    return plain - residual


def _rank(table: pd.DataFrame, word: str, quantity: str) -> pd.Series:
    rows = select(table, quantity, step="first", wiring=word, depth="last")
    return by_seed(rows, quantity, layer="last", rate="first")


def _says(quantity: str, label: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        return pd.Series(np.log(_rank(table, RESIDUAL, quantity) / _rank(table, PLAIN, quantity)))

    return Prediction(
        f"deepest: {label} says so in advance",
        f"Before training, the {label} at the deepest network's last block is smaller in the plain "
        "network, by a third or more.",
        effect,
        bound=HALF_AGAIN,
        unit="nats of the ratio of ranks",
        reason="the same ratio as is asked of the losses",
    )


@plotted("degradation")
def _draw(table: pd.DataFrame) -> Figure:
    """Training loss over that of a guess by step, at each network's best step size, after the
    source's figure 1; left plain, right residual. Median over seeds, band from least to largest.
    """
    losses = over_chance(select(table, "loss"))
    last = _plots.where(losses, step=losses.step.max())
    rows = at_best_rate(losses, last, ("wiring", "depth"))
    depths = {depth: f"{_layers(depth)} layers" for depth in _plots.values_of(rows, "depth")}
    return _plots.lines(
        rows,
        x="step",
        by="depth",
        panel="wiring",
        xlabel="step",
        ylabel="training loss over that of a guess",
        names={**depths, **{word: wiring.get(word).label for word in (PLAIN, RESIDUAL)}},
    )


@plotted("degradation_rank")
def _draw_rank(table: pd.DataFrame) -> Figure:
    """Effective rank of the Jacobian from the 64 pixels of one example to each block of the deepest
    networks, before and after training at the best step size. Median over seeds, band from least to
    largest.
    """
    rows = select(table, "jacobian/effective_rank", depth="last")
    losses = over_chance(select(table, "loss", step="last", depth="last"))
    rows = at_best_rate(rows, losses, ("wiring",))
    rows = _plots.where(rows, step=(rows.step.min(), rows.step.max()))
    return _plots.lines(
        rows,
        x="layer",
        by="wiring",
        panel="step",
        xlabel="block",
        ylabel="effective rank",
        names={
            **{word: wiring.get(word).label for word in (PLAIN, RESIDUAL)},
            **{step: f"after {step:g} steps" for step in rows.step.unique()},
        },
    )


STUDY = Study(
    name="degradation",
    **words(__doc__),
    predictions=(
        _deeper(-1, 0),
        _deeper(-1, -2),
        _residual,
        _shortcuts,
        _says("jacobian/effective_rank", "effective rank of the Jacobian"),
        _says("feature_participation", "participation ratio of the features"),
    ),
    depends="shortcuts and depth",
    budgets=budgets(
        dict(default=12, paper=16),
        dict(
            wiring=(PLAIN, RESIDUAL),
            depth=dict(default=(3, 9, 27), paper=(3, 9, 27, 54)),
            rate=(0.003, 0.01, 0.03),
        ),
        dict(
            activation="relu",
            kind="conv",
            norm="batch",
            width=dict(default=8, paper=16),
            steps=dict(default=300, paper=5000),
            marks=dict(default=(0, 30, 100, 300), paper=(0, 300, 1000, 3000, 5000)),
            batch_size=32,
            examples=256,
            measures=["loss", "accuracy", "feature_participation", "jacobian/effective_rank"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("wiring", "depth"),
    plots=(_draw, _draw_rank),
)
