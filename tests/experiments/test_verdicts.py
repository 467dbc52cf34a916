"""Verdicts: the rule that decides, the measures behind it, and that nothing finished is lost."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.special
from scipy import stats

from jaxact import analysis, spectral, training
from jaxact.experiments import StudyError, verdicts
from jaxact.experiments import _networks as networks
from jaxact.experiments._grid import groups
from jaxact.experiments.verdicts import Budget, Prediction, Study, Verdicts
from jaxact.experiments.verdicts import _page as pages
from jaxact.experiments.verdicts import _published as published
from jaxact.experiments.verdicts import _run as runs
from jaxact.experiments.verdicts import _statistics as statistics
from jaxact.experiments.verdicts.studies import _flips, _gelu, _identities, _product_rate

ENTRY = "import sys; from jaxact.experiments import verdicts; sys.exit(verdicts.main())"


def _test(values, bound=0.0, side="above", exact=False):
    return verdicts.Test(np.asarray(values, float), bound, side, exact)


class TestDecisions:
    def test_one_test_is_the_sign_test(self):
        values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -1.0]
        (outcome,) = verdicts.decide([_test(values)])
        assert outcome.p == pytest.approx(stats.binomtest(7, 8).pvalue)
        assert outcome.effect == 3.5
        assert outcome.decision == "undecided"  # p = 0.07

    def test_interval_has_the_confidence_it_names(self):
        generator = np.random.default_rng(0)
        covered = 0
        for _ in range(400):
            values = generator.exponential(size=12)
            low, high = statistics._interval(values, 0.95)
            covered += low <= math.log(2) <= high
        # An exact interval covers at least as often as it says; 0.95 less three standard errors.
        assert covered / 400 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)

    def test_correction_is_holms(self):
        generator = np.random.default_rng(1)
        for _ in range(50):
            shifts = generator.uniform(-1, 2, size=6)
            tests = [_test(generator.normal(size=12) + shift) for shift in shifts]
            outcomes = verdicts.decide(tests)
            p = np.array([outcome.p for outcome in outcomes])
            order = np.argsort(p, kind="stable")
            adjusted = np.maximum.accumulate(p[order] * np.arange(6, 0, -1))
            decided = np.array([outcomes[i].decision != "undecided" for i in order])
            np.testing.assert_array_equal(decided, adjusted <= 0.05)

    def test_wrong_decisions_are_rarer_than_alpha(self):
        generator = np.random.default_rng(2)
        wrong = 0
        for _ in range(200):
            tests = [_test(generator.normal(size=16)) for _ in range(8)]
            wrong += any(o.decision != "undecided" for o in verdicts.decide(tests))
        assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)

    def test_sides_and_bounds(self):
        values = np.linspace(1, 2, 16)
        cases = {
            (0.5, "above"): "confirmed",
            (0.5, "below"): "refuted",
            (1.5, "above"): "undecided",
            (2.5, "above"): "refuted",
            (2.5, "below"): "confirmed",
        }
        for (bound, side), expected in cases.items():
            (outcome,) = verdicts.decide([_test(values, bound, side)])
            assert outcome.decision == expected

    def test_few_seeds_decide_nothing(self):
        (outcome,) = verdicts.decide([_test([5.0, 6.0, 7.0])])
        assert outcome.decision == "undecided"
        assert (outcome.low, outcome.high) == (-math.inf, math.inf)

    def test_what_is_not_finite_decides_nothing(self):
        (outcome,) = verdicts.decide([_test([1.0] * 15 + [math.nan])])
        assert outcome.decision == "undecided"
        (outcome,) = verdicts.decide([_test([math.inf], exact=True)])
        assert outcome.decision == "undecided"

    def test_ties_with_the_bound_decide_nothing(self):
        (outcome,) = verdicts.decide([_test([0.0] * 16)])
        assert outcome.decision == "undecided"

    def test_exact_effects_need_no_seeds(self):
        for values, decision in (([0.0], "confirmed"), ([0.0, 1.0], "refuted")):
            (outcome,) = verdicts.decide([_test(values, side="below", exact=True)])
            assert outcome.decision == decision
        # and are no part of the correction
        values = [1.0] * 6
        alone = verdicts.decide([_test(values)])[0]
        beside = verdicts.decide([_test(values), _test([0.0], exact=True)])[0]
        assert alone == beside

    def test_verdicts(self):
        yes = statistics.Outcome("confirmed", 1.0, 0.5, 2.0, 0.99, 0.001, 12)
        no, open_ = yes._replace(decision="refuted"), yes._replace(decision="undecided")

        def word(*outcomes):
            names = [f"p{i}" for i in range(len(outcomes))]
            return verdicts.verdict(names, outcomes, depends="it", budget="quick")

        assert word(yes, yes).word == "confirmed"
        assert word(no, no).word == "refuted"
        assert word(yes, no, open_).word == "depends"
        for outcomes in ((open_,), (yes, open_), (no, open_)):
            assert word(*outcomes).word == "undecided"
            assert "Undecided at this budget (quick)" in word(*outcomes).sentence
        mute = yes._replace(decision="not informative")
        assert word(mute, mute).word == "not informative"
        assert word(yes, mute).word == word(mute, open_).word == "undecided"
        assert word(yes, no, mute).sentence.endswith("not informative for p2.")

    def test_a_missed_gate_silences_and_is_counted(self):
        values = np.linspace(1, 2, 12)
        tests = [_test(values), _test(values)._replace(missed="it does not train")]
        one, two = verdicts.decide(tests)
        assert (one.decision, two.decision) == ("confirmed", "not informative")
        assert two.missed == "it does not train"
        assert one.level == pytest.approx(1 - 0.05 / 2)

    @pytest.mark.parametrize(("seeds", "tests"), [(12, 1), (16, 80), (24, 82)])
    def test_detectable_effects_are_found(self, seeds, tests):
        share = statistics.detectable(seeds, tests)
        level = 0.05 / tests
        p = np.array([stats.binomtest(k, seeds).pvalue for k in range(seeds + 1)])
        k = np.arange(seeds + 1)
        found = stats.binom.pmf(k, seeds, share)[(p <= level) & (k > seeds / 2)].sum()
        assert found == pytest.approx(0.9)

    @pytest.mark.parametrize(("alpha", "found"), [(0.124, False), (0.125, False), (0.126, True)])
    def test_detectable_is_what_is_decided(self, alpha, found):
        # Four of four on one side: p is 1/8.
        (outcome,) = verdicts.decide([_test([1.0, 2.0, 3.0, 4.0])], alpha=alpha)
        assert outcome.decision == ("confirmed" if found else "undecided")
        assert math.isfinite(statistics.detectable(4, 1, alpha=alpha)) == found

    def test_gates_compare_medians(self):
        table = TestEffects.TABLE
        gates = [
            verdicts.Gate("loss", lambda t: [1.0, 2.0, 9.0], 1.5, s) for s in ("above", "below")
        ]
        assert [bool(gate.missed(table)) for gate in gates] == [False, True]
        assert gates[1].missed(table) == "loss: 2, not below 1.5"
        nothing = gates[0]._replace(value=lambda t: [math.nan, 1.0])
        assert nothing.missed(table)


class TestMeasures:
    def test_participation_is_that_of_the_spectrum(self):
        keys = jax.random.split(jax.random.key(0), 3)
        layers = jax.random.normal(keys[0], (6, 5, 5))
        h = jax.random.normal(keys[1], (5,))
        segment = analysis.Segment("blocks", lambda w, x: jnp.tanh(x @ w), layers, 6)
        found = analysis.participation_by_block(segment, h)

        def upto(count):
            def run(x):
                for w in layers[:count]:
                    x = jnp.tanh(x @ w)
                return x

            return np.linalg.svd(np.asarray(jax.jacobian(run)(h)), compute_uv=False)

        expected = [
            float(spectral.participation_ratio(jnp.asarray(upto(i)))) / 5 for i in range(1, 7)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("shape", [(2, 9, 4), (2, 4, 9)])
    def test_participation_of_matrices(self, shape):
        a = 1e3 * jax.random.normal(jax.random.key(0), shape)
        s = np.linalg.svd(np.asarray(a), compute_uv=False)
        expected = spectral.participation_ratio(jnp.asarray(s)) / 4
        np.testing.assert_allclose(analysis.participation(a), expected, rtol=1e-5)
        np.testing.assert_array_equal(analysis.participation(jnp.zeros((1, 3, 3))), [0])

    def test_flips_are_those_of_all_pairs(self):
        hidden = jax.random.normal(jax.random.key(0), (3, 7, 4))
        on = np.asarray(hidden[1:] > 0)
        pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
        expected = np.mean([on[:, i] != on[:, j] for i, j in pairs], axis=(0, 2))
        np.testing.assert_allclose(analysis.flip_share(hidden[1:]), expected, rtol=1e-6)

    def test_lesions_leave_out_one_block(self):
        keys = jax.random.split(jax.random.key(0), 3)
        layers, x = jax.random.normal(keys[0], (3, 4, 4)), jax.random.normal(keys[1], (5, 4))
        y = jnp.array([0, 1, 2, 3, 0])
        chain = analysis.Chain(
            (
                analysis.Segment("stem", lambda p, h: h, (), None),
                analysis.Segment("blocks", lambda w, h: h + jnp.tanh(h @ w), layers, 3),
                analysis.Segment("head", lambda p, h: h, (), None),
            )
        )
        view = analysis.view(chain, x, y, loss=training.cross_entropy)
        expected = []
        for left_out in range(3):
            h = x
            for i in range(3):
                h = h if i == left_out else h + jnp.tanh(h @ layers[i])
            log_p = scipy.special.log_softmax(np.asarray(h, np.float64), axis=-1)
            expected.append(-log_p[np.arange(5), np.asarray(y)].mean())
        np.testing.assert_allclose(
            analysis.measure_view(view, ["lesion_loss"])["lesion_loss"], expected, rtol=1e-5
        )

    def test_orthogonal_weights(self):
        trials = networks.Trials(networks.Spec("plain", 3, 8, ("relu",)), training.load("digits"))
        chain = analysis.as_chain(trials.network(jnp.asarray(0), jax.random.key(0)))
        (w,) = analysis.weight_matrices(_product_rate.orthogonal(chain, jnp.asarray(2.0)))[
            "blocks"
        ].values()
        np.testing.assert_allclose(w @ jnp.swapaxes(w, -1, -2), [2 * np.eye(8)] * 3, atol=1e-5)

    def test_ranks_of_a_layer(self):
        found = _flips.layer_ranks(3, width=24, ends=10)
        np.testing.assert_array_equal(found["weight"], 10)
        np.testing.assert_array_equal(found["masked"], np.minimum(found["active"], 10))
        np.testing.assert_array_equal(found["difference"], np.minimum(found["flips"], 10))
        assert np.ptp(found["flips"]) > 5

    def test_errors_of_gelu(self):
        x = _gelu.GRID[::1000].astype(np.float64)
        exact = x * scipy.special.ndtr(x)
        tanh = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        sigmoid = x * scipy.special.expit(1.702 * x)
        for form, rough in (("tanh", tanh), ("sigmoid", sigmoid)):
            np.testing.assert_allclose(_gelu.errors(form)[0][::1000], rough - exact, atol=1e-6)

    def test_comparison_in_units_of_rounding(self):
        def nudged(x):
            up = jnp.nextafter(x, jnp.asarray(99, x.dtype))
            half = jnp.asarray(0.5, x.dtype)
            return jnp.where(x == 24, up, jnp.where(x == 0, half, x))

        found = _identities.compare(lambda x: x, nudged, "float16", 1)
        eps = float(jnp.finfo("float16").eps)
        assert found["checked"] == 2 * 31 * 1024
        assert found["apart"] == pytest.approx(16 / 24)
        assert found["apart_at_zero"] == pytest.approx(0.5 / eps)
        # In the first of four chunks.
        lost = _identities.compare(
            lambda x: x, lambda x: jnp.where(x == 1, jnp.nan, x), "float32", 2**8
        )
        assert math.isnan(lost["apart"])

    @pytest.mark.parametrize("name", ["tat_relu", "tat_silu", "dks_tanh"])
    def test_tailored_activations_keep_unit_second_moment(self, name):
        made = networks.function(name, 20)
        x, w = np.polynomial.hermite_e.hermegauss(200)
        y = np.asarray(made.apply(jnp.asarray(x, jnp.float32)))
        assert made.gain == 1
        assert np.sum(w * y**2) / w.sum() == pytest.approx(1, abs=0.01)


class TestEffects:
    TABLE = pd.DataFrame(
        [
            {
                "quantity": "loss",
                "seed": seed,
                "step": step,
                "rate": rate,
                "value": value,
                "chance": math.log(10),
            }
            for seed in (0, 1)
            for step, rate, value in (
                (0, 0.1, 2.0),
                (5, 0.1, 1.0 + seed),
                (0, 0.2, 2.0),
                (5, 0.2, math.nan),
            )
        ]
    )

    def test_the_best_step_size_is_taken_and_divergence_is_chance(self):
        best = verdicts.remaining(self.TABLE)
        np.testing.assert_allclose(best, np.array([1.0, 2.0]) / math.log(10))
        diverged = verdicts.remaining(self.TABLE, rate=0.2)
        np.testing.assert_array_equal(diverged, 1.0)

    def test_first_and_last_are_those_of_the_quantity(self):
        first = verdicts.by_seed(self.TABLE, "loss", step="first", rate="last")
        np.testing.assert_array_equal(first, 2.0)
        assert not np.isfinite(verdicts.by_seed(self.TABLE, "loss", step="last")).any()
        with pytest.raises(KeyError, match="no loss"):
            verdicts.select(self.TABLE, "loss", rate=7.0)


def _rows(quantity, values, **labels):
    """A value for each seed, as a study's table has it."""
    values = np.broadcast_to(values, 16)
    seeds = dict(seed=range(16), value=values, chance=1.0)
    return pd.DataFrame({"quantity": quantity, "step": 9, "layer": 0, **seeds, **labels})


def _study(name):
    return next(study for study in verdicts.STUDIES if study.name == name)


def _effect(study, name, table):
    (prediction,) = (p for p in _study(study).predictions if p.name == name)
    return prediction.effect(table)


LEFT = {
    # wiring, step size, warm-up: loss left
    ("post", 0.001, 0): 0.9,
    ("post", 0.001, 40): 0.2,
    ("post", 0.01, 0): 0.95,
    ("post", 0.01, 40): 0.8,
    ("pre", 0.001, 0): 0.3,
    ("pre", 0.001, 40): 0.1,
    ("pre", 0.01, 0): 0.5,
    ("pre", 0.01, 40): 0.5,
}


class TestClaims:
    def test_warm_up_is_judged_where_it_lets_networks_train(self):
        frames = [
            _rows("loss", left, wiring=word, rate=rate, warmup=warmup, depth=24)
            for (word, rate, warmup), left in LEFT.items()
        ]
        gained = _effect("placement", "deep: post-norm needs warm-up more", pd.concat(frames))
        np.testing.assert_allclose(gained, (0.9 - 0.2) - (0.3 - 0.1))
        lost = [frame.assign(value=0.9) for frame in frames]
        assert np.isnan(
            _effect("placement", "deep: post-norm needs warm-up more", pd.concat(lost))
        ).all()

    def test_units_are_judged_where_all_networks_train(self):
        frames = [
            _rows(quantity, value, activation=name, rate=rate)
            for name, rate, loss, constant in (
                ("relu", 0.01, 0.1, 0.2),
                ("relu", 0.1, 0.2, 0.4),
                ("elu", 0.01, 0.1, 0.03),
                ("elu", 0.1, 0.7, 0.9),
            )
            for quantity, value in (("loss", loss), ("constant_units", constant))
        ]
        table = pd.concat(frames)
        np.testing.assert_allclose(_effect("dead", "ELU prevents it", table), 0.03)
        np.testing.assert_allclose(_effect("dead", "step size", table), 0.4 - 0.2)

    def test_what_chance_has_no_part_in_is_decided_exactly(self):
        flat = {"relu": 0.5, "silu": 0.02, "mish": 0.02, "gelu": 0.02, "su": 0.3}
        table = pd.concat(
            [
                frame
                for name, share in flat.items()
                for frame in (
                    _rows("flat", share, activation=name).head(1),
                    _rows("flat_share", share, activation=name),
                    _rows("loss", 0.1, activation=name),
                )
            ]
        )
        study = _study("ranges")
        tests = [
            verdicts.Test(p.effect(table), p.bound, p.side, p.exact) for p in study.predictions
        ]
        decided = {
            p.name: outcome.decision
            for p, outcome in zip(study.predictions, verdicts.decide(tests), strict=True)
        }
        assert decided.pop("Su's function (normal inputs)") == "refuted"
        assert decided.pop("Su's function (in a network)") == "refuted"
        assert set(decided.values()) == {"confirmed"}


def _noise(batch):
    return [
        analysis.tidy(
            cell["shift"] + 0.1 * np.random.default_rng(3).normal(size=len(batch.seeds)),
            {"seed": batch.seeds},
            quantity="height",
        )
        for cell in batch.cells
    ]


TOY = Study(
    name="toy",
    number=100,
    claim="The second is higher than the first | by far.",
    source="nobody",
    hypothesis="It is.",
    measurement="Heights.",
    theory="",
    predictions=(
        Prediction(
            "second over first",
            "The second is higher.",
            lambda table: (
                verdicts.by_seed(table, "height", shift=2.0)
                - verdicts.by_seed(table, "height", shift=1.0)
            ),
            bound=0.5,
        ),
    ),
    depends="nothing",
    budgets={"quick": Budget(8, {"shift": (1.0, 2.0)})},
    measure=_noise,
    together=("shift",),
    plots=(
        verdicts.Plot(
            "toy",
            lambda table: verdicts.lines(table, x="shift", by="study", xlabel="shift", ylabel="y"),
            "Heights.",
        ),
    ),
)


def _run(folder, study=TOY, **options):
    config = Verdicts(preset="quick", claims=(study.number,), out=folder, **options)
    return verdicts.run(config, extra=[study])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of the toy study."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxact.experiments._store._commit", lambda: "c0ffee")
        _run(folder, docs=folder.parent / "docs")
    return folder


class TestRun:
    def test_files(self, folder):
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "config.json", "manifest.json", "cells", "tables", "verdicts.parquet", "figures",
            "report.html", "verdicts.md",
        }  # fmt: skip
        protocol = json.loads((folder / "config.json").read_text())["studies"]["toy"]
        assert protocol["predictions"][0]["bound"] == 0.5
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {"commit", "packages", "device", "dtype"} <= set(manifest)
        assert pd.read_parquet(folder / "verdicts.parquet").decision.tolist() == ["confirmed"]

    def test_page_needs_no_network(self, folder):
        page = (folder / "report.html").read_text()
        assert page.count("data:image/svg+xml;base64,") == 1
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)

    def test_twin_and_its_copy(self, folder):
        page = (folder / "verdicts.md").read_text()
        copy = (folder.parent / "docs" / "verdicts.md").read_text()
        assert page.replace("(figures/", "(images/verdicts/") == copy
        assert (folder.parent / "docs" / "images" / "verdicts" / "toy.svg").exists()
        assert "budget `quick`" in page
        assert json.dumps(json.loads((folder / "manifest.json").read_text()), indent=2) in page
        rows = [line for line in page.splitlines() if line.startswith("| 100 ")]
        assert "first \\| by far" in rows[0]
        assert "**Verdict.** Confirmed." in page
        assert "1.5 minutes of measuring (0.5 minutes of processor time)" in self.slower(page)

    @staticmethod
    def slower(page):
        """The sentence on the budget, had a run that took no time taken 90 and 30 s."""
        manifest = json.loads(re.search(r"```json\n(.*?)\n```", page, re.DOTALL)[1])
        made = {"toy": published.Made("quick", TOY.protocol("quick"), manifest)}
        result = verdicts.Result(TOY, pd.DataFrame(), [], None, 90.0, 30.0)
        return pages._budget([result], made)

    def test_a_page_rests_on_its_tables(self, folder, tmp_path):
        docs = folder.parent / "docs"
        before = (docs / "verdicts.md").read_text()
        again = Verdicts(docs=docs, rebuild=True)
        (result,) = verdicts.run(again, extra=[TOY])
        assert result.verdict.word == "confirmed"
        assert (docs / "verdicts.md").read_text() == before
        assert "| before the data |" in before
        stricter = dataclasses.replace(
            TOY, predictions=(dataclasses.replace(TOY.predictions[0], bound=0.6),)
        )
        copy = shutil.copytree(docs, tmp_path / "docs")
        verdicts.run(dataclasses.replace(again, docs=copy), extra=[stricter])
        assert "restated after the data: second over first" in (copy / "verdicts.md").read_text()
        other = dataclasses.replace(TOY, budgets={"quick": Budget(9, {"shift": (1.0, 2.0)})})
        with pytest.raises(StudyError, match="claim 100 was measured with other seeds"):
            verdicts.run(again, extra=[other])
        with pytest.raises(StudyError, match=r"there is no .*manifest\.json"):
            verdicts.run(dataclasses.replace(again, docs=tmp_path), extra=[TOY])

    def test_a_page_needs_a_clean_tree(self, tmp_path, monkeypatch):
        for commit, said in (("c0ffee-dirty", "c0ffee-dirty"), (None, "no repository")):
            monkeypatch.setattr("jaxact.experiments._store._commit", lambda commit=commit: commit)
            with pytest.raises(StudyError, match=f"got {said}"):
                _run(tmp_path / "run", docs=tmp_path / "docs")
        assert not (tmp_path / "run").exists()

    def test_resume_measures_only_what_is_left(self, folder, tmp_path):
        with pytest.raises(StudyError, match="holds a study"):
            _run(folder)
        calls = []

        def measure(batch):
            calls.append(batch.cells[0]["shift"])
            if calls == [1.0, 2.0]:
                raise KeyboardInterrupt
            return _noise(batch)

        study = dataclasses.replace(TOY, measure=measure)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path / "run", study)
        (result,) = _run(tmp_path / "run", study, resume=True)
        assert calls == [1.0, 2.0, 2.0]
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        assert manifest["earlier_commits"] == []
        stored = pd.read_parquet(folder / "tables" / "toy.parquet")
        pd.testing.assert_frame_equal(result.table, stored)

    def test_two_processes_share_the_cells(self, folder, tmp_path):
        out = tmp_path / "run"
        verdicts.run(Verdicts(preset="quick", claims=(100,), out=out, share=(0, 2)), extra=[TOY])
        assert not (out / "verdicts.md").exists()
        assert len(list((out / "cells").iterdir())) == 1
        (result,) = verdicts.run(
            Verdicts(preset="quick", claims=(100,), out=out, share=(1, 2)), extra=[TOY]
        )
        stored = pd.read_parquet(folder / "tables" / "toy.parquet")
        pd.testing.assert_frame_equal(result.table, stored)

    def test_another_protocol_cannot_resume(self, folder):
        stricter = dataclasses.replace(TOY.predictions[0], bound=0.6)
        study = dataclasses.replace(TOY, predictions=(stricter,))
        with pytest.raises(StudyError, match="cannot be resumed"):
            _run(folder, study, resume=True)

    @pytest.mark.parametrize(
        "options",
        [{"claims": (99,)}, {"claims": (1, 1)}, {"alpha": 0.0}, {"alpha": 1.0}],
        ids=str,
    )
    def test_bad_input(self, options, tmp_path):
        with pytest.raises(StudyError, match=next(iter(options))):
            verdicts.run(Verdicts(preset="quick", out=tmp_path, **options))

    def test_command_line_refuses_in_one_sentence(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, "--claims", "99", "--out", str(tmp_path / "x")],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 2
        assert done.stderr.strip().count("\n") == 0
        assert "claims: must be among 0, 1, 2, " in done.stderr
        assert not (tmp_path / "x").exists()


class TestStudies:
    def test_numbers_and_names_are_unique(self):
        for values in ([s.number for s in verdicts.STUDIES], [s.name for s in verdicts.STUDIES]):
            assert len(set(values)) == len(values)

    @pytest.mark.parametrize("study", verdicts.STUDIES, ids=lambda study: study.name)
    def test_a_protocol_is_whole(self, study):
        names = [prediction.name for prediction in study.predictions]
        assert len(set(names)) == len(names)
        assert study.budgets.keys() >= {"default", "paper"}
        for preset in study.budgets:
            cells = study.cells(preset)
            assert cells
            files = {study.cell_name(cell) for cell in cells}
            assert len(files) == len(cells)
            assert sum(map(len, groups(cells, study.together))) == len(cells)
            json.dumps(study.protocol(preset))
        assert study.depends
        if study.known:
            assert study.known.keys() == set(names)
            assert set(study.known.values()) <= set(statistics.DECISIONS)
            return
        assert study.source
        assert study.sentence
        assert study.practice
        for prediction in study.predictions:
            assert prediction.reason, prediction.name

    def test_claims_without_a_budget_run_where_they_are_named(self):
        numbers = {study.number for study in verdicts.STUDIES if "quick" in study.budgets}
        assert {study.number for study in runs.choose(Verdicts(preset="quick"))} == numbers
        (costly, *_) = {study.number for study in verdicts.STUDIES} - numbers
        with pytest.raises(StudyError, match=r"preset: study \w+ has budgets for default, paper"):
            runs.choose(Verdicts(preset="quick", claims=(costly,)))

    def test_quick_has_seeds_enough_to_decide(self):
        tests = sum(not p.exact for study in verdicts.STUDIES for p in study.predictions)
        for study in verdicts.STUDIES:
            exact = all(prediction.exact for prediction in study.predictions)
            if "quick" in study.budgets and not exact:
                n = study.budget("quick").seeds
                assert 2 * 0.5**n <= statistics.ALPHA / tests


@pytest.mark.slow
def test_the_page_is_that_of_its_tables(tmp_path):
    docs = pathlib.Path(__file__).parents[2] / "docs"
    copy = tmp_path / "docs"
    shutil.copytree(docs / "data", copy / "data")
    subprocess.run(
        [sys.executable, "-c", ENTRY, "--rebuild", "--docs", str(copy)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    manifest = json.loads((copy / "data" / "verdicts" / "manifest.json").read_text())
    assert manifest.keys() == {study.name for study in verdicts.STUDIES}
    assert (copy / "verdicts.md").read_text() == (docs / "verdicts.md").read_text()
    drawn = {path.name for path in (copy / "images" / "verdicts").iterdir()}
    assert drawn == {path.name for path in (docs / "images" / "verdicts").iterdir()}
    assert "It passes" in (copy / "verdicts.md").read_text()


def test_numbers_are_short():
    assert pages.number(math.inf) == "∞"
    assert pages.number(0.000123456) == "0.000123"


@pytest.mark.usefixtures("standard_promotion")
class TestTrials:
    SPEC = networks.Spec("pre", 2, 8, ("relu", "tanh"), steps=5, examples=32)
    NAMES = ("loss", "feature_participation", "gradient_norm", "features/effective_rank")

    def trials(self):
        observe = functools.partial(lambda names, v: analysis.measure_view(v, names), self.NAMES)
        return networks.Trials(self.SPEC, training.load("digits"), observe)

    @pytest.mark.slow
    def test_arms_are_those_trained_alone(self):
        trials = self.trials()
        arms = [networks.Arm(1e-3), networks.Arm(1e-2, 3.0, 0.5)]
        both = trials.run("tanh", [4, 7], arms)
        alone = trials.run("tanh", [7], arms[1:])
        assert trials.at == (0, 1, 2, 4, 5)
        assert both[0].losses.shape == (2, 5)
        seen = both[0].observed
        assert seen["loss"].shape == (2, 5)
        assert seen["feature_participation"].shape == (2, 5, 2)
        assert seen["features/effective_rank"].shape == (2, 5, 2)
        for name, values in alone[0].observed.items():
            np.testing.assert_allclose(both[1].observed[name][1], values[0], rtol=1e-3, atol=1e-6)
        other = both[1].observed["loss"][1]
        assert not np.allclose(seen["loss"][1], other, rtol=1e-3)

    @pytest.mark.slow
    def test_devices_share_the_arms(self, tmp_path):
        code = (
            "import sys, jax, numpy as np\n"
            "from jaxact import analysis, training\n"
            "from jaxact.experiments import _networks as n\n"
            f"observe = lambda view: analysis.measure_view(view, {self.NAMES!r})\n"
            f"t = n.Trials(n.Spec(*{tuple(self.SPEC)!r}), training.load('digits'), observe)\n"
            "found = t.run('relu', range(3), [n.Arm()])[0].observed\n"
            "found = {k.replace('/', '_'): v for k, v in found.items()}\n"
            "np.savez(sys.argv[1], devices=jax.device_count(), **found)\n"
        )
        found = []
        for devices in (1, 8):
            flags = f"--xla_force_host_platform_device_count={devices}"
            path = tmp_path / f"{devices}.npz"
            subprocess.run(
                [sys.executable, "-c", code, str(path)],
                check=True,
                env={**os.environ, "XLA_FLAGS": flags},
                timeout=300,
            )
            found.append(np.load(path))
        assert int(found[1]["devices"]) == 8
        for name in set(found[0]) - {"devices"}:
            np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-3, atol=1e-6)
