"""What the torch trainer does with memory: blocks of logits, halves, one line."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shared.run.inputs import read_inputs
from tests.minis import config, first, minis
from tests.torch_models import start, torch_model
from tests.wmtp_torch_mps.test_self_test import Mps
from wmtp_torch_mps import device, loss, self_test_batch, step, train, training, unembed
from wmtp_torch_mps.model import WMTP
from wmtp_torch_mps.state import init_state

ERRORS = ("MPS backend out of memory (injected)", "Invalid buffer size: 12.34 GiB")


def full_beyond(rows, compute, message=ERRORS[0]):
    """`compute(model, batch, ...)` of a device that holds so many rows at a time."""

    def run(model, batch, *rest, **options):
        if batch.tokens_BL.shape[0] > rows:
            raise RuntimeError(message)
        return compute(model, batch, *rest, **options)

    return run


@pytest.mark.parametrize("message", ERRORS)
def test_where_memory_runs_out_halves_do_the_same(message, monkeypatch):
    """The same step in micro-batches of half as many rows, to rounding."""
    cfg = config("critic", "linear", "default")
    (batches,) = minis("packed")
    params = start("linear", True)
    states = [init_state(torch_model(cfg, params)) for _ in range(2)]
    _, right = step.train_step(states[0], batches, 5)
    full = full_beyond(1, step.add_gradients, message)
    monkeypatch.setattr(step, "add_gradients", full)
    halved, metrics = step.train_step(states[1], batches, 5)
    assert halved.splits == 2 and metrics["micro_batch_rows"] == 1
    for name in ("loss", "value_loss", "grad_norm_trunk"):
        assert float(metrics[name]) == pytest.approx(float(right[name]), rel=1e-5)


def test_the_self_test_halves_too(monkeypatch):
    """And the run then begins with as many parts."""
    inputs = read_inputs(config("critic", "linear", "default"), train.NAME)
    seen = []

    def compute(model, batch, where):
        seen.append(batch.tokens_BL.shape[0])
        return batch_numbers(model, batch, torch.device("cpu"))

    batch_numbers = self_test_batch.batch_numbers
    monkeypatch.setattr(self_test_batch, "batch_numbers", full_beyond(1, compute))
    monkeypatch.setattr(self_test_batch, "probes_of", lambda cfg: {})
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    assert self_test_batch.test_device(inputs, Mps()) == 2
    assert seen == [1, 1, 1]
    monkeypatch.setattr(self_test_batch, "batch_numbers", full_beyond(0, compute))
    with pytest.raises(MemoryError, match="a micro-batch of one row must fit"):
        self_test_batch.test_device(inputs, Mps())


def test_what_cannot_be_halved_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise RuntimeError(ERRORS[0] + "\nand much more")

    monkeypatch.setattr(training, "eval_step", full)
    options = f"--model smoke --tracking none --output-dir {tmp_path} --device cpu"
    assert train.main(options.split()) == 1
    said = capsys.readouterr().err
    assert f"error: the run must fit into memory, got: {ERRORS[0]} (less" in said
    assert "Traceback" not in said and "much more" not in said


class Largest(TorchDispatchMode):
    """Remembers the most numbers that one tensor of an operator's answer had."""

    numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.numbers = max(self.numbers, *(x.numel() for x in made), 0)
        return out


def test_no_logits_outlive_their_block(monkeypatch):
    """Of 4 heads over 2 x 480 positions at most 512 x V logits are there at a time."""
    monkeypatch.setattr(unembed, "MOST_ROWS", 512)
    cfg = config("critic", "linear", "default")
    cfg = replace(cfg, model=replace(cfg.model, vocab_size=2000))
    model = WMTP(cfg)
    batch = device.to_device(first("packed", "float32"), model.device)
    with Largest() as seen:
        loss.add_gradients(model, batch, {})
    B, L = batch.tokens_BL.shape
    V, kept = cfg.model.vocab_size, batch.target_BL.sum()
    assert B * L > 1.5 * 512 and kept > 512
    assert seen.numbers == 512 * V
    with Largest() as seen:  # as one would write it
        hidden_BLD = loss.run_trunk(model, batch).hidden_BLD
        hidden_BLD @ model.unembed_VD.T
    assert seen.numbers == B * L * V


@pytest.mark.parametrize("rows", [1, 511, 512, 513, 700])
def test_blocks_that_are_filled_up_change_nothing(rows, monkeypatch):
    """On mps, where each new shape would be compiled and kept."""
    generator = torch.Generator().manual_seed(0)
    states_RD, unembed_VD = (torch.randn(n, 8, generator=generator) for n in (rows, 37))
    targets_R = torch.arange(rows) % 37
    factor_R = torch.rand(rows, generator=generator)
    found = []
    for filled in (False, True):
        monkeypatch.setattr(unembed, "pads", lambda _, filled=filled: filled)
        matrix_VD = unembed_VD.clone().requires_grad_()
        nll_R, gradient_RD = unembed.nll_rows(
            states_RD, matrix_VD, targets_R, factor_R, block=512
        )
        found.append((nll_R, gradient_RD, matrix_VD.grad))
    for plain, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)
