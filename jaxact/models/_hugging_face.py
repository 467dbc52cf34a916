"""Checkpoints of language and image transformers in Hugging Face's names, in and out."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from jaxact import io
from jaxact._compat import value_of
from jaxact.models._layers import Constant
from jaxact.models._network import stack, unroll
from jaxact.models._transformer import Transformer

Arrays = Mapping[str, Shaped[np.ndarray, "..."] | Shaped[Array, "..."]]

_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "relu": "reglu"}


class _Entry(NamedTuple):
    """An array there, and the variable here that holds it.

    Attributes:
      key: its name there, ``{}`` for the layer's number.
      path: of our variable: in the network, or in a layer where ``key`` has a number.
      layout: ``"same"``, ``"turned"`` (outputs by inputs), ``"patches"`` (OIHW).
      part: which third of the last axis, or None for all.
    """

    key: str
    path: str
    layout: str = "same"
    part: int | None = None

    @property
    def stacked(self) -> bool:
        """Whether there is one for each layer."""
        return "{}" in self.key


def _affine(key: str, path: str, layout: str = "same", *, bias: bool = True) -> list[_Entry]:
    leaf = "kernel" if layout != "scale" else "scale"
    first = _Entry(f"{key}.weight", f"{path}.{leaf}", "same" if layout == "scale" else layout)
    return [first] + [_Entry(f"{key}.bias", f"{path}.bias")] * bias


_ATTENTION = "attention.layers.0"
_FEED = "feed_forward.layers.0"


def _gpt2(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Entry]]:
    for name, usual in (
        ("tie_word_embeddings", True),
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
    ):
        if given.get(name, usual) != usual:
            raise ValueError(f"config must have {name} {usual}; got {given[name]}")
    layer = "transformer.h.{}"
    fused = [
        _Entry(f"{layer}.attn.c_attn.{there}", f"{_ATTENTION}.{name}.{here}", part=part)
        for there, here in (("weight", "kernel"), ("bias", "bias"))
        for part, name in enumerate(("query", "key", "value"))
    ]
    entries = [
        _Entry("transformer.wte.weight", "stem.embed.table"),
        _Entry("transformer.wpe.weight", "stem.positions.table"),
        *_affine(f"{layer}.ln_1", "attention.norms.0", "scale"),
        *fused,
        *_affine(f"{layer}.attn.c_proj", f"{_ATTENTION}.out"),
        *_affine(f"{layer}.ln_2", "feed_forward.norms.0", "scale"),
        *_affine(f"{layer}.mlp.c_fc", f"{_FEED}.up"),
        *_affine(f"{layer}.mlp.c_proj", f"{_FEED}.down"),
        *_affine("transformer.ln_f", "head.norm", "scale"),
    ]
    options = dict(
        inputs=given["vocab_size"],
        length=given.get("n_positions", 1024),
        width=given["n_embd"],
        depth=given["n_layer"],
        heads=given["n_head"],
        hidden=given.get("n_inner") or 4 * given["n_embd"],
        activation=_named(given.get("activation_function", "gelu_new")),
        norm_epsilon=given.get("layer_norm_epsilon", 1e-5),
        norm="layer",
        positions="learned",
        tie_embeddings=True,
        embedding_scale=1.0,
        bias=True,
    )
    return options, entries


def _llama(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Entry]]:
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError(f"config must have rotary positions of type default; got {rope}")
    layer = "model.layers.{}"
    bias, tied = bool(given.get("attention_bias")), bool(given.get("tie_word_embeddings"))
    if bias or given.get("mlp_bias"):
        raise ValueError("config must have no biases; got attention_bias or mlp_bias")
    normed = given["model_type"] == "qwen3"
    window = _window(given)
    entries = [
        _Entry("model.embed_tokens.weight", "stem.embed.table"),
        *_affine(f"{layer}.input_layernorm", "attention.norms.0", "scale", bias=False),
        *(
            _Entry(
                f"{layer}.self_attn.{there}_proj.weight", f"{_ATTENTION}.{here}.kernel", "turned"
            )
            for there, here in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))
        ),
        *(
            _Entry(f"{layer}.self_attn.{c}_norm.weight", f"{_ATTENTION}.{name}_norm.scale")
            for c, name in (("q", "query"), ("k", "key"))
            if normed
        ),
        *_affine(f"{layer}.post_attention_layernorm", "feed_forward.norms.0", "scale", bias=False),
        # Shazeer's value is their up, and what is activated their gate
        *_affine(f"{layer}.mlp.up_proj", f"{_FEED}.up", "turned", bias=False),
        *_affine(f"{layer}.mlp.gate_proj", f"{_FEED}.gate", "turned", bias=False),
        *_affine(f"{layer}.mlp.down_proj", f"{_FEED}.down", "turned", bias=False),
        *_affine("model.norm", "head.norm", "scale", bias=False),
        *[_Entry("lm_head.weight", "head.linear.kernel", "turned")] * (not tied),
    ]
    options = dict(
        inputs=given["vocab_size"],
        width=given["hidden_size"],
        depth=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        kv_heads=given.get("num_key_value_heads") or given["num_attention_heads"],
        head_dim=given.get("head_dim"),
        hidden=given["intermediate_size"],
        activation=_named(given.get("hidden_act", "silu"), _GATED),
        norm="rms",
        norm_epsilon=given.get("rms_norm_eps", 1e-6),
        positions="rotary",
        rotary_base=float(rope.get("rope_theta", given.get("rope_theta", 10_000.0))),
        window=window,
        query_key_norm=normed,
        tie_embeddings=tied,
        embedding_scale=1.0,
        bias=False,
    )
    return options, entries


def _window(given: Mapping[str, Any]) -> int | None:
    """Tokens that every layer sees; Llama's layers see all, whatever its config has."""
    if given["model_type"] == "mistral":
        return given.get("sliding_window", 4096)
    if given["model_type"] == "llama" or not given.get("use_sliding_window"):
        return None
    depth, window = given["num_hidden_layers"], given.get("sliding_window", 4096)
    whole = min(given.get("max_window_layers", 28), depth)
    usual = ["full_attention"] * whole + ["sliding_attention"] * (depth - whole)
    kinds = set(given.get("layer_types") or usual)
    if window is not None and len(kinds) > 1:
        raise ValueError(f"config must have one window in all layers; got {sorted(kinds)}")
    return window if kinds == {"sliding_attention"} else None


def _vit(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Entry]]:
    layer = "vit.encoder.layer.{}"
    start = "vit.embeddings"
    bias = given.get("qkv_bias", True)
    if not bias:
        raise ValueError("config must have qkv_bias true; got false")
    classes = len(given["id2label"]) if given.get("id2label") else given.get("num_labels", 2)
    entries = [
        _Entry(f"{start}.cls_token", "stem.first.table"),
        _Entry(f"{start}.position_embeddings", "stem.positions.table"),
        *_affine(f"{start}.patch_embeddings.projection", "stem.embed", "patches"),
        *_affine(f"{layer}.layernorm_before", "attention.norms.0", "scale"),
        *(
            entry
            for name in ("query", "key", "value")
            for entry in _affine(
                f"{layer}.attention.attention.{name}", f"{_ATTENTION}.{name}", "turned"
            )
        ),
        *_affine(f"{layer}.attention.output.dense", f"{_ATTENTION}.out", "turned"),
        *_affine(f"{layer}.layernorm_after", "feed_forward.norms.0", "scale"),
        *_affine(f"{layer}.intermediate.dense", f"{_FEED}.up", "turned"),
        *_affine(f"{layer}.output.dense", f"{_FEED}.down", "turned"),
        *_affine("vit.layernorm", "head.norm", "scale"),
        *_affine("classifier", "head.linear", "turned"),
    ]
    options = dict(
        stem="patches",
        inputs=given.get("num_channels", 3),
        outputs=classes,
        size=given["image_size"],
        patch=given["patch_size"],
        width=given["hidden_size"],
        depth=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        hidden=given["intermediate_size"],
        activation=_named(given.get("hidden_act", "gelu")),
        norm="layer",
        norm_epsilon=given.get("layer_norm_eps", 1e-12),
        positions="learned",
        mask="none",
        class_token=True,
        pool="first",
        head_bias=True,
        bias=True,
    )
    return options, entries


_ARCHITECTURES: dict[str, Callable[..., tuple[dict[str, Any], list[_Entry]]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "qwen3": _llama,
    "vit": _vit,
}
_SAME = (
    "norm_placement", "skip", "weights", "sublayers", "positions", "mask", "window", "pool"
)  # fmt: skip
"""What no variable shows and no config there chooses, but for windows."""
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def load_hugging_face(
    source: str | pathlib.Path | Arrays,
    /,
    *,
    config: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Transformer:
    """A transformer with the weights of a checkpoint in Hugging Face's names.

    For the model types gpt2, llama, mistral, qwen3 and vit (with its classifier). Logits agree with
    those of the ``transformers`` library to float32's rounding.

    Args:
      source: a folder as `jaxact.io.read_arrays` reads it, in one file or in shards, with a
        ``config.json``; or arrays by name.
      config: what ``config.json`` holds; needed where there is none.
      changes: fields of `TransformerConfig` that are to differ, such as ``param_dtype`` or
        ``remat``.

    Returns:
      The network, in training mode (nothing in it is random).

    Raises:
      FileNotFoundError: if there is no such folder, or a shard is missing.
      ValueError: if the model type is none of these or the config has what is not supported;
        if ``changes`` add or take variables; or if arrays are missing, left over or of another
        shape, all of which are listed.

    Example:
      >>> from jaxact import models
      >>> sizes = dict(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2)
      >>> config = dict(model_type="gpt2", **sizes)
      >>> options = models.hugging_face_options(config)
      >>> net = models.Transformer(**options, rngs=nnx.Rngs(0))
      >>> state = models.to_hugging_face(net, "gpt2")
      >>> state["transformer.h.1.attn.c_attn.weight"].shape
      (4, 12)
      >>> again = models.load_hugging_face(state, config=config)
    """
    if isinstance(source, str | pathlib.Path):
        config = io.read_config(source) if config is None else config
        source = io.read_arrays(source)
    if not config:
        raise ValueError("config must be given where source has no config.json; got none")
    options, entries = _read(config)

    def make() -> Transformer:
        return Transformer(**options | changes | {"scan": True}, rngs=nnx.Rngs(0))

    network = nnx.eval_shape(make)
    variables = _variables(network)
    others = dict(nnx.to_flat_state(nnx.state(network, nnx.Not(Constant)))).keys()
    if differ := others ^ {_path(entry) for entry in entries}:
        names = ", ".join(sorted(".".join(map(str, path)) for path in differ))
        raise ValueError(f"changes must leave the variables of the model; they differ in {names}")
    given = _prepared(source, entries)
    values, wrong = {}, []
    for entry in entries:
        path = _path(entry)
        there = [entry.key.format(i) for i in range(network.config.depth)]
        keys = there if entry.stacked else [entry.key]
        want = value_of(variables[path])
        shape = want.shape[1:] if entry.stacked else want.shape
        parts = []
        for key in keys:
            if key not in given:
                wrong.append(f"missing {key}")
                continue
            part = _ours(np.asarray(given[key]), entry, shape)
            if part is None:
                wrong.append(f"{key} is {np.shape(given[key])}, which does not fit {shape}")
            else:
                parts.append(part)
        if len(parts) == len(keys):
            whole = np.stack(parts) if entry.stacked else parts[0]
            values[path] = jnp.asarray(np.array(whole), want.dtype)
    known = {entry.key.format(i) for entry in entries for i in range(network.config.depth)}
    wrong += [f"left over {key}" for key in given if key not in known]
    if wrong:
        raise ValueError(f"source does not fit the config; {'; '.join(dict.fromkeys(wrong))}")
    filled = [(path, variables[path].replace(value)) for path, value in values.items()]
    nnx.update(network, nnx.from_flat_state(filled))
    # the rest is no weight: numbers by depth; what is not asked for is not made
    nnx.update(network, jax.jit(lambda: nnx.state(make(), Constant))())
    return network if changes.get("scan", True) else unroll(network)


def hugging_face_options(config: Mapping[str, Any], /) -> dict[str, Any]:
    """The fields of a `TransformerConfig` for what Hugging Face's ``config.json`` holds.

    Args:
      config: its values, ``model_type`` among them.

    Raises:
      ValueError: if the model type is unknown, or what it asks for is not supported.
    """
    return _read(config)[0]


def _read(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Entry]]:
    """The fields of a `TransformerConfig`, and where its variables are."""
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        words = ", ".join(_ARCHITECTURES)
        raise ValueError(f"model_type must be one of {words}; got {kind!r}")
    try:
        return _ARCHITECTURES[kind](config)
    except KeyError as error:
        raise ValueError(f"config must have {error}; got {', '.join(config)}") from error


def to_hugging_face(network: Transformer, model_type: str, /) -> dict[str, np.ndarray]:
    """A network's weights in Hugging Face's names and layouts.

    Args:
      network: with what that model has, as `hugging_face_options` gives it.
      model_type: as in `load_hugging_face`.

    Returns:
      Arrays by name, which `jaxact.io.write_safetensors` writes as ``model.safetensors``.

    Raises:
      ValueError: if the type is unknown, or the network has another wiring or other variables.
    """
    c = network.config
    given: dict[str, Any] = dict(
        model_type=model_type, vocab_size=c.inputs, n_embd=c.width, n_layer=c.depth,
        n_head=c.heads, hidden_size=c.width, num_hidden_layers=c.depth,
        num_attention_heads=c.heads, intermediate_size=c.hidden_size,
        sliding_window=c.window, use_sliding_window=True, max_window_layers=0,
        tie_word_embeddings=c.tie_embeddings, image_size=c.size, patch_size=c.patch,
    )  # fmt: skip
    options, entries = _read(given)
    variables = _variables(stack(network))
    paths = {_path(entry) for entry in entries}
    if paths != set(variables):
        names = sorted(".".join(map(str, path)) for path in paths ^ set(variables))
        raise ValueError(
            f"network must have the variables of {model_type}; it differs in {', '.join(names)}"
        )
    own = {name: getattr(c, name) for name in _SAME} | {"embedding_scale": network.stem.scale}
    usual = {field.name: field.default for field in dataclasses.fields(c)}
    for name, value in own.items():
        if value != (wanted := (usual | {"embedding_scale": 1.0} | options)[name]):
            raise ValueError(f"network must have {name}={wanted!r} for {model_type}; got {value!r}")
    state: dict[str, Any] = {}
    for entry in entries:
        value = np.asarray(value_of(variables[_path(entry)]))
        for i, one in enumerate(value if entry.stacked else [value]):
            one = _theirs(one, entry)
            key = entry.key.format(i)
            if entry.part:
                one = np.concatenate([state[key], one], axis=-1)
            state[key] = one
    return state


def _prepared(source: Arrays, entries: list[_Entry]) -> dict[str, Any]:
    """The arrays under the names of whole models, without what is no weight."""
    first = entries[0].key.partition(".")[0] + "."
    keys = {entry.key for entry in entries}
    given = {}
    for key, value in source.items():
        if key.endswith(_BUFFERS) or (key == "lm_head.weight" and key not in keys):
            continue  # masks of old files, and the tied copy of the embeddings
        bare = not key.startswith(first) and key not in keys
        given[first + key if bare else key] = value
    return given


def _variables(network: nnx.Module) -> dict[tuple[Any, ...], Any]:
    return dict(nnx.to_flat_state(nnx.state(network, nnx.Param)))


def _path(entry: _Entry) -> tuple[Any, ...]:
    steps = tuple(int(step) if step.isdigit() else step for step in entry.path.split("."))
    return ("stages", 0, "rest", *steps) if entry.stacked else steps


def _ours(value: np.ndarray, entry: _Entry, shape: tuple[int, ...]) -> np.ndarray | None:
    """An array in our layout, or None where it does not fit."""
    if entry.part is not None:
        if value.shape[-1] % 3:
            return None
        value = np.split(value, 3, axis=-1)[entry.part]
    if entry.layout == "turned":
        value = value.T
    if entry.layout == "patches":
        if value.ndim != 4:
            return None
        value = value.transpose(2, 3, 1, 0)
    if value.ndim == 3 and value.shape[0] == 1:
        value = value[0]
    return value if value.shape == shape else None


def _theirs(value: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.layout == "turned":
        return np.ascontiguousarray(value.T)
    if entry.layout == "patches":
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    return value[None] if entry.key.startswith("vit.embeddings.") and value.ndim == 2 else value


def _named(activation: str, names: Mapping[str, str] = _ACTIVATIONS) -> str:
    if activation not in names:
        raise ValueError(f"activation must be one of {', '.join(names)}; got {activation!r}")
    return names[activation]
