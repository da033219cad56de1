"""Both trainers from the command line: what one has begun, the other goes on with."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.minis import gap
from tests.trained import go_on, made_once, rows, run, shared_folder
from wmtp_jax import export as jax_export
from wmtp_jax import prepare
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

BACKENDS = {"jax": (jax_train, jax_export), "torch": (torch_train, torch_export)}
FILES = ("model", "mtp_heads", "value_head", "training_state")
TEN = "--train.max-steps 10 --train.eval-every 5 --train.save-every 5"
METRICS = ("loss", "nll_head_0", "nll_head_3", "weight_entropy", "grad_norm_trunk")
EVALUATED = ("eval_nll_head_0", "eval_nll_head_3")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with heads and value head: the same start in both trainers."""

    def make(out):
        arguments = f"--model smoke --random-init --heads 4 --value-head --out {out}"
        assert prepare.main(arguments.split()) == 0

    return made_once(shared_folder(tmp_path_factory) / "prepared-4", make)


def tensors(folder):
    """Model, heads, value head and moments of an export, by file and name."""
    found = {}
    for file in FILES:
        if (path := folder / f"{file}.safetensors").exists():
            found |= {f"{file}: {n}": x for n, x in load_file(path).items()}
    return found


def without_keys(name, tensor):
    """Less a bias of all keys, which moves no softmax: its gradient is rounding."""
    if not name.endswith("c_attn.bias"):
        return tensor
    width = tensor.shape[0] // 3
    return np.concatenate([tensor[:width], tensor[2 * width :]])


@pytest.mark.parametrize(
    "algo", [pytest.param("rho1-weighted", marks=pytest.mark.slow), "critic"]
)
def test_five_steps_and_five_are_ten_in_either(algo, start, tmp_path):
    """Reference and stage 1 are each trainer's own; model, moments, metrics agree."""
    options = f"--algo {algo} --optimizer.lr 1e-3 {TEN}".split()
    if algo == "critic":
        # A random model says nothing of rewards, so values are all but the same: TD
        # errors would be rounding, and their z-scores other ones in each trainer.
        options += ["--critic.score", "advantage"]
    ends = {}
    for name, (trainer, export) in BACKENDS.items():
        place = (trainer, tmp_path / name, "whole")
        ends[name] = run(*place, *options, model=["--model", str(start)])
        half = [f"{ends[name]}/checkpoints/5", "--to", str(tmp_path / name / "half")]
        assert export.main(half) == 0
    for name, other in (("jax", "torch"), ("torch", "jax")):
        source = tmp_path / other / "half"
        crossed = go_on(BACKENDS[name][0], source, tmp_path / name, "crossed", 10)
        ends[f"{other}, then {name}"] = crossed

    found = {}
    for name, end in ends.items():
        out = tmp_path / f"end of {name}"
        _, export = BACKENDS[name.split()[-1]]
        assert export.main([str(end), "--to", str(out)]) == 0
        found[name] = tensors(out)
    right, steps = found["jax"], rows(ends["jax"])
    for name, end in ends.items():
        assert found[name].keys() == right.keys()
        for tensor, x in found[name].items():
            pair = (without_keys(tensor, y) for y in (x, right[tensor]))
            assert gap(*pair) <= 1e-3, (name, tensor)
        for step, row in rows(end).items():
            named = METRICS if step else ()
            for metric in (*named, *(EVALUATED if step % 5 == 0 else ())):
                there = (name, step, metric)
                assert row[metric] == pytest.approx(steps[step][metric], rel=1e-4), (
                    there
                )
    assert json.loads((ends["torch"] / "summary.json").read_text())["steps"] == 10


@pytest.mark.slow
def test_a_reward_model_says_the_same_in_both_trainers(tmp_path):
    reward = tmp_path / "reward"
    made = f"--model smoke --kind reward --random-init --seed 3 --out {reward}"
    assert prepare.main(made.split()) == 0
    found = []
    for name, (trainer, _) in BACKENDS.items():
        options = ["--algo", "critic", "--reward-model", str(reward)]
        options += ["--train.max-steps", "1"]
        done = run(trainer, tmp_path / name, "a", *options, model=["--model", "smoke"])
        summary = json.loads((done / "summary.json").read_text())
        assert "score of" in summary["reward"] and summary["reference"] is None
        found.append(load_file(done / "signals" / "reward-train.safetensors"))
    assert found[0].keys() == found[1].keys()
    for name, x in found[0].items():
        np.testing.assert_allclose(found[1][name], x, atol=1e-4)
        assert x.std() > 0


def test_a_run_of_the_other_backend_is_refused_with_the_way_out(
    whole_run, tmp_path, capsys
):
    done = whole_run(torch_train, "baseline")
    arguments = ["--resume", str(done), "--output-dir", str(tmp_path)]
    assert jax_train.main(arguments) == 2
    said = capsys.readouterr().err
    assert "wmtp_torch_mps has written" in said and said.count("\n") == 1
