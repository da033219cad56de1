"""Drafts change no token: greedy and drawn, for every drafter and type of heads."""

from collections import Counter
from dataclasses import replace
from itertools import cycle, product

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from shared.config.fields import Config, DataConfig, HeadsConfig
from shared.decoding.acceptance import Acceptance
from shared.decoding.policy import Policy
from shared.head_types import HEAD_TYPES
from tests.cases import shorter
from tests.decoding_models import (
    V,
    answers,
    asked,
    cycling,
    engine,
    follows,
    tokens_of,
    trained,
    trainers_states,
    with_map,
)
from tests.trees import random_params, small
from wmtp_jax import heads as trained_heads
from wmtp_jax.decoding.draft_heads import with_draft_rows
from wmtp_jax.decoding.drafting import Drafting

TEXTS = ([20], [31, 7, 8])
EVEN = tuple(range(0, V, 2))


@pytest.fixture(autouse=True)
def sizes_come_in_turns(monkeypatch):
    """Whether drafting pays depends on the machine: here it is tried in turns."""
    sizes = cycle((4, 4, 1))

    def choose(self, drafts, heads=False):
        return next(sizes) if any(length for _, length in drafts) else 1

    monkeypatch.setattr(Policy, "choose", choose)
    monkeypatch.setattr(Policy, "heads_pay", lambda self, count: True)


@pytest.fixture
def counted():
    """`counted(engine)`: from here on what it drafts is counted anew."""

    def start(engine) -> Acceptance:
        engine.acceptance = Acceptance()
        return engine.acceptance

    return start


CASES = [
    *product(["ngram"], ["linear"], [None]),
    *product(["heads"], HEAD_TYPES, [None]),
    ("heads", "linear", EVEN),
    ("both", "medusa", EVEN),
]
NORMAL = [("heads", "block", None), CASES[-1]]  # `both` has n-grams


@pytest.mark.parametrize("case", shorter(CASES, NORMAL), ids=str)
def test_drafted_greedy_is_greedy(case, counted):
    """Heads that are right at seven tokens of ten; two rows, then one alone."""
    drafter, head_type, ids = case
    model = cycling(head_type, right=0.7)
    if ids:
        model = with_map(model, ids)
    drafts = engine(model, rows=2, drafter=drafter)
    kept = counted(drafts)
    requests = [asked(ids, 12 + 20 * i) for i, ids in enumerate(TEXTS)]
    for i, tokens in enumerate(tokens_of(drafts, *requests)):
        right = [int(follows(TEXTS[i][-1], n)) for n in range(1, 13 + 20 * i)]
        assert list(tokens) == right[: len(tokens)] and len(tokens) == 12 + 20 * i
    assert kept.tokens == sum(12 + 20 * i for i in range(len(TEXTS)))
    assert 0 < kept.accepted <= kept.drafted
    assert drafter != "heads" or kept.accepted < kept.drafted
    assert kept.tokens == kept.passes + kept.accepted


@pytest.mark.parametrize(
    "head_type, right",
    [
        pytest.param("block", 1.0, marks=pytest.mark.slow),
        ("residual", 1.0),
        pytest.param("linear", 0.0, marks=pytest.mark.slow),
    ],
)
def test_what_heads_draft_is_kept_where_they_are_right(head_type, right, counted):
    drafts = engine(cycling(head_type, right=right), rows=1, drafter="heads")
    kept = counted(drafts)
    ((tokens,),) = [tokens_of(drafts, asked([20], 41))]
    assert tokens == tuple(int(follows(20, n)) for n in range(1, 42))
    assert kept.drafted > 20
    assert kept.accepted == (kept.drafted if right else 0)


def test_ids_that_no_head_scores_are_never_drafted(counted):
    """The ring 20 .. 24 with a map of the others: nothing is kept, and all is right."""
    model = with_map(cycling("medusa"), tuple(i for i in range(V) if i // 5 != 4))
    drafts = engine(model, rows=1, drafter="heads")
    kept = counted(drafts)
    (tokens,) = tokens_of(drafts, asked([20], 30))
    assert tokens == tuple(int(follows(20, n)) for n in range(1, 31))
    assert kept.drafted > 0 == kept.accepted


# Random weights.


def random_loaded(head_type: str, shape: str = "llama", count: int = 4, **changes):
    """Config, parameters as a trainer has them, and the same to decode with."""
    cfg = replace(small(shape), max_positions=64, **changes)
    of_heads = HeadsConfig(count=count, type=head_type)
    params = random_params(cfg, of_heads)
    whole = Config(model=cfg, heads=of_heads, data=DataConfig(max_length=64))
    return whole, params, trained(cfg, of_heads, params)


@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, normal={"block"}))
def test_drafts_are_those_of_the_trainers_heads(head_type, monkeypatch):
    """At every pass in which heads draft, also after passes in which they do not."""
    whole, params, model = random_loaded(head_type)
    drafts = engine(model, rows=1, drafter="heads")
    pays = cycle((True, True, False))
    monkeypatch.setattr(Policy, "heads_pay", lambda self, count: next(pays))
    seen = []

    def learn(self, rows, sample, gained):
        seen.append(len(sample.lookup.tokens))

    monkeypatch.setattr(Drafting, "learn", learn)
    drafts.submit(asked([5, 7, 11, 200], 24, ignore_eos=True))
    found, text = {}, [5, 7, 11, 200]
    while drafts.busy:
        sample = drafts._running[0] if drafts._running else None
        for piece in drafts.step():
            text += piece.tokens
        sample = drafts._running[0] if sample is None else sample
        if sample is not None and sample.drafted:
            found[len(text)] = sample.drafted
    assert len(found) > 5 and len(seen) > len(found)  # some passes were without heads
    states_KLD = trainers_states(whole, params, text)
    shared_VD, own_KVD = trained_heads.unembeddings(params)
    for length, drafted in found.items():
        # The last token, which no layer has seen, is what the text ended with.
        at = length - 2
        for k, token in enumerate(drafted, 1):
            matrix_VD = shared_VD if own_KVD is None else own_KVD[k - 1]
            logits_V = np.asarray(matrix_VD) @ states_KLD[k, at]
            assert token == logits_V.argmax(), (length, k)


@pytest.mark.parametrize("drafter", shorter(["ngram", "both"], normal={"both"}))
def test_drafted_sampling_draws_the_same_tokens(drafter, counted):
    """Token for token: the noise belongs to the place, not to the pass."""
    model = cycling("medusa", sharpness=0.6)
    plain, drafts = engine(model, rows=2), engine(model, rows=2, drafter=drafter)
    kept = counted(drafts)
    for how in ({"temperature": 1.0}, {"temperature": 0.7, "top_k": 9, "top_p": 0.8}):
        both = [asked(ids, 24, seed=3 + i, **how) for i, ids in enumerate(TEXTS)]
        right = tokens_of(plain, *both)
        assert tokens_of(drafts, *both) == right
        assert len(set(right)) == 2
    assert kept.accepted > 0


FEW = 6  # tokens of a vocabulary


def exact(whole, params, ids, temperature: float) -> np.ndarray:
    """`[V, V]`: probability of each pair of next tokens, by the trainer's forward."""

    def following(ids):
        state_D = trainers_states(whole, params, ids)[0, -1].astype(np.float64)
        logits_V = np.asarray(trained_heads.unembeddings(params)[0]) @ state_D
        share_V = np.exp((logits_V - logits_V.max()) / temperature)
        return share_V / share_V.sum()

    return np.stack([p * following([*ids, t]) for t, p in enumerate(following(ids))])


@pytest.mark.parametrize("drafter", shorter(["none", "heads"], normal={"heads"}))
def test_sampling_has_the_models_distribution(drafter, counted):
    """Chi-square over pairs of tokens of 800 samples; a wrong temperature shows."""
    whole, params, model = random_loaded("medusa", vocab_size=FEW, count=2)
    many = engine(model, rows=64, drafter=drafter)
    kept, ids, count = counted(many), [2, 3, 5], 800
    request = asked(ids, 3, temperature=6.0, seed=7, samples=count, ignore_eos=True)
    seen = Counter(tokens[:2] for tokens in tokens_of(many, request))
    seen_VV = np.array([[seen[a, b] for b in range(FEW)] for a in range(FEW)])

    def chance(temperature):
        right_VV = count * exact(whole, params, ids, temperature)
        usual = right_VV >= 5  # the others are one cell
        found = [*seen_VV[usual], seen_VV[~usual].sum()]
        expected = [*right_VV[usual], right_VV[~usual].sum() + 1e-9]
        return stats.chisquare(found, expected, sum_check=False).pvalue

    assert seen_VV.sum() == count
    assert chance(6.0) > 1e-3 and chance(3.0) < 1e-9
    assert drafter == "none" or kept.accepted > 0


def test_a_drafter_that_cannot_be():
    for drafter in ("heads", "both"):
        with pytest.raises(ValueError, match=r"needs a model with heads k >= 1, got"):
            Drafting(drafter, 0)
    with pytest.raises(ValueError, match="must be auto, none, ngram, heads or both"):
        Drafting("wizard", 3)
    assert (Drafting("auto", 0).name, Drafting("auto", 3).name) == ("ngram", "both")


def test_an_end_of_text_in_a_draft_ends_it(counted):
    """What is drafted behind it is not told, whatever it is."""
    model = replace(cycling("linear"), ends=(23,))
    drafts = engine(model, rows=1, drafter="heads")
    ((said,),) = answers(drafts, asked([24], 30, logprobs=1))
    assert said.tokens == (20, 21, 22) and said.finish == "stop"
    assert len(said.logprobs) == 3
    ((said,),) = answers(drafts, asked([24], 30, stop=(chr(21 - 3) + chr(22 - 3),)))
    assert said.tokens == (20,) and said.finish == "stop"


def test_log_probabilities_beside_drafts():
    """Those of the plain engine, token by token."""
    model = cycling("residual", sharpness=0.4, right=0.7)
    request = asked([33, 34], 30, logprobs=3, temperature=0.9, seed=2)
    ((right,),) = answers(engine(model, rows=1), request)
    ((said,),) = answers(engine(model, rows=1, drafter="both"), request)
    assert said.tokens == right.tokens
    np.testing.assert_allclose(said.logprobs, right.logprobs, atol=1e-5)


def test_the_end_of_the_model_and_of_the_cache():
    """Drafts beyond max_positions, and where the cache has to grow between blocks."""
    model = cycling("medusa")
    model = replace(model, cfg=replace(model.cfg, max_positions=270))
    drafts = engine(model, rows=1, drafter="both")
    for length in (240, 250, 262, 269):
        (tokens,) = tokens_of(drafts, asked([20] * length, 400))
        assert len(tokens) == 270 - length
        assert tokens == tuple(int(follows(20, n)) for n in range(1, 271 - length))


def test_rows_of_the_unembedding_that_heads_score():
    ids = [7, 3, 60]
    shared = with_draft_rows(cycling("medusa").params, ids)
    np.testing.assert_array_equal(shared["draft"], shared["unembed"][jnp.asarray(ids)])
    params = cycling("linear").params
    own = with_draft_rows(params, ids)
    for head, before in zip(own["heads"], params["heads"], strict=True):
        np.testing.assert_array_equal(head["unembed"], before["unembed"][np.array(ids)])
    assert with_draft_rows(cycling().params, ids) is cycling().params
