"""`config.json` of a Hugging Face folder: what it says of a model, and how it is made.

Absent keys have the defaults of the config classes of transformers 5, and keys mean
what they mean there (`modeling_rope_utils.py`). What the decoder of this project cannot
compute is refused, never passed over.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.config.ranges import field_types
from shared.data.tokenizer import quiet_import
from shared.head_types import HEAD_TYPES
from shared.huggingface.json_keys import MAX_COUNT, Keys, read_keys

TANH = ("new", "pytorch_tanh", "python_tanh", "fast", "accurate")
ACTIVATIONS = {
    **{f"gelu_{name}": "gelu_tanh" for name in TANH},  # they differ only in rounding
    **{"gelu": "gelu", "gelu_python": "gelu"},
    **{"silu": "silu", "swish": "silu", "relu": "relu"},
}
ARCHITECTURES = {  # of a causal and of a reward model
    "gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
}
# Key of config.json -> field of `model`, by family.
ALL = {"vocab_size": "vocab_size", "tie_word_embeddings": "tie_embeddings"}
GPT2 = ALL | {
    "n_layer": "num_layers",
    "n_embd": "width",
    "n_head": "num_attention_heads",
    "n_inner": "ffn_width",
    "n_positions": "max_positions",
    "activation_function": "activation",
    "layer_norm_epsilon": "norm_epsilon",
    "scale_attn_by_inverse_layer_idx": "scale_by_layer",
}
QWEN2 = ALL | {
    "num_hidden_layers": "num_layers",
    "hidden_size": "width",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "ffn_width",
    "hidden_act": "activation",
    "max_position_embeddings": "max_positions",
    "rms_norm_eps": "norm_epsilon",
}
LLAMA = QWEN2 | {"attention_bias": "qkv_bias", "mlp_bias": "mlp_bias"}
FIELDS = {"gpt2": GPT2, "llama": LLAMA, "qwen2": QWEN2}
# Where they are null, the value follows from other fields: as 0 does in `model`.
NULL = {"n_inner", "num_key_value_heads", "head_dim"}
# The same within `rope_parameters`, by its `rope_type`.
ORIGINAL = "original_max_position_embeddings"
LINEAR = {"rope_theta": "rope_theta", "factor": "rope_factor"}
ROPES = {
    "default": {"rope_theta": "rope_theta"},
    "linear": LINEAR,
    "llama3": LINEAR
    | {
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        ORIGINAL: "rope_original_positions",
    },
}
# What a model of the family must say. (`reorder_and_upcast_attn` of a gpt2 changes the
# order of operations, not the result.)
MUST = {
    "gpt2": {"scale_attn_weights": "true", "add_cross_attention": "false"},
    "llama": {},
    "qwen2": {"use_sliding_window": "false (all attention is full)"},
}
# Fields of `model` that no config.json decides.
OWN = {"name", "revision", "dropout"}
MAX_LAYERS = 10_000
MOST = {"num_layers": MAX_LAYERS}


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
    family = keys.choice("model_type", FIELDS)
    keys = _with_defaults(keys, family)
    own = _own_fields(keys, family)
    try:
        model = _with_widths(ModelConfig(family=family, **own))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{error} (from {keys.path})") from None
    kind = _kind(keys)
    count, head_type = _heads(keys, kind)
    layer = {
        f"model.{field.name}": getattr(model, field.name)
        for field in fields(ModelConfig)
        if field.name not in OWN
    }
    pad = keys.found["pad_token_id"]
    pad_id = pad if type(pad) is int else None
    return Described(layer, kind, count, head_type, pad_id)


def _with_defaults(keys: Keys, family: str) -> Keys:
    """All that the family's config class would know, under the names that it writes."""
    with quiet_import():  # late, it is slow
        from transformers import CONFIG_MAPPING
    known = CONFIG_MAPPING[family]
    defaults = {field.name: field.default for field in fields(known)}
    defaults |= {"rope_theta": known.default_theta, "num_labels": 2}
    names = known.attribute_map
    found = {names.get(key, key): value for key, value in keys.found.items()}
    return Keys(keys.path, defaults | found)


def _own_fields(keys: Keys, family: str) -> dict[str, Any]:
    """The fields of `model` that differ from their defaults, or may."""
    for key in ("quantization_config", "per_layer_config"):
        if keys.found.get(key):
            raise keys.refuse(key, "absent (plain weights, layers that are all alike)")
    for key, required in MUST[family].items():
        if str(keys.flag(key)).lower() != required.split()[0]:
            raise keys.refuse(key, required)
    own = _read_fields(keys, FIELDS[family])
    if family == "gpt2":
        return own
    own |= _read_rope(keys)
    if family == "llama":
        return own | {"out_bias": own["qkv_bias"]}
    kinds = [] if keys.found["layer_types"] is None else keys.found["layer_types"]
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise keys.refuse("layer_types", "full_attention in every layer")
    return own | {"out_bias": False, "mlp_bias": False}


def _with_widths(cfg: ModelConfig) -> ModelConfig:
    """The same model with what 0 stands for; no gpt2 says a width of its heads."""
    heads = cfg.H if cfg.is_rotary else cfg.head_width
    return replace(cfg, num_kv_heads=cfg.kv_heads, head_width=heads, ffn_width=cfg.F)


def _read_fields(keys: Keys, names: dict[str, str]) -> dict[str, Any]:
    """The fields of `model` under these keys, each checked as what the field is."""
    own: dict[str, Any] = {}
    for key, field in names.items():
        kind, _ = field_types(ModelConfig)[field]
        if key in NULL and keys.found.get(key) is None:
            continue
        if field == "activation":
            own[field] = ACTIVATIONS[keys.choice(key, ACTIVATIONS)]
        elif kind is int:
            own[field] = keys.count(key, MOST.get(field, MAX_COUNT))
        else:
            own[field] = keys.flag(key) if kind is bool else keys.number(key)
    return own


def _read_rope(keys: Keys) -> dict[str, Any]:
    """Rotary wave lengths from `rope_parameters`, or from keys of before version 5."""
    rope = keys.object("rope_scaling") or keys.object("rope_parameters")
    rope = rope or Keys(keys.path, {}, "rope_parameters.")
    for key, value in rope.found.items():
        if isinstance(value, dict):
            raise rope.refuse(key, "a value (one set of them for all layers)")
    for place in (keys, rope):
        if place.found.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise place.refuse("partial_rotary_factor", "1 (whole heads are rotated)")
    outer = keys.found
    defaults = {
        "rope_type": rope.found.get("type", "default"),
        "rope_theta": outer["rope_theta"],
        ORIGINAL: outer["max_position_embeddings"],
    }
    first = {ORIGINAL: outer[ORIGINAL]} if ORIGINAL in outer else {}
    rope = Keys(keys.path, defaults | rope.found | first, rope.within)
    kind = rope.choice("rope_type", ROPES)
    return {"rope_type": kind} | _read_fields(rope, ROPES[kind])


def _kind(keys: Keys) -> str:
    named = keys.found["architectures"]
    named = [] if named is None else named
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise keys.refuse("architectures", "a list of names")
    if not any(name.endswith("ForSequenceClassification") for name in named):
        return "causal"
    labels = keys.object("id2label")
    key = "id2label" if labels else "num_labels"
    if (len(labels.found) if labels else keys.count(key)) != 1:
        raise keys.refuse(key, "one label in a reward model")
    return "reward"


def _heads(keys: Keys, kind: str) -> tuple[int, str | None]:
    if "mtp_config" not in keys.found:
        return 1, None
    mtp = keys.object("mtp_config")
    if mtp is None or kind != "causal":
        required = "absent, or an object with n_future_tokens and head_type"
        raise keys.refuse("mtp_config", required + ", in a causal model")
    count = mtp.count("n_future_tokens", MAX_LAYERS)
    if count < 2:
        raise mtp.refuse("n_future_tokens", "at least 2")
    return count, mtp.choice("head_type", tuple(HEAD_TYPES))


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
    made: dict[str, Any] = {
        "architectures": [ARCHITECTURES[cfg.family][kind == "reward"]],
        "model_type": cfg.family,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    }
    made |= _family_keys(cfg)
    if kind == "reward":
        made["pad_token_id"] = eos_id if pad_id is None else pad_id
        made |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        made["num_labels"] = 1
    elif heads is not None and heads.count > 1:
        mtp = {"n_future_tokens": heads.count, "head_type": heads.type}
        made["mtp_config"] = mtp
        made["auto_map"] = {"AutoModelForCausalLM": "modeling_wmtp.WMTPForCausalLM"}
    return made


def _family_keys(cfg: ModelConfig) -> dict[str, Any]:
    made = _made_fields(_with_widths(cfg), FIELDS[cfg.family])
    if not cfg.is_rotary:
        dropout = {"embd_pdrop": cfg.dropout, "resid_pdrop": cfg.dropout}
        return made | dropout | {"attn_pdrop": 0.0}
    rope = _made_fields(cfg, ROPES[cfg.rope_type])
    made["rope_parameters"] = {"rope_type": cfg.rope_type, **rope}
    return made | ({"use_sliding_window": False} if cfg.family == "qwen2" else {})


def _made_fields(cfg: ModelConfig, names: dict[str, str]) -> dict[str, Any]:
    made = {key: getattr(cfg, field) for key, field in names.items()}
    return {key: "gelu_new" if x == "gelu_tanh" else x for key, x in made.items()}
