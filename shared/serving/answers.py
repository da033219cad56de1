"""From the pieces of an engine to the JSON of an answer, whole or in chunks."""

import json
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.decoding.requests import Finish, Piece, Top
from shared.serving.asked import Asked, Served
from shared.serving.fields import Fields
from shared.serving.token_texts import TokenTexts

DONE = b"data: [DONE]\n\n"
LEAST = -9999.0  # log-probability of what cannot be, which JSON has no number for


@dataclass(frozen=True, kw_only=True)
class Gained:
    """What a choice of the answer has gained by one piece.

    Attributes:
      index: of the choice: prompts in their order, the samples of each together.
      first: whether this is the choice's first.
      text: gained, behind `at` characters before it.
      tokens, logprobs, top: as in `Piece`, with those of the prompt if it is told.
    """

    index: int
    first: bool
    at: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    top: tuple[Top, ...]
    finish: Finish


Logprobs = dict[str, list[Any]]  # arrays that are put together as pieces are


@dataclass(frozen=True, kw_only=True)
class Form:
    """What tells completions from chats.

    Attributes:
      path: of the URL.
      prefix: of an answer's id.
      whole, chunk: what an answer, and a part of one, are called.
      read: a body -> what it asks for.
      logprobs: of what is gained, as the form writes them.
      said: the text of a choice that is told at once.
      delta: what a chunk adds to a choice.
    """

    path: str
    prefix: str
    whole: str
    chunk: str
    read: Callable[[Fields, Served], Asked]
    logprobs: Callable[[TokenTexts, Gained], Logprobs]
    said: Callable[[str], dict[str, Any]]
    delta: Callable[[Gained], dict[str, Any]]


@dataclass
class Answer:
    """One answer as it grows."""

    form: Form
    asked: Asked
    texts: TokenTexts
    model: str
    id: str = ""
    created: int = 0
    told: dict[int, int] = field(default_factory=dict)
    """characters of each choice so far"""
    generated: int = 0
    """tokens so far, over all choices"""

    def __post_init__(self) -> None:
        self.id = f"{self.form.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def gained(self, prompt: int, piece: Piece) -> Gained:
        """What a piece of the answer to prompt number `prompt` adds."""
        request = self.asked.requests[prompt]
        index = prompt * request.samples + piece.sample
        first = index not in self.told
        echo = self.asked.echo[prompt] if first and self.asked.echo else ""
        text, at = echo + piece.text, self.told.get(index, 0)
        self.told[index] = at + len(text)
        self.generated += len(piece.tokens)
        repeated = request.prompt if piece.prompt_logprobs else ()
        none = (((),) * len(repeated), ((),) * len(piece.tokens))  # none asked for
        top = (piece.prompt_top or none[0]) + (piece.top or none[1])
        return Gained(
            index=index,
            first=first,
            at=at,
            text=text,
            tokens=repeated + piece.tokens,
            logprobs=piece.prompt_logprobs + piece.logprobs,
            top=top,
            finish=piece.finish,
        )

    def complete(self, gained: Iterable[Gained]) -> dict[str, Any]:
        """The whole answer."""
        choices: dict[int, dict[str, Any]] = {}
        texts: dict[int, list[str]] = {}
        for each in gained:
            choice = choices.setdefault(each.index, {"index": each.index})
            texts.setdefault(each.index, []).append(each.text)
            choice["finish_reason"] = each.finish or None
            choice["logprobs"] = _joined(choice.get("logprobs"), self._logprobs(each))
        for index, choice in choices.items():
            choice |= self.form.said("".join(texts[index]))
        ordered = [choices[index] for index in sorted(choices)]
        head = self._head(self.form.whole)
        return head | {"choices": ordered, "usage": self.usage()}

    def chunk(self, gained: Gained) -> bytes:
        """What is gained, as an event of a stream; nothing if nothing is."""
        if not (gained.first or gained.tokens or gained.text or gained.finish):
            return b""
        choice = self.form.delta(gained) | {
            "index": gained.index,
            "finish_reason": gained.finish or None,
            "logprobs": self._logprobs(gained),
        }
        without = {"usage": None} if self.asked.usage else {}
        return event(self._head(self.form.chunk) | {"choices": [choice]} | without)

    def ending(self) -> bytes:
        """What a stream ends with."""
        if not self.asked.usage:
            return DONE
        counts = {"choices": [], "usage": self.usage()}
        return event(self._head(self.form.chunk) | counts) + DONE

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, and of all that was drawn of them."""
        prompts = sum(len(request.prompt) for request in self.asked.requests)
        return {
            "prompt_tokens": prompts,
            "completion_tokens": self.generated,
            "total_tokens": prompts + self.generated,
        }

    def _head(self, called: str) -> dict[str, Any]:
        known = {"id": self.id, "object": called}
        return known | {"created": self.created, "model": self.model}

    def _logprobs(self, gained: Gained) -> Logprobs | None:
        if self.asked.requests[0].logprobs is None:
            return None
        return self.form.logprobs(self.texts, gained)


def _joined(before: Logprobs | None, more: Logprobs | None) -> Logprobs | None:
    """Arrays of one after those of the other; None where none are asked for."""
    if before is None or more is None:
        return more
    for name, values in more.items():
        before[name] += values
    return before


def finite(logprob: float) -> float:
    """A log-probability as a number of JSON."""
    return max(logprob, LEAST)


def json_bytes(value: dict[str, Any]) -> bytes:
    """Compact JSON, of numbers that are finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def event(value: dict[str, Any]) -> bytes:
    r"""A server-sent event.

    Example:
      >>> event({"a": 1})
      b'data: {"a":1}\n\n'
    """
    return b"data: " + json_bytes(value) + b"\n\n"
