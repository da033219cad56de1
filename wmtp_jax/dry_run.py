"""`--dry-run`: everything that a run reads and refuses, without compiling."""

from typing import Any

from shared.config.fields import Config
from shared.evaluation.in_training import read_parts
from shared.run.open_run import config_in_force, look
from shared.run.report import show_plan
from wmtp_jax import NAME
from wmtp_jax.sharding import find_mesh, jax_told, kind_of


@jax_told()
def dry_run(cfg: Config, resume: str, overrides: dict[str, Any]) -> None:
    """Prints config, parameters, batch shapes and memory of a run; writes nothing.

    Args: as of `train`.
    """
    cfg = config_in_force(cfg, resume, overrides, NAME)
    read_parts(cfg, writes=True)
    device = kind_of(find_mesh(cfg))
    show_plan(look(cfg, resume, NAME), overrides, device)
