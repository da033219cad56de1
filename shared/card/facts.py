"""What a run's folder knows of one of its models: all that its card is made of.

Nothing is asked but files: the same folder gives the same facts, whichever trainer has
written it, and the hub is never asked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.config.layers import MODELS, load_config, preset_names
from shared.huggingface.card_data import licence_of
from shared.huggingface.hub import folder_on_disk
from shared.json_text import read_object
from shared.run.validation import VALIDATION_NLL
from shared.state.run_folder import recorded_inputs
from shared.tracking.tracking import Metrics, read_metrics

NLL = VALIDATION_NLL.removesuffix("0")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A model of a run.

    Attributes:
      step: whose parameters it has.
      backend: package of the trainer.
      summary: of the newest session that came to its end; `{}` before.
      before, after: validation nll of each head, nats, at the start and at `measured`.
      measured: the newest evaluation up to `step`, if there was one.
      licence: of the base model, as far as it says one.
    """

    cfg: Config
    step: int
    backend: str
    summary: dict[str, Any]
    before: list[float | None]
    after: list[float | None]
    measured: int | None
    licence: dict[str, str]

    @property
    def from_preset(self) -> bool:
        """Whether the weights were random at the start."""
        return self.cfg.model.name in preset_names(MODELS)


def read_summary(run: Path) -> dict[str, Any]:
    """`summary.json`; `{}` of a run that has not come to an end."""
    file = run / "summary.json"
    return read_object(file) if file.is_file() else {}


def read_facts(run: Path, step: int) -> Facts:
    """What is known of the model of a step.

    Raises:
      ValueError: if a file of the run is damaged.
    """
    cfg, summary = load_config(run / "config.yaml"), read_summary(run)
    before, after = _evaluations(run, step, summary)
    return Facts(
        cfg=cfg,
        step=step,
        backend=recorded_inputs(run).get("backend", ""),
        summary=summary,
        before=_per_head(before, cfg),
        after=_per_head(after, cfg),
        measured=int(after["step"]) if after else None,
        licence=_licence(cfg, run),
    )


def _evaluations(
    run: Path, step: int, summary: dict[str, Any]
) -> tuple[Metrics, Metrics]:
    """The first evaluation, and the newest up to the step, which says its own."""
    file, found = run / "metrics.jsonl", []
    if file.is_file():
        rows = read_metrics(file)
        found = [x for x in rows if f"{NLL}0" in x and x["step"] <= step]
    elif summary.get("steps") == step:  # nothing was tracked
        found = [(summary["eval_after"] or {}) | {"step": step}]
    before = summary.get("eval_before") or (found[0] if found else {})
    return before, found[-1] if found else {}


def _per_head(metrics: Metrics, cfg: Config) -> list[float | None]:
    return [metrics.get(f"{NLL}{k}") for k in range(cfg.heads.count)]


def _licence(cfg: Config, run: Path) -> dict[str, str]:
    """Of the base model's folder; once that is gone, what an earlier card has kept."""
    if cfg.model.name in preset_names(MODELS):
        return {}
    folder = folder_on_disk(cfg.model.name, cfg.model.revision)
    found = licence_of(folder) if folder is not None else {}
    return found or licence_of(run / "model")
