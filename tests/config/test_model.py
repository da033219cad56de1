"""The decoder's config: what makes sense, and what each family can be."""

import pytest

from shared.config.fields import Config, MachineConfig
from shared.config.model import ModelConfig

# The fields that make the default, a gpt2, one of the other families.
LLAMA = {"family": "llama", "qkv_bias": False, "out_bias": False, "mlp_bias": False}
QWEN2 = {"family": "qwen2", "qkv_bias": True, "out_bias": False, "mlp_bias": False}


def error(**fields) -> str:
    with pytest.raises(ValueError) as caught:
        ModelConfig(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"width": 130},
            "width must be divisible by model.num_attention_heads = 4, got 130",
        ),
        (
            LLAMA | {"width": 130, "head_width": 2},
            "width must be divisible by model.num_attention_heads = 4, got 130",
        ),
        (
            LLAMA | {"num_kv_heads": 3},
            "num_kv_heads must be 0 or a divisor of model.num_attention_heads = 4, "
            "got 3",
        ),
        (
            LLAMA | {"num_kv_heads": 8},
            "num_kv_heads must be 0 or a divisor of model.num_attention_heads = 4, "
            "got 8",
        ),
        (
            LLAMA | {"head_width": 33},
            "head_width must be such that heads have an even width (here 33), got 33",
        ),
        (
            QWEN2 | {"head_width": 1},
            "head_width must be such that heads have an even width (here 1), got 1",
        ),
        (
            LLAMA | {"rope_type": "llama3", "rope_low_freq_factor": 4.0},
            "rope_high_freq_factor must be more than model.rope_low_freq_factor = 4.0, "
            "got 4.0",
        ),
        (
            {"num_kv_heads": 2},
            "num_kv_heads must be 0 or model.num_attention_heads, as in every gpt2, "
            "got 2",
        ),
        (
            {"head_width": 64},
            "head_width must be 0 or width / N, as in every gpt2, got 64",
        ),
        (
            {"qkv_bias": False},
            "qkv_bias must be true in every gpt2, got False",
        ),
        (
            LLAMA | {"scale_by_layer": True},
            "scale_by_layer must be false but for a gpt2, got True",
        ),
        (
            QWEN2 | {"scale_by_layer": True},
            "scale_by_layer must be false but for a gpt2, got True",
        ),
        (
            LLAMA | {"qkv_bias": True},
            "out_bias must be that of model.qkv_bias, as in every llama, got False",
        ),
        (
            LLAMA | {"out_bias": True},
            "out_bias must be that of model.qkv_bias, as in every llama, got True",
        ),
        (
            QWEN2 | {"qkv_bias": False},
            "qkv_bias must be true in every qwen2, got False",
        ),
        (LLAMA | {"rope_theta": 0.0}, "rope_theta must be > 0, got 0.0"),
        (LLAMA | {"rope_factor": 0.0}, "rope_factor must be > 0, got 0.0"),
        ({"num_kv_heads": -1}, "num_kv_heads must be >= 0, got -1"),
        ({"ffn_width": -1}, "ffn_width must be >= 0, got -1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be > 0, got 0.0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
    ],
)
def test_what_cannot_be_is_refused_and_the_field_named(fields, message):
    assert error(**fields) == f"model.{message}"


@pytest.mark.parametrize(
    "family, name, value",
    [
        ({}, "out_bias", False),
        ({}, "mlp_bias", False),
        (QWEN2, "out_bias", True),
        (QWEN2, "mlp_bias", True),
    ],
)
def test_any_bias_that_a_family_cannot_have_is_refused(family, name, value):
    required = f"model.{name} must be {str(not value).lower()} in every"
    of = family.get("family", "gpt2")
    assert error(**family | {name: value}) == f"{required} {of}, got {value}"


def test_a_head_width_that_follows_from_the_width_is_checked_too():
    for family in (LLAMA, QWEN2):
        message = error(**family, width=12)
        assert (
            message.startswith("model.width must be such that") and "got 12" in message
        )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_kv_heads": 4, "head_width": 32, "scale_by_layer": True},
        {"tie_embeddings": False, "activation": "relu", "ffn_width": 1},
        # An odd head width, and llama3's factors, matter to rotary positions only.
        {"width": 12, "rope_type": "llama3", "rope_low_freq_factor": 4.0},
        LLAMA,
        LLAMA | {"mlp_bias": True},
        LLAMA | {"qkv_bias": True, "out_bias": True},
        LLAMA | {"num_kv_heads": 1, "head_width": 64},
        LLAMA | {"rope_type": "linear", "rope_low_freq_factor": 4.0},
        LLAMA | {"rope_type": "llama3", "rope_factor": 32.0},
        QWEN2,
        QWEN2 | {"num_kv_heads": 2, "tie_embeddings": False},
    ],
)
def test_what_can_be_is_let_through(fields):
    ModelConfig(**fields)


def test_zeros_stand_for_what_follows_from_the_others():
    cfg = ModelConfig(width=96, num_attention_heads=6)
    assert (cfg.kv_heads, cfg.H, cfg.F) == (6, 16, 384)
    cfg = ModelConfig(
        **LLAMA,
        width=96,
        num_attention_heads=6,
        num_kv_heads=2,
        head_width=8,
        ffn_width=100,
    )
    assert (cfg.kv_heads, cfg.H, cfg.F) == (2, 8, 100)


def test_positions_are_rotary_but_in_a_gpt2():
    assert not ModelConfig().is_rotary
    assert ModelConfig(**LLAMA).is_rotary and ModelConfig(**QWEN2).is_rotary


def test_cudnns_attention_needs_bfloat16():
    with pytest.raises(ValueError) as caught:
        Config(machine=MachineConfig(attention="cudnn"))
    assert str(caught.value) == (
        "machine.dtype must be bfloat16 for machine.attention cudnn, got 'float32'"
    )
    Config(machine=MachineConfig(attention="cudnn", dtype="bfloat16"))
