"""What a person reads: before a run (`--dry-run`), during it, and after it."""

import json
import logging
import resource
import sys
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.config.layers import dump_config
from shared.data.batches import Batch, unigram_entropy
from shared.files import write_text
from shared.run.inputs import Inputs
from shared.signals.columns import needs_model
from shared.signals.kept import Signals
from shared.state.checkpoints import Progressed
from shared.tracking import console

log = logging.getLogger("wmtp")
MIB = 1024**2


def log_inputs(inputs: Inputs) -> None:
    """Says what is trained on, how much of it was cut, and what tests it knows."""
    cfg = inputs.cfg
    for line in inputs.contamination.lines():
        log.info("%s", line)
    for field, unread in {
        "reference.model": cfg.reference.model and not needs_model(cfg, "reference"),
        "critic.reward_model": (
            cfg.critic.reward_model and not needs_model(cfg, "reward")
        ),
    }.items():
        if unread:
            log.warning("%s plays no part in this run (%s)", field, cfg.algo)
    reward = inputs.models.get("reward")
    of_reward = {
        f"{name} (reward model)": split
        for name, split in (reward.splits if reward else {}).items()
    }
    for name, split in (inputs.splits | of_reward).items():
        tokens = sum(len(document.tokens) for document in split.documents)
        log.info("%s: %d documents, %d tokens", name, len(split.documents), tokens)
        if split.num_cut:
            log.warning(
                "%s: %d of %d documents are longer than data.max_length = %d and were "
                "cut at the end",
                name,
                split.num_cut,
                len(split.documents),
                cfg.data.max_length,
            )


def log_signals(signals: Signals) -> None:
    """Says where the signals of a run come from."""
    for what, source in signals.sources.items():
        log.info("%s: %s", what, source)


def warn_if_useless(explained_variance: float) -> None:
    """A critic no better than a constant weighs tokens by noise: say so."""
    if not explained_variance > 0:
        log.warning(
            "the value head explains nothing of the returns on validation (explained "
            "variance %.4f, not above 0): its weights mean little",
            explained_variance,
        )


def show_plan(
    inputs: Inputs,
    parameters: dict[str, int],
    num_steps: int,
    validation: list[Batch],
    memory: list[tuple[str, str]],
) -> None:
    """Prints what `--dry-run` knows: config, sizes, shapes, memory; writes nothing.

    Args:
      parameters: numbers in each part of the model.
      memory: more rows of the last table.
    """
    cfg = inputs.cfg
    console.say(dump_config(cfg).rstrip("\n"))
    console.say("\n".join(inputs.contamination.lines()))
    rows = [(name, f"{count:,}") for name, count in parameters.items()]
    rows.append(("all", f"{sum(parameters.values()):,}"))
    console.table("parameters", ("part", "number"), rows)
    A, B, L = cfg.train.accumulation, cfg.data.batch_size, cfg.data.max_length
    lengths = sorted({batch.tokens_BL.shape for batch in validation})
    run = [
        ("steps", f"{num_steps:,}"),
        ("training batch [A, B, L]", f"[{A}, {B}, {L}]"),
        ("prediction heads K", str(cfg.heads.count)),
        ("validation batches [B, L]", " ".join(map(str, map(list, lengths)))),
    ]
    console.table("run", ("what", "value"), run + memory)


def summarize(
    inputs: Inputs,
    signals: Signals,
    done: Progressed,
    steps: int,
    num_steps: int,
    machine: dict[str, Any],
) -> dict[str, Any]:
    """What `summary.json` holds: the outcome, and everything it rests on.

    Args:
      steps: made so far, of `num_steps`.
      machine: what the backend adds: parameters, device, peak memory, versions.
    """
    cfg = inputs.cfg
    return {
        "run_name": cfg.run_name,
        "algo": cfg.algo,
        "rule": cfg.rule,
        "control": cfg.weighting.control,
        "heads": cfg.heads.count,
        "seed": cfg.seed,
        "steps": steps,
        "stopped_early": steps < num_steps,
        "eval_before": done.first_eval,
        "eval_after": done.last_eval,
        "best_eval_nll_head_0": done.best_nll,
        "best_step": done.best_step,
        "validation_unigram_entropy": unigram_entropy(
            inputs.splits["validation"], cfg.model.vocab_size
        ),
        "reference": signals.sources.get("reference"),
        "reward": signals.sources.get("reward"),
        "contamination": inputs.contamination.to_json(),
        "value_head_stage1": done.stage1,
        "documents": {n: len(s.documents) for n, s in inputs.splits.items()},
        "documents_cut": {n: s.num_cut for n, s in inputs.splits.items()},
        "backend": inputs.digests["backend"],
    } | machine


def peak_of_process() -> int:
    """Bytes that this process held at most."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def finish(path: Path, cfg: Config, summary: dict[str, Any], ui_command: str) -> None:
    """Writes `summary.json`, prints the outcome and where to look."""
    write_text(path / "summary.json", json.dumps(summary, indent=2) + "\n")
    before, after = summary["eval_before"], summary["eval_after"]
    rows = [
        (name.removeprefix("eval_"), f"{before[name]:.4f}", f"{after[name]:.4f}")
        for name in after
    ]
    title = f"{cfg.algo}: validation before and after {summary['steps']} steps"
    console.table(title, ("head", "before", "after"), rows)
    log.info(
        "validation nll (head 0) %.4f; unigram entropy of the validation split %.4f",
        after["eval_nll_head_0"],
        summary["validation_unigram_entropy"],
    )
    if "eval_explained_variance" in after:
        warn_if_useless(after["eval_explained_variance"])
    log.info("run folder: %s", path)
    if ui_command:
        log.info("look at it: %s", ui_command)
