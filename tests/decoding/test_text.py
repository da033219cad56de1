"""Text that comes token by token, for every kind of tokenizer; stop strings on it."""

from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from shared.data.tokenizer import Tokenizer, load_tokenizer, wrapped
from shared.decoding.text import HALF, TextStream
from tests import small_tokenizers

KINDS = [*small_tokenizers.KINDS, "bytes"]
BYTE_LEVEL = ["byte-level BPE", "bytes"]
TEXT = "def add(a, b):  # naïve 🙂👍🏽 日本\n    return a + b\n\n\n x"
TEXTS = st.text(st.sampled_from("ab  \n(=é🙂日\u200d👍🏽\ufffd"), max_size=16)


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind == "bytes":
        return load_tokenizer("bytes")
    return wrapped(small_tokenizers.KINDS[kind](), kind)


def told(stream: TextStream, ids, every: int = 1):
    """Texts and numbers of tokens that are told after every so many tokens."""
    found = []
    for i, token in enumerate(ids, 1):
        if not stream.push(token):
            break
        if i % every == 0:
            found.append(stream.tell(last=False))
    stream.finish()
    return [*found, stream.tell(last=True)]


def behind(kind: str, prompt, ids) -> str:
    """What the whole is decoded to behind its prompt."""
    decode = tokenizer(kind).decode
    return decode([*prompt, *ids])[len(decode(prompt)) :]


def stream(kind: str, prompt, stop=()) -> TextStream:
    return TextStream(tokenizer(kind).decode, prompt, stop)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(TEXTS, TEXTS, st.integers(1, 4))
@example("🙂" * 5, "🙂🙂 a", 1)
@example("", TEXT, 3)
@example(TEXT, TEXT, 1)
def test_in_pieces_it_is_the_whole_behind_its_prompt(kind, before, after, every):
    # Where bytes are tokens, this one and half a character look alike.
    assume(HALF not in before + after or "metaspace" not in kind)
    own = tokenizer(kind)
    prompt, ids = own.encode(before), own.spell(after)
    parts = told(stream(kind, prompt), ids, every)
    assert "".join(text for text, _ in parts) == behind(kind, prompt, ids)
    assert sum(count for _, count in parts) == len(ids)
    assert all(count >= 0 for _, count in parts)


def is_whole(own: Tokenizer, ids) -> bool:
    return HALF not in own.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_cut_anywhere(kind):
    """Whole characters are the whole text's; no half of one is told before the end."""
    own = tokenizer(kind)
    ids = own.spell(TEXT)
    whole = behind(kind, [], ids)
    for cut in range(0, len(ids) + 1, 1 if kind in BYTE_LEVEL else 2):
        prompt = own.spell(TEXT)[:cut] or [*own.before]
        text = "".join(text for text, _ in told(stream(kind, prompt), ids[cut:]))
        if HALF not in own.decode(prompt):
            assert text == behind(kind, prompt, ids[cut:])
        else:  # what the prompt has begun is told or not, all after it is
            rest = (ids[i:] for i in range(cut, len(ids)) if is_whole(own, ids[:i]))
            assert text.endswith(own.decode(next(rest, [])))
        parts = told(stream(kind, [*own.before]), ids[:cut])
        assert not any(HALF in text for text, _ in parts[:-1])
        shown = "".join(text for text, _ in parts)
        assert whole.startswith(shown.rstrip(HALF))


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 255), max_size=24), st.integers(0, 8))
@example([0x80] * 4 + [0xF0, 0x9F, 0x98, 0x80], 0)
@example([0xF0, 0x9F, 0x98] * 3 + [0xC3, 0xA9], 2)
def test_bytes_that_are_no_text(kind, values, cut):
    own = tokenizer(kind)
    single = [own.spell(chr(x)) for x in range(128)]
    if kind == "bytes":
        ids = [x + 3 for x in values]
    else:
        spelled = [own.implementation.convert_ids_to_tokens(x) for x in single]
        assert all(len(x) == 1 for x in spelled)
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        names = bytes_to_unicode()
        ids = [own.implementation.convert_tokens_to_ids(names[x]) for x in values]
    prompt, ids = ids[:cut], ids[cut:]
    parts = told(stream(kind, prompt), ids)
    assert "".join(text for text, _ in parts) == behind(kind, prompt, ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_tokens_without_text_among_others(kind, data):
    """Ends of text that a sample goes on after (`ignore_eos`)."""
    own = tokenizer(kind)
    pieces = data.draw(st.lists(st.sampled_from(own.spell("a b(é =🙂 a")), max_size=6))
    silent = sorted(own.special)[:1] or [own.eos_id]
    ids = [
        x for piece in pieces for x in [piece, *silent * data.draw(st.integers(0, 2))]
    ]
    prompt = own.encode("a b")
    text = "".join(text for text, _ in told(stream(kind, prompt), ids))
    right = behind(kind, prompt, ids)
    if HALF not in right:
        assert text == right


def test_ends_of_text_within_a_character():
    """They are no bytes of it, of which there are no more than four."""
    own = tokenizer("byte-level BPE")
    first, *rest = own.spell("🙂")
    silent = (sorted(own.special) or [own.eos_id])[0]
    ids = [first, silent, silent, *rest, silent]
    prompt = own.encode("a b")
    text = "".join(text for text, _ in told(stream("byte-level BPE", prompt), ids))
    assert text == behind("byte-level BPE", prompt, ids) == "🙂"


# Stop strings.


def cut_by_hand(kind: str, prompt, ids, stop) -> str:
    """Before the stop string that the fewest tokens make whole; others are too late."""
    for count in range(len(ids) + 1):
        text = behind(kind, prompt, ids[:count])
        if places := [text.find(x) for x in stop if x in text]:
            return text[: min(places)]
    return behind(kind, prompt, ids)


@pytest.mark.parametrize("kind", ["byte-level BPE", "metaspace with BOS", "bytes"])
@settings(deadline=None, max_examples=40)
@given(
    st.text(st.sampled_from("ab\n🙂"), max_size=24),
    st.lists(st.text(st.sampled_from("ab\n🙂"), min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
@example("aab", ["ab"], 1)
@example("aba", ["b", "aba"], 1)
@example("abab\nabaa", ["abaa", "b\nc"], 2)
@example("🙂🙂", ["🙂"], 1)
def test_a_stop_string_cuts_text_and_tokens(kind, text, stop, every):
    own = tokenizer(kind)
    prompt, ids = own.encode("x"), own.spell(text)
    parts = told(stream(kind, prompt, tuple(stop)), ids, every)
    whole = behind(kind, prompt, ids)
    right = cut_by_hand(kind, prompt, ids, stop)
    shown = "".join(text for text, _ in parts)
    assert shown == right
    count = sum(count for _, count in parts)
    if right == whole:
        assert count == len(ids)
        return
    # The fewest tokens whose text has what is left; what comes after is cut.
    assert behind(kind, prompt, ids[:count]).startswith(right)
    fewer = behind(kind, prompt, ids[: max(0, count - 1)])
    assert count == 0 or HALF in fewer or len(fewer) <= len(right)


def test_what_may_become_a_stop_string_is_held_back():
    own = stream("bytes", [100], ("abc", "b!"))
    says = []
    for letter in "xabab!":
        own.push(ord(letter) + 3)
        says.append(own.tell(last=False))
    assert [text for text, _ in says[:5]] == ["x", "", "", "ab", ""]
    assert own.stopped and own.text == "xaba"
    assert own.tell(last=True) == ("", 0) or own.text


def test_it_does_not_matter_how_often_it_is_told():
    """Also with tokens that have no text where a stop string begins."""
    own = tokenizer("bytes")
    ids = [*own.spell("ab"), 1, *own.spell("ST"), *own.spell("OPc")]
    counts = set()
    for every in range(1, 9):
        parts = told(stream("bytes", [100], ("STOP",)), ids, every)
        assert "".join(text for text, _ in parts) == "ab"
        assert all(count >= 0 for _, count in parts)
        counts.add(sum(count for _, count in parts))
    assert counts == {3}
