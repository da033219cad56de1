"""The engine: rows that join and leave, ends, log-probabilities, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.decoding.requests import Request
from tests.decoding_models import (
    END,
    answers,
    asked,
    cycling,
    engine,
    logits_of,
    random_model,
    tokens_of,
)
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.programs import bytes_of_place

LENGTHS = (3, 17, 1, 30, 8, 2, 40)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of `transformers`, and the same to decode with."""
    folder = tmp_path_factory.mktemp("model")
    return random_model(folder, "llama-tied-grouped", max_position_embeddings=300)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2, 61, length).tolist()


def requests(**more) -> list[Request]:
    return [asked(prompt(n, n), 5 + n % 9, ignore_eos=True, **more) for n in LENGTHS]


def log_softmax(theirs, ids) -> np.ndarray:
    return torch.log_softmax(torch.tensor(logits_of(theirs, list(ids))), -1).numpy()


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}])
def test_more_requests_than_rows_are_each_as_alone(pair, how):
    _, model = pair
    many, alone = engine(model, rows=4), engine(model, rows=1)
    right = [tokens_of(alone, request)[0] for request in requests(**how)]
    assert tokens_of(many, *requests(**how)) == right
    assert tokens_of(many, *requests(**how)[::-1]) == right[::-1]
    assert [len(tokens) for tokens in right] == [5 + n % 9 for n in LENGTHS]


def test_a_request_that_comes_later_changes_nothing(pair):
    _, model = pair
    many, alone = engine(model, rows=4), engine(model, rows=1)
    early, late = requests(temperature=0.8, seed=1)[1:3]
    early = replace(early, sampling=replace(early.sampling, max_tokens=40))
    right = tokens_of(alone, early) + tokens_of(alone, late)
    found = {many.submit(early): (), "late": None}
    for piece in many.step():
        found[piece.request] += piece.tokens
    number = many.submit(late)
    found[number] = found.pop("late") or ()
    while many.busy:
        for piece in many.step():
            found[piece.request] += piece.tokens
    assert list(found.values()) == right


def test_samples_of_one_request_draw_noise_of_their_own(pair, monkeypatch):
    """One prefill; sample i is the same however many there are, and beside whatever."""
    _, model = pair
    many = engine(model, rows=4)
    one = asked(prompt(9), 12, temperature=1.0, seed=5, ignore_eos=True)
    passes = []
    plain = many.prompts._pass
    monkeypatch.setattr(
        many.prompts, "_pass", lambda prefill: (passes.append(1), plain(prefill))[1]
    )
    six = tokens_of(many, replace(one, samples=6))
    assert len(passes) == 1 and len(set(six)) == 6
    assert tokens_of(many, replace(one, samples=2)) == six[:2]
    assert tokens_of(many, *requests(), one)[-1] == six[0]
    other = replace(one, sampling=replace(one.sampling, seed=6))
    assert tokens_of(many, other)[0] not in six


def test_every_end_ends():
    """Also ends beside the tokenizer's own; the end itself is not told."""
    model = replace(cycling(), ends=(END, 23, 41))
    many = engine(model, rows=4)
    for start, left in ((20, (21, 22)), (40, ()), (47, (48, 49, 45, 46))):
        ((said,),) = answers(many, asked([start], 4))
        assert said.tokens == left
        assert said.finish == ("length" if start == 47 else "stop")
    ((said,),) = answers(many, asked([20], 7, ignore_eos=True))
    assert said.tokens == (21, 22, 23, 24, 20, 21, 22) and said.finish == "length"


@pytest.mark.parametrize("logprobs", [0, 1, 4])
def test_log_probabilities_are_those_of_transformers(pair, logprobs):
    theirs, model = pair
    ids = prompt(35)
    request = asked(
        ids, 9, logprobs=logprobs, echo=True, ignore_eos=True, temperature=0.7, seed=1
    )
    plain = asked(prompt(3), 12, ignore_eos=True)  # beside one that asks for none
    (said,), (other,) = answers(engine(model, rows=4), request, plain)
    whole = [*ids, *said.tokens]
    right_LV = log_softmax(theirs, whole)[:-1]
    own = [*said.prompt_logprobs[1:], *said.logprobs]
    assert said.prompt_logprobs[0] is None and said.prompt_top[0] == ()
    assert len(own) == len(whole) - 1
    np.testing.assert_allclose(own, right_LV[range(len(own)), whole[1:]], atol=1e-4)
    for top, right_V in zip([*said.prompt_top[1:], *said.top], right_LV, strict=True):
        assert [token for token, _ in top] == np.argsort(-right_V)[:logprobs].tolist()
        best = np.sort(right_V)[::-1][:logprobs]
        np.testing.assert_allclose([x for _, x in top], best, atol=1e-4)
    assert other.logprobs == other.top == other.prompt_logprobs == ()
    assert len(other.tokens) == 12


def test_no_tokens_but_the_prompts_log_probabilities(pair):
    theirs, model = pair
    several = [asked(prompt(n), 0, logprobs=0, echo=True, samples=2) for n in (1, 40)]
    for request, samples in zip(
        several, answers(engine(model, rows=1), *several), strict=True
    ):
        ids = list(request.prompt)
        right = log_softmax(theirs, ids)[range(len(ids) - 1), ids[1:]]
        for said in samples:
            assert (said.text, said.tokens, said.finish) == ("", (), "length")
            np.testing.assert_allclose(said.prompt_logprobs[1:], right, atol=1e-4)


def test_a_stop_string_cuts_tokens_and_log_probabilities():
    model = cycling()
    many = engine(model, rows=4)
    decode = model.tokenizer.decode
    start, ring = 50, [51, 52, 53, 54, 50] * 3
    text = decode(ring)
    for stop, cut in ((text[2:4], 2), (text[4] + text[0], 4), ("nothing", 9)):
        ((said,),) = answers(many, asked([start], 9, logprobs=0, stop=(stop, "zz")))
        assert said.text == decode(ring[:cut]) and said.tokens == (*ring[:cut],)
        assert len(said.logprobs) == len(said.top) == cut
        assert said.finish == ("length" if cut == 9 else "stop")
    plain = answers(many, asked([start], 9, logprobs=0))[0][0]
    assert said.logprobs == plain.logprobs


def test_cancelling_what_waits_and_what_runs(pair):
    _, model = pair
    few = engine(model, rows=2)
    right = tokens_of(few, requests()[3])
    long = asked(prompt(5), 200, ignore_eos=True)
    numbers = [few.submit(long) for _ in range(2)]
    waits = few.submit(replace(long, samples=3))
    kept = few.submit(requests()[3])
    few.step()
    for number in (numbers[0], waits):
        few.cancel(number)
    few.cancel(waits)  # again, and one that nobody knows
    few.cancel(10**9)
    pieces = []
    while few.busy and not any(p.request == kept and p.finish for p in pieces):
        pieces += few.step()
    few.cancel(numbers[1])
    few.cancel(kept)  # which is done
    assert few.busy
    pieces += few.step()
    assert not few.busy
    ended = sorted((p.request, p.sample) for p in pieces if p.finish == "cancelled")
    assert ended == sorted([(n, 0) for n in numbers] + [(waits, i) for i in range(3)])
    assert sum((p.tokens for p in pieces if p.request == kept), ()) == right[0]
    assert not any(p.tokens for p in pieces if p.request == waits)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"prompt": ()}, "the prompt must have 1 to 300 tokens for this model, got 0"),
        ({"prompt": (5,) * 301}, "must have 1 to 300 tokens for this model, got 301"),
        ({"prompt": (5, 61)}, "ids must be in [0, 61), got others"),
        ({"prompt": (-1,)}, "ids must be in [0, 61), got others"),
        ({"samples": 0}, "samples must be >= 1, got 0"),
        ({"logprobs": 21}, "logprobs must be at most 20, got 21"),
    ],
)
def test_a_bad_request_is_one_line(pair, change, said):
    _, model = pair
    few = engine(model, rows=2)
    with pytest.raises(ValueError) as caught:
        few.submit(replace(asked([5]), **change))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not few.busy


def test_where_the_model_ends(pair):
    """No token beyond max_positions, and the last one is the right one."""
    theirs, model = pair
    few = engine(model, rows=2)
    for length, most in ((290, 10), (296, 50), (300, 5)):
        ((said,),) = answers(few, asked(prompt(length), most, ignore_eos=True))
        assert len(said.tokens) == 300 - length and said.finish == "length"
        whole = prompt(length) + list(said.tokens)
        right = logits_of(theirs, whole).argmax(1)[length - 1 : -1]
        assert list(said.tokens) == right.tolist()


def test_the_cache_follows_what_is_used():
    """Rows and places, in doublings; small again when nothing runs."""
    few = engine(cycling(), rows=4)

    def shapes(*asked):
        for request in asked:
            few.submit(request)
        while few.busy:
            few.step()
            yield len(few._running), few._places

    assert max(shapes(*[asked([9], 4)] * 7)) == (4, 128)
    places = [shape[1] for shape in shapes(asked([9], 300))]
    assert places == sorted(places) and {*places} == {128, 256, 512}
    assert {*shapes(asked([9], 4))} == {(1, 128)}
    places = [shape[1] for shape in shapes(asked([9], 140), asked([9] * 300, 2))]
    assert places[0] == 512 and places[-1] == 256  # the long one has gone


def test_more_alternatives_than_tokens():
    """A vocabulary of fewer than the alternatives that are computed."""
    from wmtp_jax.decoding.sampler import log_probabilities

    logits_VR = np.array([[0.0], [2.0], [1.0]], np.float32)
    own, top, _ = log_probabilities(logits_VR, np.array([1]), 20)
    assert top.tolist() == [[1, 2, 0]] and own[0] == pytest.approx(-0.4076, abs=1e-4)


def test_a_long_prompt_runs_beside_as_many_rows_as_its_cache_leaves():
    model = cycling()
    place = bytes_of_place(model)
    small = Engine(model, rows=8, drafter="none", cache_bytes=8 * 128 * place)
    prompts = [[i, i + 1] for i in range(12)]
    prompts.insert(5, [7, 8, 9] * 130)  # 512 places: two rows
    requests = [asked(ids, 20) for ids in prompts]
    for request in requests:
        small.submit(request)
    texts, held, together = {}, [], 0
    while small.busy:
        for piece in small.step():
            texts.setdefault(piece.request, []).extend(piece.tokens)
        held.append(len(small._running) * small._places)
        running = [x.request_number for x in small._active()]
        together = max(together, len(running) if 5 in running else 0)
    whole = [of[0].tokens for of in answers(engine(model, rows=8), *requests)]
    assert [tuple(texts[i]) for i in range(13)] == [tuple(x) for x in whole]
    assert max(held) <= 8 * 128 and 1 <= together <= 2
