"""Small random models of `transformers`, the judge of our own decoder.

Every parameter is random, norms and biases too, which a fresh model has at 1 and 0: a
name map that swaps two of them shows.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

GPT2 = {
    "vocab_size": 61,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 3,
    "n_positions": 40,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "gpt2": ("gpt2", GPT2 | {}),
    "gpt2-untied": ("gpt2", GPT2 | {"tie_word_embeddings": False, "n_inner": 50}),
    "gpt2-codeparrot": ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "llama-tied-grouped": (
        "llama",
        LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 2},
    ),
    "llama-untied-biases": (
        "llama",
        LLAMA
        | {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    ),
    "llama3-rope": ("llama", LLAMA | {"rope_parameters": LLAMA3}),
    "llama-linear-rope": (
        "llama",
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 1e4,
                "factor": 2.0,
            },
            "head_dim": 8,
        },
    ),
    "qwen2-tied": (
        "qwen2",
        LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 3},
    ),
    "qwen2-untied": (
        "qwen2",
        LLAMA | {"tie_word_embeddings": False, "num_key_value_heads": 6},
    ),
}
CLASSES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    "llama": ("LlamaConfig", "LlamaForCausalLM", "LlamaForSequenceClassification"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
}


def make(case: str, kind: str = "causal", **changes):
    """A random model of that case, in evaluation mode, float32."""
    family, fields = CASES[case]
    config_class, causal, reward = CLASSES[family]
    fields = fields | changes
    if kind == "reward":
        fields |= {"num_labels": 1, "pad_token_id": 0}
    config = getattr(transformers, config_class)(**fields)
    torch.manual_seed(0)
    model = getattr(transformers, causal if kind == "causal" else reward)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(model, folder: Path) -> Path:
    """The model as a folder, with nothing on the terminal."""
    model.save_pretrained(folder)
    return folder


def run(model, tokens_BL, mask_BL, positions_BL):
    """Logits `[B, L, V]` and the state after the final norm `[B, L, D]`."""
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(np.asarray(tokens_BL), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(mask_BL), dtype=torch.long),
            position_ids=torch.tensor(np.asarray(positions_BL), dtype=torch.long),
            output_hidden_states=True,
        )
    return out.logits.numpy(), out.hidden_states[-1].numpy()
