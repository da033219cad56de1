"""Heads as the folder that vLLM's Medusa proposer loads.

    vllm serve MODEL --speculative-config '{"method": "medusa", "model": FOLDER,
        "num_speculative_tokens": 3}'

vLLM verifies with MODEL, an export, and drafts with what is here: of the state h of the
last accepted position, after the final norm, block n makes

    x = h + silu(blocks.n.layers.0(h)),    logits = lm_heads.n(x)

for the token n + 2 places on, which is head k = n + 1. That is a `medusa` head, with
one unembedding for all; a `linear` head is the same with a layer of zeros, as silu(0)
is 0. Source of names and shapes: `vllm/model_executor/models/medusa.py` and
`vllm/transformers_utils/configs/medusa.py` of https://github.com/vllm-project/vllm.

Axes: V vocabulary, D width, M ids of the token map.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.files import new_folder
from shared.head_types import HEAD_TYPES
from shared.huggingface.names import MODEL, TRUNK, UNEMBED
from shared.huggingface.tokenizer_files import write_json
from shared.huggingface.tree import Params, Tensors, to_tensors

Parts = tuple[dict[str, Any], dict[str, Any]]


def write_vllm(
    folder: Path,
    params: Params,
    cfg: ModelConfig,
    heads: HeadsConfig,
    token_map: list[int] | None = None,
) -> None:
    """Writes the heads alone, `config.json` and weights; the whole folder or nothing.

    Args:
      folder: new or empty.
      params: tree of arrays, or `ByName`.
      token_map: ids that the heads score; of the unembedding only their rows are
        written then.

    Raises:
      ValueError: for heads that vLLM's proposer does not compute, or if the folder
        holds something or cannot be written.
    """
    layout = LAYOUTS.get(heads.type)
    if layout is None or heads.count == 1:
        raise ValueError(
            f"heads for vllm must be of type {' or '.join(LAYOUTS)} (its Medusa "
            f"proposer computes nothing else), and there must be some beside head 0; "
            f"got {heads.count - 1} of type {heads.type}"
        )
    blocks, unembeddings = layout(to_tensors(params, cfg, heads), cfg, heads)
    if token_map is not None:
        rows_M = np.asarray(token_map, np.int64)
        unembeddings = {name: x[rows_M] for name, x in unembeddings.items()}
    tensors = blocks | unembeddings
    if token_map is not None:
        tensors["token_map"] = rows_M
    whole = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    own = any(tensor.shape == "VD" for tensor in HEAD_TYPES[heads.type].tensors)
    config = {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "num_heads": heads.count - 1,
        "num_hidden_layers": 1,
        "hidden_size": cfg.width,
        "vocab_size": cfg.vocab_size,
        "truncated_vocab_size": len(token_map or ()) or cfg.vocab_size,
        "medusa_fc_bias": "blocks.0.layers.0.bias" in blocks,
        "original_lm_head": not own,
    }
    with new_folder(folder) as made:
        write_json(made / "config.json", config)
        save_file(whole, made / MODEL, metadata={"format": "pt"})
        _check(made / MODEL, whole)


def _medusa(stored: Tensors, cfg: ModelConfig, heads: HeadsConfig) -> Parts:
    blocks = {
        f"blocks.{k - 1}.layers.0.{name}": stored[f"mtp_heads.{k}.outer.{name}"]
        for k in range(1, heads.count)
        for name in ("weight", "bias")
    }
    names = TRUNK[cfg.family]
    tied = names["prefix"] + names["embed"]
    unembed = stored[tied if cfg.tie_embeddings else UNEMBED]
    return blocks, {"lm_heads.0.weight": unembed}


def _linear(stored: Tensors, cfg: ModelConfig, heads: HeadsConfig) -> Parts:
    zeros_DD = np.zeros((cfg.width, cfg.width), np.float32)
    extra = range(heads.count - 1)
    blocks = {f"blocks.{n}.layers.0.weight": zeros_DD for n in extra}
    own = {f"lm_heads.{n}.weight": stored[f"mtp_heads.{n + 1}.weight"] for n in extra}
    return blocks, own


# By head type: what its tensors are there, blocks and unembeddings.
LAYOUTS = {"medusa": _medusa, "linear": _linear}


def _check(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Reads what was written and compares it.

    Raises:
      ValueError: naming the first tensor that differs.
    """
    found = load_file(path)
    for name, x in tensors.items():
        if not np.array_equal(found[name], x, equal_nan=x.dtype.kind == "f"):
            raise ValueError(
                f"tensor {name!r} in {path} must be what was written, got other "
                "numbers (is the disk sound?)"
            )
