"""What frozen models say of packed rows is what they say of each document alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from shared.config.fields import HeadsConfig
from shared.data.packing import documents_per_row, pack_tightly
from shared.signals.columns import last_score
from tests.minis import config
from tests.signal_passes import frozen_of, over_documents, split_of
from tests.torch_models import start_of
from wmtp_jax import reference as jax_reference
from wmtp_jax import sharding
from wmtp_torch_mps import reference as torch_reference

L, B = 64, 3
# Of 2 to L tokens; the short ones are far more than S of a training row.
LENGTHS = [2, L, L - 1, *range(3, 60, 4), *[2] * 30, 33, 31]
SPLIT = split_of(LENGTHS, vocab=259)
ROWS = pack_tightly(LENGTHS, L)
ALONE = [[index] for index in range(len(LENGTHS))]
PAD_ID = int(SPLIT.documents[1].tokens[-1])


def setting(family):
    cfg = config("baseline", "linear", "uniform", family=family)
    data = replace(cfg.data, max_length=L, batch_size=B)
    return replace(cfg, data=data, heads=HeadsConfig(count=1, weight=(1.0,)))


def tree_of(family):
    """Random parameters of a model with one head and a reward model's row."""
    trunk = start_of(config("baseline", "linear", "uniform", family=family))["trunk"]
    width = setting(family).model.width
    score = np.random.default_rng(2).normal(size=width).astype(np.float32)
    without = {name: x for name, x in trunk.items() if name != "unembed"}
    return {"trunk": trunk, "heads": {}}, {"trunk": without, "score": score}


def answers(backend, family):
    """`(nll, score)` of a batch, by the functions of a backend."""
    cfg = setting(family)
    trees, makers = tree_of(family), ("nll", "score")
    if backend is torch_reference:
        cpu = torch.device("cpu")
        models = (backend.from_arrays(tree, cfg, cpu) for tree in trees)
        return [backend.ANSWERS[n](x) for n, x in zip(makers, models, strict=True)]
    mesh = sharding.make_mesh(cfg)
    return [
        backend.ANSWERS[name](tree, cfg, mesh)
        for name, tree in zip(makers, trees, strict=True)
    ]


def last_scores(found, pad_id):
    """The one score that is kept of each document."""
    model = frozen_of(None, {}, pad_id=pad_id)
    pairs = zip(found, SPLIT.documents, strict=True)
    return [last_score(score_T, document, model) for score_T, document in pairs]


@cache
def alone(family):
    """nll and score of every token of each document, by the stock model of torch."""
    cfg, cpu = setting(family), torch.device("cpu")
    found = []
    with torch.no_grad():
        model, reward = (
            torch_reference.from_arrays(x, cfg, cpu) for x in tree_of(family)
        )
        for document in SPLIT.documents:
            tokens = torch.from_numpy(document.tokens[None]).long()
            state_LD = model.base.base_model(tokens).last_hidden_state[0]
            log_p_LV = model.base.get_output_embeddings()(state_LD).log_softmax(dim=1)
            nll_T = np.zeros(len(document.tokens), np.float32)
            nll_T[1:] = -log_p_LV[:-1].gather(1, tokens[0, 1:, None])[:, 0].numpy()
            found.append(
                (nll_T * document.target, reward.score(state_LD)[:, 0].numpy())
            )
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("backend", [jax_reference, torch_reference])
def test_packed_is_one_by_one(backend, family):
    nll, score = answers(backend, family)
    cfg, right = setting(family), alone(family)
    assert max(map(len, ROWS)) > documents_per_row(L, "packed")
    for rows in (ROWS, ALONE):
        found = over_documents(nll, cfg, SPLIT, rows)
        scores = last_scores(over_documents(score, cfg, SPLIT, rows), None)
        for (nll_T, score_T), x, y in zip(right, found, scores, strict=True):
            assert x.dtype == y.dtype == np.float32
            np.testing.assert_allclose(x, nll_T, rtol=0, atol=1e-5)
            np.testing.assert_allclose(y, score_T[-1:], rtol=0, atol=1e-5)
    assert max(np.abs(x).max() for x in found) > 3


@pytest.mark.parametrize("backend", [jax_reference, torch_reference])
def test_the_score_is_that_of_the_last_token_that_is_not_padding(backend):
    _, score = answers(backend, "gpt2")
    found = last_scores(over_documents(score, setting("gpt2"), SPLIT, ROWS), PAD_ID)
    moved = 0
    for x, (_, score_T), document in zip(
        found, alone("gpt2"), SPLIT.documents, strict=True
    ):
        last = max(np.flatnonzero(document.tokens != PAD_ID))
        moved += last != len(document.tokens) - 1
        np.testing.assert_allclose(x, score_T[last : last + 1], rtol=0, atol=1e-5)
    assert moved


def test_one_program_serves_all_batches_of_a_pass(monkeypatch):
    traces, run_heads = [], jax_reference.run_heads

    def counting(*given, **settings):
        traces.append(given)
        return run_heads(*given, **settings)

    monkeypatch.setattr(jax_reference, "run_heads", counting)
    nll, _ = answers(jax_reference, "gpt2")
    for rows in (ROWS, ALONE):
        over_documents(nll, setting("gpt2"), SPLIT, rows)
    assert len(traces) == 1
