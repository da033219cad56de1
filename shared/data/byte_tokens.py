"""ByT5's bytes as tokens: byte b is token b + 3, after padding, eos and unknown.

`transformers` has the same tokenizer and takes a second or more to import. Only what a
run asks for at every start is here; its files, say, are left to `transformers`.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

FIRST = 3  # token of byte 0
SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}
EOS = "</s>"
# A document is cut by us, so no length of a tokenizer plays a part.
SETTINGS = {"model_max_length": 10**9}


class ByteTokens:
    """What `Tokenizer.implementation` is for bytes; all else is `transformers`' own."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """Ids of the text alone; no text is a special token."""
        return [FIRST + byte for byte in text.encode()]

    def decode(self, ids: Iterable[int], **_: Any) -> str:
        """The text of ids of bytes; what is no UTF-8 is left out."""
        return bytes(i - FIRST for i in ids).decode(errors="ignore")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _of_transformers()(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(_of_transformers(), name)


def vocabulary() -> dict[str, int]:
    """Token -> id, as ByT5 names them."""
    return SPECIAL | {chr(byte): FIRST + byte for byte in range(256)}


@cache
def _of_transformers() -> Any:
    from shared.data.tokenizer import quiet_import

    with quiet_import():
        from transformers import ByT5Tokenizer
    return ByT5Tokenizer(extra_ids=0, **SETTINGS)
