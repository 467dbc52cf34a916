"""The paper's figures at a tiny size: what each table says, and what cannot be drawn."""

import functools

import numpy as np
import pandas as pd
import pytest

from jaxact import theory, wiring
from jaxact.experiments import StudyError, _plots, figures
from jaxact.experiments.figures import _transformers

pytestmark = pytest.mark.usefixtures("standard_promotion")  # optax's Adam

TINY = figures.Sizes(8, 8, 30, 2, 12, 40, 2, 4, 64)
EXACT = ("object", "quantity", "definition", "centring", "dtype", "value")


@functools.cache
def drawn(name):
    """Any test may come first, or alone."""
    return figures.draw(name, TINY)


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_figure_is_drawn_from_a_table_that_explains_itself(name):
    drawing = drawn(name)
    table = drawing.numbers
    assert drawing.name == name
    assert drawing.figure.axes
    # Theory has no definition of its own, and a row of numbers no NaN.
    assert set(EXACT) - {"definition"} <= set(table.columns)
    assert not table.value.isna().any()
    assert (table[~table.quantity.str.contains("log_")].value >= -1.01).all()


@pytest.mark.slow
def test_naive_product_loses_what_the_graded_one_keeps():
    table = drawn("naive_graded").numbers
    wide = table[table.depth == 30].pivot_table(index="index", columns="source", values="value")
    floor = np.log(2.0**-23)
    kept = wide.graded - wide.graded.max() > floor + 4
    assert kept.sum() < len(wide)
    np.testing.assert_allclose(wide.naive[kept], wide.graded[kept], atol=0.05)
    assert (wide.naive[~kept] > wide.graded[~kept] + 1).any()


@pytest.mark.slow
def test_rank_of_the_change_is_bounded_by_the_flips():
    table = drawn("flips").numbers
    assert (table.value <= np.minimum(table.flips, table.bound)).all()
    assert (table.value == table.by_layer).mean() > 0.9


@pytest.mark.slow
def test_spread_of_the_jacobian_grows_as_its_law_says():
    """At width 32: plain networks lose most, and a small branch least."""
    table = drawn("jacobian_law").numbers
    spread = table[table.quantity == "std_log_singular_value"]
    wide = spread.pivot_table(index=["wiring", "x"], columns="source", values="value")
    np.testing.assert_allclose(wide.measured, wide.theory, rtol=0.25)
    last = wide.measured.xs(spread.x.max(), level="x")
    order = list(last.sort_values().index)
    assert order[:3] == ["deepnorm", "scaled", "norm_scaling"]
    assert set(order[3:5]) == {"pre", "sandwich"}  # one law
    assert order[5:] == ["res_post", "norm_free", "post", "plain"]
    assert set(order) == {word for word in wiring.names() if theory.covered(word)}


@pytest.mark.slow
def test_transformers_at_initialization_follow_their_papers():
    """Xiong et al. 2020, theorem 1: the last gradient goes as the depth to 0 and to -1/2."""
    seeds = np.arange(4, dtype=np.uint32)
    shallow, deep = (
        {word: _transformers._observed(word, depth, 64, seeds) for word in ("post", "pre")}
        for depth in (4, 16)
    )
    ratio = {
        word: float(np.median(deep[word]["gradient_norm"] / shallow[word]["gradient_norm"]))
        for word in deep
    }
    assert ratio["pre"] == pytest.approx(0.5, rel=0.25)
    assert ratio["post"] == pytest.approx(1, rel=0.35)
    stream = np.median(deep["pre"]["stream_variance"], axis=0)
    assert np.log(stream[15] / stream[3]) / np.log(4) == pytest.approx(1, abs=0.15)
    assert np.median(deep["post"]["token_cosine"], axis=0)[-1] > 0.95
    assert np.median(deep["pre"]["token_cosine"], axis=0)[-1] < 0.85


@pytest.mark.slow
def test_wide_scales_lose_the_rank():
    table = drawn("phase_diagram").numbers
    rows = table[(table.quantity == "effective_rank") & (table.depth == table.depth.max())]
    by_scale = rows.sort_values("scale").value.to_numpy()
    assert by_scale[0] > 0.9 * 8
    assert by_scale[-1] < 0.5 * by_scale[0]


def test_every_wiring_has_a_look_of_its_own():
    looks = [_plots.look(word) for word in wiring.names()]
    assert len({(look["color"], look["fillstyle"]) for look in looks}) == len(looks)
    assert len({_plots.look(word)["color"] for word in _plots.FIRST}) == len(_plots.FIRST)


def test_files(tmp_path):
    config = figures.Figures(figure=("rank_tolerance",), out=tmp_path / "out")
    figures.run(config)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {f"rank_tolerance.{kind}" for kind in ("png", "svg", "txt", "parquet")}
    table = pd.read_parquet(tmp_path / "out" / "rank_tolerance.parquet")
    rows = table[table.depth == 1].sort_values("tolerance")
    assert rows.value.is_monotonic_decreasing
    assert rows.value.iloc[-1] == 0


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of product_spectrum, .*; got 'pie'"):
        figures.draw("pie")
    with pytest.raises(StudyError, match="figure: must be among"):
        figures.run(figures.Figures(figure=("pie",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="out: cannot write to"):
        figures.run(figures.Figures(figure=("flips",), out=tmp_path / "file" / "out"))
