"""What claims 14 and 15 make of a table, on tables whose effects are known."""

import math

import numpy as np
import pandas as pd
import pytest

from jaxact.experiments.verdicts import _cells as cells
from jaxact.experiments.verdicts._protocol import Batch
from jaxact.experiments.verdicts.studies import _causal, _degradation

SEEDS, RATES, CHANCE = (0, 1, 2), (1e-4, 1e-3), 2.0
RANKS = (
    "jacobian/participation_ratio",
    "jacobian/stable_rank",
    "jacobian/effective_rank",
    "jacobian/spectral_decay",
)


def _rows(quantity, value, layers=(0,), **columns):
    """A row for each seed, rate, step and layer; ``value(seed, rate, first, last layer)``."""
    return [
        dict(quantity=quantity, seed=seed, rate=rate, step=step, layer=layer, chance=CHANCE,
             value=value(seed, rate, step == 0, layer == layers[-1]), **columns)
        for seed in SEEDS
        for rate in RATES
        for step in (0, 5)
        for layer in layers
    ]  # fmt: skip


def _losses(left, **columns):
    """What is left at the second rate, with twice as much at the first and another order before.

    The seeds differ by more than the networks, so that effects are equal only if they are paired.
    """

    def value(seed, rate, first, last_layer):
        if first:
            return CHANCE * (1 - left)
        return CHANCE * left / 10 ** (seed == 1) * (1 if rate == RATES[1] else 2)

    return _rows("loss", value, **columns)


LEFT = {
    ("own", 0.0): 0.4,
    ("twin", 0.0): 0.2,
    ("isometry", 0.0): 0.05,
    ("exponential 1.05", 0.0): 0.3,
    ("spike 1.05", 0.0): 0.1,
    ("own", 0.3): 0.1,
}


def _causal_table(changes=None, raised=2.0):
    """Less rank is more loss at the last block before training, and the reverse elsewhere."""
    found = []
    for (start, spread), left in {**LEFT, **(changes or {})}.items():
        where = dict(start=start, spread=spread)
        found += _losses(left, **where)
        ratio = raised if spread else 1.0
        found += _rows(
            "feature_participation",
            lambda seed, rate, first, last, r=ratio: 0.1 * (r if last and not first else 1 / r),
            (1, 2),
            **where,
        )
        for quantity in RANKS:
            right = 1 if quantity == "jacobian/spectral_decay" else -1
            found += _rows(
                quantity,
                lambda seed, rate, first, last, r=right, of=LEFT[start, 0.0], free=not spread: (
                    of ** (r if first and last and free else -r)
                ),
                (1, 2),
                **where,
            )
    return pd.DataFrame(found)


def _predictions(study):
    return {prediction.name: prediction for prediction in study.predictions}


class TestCausal:
    EFFECTS = (
        ("less rank, more loss (exponential fall)", math.log(6)),
        ("less rank, more loss (one large value and equal others)", math.log(2)),
        ("a participation ratio of 1.05 says it", math.log(3)),
        ("He's spectrum alone does what He's network does", 2 / 3),
        ("keeping the rank lets He's network train", math.log(4)),
        *((f"{_causal.RANKS[quantity]} orders the losses", 1.0) for quantity in RANKS),
    )

    @pytest.mark.parametrize(("name", "effect"), EFFECTS)
    def test_effects(self, name, effect):
        found = _predictions(_causal.STUDY)[name].effect(_causal_table())
        np.testing.assert_allclose(found, [effect] * 3)

    def test_every_prediction_has_a_known_effect(self):
        assert [name for name, _ in self.EFFECTS] == list(_predictions(_causal.STUDY))

    def test_a_start_that_diverged_keeps_all_of_the_loss(self):
        table = _causal_table()
        lost = (table.start == "exponential 1.05") & (table.quantity == "loss") & (table.step == 5)
        worse, *_ = _causal.STUDY.predictions
        at_best = worse.effect(table)
        table.loc[lost & (table.rate == RATES[0]), "value"] = math.nan
        np.testing.assert_array_equal(worse.effect(table), at_best)
        table.loc[lost, "value"] = math.nan
        np.testing.assert_allclose(worse.effect(table), -np.log([0.05, 0.005, 0.05]))

    def test_gates(self):
        """All but the orders ask that the isometry trains, or the regularizer that rank rises."""
        predictions = _predictions(_causal.STUDY)

        def missed(**changes):
            table = _causal_table(**changes)
            return [n for n, p in enumerate(predictions.values()) if p.missed(table)]

        assert missed() == []
        assert missed(raised=1.6) == []
        assert missed(raised=1.4) == [4]
        assert missed(changes={("isometry", 0.0): 0.45}) == []
        assert missed(changes={("isometry", 0.0): 0.55}) == [0, 1, 2, 3]
        assert missed(changes={("own", 0.0): 0.9, ("own", 0.3): 0.9}) == []

    def test_rules(self):
        rules = [(p.side, p.bound) for p in _causal.STUDY.predictions]
        half_again = pytest.approx(math.log(1.5))
        above, below = ("above", half_again), ("below", half_again)
        orders = [("above", 0.8)] * 4
        assert rules == [above, above, below, ("above", 0.5), above, *orders]

    @pytest.mark.parametrize("preset", ["quick", "default", "paper"])
    def test_only_the_network_as_it_was_made_is_regularized(self, preset):
        found = _causal.STUDY.cells(preset)
        budget = _causal.STUDY.budget(preset)
        assert {cell["start"] for cell in found if cell["spread"]} == {"own"}
        free = [cell for cell in found if not cell["spread"]]
        assert len(free) == len(budget.grid["start"]) * len(budget.grid["rate"])
        assert {start for start, _ in LEFT} <= {cell["start"] for cell in free}

    def test_figure(self):
        """Ranks before training against what is left of the loss after it."""
        (plot,) = _causal.STUDY.plots
        axes = plot.draw(_causal_table()).axes
        assert [a.get_title() for a in axes] == list(_causal.TITLES.values())
        for a in axes[:3]:
            points = {line.get_label(): line.get_xydata()[0] for line in a.lines}
            assert len(points) == len(LEFT) - 1
            np.testing.assert_allclose(points["He's initialization"], (1 / 0.4, 0.4))
            np.testing.assert_allclose(points["exponential"], (1 / 0.3, 0.3))
            assert a.get_yscale() == "log"


NETWORKS = {
    ("original+plain", 27): 0.4,
    ("original+plain", 9): 0.2,
    ("original+plain", 3): 0.05,
    ("original", 27): 0.02,
    ("original", 9): 0.03,
    ("original", 3): 0.04,
}


def _degradation_table(changes=None):
    """Plain networks lose rank at the deepest's last block before training, and only there."""
    found = []
    for (wiring, depth), left in {**NETWORKS, **(changes or {})}.items():
        where = dict(wiring=wiring, depth=depth)
        found += _losses(left, **where)
        for quantity, ratio in (("jacobian/effective_rank", 3), ("feature_participation", 2)):
            base = ratio if wiring == "original" else 1
            found += _rows(
                quantity,
                lambda seed, rate, first, last, b=base, deep=depth == 27: (
                    b if first and last and deep else 1 / b
                ),
                (1, 2),
                **where,
            )
    return pd.DataFrame(found)


class TestDegradation:
    EFFECTS = (
        ("plain: the deepest keeps more than the shallowest", math.log(8)),
        ("plain: the deepest keeps more than the second deepest", math.log(2)),
        ("residual: the deepest keeps no more than the shallowest", -math.log(2)),
        ("deepest: plain keeps more than residual", math.log(20)),
        ("deepest: effective rank of the Jacobian says so in advance", math.log(3)),
        ("deepest: participation ratio of the features says so in advance", math.log(2)),
    )

    @pytest.mark.parametrize(("name", "effect"), EFFECTS)
    def test_effects(self, name, effect):
        found = _predictions(_degradation.STUDY)[name].effect(_degradation_table())
        np.testing.assert_allclose(found, [effect] * 3)

    def test_every_prediction_has_a_known_effect(self):
        assert [name for name, _ in self.EFFECTS] == list(_predictions(_degradation.STUDY))

    def test_gates(self):
        def missed(*network):
            table = _degradation_table({network: 0.55} if network else {})
            return [n for n, p in enumerate(_degradation.STUDY.predictions) if p.missed(table)]

        assert missed() == []
        assert missed("original+plain", 3) == [0, 1]
        assert missed("original", 3) == [2]
        assert missed("original", 27) == [3]
        assert missed("original+plain", 27) == []

    def test_rules(self):
        bounds = [p.bound for p in _degradation.STUDY.predictions]
        assert bounds == [pytest.approx(math.log(1.5))] * 6
        sides = [p.side for p in _degradation.STUDY.predictions]
        assert sides == ["above", "above", "below", "above", "above", "above"]

    def test_figures(self):
        """Losses at the step size that is best at the end; ranks by block, before and after."""
        by_step, by_block = (plot.draw(_degradation_table()) for plot in _degradation.STUDY.plots)
        plain = {line.get_label(): line.get_ydata() for line in by_step.axes[0].lines}
        np.testing.assert_allclose(plain["56 layers"], (0.6, 0.4))
        np.testing.assert_allclose(plain["8 layers"], (0.95, 0.05))
        before, after = by_block.axes
        assert [a.get_title() for a in by_block.axes] == ["after 0 steps", "after 5 steps"]
        residual = {line.get_label(): line.get_ydata() for line in before.lines}
        (label,) = {name for name, y in residual.items() if y[-1] == 3}
        np.testing.assert_allclose(residual[label], (1 / 3, 3))
        assert all(line.get_ydata()[-1] in (1, 1 / 3) for line in after.lines)


def test_cells_start_as_they_say():
    """By number, in the order in which the batch's cells name them."""
    names = ("isometry", "own", "isometry", "twin")
    batch = Batch(
        tuple(dict(start=name, rate=rate) for rate, name in enumerate(names)),
        (0,),
        dict(activation="relu", depth=4, width=8),
        None,
    )
    assert cells._starts(batch) == ("isometry", "own", "twin")
    assert [arm.start for arm in cells._arms(batch, "relu").values()] == [0, 1, 0, 2]
    assert [arm.rate for arm in cells._arms(batch, "relu").values()] == [0, 1, 2, 3]
    plain = batch._replace(cells=(dict(rate=1.0),))
    assert cells._starts(plain) == ()
    assert [arm.start for arm in cells._arms(plain, "relu").values()] == [0]
