"""The torch trainer from the command line: what it runs, what it refuses."""

from dataclasses import replace

import pytest
import torch

from shared.data import documents as data
from shared.run import inputs as inputs_module
from tests.minis import config, first
from tests.torch_models import start, torch_model
from wmtp_torch_mps import device, step, train
from wmtp_torch_mps.export import main as torch_export
from wmtp_torch_mps.model import forward


def test_dropout_is_off_where_nothing_is_dropped():
    """Also with activations computed again, which needs the mode that drops."""
    cfg = config("baseline", "linear", "default")
    cfg = replace(
        cfg,
        model=replace(cfg.model, dropout=0.5),
        machine=replace(cfg.machine, rematerialise="layer"),
    )
    model = torch_model(cfg, start("linear", False))
    batch = device.to_device(first("packed", "float32"), model.device)
    place = (batch.tokens_BL, batch.positions_BL, batch.document_BL)
    still, again = (forward(model, *place).hidden_BLD for _ in range(2))
    dropped = forward(model, *place, dropping=True).hidden_BLD
    assert torch.equal(still, again) and not torch.allclose(still, dropped)


def test_what_mps_gets_wrong_is_refused_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    arguments = f"--model smoke --data.max-length 128 --output-dir {tmp_path} --dry-run"
    assert train.main([*arguments.split(), "--data.batch-size", "256"]) == 0
    assert "mps" in capsys.readouterr().out
    assert train.main([*arguments.split(), "--data.batch-size", "257"]) == 2
    said = capsys.readouterr().err
    assert "at most 32768 on mps, got 32896" in said and said.count("\n") == 1
    again = ["--model.dropout", "0.1", "--machine.rematerialise", "layer"]
    assert train.main([*arguments.split(), *again]) == 2
    said = capsys.readouterr().err
    assert "machine.rematerialise must be none with dropout on mps" in said


def test_other_data_than_the_export_was_trained_on_leaves_nothing(
    whole_run, tmp_path, monkeypatch, capsys
):
    done = whole_run(train, "baseline")
    assert torch_export([str(done), "--to", str(tmp_path / "export")]) == 0
    rows_of_split = data.load_examples

    def fewer(cfg):
        found = rows_of_split(cfg)
        return found | {"train": found["train"][:50]}

    monkeypatch.setattr(inputs_module, "load_examples", fewer)
    new = tmp_path / "new"
    options = f"--resume {tmp_path / 'export'} --output-dir {new} --run-name b"
    assert train.main(options.split()) == 2
    assert "another train" in capsys.readouterr().err
    assert not (new / "b").exists()


@pytest.mark.float64
def test_the_norm_of_a_large_gradient_is_right():
    """Torch's own, of all numbers at once, is 8e-5 too small here."""
    x_RD = torch.randn((4096, 1024), generator=torch.Generator().manual_seed(0))
    right = float(x_RD.double().norm())
    assert float(step._norm(x_RD)) == pytest.approx(right, rel=1e-6)
