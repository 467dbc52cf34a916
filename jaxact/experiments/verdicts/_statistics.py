"""From effects over seeds to decisions: exact intervals, corrected over all predictions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05
DECISIONS = ("confirmed", "refuted", "undecided", "not informative")


class Test(NamedTuple):
    """A prediction's effects over seeds, with the rule that decides on it.

    Attributes:
      effects: one number for each seed, or exact ones.
      bound: the smallest effect of interest.
      side: ``"above"`` or ``"below"``.
      exact: whether chance has no part in the effects.
      missed: why the effects say nothing, whatever they are; "" where they do.
    """

    effects: np.ndarray
    bound: float
    side: str
    exact: bool
    missed: str = ""


class Outcome(NamedTuple):
    """What the data say of a prediction.

    Attributes:
      decision: one of `DECISIONS`.
      effect: the median over seeds.
      low: the lower end of the median's interval; -inf where the seeds are too few for one.
      high: the upper end.
      level: the interval's confidence after correction; 1 for an exact effect.
      p: two-sided p-value of the median being the bound, before correction.
      seeds: how many effects there are.
      missed: why it is not informative.
    """

    decision: str
    effect: float
    low: float
    high: float
    level: float
    p: float
    seeds: int
    missed: str = ""


def decide(tests: Sequence[Test], /, *, alpha: float = ALPHA) -> list[Outcome]:
    """Decides on all predictions of a run together.

    Of each, the median effect over seeds is compared with the bound by the sign test, whose p-value
    and interval (order statistics) are exact for any distribution. The p-values are corrected by
    Holm's step-down procedure: the i-th smallest of m is tested at level alpha / (m - i + 1), and
    its interval shown at that level; from the first that fails on, none is decided. Tests that are
    not informative are none the less counted among the m: what missed a gate, the data said.

    Args:
      tests: the predictions of all claims of the run.
      alpha: the probability of any wrong decision among them, at most.

    Returns:
      An `Outcome` for each test.

    Raises:
      ValueError: if a test has no effects.

    Reference:
      Holm 1979, "A simple sequentially rejective multiple test procedure"; Conover 1999,
      "Practical nonparametric statistics", section 3.2.
    """
    effects = [np.atleast_1d(np.asarray(test.effects, np.float64)) for test in tests]
    for values in effects:
        if not values.size:
            raise ValueError("effects must hold at least one number; got none")
    random = [i for i, test in enumerate(tests) if not test.exact]
    p = {i: _p_value(effects[i], tests[i].bound) for i in random}
    outcomes: dict[int, Outcome] = {}
    rejecting = True
    for rank, i in enumerate(sorted(random, key=lambda i: p[i])):
        level = alpha / (len(random) - rank)
        rejecting = rejecting and p[i] <= level
        low, high = _interval(effects[i], 1 - level)
        side = _side(low, high, tests[i].bound) if rejecting else None
        outcomes[i] = Outcome(
            _decision(side, tests[i].side),
            float(np.median(effects[i])),
            low,
            high,
            1 - level,
            p[i],
            effects[i].size,
        )
    for i, test in enumerate(tests):
        if test.exact:
            outcomes[i] = _exact(effects[i], test)
    return [
        outcomes[i]._replace(decision="not informative", missed=test.missed)
        if test.missed
        else outcomes[i]
        for i, test in enumerate(tests)
    ]


def detectable(seeds: int, tests: int, /, *, alpha: float = ALPHA, power: float = 0.9) -> float:
    """How regular an effect must be for a number of seeds to find it.

    Args:
      seeds: paired effects of a test.
      tests: all tests of the run; the level is Holm's first, alpha / tests.
      alpha: the probability of any wrong decision, at most.
      power: the probability of finding the effect.

    Returns:
      The smallest share of all seeds that must lie on one side of the bound; NaN where so few
      seeds cannot decide.

    Example:
      >>> round(detectable(12, 1), 2), round(detectable(12, 60), 2), detectable(8, 60)
      (0.9, 0.99, nan)
    """
    level = alpha / tests / 2
    # Below the level: at exactly it the interval still holds the bound.
    needed = next((k for k in range(seeds + 1) if stats.binom.sf(k - 1, seeds, 0.5) < level), None)
    if needed is None:
        return math.nan
    # P(Binomial(n, share) >= k) = power.
    return float(stats.beta.ppf(power, needed, seeds - needed + 1))


def _exact(effects: np.ndarray, test: Test) -> Outcome:
    low, high = float(np.min(effects)), float(np.max(effects))
    # A bound that is met exactly satisfies the rule: nothing is uncertain.
    inside = low >= test.bound if test.side == "above" else high <= test.bound
    known = bool(np.all(np.isfinite(effects)))
    decision = "undecided" if not known else "confirmed" if inside else "refuted"
    worst = low if test.side == "above" else high
    return Outcome(decision, worst, low, high, 1.0, math.nan, effects.size)


def _p_value(effects: np.ndarray, bound: float) -> float:
    """Two-sided sign test of the median being the bound; ties count against any decision."""
    if not np.all(np.isfinite(effects)):
        return 1.0
    n = effects.size
    beyond = max(int(np.sum(effects > bound)), int(np.sum(effects < bound)))
    return float(min(1.0, 2 * stats.binomtest(beyond, n, alternative="greater").pvalue))


def _interval(effects: np.ndarray, level: float) -> tuple[float, float]:
    if not np.all(np.isfinite(effects)):
        return -math.inf, math.inf
    test = stats.quantile_test(effects, q=float(np.median(effects)), p=0.5)
    low, high = test.confidence_interval(level)
    return (
        float(low) if np.isfinite(low) else -math.inf,
        float(high) if np.isfinite(high) else math.inf,
    )


def _side(low: float, high: float, bound: float) -> str | None:
    if low > bound:
        return "above"
    return "below" if high < bound else None


def _decision(side: str | None, claimed: str) -> str:
    if side is None:
        return "undecided"
    return "confirmed" if side == claimed else "refuted"


class Verdict(NamedTuple):
    """What the outcomes of a claim's predictions say of the claim.

    Attributes:
      word: one of `DECISIONS`, or ``"depends"``.
      sentence: the verdict in words.
    """

    word: str
    sentence: str


def verdict(
    names: Sequence[str], outcomes: Sequence[Outcome], /, *, depends: str, budget: str
) -> Verdict:
    """The verdict on a claim, by the rule alone.

    Args:
      names: of the predictions.
      outcomes: of the predictions.
      depends: what divides them.
      budget: the preset of the run.

    Returns:
      Confirmed if every prediction is; refuted if every one is; not informative if every one is;
      ``"depends"`` as soon as one is confirmed and another refuted; undecided otherwise, whatever
      the decided ones say.

    Example:
      >>> yes = Outcome("confirmed", 1.0, 0.5, 2.0, 0.99, 0.001, 12)
      >>> no = yes._replace(decision="refuted")
      >>> verdict(["ReLU", "tanh"], [yes, no], depends="the activation", budget="quick").sentence
      'Depends on the activation: confirmed for ReLU; refuted for tanh.'
    """
    found: dict[str, list[str]] = {word: [] for word in DECISIONS}
    for name, outcome in zip(names, outcomes, strict=True):
        found[outcome.decision].append(name)
    said = [word for word in DECISIONS if found[word]]
    parts = "; ".join(f"{word} for {', '.join(found[word])}" for word in said)
    if found["confirmed"] and found["refuted"]:
        return Verdict("depends", f"Depends on {depends}: {parts}.")
    word = said[0] if len(said) == 1 else "undecided"
    at = f" at this budget ({budget})" if word in ("undecided", "not informative") else ""
    return Verdict(word, f"{word.capitalize()}{at}{': ' + parts if len(said) > 1 else ''}.")


def rank_correlation(a: Any, b: Any, /) -> float:
    """Spearman's rank correlation; 0 where one of the two does not vary.

    Example:
      >>> rank_correlation([1, 2, 3], [10, 20, 40])
      1.0
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return round(float(stats.spearmanr(a, b)[0]), 12)  # pyright: ignore[reportArgumentType]
