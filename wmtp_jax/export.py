"""Writes a run's model as a Hugging Face folder.

    python -m wmtp_jax.export RUN --to FOLDER          # the newest checkpoint
    python -m wmtp_jax.export RUN/checkpoints/50 --to FOLDER
    python -m wmtp_jax.export RUN --to FOLDER --for vllm  # for its Medusa drafter

Stock `transformers` opens the folder; head 0 is the model, and `README.md` its card.
Heads k >= 1 and the value head lie beside it in files of their own
(`shared/huggingface/folder.py`), and the state of the training
(`shared/state/portable_state.py`), with which `--resume FOLDER` of either trainer
starts a new run that goes on from it.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from shared.card.card import card_beside
from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.huggingface.folder import write_model
from shared.huggingface.token_map import read_token_map
from shared.huggingface.vllm import write_vllm
from shared.run.main import exit_code, export_arguments
from shared.run.open_run import Run
from shared.state.model_source import run_to_export
from shared.state.portable_state import TrainingState, read_state, write_training
from shared.state.run_folder import recorded_inputs
from shared.tracking import console
from wmtp_jax import NAME, checkpoint, layout
from wmtp_jax.model import Params
from wmtp_jax.optimizer import make_optimizer, moments_of, updates_of, with_moments
from wmtp_jax.processes import spread
from wmtp_jax.sharding import jax_told
from wmtp_jax.state import TrainState, init_state

INSTEAD = "python -m wmtp_torch_mps.export reads it"  # of a run of the other trainer


def export(
    folder: Path,
    params: Params,
    cfg: Config,
    tokenizer: Tokenizer,
    token_map: list[int] | None = None,
    card: Callable[[Path], None] | None = None,
) -> None:
    """Writes model, heads, value head and tokenizer; a whole folder or none.

    Args:
      token_map: ids that heads draft, if not all.
      card: writes the model card beside it.

    Raises:
      ValueError: if the folder has files in it or cannot be written.
    """
    host, beside = jax.device_get(params), {"token_map": token_map, "beside": card}
    write_model(folder, host, cfg.model, cfg.heads, tokenizer, **beside)


def export_run(run: str, folder: Path, *, model_only: bool = False) -> int:
    """Exports a checkpoint of an earlier run; returns its step.

    Args:
      run: folder of a run (its newest checkpoint), or `RUN/checkpoints/STEP`.
      model_only: leave the state of the training out.

    Raises:
      ValueError: if there is no such run or checkpoint, or the folder has files in it.
    """
    path, wanted, cfg, tokenizer = run_to_export(run, NAME, INSTEAD)
    step, state, position = checkpoint.read_run(path, cfg, wanted)
    card = card_beside(path, step)
    if model_only:
        export(folder, state.params, cfg, tokenizer, read_token_map(path), card)
    else:
        params = jax.device_get(state.params)
        kept = _training_state(state, position, cfg, path)
        write_training(folder, params, kept, tokenizer, path, card)
    return step


def _training_state(
    state: TrainState, position: dict[str, Any], cfg: Config, run: Path
) -> TrainingState:
    return TrainingState(
        backend=NAME,
        step=int(state.step),
        moments=jax.device_get(moments_of(state.opt_state, cfg.optimizer)),
        position=position,
        config=cfg,
        inputs=recorded_inputs(run),
        versions={"jax": jax.__version__},
        updates=updates_of(state.opt_state, int(state.step)),
        adapted=None,
    )


def export_heads(run: str, folder: Path) -> int:
    """Writes a checkpoint's heads for vLLM's Medusa proposer; returns its step.

    Args: as of `export_run`.

    Raises:
      ValueError: as there, or for heads that the proposer does not compute.
    """
    path, wanted, cfg, _ = run_to_export(run, NAME, INSTEAD)
    step, state, _ = checkpoint.read_run(path, cfg, wanted)
    params = jax.device_get(state.params)
    write_vllm(folder, params, cfg.model, cfg.heads, read_token_map(path))
    return step


def adopt(folder: Path, run: Run, mesh: Mesh) -> None:
    """Makes the state in an exported folder the first checkpoint of a new run."""
    cfg = run.cfg
    params, kept = read_state(folder)
    tx = make_optimizer(cfg, 1)
    start = init_state(cfg, jax.device_put(params, layout.kept(mesh, params)), tx)
    counted = kept.updates + int((kept.adapted or {}).get("skipped_frozen", 0))
    opt_state = with_moments(
        start.opt_state, cfg.optimizer, kept.moments, kept.step, counted
    )
    step = jnp.asarray(kept.step, jnp.int32)
    state = replace(start, step=step, opt_state=opt_state)
    state = spread(state, layout.kept(mesh, state))
    position, plan = kept.position, cfg.train
    checkpoint.save(run.path, kept.step, state, position, plan, run.peers)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome, jax_told():
        asked = export_arguments(f"{NAME}.export", __doc__ or "", argv)
        if asked.made_for == "vllm":
            step = export_heads(asked.run, asked.to)
        else:
            step = export_run(asked.run, asked.to, model_only=asked.model_only)
        console.say(f"step {step} of {asked.run} written to {asked.to}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
