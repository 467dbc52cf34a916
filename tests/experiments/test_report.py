"""Reports as pages: what fits a window, and what its script does."""

import pandas as pd

from jaxact.experiments import _report

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
