"""Acceptance: counts by hand, rigged heads, and the trainers' heads as the judge."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.config.fields import Config, DataConfig, HeadsConfig
from shared.data.tokenizer import load_tokenizer
from shared.decoding.acceptance import Agreement
from shared.head_types import HEAD_TYPES
from shared.huggingface.layers import layers_of
from tests import served_model
from tests.cases import shorter
from tests.decoding_models import with_map
from tests.trees import random_params, small
from wmtp_jax import acceptance, heads, model
from wmtp_jax.decoding.agreement import BLOCK, agreement, make_best
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.report import report, that_fit

K = 4


def loaded(cfg, of_heads, params) -> Loaded:
    placed = layers_of(params, cfg, of_heads, jnp.asarray)
    tokenizer = load_tokenizer("bytes")
    return Loaded("small", cfg, of_heads, placed, tokenizer, ends=())


def rigged(offset: int) -> Loaded:
    """After token t the model writes t + 1; head k says `t + 1 + k + offset`.

    States are one-hot: no layer adds anything.
    """
    sizes = {"width": 260, "num_attention_heads": 2, "max_positions": 256}
    cfg = replace(small("llama-untied"), num_layers=1, **sizes)
    of_heads = HeadsConfig(count=K, type="linear")
    params = random_params(cfg, of_heads)
    trunk, one_hot = params["trunk"], np.eye(260, dtype=np.float32)
    for layer in ("down", "out"):
        of = trunk["blocks"]["attention"] if layer == "out" else trunk["blocks"]
        of[layer] = {name: np.zeros_like(x) for name, x in of[layer].items()}
    trunk["norm"] = {"scale": np.ones(260, np.float32)}
    trunk["embed"], trunk["unembed"] = one_hot, np.roll(one_hot, 1, axis=0)
    own = [np.roll(one_hot, 1 + k + offset, axis=0) for k in range(1, K)]
    return loaded(cfg, of_heads, params | {"heads": {"unembed": np.stack(own)}})


def test_counts_by_hand():
    """Prompt 0 1, written 2 3 4 5; three heads, from the prompt's last token on."""
    best_LK = np.asarray([[9, 9, 9], [2, 3, 4], [3, 4, 0], [4, 0, 0], [0, 0, 0]])
    counts = Agreement(3)
    counts.count(best_LK, [0, 1, 2, 3, 4, 5], 2)
    assert (counts.seen, counts.agreed) == ([4, 3, 2], [3, 2, 1])
    assert (counts.whole, counts.joint) == (2, [2, 2, 1])
    assert (counts.control_seen, counts.control) == ([3, 2, 1], [0, 0, 0])
    assert counts.length == 1 + 2 / 2 + 1 / 2
    counts.count(np.asarray([[1, 2, 2]]), [7, 1], 1)  # too short for more than head 0
    assert (counts.seen, counts.whole) == ([5, 3, 2], 2)
    assert counts.rows()[1]["agreement"] == pytest.approx(2 / 3)
    twice = Agreement(1)  # a token that is written twice says nothing of the place
    twice.count(np.asarray([[5], [5], [6]]), [1, 5, 5, 6], 1)
    assert (twice.agreed, twice.control_seen, twice.control) == ([3], [1], [0])


@pytest.mark.parametrize("offset, agree, control", [(0, 1, 0), (1, 0, 1), (5, 0, 0)])
def test_rigged_heads(offset, agree, control):
    """Heads that are always right, one place too far, always wrong."""
    of = rigged(offset)
    texts = [([3, 4, 5], range(6, 30)), ([250], [*range(251, 260), *range(20)])]
    rows = agreement(of, texts).rows()
    assert [row["agreement"] for row in rows] == [1, agree, agree, agree]
    assert [row["control"] for row in rows[1:]] == [control] * (K - 1)
    assert [row["joint_prefix_rate"] for row in rows] == [1, agree, agree, agree]


def test_a_report_of_rigged_heads():
    """Heads that are always right are kept whole, whenever they draft."""
    told = []
    prompts = [[3], [40, 41]]
    found = report(rigged(0), prompts, ["heads"], tokens=24, progress=told.append)
    plain, drafted = found.drafters
    assert told == [1, 2] and (plain["drafter"], drafted["drafter"]) == (
        "none",
        "heads",
    )
    for row in found.drafters:
        assert row["same_text"] == row["prompts"] == 2
        assert row["tokens"] == 48 and row["seconds"] > 0
    assert plain["passes"] == 48 and plain["drafts"] == 0
    assert plain["speed_up"] == plain["median_speed_up"] == 1
    # Whether drafting pays is measured, and times are what they are.
    assert drafted["tokens"] <= drafted["passes"] + 3 * drafted["drafts"]
    if drafted["drafts"]:
        assert drafted["mean_acceptance_length"] > 2.5
    assert found.agreement.length == 4


@pytest.mark.parametrize("ids", [None, tuple(range(259, 0, -3))], ids=["all", "few"])
@pytest.mark.parametrize("kind", shorter(HEAD_TYPES, ["medusa", "block"]))
def test_heads_say_what_they_say_to_the_trainer(kind, ids):
    """Over more than one block, with `model.forward` and all the logits.

    Heads that draft few ids say the best of these; head 0 is asked for all.
    """
    cfg = replace(small("llama"), max_positions=64)
    of_heads = HeadsConfig(count=3, type=kind)
    params = random_params(cfg, of_heads)
    tokens_BL = np.random.default_rng(1).integers(0, 260, (1, BLOCK + 9))
    positions_BL, ones = np.arange(BLOCK + 9)[None], np.ones_like(tokens_BL)
    whole = Config(model=cfg, heads=of_heads, data=DataConfig(max_length=64))

    @jax.jit
    def states_of(params):
        outputs = model.forward(params["trunk"], tokens_BL, positions_BL, ones, cfg)
        return heads.head_states(params, outputs, whole)

    states_KBLD = np.asarray(states_of(params))
    shared_VD, own_KVD = heads.unembeddings(params)
    right = []
    for k, states_BLD in enumerate(states_KBLD):
        matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
        logits_LV = states_BLD[0] @ np.asarray(matrix_VD).T
        known_N = np.asarray(ids if ids and k else range(260))
        right.append(known_N[logits_LV[:, known_N].argmax(1)])
    read = loaded(cfg, of_heads, params)
    read = with_map(read, ids) if ids else read
    found = make_best(read)(tokens_BL[0].tolist())
    np.testing.assert_array_equal(found, np.stack(right, axis=1))


def test_prompts_that_fit():
    assert that_fit([[1] * 5, [1] * 6, []], 4, 9) == [[1] * 5]
    with pytest.raises(ValueError, match=r"at most 5 tokens, .* got 6"):
        that_fit([[1] * 6], 4, 9)


def test_heads_that_draft_few_ids_agree_on_these():
    of = rigged(0)
    few = replace(of, token_map=tuple(range(0, 260, 2)))
    medusa = replace(few.heads, type="medusa")
    zeros = {"kernel": jnp.zeros((260, 260)), "bias": jnp.zeros(260)}
    ids = jnp.asarray(few.token_map)
    params = few.params | {"heads": (zeros,), "draft": few.params["unembed"][ids]}
    few = replace(few, heads=replace(medusa, count=2), params=params)
    best_LK = make_best(few)([7, 8, 9])
    assert best_LK[:, 0].tolist() == [8, 9, 10]
    assert all(x % 2 == 0 for x in best_LK[:, 1]) and best_LK[0, 1] == 8


def test_the_command(tmp_path, capsys):
    """A model without heads, and a file of prompts."""
    folder = served_model.folder(tmp_path / "model")
    capsys.readouterr()
    data, out = tmp_path / "own.jsonl", tmp_path / "found.json"
    line = {"prompt": "def add(a, b):\n", "completion": "    return a + b\n"}
    data.write_text("".join(json.dumps(line | {"id": i}) + "\n" for i in range(3)))
    asked = ["--model", folder, "--data", str(data), "--prompts", "2"]
    asked += ["--tokens", "8", "--json", str(out), "--drafters", "none"]
    assert acceptance.main(asked) == 0
    shown = capsys.readouterr().out
    assert (
        "own.jsonl: drafters in turns" in shown and "(bonus) token is counted" in shown
    )
    found = json.loads(out.read_text())["data"][str(data)]
    (row,) = found["drafters"]
    assert (row["drafter"], row["same_text"], row["tokens"]) == ("none", 2, 16)
    assert found["heads"][0]["agreement"] == 1


@pytest.mark.parametrize(
    "more, said",
    [
        (["--tokens", "0"], "--tokens must be >= 1, got 0"),
        (["--data", "nowhere"], "--data must be minis, mbpp, humaneval, a folder or"),
        (["--json", "/nowhere/x.json"], "--json must be in a folder that exists"),
    ],
)
def test_bad_input_is_one_line(more, said, capsys):
    assert acceptance.main(["--model", "nowhere", *more]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
