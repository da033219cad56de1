"""Sources, splits and documents; every error names what to mend."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.config.fields import DataConfig
from shared.data.documents import load_examples, load_splits
from shared.data.tokenizer import load_tokenizer

REAL = Path(__file__).parents[3] / "shared" / "data"
BYTES = load_tokenizer("bytes")
SPLITS = ("train", "reference", "validation")

COMPLETION = {"prompt": "ab", "completion": "cde"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def completions(n, start=0):
    return [{"id": i, "prompt": f"p{i}", "completion": "c"} for i in range(start, n)]


def folder(tmp_path, **splits):
    for name, rows in (
        {"train": completions(3), "validation": completions(4)} | splits
    ).items():
        write(tmp_path / f"{name}.jsonl", rows)
    return DataConfig(source=str(tmp_path))


def ids(examples):
    return {name: [row["id"] for row in split] for name, split in examples.items()}


# Sources


def test_a_folder_without_reference_gives_it_the_even_ids(tmp_path):
    cfg = folder(tmp_path, validation=completions(16, start=11), test=completions(2))
    assert ids(load_examples(cfg)) == {
        "train": ["0", "1", "2"],
        "reference": ["12", "14"],
        "validation": ["11", "13", "15"],
        "test": ["0", "1"],
    }


def test_ids_that_end_in_no_integer_count_by_row(tmp_path):
    names = ["HumanEval/4", "mbpp_7", "x", "sum2"]
    rows = [COMPLETION | {"id": name} for name in names]
    examples = ids(load_examples(folder(tmp_path, validation=rows)))
    assert examples["reference"] == ["HumanEval/4", "x"]
    assert examples["validation"] == ["mbpp_7", "sum2"]


def test_a_folder_with_reference_keeps_validation_whole(tmp_path):
    examples = ids(load_examples(folder(tmp_path, reference=completions(2))))
    assert examples["reference"] == ["0", "1"]
    assert examples["validation"] == ["0", "1", "2", "3"]
    assert "test" not in examples


def test_train_split_names_the_file(tmp_path):
    cfg = folder(tmp_path, train_mini=completions(1))
    examples = ids(load_examples(replace(cfg, train_split="train_mini")))
    assert examples["train"] == ["0"]
    for name in ("validation", "reference", "test", "../train", ""):
        with pytest.raises(ValueError, match=r"data\.train_split must name a file"):
            load_examples(replace(cfg, train_split=name))
    with pytest.raises(ValueError, match=r"needs .*absent\.jsonl as a readable file"):
        load_examples(replace(cfg, train_split="absent"))


def test_one_file_is_cut_by_row_number(tmp_path):
    file = write(tmp_path / "all.jsonl", completions(21))
    cfg = DataConfig(source=str(file))
    examples = ids(load_examples(cfg))
    assert examples["reference"] == ["8", "18"]
    assert examples["validation"] == ["9", "19"]
    assert len(examples["train"]) == 17
    with pytest.raises(ValueError, match=r"must be 'train' where data.source is one"):
        load_examples(replace(cfg, train_split="train_mini"))


@pytest.mark.parametrize("source", ["nowhere", "data.csv", ""])
def test_no_such_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    required = "`code_contests`, a folder with train.jsonl and|as a readable file"
    with pytest.raises(ValueError, match=required):
        load_examples(DataConfig(source=source))


def test_missing_unreadable_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl as a readable file.*No such"):
        load_examples(DataConfig(source=str(tmp_path / "nowhere.jsonl")))
    cfg = folder(tmp_path)
    (tmp_path / "validation.jsonl").unlink()
    with pytest.raises(ValueError, match=r"validation\.jsonl as a readable file"):
        load_examples(cfg)
    (tmp_path / "validation.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"validation\.jsonl as .*Is a directory"):
        load_examples(cfg)
    (tmp_path / "train.jsonl").write_text("\n  \n")
    with pytest.raises(ValueError, match=r"train\.jsonl must have at least one line"):
        load_examples(cfg)


def test_a_split_that_stays_empty_is_an_error(tmp_path):
    file = write(tmp_path / "all.jsonl", completions(9))
    with pytest.raises(ValueError, match="got none for 'validation'"):
        load_examples(DataConfig(source=str(file)))
    with pytest.raises(ValueError, match="got none for 'reference'"):
        load_examples(folder(tmp_path, validation=[COMPLETION | {"id": 1}]))


def test_max_examples_takes_the_first_of_each_split(tmp_path):
    cfg = folder(tmp_path, train=completions(9), validation=completions(16, start=11))
    assert ids(load_examples(replace(cfg, max_examples=2))) == {
        "train": ["0", "1"],
        "reference": ["12", "14"],
        "validation": ["11", "13"],
    }
    assert ids(load_examples(replace(cfg, max_examples=99))) == ids(load_examples(cfg))
    cfg = DataConfig(source=str(write(tmp_path / "all.jsonl", completions(21))))
    assert ids(load_examples(replace(cfg, max_examples=1))) == {
        "train": ["0"],
        "reference": ["8"],
        "validation": ["9"],
    }
    minis = load_examples(DataConfig(max_examples=3))
    assert {len(split) for split in minis.values()} == {3}


# Ids of MBPP


def mbpp(*ids):
    text = {"text": "Add.", "code": "pass", "test_list": ["assert f(1) == 2"]}
    return [{"task_id": i} | text for i in ids]


@pytest.mark.parametrize("wrong", [11, 510, "11", "0042"])
@pytest.mark.parametrize("split", ["train", "reference"])
def test_the_test_split_of_mbpp_is_never_trained_on(tmp_path, split, wrong):
    rows = {"train": mbpp(601), "validation": mbpp(513), "reference": mbpp(512)}
    rows[split] = rows[split] + mbpp(wrong, 12)
    with pytest.raises(ValueError) as caught:
        load_examples(folder(tmp_path, **rows))
    text = str(caught.value)
    assert text.startswith(f"split {split!r} must have no task_id of MBPP's test split")
    assert f"(11 to 510), got {int(wrong)} in" in text and "as 'own/" in text
    assert "\n" not in text


def test_ids_of_mbpp_that_may_be_trained_on(tmp_path):
    allowed = mbpp(1, 10, 511, 975, "own/11", "11a", -11, 600)
    cfg = folder(tmp_path, train=allowed, validation=mbpp(1, 2, 13), test=mbpp(11, 510))
    assert len(load_examples(cfg)["train"]) == len(allowed)
    # another format's integers are not MBPP's
    cfg = folder(tmp_path, train=completions(20), validation=completions(14, start=11))
    assert len(load_examples(cfg)["reference"]) == 1


def test_validation_gives_no_test_problem_to_the_reference(tmp_path):
    cfg = folder(tmp_path, train=mbpp(601), validation=mbpp(511, 12))
    with pytest.raises(ValueError, match=r"split 'reference' must have no .* got 12"):
        load_examples(cfg)
    file = write(tmp_path / "all.jsonl", mbpp(*range(20, 40)))
    with pytest.raises(ValueError, match=r"split 'train' must have no .* got 20"):
        load_examples(DataConfig(source=str(file)))


# Documents


def documents(tmp_path, row, **fields):
    cfg = replace(folder(tmp_path, train=[row]), **fields)
    return load_splits(cfg, BYTES, splits=("train",))["train"]


def test_a_document_is_prompt_completion_eos(tmp_path):
    split = documents(tmp_path, COMPLETION)
    (document,) = split.documents
    assert document.tokens.tolist() == [100, 101, 102, 103, 104, 1]
    assert document.target.tolist() == [False, True, True, True, True, True]
    assert (document.tokens.dtype, document.target.dtype) == (np.int32, np.bool_)
    assert (split.name, split.num_cut, document.id) == ("train", 0, "0")


@pytest.mark.parametrize(
    "row, target",
    [
        (COMPLETION, [0, 0, 1, 1, 1, 1]),
        ({"prompt": "", "completion": "cde"}, [0, 1, 1, 1]),
        ({"prompt": "ab", "completion": ""}, [0, 0, 1]),
    ],
)
def test_loss_on_completion(tmp_path, row, target):
    (document,) = documents(tmp_path, row, loss_on="completion").documents
    assert document.target.astype(int).tolist() == target


def test_cut_at_the_end_without_eos(tmp_path):
    cut = documents(tmp_path, COMPLETION, max_length=5)
    assert cut.documents[0].tokens.tolist() == [100, 101, 102, 103, 104]
    assert cut.num_cut == 1
    fits = documents(tmp_path, COMPLETION, max_length=6)
    assert fits.documents[0].tokens[-1] == BYTES.eos_id and fits.num_cut == 0


def test_a_split_without_targets_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="every prompt fills a row"):
        documents(tmp_path, COMPLETION, max_length=2, loss_on="completion")
    assert documents(tmp_path, COMPLETION, max_length=2).documents[0].target[1]


def test_a_document_with_nothing_to_predict_is_an_error(tmp_path):
    empty = {"id": "nothing", "prompt": "", "completion": ""}
    with pytest.raises(
        ValueError, match="a token of text, got none in example 'nothing'"
    ):
        documents(tmp_path, empty)


def test_only_the_named_splits(tmp_path):
    cfg = folder(tmp_path)
    assert list(load_splits(cfg, BYTES, splits=SPLITS)) == list(SPLITS)
    with pytest.raises(ValueError, match=r"splits must be among .* got \['test'\]"):
        load_splits(cfg, BYTES, splits=("train", "test"))


def test_examples_that_are_read_already_are_not_read_again(tmp_path):
    cfg = folder(tmp_path)
    examples = load_examples(cfg)
    (tmp_path / "train.jsonl").unlink()
    split = load_splits(cfg, BYTES, splits=("train",), examples=examples)["train"]
    assert [document.id for document in split.documents] == ["0", "1", "2"]


def test_the_digest_sees_ids_tokens_and_targets(tmp_path):
    def digest(row=COMPLETION, **fields):
        return documents(tmp_path, row, **fields).digest

    digests = [
        digest(),
        digest(COMPLETION | {"id": "other"}),
        digest(COMPLETION | {"completion": "cdf"}),
        digest(loss_on="completion"),
        digest(max_length=5),
    ]
    assert digests[0] == digest() and len(set(digests)) == len(digests)


# The minis, and real data where it is at hand


def test_the_minis():
    examples = load_examples(DataConfig())
    least = {"train": 60, "reference": 20, "validation": 15, "test": 15}
    assert {n: len(s) >= least[n] for n, s in examples.items()} == dict.fromkeys(
        least, True
    )
    prompts = [row["prompt"] for split in examples.values() for row in split]
    assert len(set(prompts)) == len(prompts)
    mini = load_splits(DataConfig(train_split="train_mini"), BYTES, splits=SPLITS)
    assert len(mini["train"].documents) == 10


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the checkout")
@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_real_mbpp_and_humaneval(tokenizer):
    name = str(REAL / "gpt2_tokenizer") if tokenizer == "gpt2" else tokenizer
    loaded = load_tokenizer(name)
    if tokenizer == "gpt2":
        assert (loaded.vocab_size, loaded.eos_id) == (50257, 50256)
        assert loaded.eos_id not in loaded.encode("a<|endoftext|>b")
    cfg = DataConfig(source=str(REAL / "mbpp"), max_length=4096)
    splits = load_splits(cfg, loaded, splits=SPLITS)
    assert [len(split.documents) for split in splits.values()] == [374, 45, 45]
    assert all(int(d.id) % 2 for d in splits["validation"].documents)
    examples = load_examples(cfg)["train"]
    for document, row in zip(splits["train"].documents, examples, strict=True):
        assert document.tokens[-1] == loaded.eos_id
        assert loaded.decode(document.tokens) == row["prompt"] + row["completion"]
        assert "\r\n" not in row["completion"]
    test = DataConfig(source=str(REAL / "mbpp" / "test.jsonl"))
    with pytest.raises(ValueError, match=r"of MBPP's test split .* got 11 in"):
        load_examples(test)
    file = DataConfig(source=str(REAL / "humaneval" / "test.jsonl"))
    sizes = {name: len(split) for name, split in load_examples(file).items()}
    assert sizes == {"train": 132, "reference": 16, "validation": 16}
