"""The fields of a body: read by name with type and range, or refused in one line.

A field that is null is one that is not there. What is not known, or known and not
served, is refused: an answer that passes over it would be another than was asked for.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shared.data.spelling import RESERVED
from shared.json_text import parse
from shared.messages import first_line
from shared.serving.refusals import Refused, refuse

# What may be given though nothing here reads it, as it changes no token.
PASSED_OVER = {"user", "metadata", "service_tier", "safety_identifier"}
PASSED_OVER |= {"prompt_cache_key", "parallel_tool_calls"}
# Values that ask for nothing, of fields that are not served.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "suffix": ("",),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


@dataclass(frozen=True)
class Fields:
    """What a body gives, without its nulls."""

    given: dict[str, Any]

    def whole(
        self, name: str, default: int, least: int, most: int | None = None
    ) -> int:
        """An integer from `least` to `most`.

        Example:
          >>> Fields({"n": 2}).whole("n", 1, 1), Fields({}).whole("n", 1, 1)
          (2, 1)
        """
        value = self.given.get(name, default)
        within = type(value) is int and value >= least
        if not within or (most is not None and value > most):
            required = f"an integer >= {least}"
            required += "" if most is None else f" and <= {most}"
            raise refuse(name, required, value)
        return value

    def number(self, name: str, default: float, required: str) -> float:
        """A number in a range: `in [0, 100]`, `in [0, 1)` or `in (0, 1]`."""
        value = self.given.get(name, default)
        least, most = {
            "in [0, 100]": (0.0, 100.0),
            "in [0, 1)": (0.0, math.nextafter(1, 0)),
            "in (0, 1]": (math.nextafter(0, 1), 1.0),
        }[required]
        if type(value) not in (int, float) or not least <= value <= most:
            raise refuse(name, f"a number {required}", value)
        return float(value)

    def truth(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.given.get(name, default)
        if type(value) is not bool:
            raise refuse(name, "true or false", value)
        return value

    def require_known(self, known: Collection[str]) -> None:
        """Refuses what none of the tables knows, or asks for what is not served."""
        for name, value in self.given.items():
            if name in known or name in PASSED_OVER:
                continue
            if name not in NEUTRAL:
                shown = ascii(name)[:60]
                plain = ascii(name)[1:-1][:60]  # half a character cannot be sent
                raise Refused(f"unrecognized request argument {shown}", param=plain)
            if value not in NEUTRAL[name]:
                asks_nothing = " or ".join(map(json.dumps, NEUTRAL[name]))
                required = f"null or {asks_nothing}, as nothing else is served"
                raise refuse(name, required, value)


def read_body(body: bytes) -> Fields:
    """The fields of a body: one JSON object.

    Raises:
      Refused: if it is none.
    """
    try:
        value = parse(body.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise Refused(f"the body must be JSON, got {first_line(error)}") from None
    if not isinstance(value, dict):
        raise Refused(f"the body must be a JSON object, got {type(value).__name__}")
    return Fields(without_nulls(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: of for name, of in value.items() if of is not None}


def require_text(name: str, value: Any) -> str:
    """A text that a tokenizer can be given.

    Half of a character has no bytes, and what Unicode keeps for use inside a program
    names control tokens here (`shared/data/spelling.py`).
    """
    if not isinstance(value, str):
        raise refuse(name, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise refuse(name, "text of whole characters", half) from None
    if found := RESERVED.search(value):
        raise refuse(name, "text without Unicode's noncharacters", found[0])
    return value
