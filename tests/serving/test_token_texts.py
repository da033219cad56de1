"""Bytes, names and places of tokens, with tokenizers of every kind."""

from functools import cache

import pytest

from shared.data.tokenizer import load_tokenizer, wrapped
from shared.serving.token_texts import TokenTexts
from tests import small_tokenizers

TEXTS = (
    "def f(x):\n    return x + 1\n",
    "naïve — 日本語 and 🙂🙂!",
    " a  b\n\n\tc",
    "x</s> <|im_end|> <FILL_ME>",
)
# These write other text than they read: accents, line ends, white space.
LOSSY = {"word pieces", "unigram"}
KINDS = [kind for kind in small_tokenizers.KINDS if kind not in LOSSY]


@cache
def tokenizer_of(kind):
    if kind == "bytes":
        return load_tokenizer("bytes")
    return wrapped(small_tokenizers.KINDS[kind](), kind)


@pytest.mark.parametrize("kind", ["bytes", *KINDS])
@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_tokens_make_the_text(kind, text):
    texts = TokenTexts(tokenizer_of(kind))
    ids = texts.tokenizer.spell(text)
    joined = b"".join(map(texts.bytes_of, ids))
    # A space before the first word may be the tokenizer's own.
    assert joined in (text.encode(), b" " + text.encode())


@pytest.mark.parametrize("kind", ["bytes", *small_tokenizers.KINDS])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_begin_where_they_are_read(kind, text):
    texts = TokenTexts(tokenizer_of(kind))
    ids = texts.tokenizer.encode(text)
    told = texts.tokenizer.decode(ids)
    starts = texts.offsets(ids, told)
    assert starts == sorted(starts) and len(starts) == len(ids)
    assert starts[0] == 0 and starts[-1] <= len(told)
    names = [texts.name(token) for token in ids]
    inside = [token not in texts.tokenizer.special for token in ids]
    first = inside.index(True) if any(inside) else 0  # of word pieces all is unknown
    for i, (start, name) in enumerate(zip(starts, names, strict=True)):
        if inside[i] and not name.startswith("bytes:"):
            without = name.removeprefix(" ") if i == first else name
            assert told.startswith((name, without), start)


def test_parts_of_characters_and_control_tokens():
    texts = TokenTexts(tokenizer_of("byte-level BPE"))
    ids = texts.tokenizer.spell("€")
    assert [texts.name(i) for i in ids] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert texts.offsets([*ids, *texts.tokenizer.spell("a")], "€a") == [0, 0, 0, 1]
    end = texts.tokenizer.eos_id
    assert texts.name(end) == "<|im_end|>" and texts.offsets([end, end], "") == [0, 0]
    assert texts.name(10**6) == ""  # of a model with more rows than tokens
