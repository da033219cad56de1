"""What a body asks for that completions and chats have in common."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from shared.data.tokenizer import Tokenizer
from shared.decoding.requests import Request, Sampling
from shared.serving.fields import Fields, require_text
from shared.serving.refusals import Refused, refuse

COMMON = {"model", "stream", "stream_options", "n", "seed", "stop", "temperature"}
COMMON |= {"top_p", "top_k", "min_p", "max_tokens", "ignore_eos"}
MOST_STOPS = 16
SEEDS = 2**31  # seeds of a client are folded into so many


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served.

    Attributes:
      names: of the model, as a request may name it; the first is told.
      max_length: tokens of prompt and sample together.
      most_samples: of one body, over all its prompts.
    """

    names: tuple[str, ...]
    tokenizer: Tokenizer
    max_length: int
    most_samples: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one body asks for.

    Attributes:
      requests: one of each prompt; all draw as many samples.
      stream: whether pieces are sent as they come.
      usage: whether a stream ends with the counts of its tokens.
      echo: the text of each prompt, to be told before each of its samples, or empty.
    """

    requests: tuple[Request, ...]
    stream: bool = False
    usage: bool = False
    echo: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Over all prompts."""
        return sum(request.samples for request in self.requests)


def require_model(name: Any, served: Served) -> None:
    """Refuses the name of a model that is not here."""
    if name not in served.names:
        shown = ascii(name)[:100]
        raise Refused(
            f"the model {shown} does not exist; served is {served.names[0]!r}",
            status=HTTPStatus.NOT_FOUND,
            param="model",
            code="model_not_found",
        )


def samples_of(fields: Fields, prompts: int, served: Served) -> int:
    """`n`, no more than are taken at once."""
    n = fields.whole("n", 1, 1)
    if n * prompts > served.most_samples:
        raise refuse(
            "n",
            f"such that prompts times n is <= {served.most_samples}",
            f"{prompts} times {n}",
        )
    return n


def sampling_of(fields: Fields, max_tokens: int) -> Sampling:
    """How tokens are chosen; the defaults are OpenAI's."""
    top_k = fields.whole("top_k", 0, -1, 2**31 - 1)  # -1 keeps all elsewhere
    seed = fields.whole("seed", secrets.randbelow(SEEDS), -(2**63), 2**63 - 1)
    return Sampling(
        max_tokens=max_tokens,
        temperature=fields.number("temperature", 1.0, "in [0, 100]"),
        top_k=max(top_k, 0),
        top_p=fields.number("top_p", 1.0, "in (0, 1]"),
        min_p=fields.number("min_p", 0.0, "in [0, 1)"),
        seed=seed % SEEDS,
        stop=stops_of(fields),
        ignore_eos=fields.truth("ignore_eos"),
    )


def stops_of(fields: Fields) -> tuple[str, ...]:
    """`stop`: a text, or a list of them."""
    stop = fields.given.get("stop", [])
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or len(texts) > MOST_STOPS:
        raise refuse("stop", f"a text or a list of at most {MOST_STOPS}", stop)
    if not all(texts):
        raise refuse("stop", "texts that are not empty", stop)
    return tuple(require_text("stop", text) for text in texts)


def streaming_of(fields: Fields) -> tuple[bool, bool]:
    """`stream`, and `include_usage` of its options."""
    stream = fields.truth("stream")
    options = fields.given.get("stream_options", {})
    if not isinstance(options, dict) or (options and not stream):
        raise refuse("stream_options", "an object, with stream true", options)
    asked = Fields({name: x for name, x in options.items() if x is not None})
    asked.require_known({"include_usage", "include_obfuscation"})
    return stream, asked.truth("include_usage")


def require_fits(
    prompts: Sequence[Sequence[int]], max_tokens: int, name: str, served: Served
) -> None:
    """Refuses a prompt that is empty, or too long for the tokens asked for."""
    for prompt in prompts:
        if not prompt:
            raise refuse(name, "at least one token", "none")
        if len(prompt) + max_tokens > served.max_length:
            raise Refused(
                f"this model's maximum context length is {served.max_length} tokens, "
                f"got {len(prompt)} of {name} and {max_tokens} of max_tokens",
                param=name,
                code="context_length_exceeded",
            )
