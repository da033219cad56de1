"""What a start model says of decoding is in every export of what is made of it.

Its generation config, chat templates and BOS, as stock `transformers` opens them.
"""

import json
from dataclasses import replace

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from shared.config.fields import HeadsConfig
from shared.data.tokenizer import load_tokenizer
from shared.huggingface.folder import write_model
from shared.huggingface.generation import make_generation
from tests import trees
from tests.trained import go_on, run
from tests.trees import random_params, small
from wmtp_jax import export as jax_export
from wmtp_jax import prepare
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

no_bars = trees.no_bars
BYTES = [f"<0x{i:02X}>" for i in range(256)]
WORDS = ["<unk>", "<s>", "</s>", "<|im_end|>", *BYTES, "▁", "a", "b"]
DECODING = {
    "bos_token_id": 1,
    "eos_token_id": [3, 2],
    "pad_token_id": 2,
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "suppress_tokens": [0],
}
CHAT = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"


def tokenizer_in(folder, *, bos=True):
    """A metaspace tokenizer that begins with BOS, and two chat templates."""
    ids = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    words.add_special_tokens(WORDS[:4])
    if bos:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    (folder / "additional_chat_templates").mkdir(parents=True)
    words.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": bos}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "additional_chat_templates" / "tool.jinja").write_text("tool" + CHAT)
    return folder


def start_in(folder, *, generation=DECODING, bos=True):
    """A model to start from, with all its settings."""
    tokenizer = load_tokenizer(str(tokenizer_in(folder / "words", bos=bos)))
    cfg = replace(small("llama"), vocab_size=len(WORDS), max_positions=64)
    heads = HeadsConfig(count=2)
    write_model(folder / "start", random_params(cfg, heads), cfg, heads, tokenizer)
    if generation is not None:
        file = folder / "start" / "generation_config.json"
        file.write_text(json.dumps(generation))
    return folder / "start"


def assert_same_decoding(folder, start):
    """To stock transformers the two are one: what it generates, templates and ids."""
    found, right = (
        transformers.GenerationConfig.from_pretrained(f) for f in (folder, start)
    )
    assert found.to_diff_dict() == right.to_diff_dict()
    ours, theirs = (
        transformers.AutoTokenizer.from_pretrained(f) for f in (folder, start)
    )
    assert ours.chat_template == theirs.chat_template
    assert {"default", "tool"} <= set(ours.chat_template)
    text = "a b </s>"
    assert ours(text).input_ids == theirs(text).input_ids
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["add_bos_token"] == (theirs(text).input_ids[0] == 1)
    assert settings["add_eos_token"] is False


def options_of(start):
    return ["--model", str(start), "--data.max-length", "64", "--train.max-steps", "1"]


@pytest.mark.parametrize(
    "train, export, other",
    [
        (torch_train, torch_export, jax_train),
        pytest.param(jax_train, jax_export, torch_train, marks=pytest.mark.slow),
    ],
)
def test_every_export_of_a_run_decodes_as_its_start(tmp_path, train, export, other):
    """Its own, one made later, and that of a run which goes on from it."""
    start = start_in(tmp_path)
    done = run(
        train, tmp_path, "a", *options_of(start)[2:], model=options_of(start)[:2]
    )
    assert_same_decoding(done / "model", start)
    start.rename(tmp_path / "gone")
    start = tmp_path / "gone"
    assert export.main([str(done), "--to", str(tmp_path / "later")]) == 0
    assert_same_decoding(tmp_path / "later", start)
    more = go_on(other, tmp_path / "later", tmp_path, "more", 2)
    assert_same_decoding(more / "model", start)


@pytest.mark.parametrize("bos", [True, False])
def test_a_model_that_is_prepared_decodes_as_its_start(tmp_path, bos):
    start = start_in(tmp_path, bos=bos)
    asked = f"--model {start} --heads 3 --out {tmp_path / 'out'}"
    assert prepare.main(asked.split()) == 0
    assert_same_decoding(tmp_path / "out", start)


def test_with_another_tokenizer_no_id_is_kept(tmp_path):
    start = start_in(tmp_path)
    asked = f"--model {start} --heads 3 --tokenizer bytes --out {tmp_path / 'out'}"
    assert prepare.main(asked.split()) == 0
    found = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.temperature, found.top_p) == (0.6, 0.9)
    assert (found.eos_token_id, found.bos_token_id) == (1, None)
    assert found.suppress_tokens is None


def test_without_the_file_the_config_tells(tmp_path):
    start = start_in(tmp_path, generation=None)
    (start / "generation_config.json").unlink()
    config = json.loads((start / "config.json").read_text())
    config |= {"eos_token_id": [3, 2]}
    (start / "config.json").write_text(json.dumps(config))
    asked = f"--model {start} --heads 3 --out {tmp_path / 'out'}"
    assert prepare.main(asked.split()) == 0
    made = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert made["eos_token_id"] == [3, 2]


OWN = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


@pytest.mark.parametrize(
    "kept, made",
    [
        ({}, {"bos_token_id": 1, "eos_token_id": 2}),
        (DECODING, DECODING),
        ({"eos_token_id": 2, "top_k": 5}, {"eos_token_id": 2, "top_k": 5}),
        # Where documents end decoding ends, and no id is beyond the rows.
        ({"top_k": 5}, {"eos_token_id": 2, "top_k": 5}),
        ({"eos_token_id": 3}, {"eos_token_id": [3, 2]}),
        ({"eos_token_id": [3, 300]}, {"eos_token_id": [3, 2]}),
        ({"eos_token_id": 300, "pad_token_id": 300}, {"eos_token_id": 2}),
        ({"eos_token_id": 2, "suppress_tokens": [1, 300]}, {"eos_token_id": 2}),
        ({"eos_token_id": 2, "bad_words_ids": [[1], [300]]}, {"eos_token_id": 2}),
    ],
)
def test_ids_stay_valid(kept, made):
    assert make_generation(kept, OWN, vocab_size=263) == made


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    start = start_in(tmp_path)
    (start / "generation_config.json").write_text("{")
    asked = f"--model {start} --heads 3 --out {tmp_path / 'out'}"
    assert prepare.main(asked.split()) == 2
    said = capsys.readouterr().err
    assert "generation_config.json must be JSON" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
