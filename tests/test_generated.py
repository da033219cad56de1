"""Texts that a model writes to its own prompts, and heads that learn on them."""

import json

import pytest

from shared.config.fields import MachineConfig
from shared.data.tokenizer import load_tokenizer
from shared.decoding.generated import BEYOND, Generated, prompts_of
from shared.decoding.requests import Request, Sampling
from tests.trained import made_once, rows, shared_folder
from wmtp_jax import prepare, train_heads

ROOM = 48  # data.max_length
LINES = [
    {"id": i, "prompt": f"def f{i}(x, y):\n", "completion": f"    return x + {i}\n"}
    for i in range(30)
]
OPTIONS = (
    f"--data.max-length {ROOM} --tracking jsonl --device cpu --data.max-examples 12 "
    "--train.max-steps 4 --train.save-every 9 --report 1 --tokens 6 --rows 4"
).split()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a small model, `model`, and prompts, `data.jsonl`."""

    def make(folder):
        out = folder / "model"
        asked = f"--model smoke --random-init --heads 1 --out {out}"
        assert prepare.main(asked.split()) == 0
        lines = [json.dumps(line) + "\n" for line in LINES]
        (folder / "data.jsonl").write_text("".join(lines))

    return made_once(shared_folder(tmp_path_factory) / "writes", make)


def asked(given, out, *more):
    place = ["--model", str(given / "model"), "--data", str(given / "data.jsonl")]
    return train_heads.main([*place, "--out", str(out), *OPTIONS, *more])


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# The texts on disk.


def some_prompts(count=12):
    examples = {
        "train": [row | {"id": str(row["id"])} for row in LINES[:count]],
        "validation": [row | {"id": f"v{row['id']}"} for row in LINES[:20]],
    }
    of = {"chat": False, "max_length": ROOM, "most_length": 128}
    return prompts_of(examples, load_tokenizer("bytes"), **of)


def test_a_text_may_fill_its_row_and_no_more():
    """So that only a whole text is a document with an eos."""
    found = some_prompts()
    assert [p.split for p in found] == ["train"] * 12 + ["validation"] * 8
    for prompt in found:
        assert len(prompt.ids) + prompt.most == ROOM + BEYOND
    examples = {"train": LINES, "validation": LINES}
    of = {"chat": False, "max_length": ROOM, "most_length": 40}
    for prompt in prompts_of(examples, load_tokenizer("bytes"), **of):
        assert len(prompt.ids) + prompt.most == 40
    with pytest.raises(ValueError, match=r"prompts must be shorter than .* = 5, got"):
        prompts_of(examples, load_tokenizer("bytes"), **of | {"max_length": 5})


def test_texts_of_a_killed_writer_are_not_written_again(tmp_path):
    prompts = some_prompts()
    first = Generated(tmp_path / "a", prompts)
    for prompt in prompts[:5]:
        first.keep(prompt, f"text of {prompt.id}\n")
    with open(tmp_path / "a" / "texts.jsonl", "a") as file:
        file.write('{"split": "train", "id": "5", "te')
    again = Generated(tmp_path / "a", prompts)
    assert again.missing == prompts[5:]
    for prompt in again.missing:
        again.keep(prompt, "" if prompt.id == "7" else f"text of {prompt.id}\n")
    assert Generated(tmp_path / "a", prompts).missing == []
    again.finish()
    found = lines_of(tmp_path / "a" / "train.jsonl")
    assert [row["id"] for row in found] == [str(i) for i in range(12) if i != 7]
    assert found[3]["completion"] == "text of 3\n"
    assert found[3]["prompt"] == LINES[3]["prompt"]
    assert lines_of(tmp_path / "a" / "validation.jsonl")[0]["id"] == "v0"


def test_what_nobody_has_written_is_told(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"split": "train"}\n')
    with pytest.raises(ValueError, match=r"texts.jsonl must hold .* in line 1"):
        Generated(tmp_path, some_prompts())


def test_a_conversation_is_completed_by_the_assistant():
    prompt = some_prompts()[0]
    said = [{"role": "user", "content": "hi"}]
    chat = type(prompt)("train", "0", {"id": "0", "messages": said}, (1,), 4)
    assert chat.completed("ho")["messages"] == [
        *said,
        {"role": "assistant", "content": "ho"},
    ]


# The command.


def test_it_is_one_command_that_goes_on_where_it_was_stopped(
    given, tmp_path, monkeypatch, capsys
):
    keep, kept = Generated.keep, []

    def stopping(self, prompt, text):
        keep(self, prompt, text)
        kept.append(prompt.id)
        if len(kept) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Generated, "keep", stopping)
    out = tmp_path / "runs" / "heads"
    assert asked(given, out) == 130
    assert not out.exists()
    assert asked(given, out) == 0
    (folder,) = (tmp_path / "runs" / "generated").iterdir()
    texts = lines_of(folder / "texts.jsonl")
    assert len(kept) == len(texts) == len({(x["split"], x["id"]) for x in texts})
    # What the engine writes to each alone, whatever ran beside it.
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load

    model = load(str(given / "model"), MachineConfig(device="cpu"))
    for found in texts[:3]:
        engine = Engine(model, rows=1, drafter="none")
        ids = load_tokenizer("bytes").encode(LINES[int(found["id"])]["prompt"])
        most = Sampling(max_tokens=ROOM + BEYOND - len(ids))
        engine.submit(Request(prompt=tuple(ids), sampling=most))
        pieces = []
        while engine.busy:
            pieces += engine.step()
        assert "".join(piece.text for piece in pieces) == found["text"]
    # The heads of the run have learnt on those, and only they.
    summary = json.loads((out / "summary.json").read_text())
    assert summary["documents"]["train"] <= 12 and summary["heads"] == 4
    first, last = rows(out)[1], rows(out)[4]
    assert last["loss"] < first["loss"] and "nll_head_0" not in last
    acceptance = json.loads((out / "acceptance.json").read_text())
    names = [row["drafter"] for row in acceptance["drafters"]]
    assert names == ["none", "ngram", "heads", "both"]
    assert [row["head"] for row in acceptance["heads"]] == [0, 1, 2, 3]
    assert acceptance["drafters"][2]["same_text"] == 1
    capsys.readouterr()
    assert asked(given, out, "--report", "0") == 0  # all is there
    assert "nothing to go on with" in capsys.readouterr().out
    assert len(lines_of(folder / "texts.jsonl")) == len(texts)


@pytest.mark.parametrize(
    "words, part",
    [
        (["--rows", "0"], "--rows must be >= 1, got 0"),
        (["--heads.no-only"], "heads.only must be true here"),
        (["--heads", "1"], "heads.count must be >= 2 with only"),
        (["--optimizer.lrr", "1"], "unknown option --optimizer.lrr"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    given, tmp_path, words, part, capsys
):
    assert asked(given, tmp_path / "runs" / "a", *words) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
