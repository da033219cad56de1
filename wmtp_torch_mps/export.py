"""Writes a run's model as a Hugging Face folder that either trainer can go on from.

    python -m wmtp_torch_mps.export RUN --to FOLDER          # the newest checkpoint
    python -m wmtp_torch_mps.export RUN/checkpoints/50 --to FOLDER

Stock `transformers` opens the folder; head 0 is the model. `--resume FOLDER` of either
trainer starts a new run that goes on from it, optimizer included.
"""

import sys
from pathlib import Path

import torch

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.huggingface.folder import write_model
from shared.run.main import exit_code, export_arguments
from shared.state.model_source import run_to_export, tokenizer_of_run
from shared.tracking import console
from wmtp_torch_mps import NAME, checkpoint
from wmtp_torch_mps.model import WMTP, by_name, named


def export(folder: Path, model: WMTP, tokenizer: Tokenizer) -> None:
    """Writes model, heads, value head and tokenizer; a whole folder or none.

    Raises:
      ValueError: if the folder has files in it or cannot be written.
    """
    cfg = model.cfg
    write_model(folder, by_name(named(model)), cfg.model, cfg.heads, tokenizer)


def export_run(run: str, folder: Path, *, model_only: bool = False) -> int:
    """Exports a checkpoint of an earlier run; returns its step.

    Args:
      run: folder of a run (its newest checkpoint), or `RUN/checkpoints/STEP`.
      model_only: leave the state of the training out.

    Raises:
      ValueError: if there is no such run or checkpoint, or the folder has files in it.
    """
    instead = "python -m wmtp_jax.export reads it"
    path, wanted, cfg, tokenizer = run_to_export(run, NAME, instead)
    step, state, position = checkpoint.read_run(path, cfg, wanted)
    if model_only:
        export(folder, state.params, tokenizer)
    else:
        checkpoint.write(folder, path, state, position, tokenizer)
    return step


def adopt(folder: Path, run: Path, cfg: Config, device: torch.device) -> None:
    """Makes the state in an exported folder the first checkpoint of a new run."""
    state, position = checkpoint.read(folder, cfg, device)
    tokenizer = tokenizer_of_run(run, cfg)
    checkpoint.save(run, state.step, state, position, tokenizer)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = export_arguments("wmtp_torch_mps.export", __doc__ or "", argv)
        step = export_run(asked.run, asked.to, model_only=asked.model_only)
        console.say(f"step {step} of {asked.run} written to {asked.to}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
