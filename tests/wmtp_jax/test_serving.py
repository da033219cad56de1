"""The HTTP interface, asked of an engine that follows a script."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.data.tokenizer import wrapped
from tests import small_tokenizers
from tests.scripted_engine import TOKENIZER, ScriptedEngine, logprob, reply
from tests.served import CHAT, COMPLETIONS, JSON, serving


@pytest.fixture(scope="module")
def here():
    with serving(ScriptedEngine) as address:
        yield address


def texts(answer):
    return [choice["text"] for choice in answer["choices"]]


def said(events, index=0):
    """The text of one choice of a streamed completion."""
    of = [choice for event in events for choice in event["choices"]]
    return "".join(choice["text"] for choice in of if choice["index"] == index)


def test_a_completion(here):
    answer = here.ask(COMPLETIONS, prompt="abcé")
    assert texts(answer) == ["0écba"] and answer["model"] == "small"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["logprobs"] is None
    counts = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert answer["usage"] == counts


@pytest.mark.parametrize("prompt", ["abcé", ["abc", "é€🙂", "x"], [[100, 101], [102]]])
@pytest.mark.parametrize("more", [{}, {"echo": True}, {"stop": "c"}, {"max_tokens": 3}])
def test_streamed_text_is_the_text_at_once(here, prompt, more):
    whole = here.ask(COMPLETIONS, prompt=prompt, n=2, **more)
    events = here.stream(COMPLETIONS, prompt=prompt, n=2, **more)
    assert [said(events, i) for i in range(len(texts(whole)))] == texts(whole)
    ended = [c for e in events for c in e["choices"] if c["finish_reason"]]
    told = {c["index"]: c["finish_reason"] for c in ended}
    assert told == {c["index"]: c["finish_reason"] for c in whole["choices"]}


def test_prompts_and_samples_in_order(here):
    answer = here.ask(COMPLETIONS, prompt=["ab", "cd"], n=2)
    assert texts(answer) == ["0ba", "1ba", "0dc", "1dc"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]


def test_what_a_harness_reads_off_a_prompt(here):
    """As `local-completions` of lm-evaluation-harness asks and cuts."""
    ids = [TOKENIZER.encode("abc"), TOKENIZER.encode("defg")]
    body = {"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True}
    answer = here.ask(COMPLETIONS, **body, temperature=0, seed=1234)
    for of, choice in zip(ids, answer["choices"], strict=True):
        told = choice["logprobs"]["token_logprobs"]
        assert told[0] is None and len(told) == len(of) + 1
        assert told[1:-1] == [logprob(token) for token in of[1:]]
        tops = choice["logprobs"]["top_logprobs"]
        assert [max(top.values()) for top in tops[1:-1]] == told[1:-1]
    plain = here.ask(COMPLETIONS, prompt=ids[0], max_tokens=0, echo=True)
    assert texts(plain) == ["abc"]
    assert plain["choices"][0]["finish_reason"] == "length"


def test_counts_of_a_stream(here):
    options = {"include_usage": True}
    *events, last = here.stream(COMPLETIONS, prompt="abc", stream_options=options)
    assert all(event["usage"] is None for event in events)
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert last["choices"] == [] and last["usage"] == counts


def test_a_chat():
    tokenizer = wrapped(small_tokenizers.KINDS["byte-level BPE"](), "here")

    def make():
        return ScriptedEngine(tokenizer=tokenizer, max_length=4000)

    talk = [{"role": "user", "content": "a é"}]
    with serving(make, tokenizer=tokenizer) as here:
        answer = here.ask(CHAT, messages=talk, logprobs=True, top_logprobs=1)
        events = here.stream(CHAT, messages=talk, logprobs=True, top_logprobs=1)
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    text = choice["message"]["content"]
    assert text.startswith("0") and "é a" in text
    of = [event["choices"][0] for event in events]
    assert "".join(c["delta"]["content"] for c in of) == text
    parts = [entry for c in of for entry in c["logprobs"]["content"]]
    assert parts == choice["logprobs"]["content"]
    assert b"".join(bytes(e["bytes"]) for e in parts).decode() == text
    assert {e["top_logprobs"][0]["token"] for e in parts} == {e["token"] for e in parts}


def test_the_model_and_the_health(here):
    status, models = here.get("/v1/models")
    (model,) = models["data"]
    assert (status, model["id"], model["object"]) == (200, "small", "model")
    for name in ("small", "folder/small"):
        assert here.get(f"/v1/models/{name}") == (200, model)
    assert here.get("/v1/models/other")[0] == 404
    assert here.get("/health") == (200, {"status": "ok", "samples": 0})


def test_requests_of_one_moment_share_batches():
    made = []

    def make():
        made.append(ScriptedEngine(delay=0.01))
        return made[-1]

    with serving(make) as here:
        prompts = [f"number {i}" for i in range(8)]
        with ThreadPoolExecutor(8) as clients:
            found = clients.map(lambda x: here.ask(COMPLETIONS, prompt=x), prompts)
            assert [texts(answer) for answer in found] == [[reply(x)] for x in prompts]
    assert max(made[0].batches) == 4
    steps = len(made[0].batches)
    assert steps < 8 * len(reply(prompts[0]))  # one after the other


def refused(here, method, path, body=b"{}", headers=JSON):
    status, told, answer = here.call(method, path, body, headers)
    error = json.loads(answer)["error"]
    assert told["content-type"] == "application/json"
    return status, error["message"]


def test_requests_that_are_refused_before_they_are_read(here):
    big = b" " * 10_001
    says = "a body must have at most 10000 bytes"
    assert refused(here, "POST", COMPLETIONS, big) == (413, says)
    chunked = iter([big, big])  # of no length that is told
    assert refused(here, "POST", COMPLETIONS, chunked) == (413, says)
    headers = JSON | {"Content-Length": str(10**15)}
    assert refused(here, "POST", COMPLETIONS, b"", headers) == (413, says)
    form = {"Content-Type": "text/plain"}
    status, says = refused(here, "POST", COMPLETIONS, headers=form)
    assert status == 415 and says.endswith("application/json, got 'text/plain'")
    assert refused(here, "GET", COMPLETIONS)[0] == 405
    assert refused(here, "GET", "/v1/nothing") == (404, "GET /v1/nothing: Not Found")
    for host in ("evil.example", "localhost.evil.example:80", "[", ""):
        status, says = refused(here, "GET", "/v1/models", headers={"Host": host})
        assert status == 403 and says.startswith("the header Host must be of loopback")
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000"):
        assert here.call("GET", "/health", headers={"Host": host})[0] == 200


def test_bodies_that_are_refused(here):
    assert here.refused(COMPLETIONS, prompt=3)[1]["param"] == "prompt"
    assert here.refused(CHAT, messages=[{"role": "user", "content": "a"}])[0] == 400
    status, error = here.refused(COMPLETIONS, prompt="a", model="gpt-4")
    assert (status, error["code"]) == (404, "model_not_found")
    status, error = here.refused(COMPLETIONS, prompt="REFUSE", stream=True)
    assert (status, error["message"]) == (400, "the prompt must be another, got this")
    assert refused(here, "POST", COMPLETIONS, b"[")[0] == 400
    assert here.held() == 0
