"""Reports as pages: what fits a window, and what its script does."""

import re

import numpy as np
import pandas as pd
import pytest

from jaxact.experiments import _plots, _report

LONG = "model.layers.0." + "self_attention_" * 12 + "weight"
WIDE = pd.DataFrame({f"{LONG}_{i}": [LONG] * 30 for i in range(6)})
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="900pt" height="200pt" viewBox="0 0 900 200">'
    b'<path d="M0 0L900 200" stroke="black"/></svg>'
)


def test_the_longest_of_all_blocks_stays_in_its_page(beyond):
    page = _report.html(
        [
            _report.Heading(1, LONG),
            _report.Paragraph(f"A name is `{LONG}` or {LONG}.", lead=LONG),
            _report.Findings({LONG: LONG}),
            _report.Table(WIDE),
            _report.Table(WIDE[:3]),
            _report.Contents(),
            _report.Picture(LONG, SVG, b"", LONG, WIDE),
            _report.Terms({LONG: LONG}),
            _report.Code(f'{{"files": "{LONG}"}}'),
        ]
    )
    assert beyond(page) == {"1280": [], "390": []}
    wide = page.replace("</body>", '<p style="width: 500px">too wide</p></body>')
    found = beyond(wide)
    assert found["390"]
    assert not found["1280"]


@pytest.fixture
def picture():
    table = pd.DataFrame(
        [
            {"depth": depth, "wiring": wiring, "seed": 0, "value": rate**depth, "panel": panel}
            for panel in ("relu", "tanh")
            for wiring, rate in (("pre", 0.99), ("plain", 0.5))
            for depth in (1, 2, 4, 8)
        ]
    )
    labels = dict(xlabel="depth", ylabel="rank")
    figure = _plots.lines(table, x="depth", by="wiring", panel="panel", **labels, logy=True)
    figure.axes[1].plot([1, 100], [0.5, np.nan], color="black", label="_none")
    return _report.picture(_plots.Drawing("ranks", figure, "Ranks.", table))


def test_curves_lie_where_the_image_shows_them(picture):
    found = {(curve["panel"], curve["name"]): curve["points"] for curve in picture.curves}
    assert list(found) == [(p, w) for p in ("relu", "tanh") for w in ("pre", "plain")]
    places = np.array(
        [[float(v) for v in pair] for pair in re.findall(rb"[ML] ([\d.]+) ([\d.]+)", picture.svg)]
    )
    for (_, wiring), points in found.items():
        assert [point[2] for point in points] == [1, 2, 4, 8]
        expected = [{"pre": 0.99, "plain": 0.5}[wiring] ** depth for depth in (1, 2, 4, 8)]
        np.testing.assert_allclose([point[3] for point in points], expected, rtol=1e-3)
        for x, y, *_ in points:
            assert np.min(np.hypot(*(places - (x, y)).T)) < 0.1


def test_hovering_a_curve_tells_its_name_and_value(picture, shown):
    page = _report.html([_report.Heading(1, "Ranks"), picture])
    (x, y, *_), (far, *_) = picture.curves[3]["points"][2:]
    hover = """
      <script>addEventListener("load", () => {
        const plot = document.querySelector(".plot"), image = plot.querySelector("img");
        const box = image.getBoundingClientRect(), scale = box.width / image.naturalWidth / 0.75;
        const tell = (x, y) => {
          const place = {clientX: box.left + x * scale, clientY: box.top + y * scale};
          plot.dispatchEvent(new PointerEvent("pointermove", place));
          const tip = plot.querySelector("output");
          document.body.append(tip.hidden ? "[nothing]" : `[${tip.textContent}]`);
        };
        tell(%s, %s); tell(%s, %s); tell(0, 0);
      })</script></body>"""
    near = (x * 0.9 + far * 0.1, y)
    text = shown(page.replace("</body>", hover % (x, y, *near)))
    told = re.findall(r"\[(nothing|plain[^\]]*)\]", text.rpartition("</script>")[2])
    assert told == ["plain (tanh): 0.0625 at 4", "plain (tanh): 0.0625 at 4", "nothing"]


def test_figures_are_chosen_by_what_they_measure(picture, shown):
    names = ("mlp_effective_rank", "mlp_loss", "conv_effective_rank")
    pictures = [picture._replace(name=name) for name in names]
    blocks = [_report.Heading(1, "Ranks"), pictures[0], _report.Contents(), *pictures[1:]]
    choose = """
      <script>addEventListener("load", () => {
        const search = document.querySelector("input");
        search.value = "Rank conv";
        search.dispatchEvent(new Event("input"));
        const seen = kind => [...document.querySelectorAll(kind)].filter(e => e.checkVisibility());
        const told = [...seen("figure").map(e => e.id), ...seen("li").map(e => e.textContent)];
        document.body.append(`[[${told.join()}]]`);
      })</script></body>"""
    text = shown(_report.html(blocks).replace("</body>", choose)).rpartition("</script>")[2]
    found = "mlp_effective_rank,conv_effective_rank,conv effective rank"
    assert f"[[{found}]]" in text
