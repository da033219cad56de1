"""What of a config this trainer can do, told without torch, which is slow to import."""

import logging

from shared.config.fields import Config

log = logging.getLogger("wmtp")
# Of what a config can name.
USABLE = {
    "device": ("auto", "cpu", "mps"),
    "dtype": ("float32", "bfloat16", "float16"),
    "first_moment": ("float32",),
    "attention": ("auto", "eager", "sdpa", "blocks"),
}


def require_usable(cfg: Config) -> None:
    """Refuses what only JAX computes in.

    Raises:
      ValueError: for that, and for dropout that transformers' model of the family does
        not have.
    """
    cfg.machine.require_usable(USABLE, "wmtp_torch_mps")
    needed = f"0 for a {cfg.model.family} in wmtp_torch_mps"
    cfg.model.require(
        "dropout", not (cfg.model.dropout and cfg.model.is_rotary), needed
    )


def say_no_mps(cfg: Config, reason: str) -> None:
    """One line, a warning for who has asked for mps."""
    if cfg.machine.device != "cpu":
        say = log.warning if cfg.machine.device == "mps" else log.info
        say("device: cpu, as there is no Apple GPU (mps) here: %s", reason)
