"""The start-up self-test's own batch: the run's first, at its real shapes."""

import copy
import logging

import torch
from torch import Tensor

from shared.batches import Batch, TrainBatches
from wmtp_torch_mps.critic import micro_batches
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.loss import add_gradients, run_trunk
from wmtp_torch_mps.model import WMTP, named
from wmtp_torch_mps.probes import probes_of
from wmtp_torch_mps.self_test import GRADIENT, self_test

log = logging.getLogger("wmtp")
ROWS = 8  # of logits that are compared


def test_device(model: WMTP, train: TrainBatches, device: torch.device) -> None:
    """Runs the self-test where the device is mps and the config asks for it.

    Raises:
      DeviceFault: if the device computes something else than the CPU.
    """
    if device.type != "mps" or not model.cfg.machine.self_test:
        return
    position = train.state()
    first = micro_batches(next(train))[0]
    train.restore(position)

    def compute(where: torch.device) -> dict[str, Tensor]:
        return batch_numbers(model, first, where)

    cfg = model.cfg
    self_test(compute, device, probes=probes_of(cfg), dtype=cfg.machine.dtype)


def batch_numbers(model: WMTP, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Loss, some logits of head 0 and every gradient of one batch, on the CPU.

    Taken of a copy of the model, so that its own gradients stay as they are.
    """
    copied = copy.deepcopy(model).to(device)
    here = to_device(batch, device)
    value_gradients: dict[str, Tensor] = {}
    sums, _ = add_gradients(copied, here, value_gradients)
    with torch.no_grad():
        hidden_BLD = run_trunk(copied, here).hidden_BLD
        rows_RD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[:ROWS]
        logits_RV = rows_RD @ copied.unembed_VD.T
    found = {"loss": sums.loss_sum / sums.weight, "logits": logits_RV}
    for name, parameter in named(copied).items():
        gradient = value_gradients.get(name, parameter.grad)
        if gradient is not None:
            found[GRADIENT + name] = gradient
    return {name: x.detach().float().cpu().contiguous() for name, x in found.items()}
