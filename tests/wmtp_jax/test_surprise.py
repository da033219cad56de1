"""What heads make of a text behind its prompt, against all the logits at once."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from shared.config.fields import Config, DataConfig, HeadsConfig
from shared.head_types import HEAD_TYPES
from tests.cases import shorter
from tests.decoding_models import asked, cycling, trained, with_map
from tests.trees import random_params, small
from wmtp_jax import heads, model
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.programs import LONGEST_BLOCK
from wmtp_jax.decoding.prompts import Prefill
from wmtp_jax.decoding.surprise import make_measure

V = 260


def logits_of(cfg, of_heads, params, tokens) -> np.ndarray:
    """`[K, L, V]` by the trainer's functions."""
    whole = Config(model=cfg, heads=of_heads, data=DataConfig(max_length=64))
    tokens_BL = np.asarray([tokens])
    positions_BL, ones = np.arange(len(tokens))[None], np.ones_like(tokens_BL)

    @jax.jit
    def run(params):
        outputs = model.forward(params["trunk"], tokens_BL, positions_BL, ones, cfg)
        return heads.head_states(params, outputs, whole), heads.unembeddings(params)

    states_KBLD, (shared_VD, own_KVD) = jax.device_get(run(params))
    matrices = [shared_VD, *(own_KVD if own_KVD is not None else ())]
    matrices += [shared_VD] * (of_heads.count - len(matrices))
    pairs = zip(states_KBLD, matrices, strict=True)
    return np.stack([states_BLD[0] @ matrix_VD.T for states_BLD, matrix_VD in pairs])


@pytest.mark.parametrize("prompt", [1, 2, 40])
@pytest.mark.parametrize("kind", shorter(HEAD_TYPES, ["linear", "block"]))
def test_every_head_is_measured_at_its_own_targets(kind, prompt):
    cfg = replace(small("llama"), max_positions=128)
    of_heads = HeadsConfig(count=3, type=kind)
    params = random_params(cfg, of_heads)
    tokens = np.random.default_rng(prompt).integers(0, V, prompt + 39).tolist()
    found = make_measure(trained(cfg, of_heads, params))(
        tokens[:prompt], tokens[prompt:]
    )
    logits_KLV = logits_of(cfg, of_heads, params, tokens).astype(np.float64)
    assert len(found) == 3
    for k, measure in enumerate(found):
        places = [j - 1 - k for j in range(prompt, len(tokens)) if j - 1 - k >= 0]
        own = [logits_KLV[k, t] for t in places]
        targets = [tokens[t + 1 + k] for t in places]
        pairs = list(zip(own, targets, strict=True))
        nll = [np.log(np.exp(x - x[y]).sum()) for x, y in pairs]
        ranks = [1 + (x > x[y]).sum() for x, y in pairs]
        assert measure.targets == len(targets)
        assert measure.nll == pytest.approx(sum(nll), rel=1e-4)
        assert measure.rank == pytest.approx(sum(ranks), abs=2)  # of ties
        assert measure.right == sum(rank == 1 for rank in ranks)


def test_heads_that_score_few_ids_are_left_out():
    ring = cycling("medusa")
    few = with_map(ring, tuple(range(10)))
    tokens = [20, 21, 22, 23]
    assert make_measure(few)([20], tokens) == make_measure(ring)([20], tokens)[:1]


@pytest.mark.parametrize("prompt, text", [([], [1]), ([1], []), ([1] * 1000, [1] * 26)])
def test_what_cannot_be_measured_is_refused(prompt, text):
    with pytest.raises(ValueError, match="1 to 1025 tokens together"):
        make_measure(cycling())(prompt, text)


def test_what_prompts_begin_with_is_read_once():
    """And leaves the very bits that it would be read to again."""
    rng = np.random.default_rng(0)
    begun = rng.integers(2, 61, LONGEST_BLOCK + 40).tolist()
    first, second = ([*begun, *rng.integers(2, 61, n).tolist()] for n in (90, 60))
    blocks = []

    def reader(counted):
        prompts = Engine(cycling(), rows=1, drafter="none").prompts
        plain = prompts.programs.prefill

        def prefill(params, cache, tokens_1T, start_1):
            counted.append(tokens_1T.shape[1])
            return plain(params, cache, tokens_1T, start_1)

        prompts.programs = replace(prompts.programs, prefill=prefill)
        return prompts

    again, fresh = reader(blocks), reader([])
    again.read(Prefill(asked(first)))
    assert blocks == [*[LONGEST_BLOCK] * 3, 16]
    cache = again.read(Prefill(asked(second)))
    assert blocks[4:] == [LONGEST_BLOCK, 48]
    right = fresh.read(Prefill(asked(second)))
    length = len(second) - 1
    for (k, v), (right_k, right_v) in zip(cache, right, strict=True):
        np.testing.assert_array_equal(k[..., :length], right_k[..., :length])
        np.testing.assert_array_equal(v[:, :length], right_v[:, :length])
    other = [7, *second]  # begins with something else
    again.read(Prefill(asked(other)))
    assert blocks[6:] == [LONGEST_BLOCK, LONGEST_BLOCK, 48]
    for known in (first, second):  # nothing of them is left to read
        again.read(Prefill(asked(known)))
    assert len(blocks) == 9


def test_long_prompts_are_not_kept_beside_others(monkeypatch):
    monkeypatch.setattr("wmtp_jax.decoding.prompts.KEPT_PLACES", 384)
    prompts = Engine(cycling(), rows=1, drafter="none").prompts

    def kept_after(*prompt):
        prompts.read(Prefill(asked(list(prompt))))
        return [len(known) for known, _ in prompts._kept]

    assert kept_after(5, 6) == [1]
    assert kept_after(5, 6, 7) == kept_after(5, 6, 7) == [1, 2]
    assert kept_after(*[9] * 4) == [1, 2, 3]  # 128 places each
    assert kept_after(*[9] * 150) == [3, 149]
    assert kept_after(*[9] * 400) == [399]
