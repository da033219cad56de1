"""What only JAX knows of a run: its devices, and what memory it took."""

import sys
from typing import Any

import jax

from shared.config.fields import Config
from shared.run import report
from shared.run.memory import MIB, count_parameters


def machine(cfg: Config, step: jax.stages.Compiled) -> dict[str, Any]:
    """What a summary says of parameters, device, memory and versions.

    Args:
      step: what updates the model.
    """
    return {
        "parameters": count_parameters(cfg),
        "device": str(jax.devices()[0].device_kind),
        "peak_memory_mib": round(peak_memory() / MIB),
        "step_memory_mib": memory_of(step),
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }


def memory_of(step: jax.stages.Compiled) -> dict[str, int] | None:
    """MiB that XLA has planned for a step; None where it does not say.

    `reused` of the arguments (parameters, moments, batch) are where results go.
    """
    found = step.memory_analysis()
    if found is None:
        return None
    planned = {
        "arguments": found.argument_size_in_bytes,
        "reused": found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
    return {name: round(size / MIB) for name, size in planned.items()}


def peak_memory() -> int:
    """Bytes: what the accelerator held at most, or this process on a CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return report.peak_of_process()
