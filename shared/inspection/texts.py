"""Tokens as a person reads them: whole, visible, and nothing that a terminal obeys."""

from collections.abc import Iterable

from shared.data.byte_tokens import FIRST, ByteTokens
from shared.data.tokenizer import Tokenizer
from shared.messages import visible
from shared.serving.token_texts import TokenTexts


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
