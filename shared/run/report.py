"""What a person reads: before a run (`--dry-run`), during it, and after it."""

import logging
import re
import resource
import sys
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.config.layers import dump_config
from shared.data.batches import unigram_entropy
from shared.data.documents import Split
from shared.files import write_json
from shared.run.effects import log_without_effect
from shared.run.inputs import Inputs, count_steps, make_batches
from shared.run.memory import MIB, count_parameters, estimate
from shared.run.plan import log_limits
from shared.run.validation import VALIDATION_NLL
from shared.signals.kept import Signals
from shared.state.checkpoints import Progressed
from shared.tracking import console

log = logging.getLogger("wmtp")


def log_inputs(inputs: Inputs) -> None:
    """Says what is trained on, how much of it was cut, and what tests it knows."""
    cfg = inputs.cfg
    for line in inputs.contamination.lines():
        log.info("%s", line)
    reward = inputs.models.get("reward")
    of_reward = {
        f"{name} (reward model)": split
        for name, split in (reward.splits if reward else {}).items()
    }
    for name, split in (inputs.splits | of_reward).items():
        tokens = sum(len(document.tokens) for document in split.documents)
        log.info("%s: %d documents, %d tokens", name, len(split.documents), tokens)
        for line in _losses(name, split, cfg):
            log.warning("%s", line)


def _losses(name: str, split: Split, cfg: Config) -> list[str]:
    """What a split loses by the length of a row, in sentences."""
    total, length = len(split.documents), cfg.data.max_length
    lines = []
    if split.num_cut:
        lines.append(
            f"{name}: {split.num_cut} of {total} documents are longer than "
            f"data.max_length = {length} and were cut at the end"
        )
    if split.num_untargeted:
        lines.append(
            f"{name}: {split.num_untargeted} of {total} documents have no target and "
            f"train nothing: nothing of their completion is within data.max_length = "
            f"{length}"
        )
    return lines


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


def show_plan(inputs: Inputs, given: dict[str, Any], device: str) -> None:
    """Prints what `--dry-run` knows: config, sizes, shapes, memory; writes nothing.

    Args:
      given: fields of files and options, by dotted name.
      device: that the run would take.
    """
    cfg, backend = inputs.cfg, inputs.digests["backend"]
    train, validation = make_batches(cfg, inputs.splits, None)
    num_steps = count_steps(cfg, train)
    console.say(dump_config(cfg).rstrip("\n"))
    console.say("\n".join(inputs.contamination.lines()))
    for name, split in inputs.splits.items():
        for line in _losses(name, split, cfg):
            console.say(line)
    log_without_effect(cfg, given, backend)
    log_limits(inputs, given, num_steps)
    A, B, L = cfg.train.accumulation, cfg.data.batch_size, cfg.data.max_length
    lengths = sorted({batch.tokens_BL.shape for batch in validation})
    run = [
        ("steps", f"{num_steps:,}"),
        ("training batch [A, B, L]", f"[{A}, {B}, {L}]"),
        ("prediction heads K", str(cfg.heads.count)),
        ("validation batches [B, L]", " ".join(map(str, map(list, lengths)))),
        ("device", device),
    ]
    parameters, held = count_parameters(cfg), estimate(cfg, backend)
    memory = {name: round(bytes_ / MIB) for name, bytes_ in held.items()}
    for title, columns, numbers in (
        ("parameters", ("part", "number"), parameters),
        ("memory of a step, estimated", ("part", "MiB"), memory),
    ):
        rows = [*numbers.items(), ("all", sum(numbers.values()))]
        console.table(title, columns, [(name, f"{n:,}") for name, n in rows])
    console.table("run", ("what", "value"), run)


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
        _best_name(cfg): done.best_nll,
        "best_step": done.best_step,
        "validation_unigram_entropy": unigram_entropy(
            inputs.splits["validation"], cfg.model.vocab_size
        ),
        "reference": signals.sources.get("reference"),
        "reward": signals.sources.get("reward"),
        "contamination": inputs.contamination.to_json(),
        "value_head_stage1": done.stage1,
        "skipped_updates": done.skipped_updates,
        "roll_backs": done.roll_backs,
        "passed_over": done.passed_over,
        "grad_spikes": done.grad_spikes,
        "micro_batch_splits": done.micro_batch_splits,
        "documents": {n: len(s.documents) for n, s in inputs.splits.items()},
        "documents_cut": {n: s.num_cut for n, s in inputs.splits.items()},
        "documents_without_target": {
            name: split.num_untargeted for name, split in inputs.splits.items()
        },
        "backend": inputs.digests["backend"],
    } | machine


def _best_name(cfg: Config) -> str:
    """What `validation_nll` is the nll of."""
    return "best_eval_nll_heads" if cfg.heads.only else f"best_{VALIDATION_NLL}"


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"


def peak_of_process() -> int:
    """Bytes that this process held at most.

    Linux counts in `ru_maxrss` what the process that started this one held, too.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text("ascii", errors="replace")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return 1024 * int(found[1])
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def finish(path: Path, cfg: Config, summary: dict[str, Any], ui_command: str) -> None:
    """Writes `summary.json`, prints the outcome and where to look."""
    write_json(path / "summary.json", summary)
    before, after = summary["eval_before"], summary["eval_after"]
    rows = [
        (name.removeprefix("eval_"), _shown(before.get(name)), _shown(after[name]))
        for name in after
    ]
    title = f"{cfg.algo}: validation before and after {summary['steps']} steps"
    console.table(title, ("head", "before", "after"), rows)
    log.info(
        "validation nll (head 0) %s; unigram entropy of the validation split %s",
        _shown(after.get(VALIDATION_NLL)),
        _shown(summary["validation_unigram_entropy"]),
    )
    if "eval_explained_variance" in after:
        warn_if_useless(after["eval_explained_variance"])
    best, exported = summary["best_step"], summary["exported_step"]
    if (cfg.train.patience or cfg.train.keep_best) and exported is not None:
        log.info(
            "step %d is the best (validation nll %s), step %d the last; the model is "
            "that of step %d",
            best,
            _shown(summary[_best_name(cfg)]),
            summary["steps"],
            exported,
        )
    log.info("run folder: %s", path)
    if ui_command:
        log.info("look at it: %s", ui_command)
