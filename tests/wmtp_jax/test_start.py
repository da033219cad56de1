"""From a folder to a run and back: prepare, train, export, open, train on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from shared.config.layers import build, load_config
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from shared.head_types import HEAD_TYPES
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import read_model
from tests import hf_models
from tests.started import folder_of, refusal, run
from wmtp_jax import export, heads, init_params, model, prepare

BYTES = {"vocab_size": 259, "max_position_embeddings": 64}


def logits_of(folder, tokens_BL):
    """`[K, B, L, V]` of the folder's model, as the trainer computes it."""
    described = read_hf_config(folder)
    layer = described.layer | {"heads.count": described.num_heads}
    if described.head_type:
        layer |= {"heads.type": described.head_type}
    cfg = build(layer | {"data.max_length": 32, "model.name": str(folder)})
    params = init_params.load_params(cfg)
    ones = jnp.ones(tokens_BL.shape, jnp.int32)
    place_BL = jnp.cumsum(ones, axis=1) - 1

    def every_head(params):
        outputs = model.forward(params["trunk"], tokens_BL, place_BL, ones, cfg.model)
        states_KBLD = heads.head_states(params, outputs, cfg)
        shared_VD, own_KVD = heads.unembeddings(params)
        if own_KVD is None:
            return jnp.einsum("kbld,vd->kblv", states_KBLD, shared_VD)
        W_KVD = jnp.concatenate([shared_VD[None], own_KVD])
        return jnp.einsum("kbld,kvd->kblv", states_KBLD, W_KVD)

    return np.asarray(jax.jit(every_head)(params))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The original system's test model in small: its layout, random weights."""
    base = folder_of(
        "gpt2", tmp_path_factory.mktemp("base"), vocab_size=259, n_positions=64
    )
    out = tmp_path_factory.mktemp("made") / "distilgpt2-mtp"
    arguments = f"--model {base} --heads 4 --head-type linear --out {out}"
    assert prepare.main(arguments.split()) == 0
    return base, out


def test_prepare_writes_the_layout_of_the_original_test_model(prepared):
    base, out = prepared
    config = json.loads((out / "config.json").read_text())
    assert config["mtp_config"]["n_future_tokens"] == 4
    assert config["architectures"] == ["GPT2LMHeadModel"]
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "mtp_heads.safetensors", "modeling_wmtp.py",
            "tokenizer_config.json"} <= names  # fmt: skip
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (base, out)
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_train_export_transformers_and_back_are_one_model(
    head_type, prepared, tmp_path
):
    base, _ = prepared
    made = tmp_path / "made"
    arguments = f"--model {base} --heads 3 --head-type {head_type} --out {made}"
    assert prepare.main(arguments.split()) == 0
    folder = run(tmp_path, "first", "--model", made)
    exported = folder / "model"
    tokens_BL = np.random.default_rng(0).integers(3, 259, (2, 10)).astype(np.int32)

    logits_KBLV = logits_of(exported, tokens_BL)
    start_KBLV = logits_of(made, tokens_BL)
    assert np.abs(logits_KBLV - start_KBLV).max() > 1e-2  # it has learnt something
    stock = transformers.AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        theirs_BLV = stock(torch.tensor(tokens_BL).long()).logits.numpy()
    np.testing.assert_allclose(logits_KBLV[0], theirs_BLV, atol=1e-4, rtol=0)

    again = run(tmp_path, "again", "--model", exported)  # trains on, with its heads
    assert load_config(again / "config.yaml").heads.type == head_type
    first = json.loads((again / "metrics.jsonl").read_text().splitlines()[0])
    last = json.loads((folder / "summary.json").read_text())["eval_after"]
    for k in range(3):
        name = f"eval_nll_head_{k}"
        assert first[name] == pytest.approx(last[name], abs=1e-6)

    assert export.main([str(folder), "--to", str(tmp_path / "copy")]) == 0
    np.testing.assert_array_equal(logits_of(tmp_path / "copy", tokens_BL), logits_KBLV)
    older = folder / "checkpoints" / "5"
    assert export.main([str(older), "--to", str(tmp_path / "five")]) == 0
    assert np.abs(logits_of(tmp_path / "five", tokens_BL) - logits_KBLV).max() > 1e-4


@pytest.mark.slow
def test_greedy_text_of_transformers_is_the_argmax_of_our_logits(prepared):
    _, out = prepared
    stock = transformers.AutoModelForCausalLM.from_pretrained(out)
    prompt = np.array([[100, 101, 35, 60]])
    theirs = stock.generate(
        torch.tensor(prompt), max_new_tokens=12, do_sample=False, eos_token_id=None,
        attention_mask=torch.ones(1, 4, dtype=torch.long),
    )  # fmt: skip
    ours = prompt
    for _ in range(12):
        padded = np.zeros((1, 16), np.int32)
        padded[:, : ours.shape[1]] = ours
        logits_BLV = logits_of(out, padded)[0]
        best = logits_BLV[:, ours.shape[1] - 1].argmax(-1)
        ours = np.concatenate([ours, best[:, None]], axis=1)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, changes",
    [("llama-untied-biases", BYTES), ("qwen2-tied", BYTES | {"head_dim": 4})],
)
def test_other_families_train_with_every_algorithm(case, changes, tmp_path):
    base = folder_of(case, tmp_path / "base", **changes)
    tokens_BL = np.random.default_rng(0).integers(3, 259, (1, 8)).astype(np.int32)
    for algo in ("critic", "rho1-tokenskip"):
        folder = run(tmp_path, algo, "--model", base, "--algo", algo, "--heads", 2,
                     "--data.tokenizer", "bytes")  # fmt: skip
        summary = json.loads((folder / "summary.json").read_text())
        after, before = summary["eval_after"], summary["eval_before"]
        assert after["eval_nll_head_0"] < before["eval_nll_head_0"]
        stock = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
        with torch.no_grad():
            theirs = stock(torch.tensor(tokens_BL).long()).logits.numpy()
        ours = logits_of(folder / "model", tokens_BL)[0]
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_reference_folder_is_read_instead_of_trained(prepared, tmp_path):
    base, _ = prepared
    other = folder_of("llama3-rope", tmp_path / "other", **BYTES)
    folder = run(tmp_path, "a", "--model", base, "--algo", "rho1-weighted",
                 "--reference", other)  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert str(other) in summary["reference"]
    run(
        tmp_path, "b", "--model", base, "--algo", "rho1-tokenskip", "--reference", other
    )
    assert "read from the cache" in (tmp_path / "b" / "train.log").read_text()
    run(tmp_path, "c", "--model", base, "--algo", "rho1-weighted", "--reference",
        tmp_path / "a")  # fmt: skip
    assert "model of the run" in (tmp_path / "c" / "summary.json").read_text()


@pytest.mark.slow
def test_the_critic_trains_with_a_reward_model(prepared, tmp_path):
    """`prepare --kind reward` makes one; its scores are those of transformers."""
    base, _ = prepared
    reward = tmp_path / "tiny-reward-model-gpt2"
    arguments = f"--model {base} --kind reward --random-init --seed 3 --out {reward}"
    assert prepare.main(arguments.split()) == 0
    folder = run(tmp_path, "a", "--model", base, "--algo", "critic",
                 "--reward-model", reward)  # fmt: skip
    log = (folder / "train.log").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert "score of" in summary["reward"] and summary["reference"] is None
    layer = read_hf_config(folder / "model").layer
    layer |= {"data.max_length": 32, "algo": "critic", "heads.count": 1}
    again = build(layer | {"model.name": str(folder / "model")})
    ours, stored = (
        init_params.load_params(again),
        read_model(folder / "model", again.model),
    )
    jax.tree.map(np.testing.assert_array_equal, ours["value"], stored["value"])
    assert float(np.abs(stored["value"]["outer"]).max()) > 0  # it has been trained
    mean = float(log.split("(mean ")[1].split(",")[0])

    cfg = load_config(folder / "config.yaml")
    documents = load_splits(cfg.data, load_tokenizer("bytes"), splits=["train"])
    judge = transformers.AutoModelForSequenceClassification.from_pretrained(reward)
    with torch.no_grad():
        scores = [
            judge(torch.tensor(document.tokens[None]).long()).logits.item()
            for document in documents["train"].documents
        ]
    assert mean == pytest.approx(np.mean(scores), abs=6e-4)


def test_mistakes_are_answered_with_one_line(prepared, tmp_path, capsys):
    base, out = prepared
    runs = ("--output-dir", tmp_path / "runs")
    reward = tmp_path / "reward"
    assert prepare.main(f"--model {base} --kind reward --out {reward}".split()) == 0
    assert "new or empty" in prepare_refusal(capsys, f"--model {base} --out {out}")
    assert "--random-init" in prepare_refusal(capsys, f"--model tiny --out {out}")

    other = tmp_path / "words"
    hf_models.save(hf_models.make("gpt2", n_positions=64), other)
    told = refusal(capsys, "--model", other, *runs)
    assert "tokenizer" in told and str(other) in told
    told = refusal(capsys, "--model", reward, *runs)
    assert "sequence classifier" in told and "--reward-model" in told
    told = refusal(capsys, "--model", base, "--algo", "rho1-weighted", "--reference",
                   reward, *runs)  # fmt: skip
    assert "the reference must be a causal language model" in told
    told = refusal(capsys, "--model", base, "--algo", "critic", "--reward-model", base,
                   *runs)  # fmt: skip
    assert "the reward model must be a sequence classifier" in told
    told = refusal(capsys, "--model", out, "--heads", 6, *runs)
    assert "at most 4" in told and "--heads.fresh" in told
    told = refusal(capsys, "--model", base, "--model.num-layers", 2, *runs)
    assert told.startswith("error: model.num_layers must be 3 as in")
    told = refusal(capsys, "--model", "nosuch/thing", *runs)
    assert "nosuch/thing" in told and "config.json" in told
    assert not (tmp_path / "runs").exists()


def prepare_refusal(capsys, arguments):
    assert prepare.main(arguments.split()) == 2
    return capsys.readouterr().err


def test_a_reference_with_another_tokenizer_names_the_sample(
    prepared, tmp_path, capsys
):
    base, _ = prepared
    other = tmp_path / "other"
    hf_models.save(hf_models.make("gpt2", vocab_size=400, n_positions=64), other)
    write_tokenizer(other)
    told = refusal(capsys, "--model", base, "--algo", "rho1-weighted", "--reference",
                   other, "--output-dir", tmp_path / "runs")  # fmt: skip
    assert "the reference must have the tokenizer of this run" in told
    assert "sample 'train/train/1'" in told
    assert not (tmp_path / "runs").exists()


def write_tokenizer(folder):
    """A word-piece tokenizer of its own, made here."""
    vocabulary = {chr(i): i - 32 for i in range(33, 127)} | {"<eos>": 0, "Ġ": 95}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>"
    )
    fast.save_pretrained(str(folder))


def test_parameters_of_a_folder_do_not_depend_on_the_algorithm(prepared):
    base, _ = prepared
    layer = read_hf_config(base).layer | {"model.name": str(base), "heads.count": 2}
    layer |= {"data.max_length": 32}
    one, two = (
        init_params.load_params(build(layer | {"algo": algo}))
        for algo in ("baseline", "critic")
    )
    for name in ("trunk", "heads"):
        jax.tree.map(np.testing.assert_array_equal, one[name], two[name])
    cfg = build(layer)
    stored = read_model(base, cfg.model)
    jax.tree.map(np.testing.assert_array_equal, one["trunk"], stored["trunk"])
