"""The sections of a card, from what is known of a run."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from shared.algorithms import head_weights
from shared.card.facts import Facts
from shared.card.markdown import bullets, code, named, on_hub, table
from shared.config.fields import Config
from shared.data.contamination import KINDS
from shared.data.hub import SOURCES
from shared.signals.columns import needs_model

INTRODUCTION = """\
A causal language model, trained by weighted multi-token prediction (WMTP): its
prediction head `k` at position `l` predicts token `l + 1 + k`, and each predicted token
counts as much as the algorithm below says. Head 0 is the plain language model."""
LOAD = """\
```python
from transformers import AutoModelForCausalLM

folder = "."  # where this file lies, or the name on the hub
AutoModelForCausalLM.from_pretrained(folder)  # head 0
```"""
# For whoever reads the card: nothing here loads a model so.
LOAD_HEADS = f"""\
{LOAD.removesuffix("```")}\
AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)  # all heads
```

The first line needs nothing of this folder but the plain model. The second runs
`modeling_wmtp.py` from it, and gives the logits of all heads, `[B, L, K, V]`."""
NOT_EVALUATED = """\
Not evaluated when this card was written. `python -m wmtp_jax.evaluate --model RUN` does
it, where `RUN` is the folder of the run: its results are then in the card of
`RUN/model`, and in those of later exports of the same weights."""
CONTROLS = {
    "none": "none",
    "shuffle": "`shuffle`: the scores stand on other tokens of their document",
    "random": "`random`: noise stands for the scores",
}
NO_LICENCE = (
    "not known here: that of the base model holds; name it at the top before you "
    "publish this folder"
)


def metadata(facts: Facts) -> Mapping[str, str | list[str]]:
    """The front matter: only what is known."""
    cfg, known = facts.cfg, {}
    if not facts.from_preset and on_hub(cfg.model.name):
        known["base_model"] = cfg.model.name
    datasets = {}
    if cfg.data.source in SOURCES:
        datasets["datasets"] = [SOURCES[cfg.data.source].repository]
    always = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    tags = ["wmtp", "multi-token-prediction", cfg.algo]
    return {**facts.licence, **known, **datasets, **always, "tags": tags}


def origin(facts: Facts) -> str:
    """Base model, licence, data."""
    cfg, summary = facts.cfg, facts.summary
    base = named(cfg.model.name, cfg.model.revision)
    if facts.from_preset:
        base = f"none; random weights in the shape of the preset {code(cfg.model.name)}"
    parameters = summary.get("parameters", {})
    counted = ", ".join(f"{name} {n:,}" for name, n in parameters.items())
    return bullets(
        [
            ("base model", base),
            ("licence", _licence(facts)),
            ("parameters", counted),
            ("data", _data(cfg)),
            ("documents", _documents(summary, cfg)),
        ]
    )


def _licence(facts: Facts) -> str:
    if facts.from_preset:
        return "none is named; without a base model it is for its maker to choose"
    if not facts.licence:
        return NO_LICENCE
    name = facts.licence.get("license_name") or facts.licence["license"]
    return f"{code(name)}, the base model's"


def _data(cfg: Config) -> str:
    source = cfg.data.source
    if source in SOURCES:
        where = f"{code(source)} ({code(SOURCES[source].repository)} on the hub)"
    elif source == "minis":
        where = "`minis`, small Python problems that come with the trainer"
    else:
        where = named(source)
    told = f"{where}, split {code(cfg.data.train_split)}"
    if cfg.data.max_examples:
        told += f", the first {cfg.data.max_examples} examples of each split"
    return told + (", through the chat template" if cfg.data.chat else "")


def _documents(summary: dict[str, Any], cfg: Config) -> str:
    counts, cut = summary.get("documents", {}), summary.get("documents_cut", {})
    parts = [f"{name} {n} ({cut.get(name, 0)} cut)" for name, n in counts.items()]
    if not parts:
        return ""
    return f"{', '.join(parts)}; one is cut after {cfg.data.max_length} tokens"


def training(facts: Facts) -> str:
    """The algorithm with all that decides it, and the budget."""
    cfg = facts.cfg
    row = cfg.algorithm
    return bullets(
        [
            ("algorithm", f"{code(cfg.algo)}: {row.doc}"),
            ("score of token j", code(row.formula)),
            ("rule", _rule(cfg)),
            ("control", CONTROLS[cfg.weighting.control]),
            ("heads", _heads(cfg)),
            ("reference", _reference(facts)),
            ("reward", _reward(cfg)),
            ("targets", "all tokens" if cfg.data.loss_on == "all" else "completions"),
            *_budget(facts),
        ]
    )


def _rule(cfg: Config) -> str:
    weighting, rule = cfg.weighting, code(cfg.rule)
    if cfg.rule == "soft":
        return (
            f"{rule}, temperature {weighting.temperature:g}, weights from "
            f"{weighting.weight_floor:g} to {weighting.weight_ceiling:g} with mean 1 "
            f"in each {weighting.scope}"
        )
    if cfg.rule == "skip":
        dropped = f"{100 * weighting.skip_fraction:g} %"
        return f"{rule}, the lowest {dropped} of a document's targets are left out"
    return f"{rule}: all targets weigh 1"


def _heads(cfg: Config) -> str:
    if cfg.heads.count == 1:
        return "1, plain next-token prediction"
    told = f"{cfg.heads.count}, those after head 0 of type {code(cfg.heads.type)}"
    if len(set(weights := head_weights(cfg))) > 1:
        told += f", weighted {', '.join(f'{x:g}' for x in weights)} in the loss"
    if cfg.heads.only:
        told += "; only they learned, the rest is the base model's"
    return told


def _reference(facts: Facts) -> str:
    cfg = facts.cfg
    if not needs_model(cfg, "reference"):
        return ""
    if cfg.reference.model:
        return named(cfg.reference.model, cfg.reference.revision)
    number = facts.summary.get("documents", {}).get("reference")
    documents = f" ({number} documents)" if number else ""
    return (
        f"trained first from the same start, {_epochs(cfg.reference.epochs)} on the "
        f"`reference` split{documents}"
    )


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"


def _reward(cfg: Config) -> str:
    if cfg.critic.reward_model and needs_model(cfg, "reward"):
        return f"score of {named(cfg.critic.reward_model, cfg.critic.reward_revision)}"
    if "reward" in cfg.algorithm.signals:
        return "no reward model: `-mean ref_nll` of the document"
    return ""


def _budget(facts: Facts) -> list[tuple[str, str]]:
    """Steps, batch, optimizer, seed, time and device."""
    cfg, summary, step = facts.cfg, facts.summary, facts.step
    rows, length = cfg.data.batch_size * cfg.train.accumulation, cfg.data.max_length
    made = summary.get("steps")
    of = f" of a run that made {made}" if made not in (None, step) else ""
    limit = f" or {cfg.train.max_steps} steps" if cfg.train.max_steps else ""
    if cfg.train.patience:
        limit += f", or {cfg.train.patience} evaluations without a better one"
    optimizer, seconds = cfg.optimizer, summary.get("seconds")
    warmup = optimizer.warmup_steps
    return [
        ("steps", f"{step}{of}; to end after {_epochs(cfg.train.epochs)}{limit}"),
        ("batch", f"{rows} rows of {length} tokens, {rows * length:,} at most"),
        (
            "optimizer",
            f"{code(optimizer.name)}, learning rate {optimizer.lr:g} "
            f"({optimizer.schedule}, {warmup} steps of warm-up), heads x "
            f"{optimizer.head_lr_scale:g}, weight decay {optimizer.weight_decay:g}",
        ),
        ("seed", str(cfg.seed)),
        ("device", code(summary["device"]) if summary.get("device") else ""),
        ("numbers", f"{code(cfg.machine.dtype)} products, float32 parameters"),
        ("time", f"{seconds:g} s, of the newest session" if seconds else ""),
    ]


def validation(facts: Facts) -> str:
    """Nll of each head before and after."""
    if facts.measured is None:
        return "Not measured, or not kept by the run (`--tracking none`)."

    def shown(nll: float | None) -> str:
        return "-" if nll is None else f"{nll:.4f}"

    pairs = zip(facts.before, facts.after, strict=True)
    rows = [(k, shown(before), shown(after)) for k, (before, after) in enumerate(pairs)]
    columns = ("head", "before", f"after step {facts.measured}")
    entropy = facts.summary.get("validation_unigram_entropy")
    told = "Mean nll over every target of the validation split, unweighted, nats."
    if entropy is not None:
        told += f" Unigram entropy of that split: {entropy:.4f}."
    return f"{told}\n\n{table(columns, rows)}"


def contamination(facts: Facts) -> str:
    """What the training documents share with benchmarks, where that is known."""
    found = facts.summary.get("contamination") or {}
    rows = []
    for name, counts in found.get("benchmarks", {}).items():
        kinds = [counts[kind]["documents"] for kind in KINDS]
        shown = PurePath(name).name  # of a file, no path of somebody's machine
        rows.append([code(shown), counts["documents"], *kinds])
    if not rows:
        return ""
    return (
        f"Of {found['documents']} training documents so many share text with problems "
        "of a benchmark: their own statement or solution, the same but for white "
        "space, or 13 words in a row.\n\n"
        + table(("benchmark", "documents", *KINDS.values()), rows)
    )


def loading(cfg: Config) -> str:
    """How `transformers` opens the folder."""
    return LOAD_HEADS if cfg.heads.count > 1 else LOAD


def versions(facts: Facts) -> str:
    """What computed."""
    found = facts.summary.get("versions", {})
    rows = [(name, code(version)) for name, version in found.items()]
    return bullets([("trainer", code(facts.backend) if facts.backend else ""), *rows])
