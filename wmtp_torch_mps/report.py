"""What only torch knows of a run: its device, and what memory it took."""

import sys
from typing import Any

import torch

from shared.run.memory import MIB, count_parameters
from wmtp_torch_mps.device import peak_memory
from wmtp_torch_mps.state import TrainState


def machine(state: TrainState) -> dict[str, Any]:
    """What a summary says of parameters, device, memory and versions."""
    device = state.params.device
    return {
        "parameters": count_parameters(state.params.cfg),
        "device": str(device),
        "peak_memory_mib": round(max(state.peak_bytes, peak_memory(device)) / MIB),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }
