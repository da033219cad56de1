"""Text that comes token by token is the text at once, across bytes of one character."""

from functools import cache

import pytest

from shared.data.tokenizer import load_tokenizer, wrapped
from shared.decoding.text import TextStream
from tests import small_tokenizers

PROMPT = "def f(x):\n"
TEXTS = ("a€🙂é x", "日本語", "    return 1\n\n", "🙂🙂", "x\ty  z")
LOSSY = {"word pieces", "unigram"}  # these write other text than they read
KINDS = ["bytes", *(kind for kind in small_tokenizers.KINDS if kind not in LOSSY)]


@cache
def tokenizer_of(kind):
    if kind == "bytes":
        return load_tokenizer("bytes")
    return wrapped(small_tokenizers.KINDS[kind](), kind)


def told(stream, ids):
    """What each token tells, and the rest, as text and number of tokens."""
    found = []
    for token in ids:
        stream.push(token)
        found.append(stream.tell(last=False))
    stream.finish()
    return [*found, stream.tell(last=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_text_at_once(kind, text):
    tokenizer = tokenizer_of(kind)
    prompt, whole = tokenizer.spell(PROMPT), tokenizer.spell(PROMPT + text)
    ids = whole[len(prompt) :]
    if whole[: len(prompt)] != prompt:
        pytest.skip("the prompt ends otherwise where it stands alone")
    pieces = told(TextStream(tokenizer.decode, prompt), ids)
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(count for _, count in pieces) == len(ids)
    assert all("\ufffd" not in piece for piece, _ in pieces)


@pytest.mark.parametrize("kind", ["bytes", "byte-level BPE"])
def test_half_a_character_at_the_end_and_in_the_middle(kind):
    tokenizer = tokenizer_of(kind)
    euro, letter = tokenizer.spell("€"), tokenizer.spell("x")
    for ids in (euro[:2], euro[:2] + letter, euro[:1] * 6 + letter + euro):
        pieces = told(TextStream(tokenizer.decode, letter), ids)
        right = tokenizer.decode(letter + ids)[1:]
        assert "".join(piece for piece, _ in pieces) == right
        assert sum(count for _, count in pieces) == len(ids)
