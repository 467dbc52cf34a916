"""Claim 8: GELU's approximations, in value, in gradient, and in training.

Claim: GELU's tanh and sigmoid forms approximate it closely enough that training does not notice.

Source: Hendrycks & Gimpel 2016

Sentence: The tanh and the sigmoid form are offered for where speed is worth more than exactness
(Hendrycks & Gimpel 2016, section 2, in our words).

Hypothesis: Values and gradients are off by at most 0.01 everywhere, and networks trained from the
same seeds end at a loss that is at most one and a half times that with the exact form.

Measurement: The largest error on a million points of [-10, 10]; plain networks of one width without
norm, trained on digits by Adam at the step size of the exact form and observed before the loss is
so small for all that nothing differs, paired by seed.

Practice: No harm in training was found of either form; but port weights with the form that they
were trained with, since the sigmoid form's values differ in the second digit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    HALF_AGAIN,
    NOISE,
    log_ratio,
    no_ceiling,
    select,
    trains,
)
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    words,
)

FORMS = {"gelu_tanh": "tanh", "gelu_sigmoid": "sigmoid"}
GRID = np.linspace(-10, 10, 1_000_001, dtype=np.float32)


@functools.cache
def errors(form: str) -> tuple[np.ndarray, np.ndarray]:
    """Error of value and gradient of an approximation on `GRID`, in float32."""
    rough = functools.partial(activations.gelu, approximate=form)
    x = jnp.asarray(GRID)
    found = [
        of(rough)(x) - of(activations.gelu)(x)
        for of in (lambda f: f, lambda f: jax.vmap(jax.grad(f)))
    ]
    return np.asarray(found[0]), np.asarray(found[1])


def _measure(batch: Batch) -> list[pd.DataFrame]:
    frames = []
    for cell, rows in zip(batch.cells, train_cells(batch), strict=True):
        form = FORMS.get(cell["activation"])
        if form:
            worst = (float(np.max(np.abs(error))) for error in errors(form))
            for name, value in zip(("value_error", "gradient_error"), worst, strict=True):
                exact = analysis.tidy(value, {}, quantity=name, seed=-1, step=0, layer=0)
                rows = pd.concat([rows, exact], ignore_index=True)
        frames.append(rows)
    return frames


def _error(name: str, quantity: str) -> Prediction:
    what = quantity.removesuffix("_error")

    def effect(table: pd.DataFrame) -> float:
        return float(select(table, quantity, activation=name).value.iloc[0])

    return Prediction(
        f"{what} ({FORMS[name]} form)",
        f"The {FORMS[name]} form's {what} is nowhere off by more than 0.01.",
        effect,
        bound=0.01,
        side="below",
        unit="largest error",
        exact=True,
        reason="the second decimal",
    )


def _unnoticed(name: str) -> Prediction:
    return Prediction(
        f"training ({FORMS[name]} form)",
        f"With the {FORMS[name]} form the loss is at most one and a half times that with the exact "
        "GELU.",
        lambda table: log_ratio(table, name, "gelu"),
        bound=HALF_AGAIN,
        side="below",
        unit="nats of loss",
        reason=NOISE,
        gates=(trains(activation="gelu"), no_ceiling(activation="gelu")),
    )


@plotted("gelu")
def _draw(table: pd.DataFrame) -> Figure:
    """Error of GELU's two approximations."""
    frames = []
    inside = np.abs(GRID) <= 5
    for label in FORMS.values():
        for quantity, error in zip(("value", "gradient"), errors(label), strict=True):
            frames.append(
                pd.DataFrame(
                    {
                        "x": GRID[inside][::1000],
                        "value": error[inside][::1000],
                        "form": label,
                        "quantity": f"error of {quantity}",
                    }
                )
            )
    return _plots.lines(
        pd.concat(frames),
        x="x",
        by="form",
        panel="quantity",
        xlabel="input",
        ylabel="approximate less exact",
    )


STUDY = Study(
    name="gelu",
    **words(__doc__),
    predictions=(
        *(
            _error(name, quantity)
            for quantity in ("value_error", "gradient_error")
            for name in FORMS
        ),
        *map(_unnoticed, FORMS),
    ),
    depends="the form, and whether value, gradient or training is meant",
    budgets=budgets(
        by_preset(16, 24, 32),
        dict(activation=("gelu", *FORMS)),
        dict(
            wiring="plain",
            depth=by_preset(10, 20, 30),
            width=by_preset(32, 64, 256),
            steps=by_preset(150, 200, 400),
            rate=by_preset(0.002, 0.001, 0.0005),
            batch_size=32,
            measures=["loss"],
        ),
    ),
    measure=_measure,
    prepare=trials,
    plots=(_draw,),
)
