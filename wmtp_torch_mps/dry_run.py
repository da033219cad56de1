"""`--dry-run`: everything that a run reads and refuses, without a model."""

import sys
from typing import Any

from shared.config.fields import Config
from shared.evaluation.in_training import read_parts
from shared.run.open_run import config_in_force, look
from shared.run.report import show_plan
from wmtp_torch_mps import NAME
from wmtp_torch_mps.usable import require_usable, say_no_mps


def dry_run(cfg: Config, resume: str, overrides: dict[str, Any]) -> None:
    """Prints config, parameters, batch shapes and memory of a run; writes nothing.

    Args: as of `train`.
    """
    cfg = config_in_force(cfg, resume, overrides, NAME)
    read_parts(cfg, writes=False)
    device = _device_of(cfg)
    show_plan(look(cfg, resume, NAME), overrides, device)


def _device_of(cfg: Config) -> str:
    """Its name; torch, slow to import, is asked only where it may know of another."""
    require_usable(cfg)
    asks = cfg.machine.dtype == "bfloat16"  # not every CPU multiplies in it
    if asks or sys.platform == "darwin" or "torch" in sys.modules:
        from wmtp_torch_mps.device import find_device

        return str(find_device(cfg))
    say_no_mps(cfg, "this is no Mac")
    return "cpu"
