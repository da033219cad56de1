"""Writes a run's model as a Hugging Face folder that either trainer can go on from.

    python -m wmtp_torch_mps.export RUN --to FOLDER          # the newest checkpoint
    python -m wmtp_torch_mps.export RUN/checkpoints/50 --to FOLDER
    python -m wmtp_torch_mps.export RUN --to FOLDER --for vllm  # for its Medusa drafter

Stock `transformers` opens the folder; head 0 is the model, and `README.md` its card.
`--resume FOLDER` of either trainer starts a new run that goes on from it, optimizer
included.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from shared.card.card import card_beside
from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.huggingface.folder import write_model
from shared.huggingface.token_map import read_token_map
from shared.huggingface.vllm import write_vllm
from shared.run.main import exit_code, export_arguments
from shared.state.model_source import run_to_export, tokenizer_of_run
from shared.tracking import console
from wmtp_torch_mps import NAME, checkpoint
from wmtp_torch_mps.model import WMTP, by_name, named

INSTEAD = "python -m wmtp_jax.export reads it"  # of a run of the other trainer


def export(
    folder: Path,
    model: WMTP,
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
    cfg, params = model.cfg, by_name(named(model))
    beside = {"token_map": token_map, "beside": card}
    write_model(folder, params, cfg.model, cfg.heads, tokenizer, **beside)


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
        export(folder, state.params, tokenizer, read_token_map(path), card)
    else:
        checkpoint.write(folder, path, state, position, tokenizer, card)
    return step


def export_heads(run: str, folder: Path) -> int:
    """Writes a checkpoint's heads for vLLM's Medusa proposer; returns its step.

    Args: as of `export_run`.

    Raises:
      ValueError: as there, or for heads that the proposer does not compute.
    """
    path, wanted, cfg, _ = run_to_export(run, NAME, INSTEAD)
    step, state, _ = checkpoint.read_run(path, cfg, wanted)
    params = by_name(named(state.params))
    write_vllm(folder, params, cfg.model, cfg.heads, read_token_map(path))
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
        if asked.made_for == "vllm":
            step = export_heads(asked.run, asked.to)
        else:
            step = export_run(asked.run, asked.to, model_only=asked.model_only)
        console.say(f"step {step} of {asked.run} written to {asked.to}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
