"""The torch trainer from the command line: runs, resumes, and exchange with JAX."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared import data
from shared import inputs as inputs_module
from tests.parity import config, minis, start, torch_model
from tests.small import ALGOS
from wmtp_jax import train as jax_train
from wmtp_jax.export import main as jax_export
from wmtp_torch_mps import step, train
from wmtp_torch_mps.export import main as torch_export
from wmtp_torch_mps.state import init_state

SMALL = (
    "--model smoke --tracking jsonl --critic.stage1-epochs 1 --reference.epochs 1 "
    "--train.eval-every 5 --train.save-every 5 --train.keep-checkpoints 9 --device cpu "
    "--train.epochs 9"
).split()
MOMENTS = "training_state.safetensors"


def run(backend, folder, name, steps, *options):
    arguments = [*SMALL, "--output-dir", str(folder), "--run-name", name]
    limit = ["--train.max-steps", str(steps)]
    assert backend.main([*arguments, *limit, *options]) == 0
    return folder / name


def go_on(backend, source, folder, name, steps):
    """A new run from an exported folder."""
    options = f"--resume {source} --output-dir {folder} --run-name {name} --device cpu"
    limit = ["--train.max-steps", str(steps)]
    assert backend.main([*options.split(), *limit]) == 0
    return folder / name


def rows(run_folder):
    text = (run_folder / "metrics.jsonl").read_text()
    return {row["step"]: row for row in map(json.loads, text.splitlines())}


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_trains(algo, tmp_path):
    done = run(train, tmp_path, "a", 5, "--algo", algo)
    summary = json.loads((done / "summary.json").read_text())
    assert summary["backend"] == "wmtp_torch_mps"
    before, after = summary["eval_before"], summary["eval_after"]
    assert after["eval_nll_head_0"] < before["eval_nll_head_0"]
    assert (done / "model" / "config.json").is_file()


def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    whole = run(train, tmp_path, "whole", 10, "--algo", "critic")
    cut = run(train, tmp_path, "cut", 5, "--algo", "critic")
    resume = ["--resume", str(cut), "--train.max-steps", "10"]
    assert train.main([*resume, "--device", "cpu"]) == 0
    for file in ("model.safetensors", "mtp_heads.safetensors", MOMENTS):
        ours, right = (
            load_file(path / "checkpoints/10" / file) for path in (cut, whole)
        )
        assert ours.keys() == right.keys()
        assert all(np.array_equal(ours[name], right[name]) for name in ours), file


@pytest.mark.parametrize("algo", ["rho1-weighted", "critic"])
def test_a_run_goes_on_in_the_other_backend(algo, tmp_path):
    """5 steps in one, 5 in the other, are 10 in either."""
    jax_run = run(jax_train, tmp_path, "jax", 5, "--algo", algo)
    assert jax_export([str(jax_run), "--to", str(tmp_path / "export")]) == 0
    right = go_on(jax_train, tmp_path / "export", tmp_path, "jax10", 10)
    crossed = go_on(train, tmp_path / "export", tmp_path, "crossed", 10)
    half = go_on(train, tmp_path / "export", tmp_path, "half", 6)
    assert torch_export([str(half), "--to", str(tmp_path / "back")]) == 0
    back = go_on(jax_train, tmp_path / "back", tmp_path, "returned", 10)
    for other in (crossed, back):
        last = [rows(folder)[10] for folder in (right, other)]
        for name in ("loss", "nll_head_0", "eval_nll_head_0", "eval_nll_head_3"):
            assert last[1][name] == pytest.approx(last[0][name], rel=1e-4), name


def test_a_run_of_the_other_backend_is_refused_with_the_way_out(tmp_path, capsys):
    done = run(train, tmp_path, "torch", 2)
    arguments = ["--resume", str(done), "--output-dir", str(tmp_path)]
    assert jax_train.main(arguments) == 2
    said = capsys.readouterr().err
    assert "wmtp_torch_mps has written" in said and said.count("\n") == 1


def test_where_memory_runs_out_halves_do_the_same(monkeypatch):
    """The same step in micro-batches of half as many rows, to rounding."""
    cfg = config("critic", "linear", "default")
    (batches,) = minis("packed")
    params = start("linear", True)
    states = [init_state(torch_model(cfg, params)) for _ in range(2)]
    _, right = step.train_step(states[0], batches, 5)
    real = step.add_gradients

    def full(model, batch, *rest, **options):
        if batch.tokens_BL.shape[0] > 1:
            raise RuntimeError("MPS backend out of memory (injected)")
        return real(model, batch, *rest, **options)

    monkeypatch.setattr(step, "add_gradients", full)
    halved, metrics = step.train_step(states[1], batches, 5)
    assert halved.splits == 2 and metrics["micro_batch_rows"] == 1
    for name in ("loss", "value_loss", "grad_norm_trunk"):
        assert float(metrics[name]) == pytest.approx(float(right[name]), rel=1e-5)


@pytest.mark.float64  # torch's GradScaler takes float64 but on mps:0 (unscale_)
def test_float16_trains_and_resumes_with_its_scale(tmp_path):
    half = ["--machine.dtype", "float16"]
    done = run(train, tmp_path, "half", 5, *half)
    last = rows(done)[5]
    assert last["loss_scale"] == 2.0**12  # none was skipped
    assert last["eval_nll_head_0"] < rows(done)[0]["eval_nll_head_0"]
    assert train.main(["--resume", str(done), "--train.max-steps", "6"]) == 0
    assert rows(done)[6]["loss_scale"] == 2.0**12


@pytest.mark.parametrize(
    "options, parts",
    [
        ("--device gpu", "machine.device must be auto, cpu or mps in wmtp_torch_mps"),
        ("--machine.dtype bfloat16", "machine.dtype must be float32 or float16 in"),
        ("--machine.attention cudnn --machine.dtype bfloat16", "machine.dtype must"),
        ("--algo ppo", "algo must be one of baseline"),
        ("--optimizer.lr -1", "optimizer.lr must be > 0, got -1.0"),
        ("--model nowhere", "model.name"),
        ("--reference nowhere --algo rho1-weighted", "reference.model"),
        ("--resume nowhere", "--resume must name a run folder"),
    ],
)
def test_bad_input_is_one_line_in_the_words_of_the_jax_trainer(
    options, parts, tmp_path, capsys
):
    arguments = ["--model", "smoke", "--output-dir", str(tmp_path), *options.split()]
    said = []
    for backend in (train, jax_train):
        assert backend.main(arguments) == 2
        said.append(capsys.readouterr().err)
        assert said[-1].startswith("error: ") and said[-1].count("\n") == 1
        if "wmtp_torch_mps" in parts or "machine." in parts:
            break
    assert parts in said[0]
    assert said[-1] == said[0]
    assert not list(tmp_path.iterdir())


def test_other_data_than_the_export_was_trained_on_leaves_nothing(
    tmp_path, monkeypatch, capsys
):
    done = run(train, tmp_path, "a", 2)
    assert torch_export([str(done), "--to", str(tmp_path / "export")]) == 0
    rows_of_split = data.load_examples

    def fewer(cfg):
        found = rows_of_split(cfg)
        return found | {"train": found["train"].select(range(50))}

    monkeypatch.setattr(inputs_module, "load_examples", fewer)
    new = tmp_path / "new"
    options = f"--resume {tmp_path / 'export'} --output-dir {new} --run-name b"
    assert train.main(options.split()) == 2
    assert "another train" in capsys.readouterr().err
    assert not (new / "b").exists()
