"""A real pretrained model, where there is one: `WMTP_REAL_MODEL=FOLDER pytest`.

The folder holds a causal model of a supported family with its tokenizer, such as
SmolLM2-135M. Without it these tests skip: no weights are part of this project.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from shared.config.fields import DataConfig
from shared.config.layers import build
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import read_model
from wmtp_jax import heads, model

FOLDER = os.environ.get("WMTP_REAL_MODEL", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="WMTP_REAL_MODEL names no folder with a pretrained model"
)


@pytest.fixture(scope="module")
def batch():
    """Four real problems: tokens, mask and positions, padded on the right."""
    data = DataConfig(max_length=96)
    split = load_splits(data, load_tokenizer(FOLDER), splits=["train"])["train"]
    documents = split.documents[:4]
    tokens_BL = np.zeros((4, 96), np.int32)
    mask_BL = np.zeros((4, 96), np.int32)
    for row, document in enumerate(documents):
        tokens_BL[row, : len(document.tokens)] = document.tokens
        mask_BL[row, : len(document.tokens)] = 1
    return tokens_BL, mask_BL, np.maximum(np.cumsum(mask_BL, axis=1) - 1, 0)


def theirs(batch, dtype):
    tokens_BL, mask_BL, positions_BL = (torch.tensor(x).long() for x in batch)
    stock = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=dtype)
    with torch.no_grad():
        out = stock(
            input_ids=tokens_BL, attention_mask=mask_BL, position_ids=positions_BL
        )
    return out.logits.double().numpy()


def test_logits_of_a_real_model_are_those_of_transformers(batch):
    cfg = build(read_hf_config(Path(FOLDER)).layer).model
    trunk = jax.tree.map(jnp.asarray, read_model(Path(FOLDER), cfg)["trunk"])
    tokens_BL, mask_BL, positions_BL = (jnp.asarray(x, jnp.int32) for x in batch)

    def logits(trunk):
        hidden_BLD = model.forward(
            trunk, tokens_BL, positions_BL, mask_BL, cfg
        ).hidden_BLD
        unembed_VD, _ = heads.unembeddings({"trunk": trunk, "heads": {}})
        return jnp.einsum("bld,vd->blv", hidden_BLD, unembed_VD)

    real = batch[1].astype(bool)
    ours = np.asarray(jax.jit(logits)(trunk), np.float64)[real]
    exact = theirs(batch, torch.float64)[real]
    rounded = theirs(batch, torch.float32)[real]
    # Thirty layers of float32 and logits of size 40: two right programs differ by the
    # rounding of both, so each is held against float64.
    assert np.abs(exact).max() > 10
    torch_error, our_error = (np.abs(x - exact).max() for x in (rounded, ours))
    print(f"largest error of torch {torch_error:.1e}, of ours {our_error:.1e}")
    assert our_error < 2e-4
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 3e-5
