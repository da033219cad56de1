"""Small tokenizers of every kind, trained on the minis, as folders to be named.

folder = saved("metaspace with BOS", tmp_path)
"""

import json
from functools import cache
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PerceiverTokenizer, PreTrainedTokenizerFast

from shared.config.fields import DataConfig
from shared.data.documents import load_examples

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
MARKERS = ["<|im_start|>", "<|im_end|>"]  # of a chat
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
)


@cache
def texts() -> tuple[str, ...]:
    """Prompts and completions of the minis."""
    rows = load_examples(DataConfig())["train"]
    return tuple(row["prompt"] + row["completion"] for row in rows)


def saved(kind: str, folder: Path) -> str:
    """Makes the tokenizer and writes its folder."""
    KINDS[kind]().save_pretrained(folder)
    return str(folder)


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, with a chat template and an added token that is not special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", *MARKERS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(made, trainers.BpeTrainer, special, initial_alphabet=alphabet)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>")
    fast.add_tokens(["<tool_call>", "    "])  # a marker, and a run of white space
    fast.chat_template = CHATML
    return fast


def metaspace(bos: bool, eos: bool = False) -> PreTrainedTokenizerFast:
    """As Llama's: white space is part of the words, rare characters are bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    train(made, trainers.BpeTrainer, ["<unk>", "<s>", "</s>", "<FILL_ME>"])
    content = json.loads(made.to_str())
    vocab, model = content["model"]["vocab"], content["model"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    model |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    # `</s>` can be put together of its letters, as in some converted vocabularies.
    pieces = [("<", "/"), ("</", "s"), ("</s", ">")]
    for a, b in pieces:
        vocab.setdefault(a + b, len(vocab))
        model["merges"].append([a, b])
    made = Tokenizer.from_str(json.dumps(content))
    strip = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), *strip]
    made.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(
        tokenizer_object=with_ends(made, bos, eos), **SPECIAL
    )


def legacy() -> PreTrainedTokenizerFast:
    """Llama 2's file: the space is prepended by a normalizer, before every part."""
    fast = metaspace(bos=True)
    content = json.loads(fast.backend_tokenizer.to_str()) | {"pre_tokenizer": None}
    made = Tokenizer.from_str(json.dumps(content))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence(spaces)
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def unigram() -> PreTrainedTokenizerFast:
    """A vocabulary with scores, in which `</s>` is the best spelling of itself."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = {"unk_token": "<unk>", "vocab_size": 300}
    train(made, trainers.UnigramTrainer, ["<unk>", "<s>", "</s>"], **special)
    return PreTrainedTokenizerFast(tokenizer_object=with_ends(made, True), **SPECIAL)


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: [CLS] and [SEP] around a text, pieces that go on with `##`."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece(cleanup=False)
    special = ["[UNK]", "[CLS]", "[SEP]"]
    train(made, trainers.WordPieceTrainer, special)
    ends = [(name, made.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ends)
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def with_ends(made: Tokenizer, bos: bool, eos: bool = False) -> Tokenizer:
    """The tokenizer, which puts <s> before a text and </s> after it."""
    ids = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    single = "<s> " * bos + "$A" + " </s>" * eos
    made.post_processor = processors.TemplateProcessing(single, special_tokens=ids)
    return made


def train(made: Tokenizer, trainer: type, special: list[str], **settings) -> None:
    settings = {"vocab_size": 600, "show_progress": False} | settings
    made.train_from_iterator(texts(), trainer(special_tokens=special, **settings))


KINDS = {
    "byte-level BPE": byte_level,
    "metaspace": lambda: metaspace(bos=False),
    "metaspace with BOS": lambda: metaspace(bos=True),
    "metaspace with BOS and eos": lambda: metaspace(bos=True, eos=True),
    "metaspace by a normalizer": legacy,
    "unigram": unigram,
    "word pieces": word_pieces,
    "slow, with eos": lambda: ByT5Tokenizer(extra_ids=0),
    "slow, with BOS": lambda: PerceiverTokenizer(
        bos_token="[CLS]", eos_token="[SEP]", cls_token="[CLS]", sep_token="[SEP]"
    ),
}
