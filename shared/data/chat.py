"""A conversation -> tokens, by the chat template of the tokenizer.

The markers that the template writes become their tokens; what looks like one in a
message stays text. The completion is what the assistant says, each time with the marker
that ends its turn.
"""

import re
from collections.abc import Sequence
from typing import Any

from shared.data.spelling import NAME, name_of
from shared.data.tokenizer import Spelled, Tokenizer
from shared.messages import first_line

Message = dict[str, str]  # role, content
ASSISTANT = "assistant"
# Put around what a message says while the template is filled; no text has them.
OURS, OTHERS, END = "\ufdd2", "\ufdd3", "\ufdd4"
MARK = re.compile(f"[{OURS}{OTHERS}{END}]")
SAID = re.compile(f"([{OURS}{OTHERS}])([^{OURS}{OTHERS}{END}]*){END}")
# A template may tell the date, and the same data be other documents the next day. This
# is the day that Llama's templates fall back on.
TODAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"


def spell_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> Spelled:
    """Tokens of a conversation, with eos unless the template has ended it so.

    Args:
      messages: `role` and `content` of each; the template decides on BOS.

    Raises:
      ValueError: if the tokenizer has no chat template, or one that does not take the
        messages or changes what they say.
    """
    _require_template(tokenizer)
    text, own, last = _lay_out(tokenizer, _fill_marked(tokenizer, messages))
    spelled = tokenizer.speller.encode(text, add_special_tokens=False)
    ids, places = list(spelled.ids), spelled.offsets
    ours = [any(a < end and start < b for a, b in own) for start, end in places]
    # After its last message a template may have more than eos, as a line's end.
    behind = (i for i, (start, _) in zip(ids, places, strict=True) if start >= last)
    if tokenizer.eos_id not in behind:
        ids.append(tokenizer.eos_id)
        ours.append(messages[-1]["role"] == ASSISTANT)
    return Spelled(ids, ours)


def spell_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Tokens of a conversation up to where the assistant is to speak.

    Args:
      messages: `role` and `content` of each; the template decides on BOS.

    Raises:
      ValueError: as `spell_chat`.
    """
    return tokenizer.spell(prompt_text(tokenizer, messages))


def prompt_text(
    tokenizer: Tokenizer, messages: Sequence[Message], *, begun: bool = False
) -> str:
    """The text of a conversation, whose markers are what the tokenizer spells as such.

    They have the names of `shared/data/spelling.py` and not their own, so that the text
    can be put together with others before it is spelled.

    Args:
      begun: whether the last message is only the beginning of what is to be said; else
        the text ends where the assistant is to speak.

    Raises:
      ValueError: as `spell_chat`.
    """
    _require_template(tokenizer)
    marked = _fill_marked(tokenizer, messages, asks=not begun)
    text, _, last = _lay_out(tokenizer, marked)
    return text[:last] if begun else text


def _require_template(tokenizer: Tokenizer) -> None:
    if tokenizer.speller is None or not tokenizer.implementation.chat_template:
        raise ValueError(
            "messages need a tokenizer with a chat template (and tokenizer.json), got "
            f"{tokenizer.name!r} without"
        )


def _lay_out(
    tokenizer: Tokenizer, marked: str
) -> tuple[str, list[tuple[int, int]], int]:
    """The text whose markers have the names that the tokenizer's speller knows.

    Returns:
      The text, from where to where the assistant speaks in it, and where the last
      message ends.
    """
    longest = sorted(tokenizer.controls, key=len, reverse=True)
    marker = re.compile("|".join(map(re.escape, longest)) or "(?!)")

    def named(text: str) -> str:
        return marker.sub(lambda found: name_of(tokenizer.controls[found[0]]), text)

    parts = SAID.split(marked)  # template, who speaks, what is said, template, ...
    text, own, last = named(parts[0]), [], 0
    for who, said, after in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        start, last, after = len(text), len(text) + len(said), named(after)
        if who == OURS:
            ending = NAME.search(after)
            own.append((start, last + (ending.end() if ending else 0)))
        text += said + after
    return text, own, last


def _fill_marked(
    tokenizer: Tokenizer, messages: Sequence[Message], asks: bool = False
) -> str:
    """The filled template, with marks around what each message says.

    White space around it is inside the marks, unless the template takes it off. The
    template ends where the assistant is to speak, if the messages ask for that.
    """
    plain = _fill(tokenizer.implementation, messages, asks)
    for strip in (False, True):
        marks = [_mark(message, strip) for message in messages]
        marked = _fill(tokenizer.implementation, marks, asks)
        if MARK.sub("", marked) == plain and not MARK.search(SAID.sub("", marked)):
            return marked
    raise ValueError(
        "the chat template must keep what messages say, got other text from that of "
        f"{tokenizer.name!r}"
    )


def _mark(message: Message, strip: bool) -> Message:
    content = message["content"]
    said = content.strip() if strip else content
    if not said.strip():
        return message
    who = OURS if message["role"] == ASSISTANT else OTHERS
    return message | {"content": content.replace(said, f"{who}{said}{END}", 1)}


def _fill(implementation: Any, messages: Sequence[Message], asks: bool) -> str:
    try:
        template = implementation.get_chat_template()
        return implementation.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=asks,
            chat_template=TODAY + template if "strftime_now" in template else template,
        )
    except Exception as error:  # whatever a template of somebody else's does
        raise ValueError(
            f"the chat template must take the messages, got {first_line(error)}"
        ) from None
