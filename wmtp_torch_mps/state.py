"""What a training step changes."""

from dataclasses import dataclass

import torch

from shared.config.fields import Config
from wmtp_torch_mps.init_params import load_params
from wmtp_torch_mps.model import WMTP, learning
from wmtp_torch_mps.optimizer import make_optimizer

SCALE = 2.0**12  # of a float16 loss, to begin with


@dataclass(kw_only=True)
class TrainState:
    """The model and what belongs to its training; changed in place.

    Attributes:
      step: updates made so far.
      params: the model.
      scaler: of the loss, for float16; disabled otherwise.
      splits: into how many parts a micro-batch is cut since memory ran out; 1 is whole.
      skipped: updates not made, as loss or gradient was not finite; on the device.
      skipped_frozen: those of them in the head warm-up.
      peak_bytes: the most memory that was in use after a step, of this process.
    """

    step: int
    params: WMTP
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    splits: int = 1
    skipped: int | torch.Tensor = 0
    skipped_frozen: int | torch.Tensor = 0
    peak_bytes: int = 0


def make_state(cfg: Config, device: torch.device) -> TrainState:
    """Step 0 of a run: its start parameters, and moments that are 0."""
    return init_state(load_params(cfg, device))


def init_state(model: WMTP) -> TrainState:
    """Step 0 of a run with this model."""
    return TrainState(
        step=0,
        params=model,
        optimizer=make_optimizer(model.cfg.optimizer, learning(model)),
        scaler=make_scaler(model.cfg, model.device),
    )


def make_scaler(cfg: Config, device: torch.device) -> torch.amp.GradScaler:
    """Scales float16 gradients up, so that small ones are not lost, or does nothing."""
    half = cfg.machine.dtype == "float16"
    scaler = torch.amp.GradScaler(device.type, init_scale=SCALE, enabled=half)
    scaler.scale(torch.ones((), device=device))  # it makes its tensors at first use
    return scaler
