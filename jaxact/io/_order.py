"""Names in order of depth, where a file's own order says nothing."""

import itertools
import re
from collections.abc import Mapping

import numpy as np

# Words by which the libraries call parts, in the order in which those act; all others stand between
# the two groups. A word is asked for among its siblings only: `output` after `intermediate`.
_EARLY = (
    r"embeddings?|embed(?!_out)\w*|\w+_embed\w*|wte|shared|cls_token|\w+_tokens?|stem|conv_stem|conv1",
    r"wpe|bn1|norm_pre|pre_layrnorm|\w*encoder|vision\w*|text_model",
    r"input_layernorm|ln_?1|norm1|layernorm_before|ln_attn|attention_norm|attn_norm",
    r"\w*self_?attn|\w*self_?attention|attn|attention|SelfAttention|self",
    r"encoder_attn|cross\w*|EncDecAttention",
    r"post_attention_layernorm|ln_?2|norm2|layernorm_after|ln_mlp|ffn_norm",
    r"router|gate",
    r"query|q_\w+|q|wq|to_q|query_key_value|\w*qkv\w*|in_proj\w*|c_attn",
    r"key|k_\w+|k|wk|to_k",
    r"value|v_\w+|v|wv|to_v",
    r"o_proj|out_proj|out_lin|o|to_out",
    r"gate_\w+|fc_in|c_fc|wi|wi_0|w1|dense_h_to_4h|intermediate",
    r"up_proj|wi_1|w3",
)
_LATE = (
    r"out_\w+|wo|c_proj|down_proj|dense_4h_to_h|fc_out|w2",
    r"\w*decoder|visual_projection|text_projection",
    r"pooler|ln_f|norm_f|norm|layernorm|final_\w+|post_layernorm|cls|predictions",
    r"lm_head|embed_out|head|classifier|fc|logits|score",
)
_PLACES = [
    *((place - len(_EARLY), re.compile(words)) for place, words in enumerate(_EARLY)),
    *((place, re.compile(words)) for place, words in enumerate(_LATE, start=1)),
]


def by_depth(
    arrays: Mapping[str, np.ndarray], /, *, ordered: bool | None = None
) -> dict[str, np.ndarray]:
    """Arrays in order of depth.

    A file whose names are not in alphabetical order (within each dtype, as safetensors writes them)
    has an order of its own, which is kept. Else names are ordered part by part: by the numbers in
    them, so that 2 comes before 10, and by the words of `_EARLY` and `_LATE`.

    Args:
      arrays: by name, the parts of which are joined by dots.
      ordered: whether their order is that of depth; by default as above.
    """
    if ordered is None:
        runs = [list(run) for _, run in itertools.groupby(arrays, lambda name: arrays[name].dtype)]
        kinds = {array.dtype for array in arrays.values()}
        ordered = any(run != sorted(run) for run in runs) or len(runs) > len(kinds)
    return {name: arrays[name] for name in (arrays if ordered else sorted(arrays, key=_key))}


def _key(name: str) -> list[tuple[int, list[tuple[bool, int, str]]]]:
    return [(_place(part), _pieces(part)) for part in name.split(".")]


def _place(part: str) -> int:
    return next((place for place, words in _PLACES if words.fullmatch(part)), 0)


def _pieces(part: str) -> list[tuple[bool, int, str]]:
    pieces = re.findall(r"\d+|\D+", part)
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]
