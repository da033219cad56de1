"""config.json: read as `transformers` reads it, refused where it asks for more."""

import json
from pathlib import Path

import pytest
import transformers

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.head_types import HEAD_TYPES
from shared.huggingface.config_json import OWN, make_hf_config, read_hf_config

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
CONFIGS = {
    "gpt2": transformers.GPT2Config,
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
}
MODELS = [
    ModelConfig(num_kv_heads=4, ffn_width=512, vocab_size=99, activation="relu"),
    ModelConfig(
        num_kv_heads=4,
        ffn_width=96,
        vocab_size=99,
        scale_by_layer=True,
        tie_embeddings=False,
        norm_epsilon=1e-6,
        max_positions=77,
    ),
    ModelConfig(
        family="llama",
        num_kv_heads=2,
        head_width=48,
        ffn_width=200,
        activation="silu",
        mlp_bias=False,
        rope_type="llama3",
        rope_factor=8.0,
        rope_low_freq_factor=2.0,
        rope_high_freq_factor=6.0,
        rope_original_positions=64,
        rope_theta=5e5,
        vocab_size=99,
    ),
    ModelConfig(
        family="llama",
        num_kv_heads=4,
        head_width=32,
        ffn_width=200,
        qkv_bias=False,
        out_bias=False,
        activation="gelu_tanh",
        rope_type="linear",
        rope_factor=2.5,
        vocab_size=99,
        tie_embeddings=False,
    ),
    ModelConfig(
        family="qwen2",
        num_kv_heads=1,
        head_width=32,
        ffn_width=200,
        out_bias=False,
        mlp_bias=False,
        activation="silu",
        rope_theta=1e6,
        vocab_size=99,
    ),
]


def describe(folder, config):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return read_hf_config(folder)


def fields_of(described):
    found = described.layer.items()
    return {name.removeprefix("model."): value for name, value in found}


def layer(folder, config):
    return fields_of(describe(folder, config))


def model_of(described):
    return ModelConfig(**fields_of(described))


def refused(folder, config):
    """The one line that a config is refused with."""
    with pytest.raises(ValueError) as caught:
        describe(folder, config)
    message = str(caught.value)
    assert str(folder / "config.json") in message and "\n" not in message
    return message


@pytest.mark.parametrize("cfg", MODELS, ids=lambda cfg: cfg.family)
def test_what_is_made_is_read(tmp_path, cfg):
    made = make_hf_config(cfg, None, kind="causal", eos_id=1, pad_id=0)
    described = describe(tmp_path, made)
    assert (described.kind, described.num_heads) == ("causal", 1)
    assert set(fields_of(described)) == set(vars(cfg)) - OWN
    for name, value in described.layer.items():
        own = getattr(cfg, name.removeprefix("model."))
        assert (type(value), value) == (type(own), own), name
    assert model_of(described) == cfg
    # Transformers reads it, and what it writes is the same model.
    config = CONFIGS[cfg.family](**{k: v for k, v in made.items() if k != "model_type"})
    assert describe(tmp_path, config.to_json_string()).layer == described.layer
    full = config.to_json_string(use_diff=False)
    assert describe(tmp_path, full).layer == described.layer
    assert (config.eos_token_id, config.pad_token_id) == (1, 0)


@pytest.mark.parametrize("family", CONFIGS)
def test_absent_keys_have_the_defaults_of_transformers(tmp_path, family):
    bare = layer(tmp_path, {"model_type": family})
    full = CONFIGS[family]().to_json_string(use_diff=False)
    assert bare == layer(tmp_path, full)


def test_other_names_of_keys_are_those_of_transformers(tmp_path):
    config = {"model_type": "gpt2", "hidden_size": 48, "num_hidden_layers": 3}
    found = layer(tmp_path, config)
    assert (found["width"], found["num_layers"]) == (48, 3)


def test_null_stands_for_what_follows_from_other_keys(tmp_path):
    llama = {"model_type": "llama", "hidden_size": 96, "num_attention_heads": 6}
    nulls = {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    found = layer(tmp_path, llama | nulls | {"architectures": None, "id2label": None})
    assert (found["head_width"], found["num_kv_heads"]) == (16, 6)
    gpt2 = {"model_type": "gpt2", "n_embd": 24, "n_head": 3, "n_inner": None}
    assert layer(tmp_path, gpt2)["ffn_width"] == 96
    # The class of Qwen2 has a number of key heads of its own where nothing is said.
    qwen2 = {"model_type": "qwen2", "hidden_size": 128, "num_attention_heads": 64}
    assert layer(tmp_path, qwen2)["num_kv_heads"] == 32


ROPES = [
    ({}, ("default", 1e4, 1.0)),
    ({"rope_theta": 5e5}, ("default", 5e5, 1.0)),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, ("linear", 1e4, 2.0)),
    ({"rope_theta": 7, "rope_scaling": LLAMA3}, ("llama3", 7.0, 8.0)),
    ({"rope_parameters": LLAMA3 | {"rope_theta": 9.5}}, ("llama3", 9.5, 8.0)),
    ({"rope_parameters": {"rope_theta": 9.5}}, ("default", 9.5, 1.0)),
    ({"rope_theta": 3.0, "rope_parameters": {"rope_theta": 9.5}}, ("default", 9.5, 1)),
    (
        {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
        ("llama3", 1e4, 8.0),
    ),
    ({"rope_scaling": {}, "rope_parameters": None}, ("default", 1e4, 1.0)),
]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("keys, right", ROPES)
def test_rope_of_both_ages(tmp_path, family, keys, right):
    found = layer(tmp_path, {"model_type": family} | keys)
    parts = ("rope_type", "rope_theta", "rope_factor")
    assert tuple(found[part] for part in parts) == right
    if right[0] == "llama3":
        assert found["rope_original_positions"] == 512
    # The judge: what transformers makes of the same keys.
    rope = CONFIGS[family](**json.loads(json.dumps(keys))).rope_parameters
    theirs = (rope["rope_type"], rope["rope_theta"], rope.get("factor", 1.0))
    assert theirs == right


def test_llama3_stretches_from_the_longest_document_unless_told(tmp_path):
    rope = {k: v for k, v in LLAMA3.items() if not k.startswith("original")}
    config = {"model_type": "llama", "rope_scaling": rope}
    config["max_position_embeddings"] = 4096
    assert layer(tmp_path, config)["rope_original_positions"] == 4096


@pytest.mark.parametrize("theirs", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])
def test_activations(tmp_path, theirs):
    gpt2 = {"model_type": "gpt2", "activation_function": theirs}
    assert layer(tmp_path, gpt2)["activation"] == "gelu_tanh"
    llama = {"model_type": "llama", "hidden_act": "swish"}
    assert layer(tmp_path, llama)["activation"] == "silu"


WRONG = [
    ({"model_type": "bert"}, "model_type", "gpt2, llama, qwen2, got 'bert'"),
    ({"model_type": None}, "model_type", "qwen2"),
    ({"model_type": ["gpt2"]}, "model_type", "qwen2"),
    ({}, "model_type", "got none"),
    ({"model_type": "gpt2", "n_layer": -1}, "n_layer", "got -1"),
    ({"model_type": "gpt2", "n_layer": 10**12}, "n_layer", "10000"),
    ({"model_type": "gpt2", "n_layer": True}, "n_layer", "got True"),
    ({"model_type": "gpt2", "n_embd": "768"}, "n_embd", "got '768'"),
    ({"model_type": "gpt2", "n_embd": 24.0}, "n_embd", "got 24.0"),
    ({"model_type": "gpt2", "n_embd": 25, "n_head": 4}, "width", "divisible"),
    ({"model_type": "gpt2", "n_inner": 0}, "n_inner", "got 0"),
    ({"model_type": "gpt2", "n_head": {}}, "n_head", "got {}"),
    ({"model_type": "gpt2", "vocab_size": None}, "vocab_size", "got None"),
    ({"model_type": "gpt2", "layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon", "1e"),
    ({"model_type": "gpt2", "layer_norm_epsilon": 0}, "layer_norm_epsilon", "> 0"),
    ('{"model_type": "gpt2", "layer_norm_epsilon": NaN}', "layer_norm_epsilon", "nan"),
    ('{"model_type": "llama", "rope_theta": 1e999}', "rope_theta", "inf"),
    ({"model_type": "gpt2", "activation_function": "mish"}, "activation_f", "gelu_new"),
    ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights", "true"),
    ({"model_type": "gpt2", "add_cross_attention": True}, "cross_attention", "false"),
    ({"model_type": "gpt2", "tie_word_embeddings": 1}, "tie_word", "true or false"),
    ({"model_type": "gpt2", "architectures": "x"}, "architectures", "list"),
    ({"model_type": "llama", "hidden_size": 100}, "width", "divisible"),
    ({"model_type": "llama", "head_dim": 3}, "head_width", "even"),
    ({"model_type": "llama", "num_key_value_heads": 5}, "num_kv_heads", "divisor"),
    ({"model_type": "llama", "attention_bias": "no"}, "attention_bias", "true or"),
    ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantization", "4"),
    ({"model_type": "llama", "partial_rotary_factor": 0.5}, "partial_rotary", "0.5"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window", "full"),
    (
        {"model_type": "qwen2", "layer_types": ["sliding_attention"]},
        "layer_types",
        "fu",
    ),
    ({"model_type": "qwen2", "layer_types": "x"}, "layer_types", "full_attention"),
    ("", "JSON", ""),
    ("[1]", "object", "list"),
    ("[" * 100_000, "JSON", ""),
    ('{"model_type": "\udcff"}', "JSON", ""),
]


@pytest.mark.parametrize("config, key, part", WRONG)
def test_what_is_refused(tmp_path, config, key, part):
    if isinstance(config, str):
        (tmp_path / "config.json").write_bytes(
            config.encode("utf-8", "surrogateescape")
        )
        with pytest.raises(ValueError) as caught:
            read_hf_config(tmp_path)
        message = str(caught.value)
    else:
        message = refused(tmp_path, config)
    assert key in message and part in message and "\n" not in message
    assert "config.json" in message and len(message) < 400


@pytest.mark.parametrize(
    "rope, part",
    [
        ({"rope_type": "yarn", "factor": 2.0}, "default, linear, llama3, got 'yarn'"),
        ({"type": "dynamic", "factor": 2.0}, "llama3, got 'dynamic'"),
        ({"rope_type": 3}, "rope_scaling.rope_type"),
        ({"rope_type": "linear"}, "rope_scaling.factor"),
        ({"rope_type": "linear", "factor": -2}, "rope_scaling.factor"),
        (LLAMA3 | {"low_freq_factor": None}, "rope_scaling.low_freq_factor"),
        (LLAMA3 | {"high_freq_factor": 0.5}, "rope_high_freq_factor"),
        (LLAMA3 | {"original_max_position_embeddings": 1.5}, "rope_scaling.original"),
        ({"full_attention": {"rope_type": "default"}}, "rope_scaling.full_attention"),
        ({"rope_type": "default", "partial_rotary_factor": 0.25}, "partial_rotary"),
        (["linear"], "rope_scaling"),
    ],
)
def test_ropes_that_are_refused(tmp_path, rope, part):
    message = refused(tmp_path, {"model_type": "llama", "rope_scaling": rope})
    assert part in message


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json must be readable, got No such"):
        read_hf_config(tmp_path)


REWARD = {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}


@pytest.mark.parametrize("labels", [{"id2label": {"0": "good"}}, {"num_labels": 1}])
def test_reward_models(tmp_path, labels):
    assert describe(tmp_path, REWARD | labels).kind == "reward"


@pytest.mark.parametrize(
    "labels", [{}, {"num_labels": 2}, {"id2label": {"0": "a", "1": "b"}}]
)
def test_a_reward_model_has_one_label(tmp_path, labels):
    assert "one label" in refused(tmp_path, REWARD | labels)


@pytest.mark.parametrize("pad_id, right", [(None, 7), (0, 0)])
def test_a_reward_model_always_has_a_pad_token(tmp_path, pad_id, right):
    cfg = MODELS[2]
    made = make_hf_config(cfg, None, kind="reward", eos_id=7, pad_id=pad_id)
    assert made["pad_token_id"] == right
    assert made["architectures"] == ["LlamaForSequenceClassification"]
    config = transformers.LlamaConfig(**made)
    assert config.num_labels == 1
    assert describe(tmp_path, made).kind == "reward"


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_heads(tmp_path, head_type):
    heads = HeadsConfig(count=3, type=head_type)
    made = make_hf_config(MODELS[0], heads, kind="causal", eos_id=1, pad_id=None)
    assert made["mtp_config"] == {"n_future_tokens": 3, "head_type": head_type}
    assert made["auto_map"] == {"AutoModelForCausalLM": "modeling_wmtp.WMTPForCausalLM"}
    described = describe(tmp_path, made)
    assert (described.num_heads, described.head_type) == (3, head_type)
    for plain in (None, HeadsConfig(count=1)):
        made = make_hf_config(MODELS[0], plain, kind="causal", eos_id=1, pad_id=None)
        assert "mtp_config" not in made and "auto_map" not in made


@pytest.mark.parametrize(
    "mtp, part",
    [
        (None, "mtp_config"),
        ({}, "mtp_config"),
        (4, "mtp_config"),
        ({"n_future_tokens": 4}, "mtp_config.head_type must be one of linear"),
        ({"head_type": "linear"}, "mtp_config.n_future_tokens"),
        ({"n_future_tokens": 1, "head_type": "linear"}, "at least 2"),
        ({"n_future_tokens": "4", "head_type": "linear"}, "n_future_tokens"),
        ({"n_future_tokens": 4, "head_type": "own"}, "mtp_config.head_type"),
    ],
)
def test_malformed_heads(tmp_path, mtp, part):
    message = refused(tmp_path, {"model_type": "gpt2", "mtp_config": mtp})
    assert part in message
    good = {"n_future_tokens": 2, "head_type": "linear"}
    assert "causal" in refused(tmp_path, REWARD | {"num_labels": 1, "mtp_config": good})


def test_the_config_of_distilgpt2():
    data = Path(__file__).parents[3] / "shared" / "data" / "gpt2_tokenizer"
    if not (data / "config.json").is_file():
        pytest.skip("needs DistilGPT2's config.json in ../shared/data/gpt2_tokenizer")
    described = read_hf_config(data)
    model = model_of(described)
    assert (model.num_layers, model.width, model.F) == (6, 768, 3072)
    assert (model.activation, model.tie_embeddings) == ("gelu_tanh", True)
    assert (described.kind, described.num_heads) == ("causal", 1)
