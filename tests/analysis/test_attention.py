"""Query, key, value and output of checkpoints, by head, and the circuits that heads make."""

import json
import pathlib

import numpy as np
import pytest

from jaxact import analysis

# Names, shapes and configs of small models of transformers, as they are saved.
MODELS = json.loads(
    (pathlib.Path(__file__).parents[1] / "io" / "data" / "transformers.json").read_text()
)
# By model the groups and heads of its first attention, and which rows of its fused matrix are whose
# for query head 1, key head 0 and value head 0 (from the models' own code).
SPLIT = {
    "gpt2": (4, 4, (16, 64, 128)),
    "neox": (4, 4, (48, 16, 32)),
    "bloom": (4, 4, (48, 16, 32)),
    "falcon": (1, 8, (8, 64, 72)),
    "falcon_new": (2, 8, (8, 32, 40)),
    "phi3": (2, 8, (8, 64, 80)),
    "bigcode": (1, 4, (16, 64, 80)),
    "mpt": (4, 4, (16, 64, 128)),
}
SEPARATE = {"llama": (2, 8), "vit": (4, 4), "bert": (4, 4), "t5": (4, 4), "clip": (4, 4),
            "gptj": (4, 4), "gemma": (1, 4), "distilbert": (4, 4), "mixtral": (2, 8)}  # fmt: skip


def arrays_of(kind, seed=0):
    rng = np.random.default_rng(seed)
    shapes = MODELS[kind]["shapes"]
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def layers_of(kind, arrays=None):
    matrices = analysis.unread_matrices(arrays or arrays_of(kind), layout="oihw")
    return analysis.attention_layers(matrices, config=MODELS[kind]["config"])


@pytest.mark.parametrize("kind", SPLIT)
def test_fused_matrices_are_split_as_the_models_do(kind):
    groups, heads, starts = SPLIT[kind]
    arrays = arrays_of(kind)
    fused = next(
        a for n, a in arrays.items() if "qkv" in n.lower() or "c_attn" in n or "key_v" in n
    )
    fused = fused.T if kind == "gpt2" else fused
    matrices, layers = layers_of(kind)
    layer = next(iter(layers.values()))
    assert layer.known
    assert (layer.key.shape[0], layer.heads) == (groups, heads)
    d = layer.query.shape[2]
    for part, head, start in zip(("query", "key", "value"), (1, 0, 0), starts, strict=True):
        np.testing.assert_array_equal(layer.by_head(part)[head], fused[start : start + d])
    names = [name for name in matrices if name.endswith((".query", ".key", ".value"))]
    assert len(names) == 3 * len(layers)
    whole = np.concatenate([matrices[name].read() for name in names[:3]])
    np.testing.assert_array_equal(np.sort(whole, axis=0), np.sort(fused, axis=0))
    assert sum(np.prod(m.shape) for m in matrices.values()) == sum(
        a.size for n, a in arrays.items() if not n.endswith("cls_token")
    )


@pytest.mark.parametrize("kind", SEPARATE)
def test_separate_matrices(kind):
    groups, heads = SEPARATE[kind]
    arrays = arrays_of(kind)
    matrices, layers = layers_of(kind)
    layer = next(iter(layers.values()))
    assert (layer.key.shape[0], layer.heads, layer.known) == (groups, heads, True)
    assert list(matrices) == [n for n in arrays if not n.endswith("cls_token")]
    for part, name in zip(("query", "key", "value", "output"), layer.names, strict=True):
        np.testing.assert_array_equal(layer.matrix(part).read(), arrays[name])
    outputs = np.concatenate(layer.by_head("output"), axis=1)
    np.testing.assert_array_equal(outputs, arrays[layer.names[3]])


def test_towers_and_crossing_attentions_have_layers_of_their_own():
    _, layers = layers_of("clip")
    heads = {name: layer.heads for name, layer in layers.items()}
    assert heads["text_model.encoder.layers.0.self_attn"] == 4
    assert heads["vision_model.encoder.layers.0.self_attn"] == 8
    _, layers = layers_of("t5")
    assert "decoder.block.0.layer.1.EncDecAttention" in layers


def test_matrices_of_gpt2_have_their_outputs_first():
    matrices, _ = layers_of("gpt2")
    assert matrices["transformer.h.0.mlp.c_fc.weight"].shape == (256, 64)
    assert matrices["transformer.h.1.mlp.c_proj.weight"].shape == (64, 256)
    assert matrices["transformer.wte.weight"].shape == (100, 64)


def test_heads_that_are_not_told():
    matrices = analysis.unread_matrices(arrays_of("phi3"), layout="oihw")
    split, layers = analysis.attention_layers(matrices)
    layer = next(iter(layers.values()))
    assert not layer.known
    assert split[layer.names[1]].shape == (16, 64)
    assert analysis.head_matrices(layers) == {}
    assert analysis.measure_circuits(layers) == {}
    _, layers = analysis.attention_layers(matrices, heads=8)
    assert next(iter(layers.values())).heads == 8
    with pytest.raises(ValueError, match=r"heads must divide model\.layers\.0\.self_attn, of 64 "):
        analysis.attention_layers(matrices, heads=7)
    with pytest.raises(ValueError, match="heads must be an integer of at least 1; got 0"):
        analysis.attention_layers(matrices, heads=0)


def test_what_does_not_fit_together_is_no_attention():
    arrays = {f"attn.{part}_proj.weight": np.ones((8, 8), np.float32) for part in "qkv"}
    for output in ({}, {"attn.o_proj.weight": np.ones((8, 7), np.float32)}):
        matrices = analysis.unread_matrices(arrays | output, layout="oihw")
        _, layers = analysis.attention_layers(matrices, config={"num_heads": 4})
        assert not [layer for layer in layers.values() if layer.known]


@pytest.mark.parametrize("kind", ["llama"])
def test_circuits_against_the_product_in_float64(kind):
    _, layers = layers_of(kind)
    found = analysis.measure_circuits(layers)
    layer = next(iter(layers.values()))
    prefix, d = next(iter(layers)), layer.query.shape[2]
    for circuit in ("query_key", "value_output"):
        for head, (left, right) in enumerate(layer.factors(circuit)):
            s = np.linalg.svd(left.astype(float) @ right.astype(float), compute_uv=False)[:d]
            p, q = s / s.sum(), s**2 / (s**2).sum()
            expected = {
                "effective_rank": np.exp(-(p * np.log(p)).sum()),
                "effective_rank_squared": np.exp(-(q * np.log(q)).sum()),
                "stable_rank": (s**2).sum() / s[0] ** 2,
                "numerical_rank": d,
                "frobenius_norm": np.linalg.norm(s),
            }
            name = f"{prefix}.{circuit}.{head}"
            for quantity, value in expected.items():
                m = analysis.select(found[quantity], [name])
                assert float(m.value[0]) == pytest.approx(value, rel=2e-6), (name, quantity)
                assert m.shapes == ((64, 64),)
            logs = analysis.select(found["log_singular_value"], [name]).value[0]
            index = np.rint(np.linspace(0, d - 1, 33)).astype(int)
            np.testing.assert_allclose(np.exp(np.asarray(logs)), s[index], rtol=1e-5)


def test_the_product_of_queries_and_keys_is_what_scores_are_made_of():
    layer = next(iter(layers_of("llama")[1].values()))
    x, y = np.random.default_rng(1).normal(size=(2, 64))
    queries = [w @ x for w in layer.by_head("query")]
    keys = np.repeat([w @ y for w in layer.by_head("key")], 4, axis=0)
    scores = [float(q @ k) for q, k in zip(queries, keys, strict=True)]
    found = [float((x @ left) @ (right @ y)) for left, right in layer.factors("query_key")]
    np.testing.assert_allclose(found, scores, rtol=1e-6)


def test_heads_together_move_what_the_layer_moves():
    layer = next(iter(layers_of("llama")[1].values()))
    x = np.random.default_rng(1).normal(size=64)
    values = np.repeat([w @ x for w in layer.by_head("value")], 4, axis=0)
    expected = layer.matrix("output").read() @ np.ravel(values)
    found = sum(left @ (right @ x) for left, right in layer.factors("value_output"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_bigcode_go_head_by_head_where_each_has_keys_of_its_own():
    rng = np.random.default_rng(0)
    arrays = {"attn.c_attn.weight": rng.normal(size=(24, 8)), "attn.c_proj.weight": np.eye(8)}
    matrices = analysis.unread_matrices(arrays, layout="oihw")
    for many, start in ((False, 4 * 3), (True, 4)):
        config = {"model_type": "gpt_bigcode", "n_head": 2, "multi_query": many}
        _, layers = analysis.attention_layers(matrices, config=config)
        second = layers["attn"].by_head("query")[1]
        np.testing.assert_array_equal(second, arrays["attn.c_attn.weight"][start : start + 4])


def test_a_broken_head_is_named_and_the_rest_measured():
    arrays = arrays_of("llama")
    arrays["model.layers.0.self_attn.k_proj.weight"][0, 0] = np.nan
    _, layers = layers_of("llama", arrays)
    found = analysis.measure_circuits(layers)
    frame = analysis.table(found)
    broken = frame[(frame.quantity == "non_finite") & (frame.value > 0)].name
    prefix = "model.layers.0.self_attn.query_key"
    assert list(broken) == [f"{prefix}.{head}" for head in range(4)]
    assert set(frame[frame.name.isin(broken)].quantity) == {"non_finite"}


def test_nothing_is_copied_before_it_is_measured():
    for kind in ("gpt2", "neox", "falcon_new", "llama"):
        arrays = arrays_of(kind)
        matrices, layers = layers_of(kind, arrays)
        owners = [id(a) for a in arrays.values()]

        def owner(view):
            while view.base is not None:
                view = view.base
            return id(view)

        assert all(owner(m.view) in owners for m in matrices.values())
        heads = analysis.head_matrices(layers)
        assert all(owner(m.view) in owners for m in heads.values())


def test_labels():
    matrices, layers = layers_of("llama")
    labels = analysis.labels(matrices, layers)
    prefix = "model.layers.1.self_attn"
    assert labels[f"{prefix}.query_key.7"] == (prefix, "query_key", 7, 8)
    assert labels[f"{prefix}.key.1"] == (prefix, "key", 1, 8)
    assert labels[f"{prefix}.o_proj.weight"] == (prefix, "output", -1, 64)
    assert labels["lm_head.weight"] == ("", "", -1, 64)
    measured = {
        *analysis.head_matrices(layers),
        *analysis.measure_circuits(layers)["stable_rank"].layers,
    }
    assert measured | set(matrices) == set(labels)
