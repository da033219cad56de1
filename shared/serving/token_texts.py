"""What single tokens are called, and where in a text they begin."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.data.spelling import BYTE
from shared.data.tokenizer import Tokenizer


def byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in the vocabularies of GPT-2's kind.

    Example:
      >>> byte_letters()["a"], byte_letters()["Ġ"]
      (97, 32)
    """
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printed)
    letters = {chr(byte): byte for byte in printed}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


@dataclass
class TokenTexts:
    """Bytes and names of a tokenizer's tokens, found as they are asked for."""

    tokenizer: Tokenizer
    known: dict[int, bytes] = field(default_factory=dict)
    anchor: tuple[list[int], str] | None = None

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to a text: parts of characters, too.

        A control token adds nothing; its bytes are those of its name.
        """
        if token not in self.known:
            self.known[token] = self._find(token)
        return self.known[token]

    def name(self, token: int) -> str:
        r"""Its text, or `bytes:\xe2\x80` for parts of characters, as OpenAI has it."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def offsets(self, tokens: Sequence[int], text: str) -> list[int]:
        """The character of `text`, their own, in which each token begins.

        A token that a character goes on in begins where the character does.
        """
        read = codecs.getincrementaldecoder("utf-8")("replace")
        starts, joined = [], ""
        for token in tokens:
            starts.append(len(joined))
            if token not in self.tokenizer.special:
                joined += read.decode(self.bytes_of(token))
        # The white space before the first word of a text may be the tokenizer's own.
        own = len(joined) - len(text)
        own = own if own > 0 and joined[own:] == text else 0
        return [min(max(start - own, 0), len(text)) for start in starts]

    def _find(self, token: int) -> bytes:
        if self.anchor is None:  # a token behind another keeps its white space
            before = self.tokenizer.spell("a")[-1:]
            self.anchor = before, self.tokenizer.decode(before)
        before, begins = self.anchor
        text = self.tokenizer.decode([*before, token])
        text = text.removeprefix(begins) if text.startswith(begins) else ""
        if text and "\ufffd" not in text:
            return text.encode()
        spelled = self.tokenizer.implementation.convert_ids_to_tokens(token)
        return self._bytes_of_name(token, spelled or "")

    def _bytes_of_name(self, token: int, spelled: str) -> bytes:
        if token in self.tokenizer.special:
            return spelled.encode()
        if BYTE.fullmatch(spelled):
            return bytes([int(spelled[3:5], 16)])
        if self.tokenizer.speller is None:  # in Python: ByT5's kind, byte by byte
            narrow = len(spelled) == 1 and ord(spelled) < 256
            return bytes([ord(spelled)]) if narrow else spelled.encode()
        letters = byte_letters()
        if all(letter in letters for letter in spelled):
            return bytes(letters[letter] for letter in spelled)
        return spelled.encode()
