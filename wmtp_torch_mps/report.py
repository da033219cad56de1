"""What only torch knows of a run: its device, and what memory it takes."""

import logging
import sys
from typing import Any

import torch

from shared.config.fields import Config
from shared.run import report
from shared.run.inputs import count_steps, make_batches
from shared.run.open_run import config_in_force, look
from shared.state.header import moment_names
from wmtp_torch_mps.checkpoint import NAME
from wmtp_torch_mps.device import find_device, peak_memory
from wmtp_torch_mps.model import WMTP, group_of, named
from wmtp_torch_mps.state import TrainState

log = logging.getLogger("wmtp")
MIB = 1024**2


def count_parameters(model: WMTP) -> dict[str, int]:
    """Numbers in each part: trunk, heads k >= 1, value head."""
    counts = {"trunk": 0, "heads": 0}
    for name, parameter in named(model).items():
        group = group_of(name)
        counts[group] = counts.get(group, 0) + parameter.numel()
    return counts


def dry_run(cfg: Config, resume: str, overrides: dict[str, Any]) -> None:
    """Prints config, parameters, batch shapes and memory of a run; writes nothing.

    The model is made without memory (device `meta`).
    """
    cfg = config_in_force(cfg, resume, overrides, NAME)
    device = find_device(cfg)
    inputs = look(cfg, resume, NAME)
    cfg = inputs.cfg
    with torch.device("meta"):
        model = WMTP(cfg)
    counts = count_parameters(model)
    train, validation = make_batches(cfg, inputs.splits, None)
    arrays = 2 + len(moment_names(cfg.optimizer))
    held = 4 * sum(counts.values()) * arrays
    rows = [
        ("device", str(device)),
        ("memory: parameters, gradients, moments", f"{held / MIB:,.0f} MiB"),
    ]
    steps = count_steps(cfg, train)
    report.show_plan(inputs, overrides, counts, steps, validation, rows)


def machine(state: TrainState) -> dict[str, Any]:
    """What a summary says of parameters, device, memory and versions."""
    device = state.params.device
    return {
        "parameters": count_parameters(state.params),
        "device": str(device),
        "peak_memory_mib": round(max(state.peak_bytes, peak_memory(device)) / MIB),
        "micro_batch_splits": state.splits,
        "skipped_updates": state.skipped,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }
