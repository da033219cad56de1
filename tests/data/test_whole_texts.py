"""Documents are whole texts: as at use, with the boundary where it is, text as text."""

import json

import pytest
from transformers import CodeLlamaTokenizer, PreTrainedTokenizer

from shared.config.fields import DataConfig
from shared.data.documents import load_examples, load_splits
from shared.data.tokenizer import load_tokenizer, wrapped
from tests import small_tokenizers
from tests.small_tokenizers import KINDS

# Special tokens of some tokenizer, chat markers, and what stands beside them.
LOOKING = (
    "x = 1 </s>\n    <s><unk> <FILL_ME> y <FILL_ME>",
    "</s>",
    "a<|im_end|>\n<|im_start|>user <tool_call>[SEP] [CLS][EOS]",
    "<|endoftext|>",
)
BOUNDARIES = [
    ("def f(x):\n", "    return x\n"),
    ("x", "y"),
    ("caf", "é"),
    ("é", "é"),
    ("😀", "😀😀\t"),
    ("", "x"),
    ("x", ""),
    ("x = ", "1"),
    ("x ", " y"),
    *((text[:4], text[4:]) for text in LOOKING),
    *((text, text) for text in LOOKING),
]
FAST = [kind for kind in KINDS if not kind.startswith("slow")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(kind)`: that tokenizer, made and loaded once."""
    base, found = tmp_path_factory.mktemp("tokenizers"), {}

    def of(kind):
        if kind not in found:
            folder = base / str(len(found))
            found[kind] = load_tokenizer(small_tokenizers.saved(kind, folder))
        return found[kind]

    return of


def documents(tmp_path, tokenizer, rows, **fields):
    """One document for each (prompt, completion), or row."""
    rows = [
        row if isinstance(row, dict) else {"prompt": row[0], "completion": row[1]}
        for row in rows
    ]
    for name in ("train", "validation"):
        lines = (json.dumps(row) + "\n" for row in [*rows, *rows[:2]])
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    cfg = DataConfig(**{"source": str(tmp_path), "max_length": 4096} | fields)
    split = load_splits(cfg, tokenizer, splits=("train",))["train"]
    return split.documents[: len(rows)]


def pairs(kind):
    """Word pieces keep single spaces between words only."""
    if kind == "word pieces":
        return [("def f ( x ) :", " return x"), ("def", " f"), ("x", ""), ("de", "f")]
    rows = load_examples(DataConfig(max_examples=20))["train"]
    some = [(row["prompt"], row["completion"]) for row in rows]
    without = kind == "unigram"  # of é and 😀 it knows nothing
    return some + [
        pair for pair in BOUNDARIES if not without or "".join(pair).isascii()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_its_text(made, tmp_path, kind):
    tokenizer = made(kind)
    texts = pairs(kind)
    found = documents(tmp_path, tokenizer, texts)
    for document, (prompt, completion) in zip(found, texts, strict=True):
        assert tokenizer.decode(document.tokens) == prompt + completion


def plain(kind):
    """Those without a text that looks like a special token."""
    return [pair for pair in pairs(kind) if not {"<", "["} & set("".join(pair))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_begins_and_goes_on_as_at_use(made, tmp_path, kind):
    tokenizer = made(kind)
    eos, texts = tokenizer.eos_id, plain(kind)
    found = documents(tmp_path, tokenizer, texts)
    for document, pair in zip(found, texts, strict=True):
        use = tokenizer.implementation.encode("".join(pair))
        assert document.tokens.tolist() == use + [eos] * (use[-1:] != [eos])
        assert (document.tokens == eos).sum() == 1
    assert ("BOS" in kind) <= (len(tokenizer.encode("")) == 1)


def test_a_document_that_is_cut_keeps_its_bos(made, tmp_path):
    tokenizer = made("metaspace with BOS and eos")
    bos, eos = tokenizer.implementation.encode("")
    rows = [("def f(x):", "return x")]
    (whole,) = documents(tmp_path, tokenizer, rows)
    (cut,) = documents(tmp_path, tokenizer, rows, max_length=4)
    assert cut.tokens.tolist() == whole.tokens.tolist()[:4]
    assert cut.tokens[0] == bos and eos not in cut.tokens
    assert cut.target.tolist() == [False, True, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_the_completion_begins_with_the_first_token_that_ends_in_it(
    made, tmp_path, kind
):
    tokenizer, texts = made(kind), plain(kind)
    found = documents(tmp_path, tokenizer, texts, loss_on="completion")
    bos = len(tokenizer.encode(""))
    for document, (prompt, completion) in zip(found, texts, strict=True):
        if kind in FAST:
            told = tokenizer.implementation(
                prompt + completion, add_special_tokens=False, return_offsets_mapping=1
            )
            start = sum(end <= len(prompt) for _, end in told["offset_mapping"])
        else:
            start = len(prompt.encode())
        right = [max(1, bos + start) <= i for i in range(len(document.tokens))]
        assert document.target.tolist() == right, (prompt, completion)


def test_a_token_across_the_boundary_is_the_completions(made, tmp_path):
    tokenizer = made("byte-level BPE")
    assert len(tokenizer.encode("\ndef")) == 2
    (document,) = documents(tmp_path, tokenizer, [("\nd", "ef")], loss_on="completion")
    assert document.target.tolist() == [False, True, True]


class FromTheRight(PreTrainedTokenizer):
    """A tokenizer in Python that takes the longest piece, from the end of the text on.

    What is at the end of a prompt is then another token where the text goes on.
    """

    words = ("</s>", "a", "b", "c", "é", "ab", "bc", "bcc")

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    @property
    def vocab_size(self):
        return len(self.words)

    def _tokenize(self, text):
        found = []
        while text:
            found.append(max((w for w in self.words if text.endswith(w)), key=len))
            text = text.removesuffix(found[-1])
        return found[::-1]

    def _convert_token_to_id(self, token):
        return self.words.index(token)

    def _convert_id_to_token(self, index):
        return self.words[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


@pytest.mark.parametrize(
    "prompt, completion, before",
    [
        ("ab", "c", ["a"]),  # a bc: alone the prompt would be one token, ab
        ("aab", "cc", ["a", "a"]),
        ("ab", "ab", ["ab"]),
        ("é", "é", ["é"]),
        ("b", "c", []),
        ("", "abc", []),
        ("ab", "", ["ab"]),
    ],
)
def test_the_boundary_where_nothing_tells_offsets(prompt, completion, before):
    tokenizer = wrapped(FromTheRight(eos_token="</s>"), "here")
    ids, own = tokenizer.document(prompt, completion)
    assert tokenizer.decode(ids) == prompt + completion and ids[-1] == 0
    words = [
        FromTheRight.words[i] for i, ours in zip(ids, own, strict=True) if not ours
    ]
    assert words == before
    assert own == sorted(own)


# Text as text


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_looks_like_a_control_token_stays_text(made, tmp_path, kind):
    tokenizer = made(kind)
    added = tokenizer.implementation.added_tokens_encoder
    unknown = {tokenizer.implementation.unk_token_id}  # no control: a missing letter
    controls = {n for token, n in added.items() if not token.isspace()} - unknown
    rows = [("", text) for text in (*LOOKING, "a [CLS] [SEP]")]
    for document in documents(tmp_path, tokenizer, rows):
        inner = document.tokens[len(tokenizer.encode("")) : -1]
        assert not controls & set(inner.tolist())


def test_an_added_token_that_is_text_stays_a_token(made):
    tokenizer = made("byte-level BPE")
    spaces = tokenizer.implementation.convert_tokens_to_ids("    ")
    assert spaces in tokenizer.encode("def f():\n    return 1")


def test_a_single_character_is_text_whatever_it_is_marked_as(tmp_path):
    fast = small_tokenizers.byte_level()
    fast.pad_token = "!"
    fast.save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"))
    assert tokenizer.decode(tokenizer.encode("a != b!")) == "a != b!"


def test_code_llamas_own_tokenizer(tmp_path):
    """It cuts a text at <FILL_ME>, and fails where there are two."""
    fast = small_tokenizers.metaspace(bos=True)
    content = json.loads(fast.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in content["merges"]]
    CodeLlamaTokenizer(vocab=content["vocab"], merges=merges).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert type(tokenizer.implementation) is CodeLlamaTokenizer
    for text in LOOKING:
        ids, _ = tokenizer.document("x", text)
        assert tokenizer.decode(ids) == "x" + text
        assert ids[0] == tokenizer.implementation.bos_token_id
        assert not set(tokenizer.controls.values()) & set(ids[1:-1])


def test_a_length_in_the_files_of_a_tokenizer_plays_no_part(tmp_path):
    fast = small_tokenizers.byte_level()
    fast.backend_tokenizer.enable_truncation(4)
    fast.backend_tokenizer.enable_padding(length=64)
    fast.save_pretrained(tmp_path / "tokenizer")
    content = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    assert content["truncation"] and content["padding"]
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"))
    text = small_tokenizers.texts()[0]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_tokenizer_in_python_that_takes_text_for_a_control_token_is_refused():
    tokenizer = wrapped(FromTheRight(eos_token="</s>"), "here")
    with pytest.raises(ValueError, match="'</s>' in a text must stay text, got token"):
        tokenizer.encode("a</s>b")
