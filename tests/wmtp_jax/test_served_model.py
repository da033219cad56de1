"""A small model behind the server: what it says, held against `transformers`.

The soak asks as `benchmarks/serve.py` does: many at once, with clients that go and bad
bodies.
"""

import os
import sys
import threading

import numpy as np
import pytest

from benchmarks.serve import MIX, questions, soak
from shared.config.fields import DataConfig, MachineConfig
from shared.data.chat import spell_prompt
from shared.data.documents import load_examples
from tests import served_model
from tests.served import CHAT, COMPLETIONS, eventually, serving
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import load

MOST = 12  # tokens of an answer
ROWS = 4
POOL = 32  # threads at most that read bodies; they stay


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = served_model.folder(tmp_path_factory.mktemp("model"))
    return load(folder, MachineConfig())


@pytest.fixture(scope="module")
def here(model):
    made = (lambda: Engine(model, rows=ROWS)), 64
    with serving(*made, most_bytes=2**22) as address:
        yield address


@pytest.fixture(scope="module")
def tokenizer(here):
    return here.thread.engine.tokenizer


@pytest.mark.parametrize("most", [0, 1, 5])
def test_log_probabilities_are_those_of_transformers(here, tokenizer, most):
    prompts = [tokenizer.encode("def add(x, y):\n"), tokenizer.encode("naïve 🙂")]
    answer = here.ask(
        COMPLETIONS,
        prompt=prompts,
        echo=True,
        logprobs=3,
        max_tokens=most,
        temperature=0,
        ignore_eos=True,
    )
    assert answer["usage"]["completion_tokens"] == most * len(prompts)
    for ids, choice in zip(prompts, answer["choices"], strict=True):
        whole = ids + served_model.greedy(ids, most)
        right = served_model.logprobs(whole)
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(whole) and told["token_logprobs"][0] is None
        own = right[np.arange(len(whole) - 1), whole[1:]]
        np.testing.assert_allclose(told["token_logprobs"][1:], own, atol=1e-4)
        for top, of in zip(told["top_logprobs"][1:], right, strict=False):
            best = np.sort(of)[::-1][:3]
            found = sorted(top.values(), reverse=True)[:3]
            np.testing.assert_allclose(found, best[: len(found)], atol=1e-4)
        assert choice["text"] == tokenizer.decode(whole)
        for start, name in zip(told["text_offset"], told["tokens"], strict=True):
            special = name in tokenizer.controls or name.startswith("bytes:")
            assert special or choice["text"].startswith(name, start)


def test_an_end_of_text_is_told_where_a_harness_counts_on_it(here, tokenizer):
    size = tokenizer.vocab_size
    ends = (i for i in range(size) if served_model.greedy([i], 1) == [tokenizer.eos_id])
    asked = {"prompt": [next(ends)], "temperature": 0, "logprobs": 1}
    (choice,) = here.ask(COMPLETIONS, **asked, max_tokens=1, echo=True)["choices"]
    _, told = choice["logprobs"]["token_logprobs"]
    right = served_model.logprobs(asked["prompt"])[-1, tokenizer.eos_id]
    assert told == pytest.approx(right, abs=1e-4)
    answer = here.ask(COMPLETIONS, **asked, max_tokens=4)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["text"] == ""
    assert answer["usage"]["completion_tokens"] == 0


def test_a_chat_is_the_completion_of_its_prompt(here, tokenizer):
    talk = [{"role": "user", "content": "Add x and y."}]
    chat = here.ask(CHAT, messages=talk, max_tokens=MOST, temperature=0)
    ids = spell_prompt(tokenizer, talk)
    plain = here.ask(COMPLETIONS, prompt=ids, max_tokens=MOST, temperature=0)
    assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    assert chat["usage"] == plain["usage"]
    said = served_model.greedy(ids, MOST)
    ends = [i for i, token in enumerate(said) if token == tokenizer.eos_id]
    assert plain["choices"][0]["text"] == tokenizer.decode(said[: min([*ends, MOST])])


def test_a_seed_gives_the_same_whatever_else_is_asked(here):
    body = {"prompt": ["def f(x):", "class A"], "n": 2, "seed": 5, "max_tokens": MOST}
    first = here.ask(COMPLETIONS, **body)
    texts = [choice["text"] for choice in first["choices"]]
    assert len(set(texts)) == len(texts)
    again = here.ask(COMPLETIONS, **body | {"prompt": body["prompt"][::-1]})
    assert [x["text"] for x in again["choices"]] == texts[2:] + texts[:2]
    other = here.ask(COMPLETIONS, **body | {"seed": 6})
    assert [x["text"] for x in other["choices"]] != texts


def test_a_prompt_that_does_not_fit(here):
    ids = [5] * served_model.LONGEST
    status, error = here.refused(COMPLETIONS, prompt=ids, max_tokens=1)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert here.ask(COMPLETIONS, prompt=ids[1:], max_tokens=1)


def files():
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def answers_of(here, tokenizer, prompts):
    """Greedy as `transformers` has it, drawn as an idle server says it."""
    right = {"greedy": [], "drawn": []}
    for prompt in prompts:
        said = served_model.greedy(tokenizer.encode(prompt), MOST)
        ends = [i for i, token in enumerate(said) if token == tokenizer.eos_id]
        right["greedy"].append((tokenizer.decode(said[: min([*ends, MOST])]),))
        body = {"prompt": prompt, "n": 2, "seed": 7, "max_tokens": MOST}
        drawn = here.ask(COMPLETIONS, **body)["choices"]
        right["drawn"].append(tuple(choice["text"] for choice in drawn))
    return right


@pytest.mark.parametrize("count", [24, pytest.param(500, marks=pytest.mark.slow)])
def test_every_answer_is_right_and_nothing_leaks(here, tokenizer, count):
    examples = load_examples(DataConfig())["train"][:8]
    prompts = [example["prompt"][-60:] for example in examples]
    right = answers_of(here, tokenizer, prompts)
    assert len(set(right["greedy"])) > 1
    asked = questions(prompts, right, MOST, count)
    assert {question.kind for question in asked} == set(MIX)
    before, threads, tasks = files(), threading.active_count(), here.tasks()
    outcomes = soak(("127.0.0.1", here.port), asked, 16)
    here.wait_idle()
    assert not [outcome for outcome in outcomes if outcome.wrong]
    eventually(lambda: here.tasks() <= tasks and files() <= before)
    assert threading.active_count() <= threads + POOL
    assert not here.thread.engine.busy and not here.thread._running
