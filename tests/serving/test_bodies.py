"""What a body asks for, and the one line that refuses it."""

import json

import pytest

from shared.data.chat import spell_prompt
from shared.data.tokenizer import load_tokenizer, wrapped
from shared.decoding.requests import Sampling
from shared.serving import chat, completions
from shared.serving.asked import Served
from shared.serving.fields import read_body
from shared.serving.refusals import Refused
from tests import small_tokenizers

BYTES = load_tokenizer("bytes")
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a é"}]


def served(tokenizer=BYTES):
    return Served(
        names=("small", "folder/small"),
        tokenizer=tokenizer,
        max_length=100,
        most_samples=8,
    )


@pytest.fixture(scope="module")
def talker():
    fast = small_tokenizers.KINDS["byte-level BPE"]()
    fast.chat_template += "{% if add_generation_prompt %}<|im_start|>assistant\n"
    fast.chat_template += "{% endif %}"
    return served(wrapped(fast, "here"))


def asked(form, of, **body):
    return form.read(read_body(json.dumps(body).encode()), of)


def refused(form, of, body):
    """The error of a body, given as bytes or as its fields."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as caught:
        form.read(read_body(raw), of)
    assert "\n" not in caught.value.message and caught.value.message.isprintable()
    return caught.value


def test_a_completion_with_defaults_of_openai():
    (request,) = (found := asked(completions, served(), prompt="aé")).requests
    assert request.prompt == tuple(BYTES.encode("aé"))
    assert request.sampling == Sampling(
        max_tokens=16, temperature=1.0, seed=request.sampling.seed
    )
    assert (request.samples, request.logprobs, request.echo) == (1, None, False)
    assert (found.stream, found.usage, found.echo) == (False, False, ())
    seeds = {
        asked(completions, served(), prompt="a").requests[0].sampling.seed
        for _ in range(8)
    }
    assert len(seeds) > 1


@pytest.mark.parametrize(
    "prompt, prompts",
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([100, 101], ["ab"]),
        ([[100, 101], [102]], ["ab", "c"]),
        (["ab", [102]], ["ab", "c"]),
        (["", "ab"], ["", "ab"]),
    ],
)
def test_the_ways_to_write_prompts(prompt, prompts):
    found = asked(completions, served(), prompt=prompt, echo=True, n=2)
    assert [BYTES.decode(request.prompt) for request in found.requests] == prompts
    assert list(found.echo) == prompts
    assert found.samples == 2 * len(prompts)


def test_every_field_of_sampling():
    body = {"max_tokens": 0, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1}
    body |= {"seed": 7, "stop": ["\n", "é"], "ignore_eos": True}
    (request,) = asked(completions, served(), prompt="a", **body).requests
    right = body | {"stop": ("\n", "é"), "temperature": 0.0}
    assert request.sampling == Sampling(**right)
    one = {"seed": -1, "stop": "x", "top_k": -1}
    (request,) = asked(completions, served(), prompt="a", **one).requests
    assert request.sampling.stop == ("x",) and request.sampling.top_k == 0
    assert request.sampling.seed >= 0


def test_what_a_harness_asks_for():
    """One token is drawn whatever it is, and the prompt's log-probabilities told."""
    body = {"prompt": [[100, 101]], "max_tokens": 1, "logprobs": 1, "echo": True}
    body |= {"temperature": 0, "seed": 1234, "model": "folder/small"}
    (request,) = asked(completions, served(), **body).requests
    assert (request.logprobs, request.echo) == (1, True)
    assert request.sampling.ignore_eos
    (request,) = asked(completions, served(), prompt="a", echo=True).requests
    assert not request.echo and not request.sampling.ignore_eos


def test_nulls_and_what_asks_for_nothing():
    """Clients send these; no token depends on them."""
    nothing = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}
    nothing |= {"user": "me", "suffix": "", "best_of": 1, "seed": None, "n": None}
    nothing |= {"stream_options": None, "logprobs": None, "response_format": None}
    (request,) = asked(completions, served(), prompt="a", **nothing).requests
    assert request.logprobs is None


def test_a_chat_is_spelled_by_the_template(talker):
    (request,) = (found := asked(chat, talker, messages=TALK)).requests
    assert request.prompt == tuple(spell_prompt(talker.tokenizer, TALK))
    assert request.sampling.max_tokens == 100 - len(request.prompt)
    assert found.echo == ()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "é"}]
    lines = [{"role": "user", "content": parts}]
    told = [{"role": "user", "content": "a\né"}]
    ids = [asked(chat, talker, messages=x).requests[0].prompt for x in (lines, told)]
    assert ids[0] == ids[1]
    answered = {"role": "assistant", "content": "b", "refusal": None, "tool_calls": []}
    body = {"logprobs": True, "top_logprobs": 2, "max_completion_tokens": 5}
    (request,) = asked(chat, talker, messages=[*TALK, answered], **body).requests
    assert (request.logprobs, request.sampling.max_tokens) == (2, 5)


NAN, DEEP = b'{"prompt": "a", "top_p": NaN}', b"[" * 100_000
BAD = {
    "no JSON": (b"{", "the body must be JSON, got Expecting"),
    "no UTF-8": (b'{"prompt": "\xff"}', "the body must be JSON, got 'utf-8'"),
    "no number": (NAN, "the body must be JSON, got the number NaN"),
    "too deep": (DEEP, "the body must be JSON, got more than 100 levels"),
    "a huge number": (b'{"n": 1' + b"0" * 9999 + b"}", "must be JSON, got Exceeds"),
    "no object": (b"[]", "the body must be a JSON object, got list"),
    "nothing": (b"{}", "prompt must be a text, a list of token ids, .* got None"),
    "no prompt": ({"prompt": []}, "prompt must be a text"),
    "mixed": ({"prompt": ["a", 1]}, r"prompt must be .*, got \['a', 1\]"),
    "an empty prompt": ({"prompt": [[5], []]}, "prompt must be at least one token"),
    "no id": ({"prompt": [259]}, "prompt must be token ids >= 0 and < 259, got 259"),
    "truth as id": ({"prompt": [[True]]}, "prompt must be token ids .* got True"),
    "half a character": (b'{"prompt": "\\ud800"}', "text of whole characters, got"),
    "a control token": ({"prompt": "\ufdd01\ufdd1"}, "without Unicode's nonch"),
    "a stop like it": ({"stop": "\ufdd0"}, "stop must be text without"),
    "too long": ({"prompt": "a" * 90}, "maximum context length is 100 .* got 90 of"),
    "many": ({"prompt": ["a"] * 9}, "prompts times n is <= 8, got '9 times 1'"),
    "n": ({"n": 9}, "n must be such that .*, got '1 times 9'"),
    "no n": ({"n": 0}, "n must be an integer >= 1, got 0"),
    "n of truth": ({"n": True}, "n must be an integer >= 1, got True"),
    "best_of": ({"best_of": 2}, "best_of must be null or n, got 2"),
    "max_tokens": ({"max_tokens": -1}, "max_tokens must be an integer >= 0, got -1"),
    "a fraction": ({"max_tokens": 1.5}, "max_tokens must be an integer"),
    "temperature": ({"temperature": -0.1}, "temperature must be a number in"),
    "infinite": (b'{"prompt": "a", "temperature": 1e999}', "temperature must be a"),
    "a huge one": ({"temperature": 10**400}, "temperature must be a number in"),
    "top_p": ({"top_p": 0}, r"top_p must be a number in \(0, 1\], got 0"),
    "min_p": ({"min_p": 1}, r"min_p must be a number in \[0, 1\), got 1"),
    "top_k": ({"top_k": "a"}, "top_k must be an integer >= -1 and .* got 'a'"),
    "top_k of 32 bits": ({"top_k": 2**31}, "top_k must be an integer >= -1 and <= 21"),
    "seed": ({"seed": 2**63}, "seed must be an integer >= -92"),
    "stop": ({"stop": 3}, "stop must be a text or a list of at most 16, got 3"),
    "stops": ({"stop": ["a"] * 17}, "stop must be a text or a list of at most 16"),
    "empty stop": ({"stop": ["a", ""]}, "stop must be texts that are not empty"),
    "a list in stop": ({"stop": [["a"]]}, r"stop must be a text, got \['a'\]"),
    "logprobs": ({"logprobs": 21}, "logprobs must be an integer >= 0 and <= 20"),
    "true logprobs": ({"logprobs": True}, "logprobs must be an integer"),
    "echo": ({"echo": 1}, "echo must be true or false, got 1"),
    "stream": ({"stream": "yes"}, "stream must be true or false, got 'yes'"),
    "options": ({"stream_options": {"include_usage": True}}, "with stream true"),
    "option": (
        {"stream": True, "stream_options": {"x": 1}},
        "unrecognized request argument 'x'",
    ),
    "unknown": ({"prefix": "x"}, "unrecognized request argument 'prefix'"),
    "of the chat": ({"messages": TALK}, "unrecognized request argument 'messages'"),
    "a bias": ({"logit_bias": {"1": 5}}, "logit_bias must be null or {}"),
    "a penalty": ({"presence_penalty": 0.1}, "presence_penalty must be null or 0"),
    "a suffix": ({"suffix": "x"}, 'suffix must be null or "", as nothing else'),
    "tools": ({"tools": [{}]}, r"tools must be null or \[\], as nothing else"),
    "a format": ({"response_format": {"type": "json_object"}}, "must be null or {.*t"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies_of_completions(case):
    body, says = BAD[case]
    body = body if isinstance(body, bytes) else {"prompt": "a"} | body
    error = refused(completions, served(), body)
    assert error.status == 400
    with pytest.raises(Refused, match=says):
        raise error


USER = {"role": "user", "content": "a"}
BAD_CHATS = {
    "nothing": ({"messages": []}, "messages must be a list of at least one"),
    "a text": ({"messages": "a"}, "messages must be a list of at least one"),
    "in it": ({"messages": ["a"]}, r"messages\[0\] must be an object with role and"),
    "role": ({"messages": [USER | {"role": "tool"}]}, r"\[0\].role must be system or"),
    "content": ({"messages": [USER, {"role": "user"}]}, r"\[1\].content must be a te"),
    "name": ({"messages": [USER | {"name": "x"}]}, "role and content alone, got 'nam"),
    "image": ({"messages": [USER | {"content": [{"type": "image_url"}]}]}, "parts of"),
    "calls": ({"messages": [USER | {"tool_calls": [1]}]}, "alone, got 'tool_calls'"),
    "part": ({"messages": [USER | {"content": [{"type": "text"}]}]}, "must be a text"),
    "both": ({"max_tokens": 1, "max_completion_tokens": 2}, "null or max_completion"),
    "none": ({"max_tokens": 0}, "max_tokens must be an integer >= 1, got 0"),
    "too long": ({"max_tokens": 100}, "maximum context length is 100 tokens, got"),
    "prompt": ({"prompt": "a"}, "unrecognized request argument 'prompt'"),
    "top": ({"top_logprobs": 2}, "logprobs must be true for top_logprobs, got False"),
    "number": ({"logprobs": 1}, "logprobs must be true or false, got 1"),
}


@pytest.mark.parametrize("case", BAD_CHATS)
def test_bad_bodies_of_chats(case, talker):
    body, says = BAD_CHATS[case]
    error = refused(chat, talker, {"messages": [USER]} | body)
    assert error.status == 400
    with pytest.raises(Refused, match=says):
        raise error


def test_templates_that_are_missing_or_refuse(talker):
    error = refused(chat, served(), {"messages": [USER]})
    assert error.message == "small has no chat template"
    fast = small_tokenizers.KINDS["byte-level BPE"]()
    fast.chat_template = "{{ raise_exception('roles must alternate') }}"
    error = refused(chat, served(wrapped(fast, "x")), {"messages": [USER]})
    assert error.message.endswith("got roles must alternate")


@pytest.mark.parametrize("form", [completions, chat])
def test_another_model(form):
    error = refused(form, served(), {"model": "gpt-4"})
    told = error.body()["error"]
    assert (error.status, told["code"], told["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert told["message"] == "the model 'gpt-4' does not exist; served is 'small'"
