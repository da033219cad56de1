"""The folder for vLLM's Medusa proposer: a written list of it, and what it computes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.config.fields import HeadsConfig
from shared.head_types import HEAD_TYPES
from shared.huggingface import vllm
from shared.huggingface.token_map import write_token_map
from shared.huggingface.vllm import write_vllm
from tests import trained
from tests.trees import random_params, refuses, small
from wmtp_jax import export as jax_export
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

V, D, M = 260, 16, 40
IDS = np.random.default_rng(3).permutation(V)[:M].tolist()
BLOCKS = {
    "blocks.0.layers.0.weight": (D, D),
    "blocks.1.layers.0.weight": (D, D),
}
BIASES = {"blocks.0.layers.0.bias": (D,), "blocks.1.layers.0.bias": (D,)}
# By head type and rows of the unembeddings: what vLLM's loader looks for.
TENSORS = {
    "medusa": lambda rows: BLOCKS | BIASES | {"lm_heads.0.weight": (rows, D)},
    "linear": lambda rows: (
        BLOCKS | {"lm_heads.0.weight": (rows, D), "lm_heads.1.weight": (rows, D)}
    ),
}
CONFIG = {
    "architectures": ["MedusaModel"],
    "model_type": "medusa",
    "num_heads": 2,
    "num_hidden_layers": 1,
    "hidden_size": D,
    "vocab_size": V,
}


def written(folder, shape, head_type, token_map):
    cfg, heads = small(shape), HeadsConfig(count=3, type=head_type)
    params = random_params(cfg, heads)
    write_vllm(folder, params, cfg, heads, token_map)
    config = json.loads((folder / "config.json").read_text())
    return params, config, load_file(folder / "model.safetensors")


def vllm_logits(config, tensors, h_RD):
    """What its proposer computes of states, in float64: `logits_KRV` of its heads."""
    found = []
    for n in range(config["num_heads"]):
        x_RD = h_RD
        for layer in range(config["num_hidden_layers"]):
            z_RD = x_RD @ tensors[f"blocks.{n}.layers.{layer}.weight"].T
            if config["medusa_fc_bias"]:
                z_RD = z_RD + tensors[f"blocks.{n}.layers.{layer}.bias"]
            x_RD = x_RD + z_RD / (1 + np.exp(-z_RD))
        own = 0 if config["original_lm_head"] else n
        logits_RM = x_RD @ tensors[f"lm_heads.{own}.weight"].T
        if config["truncated_vocab_size"] < config["vocab_size"]:
            logits_RV = np.full((len(h_RD), config["vocab_size"]), -np.inf)
            logits_RV[:, tensors["token_map"]] = logits_RM
            logits_RM = logits_RV
        found.append(logits_RM)
    return np.stack(found)


def our_logits(params, head_type, h_RD):
    """DESIGN's formulas of heads 1 and 2, in float64."""
    trunk, found = params["trunk"], []
    for k in range(2):
        head = {name: x[k].astype(np.float64) for name, x in params["heads"].items()}
        state_RD, unembed_VD = h_RD, trunk.get("unembed", trunk["embed"])
        if head_type == "medusa":
            z_RD = h_RD @ head["kernel"] + head["bias"]
            state_RD = h_RD + z_RD * (1 / (1 + np.exp(-z_RD)))
        else:
            unembed_VD = head["unembed"]
        found.append(state_RD @ unembed_VD.T)
    return np.stack(found)


@pytest.mark.parametrize("token_map", [None, IDS], ids=["all", "few"])
@pytest.mark.parametrize("head_type", TENSORS)
@pytest.mark.parametrize("shape", ["gpt2", "llama", "llama-untied"])
def test_it_is_what_vllm_loads_and_computes(tmp_path, shape, head_type, token_map):
    params, config, found = written(tmp_path / "out", shape, head_type, token_map)
    rows = M if token_map else V
    shapes = TENSORS[head_type](rows) | ({"token_map": (M,)} if token_map else {})
    assert {name: x.shape for name, x in found.items()} == shapes
    kinds = {name: x.dtype.name for name, x in found.items()}
    assert kinds.pop("token_map", "int64") == "int64"
    assert set(kinds.values()) == {"float32"}
    of_type = {
        "truncated_vocab_size": rows,
        "medusa_fc_bias": head_type == "medusa",
        "original_lm_head": head_type == "medusa",
    }
    assert config == CONFIG | of_type
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    h_RD = np.random.default_rng(1).normal(size=(5, D))
    right = our_logits(params, head_type, h_RD)
    if token_map:
        left_out = np.setdiff1d(np.arange(V), IDS)
        right[:, :, left_out] = -np.inf
    np.testing.assert_allclose(vllm_logits(config, found, h_RD), right, rtol=1e-9)


@pytest.mark.parametrize("head_type", sorted(set(HEAD_TYPES) - set(TENSORS)))
def test_other_heads_are_refused(tmp_path, head_type):
    write = lambda: written(tmp_path / "out", "gpt2", head_type, None)  # noqa: E731
    refuses(write, "heads for vllm must be of type medusa or linear", head_type)
    assert not (tmp_path / "out").exists()
    one = HeadsConfig(count=1, type="medusa")
    params = random_params(small("gpt2"), one)
    write = lambda: write_vllm(tmp_path / "b", params, small("gpt2"), one)  # noqa: E731
    refuses(write, "got 0 of type medusa")


def test_the_table_names_head_types():
    assert set(vllm.LAYOUTS) == set(TENSORS) < set(HEAD_TYPES)


@pytest.mark.parametrize(
    "trainer, export",
    [
        pytest.param(jax_train, jax_export, marks=pytest.mark.slow),
        (torch_train, torch_export),
    ],
)
def test_either_trainer_exports_a_run_for_it(trainer, export, tmp_path, capsys):
    options = "--head-type medusa --heads.only --decoding.draft-vocab 30".split()
    options += ["--train.max-steps", "2"]
    run = trained.run(trainer, tmp_path, "a", *options)
    out = tmp_path / "out"
    assert export.main([str(run), "--to", str(out), "--for", "vllm"]) == 0
    ids = json.loads((run / "model" / "token_map.json").read_text())
    found = load_file(out / "model.safetensors")
    assert found["token_map"].tolist() == ids and len(ids) == 30
    heads = load_file(run / "model" / "mtp_heads.safetensors")
    model = load_file(run / "model" / "model.safetensors")
    np.testing.assert_array_equal(
        found["blocks.0.layers.0.weight"], heads["mtp_heads.1.outer.weight"]
    )
    embed = model["transformer.wte.weight"]
    np.testing.assert_array_equal(found["lm_heads.0.weight"], embed[ids])
    # A second one into the same folder, and a list that is none.
    assert export.main([str(run), "--to", str(out), "--for", "vllm"]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    write_token_map(run, [1, 1])
    again = str(tmp_path / "again")
    assert export.main([str(run), "--to", again, "--for", "vllm"]) == 2
    assert "got 1 twice" in capsys.readouterr().err
