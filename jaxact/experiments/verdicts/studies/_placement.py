"""Claim 6: what the placement of the norm does to training, regularization and depth.

Claim: Post-norm regularizes more and converges better when it trains; pre-norm trains deeper, but
its late blocks add little.

Source: Xiong et al. 2020; Liu et al. 2020; Wang et al. 2024

Sentence: "At initialization, for the original-designed Post-LN Transformer, which places the layer
normalization between the residual blocks, the expected gradients of the parameters near the output
layer are large" (Xiong et al. 2020, abstract).

Hypothesis: At the best step size and warm-up, shallow post-norm networks reach a higher test
accuracy and a smaller gap to it; deep ones end at a higher loss than pre-norm, gain more from
warm-up at the largest step size at which warm-up lets them train, and have gradients that grow
towards the output, while pre-norm's do not. In deep pre-norm networks a block of the last quarter
matters less than half as much as one of the first, and the gradient passes through less than half
of the blocks.

Measurement: MLPs with layer norm on digits, over a grid of step sizes and warm-ups: losses,
accuracies, gradient norms by block at initialization, the loss with each one block removed, and the
mean length of the gradient's paths (Veit et al. 2016) over depth.

Theory: At initialization pre-norm's stream grows as the root of the depth, so a late block is a
smaller part of it; post-norm's gradient shrinks by a factor at every block on its way back (Xiong
et al. 2020, section 3.3).

Practice: Take pre-norm for depth, and do not count on its last blocks; post-norm needs a small step
size, and a warm-up to bear a larger one.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import wiring
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    TRAINED,
    best,
    by_seed,
    largest_trained_rate,
    mean_by_seed,
    remaining,
    select,
)
from jaxact.experiments.verdicts._protocol import (
    Gate,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)

LABELS = {word: wiring.get(word).label for word in ("post", "pre")}


def _best(table: pd.DataFrame, word: str, depth: str) -> dict[str, object]:
    """The step size and warm-up of the smallest median loss at the end."""
    rows = select(table, "loss", wiring=word, depth=depth, step="last")
    return {"wiring": word, "depth": depth, **best(rows, ("rate", "warmup"))}


def _end(table: pd.DataFrame, quantity: str, word: str, depth: str) -> pd.Series:
    return by_seed(table, quantity, step="last", **_best(table, word, depth))


ACCURACY = "two of the 360 test digits, as far as one network differs from the next"
LOSS = "a hundredth of what there is to learn"
HALF = "less than half is what the claim's words ask for at the least"


def _trained(depth: str, *words: str) -> tuple[Gate, ...]:
    """Networks train at their best step size and warm-up."""

    def left(word: str) -> Any:
        return lambda table: remaining(table, **_best(table, word, depth))

    which = {"first": "shallow", "last": "deep"}[depth]
    return tuple(
        Gate(f"loss left in training ({which}, {LABELS[word]})", left(word), TRAINED, "below")
        for word in words
    )


@predicts(
    "shallow: post-norm tests better",
    bound=0.005,
    unit="accuracy",
    reason=ACCURACY,
    gates=_trained("first", "post", "pre"),
)
def _test_accuracy(table: pd.DataFrame) -> pd.Series:
    """Post-norm's test accuracy is higher in the shallow network."""
    post, pre = (_end(table, "test_accuracy", name, "first") for name in ("post", "pre"))
    return post - pre


@predicts(
    "shallow: post-norm's gap is smaller",
    bound=0.005,
    unit="accuracy",
    reason=ACCURACY,
    gates=_trained("first", "post", "pre"),
)
def _gap(table: pd.DataFrame) -> pd.Series:
    """Post-norm's training accuracy exceeds its test accuracy by less."""
    post, pre = (
        _end(table, "accuracy", name, "first") - _end(table, "test_accuracy", name, "first")
        for name in ("post", "pre")
    )
    return pre - post


@predicts(
    "deep: pre-norm trains to a lower loss",
    bound=0.01,
    unit="share of the loss of a guess",
    reason=LOSS,
    gates=_trained("last", "pre"),
)
def _deep(table: pd.DataFrame) -> pd.Series:
    """Post-norm's loss is higher in the deep network."""
    post, pre = (remaining(table, **_best(table, name, "last")) for name in ("post", "pre"))
    return post - pre


@predicts(
    "deep: pre-norm's late blocks matter less",
    bound=0.5,
    side="below",
    unit="ratio",
    reason=HALF,
    gates=_trained("last", "pre"),
)
def _late_lesions(table: pd.DataFrame) -> pd.Series:
    """The loss added without a late block is less than half of that without an early one."""
    # Loss added without one block of the last quarter, over that of the first quarter.
    where = _best(table, "pre", "last")
    rows = select(table, "lesion_loss", step="last", **where)
    whole = by_seed(table, "loss", step="last", **where)
    added = rows.assign(value=rows.value - rows.seed.map(whole))
    depth = int(rows.layer.max())
    early, late = (
        mean_by_seed(_plots.where(added, mask))
        for mask in (added.layer <= depth // 4, added.layer > depth - depth // 4)
    )
    return late / early


@predicts(
    "deep: pre-norm's paths are short",
    bound=0.5,
    side="below",
    unit="share of the blocks",
    reason=HALF,
    gates=_trained("last", "pre"),
)
def _effective_depth(table: pd.DataFrame) -> pd.Series:
    """The gradient passes through less than half of the blocks of a pre-norm network."""
    return _end(table, "effective_depth", "pre", "last")


def _gained(table: pd.DataFrame, word: str) -> pd.Series:
    """What warm-up takes off the loss, where it lets post-norm train at the largest step size."""
    rate = largest_trained_rate(table, wiring="post", depth="last", warmup="last")
    if math.isnan(rate):
        return by_seed(table, "loss", wiring=word, depth="last", step="last") * math.nan
    without, warm = (
        remaining(table, wiring=word, depth="last", rate=rate, warmup=which)
        for which in ("first", "last")
    )
    return without - warm


@predicts(
    "deep: post-norm needs warm-up more",
    bound=0.01,
    unit="share of the loss of a guess",
    reason=LOSS,
)
def _warmup(table: pd.DataFrame) -> pd.Series:
    """At the largest step size at which warm-up lets post-norm train, it lowers post-norm's loss by
    more than pre-norm's.
    """
    return _gained(table, "post") - _gained(table, "pre")


def _growth(table: pd.DataFrame, word: str) -> pd.Series:
    """How much the gradient's norm grows from the first block to the last, at initialization."""
    last, first = (
        by_seed(table, "gradient_norm", wiring=word, depth="last", step="first", layer=layer)
        for layer in ("last", "first")
    )
    return pd.Series(np.log(last / first))


GROWTH = "a factor of 1.65 over all blocks; seeds differ by a factor of about two"


@predicts(
    "deep: post-norm's gradient grows towards the output", bound=0.5, unit="nats", reason=GROWTH
)
def _post_grows(table: pd.DataFrame) -> pd.Series:
    """From first to last block the gradient's norm grows under post-norm."""
    return _growth(table, "post")


@predicts(
    "deep: pre-norm's gradient does not",
    bound=0.5,
    side="below",
    unit="nats",
    reason=GROWTH,
)
def _pre_does_not(table: pd.DataFrame) -> pd.Series:
    """From first to last block the gradient's norm does not grow under pre-norm."""
    return _growth(table, "pre")


@plotted("placement_blocks")
def _draw_layers(table: pd.DataFrame) -> Figure:
    """Deep networks: Frobenius norm of the gradient in each block's weight at initialization, and
    what the loss gains when one block is removed after training (at the best step size; values
    below 1e-4 are drawn there).
    """
    start = select(table, "gradient_norm", depth="last", step="first", rate="first", warmup="first")
    frames = [start.assign(panel="gradient norm at initialization")]
    for word in LABELS:
        where = _best(table, word, "last")
        lesions = select(table, "lesion_loss", step="last", **where)
        whole = by_seed(table, "loss", step="last", **where)
        added = lesions.assign(value=(lesions.value - lesions.seed.map(whole)).clip(lower=1e-4))
        frames.append(added.assign(panel="loss added without the block"))
    return _plots.lines(
        pd.concat(frames),
        x="layer",
        by="wiring",
        panel="panel",
        xlabel="block",
        ylabel="",
        logy=True,
        sharey=False,
        names=LABELS,
    )


@plotted("placement_grid")
def _draw_grid(table: pd.DataFrame) -> Figure:
    """Loss after training by step size, warm-up and depth; losses above 10 are drawn there."""
    rows = select(table, "loss", step="last")
    rows = rows.assign(
        line=rows.wiring.map(LABELS) + ", " + rows.depth.astype(str) + " blocks",
        panel="warm-up of " + rows.warmup.astype(int).astype(str) + " steps",
        value=rows.value.fillna(np.inf).clip(upper=10.0),
    )
    return _plots.lines(
        rows,
        x="rate",
        by="line",
        panel="panel",
        xlabel="step size",
        ylabel="loss after training",
        logx=True,
        logy=True,
    )


STUDY = Study(
    name="placement",
    **words(__doc__),
    predictions=(
        _test_accuracy,
        _gap,
        _deep,
        _late_lesions,
        _effective_depth,
        _warmup,
        _post_grows,
        _pre_does_not,
    ),
    depends="the part of the claim",
    budgets=budgets(
        by_preset(12, 12, 32),
        dict(
            wiring=("post", "pre"),
            depth=by_preset((4, 24), (6, 48), (8, 64, 256)),
            rate=by_preset((0.001, 0.01), *[(0.0001, 0.0003, 0.001, 0.003, 0.01)] * 2),
            warmup=by_preset((0, 40), (0, 200), (0, 500, 2000)),
        ),
        dict(
            activation="relu",
            width=by_preset(32, 64, 256),
            steps=by_preset(120, 1000, 10000),
            batch_size=32,
            examples=by_preset(128, 256, 512),
            marks="ends",
            measures=[
                "loss",
                "accuracy",
                "feature_participation",
                "jacobian_participation",
                "gradient_norm",
                "lesion_loss",
                "effective_depth",
            ],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("wiring", "depth"),
    plots=(_draw_layers, _draw_grid),
)
