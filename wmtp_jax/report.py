"""What only JAX knows of a run: sizes before any array, XLA's memory, its devices."""

import sys
from typing import Any

import jax

from shared.config.fields import Config
from shared.run import report
from shared.run.inputs import count_steps, make_batches
from shared.run.open_run import config_in_force, look
from wmtp_jax.export import NAME
from wmtp_jax.init_params import init_params
from wmtp_jax.model import Params
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.sharding import find_mesh
from wmtp_jax.state import abstract_state
from wmtp_jax.step import compile_step, make_train_step

MIB = 1024**2


def count_parameters(params: dict[str, Any]) -> dict[str, int]:
    """Numbers in each part: trunk, heads k >= 1, value head."""
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in params.items()
    }


def dry_run(cfg: Config, resume: str, overrides: dict[str, Any]) -> None:
    """Prints config, parameters, batch shapes and memory of a run; writes nothing."""
    cfg = config_in_force(cfg, resume, overrides, NAME)
    mesh = find_mesh(cfg)
    inputs = look(cfg, resume, NAME)
    cfg = inputs.cfg
    shapes = jax.eval_shape(lambda: init_params(cfg))
    train, validation = make_batches(cfg, inputs.splits, None)
    num_steps = count_steps(cfg, train)
    tx = make_optimizer(cfg, num_steps)
    step, _ = make_train_step(cfg, tx, num_steps, mesh)
    memory = compile_step(step, abstract_state(cfg, tx), cfg).memory_analysis()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    rows = [
        ("memory: parameters, moments, batch", f"{held / MIB:,.0f} MiB"),
        ("memory: temporary in a step (XLA)", f"{temporary / MIB:,.0f} MiB"),
    ]
    report.show_plan(
        inputs, overrides, count_parameters(shapes), num_steps, validation, rows
    )


def machine(params: Params) -> dict[str, Any]:
    """What a summary says of parameters, device, memory and versions."""
    return {
        "parameters": count_parameters(params),
        "device": str(jax.devices()[0].device_kind),
        "peak_memory_mib": round(peak_memory() / MIB),
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }


def peak_memory() -> int:
    """Bytes: what the accelerator held at most, or this process on a CPU."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return report.peak_of_process()
