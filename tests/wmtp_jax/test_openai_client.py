"""OpenAI's own client, against an engine that follows a script."""

import asyncio

import pytest

from shared.data.tokenizer import wrapped
from tests import small_tokenizers
from tests.scripted_engine import ScriptedEngine, reply
from tests.served import eventually, serving

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def here():
    tokenizer = wrapped(small_tokenizers.KINDS["byte-level BPE"](), "here")

    def make():
        return ScriptedEngine(tokenizer=tokenizer, max_length=4000, delay=0.001)

    with serving(make, tokenizer=tokenizer) as address:
        yield address


@pytest.fixture
def client(here):
    url = f"http://127.0.0.1:{here.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def test_completions(client):
    asked = {"model": "small", "prompt": ["ab é", "c"], "n": 2, "logprobs": 1}
    answer = client.completions.create(**asked, echo=True, extra_body={"top_k": 5})
    said = [p + reply(p, i) for p in asked["prompt"] for i in (0, 1)]
    assert [choice.text for choice in answer.choices] == said
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.token_logprobs[0] is None
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )


def test_streams(client):
    texts = {}
    options = {"include_usage": True}
    asked = {"model": "small", "n": 2, "stream": True, "stream_options": options}
    for chunk in client.completions.create(prompt="ab é", **asked):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: reply("ab é"), 1: reply("ab é", 1)}
    assert chunk.usage.completion_tokens > 0


def test_chats(client):
    talk = [{"role": "user", "content": "a é"}]
    asked = {"model": "small", "messages": talk, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(**asked, max_completion_tokens=2)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.finish_reason == "length"
    parts = choice.logprobs.content
    assert b"".join(bytes(x.bytes) for x in parts).decode() == choice.message.content
    assert all(len(x.top_logprobs) == 2 for x in parts)
    with client.chat.completions.stream(**asked) as stream:
        whole = stream.get_final_completion().choices[0]
    assert whole.message.content.startswith(choice.message.content)
    told = [talk[0], choice.message.model_dump(), talk[0]]  # as clients send it back
    assert client.chat.completions.create(model="small", messages=told).choices


def test_models_and_refusals(client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("folder/small").id == "small"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="a", presence_penalty=1)
    assert caught.value.param == "presence_penalty"
    with pytest.raises(openai.RateLimitError), openai_holds(client, 12):
        client.completions.create(model="small", prompt="a")


def openai_holds(client, samples):
    """A stream that has begun, with so many samples."""
    asked = {"model": "small", "prompt": "~", "n": samples, "max_tokens": 3000}
    stream = client.completions.create(**asked, stream=True)
    next(stream)
    return stream


def test_a_stream_that_fails(client):
    with openai_holds(client, 1) as stream:
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model="small", prompt="BOOM")
        with pytest.raises(openai.APIError, match="decoding failed"):
            list(stream)


def test_many_at_once(here):
    async def ask_all():
        url = f"http://127.0.0.1:{here.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            asked = [
                client.completions.create(model="small", prompt=f"number {i}")
                for i in range(12)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    here.wait_idle()
    assert asyncio.run(ask_all()) == [reply(f"number {i}") for i in range(12)]
    eventually(lambda: here.held() == 0)
