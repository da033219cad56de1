"""`config.json` of a Hugging Face folder: what it says of a model, and how it is made.

Facts and defaults of absent keys are those of the config classes of transformers 5
(`models/{gpt2,llama,qwen2}/configuration_*.py`, `modeling_rope_utils.py`). What the
decoder of this project cannot compute is refused, never passed over.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.head_types import HEAD_TYPES
from shared.huggingface.json_keys import REQUIRED, Keys, read_keys

# The tanh forms differ only in rounding.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
CAUSAL = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
CLASSIFIER = {
    "gpt2": "GPT2ForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
}
# Fields of `model` that no config.json decides.
OWN = {"name", "revision", "dropout"}
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Described:
    """What a folder's `config.json` says.

    Attributes:
      layer: a config layer with every field of `model` but those of `OWN`.
      kind: `causal` language model, or `reward` model (a classifier with one label).
      num_heads: K; 1 without `mtp_config`.
      head_type: of heads k >= 1; None without `mtp_config`.
      pad_id: `pad_token_id`; a classifier's score is read at the last other token.
    """

    layer: dict[str, Any]
    kind: str
    num_heads: int
    head_type: str | None
    pad_id: int | None


def read_hf_config(folder: Path) -> Described:
    """Reads what `config.json` in the folder says of its model.

    Raises:
      ValueError: naming the key that is damaged or asks for what is not supported.
    """
    keys = read_keys(folder / "config.json")
    family = keys.choice("model_type", REQUIRED, CAUSAL)
    for key in ("quantization_config", "per_layer_config"):
        if keys.found.get(key):
            raise keys.refuse(key, "absent (plain weights, layers that are all alike)")
    own = _gpt2_fields(keys) if family == "gpt2" else _rotary_fields(keys, family)
    try:
        model = ModelConfig(family=family, **own)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{error} (from {keys.path})") from None
    kind = _kind(keys)
    count, head_type = _heads(keys, kind)
    layer = {
        f"model.{field.name}": getattr(model, field.name)
        for field in fields(ModelConfig)
        if field.name not in OWN
    }
    pad = keys.found.get("pad_token_id")
    pad_id = pad if type(pad) is int else None
    return Described(layer, kind, count, head_type, pad_id)


def _gpt2_fields(keys: Keys) -> dict[str, Any]:
    # `reorder_and_upcast_attn` changes the order of operations, not the result.
    if not keys.flag("scale_attn_weights", True):
        raise keys.refuse("scale_attn_weights", "true")
    if keys.flag("add_cross_attention", False):
        raise keys.refuse("add_cross_attention", "false")
    width, heads = keys.count("n_embd", 768), keys.count("n_head", 12)
    return {
        "num_layers": keys.count("n_layer", 12, MAX_LAYERS),
        "width": width,
        "num_attention_heads": heads,
        "num_kv_heads": heads,
        "ffn_width": keys.count_or("n_inner", None, 4 * width),
        "activation": _activation(keys, "activation_function", "gelu_new"),
        "scale_by_layer": keys.flag("scale_attn_by_inverse_layer_idx", False),
        "max_positions": keys.count("n_positions", 1024),
        "vocab_size": keys.count("vocab_size", 50257),
        "tie_embeddings": keys.flag("tie_word_embeddings", True),
        "norm_epsilon": keys.number("layer_norm_epsilon", 1e-5),
    }


def _rotary_fields(keys: Keys, family: str) -> dict[str, Any]:
    llama = family == "llama"
    if not llama:
        _refuse_sliding(keys)
    width = keys.count("hidden_size", 4096)
    heads = keys.count("num_attention_heads", 32)
    positions = keys.count("max_position_embeddings", 2048 if llama else 32768)
    attention_bias = keys.flag("attention_bias", False) if llama else False
    head_width = keys.count_or("head_dim", None, width // heads or 1)
    if head_width * heads != width and keys.found.get("head_dim") is None:
        raise keys.refuse("hidden_size", f"divisible by num_attention_heads = {heads}")
    return {
        "num_layers": keys.count("num_hidden_layers", 32, MAX_LAYERS),
        "width": width,
        "num_attention_heads": heads,
        "num_kv_heads": keys.count_or(
            "num_key_value_heads", None if llama else 32, heads
        ),
        "head_width": head_width,
        "ffn_width": keys.count("intermediate_size", 11008 if llama else 22016),
        "activation": _activation(keys, "hidden_act", "silu"),
        "qkv_bias": attention_bias or not llama,
        "out_bias": attention_bias,
        "mlp_bias": keys.flag("mlp_bias", False) if llama else False,
        "max_positions": positions,
        "vocab_size": keys.count("vocab_size", 32000 if llama else 151936),
        "tie_embeddings": keys.flag("tie_word_embeddings", False),
        "norm_epsilon": keys.number("rms_norm_eps", 1e-6),
        **_rope_fields(keys, positions),
    }


def _refuse_sliding(keys: Keys) -> None:
    if keys.flag("use_sliding_window", False):
        raise keys.refuse("use_sliding_window", "false (all attention is full)")
    kinds = keys.found.get("layer_types")
    if kinds is not None and (
        not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    ):
        raise keys.refuse("layer_types", "full_attention in every layer")


def _activation(keys: Keys, key: str, default: str) -> str:
    return ACTIVATIONS[keys.choice(key, default, ACTIVATIONS)]


def _rope_fields(keys: Keys, positions: int) -> dict[str, Any]:
    """Rotary wave lengths from `rope_parameters`, or from keys of before version 5."""
    rope = keys.object("rope_scaling") or keys.object("rope_parameters")
    rope = rope or Keys(keys.path, {}, "rope_parameters.")
    for key, value in rope.found.items():
        if isinstance(value, dict):
            raise rope.refuse(key, "a value (one set of them for all layers)")
    for place in (keys, rope):
        if place.found.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise place.refuse("partial_rotary_factor", "1 (whole heads are rotated)")
    kinds = ("default", "linear", "llama3")
    old = "rope_type" not in rope.found and "type" in rope.found
    kind = rope.choice("type" if old else "rope_type", "default", kinds)
    # A base within the rope keys goes before the one of the model.
    theta = rope if "rope_theta" in rope.found else keys
    own = {"rope_type": kind, "rope_theta": theta.number("rope_theta", 10_000.0)}
    if kind != "default":
        own["rope_factor"] = rope.number("factor", REQUIRED)
    if kind == "llama3":
        own["rope_low_freq_factor"] = rope.number("low_freq_factor", REQUIRED)
        own["rope_high_freq_factor"] = rope.number("high_freq_factor", REQUIRED)
        key = "original_max_position_embeddings"
        own["rope_original_positions"] = (keys if key in keys.found else rope).count(
            key, positions
        )
    return own


def _kind(keys: Keys) -> str:
    named = keys.found.get("architectures")
    named = [] if named is None else named
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise keys.refuse("architectures", "a list of names")
    if not any(name.endswith("ForSequenceClassification") for name in named):
        return "causal"
    labels = keys.object("id2label")
    if labels is None:
        one, key = keys.count("num_labels", 2) == 1, "num_labels"
    else:
        one, key = len(labels.found) == 1, "id2label"
    if not one:
        raise keys.refuse(key, "one label in a reward model")
    return "reward"


def _heads(keys: Keys, kind: str) -> tuple[int, str | None]:
    if "mtp_config" not in keys.found:
        return 1, None
    mtp = keys.object("mtp_config")
    if mtp is None or kind != "causal":
        required = "absent, or an object with n_future_tokens and head_type"
        raise keys.refuse("mtp_config", required + ", in a causal model")
    count = mtp.count("n_future_tokens", REQUIRED, MAX_LAYERS)
    if count < 2:
        raise mtp.refuse("n_future_tokens", "at least 2")
    return count, mtp.choice("head_type", REQUIRED, HEAD_TYPES)


def make_hf_config(
    cfg: ModelConfig,
    heads: HeadsConfig | None,
    *,
    kind: str,
    eos_id: int,
    pad_id: int | None,
) -> dict[str, Any]:
    """The content of `config.json` for a model of this shape.

    Args:
      cfg: the decoder.
      heads: the prediction heads; None, or one of them, writes nothing of them.
      kind: `causal` or `reward`.
      eos_id: token that ends a document.
      pad_id: padding token; a reward model without one takes `eos_id`, since
        `transformers` finds the last token of a row by it.
    """
    named = {"causal": CAUSAL, "reward": CLASSIFIER}[kind]
    made: dict[str, Any] = {
        "architectures": [named[cfg.family]],
        "model_type": cfg.family,
        "dtype": "float32",
        "vocab_size": cfg.vocab_size,
        "tie_word_embeddings": cfg.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    }
    made |= _rotary_keys(cfg) if cfg.is_rotary else _gpt2_keys(cfg)
    if kind == "reward":
        made["pad_token_id"] = eos_id if pad_id is None else pad_id
        made |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        made["num_labels"] = 1
    elif heads is not None and heads.count > 1:
        mtp = {"n_future_tokens": heads.count, "head_type": heads.type}
        made["mtp_config"] = mtp
        made["auto_map"] = {"AutoModelForCausalLM": "modeling_wmtp.WMTPForCausalLM"}
    return made


def _gpt2_keys(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": cfg.num_layers,
        "n_embd": cfg.width,
        "n_head": cfg.num_attention_heads,
        "n_inner": cfg.F,
        "n_positions": cfg.max_positions,
        "activation_function": _hf_activation(cfg),
        "layer_norm_epsilon": cfg.norm_epsilon,
        "scale_attn_by_inverse_layer_idx": cfg.scale_by_layer,
        "embd_pdrop": cfg.dropout,
        "resid_pdrop": cfg.dropout,
        "attn_pdrop": 0.0,
    }


def _rotary_keys(cfg: ModelConfig) -> dict[str, Any]:
    made = {
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_attention_heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.H,
        "intermediate_size": cfg.F,
        "hidden_act": _hf_activation(cfg),
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.norm_epsilon,
        "rope_parameters": _rope_keys(cfg),
    }
    if cfg.family == "llama":
        return made | {"attention_bias": cfg.qkv_bias, "mlp_bias": cfg.mlp_bias}
    return made | {"use_sliding_window": False}


def _rope_keys(cfg: ModelConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": cfg.rope_type, "rope_theta": cfg.rope_theta}
    if cfg.rope_type != "default":
        rope["factor"] = cfg.rope_factor
    if cfg.rope_type == "llama3":
        rope["low_freq_factor"] = cfg.rope_low_freq_factor
        rope["high_freq_factor"] = cfg.rope_high_freq_factor
        rope["original_max_position_embeddings"] = cfg.rope_original_positions
    return rope


def _hf_activation(cfg: ModelConfig) -> str:
    return "gelu_new" if cfg.activation == "gelu_tanh" else cfg.activation
