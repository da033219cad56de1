"""Early stopping keeps the best model and exports it; the run goes on from the last."""

import json
import shutil

import pytest

from shared.config.fields import TrainConfig
from shared.run import loop
from shared.state.checkpoints import Progressed, step_to_export, steps_in, superseded
from tests.trained import MODEL, PACE
from wmtp_jax import export as jax_export
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

TRAINERS = {jax_train: jax_export, torch_train: torch_export}
NLL = [5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.8]  # of step 0, 1, ...
OFTEN = (
    *("--train.eval-every", "1", "--train.save-every", "99", "--train.patience", "2"),
    *("--train.keep-checkpoints", "1", "--train.max-steps", "6"),
)


@pytest.fixture
def told(monkeypatch):
    """The validation nll of every step is that of the list."""
    evaluated = loop.Loop.evaluated

    def at(self, number, results, of_tasks):
        of = {"eval_nll_head_0": NLL[number], "eval_nll_head_1": 6.0}
        monkeypatch.setattr(loop, "eval_metrics", lambda *_: of)
        evaluated(self, number, results, of_tasks)

    monkeypatch.setattr(loop.Loop, "evaluated", at)


def model_bytes(folder):
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize(
    "backend", [pytest.param(jax_train, marks=pytest.mark.slow), torch_train]
)
def test_the_best_model_is_kept_and_exported(backend, told, tmp_path, capsys):
    place = ("--output-dir", str(tmp_path), "--run-name", "a")
    assert backend.main([*MODEL, *PACE, *OFTEN, *place]) == 0
    run, saved = tmp_path / "a", tmp_path / "a" / "checkpoints"
    assert steps_in(saved) == [2, 4]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["stopped_early"]) == (4, True)
    assert (summary["best_step"], summary["exported_step"]) == (2, 2)
    assert "step 2 is the best" in capsys.readouterr().out
    for step in (2, 4):
        to = ("--to", str(tmp_path / str(step)), "--model-only")
        assert TRAINERS[backend].main([str(saved / str(step)), *to]) == 0
    assert model_bytes(run / "model") == model_bytes(tmp_path / "2")
    assert model_bytes(run / "model") != model_bytes(tmp_path / "4")

    # Killed before its summary, it comes to the same end.
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    assert backend.main(["--resume", str(run)]) == 0
    assert model_bytes(run / "model") == model_bytes(tmp_path / "2")

    # Once it has one, there is nothing to go on with, unless patience is longer.
    assert backend.main(["--resume", str(run)]) == 0
    assert "train.patience = 2 has ended it" in capsys.readouterr().out

    # It goes on from the last, and the best stays.
    capsys.readouterr()
    assert backend.main(["--resume", str(run), "--train.patience", "3"]) == 0
    assert "going on from the checkpoint of step 4" in capsys.readouterr().out
    assert steps_in(saved) == [2, 5]
    assert model_bytes(run / "model") == model_bytes(tmp_path / "2")


def test_the_best_stays_without_early_stopping(told, tmp_path):
    place = ("--output-dir", str(tmp_path), "--run-name", "a", "--train.keep-best")
    never = ("--train.patience", "0")
    assert torch_train.main([*MODEL, *PACE, *OFTEN, *place, *never]) == 0
    run = tmp_path / "a"
    assert steps_in(run / "checkpoints") == [2, 6]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["stopped_early"]) == (6, False)
    assert (summary["best_step"], summary["exported_step"]) == (2, 2)
    best = run / "checkpoints" / "2" / "model.safetensors"
    assert (run / "model" / best.name).read_bytes() == best.read_bytes()


def test_the_best_is_never_superseded():
    assert superseded([0, 2, 4, 6], 2, 2) == [0]
    assert superseded([0, 2, 4, 6], 2, None) == [0, 2]
    assert superseded([0, 2], 2, None) == [] and superseded([4], 9, 4) == []


def test_without_patience_the_last_is_exported(caplog):
    done = Progressed({}, best_nll=1.0, best_step=2)
    assert step_to_export(done, TrainConfig(), 4, [2, 4]) == 4
    assert step_to_export(done, TrainConfig(patience=1), 4, [2, 4]) == 2
    assert step_to_export(done, TrainConfig(keep_best=True), 4, [2, 4]) == 2
    assert step_to_export(Progressed({}), TrainConfig(patience=1), 4, [0, 4]) == 4
    caplog.clear()
    # Patience that was only given when the run went on.
    assert step_to_export(done, TrainConfig(patience=1), 4, [3, 4]) == 4
    assert "step 2" in caplog.text and "is exported" in caplog.text
