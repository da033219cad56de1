"""`/v1/chat/completions`: a conversation, and what the assistant says next."""

from typing import Any

from shared.data.chat import Message, spell_prompt
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
from shared.serving.fields import Fields, require_text, without_nulls
from shared.serving.refusals import Refused, refuse
from shared.serving.token_texts import TokenTexts

OWN = {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}
ROLES = ("system", "developer", "user", "assistant")
# What an answer of OpenAI's has beside its text, where it is sent back.
EMPTY = ("refusal", "tool_calls", "function_call", "audio", "annotations")


def read(fields: Fields, served: Served) -> Asked:
    """What a body asks for.

    Raises:
      Refused: if it cannot be had.
    """
    require_model(fields.given.get("model", served.names[0]), served)
    fields.require_known(COMMON | OWN)
    n = samples_of(fields, 1, served)
    prompt = _prompt(_messages(fields.given.get("messages")), served)
    max_tokens = _max_tokens(fields, len(prompt), served)
    require_fits([prompt], max_tokens, "messages", served)
    stream, usage = streaming_of(fields)
    request = Request(
        prompt=prompt,
        samples=n,
        sampling=sampling_of(fields, max_tokens),
        logprobs=_logprobs(fields),
    )
    return Asked(requests=(request,), stream=stream, usage=usage)


def _max_tokens(fields: Fields, prompt: int, served: Served) -> int:
    """Either of its names; without one, as many as fit."""
    names = ("max_completion_tokens", "max_tokens")
    given = {name: fields.whole(name, 1, 1) for name in names if name in fields.given}
    if len(set(given.values())) > 1:
        raise refuse("max_tokens", "null or max_completion_tokens", given["max_tokens"])
    return next(iter(given.values()), max(served.max_length - prompt, 1))


def _logprobs(fields: Fields) -> int | None:
    told = fields.truth("logprobs")
    if "top_logprobs" in fields.given and not told:
        raise refuse("logprobs", "true for top_logprobs", told)
    return fields.whole("top_logprobs", 0, 0, MOST_TOP) if told else None


def _prompt(messages: list[Message], served: Served) -> tuple[int, ...]:
    if not served.tokenizer.implementation.chat_template:
        raise Refused(f"{served.names[0]} has no chat template", param="messages")
    try:
        return tuple(spell_prompt(served.tokenizer, messages))
    except ValueError as error:  # of a template that does not take them
        raise Refused(str(error), param="messages") from None


def _messages(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise refuse("messages", "a list of at least one message", messages)
    return [_message(f"messages[{i}]", message) for i, message in enumerate(messages)]


def _message(where: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise refuse(where, "an object with role and content", message)
    given = without_nulls(message)
    if given.get("role") not in ROLES:
        raise refuse(f"{where}.role", " or ".join(ROLES), given.get("role"))
    for name in given.keys() - {"role", "content"}:
        if name not in EMPTY or given[name]:
            raise refuse(where, "an object with role and content alone", name)
    content = _content(f"{where}.content", given.get("content"))
    return {"role": given["role"], "content": content}


def _content(where: str, content: Any) -> str:
    """A text, or parts of type `text`, each of which begins a line."""
    if not isinstance(content, list):
        return require_text(where, content)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise refuse(where, "a text, or parts of type text", part)
    return "\n".join(require_text(where, part.get("text")) for part in content)


def logprobs_of(texts: TokenTexts, gained: Gained) -> Logprobs:
    """One entry for each token, with the most probable ones at its place."""

    def told(token: int, logprob: float | None) -> dict[str, Any]:
        shown = {"token": texts.name(token), "logprob": finite(logprob or 0.0)}
        return shown | {"bytes": list(texts.bytes_of(token))}

    content = [
        told(token, logprob) | {"top_logprobs": [told(*other) for other in top]}
        for token, logprob, top in zip(
            gained.tokens, gained.logprobs, gained.top, strict=True
        )
    ]
    return {"content": content}


def delta(gained: Gained) -> dict[str, Any]:
    """What a chunk adds; the first says who speaks."""
    role = {"role": "assistant"} if gained.first else {}
    return {"delta": role | {"content": gained.text}}


FORM = Form(
    path="/v1/chat/completions",
    prefix="chatcmpl",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    read=read,
    logprobs=logprobs_of,
    said=lambda text: {"message": {"role": "assistant", "content": text}},
    delta=delta,
)
