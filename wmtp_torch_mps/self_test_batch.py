"""The start-up self-test's own batch: the run's first, at its real shapes."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from shared.config.fields import Config
from shared.data.batches import Batch, micro_batches
from shared.messages import first_line
from shared.run.inputs import Inputs, make_batches
from shared.run.memory import next_splits
from shared.signals.columns import COLUMNS
from wmtp_torch_mps.device import empty_cache, is_out_of_memory, to_device
from wmtp_torch_mps.init_params import init_params
from wmtp_torch_mps.loss import add_gradients, run_trunk
from wmtp_torch_mps.model import WMTP, learning
from wmtp_torch_mps.probes import probes_of
from wmtp_torch_mps.self_test import GRADIENT, self_test
from wmtp_torch_mps.state import SCALE
from wmtp_torch_mps.step import divide, loss_unit

ROWS = 8  # of logits that are compared


def test_device(inputs: Inputs, device: torch.device) -> int:
    """Runs the self-test where the device is mps and the config asks for it.

    On random weights and signals: a resumed run may have neither at hand yet.

    Returns:
      Into how many parts a micro-batch was cut, as memory ran out; 1 is whole.

    Raises:
      DeviceFault: if the device computes something else than the CPU.
      MemoryError: if not even one row fits.
    """
    cfg = inputs.cfg
    if device.type != "mps" or not cfg.machine.self_test:
        return 1
    model = WMTP(cfg)
    init_params(model)
    train, _ = make_batches(cfg, inputs.splits, None)
    batches, probes, splits = next(train), probes_of(cfg), 1
    while True:
        batch = with_signals(micro_batches(batches, splits)[0], cfg)
        compute = partial(batch_numbers, model, batch)
        try:
            self_test(compute, device, probes=probes, dtype=cfg.machine.dtype)
            return splits
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            splits = next_splits(cfg.data.batch_size, splits, first_line(error))
        empty_cache(device, 0, 1)


def with_signals(batch: Batch, cfg: Config) -> Batch:
    """The batch with numbers for the signals that its run reads."""
    of_token = np.where(batch.target_BL, np.abs(batch.noise_BL), 0).astype(np.float32)
    of_document = np.where(batch.document_BL % 2, 1.0, -1.0).astype(np.float32)
    signals = {
        name: of_token if COLUMNS[name].per == "token" else of_document
        for name in cfg.algorithm.signals
    }
    return replace(batch, signals=signals)


def batch_numbers(model: WMTP, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Loss, some logits of head 0 and every gradient of one batch, on the CPU.

    Taken of a copy of the model, so that its own gradients stay as they are; on the CPU
    computed in its parameters' float32.
    """
    copied = copy.deepcopy(model).to(device)
    if device.type == "cpu":
        machine = replace(model.cfg.machine, dtype="float32")
        copied.cfg = replace(model.cfg, machine=machine)
    here = to_device(batch, device)
    value_gradients: dict[str, Tensor] = {}
    half = copied.cfg.machine.dtype == "float16"
    scale = SCALE * loss_unit(copied.cfg) if half else 1.0  # as in training
    sums, _ = add_gradients(copied, here, value_gradients, scale=scale)
    divide(learning(copied), value_gradients, sums, copied.cfg, unit=scale)
    with torch.no_grad():
        hidden_BLD = run_trunk(copied, here).hidden_BLD
        rows_RD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[:ROWS].float()
        logits_RV = rows_RD @ copied.unembed_VD.T
    found = {"loss": sums.loss_sum / sums.weight, "logits": logits_RV}
    found |= {GRADIENT + name: p.grad for name, p in learning(copied).items()}
    return {name: x.detach().float().cpu().contiguous() for name, x in found.items()}
