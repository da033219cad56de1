"""Cards in what both trainers export: the same facts, nothing of the machine."""

import re
import shutil

import pytest
import yaml
from transformers import AutoModelForCausalLM

from shared.card.card import is_untouched, write_card
from shared.huggingface.folder import files_digest
from shared.state.portable_state import check_state
from tests.exported import modules_cache  # noqa: F401  (a fixture that acts by itself)
from tests.trained import copy_of
from wmtp_jax import export as jax_export
from wmtp_jax import train as jax_train
from wmtp_torch_mps import evaluate as torch_evaluate
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

BACKENDS = [(jax_train, jax_export), (torch_train, torch_export)]
# What the trainers measure or are.
OWN = r"time: .*|trainer: .*|(?:jax|torch): .*|\b\d\.\d{4}\b|sha256 of .*"


def read(folder):
    return (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("train, export", BACKENDS)
def test_every_export_has_one(whole_run, tmp_path, train, export):
    run = whole_run(train, "baseline")
    text = read(run / "model")
    assert is_untouched(text) and str(run.parent) not in text
    for name, more in {"whole": [], "bare": ["--model-only"]}.items():
        out = tmp_path / name
        assert export.main([str(run), "--to", str(out), *more]) == 0
        assert read(out) == text
        assert files_digest(out) == files_digest(run / "model")
        assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
        AutoModelForCausalLM.from_pretrained(out)
    out = tmp_path / "whole"
    (out / "README.md").write_text("edited")
    check_state(out)
    (out / "README.md").unlink()
    check_state(out)
    checkpoint = run / "checkpoints" / "6"
    assert export.main([str(checkpoint), "--to", str(tmp_path / "six")]) == 0
    assert "after step 6" in read(tmp_path / "six")


def test_both_say_the_same_of_the_same_run(whole_run, tmp_path):
    texts = []
    for train, _ in BACKENDS:
        run = tmp_path / train.__name__ / "run"
        shutil.copytree(whole_run(train, "baseline"), run)
        before = read(run / "model")
        write_card(run)
        text = read(run / "model")
        named = before.replace("# `whole`", "# `run`")
        assert text.splitlines()[:-1] == named.splitlines()[:-1]
        texts.append(re.sub(OWN, "", text))
    assert texts[0] == texts[1]


def test_evaluate_puts_its_results_on_the_card(whole_run, tmp_path):
    """And on that of a later export of the same weights, not of others."""
    run = copy_of(whole_run(torch_train, "baseline"), tmp_path)
    asked = ["--model", str(run), "--tasks", "validation"]
    assert torch_evaluate.main(asked) == 0
    text = read(run / "model")
    (row,) = [x for x in text.splitlines() if x.startswith("| validation split |")]
    assert " [" in row and is_untouched(text)
    for step, there in {12: True, 6: False}.items():
        out = tmp_path / str(step)
        checkpoint = run / "checkpoints" / str(step)
        assert torch_export.main([str(checkpoint), "--to", str(out)]) == 0
        assert (row in read(out)) == there


def test_the_lines_that_load_it_load_it(whole_run):
    folder = whole_run(torch_train, "baseline") / "model"
    (lines,) = re.findall(r"```python\n(.*?)```", read(folder), re.DOTALL)
    lines = lines.replace('"."', repr(str(folder)))
    found = {}
    exec(lines.replace("\nAuto", "\nmodel = Auto"), found)
    assert type(found["model"]).__name__ == "WMTPForCausalLM"
