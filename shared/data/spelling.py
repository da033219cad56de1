"""How a text is spelled in tokens, so that no text becomes a control token.

A control token (eos, `<FILL_ME>`, a chat marker) means what training made of it. A text
that looks like one stays text: the tokenizers of the `tokenizers` library get a copy in
which control tokens have names that no text has.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

# Added tokens that are no text though they are not marked as special, as the markers of
# a tool call are in Qwen's. Others are: runs of white space, rare letters.
MARKER = re.compile(r"▁?(<.+>|\[.+\])", re.DOTALL)
BYTE = re.compile("<0x[0-9A-F]{2}>")  # how a vocabulary names single bytes
# Characters that Unicode keeps for use inside a program; texts have none of them
# (`shared/data/examples.py`).
RESERVED = re.compile("[\ufdd0-\ufdef]")
NAME = re.compile("\ufdd0[0-9]+\ufdd1")


def special_tokens(implementation: Any) -> dict[str, int]:
    """Tokens that are marked as special, and their ids.

    A single character is text whatever it is marked as: `!` is the padding of some.
    """
    added = implementation.added_tokens_decoder.items()
    found = {token.content: number for number, token in added if token.special}
    ids = implementation.all_special_ids
    found |= dict(zip(implementation.all_special_tokens, ids, strict=True))
    return {
        token: number
        for token, number in found.items()
        if len(token) > 1 and not BYTE.fullmatch(token)
    }


def control_tokens(implementation: Any) -> dict[str, int]:
    """Tokens that no text may become: special ones, and those that look like markers.

    Example:
      >>> from transformers import ByT5Tokenizer
      >>> control_tokens(ByT5Tokenizer(extra_ids=0))
      {'</s>': 1, '<unk>': 2, '<pad>': 0}
    """
    added = implementation.added_tokens_decoder.items()
    marked = {token.content: n for n, token in added if MARKER.fullmatch(token.content)}
    plain = {token: n for token, n in marked.items() if not BYTE.fullmatch(token)}
    return special_tokens(implementation) | plain


def name_of(number: int) -> str:
    """What a control token is called where no text may spell it."""
    return f"\ufdd0{number}\ufdd1"


def unspellable(backend: Any, controls: Mapping[str, int]) -> Any:
    """A copy of a `tokenizers.Tokenizer` in which control tokens have other names.

    Leaving them out when a text is split is not enough: a vocabulary with scores finds
    `</s>` as the best spelling of `</s>`, and merges may lead there. Nothing is cut,
    padded or added at the ends.
    """
    names = {token: name_of(number) for token, number in controls.items()}
    content = json.loads(backend.to_str())
    model = content["model"]
    if isinstance(vocab := model["vocab"], dict):
        model["vocab"] = {names.get(token, token): n for token, n in vocab.items()}
    else:  # with scores
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [
            (first, second)
            for first, second in model["merges"]
            if not {first, second, first + second} & names.keys()
        ]
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    content |= {"truncation": None, "padding": None, "post_processor": None}
    return type(backend).from_str(json.dumps(content))


def ends_of(implementation: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer puts before a text at use, and after it: BOS, eos or nothing."""
    for text in "a0( ":
        plain = implementation.encode(text, add_special_tokens=False)
        whole = implementation.encode(text)
        for at in range(len(whole) if plain else 0):
            end = at + len(plain)
            if whole[at:end] == plain:
                return tuple(whole[:at]), tuple(whole[end:])
    return (), ()


def count_common(a: list[int], b: list[int]) -> int:
    """How many ids are the same from the start on."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
