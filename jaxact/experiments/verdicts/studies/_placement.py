# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
"""Claim 6: what the placement of the norm does to training, regularization and depth."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import by_seed, remaining, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Budget, Plot, Prediction, Study

LABELS = {"post": "post-norm", "pre": "pre-norm"}


def _best(table: pd.DataFrame, wiring: str, depth: str) -> dict[str, object]:
    """The step size and warm-up of the smallest median loss at the end."""
    rows = select(table, "loss", wiring=wiring, depth=depth, step="last")
    medians = rows.groupby(["rate", "warmup"]).value.median()
    rate, warmup = medians.idxmin()
    return {"wiring": wiring, "depth": depth, "rate": rate, "warmup": warmup}


def _end(table: pd.DataFrame, quantity: str, wiring: str, depth: str) -> pd.Series:
    return by_seed(table, quantity, step="last", **_best(table, wiring, depth))


def _test_accuracy(table: pd.DataFrame) -> pd.Series:
    post, pre = (_end(table, "test_accuracy", name, "first") for name in ("post", "pre"))
    return post - pre


def _gap(table: pd.DataFrame) -> pd.Series:
    post, pre = (
        _end(table, "accuracy", name, "first") - _end(table, "test_accuracy", name, "first")
        for name in ("post", "pre")
    )
    return pre - post


def _deep(table: pd.DataFrame) -> pd.Series:
    post, pre = (remaining(table, **_best(table, name, "last")) for name in ("post", "pre"))
    return post - pre


def _late_lesions(table: pd.DataFrame) -> pd.Series:
    """Loss added without one block of the last quarter, over that of the first quarter."""
    where = _best(table, "pre", "last")
    rows = select(table, "lesion_loss", step="last", **where)
    whole = by_seed(table, "loss", step="last", **where)
    added = rows.assign(value=rows.value - rows.seed.map(whole))
    depth = int(rows.layer.max())
    early, late = (
        added[mask].groupby("seed").value.mean()
        for mask in (added.layer <= depth // 4, added.layer > depth - depth // 4)
    )
    return late / early


def _effective_depth(table: pd.DataFrame) -> pd.Series:
    return _end(table, "effective_depth", "pre", "last")


def _warmup(table: pd.DataFrame) -> pd.Series:
    def gained(wiring: str) -> pd.Series:
        without, warm = (
            remaining(table, wiring=wiring, depth="last", rate="last", warmup=which)
            for which in ("first", "last")
        )
        return without - warm

    return gained("post") - gained("pre")


def _gradients(table: pd.DataFrame) -> pd.Series:
    def growth(wiring: str) -> pd.Series:
        last, first = (
            by_seed(table, "gradient_norm", wiring=wiring, depth="last", step="first", layer=layer)
            for layer in ("last", "first")
        )
        return np.log(last / first)

    return growth("post") - growth("pre")


def _draw_layers(table: pd.DataFrame) -> Figure:
    deep = table[table.depth == table.depth.max()]
    start = select(deep, "gradient_norm", step="first")
    start = start[(start.rate == start.rate.min()) & (start.warmup == start.warmup.min())]
    frames = [start.assign(panel="gradient norm at initialization")]
    for wiring in LABELS:
        where = _best(table, wiring, "last")
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


def _draw_grid(table: pd.DataFrame) -> Figure:
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
    number=6,
    claim="Post-norm regularizes more and converges better when it trains; pre-norm trains deeper, "
    "but its late blocks add little.",
    source="Xiong et al. 2020; Liu et al. 2020; Wang et al. 2024",
    hypothesis="At the best step size and warm-up, shallow post-norm networks reach a higher test "
    "accuracy and a smaller gap to it; deep ones end at a higher loss than pre-norm, gain more "
    "from warm-up, and have gradients that grow towards the output. In deep pre-norm networks a "
    "block of the last quarter matters less than half as much as one of the first, and the "
    "gradient passes through less than half of the blocks.",
    measurement="MLPs with layer norm on digits, over a grid of step sizes and warm-ups: losses, "
    "accuracies, gradient norms by block at initialization, the loss with each one block removed, "
    "and the mean length of the gradient's paths (Veit et al. 2016) over depth.",
    theory="At initialization pre-norm's stream grows as the root of the depth, so a late block is "
    "a smaller part of it; post-norm's gradient shrinks by a factor at every block on its way "
    "back (Xiong et al. 2020, section 3.3).",
    predictions=(
        Prediction(
            "shallow: post-norm tests better",
            "Post-norm's test accuracy is higher in the shallow network.",
            _test_accuracy,
            bound=0.005,
            unit="accuracy",
        ),
        Prediction(
            "shallow: post-norm's gap is smaller",
            "Post-norm's training accuracy exceeds its test accuracy by less.",
            _gap,
            bound=0.005,
            unit="accuracy",
        ),
        Prediction(
            "deep: pre-norm trains to a lower loss",
            "Post-norm's loss is higher in the deep network.",
            _deep,
            bound=0.01,
            unit="share of the loss of a guess",
        ),
        Prediction(
            "deep: pre-norm's late blocks matter less",
            "The loss added without a late block is less than half of that without an early one.",
            _late_lesions,
            bound=0.5,
            side="below",
            unit="ratio",
        ),
        Prediction(
            "deep: pre-norm's paths are short",
            "The gradient passes through less than half of the blocks of a pre-norm network.",
            _effective_depth,
            bound=0.5,
            side="below",
            unit="share of the blocks",
        ),
        Prediction(
            "deep: post-norm needs warm-up more",
            "At the largest step size warm-up lowers post-norm's loss by more.",
            _warmup,
            bound=0.01,
            unit="share of the loss of a guess",
        ),
        Prediction(
            "deep: post-norm's gradient grows towards the output",
            "From first to last block the gradient's norm grows more under post-norm.",
            _gradients,
            bound=0.5,
            unit="nats",
        ),
    ),
    depends="the part of the claim",
    budgets={
        preset: Budget(
            seeds,
            {"wiring": ("post", "pre"), "depth": depths, "rate": rates, "warmup": warmups},
            {
                "activation": "relu",
                "width": width,
                "steps": steps,
                "batch_size": 32,
                "examples": examples,
                "marks": "ends",
                "measures": [
                    "loss",
                    "accuracy",
                    "feature_rank",
                    "jacobian_participation",
                    "gradient_norm",
                    "lesion_loss",
                    "effective_depth",
                ],
            },
        )
        for preset, seeds, depths, rates, warmups, width, steps, examples in (
            ("quick", 12, (4, 24), (1e-3, 1e-2), (0, 40), 32, 120, 128),
            ("default", 12, (6, 48), (3e-4, 1e-3, 3e-3, 1e-2), (0, 200), 64, 1000, 256),
            (
                "paper",
                32,
                (8, 64, 256),
                (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
                (0, 500, 2000),
                256,
                10000,
                512,
            ),
        )
    },
    measure=train_cells,
    together=("wiring", "depth"),
    plots=(
        Plot(
            "placement_blocks",
            _draw_layers,
            "Deep networks: Frobenius norm of the gradient in each block's weight at "
            "initialization, and what the loss gains when one block is removed after training (at "
            "the best step size; values below 1e-4 are drawn there).",
        ),
        Plot(
            "placement_grid",
            _draw_grid,
            "Loss after training by step size, warm-up and depth; losses above 10 are drawn there.",
        ),
    ),
)
