"""`evaluate` of both trainers: the same measures, and those of training."""

import json

import numpy as np
import pytest
import torch

import wmtp_jax.evaluate
import wmtp_jax.train
import wmtp_torch_mps.evaluate
import wmtp_torch_mps.train
from shared.config.fields import Config, MachineConfig
from shared.config.layers import build, dump_config
from shared.data.tokenizer import load_tokenizer
from shared.evaluation.results.kept import read_results, read_settings
from shared.evaluation.results.of_problems import ProblemResult, nll_per_head
from shared.evaluation.tasks.contaminated import count_contaminated, trained_on
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.validation import spans_of
from shared.evaluation.tracked import track
from shared.head_types import HEAD_TYPES
from tests import tracked, trained
from tests.cases import shorter
from wmtp_jax.decoding import loaded as of_jax
from wmtp_jax.decoding.surprise import make_measure
from wmtp_torch_mps import export, surprise
from wmtp_torch_mps import loaded as of_torch
from wmtp_torch_mps.model import WMTP, named
from wmtp_torch_mps.unembed import rank_rows

folder, killed = tracked.folder, tracked.killed
BOTH = {
    "jax": (wmtp_jax.train, wmtp_jax.evaluate),
    "torch": (wmtp_torch_mps.train, wmtp_torch_mps.evaluate),
}
CPU = MachineConfig(device="cpu")


@pytest.fixture
def model_folder(tmp_path):
    """Makes a small folder with random heads of a type."""

    def make(kind):
        cfg = build(
            {"model.name": "smoke", "model.vocab_size": 259, "heads.count": 3}
            | {"heads.type": kind, "model.num_layers": 1, "model.width": 16}
        )
        model = WMTP(cfg)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in named(model).values():
                parameter.normal_(0, 0.3)
        export.export(tmp_path / "base", model, load_tokenizer("bytes"))
        return str(tmp_path / "base")

    return make


@pytest.mark.parametrize("kind", shorter(HEAD_TYPES, ["medusa", "block"]))
def test_both_measure_the_same(kind, model_folder):
    name = model_folder(kind)
    ours = make_measure(of_jax.load(name, MachineConfig()))
    theirs = surprise.make_measure(of_torch.load(name, CPU).model)
    tokens = np.random.default_rng(0).integers(3, 259, 90).tolist()
    for begin in (1, 60):
        pairs = zip(
            *(f(tokens[:begin], tokens[begin:]) for f in (ours, theirs)), strict=True
        )
        for one, other in pairs:
            assert (one.targets, one.right) == (other.targets, other.right)
            assert one.nll == pytest.approx(other.nll, rel=1e-5)
            assert one.rank == pytest.approx(other.rank, abs=2)  # of near ties


@pytest.mark.parametrize("backend", BOTH)
def test_validation_is_that_of_training(backend, whole_run, tmp_path, capsys):
    train, evaluate = BOTH[backend]
    run, found = whole_run(train, "critic"), tmp_path / "found"
    asked = ["--model", str(run), "--tasks", "validation", "--to", str(found)]
    assert evaluate.main(asked) == 0
    results = read_results(found / "validation.jsonl")
    in_training = trained.rows(run)[trained.STEPS]
    for k, nll in enumerate(nll_per_head(results)):
        assert nll == pytest.approx(in_training[f"eval_nll_head_{k}"], rel=1e-5)
    assert k == 1 and all(result.bytes for result in results)
    settings = read_settings(found / "validation.jsonl")
    assert settings["source"] == "minis" and settings["split"] == "validation"
    assert "validation" in capsys.readouterr().out
    step = str(run / "checkpoints" / str(trained.SAVE_EVERY))
    assert evaluate.main([*asked[2:], "--model", step]) == 2  # of another model
    assert "other model" in capsys.readouterr().err


def test_torch_writes_no_programs(model_folder, tmp_path, capsys):
    name, found = model_folder("medusa"), tmp_path / "found"
    asked = ["--model", name, "--to", str(found), "--device", "cpu"]
    assert wmtp_torch_mps.evaluate.main([*asked, "--tasks", "bits,mbpp"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "--data mbpp=SOURCE" in told[0]


@pytest.mark.parametrize("padded", [False, True])
def test_ranks_of_rows(padded, monkeypatch):
    monkeypatch.setattr("wmtp_torch_mps.unembed.pads", lambda device: padded)
    states_RD, unembed_VD = torch.randn(7, 5), torch.randn(11, 5)
    targets_R = torch.arange(7)
    nll_R, right_R, rank_R = rank_rows(states_RD, unembed_VD, targets_R, block=3)
    log_RV = torch.log_softmax(states_RD @ unembed_VD.T, dim=1)
    own_R = log_RV[torch.arange(7), targets_R]
    torch.testing.assert_close(nll_R, -own_R)
    assert (rank_R == 1 + (log_RV > own_R[:, None]).sum(1)).all()
    assert (right_R == (rank_R == 1)).all()


def test_spans_of_targets():
    """In a chat, what the assistant says is not one span."""
    assert spans_of(np.array([0, 1, 1, 0, 0, 1, 0, 1], bool)) == [
        (1, 3),
        (5, 6),
        (7, 8),
    ]
    assert spans_of(np.zeros(3, bool)) == []


def test_training_documents_with_text_of_the_problems(tmp_path, caplog):
    problems = load_problems("mbpp", "minis", limit=3)
    rows = [
        {"id": i, "prompt": f"{i}?", "completion": f"say({i}, {i})"} for i in range(9)
    ]
    rows[4]["completion"] = problems[1].solution
    rows[8]["completion"] = problems[1].solution  # of the reference split
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"id": 9}])
    )
    cfg = build({"data.source": str(data)})
    (tmp_path / "config.yaml").write_text(dump_config(cfg))
    assert count_contaminated(trained_on(tmp_path), problems) == 2
    assert count_contaminated(trained_on(tmp_path), problems[:1]) == 0
    assert count_contaminated(trained_on(None), problems) is None
    data.unlink()
    assert count_contaminated(trained_on(tmp_path), problems) is None
    assert "contamination is not known" in caplog.text


def test_results_in_mlflow(folder, tmp_path):
    """In the run's own MLflow run, whose state is left; of a folder in another."""
    run = folder / "a"
    (run / "config.yaml").write_text(dump_config(Config(output_dir=str(folder))))
    (run / "checkpoints" / "50").mkdir(parents=True)
    found = run / "evaluated"
    found.mkdir()
    (found / "mbpp.jsonl").write_text("{}\n")
    client, name = tracked.client(folder), "evaluated/mbpp/pass_at_1"
    before = client.get_run(tracked.run_id(run)).info.status
    files, metrics = [found / "mbpp.jsonl"], {name: 0.25}
    assert "mlflow ui" in track("auto", run, str(run), metrics, files, {})
    assert tracked.history(folder, run, name) == [(50, 0.25)]
    of_run = client.get_run(tracked.run_id(run))
    assert of_run.info.status == before
    kept = client.list_artifacts(of_run.info.run_id, "evaluated")
    assert [one.path for one in kept] == ["evaluated/mbpp.jsonl"]
    assert track("none", run, str(run), metrics, files, {}) == ""
    apart = folder / "of a folder" / "mbpp.jsonl"
    apart.parent.mkdir()
    apart.write_text("{}\n")
    assert track("auto", None, "x", metrics, [apart], {}) == ""
    assert track("mlflow", None, "x", metrics, [apart], {"model": "x"})
    own = client.get_run(tracked.run_id(apart.parent))
    assert own.info.status == "FINISHED" and own.data.params == {"model": "x"}
    assert own.data.metrics == metrics


def test_a_line_without_measures(tmp_path):
    from shared.evaluation.results.kept import _to_line, _to_result

    empty = ProblemResult(id="a")
    assert _to_result(_to_line(empty), "here") == empty
