"""From pieces to the JSON of answers: whole, in chunks, and the one from the other."""

import json
from itertools import chain

import pytest

from shared.data.tokenizer import load_tokenizer
from shared.decoding.requests import Piece, Request
from shared.serving import chat, completions
from shared.serving.answers import DONE, Answer
from shared.serving.asked import Asked
from shared.serving.token_texts import TokenTexts

BYTES = load_tokenizer("bytes")
A, B, C = BYTES.encode("abc")
PIECES = [
    (0, Piece(request=1, sample=0, text="a", tokens=(A,), logprobs=(-0.5,))),
    (1, Piece(request=2, sample=1, text="", tokens=())),  # nothing certain yet
    (1, Piece(request=2, sample=0, text="b", tokens=(B,), logprobs=(-1.0,))),
    (0, Piece(request=1, sample=1, finish="stop")),
    (1, Piece(request=2, sample=1, text="ca", tokens=(C, A), logprobs=(-2.0, -3.0))),
    (0, Piece(request=1, sample=0, text="b", tokens=(B,), logprobs=(-4.0,))),
    (0, Piece(request=1, sample=0, finish="length")),
    (1, Piece(request=2, sample=0, finish="stop")),
    (1, Piece(request=2, sample=1, finish="stop")),
]


def answer_of(form, **fields):
    requests = tuple(Request(prompt=(A, B), samples=2, logprobs=0) for _ in range(2))
    asked = Asked(requests=requests, **fields)
    return Answer(form.FORM, asked, TokenTexts(BYTES), "small")


def complete(form, **fields):
    answer = answer_of(form, **fields)
    return answer.complete([answer.gained(*piece) for piece in PIECES])


def chunks(form, **fields):
    answer = answer_of(form, **fields)
    sent = [answer.chunk(answer.gained(*piece)) for piece in PIECES]
    for event in filter(None, sent):
        assert event.startswith(b"data: {") and event.endswith(b"}\n\n")
    return [json.loads(event[6:]) for event in sent if event], answer.ending()


def test_a_whole_completion():
    answer = complete(completions)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["ab", "", "b", "ca"]
    finished = [choice["finish_reason"] for choice in answer["choices"]]
    assert finished == ["length", "stop", "stop", "stop"]
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -4.0],
        "top_logprobs": [{"a": -0.5}, {"b": -4.0}],
        "text_offset": [0, 1],
    }
    assert answer["choices"][1]["logprobs"] == {
        name: [] for name in answer["choices"][0]["logprobs"]
    }
    counts = {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert answer["usage"] == counts
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")


def test_a_whole_chat():
    answer = complete(chat)
    said = {"role": "assistant", "content": "ca"}
    assert answer["choices"][3]["message"] == said
    assert answer["choices"][0]["logprobs"]["content"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []},
        {"token": "b", "logprob": -4.0, "bytes": [98], "top_logprobs": []},
    ]
    assert answer["object"] == "chat.completion" and answer["id"][:9] == "chatcmpl-"


@pytest.mark.parametrize("form", [completions, chat])
@pytest.mark.parametrize("echo", [(), ("é", "")])
def test_chunks_together_are_the_whole(form, echo):
    whole = complete(form, echo=echo)
    parts, end = chunks(form, echo=echo)
    assert end == DONE and len({part["id"] for part in parts}) == 1
    for choice in whole["choices"]:
        own = [c for p in parts for c in p["choices"] if c["index"] == choice["index"]]
        said = choice["text"] if form is completions else choice["message"]["content"]
        gained = [
            c["text"] if form is completions else c["delta"]["content"] for c in own
        ]
        assert "".join(gained) == said
        *before, last = [c["finish_reason"] for c in own]
        assert last == choice["finish_reason"] and not any(before)
        for name, values in choice["logprobs"].items():
            assert list(chain(*(c["logprobs"][name] for c in own))) == values
        if form is chat:
            roles = [c["delta"].get("role") for c in own]
            assert roles == ["assistant"] + [None] * (len(own) - 1)


def test_counts_at_the_end_of_a_stream():
    parts, end = chunks(completions, usage=True)
    assert all(part["usage"] is None for part in parts)
    last, done, _ = end.split(b"\n\n")
    assert done == DONE.strip()
    counts = json.loads(last[6:])
    assert counts["choices"] == [] and counts["usage"]["total_tokens"] == 9


def test_alternatives_and_what_cannot_be():
    """Tokens of one name are told once, and no number is infinite."""
    answer = answer_of(completions)
    top = ((B, -0.1), (A, -1.0))
    infinite = float("-inf")
    piece = Piece(
        request=1,
        sample=0,
        text="ca",
        tokens=(C, A),
        logprobs=(infinite, -1.0),
        top=(top, top),
        prompt_logprobs=(None, -7.0),
        prompt_top=((), top),
    )
    (choice,) = answer.complete([answer.gained(0, piece)])["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, -7.0, -9999.0, -1.0]
    assert choice["logprobs"]["tokens"] == ["a", "b", "c", "a"]
    assert choice["logprobs"]["top_logprobs"] == [
        None,
        {"b": -0.1, "a": -1.0},
        {"b": -0.1, "a": -1.0, "c": -9999.0},
        {"b": -0.1, "a": -1.0},
    ]
    assert answer.generated == 2
