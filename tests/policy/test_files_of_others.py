"""Files that somebody sends: one clear line each, exit code 2, and nothing is run.

Both trainers are given each in an empty folder, in which a file that was left, the
canary too, is seen (`error_line`).
"""

import json
from pathlib import Path

import pytest

from tests import refused
from tests.policy import hostile
from tests.policy.hostile import CANARY, DEEP
from tests.refused import error_line, mbpp_rows, write_rows

folder = refused.folder
pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("kind", ["pickle", "yaml", "npz"])
def test_the_canary_sings_where_a_file_is_obeyed(folder, kind):
    """So that its silence below says something."""
    hostile.obey(folder, kind)
    assert (folder / CANARY).exists()


# --- models -------------------------------------------------------------------------

PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "a.ckpt"]
NAMED = {
    "the model": ["--model", "sent"],
    "the reference": ["--algo", "rho1-weighted", "--reference", "sent"],
    "the reward model": ["--algo", "critic", "--critic.reward-model", "sent"],
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_the_place_of_weights(folder, name, capsys):
    hostile.model_folder(folder / "sent")
    (folder / "sent" / name).write_bytes(hostile.pickled(folder))
    line = error_line(capsys, *WHOLE)
    assert f"got the pickle {name}" in line and "it can run code" in line


@pytest.mark.parametrize("place", NAMED)
def test_a_pickle_of_every_model_that_is_named(folder, place, capsys):
    hostile.model_folder(folder / "sent")
    (folder / "sent" / "pytorch_model.bin").write_bytes(hostile.pickled(folder))
    line = error_line(capsys, *NAMED[place])
    assert "sent" in line and "pickle" in line


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BIG = 2**40
# Content of `model.safetensors`, and what the line says.
TENSORS = {
    "pickle": (b"\x80\x04N.", "whole safetensors"),
    "huge header": (hostile.safetensors({}, size=BIG), "whole safetensors"),
    "header of 2^63": (hostile.safetensors({}, size=2**63), "whole safetensors"),
    "overlap": (
        hostile.safetensors({"x": ENTRY, "y": ENTRY | {"data_offsets": [4, 12]}}),
        "whole safetensors",
    ),
    "beyond the end": (
        hostile.safetensors({"x": ENTRY | {"data_offsets": [0, BIG]}}),
        "whole safetensors",
    ),
    "more than there is": (
        hostile.safetensors({"x": ENTRY | {"shape": [BIG], "data_offsets": [0, 8]}}),
        "whole safetensors",
    ),
    "product past 2^64": (
        hostile.safetensors({"x": ENTRY | {"shape": [2**33, 2**33]}}),
        "whole safetensors",
    ),
    "negative shape": (
        hostile.safetensors({"x": ENTRY | {"shape": [-2]}}),
        "whole safetensors",
    ),
    "twice": (
        hostile.safetensors(b'{"x":%b,"x":%b}' % ((json.dumps(ENTRY).encode(),) * 2)),
        "'x' twice",
    ),
    "dtype": (
        hostile.safetensors(
            {"transformer.wte.weight": ENTRY | {"dtype": "I64", "shape": [1]}}
        ),
        "",
    ),
    "a hole": (
        hostile.safetensors({"x": ENTRY | {"data_offsets": [8, 16]}}, b"\0" * 16),
        "whole safetensors",
    ),
    "deep": (hostile.safetensors(DEEP), "whole safetensors"),
    "a name of a terminal": (hostile.safetensors({"\x1b[2J\n": ENTRY}), ""),
}


@pytest.mark.parametrize("case", TENSORS)
def test_safetensors_that_lie(folder, case, capsys):
    content, says = TENSORS[case]
    hostile.model_folder(folder / "sent")
    (folder / "sent" / "model.safetensors").write_bytes(content)
    line = error_line(capsys, *WHOLE)
    assert says in line and "sent" in line
    assert line[:-1].isprintable()


WHOLE = "--model sent --data.tokenizer bytes".split()


@pytest.mark.parametrize("case", ["deep", "twice", "list", "huge", "nan", "text"])
def test_a_config_of_a_model_that_lies(folder, case, capsys):
    file = hostile.model_folder(folder / "sent") / "config.json"
    found = json.loads(file.read_text())
    texts = {
        "deep": DEEP.decode(),
        "twice": json.dumps(found)[:-1] + ', "n_layer": 1}',
        "list": "[]",
        "huge": json.dumps(found | {"n_layer": 10**18}),
        "nan": json.dumps(found | {"layer_norm_epsilon": float("nan")}),
        "text": json.dumps(found | {"model_type": "../../x\x1b[2J\n"}),
    }
    file.write_text(texts[case])
    line = error_line(capsys, *WHOLE)
    assert "config.json" in line and line[:-1].isprintable()


def test_code_beside_a_model_is_not_run(folder, capsys):
    """Neither its model's, nor its tokenizer's, nor what a chat template reaches."""
    sent = hostile.model_folder(folder / "sent")
    (sent / "mine.py").write_text(f"open({str(folder / CANARY)!r}, 'w')\n")
    for name, key in (("config.json", "AutoModelForCausalLM"),
                      ("tokenizer_config.json", "AutoTokenizer")):  # fmt: skip
        found = json.loads((sent / name).read_text())
        found |= {"auto_map": {key: "mine.Mine", "AutoConfig": "mine.Mine"}}
        found |= {"tokenizer_class": "Mine", "model_type": "mine"}
        (sent / name).write_text(json.dumps(found))
    error_line(capsys, "--model", "sent")
    line = error_line(capsys, "--data.tokenizer", "sent")
    assert "data.tokenizer must be" in line


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.mkdir('canary') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10000000000) | list }}",
    ],
)
def test_a_chat_template_reaches_nothing(folder, template, capsys):
    sent = hostile.model_folder(folder / "sent")
    (sent / "chat_template.jinja").write_text(template)
    row = {"messages": [{"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b"}]}  # fmt: skip
    for name in ("train", "validation", "reference"):
        write_rows(Path(f"data/{name}.jsonl"), row)
    line = error_line(capsys, "--data.tokenizer", "sent", "--data", "data")
    assert "template" in line


# --- data and settings ---------------------------------------------------------------

LINES = {
    "deep": (DEEP, "more than 100 levels"),
    "deep objects": (b'{"a":' * 100_000, "more than 100 levels"),
    "as deep as Python reads": (b"[" * 960 + b"]" * 960, "more than 100 levels"),
    "half a character": (b'{"prompt": "\\ud800", "completion": "x"}', "surrogate"),
    "half a character in an id": (
        b'{"id": "\\udfff", "prompt": "", "completion": "x"}',
        "surrogate",
    ),
    "a byte of nothing": (b'{"prompt": "\0", "completion": ""}', "JSON object"),
    "a number of 5000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "JSON object"),
    "a key twice": (
        b'{"prompt": "a", "prompt": "b", "completion": ""}',
        "'prompt' twice",
    ),
    "an enormous line": (b'{"prompt": "' + b"a" * 5_000_000, "JSON object"),
    "a pickle": (b"\x80\x04N.", "UTF-8"),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_examples_that_lie(case, capsys):
    content, says = LINES[case]
    write_rows(Path("data/validation.jsonl"), *mbpp_rows(3))
    Path("data/train.jsonl").write_bytes(content + b"\n")
    line = error_line(capsys, "--data", "data")
    assert says in line and "train.jsonl, line 1" in line
    assert line[:-1].isprintable() and len(line) < 500


@pytest.mark.parametrize("name", ["x.pt", "x.npz", "x.pkl", "x.parquet", "x.jsonl.gz"])
def test_data_of_another_kind(folder, name, capsys):
    content = hostile.array_of_objects(folder)
    Path(name).write_bytes(content if name == "x.npz" else hostile.pickled(folder))
    assert "data.source must be" in error_line(capsys, "--data", name)


def test_parquet_files_that_are_none(folder, capsys):
    Path("data/data").mkdir(parents=True)
    Path("data/data/train-0.parquet").write_bytes(hostile.pickled(folder))
    assert "whole parquet files" in error_line(capsys, "--data", "data")


@pytest.mark.parametrize("option", ["--recipe", "--config"])
def test_a_tag_of_yaml_is_not_obeyed(folder, option, capsys):
    Path("sent.yaml").write_text(hostile.tagged(folder))
    line = error_line(capsys, option, "sent.yaml")
    assert "could not determine a constructor" in line and "sent.yaml, line 1" in line


# --- names --------------------------------------------------------------------------

LONG = "a" * 5000
NAMES = {
    "run above": (["--run-name", "../x"], "run_name"),
    "run at the root": (["--run-name", "/x"], "run_name"),
    "run of a terminal": (["--run-name", "\x1b[2J"], "run_name"),
    "split above": (["--data.train-split", "../x"], "data.train_split"),
    "split at the root": (["--data.train-split", "/etc/passwd"], "data.train_split"),
    "split of two lines": (["--data.train-split", "a\nb"], "a\\nb.jsonl"),
    "split of a terminal": (["--data.train-split", "\x1b[2J"], "\\x1b[2J.jsonl"),
    "data of a long name": (["--data", LONG], "name too long"),
    "tokenizer of a long name": (["--data.tokenizer", LONG], "name too long"),
    "model of a long name": (["--model", LONG], "model.name"),
    "hub above": (["--model", "a/../../x"], "model.name"),
    "revision above": (["--model", "a/b", "--model.revision", "../x"], "revision"),
    "resume of a long name": (["--resume", LONG], "name too long"),
    "resume of a byte of nothing": (["--resume", "a\0b"], "--resume"),
    "recipe of a long name": (["--recipe", LONG], "name too long"),
    "tokenizer of two lines": (["--data.tokenizer", "a\nb"], "data.tokenizer"),
    "a step that is no number": (["--resume", "x/checkpoints/²"], "--resume"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_lead_elsewhere(case, capsys):
    argv, says = NAMES[case]
    line = error_line(capsys, *argv)
    assert says.lower() in line.lower()
    assert line[:-1].isprintable() and len(line) < 4200


NUMBERS = {
    "layers": ["--model.num-layers", str(10**12)],
    "width": ["--model.width", str(10**400)],
    "epochs": ["--train.epochs", str(10**12)],
    "epochs of the reference": ["--reference.epochs", str(10**12)],
    "seed": ["--seed", str(2**64)],
    "rate": ["--optimizer.lr", "nan"],
    "floor": ["--weighting.weight-floor=-inf"],
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_would_never_end(case, capsys):
    line = error_line(capsys, *NUMBERS[case])
    assert "must be" in line and line[:-1].isprintable()


def test_links_in_a_ring(capsys):
    for name in ("ring.jsonl", "ring", "ring.yaml"):
        Path(name).symlink_to(name)
    refusing = [["--data", "ring.jsonl"], ["--data", "ring"], ["--model", "ring"]]
    refusing += [["--recipe", "ring.yaml"], ["--resume", "ring"]]
    refusing += [["--data.tokenizer", "ring"]]
    for argv in refusing:
        # Files of a folder are read to see that nothing is left; a ring has none.
        assert "ring" in error_line(capsys, *argv)


def test_a_run_whose_name_is_a_link_to_nothing(folder, capsys):
    Path("runs").mkdir()
    Path("runs/mine").symlink_to("nowhere")
    line = error_line(capsys, "--run-name", "mine")
    assert "run_name must be new" in line and Path("runs/mine").is_symlink()
