"""The wirings' equations against the papers', in words and in what a network computes elsewhere."""

import math
import pathlib
import re
import subprocess
import sys

import pytest

import jaxact
from jaxact import wiring

ROOT = pathlib.Path(jaxact.__file__).parent
# A norm of a sum, a sum with a norm in it, or a table of placements by their names.
SPELLED = re.compile(
    r"\b(norm|N)\((alpha \* )?[xh] \+|\b[xh] \+ .*\b(norm|N)\(|"
    r"[\"']pre[\"']: .*\n.*[\"'](post|original|norm_free|sandwich)[\"']:"
)

# As the papers print them: F is a sublayer, with its own activations.
PAPERS = {
    "pre": "x + F(N(x))",  # Xiong et al. 2020, fig. 1b
    "post": "N(x + F(x))",  # Vaswani et al. 2017, sec. 3.1
    "sandwich": "x + N(F(N(x)))",  # Ding et al. 2021, sec. 3; Kim et al. 2025, eq. 4
    "res_post": "x + N(F(x))",  # Liu et al. 2022, fig. 1
    "deepnorm": "N(α x + F(x))",  # Wang et al. 2022, sec. 3
    "residual_dual": "N(x + F(x)), d' = d + F(x)",  # Xie et al. 2023, eqs. 7 and 8
    "norm_scaling": "x + F(N(x) / √ℓ)",  # Sun et al. 2025, sec. 4
    "norm_free": "x + F(x)",
    "scaled": "x + F(x) / √L",  # Hayou et al. 2021, eq. 2
    "rezero": "x + s F(x)",  # Bachlechner et al. 2020, eq. 2
    "layerscale": "x + diag(s) F(x)",  # Touvron et al. 2021, eq. 4
    "normalizer_free": "x + 0.2 F(x / β)",  # Brock et al. 2021, sec. 3
    "plain": "F(x)",
    "pre+layerscale": "x + diag(s) F(N(x))",
}
# He et al. 2016, fig. 4, blocks of two layers.
HE = {
    "original": "a(x + N_2 W_2 a(N_1 W_1 x))",
    "norm_after_addition": "a(N(x + W_2 a(N_1 W_1 x)))",
    "relu_before_addition": "x + a(N_2 W_2 a(N_1 W_1 x))",
    "relu_only_pre": "x + N_2 W_2 a(N_1 W_1 a(x))",
    "pre": "x + W_2 a(N_2 W_1 a(N_1 x))",
    "plain": "a(W_2 a(W_1 x))",
}


@pytest.mark.parametrize("word", PAPERS)
def test_equations_of_the_papers(word):
    assert wiring.get(word).equation(sublayer=True) == PAPERS[word]


@pytest.mark.parametrize("word", HE)
def test_equations_of_he(word):
    assert wiring.get(word).equation(layers=2) == HE[word]


@pytest.mark.parametrize(
    "word", [*wiring.names(), "pre+scaled", "original+plain", "0.3", "pre+0.123456789"]
)
def test_words_go_round(word):
    found = wiring.get(word)
    assert found.name == word
    assert wiring.of(**found.options) == found
    assert wiring.get(found) is found
    assert found.label


def test_labels_tell_wirings_apart():
    assert len({wiring.get(word).label for word in wiring.names()}) == len(wiring.names())


def test_scales_of_deepnorm():
    """Wang et al. 2022, fig. 2: N layers of two sublayers have α = (2N)^(1/4), β = (8N)^(-1/4)."""
    placement = wiring.PLACEMENTS["deepnorm"]
    for layers in (1, 6, 100):
        assert placement.stream_scale(2 * layers) == pytest.approx((2 * layers) ** 0.25)
        assert placement.weight_scale(2 * layers) == pytest.approx((8 * layers) ** -0.25)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("prenorm", r"wiring must be one of pre, post, .*; got 'prenorm' \(nearest: pre\)"),
        ("peri-ln", r"got 'peri-ln'"),
        ("pre+nothing", "or a placement\\+skip; got 'pre\\+nothing'"),
        ("post+plain", "norm_placement='post' and skip='plain' conflict"),
        ("relu_before_addition+plain", "conflict: a plain network has no addition"),
        ("deepnorm+scaled", "DeepNorm itself scales the skip"),
        ("pre+fixup", "skip='fixup' and norm_placement='pre' conflict"),
        ("pre+normalizer_free", "conflict: its variances are predicted"),
    ],
)
def test_refusals(word, message):
    with pytest.raises(ValueError, match=message):
        wiring.get(word)


def test_numbers_are_skips():
    """x + s F(x), by the word as by the option; all digits count."""
    found = wiring.get("pre+0.123456789")
    assert found == wiring.of("pre", 0.123456789)
    assert found.skip.factor(7) == 0.123456789
    assert wiring.get("-2").equation(sublayer=True) == "x + -2.0 F(x)"
    for word in ("nan", "pre+inf"):
        with pytest.raises(ValueError, match="a finite number, or a placement"):
            wiring.get(word)


@pytest.mark.parametrize("word", ["original", "norm_after_addition", "relu_only_pre"])
def test_a_sublayer_has_its_own_activations(word):
    """Activations outside of the branch do not go with a sublayer: no equation is printed."""
    with pytest.raises(ValueError, match=r"sublayer=True and norm_placement='.*' conflict"):
        wiring.get(word).equation(sublayer=True)


def test_equations_have_layers():
    with pytest.raises(ValueError, match="layers must be an integer of at least 1; got 0"):
        wiring.get("pre").equation(layers=0)


def test_what_is_no_word_or_number():
    for skip in ("half", math.inf):
        with pytest.raises(ValueError, match="skip must be"):
            wiring.of("pre", skip)  # pyright: ignore
    with pytest.raises(TypeError, match="skip"):
        wiring.of("pre", None)  # pyright: ignore
    with pytest.raises(ValueError, match="norm_placement must be one of pre, post"):
        wiring.of("pos")


def test_no_other_file_spells_an_equation_or_a_table():
    assert SPELLED.search("x + W a(N(x))")
    assert SPELLED.search('{"pre": 1,\n "post": 2}')
    for folder in (ROOT, ROOT.parent / "scripts"):
        for path in folder.rglob("*.py"):
            if path != ROOT / "wiring.py":
                found = SPELLED.search(path.read_text())
                assert found is None, f"{path} spells {found.group()!r}"  # pyright: ignore


@pytest.mark.skipif(not (ROOT.parent / "docs").exists(), reason="not a checkout")
def test_the_page_prints_these_wirings():
    script = ROOT.parent / "scripts" / "wirings.py"
    found = subprocess.run([sys.executable, script, "--check"], check=False)
    assert found.returncode == 0, "python scripts/wirings.py writes docs/models.md anew"
