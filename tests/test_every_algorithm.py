"""Every algorithm trains in either trainer, and leaves a run folder that says so.

The runs are those that other tests read, too (`tests/trained.py`).
"""

import json

import pytest

from shared.huggingface.config_json import read_hf_config
from tests.minis import ALGOS
from tests.trained import EVAL_EVERY, SAVE_EVERY, STEPS, rows
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("backend", [jax_train, torch_train])
def test_every_algorithm_trains(backend, algo, whole_run):
    done = whole_run(backend, algo)
    summary = json.loads((done / "summary.json").read_text())
    assert backend.__name__ == summary["backend"] + ".train"
    assert (summary["algo"], summary["steps"]) == (algo, STEPS)
    before, after = summary["eval_before"], summary["eval_after"]
    assert after["eval_nll_head_0"] < before["eval_nll_head_0"]
    logged = rows(done)
    assert [*logged] == [*range(STEPS + 1)]
    evaluated = [step for step, row in logged.items() if "eval_nll_head_0" in row]
    assert evaluated == [*range(0, STEPS + 1, EVAL_EVERY)]
    saved = sorted(int(path.name) for path in (done / "checkpoints").glob("[0-9]*"))
    assert saved == [*range(0, STEPS + 1, SAVE_EVERY)]
    assert read_hf_config(done / "model").num_heads == 2
    assert (done / "model" / "value_head.safetensors").is_file() == (algo == "critic")
