"""The parts of attention in a checkpoint: query, key, value, output, heads, and their circuits."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxact import spectral
from jaxact._checks import whole
from jaxact.analysis._measurement import Measurement, concatenate, measure_spectrum, select
from jaxact.analysis._weights import Matrix, batches, stacked

PARTS = ("query", "key", "value", "output")
CIRCUITS = ("query_key", "value_output")

# By part the words by which the libraries call its layer.
_WORDS = {
    "query": r"q_proj|query|q|q_lin|wq|to_q|query_proj|linear_q",
    "key": r"k_proj|key|k|k_lin|wk|to_k|key_proj|linear_k",
    "value": r"v_proj|value|v|v_lin|wv|to_v|value_proj|linear_v",
    "output": r"o_proj|out_proj|o|out|out_lin|wo|to_out|c_proj|proj|dense|linear_out",
    "fused": r"c_attn|qkv|qkv_proj|Wqkv|query_key_value|in_proj|in_proj_weight|W_pack",
}
_ATTENTION = re.compile(r"(?i).*(attn|attention).*")
_CONV1D = re.compile(r"(.*\.)?(c_attn|q_attn|c_proj|c_fc)\.(weight|kernel)")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")


class Attention(NamedTuple):
    """The weights of one attention, views into the checkpoint: outputs before inputs.

    Query heads that share a key and a value form a group; each group has one head where none do.
    Where the heads are not known all parts are of one head.

    Attributes:
      query: (groups, heads of a group, d, inputs).
      key: (groups, d, inputs).
      value: (groups, e, inputs).
      output: (outputs, groups, heads of a group, e).
      names: of the four matrices in the checkpoint.
      known: whether the heads are known.
    """

    query: Shaped[np.ndarray, "g h d n"]
    key: Shaped[np.ndarray, "g d m"]
    value: Shaped[np.ndarray, "g e m"]
    output: Shaped[np.ndarray, "o g h e"]
    names: tuple[str, ...]
    known: bool

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return self.query.shape[0] * self.query.shape[1]

    def matrix(self, part: str) -> Matrix:
        """The matrix of a part, all heads together."""
        view = getattr(self, part)
        rows = view.shape[:1] if part == "output" else view.shape[:-1]
        return Matrix(view, (math.prod(rows), math.prod(view.shape[len(rows) :])))

    def by_head(self, part: str) -> list[np.ndarray]:
        """The matrix of each head of a part: of keys and values as many as there are groups."""
        if part == "query":
            return [head for group in self.query for head in group]
        if part == "output":
            return [self.output[:, i, j] for i, j in np.ndindex(self.query.shape[:2])]
        return list(getattr(self, part))

    def factors(self, circuit: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """By head the two thin factors of a circuit, the second of which acts first."""
        heads = list(np.ndindex(self.query.shape[:2]))
        if circuit == "query_key":
            return [(self.query[i, j].T, self.key[i]) for i, j in heads]
        return [(self.output[:, i, j], self.value[i]) for i, j in heads]


def attention_layers(
    matrices: Mapping[str, Matrix],
    /,
    *,
    config: Mapping[str, Any] | None = None,
    heads: int | None = None,
) -> tuple[dict[str, Matrix], dict[str, Attention]]:
    """Finds the attentions of a checkpoint by the names of its matrices.

    Known are the names of PyTorch's own attention, timm, torchvision and the models of
    transformers. A matrix that holds query, key and value is split: in thirds, or as many rows as
    the key and value heads need; by heads where the name is ``query_key_value`` (GPT-NeoX, BLOOM,
    Falcon). GPT-2's matrices, which have their inputs first, are turned.

    Args:
      matrices: by name, outputs first, from `unread_matrices`.
      config: a model's ``config.json``, for the number of heads; those of parts, such as
        ``text_config``, are read for the matrices in whose names they stand.
      heads: of every attention, where no config tells.

    Returns:
      The matrices, with the parts of split ones (``NAME.query``) in their place; and the attentions
      by the part of the names that is common to their matrices. One that lacks a part, or has
      shapes that do not fit together, is none.

    Raises:
      ValueError: if ``heads`` is given and does not divide the rows of a query.
    """
    if heads is not None:
        whole("heads", heads)
    turned = _turned(matrices)
    groups: dict[str, dict[str, str]] = {}
    for name in turned:
        if found := _role(name):
            groups.setdefault(found[0], {}).setdefault(found[1], name)
    layers: dict[str, Attention] = {}
    split: dict[str, dict[str, Matrix]] = {}
    for prefix, names in groups.items():
        count = heads or _heads_of(config or {}, prefix)
        interleaved = _interleaved(config or {}, names.get("fused", ""))
        parts = _parts(turned, names, count, interleaved)
        if parts is None:
            continue
        found = _attention(parts, names, count)
        if found is None and heads is not None:
            rows = parts["query"].shape[0]
            raise ValueError(f"heads must divide {prefix}, of {rows} rows of queries; got {heads}")
        found = found or _attention(parts, names, None)
        if found is not None:
            layers[prefix] = found
            if "fused" in names:
                kept = dict(zip(found.names, PARTS, strict=True))
                kept.pop(names.get("output", ""), None)
                split[names["fused"]] = {n: found.matrix(part) for n, part in kept.items()}
    whole_ones = {}
    for name, matrix in turned.items():
        whole_ones |= split.get(name, {name: matrix})
    return whole_ones, layers


def head_matrices(layers: Mapping[str, Attention], /) -> dict[str, Matrix]:
    """The matrices of all heads, as ``LAYER.PART.HEAD``, heads counted from 0.

    Args:
      layers: from `attention_layers`; those whose heads are not known are passed over.

    Returns:
      By name, for `measure_matrices` with ``object="head"``.
    """
    return {
        f"{prefix}.{part}.{head}": Matrix(view, (view.shape[0], view.shape[1]))
        for prefix, layer in layers.items()
        if layer.known
        for part in PARTS
        for head, view in enumerate(layer.by_head(part))
    }


def measure_circuits(
    layers: Mapping[str, Attention],
    /,
    *,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, Measurement]:
    """Ranks and norms of what heads compare and of what they move: W_Q^T W_K and W_O W_V.

    Their spectra come from the two thin factors; the product, which is as large as the layer's
    matrices for every head, is never formed. Biases, norms, and rotations of queries and keys by
    their positions are left out: of models that rotate, the circuit is that at distance zero.

    Args:
      layers: from `attention_layers`; those whose heads are not known are passed over.
      progress: wraps the sequence of batches, as tqdm does.

    Returns:
      By quantity a `Measurement` of object ``circuit``, of layers ``LAYER.query_key.HEAD`` and
      ``LAYER.value_output.HEAD``, and ``non_finite``, entries of the factors; empty if no heads are
      known. No rank exceeds the width of a head.

    Reference:
      Elhage et al. 2021, "A mathematical framework for transformer circuits".
    """
    factors = {
        f"{prefix}.{circuit}.{head}": pair
        for prefix, layer in layers.items()
        if layer.known
        for circuit in CIRCUITS
        for head, pair in enumerate(layer.factors(circuit))
    }
    if not factors:
        return {}
    parts: dict[str, list[Measurement]] = {}
    for wide in {pair[1].shape[0]: None for pair in factors.values()}:
        own = {name: pair for name, pair in factors.items() if pair[1].shape[0] == wide}
        for quantity, m in _of_width(own, progress).items():
            parts.setdefault(quantity, []).append(m)
    return {q: select(concatenate(ms), list(factors)) for q, ms in parts.items()}


def _of_width(
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    progress: Callable[[Sequence[Any]], Iterable[Any]],
) -> dict[str, Measurement]:
    """Of products whose factors meet in one width."""
    names, seen = [], []
    groups = batches({name: (*a.shape, *b.shape) for name, (a, b) in factors.items()})
    for group in progress(groups):
        both = (stacked((factors[n][i] for n in group), len(group), np.float32) for i in (0, 1))
        seen.append(jax.block_until_ready(_circuits(*map(jnp.asarray, both))))
        names += group
    logs, missing = (jnp.concatenate(part) for part in zip(*seen, strict=True))
    shapes = [(len(factors[name][0]), factors[name][1].shape[1]) for name in names]
    found = measure_spectrum(logs, shape=shapes, object="circuit", layers=tuple(names), log=True)
    common = found["stable_rank"]
    count = dict(value=missing, valid=jnp.ones(len(names), bool), quantity="non_finite")
    return found | {"non_finite": Measurement(**{**vars(common), **count})}


@jax.jit
def _circuits(
    left: Float[Array, "layer m d"], right: Float[Array, "layer d n"]
) -> tuple[Float[Array, "layer d"], Array]:
    """Log singular values of products, and how many entries of the factors are not finite."""
    found = jax.vmap(lambda a, b: spectral.product_spectrum([b, a], errors=False))(left, right)
    missing = [jnp.sum((~jnp.isfinite(a)).astype(jnp.int32), axis=(1, 2)) for a in (left, right)]
    return found.log_singular_values, missing[0] + missing[1]


def _role(name: str) -> tuple[str, str] | None:
    """The attention that a matrix belongs to, and as what."""
    words = name.split(".")
    at = next((i for i, word in enumerate(words) if _ATTENTION.fullmatch(word)), len(words))
    for word in reversed(words[at + 1 :]):
        for role, known in _WORDS.items():
            if re.fullmatch(known, word):
                return ".".join(words[: at + 1]), role
    return None


def _turned(matrices: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """With the matrices of GPT-2 outputs first; they are told by the shape of a fused one."""
    first = [m.shape for name, m in matrices.items() if name.split(".")[-2:-1] == ["c_attn"]]
    if not first or any(shape[1] <= shape[0] for shape in first):
        return dict(matrices)
    return {
        name: Matrix(m.view.T, (m.shape[1], m.shape[0])) if _CONV1D.fullmatch(name) else m
        for name, m in matrices.items()
    }


def _heads_of(config: Mapping[str, Any], name: str) -> int | None:
    for key, part in config.items():
        of_part = key.endswith("_config") and isinstance(part, dict) and key[:-7] in name
        if of_part and (found := _heads_of(part, "")):  # in attn_config there are none
            return found
    side = "decoder" if "decoder" in name else "encoder"
    own = f"{side}_attention_heads"
    found = next((config[key] for key in (own, *_HEADS) if config.get(key)), None)
    if found is None and isinstance(config.get("text_config"), dict):
        return _heads_of(config["text_config"], "")
    return found if isinstance(found, int) else None


def _interleaved(config: Mapping[str, Any], name: str) -> bool:
    """Whether the rows of a fused matrix go head by head."""
    kind = config.get("model_type", "")
    if kind == "gpt_bigcode":
        return not config.get("multi_query", True)
    return "query_key_value" in name.split(".") and kind != "chatglm"


def _parts(
    matrices: Mapping[str, Matrix], names: Mapping[str, str], heads: int | None, interleaved: bool
) -> dict[str, np.ndarray] | None:
    """Views of the four parts, by rows of any number of axes; None if they are not all there."""
    if "output" not in names:
        return None
    output = matrices[names["output"]].view
    if all(part in names for part in PARTS):
        return {part: matrices[names[part]].view for part in PARTS}
    if "fused" not in names or output.ndim != 2 or matrices[names["fused"]].view.ndim != 2:
        return None
    fused, width = matrices[names["fused"]].view, output.shape[1]
    rest = len(fused) - width
    if rest <= 0 or rest % 2:
        return None
    if not interleaved:
        ends = np.cumsum([width, rest // 2])
        query, key, value = np.split(fused, ends)
    else:
        if not heads or width % heads or (rest // 2) % (width // heads):
            return None
        d = width // heads
        groups = rest // 2 // d
        if heads % groups:
            return None
        rows = fused.reshape(groups, -1, d, fused.shape[1])
        query, key, value = rows[:, :-2], rows[:, -2], rows[:, -1]
    return {"query": query, "key": key, "value": value, "output": output}


def _attention(
    parts: Mapping[str, np.ndarray], names: Mapping[str, str], heads: int | None
) -> Attention | None:
    """The parts by heads, if their shapes fit together."""
    query, key, value, output = (parts[part] for part in PARTS)
    rows = {part: math.prod(view.shape[:-1]) for part, view in parts.items()}
    count, width, groups = heads or 1, output.shape[-1], 1
    if heads:
        if rows["query"] % heads or width % heads:
            return None
        d, e = rows["query"] // heads, width // heads
        groups = rows["key"] // d
        fits = (rows["key"], rows["value"]) == (groups * d, groups * e)
        if not groups or not fits or heads % groups:
            return None
    each = count // groups
    fused = names.get("fused", "")
    return Attention(
        query.reshape(groups, each, -1, query.shape[-1]),
        key.reshape(groups, -1, key.shape[-1]),
        value.reshape(groups, -1, value.shape[-1]),
        output.reshape(len(output), groups, each, -1),
        tuple(names.get(part, f"{fused}.{part}") for part in PARTS),
        bool(heads),
    )


class Label(NamedTuple):
    """What a matrix is in its network.

    Attributes:
      attention: the layer's name; empty of a matrix outside of any attention.
      part: query, key, value, output, query_key, value_output; or empty.
      head: from 0 on; -1 of a matrix of all heads. Keys and values of groups are counted by group.
      possible: the largest rank there can be.
    """

    attention: str
    part: str
    head: int
    possible: int


def labels(matrices: Mapping[str, Matrix], layers: Mapping[str, Attention], /) -> dict[str, Label]:
    """What every matrix, head and circuit is.

    Args:
      matrices: from `attention_layers`, as are the layers.
      layers: the attentions.

    Returns:
      By the name that it has in measurements.
    """
    found = {name: Label("", "", -1, min(m.shape)) for name, m in matrices.items()}
    for prefix, layer in layers.items():
        for part, name in zip(PARTS, layer.names, strict=True):
            found[name] = Label(prefix, part, -1, min(layer.matrix(part).shape))
        if not layer.known:
            continue
        for part in PARTS:
            for head, matrix in enumerate(layer.by_head(part)):
                found[f"{prefix}.{part}.{head}"] = Label(prefix, part, head, min(matrix.shape))
        for circuit in CIRCUITS:
            for head, (left, right) in enumerate(layer.factors(circuit)):
                most = min(*left.shape, *right.shape)
                found[f"{prefix}.{circuit}.{head}"] = Label(prefix, circuit, head, most)
    return found
