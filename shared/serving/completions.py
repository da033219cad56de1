"""`/v1/completions`: a prompt, or several, as text or token ids, and how they go on.

With `echo` and `logprobs` the prompt's tokens are told too; evaluation harnesses read
from them how probable a given continuation is.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.decoding.requests import MOST_TOP, Request
from shared.serving.answers import Form, Gained, Logprobs, finite
from shared.serving.asked import (
    COMMON,
    Asked,
    Served,
    require_fits,
    require_model,
    samples_of,
    sampling_of,
    streaming_of,
)
from shared.serving.fields import Fields, require_text
from shared.serving.refusals import refuse
from shared.serving.token_texts import TokenTexts

OWN = {"prompt", "echo", "logprobs", "best_of"}


def read(fields: Fields, served: Served) -> Asked:
    """What a body asks for.

    Raises:
      Refused: if it cannot be had.
    """
    require_model(fields.given.get("model", served.names[0]), served)
    fields.require_known(COMMON | OWN)
    given = _prompts(fields.given.get("prompt"))
    n = samples_of(fields, len(given), served)
    if fields.given.get("best_of", n) != n:
        raise refuse("best_of", "null or n", fields.given["best_of"])
    max_tokens = fields.whole("max_tokens", 16, 0)
    prompts = [_tokens(prompt, served) for prompt in given]
    require_fits(prompts, max_tokens, "prompt", served)
    echo = fields.truth("echo")
    stream, usage = streaming_of(fields)
    request = _request(fields, max_tokens, n, echo)
    return Asked(
        requests=tuple(replace(request, prompt=prompt) for prompt in prompts),
        stream=stream,
        usage=usage,
        echo=tuple(_text(prompt, served) for prompt in given) if echo else (),
    )


def _request(fields: Fields, max_tokens: int, n: int, echo: bool) -> Request:
    """What is asked of every prompt."""
    told = "logprobs" in fields.given
    sampling = sampling_of(fields, max_tokens)
    if echo and told and max_tokens == 1:
        # lm-evaluation-harness reads all log-probabilities but the last, which it takes
        # to be of the one token drawn. An end of text must be there like any other.
        sampling = replace(sampling, ignore_eos=True)
    return Request(
        prompt=(),
        samples=n,
        sampling=sampling,
        logprobs=fields.whole("logprobs", 0, 0, MOST_TOP) if told else None,
        echo=echo and told,
    )


Prompt = str | list[int]


def _prompts(prompt: Any) -> Sequence[Prompt]:
    """One or more, from the four ways to write them."""
    required = "a text, a list of token ids, or a list of either"
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise refuse("prompt", required, prompt)
    if all(type(x) is int for x in prompt):
        return [prompt]
    if not all(isinstance(x, (str, list)) for x in prompt):
        raise refuse("prompt", required, prompt)
    return prompt


def _tokens(prompt: Prompt, served: Served) -> tuple[int, ...]:
    """A text gets what the tokenizer puts before it; ids are taken as they are.

    Where it puts nothing, an empty text begins with the end of another.
    """
    if isinstance(prompt, str):
        ids = served.tokenizer.encode(require_text("prompt", prompt))
        return tuple(ids or [served.tokenizer.eos_id])
    size = served.tokenizer.vocab_size
    for token in prompt:
        if type(token) is not int or not 0 <= token < size:
            raise refuse("prompt", f"token ids >= 0 and < {size}", token)
    return tuple(prompt)


def _text(prompt: Prompt, served: Served) -> str:
    return prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)


def logprobs_of(texts: TokenTexts, gained: Gained) -> Logprobs:
    """Four arrays over the tokens; nothing is known of a prompt's first.

    Offsets count characters of the choice's text.
    """
    starts = texts.offsets(gained.tokens, gained.text)
    return {
        "tokens": [texts.name(token) for token in gained.tokens],
        "token_logprobs": [None if x is None else finite(x) for x in gained.logprobs],
        "top_logprobs": [
            _alternatives(texts, *of)
            for of in zip(gained.tokens, gained.logprobs, gained.top, strict=True)
        ],
        "text_offset": [gained.at + start for start in starts],
    }


def _alternatives(
    texts: TokenTexts, token: int, logprob: float | None, top: Sequence[Any]
) -> dict[str, float] | None:
    """The most probable tokens, and the one that is there.

    Of tokens with the same name the most probable is told.
    """
    if logprob is None:
        return None
    named: dict[str, float] = {}
    for other, value in (*top, (token, logprob)):
        named.setdefault(texts.name(other), finite(value))
    return named


FORM = Form(
    path="/v1/completions",
    prefix="cmpl",
    whole="text_completion",
    chunk="text_completion",
    read=read,
    logprobs=logprobs_of,
    said=lambda text: {"text": text},
    delta=lambda gained: {"text": gained.text},
)
