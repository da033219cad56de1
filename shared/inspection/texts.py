"""Tokens as a person reads them: whole, visible, and nothing that a terminal obeys."""

from collections.abc import Iterable

from shared.data.byte_tokens import FIRST, ByteTokens
from shared.data.tokenizer import Tokenizer
from shared.serving.token_texts import TokenTexts

KEPT = ("\n", "\t")  # which every picture shows in its own way


def texts_of(tokens: Iterable[int], tokenizer: Tokenizer) -> list[str]:
    r"""What each token adds to the text; `\xe2` where it is part of a character.

    Example:
      >>> from shared.data.tokenizer import load_tokenizer
      >>> texts_of([100, 13, 30, 198, 1], load_tokenizer("bytes"))
      ['a', '\n', '\\x1b', '\\xc3', '</s>']
    """
    names = {number: name for name, number in tokenizer.controls.items()}
    known = TokenTexts(tokenizer)
    # These have no file to be read from, and asking `transformers` takes seconds.
    own_bytes = isinstance(tokenizer.implementation, ByteTokens)

    def text_of(token: int) -> str:
        if token in names:
            return visible(names[token])
        raw = bytes([token - FIRST]) if own_bytes else known.bytes_of(token)
        try:
            return visible(raw.decode())
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in raw)

    return [text_of(int(token)) for token in tokens]


def visible(text: str) -> str:
    r"""The text, with escapes in place of what cannot be seen or moves a cursor.

    Example:
      >>> visible("a b\x1b[2J")
      'a b\\x1b[2J'
    """
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    if letter.isprintable() or letter in KEPT:
        return letter
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
