"""The decoder with a cache, against the whole forward pass and `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shared.decoding.policy import Policy
from tests import hf_models
from tests.cases import shorter
from tests.decoding_models import (
    answers,
    asked,
    cycling,
    engine,
    logits_of,
    opened,
    random_model,
)
from wmtp_jax.decoding import decoder
from wmtp_jax.decoding.programs import block_for, places_for

MOST = 48  # tokens written
LONG = 600  # positions of the models here


ONE_EACH = ("gpt2", "llama3-rope", "qwen2-tied")


def longer(case: str) -> dict[str, int]:
    return {"n_positions" if "gpt2" in case else "max_position_embeddings": LONG}


@pytest.fixture(scope="module", params=hf_models.CASES)
def pair(request, tmp_path_factory):
    """A model of `transformers`, and the same to decode with."""
    case = request.param
    return random_model(tmp_path_factory.mktemp(case), case, **longer(case))


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2, 61, length).tolist()


def generated(theirs, ids: list[int], count: int) -> list[int]:
    """Greedily by `transformers`; no end of text ends it."""
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(ids) :].tolist()


def run_blocks(model, tokens_BL, sizes, start=0):
    """`logits_BLV` of a text that is read in blocks of these sizes."""
    cfg, (B, L) = model.cfg, tokens_BL.shape
    cache = decoder.empty_cache(cfg, cfg.num_layers, B, places_for(L), model.dtype)

    def one(params, cache, tokens_BT, start_B):
        states, cache = decoder.extend(params, cache, tokens_BT, start_B, cfg)
        return decoder.unembed(params, states.hidden_DR), cache

    run, at, found = jax.jit(one), 0, []
    for size in sizes:
        tokens_BT = jnp.asarray(tokens_BL[:, at : at + size], jnp.int32)
        logits_VR, cache = run(model.params, cache, tokens_BT, jnp.full(B, at))
        found.append(np.asarray(logits_VR).T.reshape(B, size, -1))
        at += size
    assert at == L
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("pair", shorter(hf_models.CASES, ONE_EACH), indirect=True)
def test_greedy_is_that_of_transformers_and_of_the_whole_pass(pair):
    theirs, model = pair
    ids = prompt_of(9)
    right = generated(theirs, ids, MOST)
    ((said,),) = answers(engine(model), asked(ids, MOST, ignore_eos=True))
    assert list(said.tokens) == right and said.finish == "length"
    logits_LV = logits_of(theirs, ids + right[:-1])[len(ids) - 1 :]
    assert logits_LV.argmax(axis=1).tolist() == right  # without a cache


@pytest.mark.parametrize("pair", shorter(hf_models.CASES, ONE_EACH), indirect=True)
def test_blocks_of_any_size_are_the_whole_pass(pair):
    theirs, model = pair
    tokens_BL = np.array([prompt_of(13, seed) for seed in (1, 2)])
    right = np.stack([logits_of(theirs, row.tolist()) for row in tokens_BL])
    assert np.abs(right).max() > 0.5
    for sizes in ([4, 4, 4, 1], [1] * 13):
        found = run_blocks(model, tokens_BL, sizes)
        np.testing.assert_allclose(found, right, atol=1e-4, rtol=0)


def test_a_row_sees_only_what_is_before_it():
    """A cache full of something else beyond a row's length changes nothing."""
    model = cycling()
    cfg, ids = model.cfg, prompt_of(6)
    empty = decoder.empty_cache(cfg, cfg.num_layers, 2, 32, model.dtype)
    full = jax.tree.map(lambda x: x + 7, empty)
    tokens_BT = jnp.asarray([ids, ids], jnp.int32)

    def one(cache):
        states, _ = decoder.extend(
            model.params, cache, tokens_BT, jnp.zeros(2, jnp.int32), cfg
        )
        return states.hidden_DR

    run = jax.jit(one)
    np.testing.assert_array_equal(run(empty), run(full))


@pytest.mark.parametrize("case", shorter(["gpt2", "llama3-rope"], ["llama3-rope"]))
def test_long_prompts_and_a_cache_that_grows(case, tmp_path):
    """Prompts in several blocks; texts that cross 256 and 512 places."""
    theirs, model = random_model(tmp_path, case, **longer(case))
    lengths = (255, 257, 509, 530)
    requests = [asked(prompt_of(n, n), 6, ignore_eos=True) for n in lengths]
    for request, (said,) in zip(
        requests, answers(engine(model), *requests), strict=True
    ):
        assert list(said.tokens) == generated(theirs, list(request.prompt), 6)


def test_sizes_of_blocks_and_caches():
    assert [places_for(n) for n in (1, 128, 129, 512, 513, 2000)] == [
        *(128, 128, 256, 512, 1024, 2048)
    ]
    assert [block_for(n) for n in (1, 16, 17, 33, 200, 256, 257, 9000)] == [
        *(16, 16, 32, 48, 64, 64, 64, 64)
    ]


@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_bfloat16_stays_near_its_own_teacher(drafter, tmp_path, monkeypatch):
    """Each token is the argmax of the whole pass, or less than the stated gap from it.

    The gap: 2 % of the largest logit, which rounding to 8 bits of a state can move.
    """
    monkeypatch.setattr(Policy, "choose", lambda self, drafts, heads=False: 4)
    theirs = hf_models.make("llama-tied-grouped")
    model = opened(hf_models.save(theirs, tmp_path), "bfloat16")
    assert model.params["layers"][0]["qkv"]["kernel"].dtype == jnp.bfloat16
    ids = prompt_of(5) * 3  # which is drafted, if rarely right
    drafts = engine(model, drafter=drafter)
    ((said,),) = answers(drafts, asked(ids, MOST, ignore_eos=True))
    assert (drafts.acceptance.drafted > 0) == (drafter == "ngram")
    logits_LV = logits_of(theirs, ids + list(said.tokens)[:-1])[len(ids) - 1 :]
    chosen_L = logits_LV[np.arange(MOST), said.tokens]
    short_L = logits_LV.max(axis=1) - chosen_L
    assert short_L.max() < 0.02 * np.abs(logits_LV).max()
    assert (short_L == 0).mean() > 0.7
