"""Folders of language models: shards, their index, and the order of depth."""

import json
import pathlib
import re

import ml_dtypes
import numpy as np
import pytest

from jaxact import io

# Names, shapes and configs of small random models, as transformers 5 saves them.
MODELS = json.loads((pathlib.Path(__file__).parent / "data" / "transformers.json").read_text())


def write(folder, arrays, *, shards=3, index=True):
    """Arrays in shards, as published: in order of depth, with an index."""
    folder.mkdir(exist_ok=True)
    names = list(arrays)
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        own = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        io.write_safetensors(folder / file, {name: arrays[name] for name in own})
        places |= dict.fromkeys(own, file)
    if index:
        weight_map = dict(sorted(places.items()))
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)
    return folder


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    shapes = MODELS["llama"]["shapes"]
    return {n: rng.normal(size=s).astype(ml_dtypes.bfloat16) for n, s in shapes.items()}


def test_a_model_in_shards(tmp_path, model):
    found = io.read_arrays(write(tmp_path, model))
    assert list(found) == list(model)
    for name, array in model.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert io.outputs_first(tmp_path)
    assert not io.outputs_first(tmp_path / "model.npz")


def test_a_model_in_one_file_beside_what_is_no_weight(tmp_path, model):
    io.write_safetensors(tmp_path / "model.safetensors", model)
    (tmp_path / "training_args.bin").write_bytes(b"")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same, in another format")
    assert list(io.read_arrays(tmp_path)) == list(model)


# What acts in one layer, in the order in which the models' own code applies it.
PARTS = {
    "gpt2": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "llama": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj "
    "mlp.gate_proj mlp.up_proj mlp.down_proj",
    "bert": "attention.self.query attention.self.key attention.self.value attention.output.dense "
    "intermediate.dense output.dense",
    "vit": "attention.attention.query attention.attention.key attention.attention.value "
    "attention.output.dense intermediate.dense output.dense",
    "neox": "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "mpt": "attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj",
    "phi3": "self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj",
    "gptj": "attn.q_proj attn.k_proj attn.v_proj attn.out_proj mlp.fc_in mlp.fc_out",
    "distilbert": "attention.q_lin attention.k_lin attention.v_lin attention.out_lin "
    "ffn.lin1 ffn.lin2",
}
ENDS = {
    "gpt2": ("transformer.wte.weight", ""),
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "bert": (
        "bert.embeddings.position_embeddings.weight",
        "cls.predictions.transform.dense.weight",
    ),
    "vit": ("vit.embeddings.cls_token", "classifier.weight"),
    "neox": ("gpt_neox.embed_in.weight", "embed_out.weight"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_order_of_depth(kind):
    """Layers 0, 1, 2, ..., 10 one after another, each in the order in which its parts act."""
    layer = re.compile(r"(.*\b(?:layers?|h|blocks?)\.)([01])(\..*)")
    names = {}
    for name in MODELS[kind]["shapes"]:
        if found := layer.fullmatch(name):
            names |= dict.fromkeys(f"{found[1]}{i}{found[3]}" for i in range(11))
        else:
            names[name] = None
    shuffled = {name: np.zeros((1, 1), np.float32) for name in sorted(names)}
    found = list(io._order.by_depth(shuffled))
    inside = [re.fullmatch(r".*?\.(\d+)\.(.*)\.weight", name) for name in found]
    parts = [f"{m[1]} {m[2]}" for m in inside if m]
    assert parts == [f"{i} {part}" for i in range(11) for part in PARTS[kind].split()]
    first, last = ENDS.get(kind, ("", ""))
    assert found[0] == first or not first
    assert found[-1] == last or not last


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(tmp_path, model, index):
    write(tmp_path, model, index=index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003\.safetensors"):
        io.read_arrays(tmp_path)


def test_a_truncated_shard_is_named(tmp_path, model):
    shard = write(tmp_path, model) / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"whole safetensors file; .*00003-of-00003\.safetensors"):
        io.read_arrays(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "path must have a whole index"),
        ('{"weight_map": {"w": "../model-00001-of-00003.safetensors"}}', "is no name of a file"),
        ('{"weight_map": {"w": "model-00001-of-00003.safetensors"}}', "lacks w, which the index"),
    ],
)
def test_a_damaged_index(tmp_path, model, index, message):
    write(tmp_path, model)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        io.read_arrays(tmp_path)


def test_two_models_in_a_folder(tmp_path):
    for name in ("a", "b"):
        io.write_safetensors(tmp_path / f"{name}.safetensors", {"w": np.eye(2)})
    with pytest.raises(ValueError, match=r"of one model; .* holds a\.safetensors, b\.safetensors"):
        io.read_arrays(tmp_path)


def test_one_module_with_all_parts():
    parts = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    arrays = {f"layers.0.{part}.weight": np.zeros((1, 1)) for part in sorted(parts)}
    found = [name.split(".")[2] for name in io._order.by_depth(arrays)]
    assert found == parts


def test_layers_of_keras_in_order():
    names = ["conv2d", "conv2d_1", "conv2d_2", "conv2d_10", "dense", "dense_1"]
    arrays = {f"layers.{name}.vars.0": np.zeros((1, 1)) for name in sorted(names)}
    found = [name.split(".")[1] for name in io._order.by_depth(arrays)]
    assert found == names


def test_config(tmp_path):
    assert io.read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="an object"):
        io.read_config(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json of JSON"):
        io.read_config(tmp_path)
