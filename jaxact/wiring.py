r"""Where a residual network has its norms, activations, skips and scales: each defined once.

A branch F has weight layers W_1 ... W_k, or it is one sublayer such as attention. A `Placement`
says what acts around them, by tokens in the order in which they act: ``N`` a norm, ``a`` the
activation, ``W`` the layer. Networks walk these tokens, theory and figures read them, and equations
are printed from them. A `Skip` says how the branch is added. A `Wiring` is one of each:

>>> from jaxact import wiring
>>> print(wiring.get("pre").equation(layers=2))
x + W_2 a(N_2 W_1 a(N_1 x))
>>> print(wiring.get("post").equation(sublayer=True))
N(x + F(x))
>>> wiring.get("scaled").label
'residual, branch/√L'
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

from jaxact._checks import conflict, one_of, whole


def _one(*_: Any) -> float:
    return 1.0


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a block applies its norms and activations.

    Attributes:
      name: the word of ``norm_placement=`` and of the command line.
      label: in figures and sentences.
      source: of the equation.
      layer: tokens of each layer of the branch.
      join: tokens between two layers.
      end: tokens after the last.
      after: tokens after the addition.
      head: tokens after the last block, before the mean over positions and the logits.
      dual: whether a second stream sums the branches: d' = d + F(x); the head reads x + N(d).
      stream_scale: the factor of x in the sum, by the number of blocks.
      weight_scale: the factor of the initial weights, by the number of blocks.
      norm_scale: the factor of what the norm puts out, by the block's number from 1 on; of a
        transformer by the layer's, which its two sublayers share.
    """

    name: str
    label: str
    source: str
    layer: str
    join: str = ""
    end: str = ""
    after: str = ""
    head: str = ""
    dual: bool = False
    stream_scale: Callable[[int], float] = _one
    weight_scale: Callable[[int], float] = _one
    norm_scale: Callable[[Any], Any] = _one  # of numbers and of arrays

    def of_sublayers(self) -> "Placement":
        """The same around a sublayer F, which has its own activations.

        Raises:
          ValueError: if activations act outside of the branch.
        """
        if not (self.sublayers or self is _PLAIN):
            word = f"norm_placement={self.name!r}"
            raise conflict("sublayer=True", word, "its activations are outside of the branch")
        parts = ("layer", "join", "end", "after", "head")
        return dataclasses.replace(
            self, **{part: getattr(self, part).replace("a", "") for part in parts}
        )

    def numbered(self, layers: int = 1) -> list[tuple[str, int | None]]:
        """The tokens of a branch of so many layers as they act, and the layer they belong to.

        None stands for what belongs to the branch as a whole, or to its only layer.
        """
        found: list[tuple[str, int | None]] = []
        for layer in range(1, layers + 1):
            tokens = self.layer + (self.join if layer < layers else "")
            found += [(token, layer if layers > 1 else None) for token in tokens]
        return found + [(token, None) for token in self.end]

    @property
    def normed(self) -> bool:
        """Whether there is any norm."""
        return "N" in self.layer + self.join + self.end + self.after

    @property
    def norm_first(self) -> bool:
        """Whether the branch takes a normalized stream."""
        return "N" in self.layer.partition("W")[0]

    @property
    def norm_last(self) -> bool:
        """Whether a norm follows the branch's last weights, before the addition."""
        return "N" in (self.layer + self.end).partition("W")[2]

    @property
    def norm_after(self) -> bool:
        """Whether a norm follows the addition."""
        return "N" in self.after

    @property
    def weights_first(self) -> bool:
        """Whether the branch begins with a weight layer; else the head begins as the next would."""
        return self.layer.startswith("W")

    @property
    def sublayers(self) -> bool:
        """Whether only norms act outside of the branch W a(h): any sublayer can stand there."""
        return self.layer in ("aW", "NaW") and not self.join and "a" not in self.after

    @property
    def scales_weights(self) -> bool:
        """Whether initial weights have a scale of its own."""
        return self.weight_scale is not _one

    @property
    def scales_norms(self) -> bool:
        """Whether norms have a factor by their number."""
        return self.norm_scale is not _one

    @property
    def needs_addition(self) -> bool:
        """Whether it says nothing without a skip: it is told from another by where the sum is."""
        return self.norm_after or self.dual or self.layer.endswith("a")


def _table(rows: Iterable[Any]) -> dict[str, Any]:
    return {row.name: row for row in rows}


PLACEMENTS: dict[str, Placement] = _table(
    [
        Placement(
            "pre", "pre-norm", "He et al. 2016, fig. 4e and eq. 5; Xiong et al. 2020",
            layer="NaW", head="Na",
        ),
        Placement(
            "post", "post-norm", "Vaswani et al. 2017, sec. 3.1; Xiong et al. 2020",
            layer="aW", after="N", head="a",
        ),
        Placement(
            "original", "original ResNet", "He et al. 2015, fig. 2 and sec. 3.4",
            layer="WN", join="a", after="a",
        ),
        Placement(
            "norm_after_addition", "norm after addition", "He et al. 2016, fig. 4b",
            layer="W", join="Na", after="Na",
        ),
        Placement(
            "relu_before_addition", "ReLU before addition", "He et al. 2016, fig. 4c",
            layer="WNa",
        ),
        Placement(
            "relu_only_pre", "ReLU-only pre-activation", "He et al. 2016, fig. 4d",
            layer="aWN", head="a",
        ),
        Placement(
            "sandwich", "sandwich norm (Peri-LN)",
            "Sandwich-LN: Ding et al. 2021; Peri-LN: Kim et al. 2025",
            layer="NaW", end="N", head="Na",
        ),
        Placement(
            "res_post", "res-post-norm", "Liu et al. 2022 (Swin v2), fig. 1",
            layer="aW", end="N", head="Na",
        ),
        Placement(
            "deepnorm", "DeepNorm",
            "Wang et al. 2022; its N layers of two sublayers are L = 2N blocks",
            layer="aW", after="N", head="a",
            stream_scale=lambda blocks: blocks**0.25,  # (2N)^(1/4)
            weight_scale=lambda blocks: (4 * blocks) ** -0.25,  # (8N)^(-1/4)
        ),
        Placement(
            "residual_dual", "ResiDual", "Xie et al. 2023, eqs. 7 and 8",
            layer="aW", after="N", head="Na", dual=True,
        ),
        Placement(
            "norm_scaling", "pre-norm, norm/√ℓ", "Sun et al. 2025 (LayerNorm Scaling), sec. 4",
            layer="NaW", head="Na", norm_scale=lambda block: block**-0.5,
        ),
        Placement(
            "norm_free", "residual, no norm", "He et al. 2016, without norms",
            layer="aW", head="a",
        ),
    ]
)  # fmt: skip

# Without norm and without skip weights come first, so that nothing acts before the first of them.
_PLAIN = Placement(
    "norm_free", "plain", "He et al. 2015, without norms", layer="W", join="a", after="a"
)


@dataclasses.dataclass(frozen=True)
class Skip:
    """How a branch F is added to the stream x.

    Attributes:
      name: the word of ``skip=`` and, for networks without norm, of the command line.
      label: in figures and sentences.
      source: where it was proposed.
      term: the sum, with ``{F}`` for the branch and ``{x}`` for the stream, scaled.
      factor: of the branch, by the number of blocks.
      learned: where a learned factor starts, None where there is none; ``"layer_scale"`` for the
        network's option of that name.
      by_channel: whether the learned factor has an entry for each channel.
      biases: whether the branch has a scalar bias before every token.
      predicts: whether the branch takes x / β, β its deviation as predicted from the depth.
      gain: the factor of the initial weights of layer i of k, by (i, k, blocks).
      head_gain: the factor of the head's initial weights.
      normless: why no norm goes with it, or None where norms do.
    """

    name: str
    label: str
    source: str
    term: str
    factor: Callable[[int], float] = _one
    learned: float | str | None = None
    by_channel: bool = False
    biases: bool = False
    predicts: bool = False
    gain: Callable[[int, int, int], float] = _one
    head_gain: float = 1.0
    normless: str | None = None

    @property
    def scales_weights(self) -> bool:
        """Whether initial weights have a scale of its own."""
        return self.gain is not _one

    @property
    def added(self) -> bool:
        """Whether the stream goes on beside the branch."""
        return "{x}" in self.term


def _fixup_gain(layer: int, layers: int, blocks: int) -> float:
    return 0.0 if layer == layers - 1 else blocks ** (-1 / (2 * layers - 2))


SKIPS: dict[str, Skip] = _table(
    [
        Skip("identity", "residual", "He et al. 2015", "{x} + {F}"),
        Skip(
            "scaled", "residual, branch/√L", "Hayou et al. 2021", "{x} + {F} / √L",
            factor=lambda blocks: blocks**-0.5,
        ),
        Skip("rezero", "ReZero", "Bachlechner et al. 2020", "{x} + s {F}", learned=0.0),
        Skip("skipinit", "SkipInit", "De & Smith 2020", "{x} + s {F}", learned=0.0),
        Skip(
            "layerscale", "LayerScale", "Touvron et al. 2021 (CaiT), eq. 4", "{x} + diag(s) {F}",
            learned="layer_scale", by_channel=True,
        ),
        Skip(
            "fixup", "Fixup", "Zhang et al. 2019", "{x} + s {F}",
            learned=1.0, biases=True, gain=_fixup_gain, head_gain=0.0,
            normless="Fixup is an initialization without norms",
        ),
        Skip(
            "normalizer_free", "normalizer-free", "Brock et al. 2021", "{x} + 0.2 {F}",
            factor=lambda _: 0.2, predicts=True,
            normless="its variances are predicted for blocks without norms",
        ),
        Skip("plain", "plain", "He et al. 2015", "{F}"),
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Wiring:
    """A placement and a skip.

    Attributes:
      placement: one of `PLACEMENTS`.
      skip: one of `SKIPS`, or one that multiplies the branch by a number.
    """

    placement: Placement
    skip: Skip

    def __post_init__(self):
        placement = f"norm_placement={self.placement.name!r}"
        skip = f"skip={self.skip.name!r}"
        if not self.skip.added and self.placement.needs_addition:
            raise conflict(placement, skip, "a plain network has no addition to place it by")
        if self.placement.stream_scale is not _one and self.skip.name != "identity":
            raise conflict(placement, skip, f"{self.placement.label} itself scales the skip")
        if self.skip.normless and self.placement.normed:
            raise conflict(skip, placement, self.skip.normless)

    @property
    def name(self) -> str:
        """The word that `get` takes."""
        if self.skip.name == "identity":
            return self.placement.name
        if not self.placement.normed:
            return self.skip.name
        return f"{self.placement.name}+{self.skip.name}"

    @property
    def label(self) -> str:
        """In figures and sentences."""
        if self.skip.name == "identity":
            return self.placement.label
        if not self.placement.normed:
            return self.skip.label
        return f"{self.placement.label}, {self.skip.label}"

    @property
    def plain(self) -> bool:
        """Whether there is no skip."""
        return not self.skip.added

    @property
    def normed(self) -> bool:
        """Whether there is any norm."""
        return self.placement.normed

    @property
    def sublayers(self) -> bool:
        """Whether the branch can be any sublayer, as in a transformer."""
        return self.placement.sublayers and not self.skip.normless

    @property
    def placed(self) -> Placement:
        """The placement that blocks walk."""
        return _PLAIN if self.plain and not self.normed else self.placement

    @property
    def options(self) -> dict[str, str]:
        """What `jaxact.models` takes: ``norm_placement`` and ``skip``."""
        return {"norm_placement": self.placement.name, "skip": self.skip.name}

    def equation(self, *, layers: int = 1, sublayer: bool = False) -> str:
        """What a block puts out, as the papers print it; valid LaTeX but for √.

        Args:
          layers: weight layers of the branch.
          sublayer: whether to print the branch as one F, which has its own activations.

        Raises:
          ValueError: if ``layers`` is below one, or activations act outside of the branch.
        """
        whole("layers", layers)
        placed = self.placed.of_sublayers() if sublayer else self.placed
        h = "x / β" if self.skip.predicts else "x"
        for token, number in placed.numbered(layers):
            h = _applied(token, number, h, sublayer)
            if token == "N" and placed.scales_norms:
                h = f"{h} / √ℓ"
        x = "α x" if placed.stream_scale is not _one else "x"
        second = f", d' = d + {h}" if placed.dual else ""
        h = self.skip.term.format(x=x, F=h)
        for token in placed.after:
            h = _applied(token, None, h, sublayer)
        return h + second


def _applied(token: str, number: int | None, h: str, sublayer: bool) -> str:
    if sublayer:
        return {"N": f"N({h})", "W": f"F({h})"}[token]
    if token == "a" or (token == "N" and number is None):
        return f"{token}({h})"
    return f"{token} {h}" if number is None else f"{token}_{number} {h}"


def get(wiring: str | Wiring, /) -> Wiring:
    """The wiring of a word.

    Args:
      wiring: a placement (``"pre"``), a skip of a network without norm (``"plain"``,
        ``"scaled"``, a number s for x + s F(x)), or both (``"pre+layerscale"``, ``"pre+0.1"``); a
        `Wiring` is returned as it is.

    Raises:
      ValueError: if the word is none of these, or the two conflict.
    """
    if isinstance(wiring, Wiring):
        return wiring
    first, plus, second = str(wiring).partition("+")
    if not plus:
        first, second = (first, "identity") if first in PLACEMENTS else ("norm_free", first)
    if first in PLACEMENTS and (second in SKIPS or _number(second) is not None):
        return of(first, second)
    words = names()
    said = {name: name for name in words} | {get(name).label: name for name in words}
    near = difflib.get_close_matches(str(wiring), said, n=1)
    hint = f" (nearest: {said[near[0]]})" if near else ""
    raise ValueError(
        f"wiring must be one of {', '.join(words)}, a finite number, or a placement+skip; "
        f"got {wiring!r}{hint}"
    )


def _number(word: str) -> float | None:
    try:
        found = float(word)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def of(norm_placement: str, skip: str | float = "identity") -> Wiring:
    """The wiring of the two options of `jaxact.models`; a number s stands for x + s F(x).

    Raises:
      ValueError: if one is unknown, or the two conflict.
      TypeError: if ``skip`` is neither a word nor a number.
    """
    one_of("norm_placement", norm_placement, tuple(PLACEMENTS))
    if isinstance(skip, str):
        number = _number(skip)
        if number is None:
            one_of("skip", skip, tuple(SKIPS))
            return Wiring(PLACEMENTS[norm_placement], SKIPS[skip])
        skip = number
    if not isinstance(skip, int | float) or isinstance(skip, bool):
        raise TypeError(f"skip must be a number or one of {', '.join(SKIPS)}; got {skip}")
    if not math.isfinite(skip):
        raise ValueError(f"skip must be finite or one of {', '.join(SKIPS)}; got {skip}")
    return Wiring(PLACEMENTS[norm_placement], _scaled_by(float(skip)))


@functools.cache
def _scaled_by(scale: float) -> Skip:
    """The skip x + s F(x); one for each s, so that wirings of equal names are equal."""
    word = repr(scale)
    return Skip(word, f"branch x {word}", "", f"{{x}} + {word} {{F}}", factor=lambda _: scale)


def names() -> tuple[str, ...]:
    """The words of one part: placements, then skips of networks without norm."""
    return (*PLACEMENTS, *(name for name in SKIPS if name != "identity"))
