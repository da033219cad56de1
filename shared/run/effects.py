"""When each field of the config has an effect, and which values given have none.

Every field stands in one row of `EFFECTS`; `tests/run/test_effects.py` says which does
not. A value that nothing reads is no mistake: a recipe may be shared by runs of several
algorithms. It is said in one line.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.config.fields import Config
from shared.config.layers import MODELS, build, flatten, preset_names, read_layer
from shared.head_types import HEAD_TYPES
from shared.signals.columns import needs_model
from shared.state.header import moment_names

log = logging.getLogger("wmtp")


@dataclass(frozen=True)
class Effect:
    """Fields that are read under one condition.

    Attributes:
      when: the condition in words, after "read with".
      holds: `(cfg, backend)` -> whether it does.
      fields: their dotted names.
    """

    when: str
    holds: Callable[[Config, str], bool]
    fields: tuple[str, ...]


def _of(**groups: str) -> tuple[str, ...]:
    """Dotted names: of each group its fields, and those of `top` without a group."""
    return tuple(
        name if group == "top" else f"{group}.{name}"
        for group, names in groups.items()
        for name in names.split()
    )


def _scores(cfg: Config) -> bool:
    """Whether some tokens are more important than others to the rule in force."""
    row, noise = cfg.algorithm, cfg.weighting.control == "random"
    scores = bool(row.signals) or row.reads_nll or row.value_head
    return cfg.rule != "uniform" and (scores or noise)


def _excess(cfg: Config) -> bool:
    row = cfg.algorithm
    read = row.reads_nll and "ref_nll" in row.signals
    return read and _scores(cfg) and cfg.weighting.control != "random"


def _is_hub_name(name: str) -> bool:
    return bool(name) and not os.path.exists(os.path.expanduser(name))


def _starts_from_folder(cfg: Config) -> bool:
    return cfg.model.name not in preset_names(MODELS)


def _own_unembedding(cfg: Config) -> bool:
    tensors = HEAD_TYPES[cfg.heads.type].tensors
    return cfg.heads.count > 1 and any(x.shape == "VD" for x in tensors)


EFFECTS = (
    Effect(
        "any run",
        lambda cfg, backend: True,
        _of(
            top="algo seed run_name output_dir tags verbose",
            model="name family num_layers width num_attention_heads num_kv_heads "
            "head_width ffn_width activation qkv_bias out_bias mlp_bias "
            "scale_by_layer max_positions vocab_size tie_embeddings norm_epsilon "
            "dropout",
            heads="count",
            data="source format chat train_split tokenizer max_examples check_against "
            "max_length batch_size layout loss_on",
            optimizer="name lr schedule warmup_steps weight_decay beta1 clip_norm",
            train="epochs max_steps accumulation eval_every save_every "
            "watchdog watchdog_seconds "
            "keep_checkpoints keep_best export patience min_delta max_skipped "
            "max_roll_backs inspect evaluate",
            machine="device dtype attention rematerialise",
            tracking="to",
        ),
    ),
    Effect(
        "a name on the hub as model.name",
        lambda cfg, backend: _starts_from_folder(cfg) and _is_hub_name(cfg.model.name),
        _of(model="revision"),
    ),
    Effect(
        "model.family llama or qwen2",
        lambda cfg, backend: cfg.model.is_rotary,
        _of(model="rope_theta rope_type"),
    ),
    Effect(
        "model.rope_type linear or llama3",
        lambda cfg, backend: cfg.model.is_rotary and cfg.model.rope_type != "default",
        _of(model="rope_factor"),
    ),
    Effect(
        "model.rope_type llama3",
        lambda cfg, backend: cfg.model.is_rotary and cfg.model.rope_type == "llama3",
        _of(model="rope_low_freq_factor rope_high_freq_factor rope_original_positions"),
    ),
    Effect(
        "more than one head",
        lambda cfg, backend: cfg.heads.count > 1,
        _of(
            heads="type weight only target",
            optimizer="head_lr_scale",
            decoding="draft_vocab",
        ),
    ),
    Effect(
        "more than one head, and a trunk that learns",
        lambda cfg, backend: cfg.heads.count > 1 and not cfg.heads.only,
        _of(heads="trunk_gradient_scale"),
    ),
    Effect(
        "more than one head, or a value head",
        lambda cfg, backend: cfg.heads.count > 1 or cfg.algorithm.value_head,
        _of(heads="warmup_steps"),
    ),
    Effect(
        "heads that have an unembedding of their own",
        lambda cfg, backend: _own_unembedding(cfg),
        _of(heads="linear_start"),
    ),
    Effect(
        "a folder or a name on the hub as model.name",
        lambda cfg, backend: _starts_from_folder(cfg),
        _of(heads="fresh"),
    ),
    Effect(
        "scores (an algorithm that has some, or weighting.control random)",
        lambda cfg, backend: _scores(cfg) or cfg.rule != "soft",
        _of(weighting="rule"),
    ),
    Effect(
        "an algorithm that has scores (or as random)",
        lambda cfg, backend: _scores(cfg),
        _of(weighting="control"),
    ),
    Effect(
        "weighting.rule soft and more than one head",
        lambda cfg, backend: (
            cfg.rule == "soft" and _scores(cfg) and cfg.heads.count > 1
        ),
        _of(weighting="scope"),
    ),
    Effect(
        "weighting.rule soft and scores",
        lambda cfg, backend: cfg.rule == "soft" and _scores(cfg),
        _of(weighting="temperature weight_floor weight_ceiling"),
    ),
    Effect(
        "weighting.rule skip",
        lambda cfg, backend: cfg.rule == "skip",
        _of(weighting="skip_fraction"),
    ),
    Effect(
        "weights made of an excess loss",
        lambda cfg, backend: _excess(cfg),
        _of(weighting="excess excess_floor"),
    ),
    Effect(
        "an algorithm that trains a value head",
        lambda cfg, backend: cfg.algorithm.value_head,
        _of(
            critic="reward_model reward discount gae_lambda value_loss_coef "
            "stage1_epochs",
            optimizer="value_lr_scale",
        ),
    ),
    Effect(
        "weights made of values",
        lambda cfg, backend: (
            cfg.algorithm.value_head
            and _scores(cfg)
            and cfg.weighting.control != "random"
        ),
        _of(critic="score"),
    ),
    Effect(
        "a value loss (critic.value_loss_coef above 0)",
        lambda cfg, backend: (
            cfg.algorithm.value_head and cfg.critic.value_loss_coef > 0
        ),
        _of(critic="trunk_gradient"),
    ),
    Effect(
        "tasks in train.evaluate",
        lambda cfg, backend: bool(cfg.train.evaluate),
        _of(train="evaluate_every evaluate_seconds"),
    ),
    Effect(
        "stage 1 of a value head (critic.stage1_epochs above 0)",
        lambda cfg, backend: cfg.algorithm.value_head and cfg.critic.stage1_epochs > 0,
        _of(critic="stage1_lr stage1_patience stage1_min_delta stage1_disk_mib"),
    ),
    Effect(
        "a name on the hub as critic.reward_model",
        lambda cfg, backend: (
            needs_model(cfg, "reward") and _is_hub_name(cfg.critic.reward_model)
        ),
        _of(critic="reward_revision"),
    ),
    Effect(
        "a signal of a reference",
        lambda cfg, backend: needs_model(cfg, "reference"),
        _of(reference="model"),
    ),
    Effect(
        "a name on the hub as reference.model",
        lambda cfg, backend: (
            needs_model(cfg, "reference") and _is_hub_name(cfg.reference.model)
        ),
        _of(reference="revision"),
    ),
    Effect(
        "a reference that is trained first",
        lambda cfg, backend: needs_model(cfg, "reference") and not cfg.reference.model,
        _of(reference="epochs lr"),
    ),
    Effect(
        "optimizer.schedule linear or cosine",
        lambda cfg, backend: cfg.optimizer.schedule != "constant",
        _of(optimizer="final_lr_scale"),
    ),
    Effect(
        "optimizer.name adamw or lion",
        lambda cfg, backend: cfg.optimizer.name != "sgd",
        _of(optimizer="beta2"),
    ),
    Effect(
        "optimizer.name adamw",
        lambda cfg, backend: cfg.optimizer.name == "adamw",
        _of(optimizer="epsilon"),
    ),
    Effect(
        "an optimizer that has moments",
        lambda cfg, backend: bool(moment_names(cfg.optimizer)),
        _of(machine="first_moment"),
    ),
    Effect(
        "the JAX trainer",
        lambda cfg, backend: backend == "wmtp_jax",
        _of(machine="compilation_cache fsdp tensor"),
    ),
    Effect(
        "the JAX trainer on a GPU",
        lambda cfg, backend: (
            backend == "wmtp_jax" and cfg.machine.device in ("auto", "gpu")
        ),
        _of(machine="deterministic"),
    ),
    Effect(
        "the torch trainer on mps",
        lambda cfg, backend: (
            backend == "wmtp_torch_mps" and cfg.machine.device in ("auto", "mps")
        ),
        _of(machine="self_test empty_cache_every"),
    ),
    Effect(
        "tracking.to mlflow",
        lambda cfg, backend: cfg.tracking.to == "mlflow",
        _of(tracking="experiment"),
    ),
    Effect(
        "tracking.to mlflow or jsonl",
        lambda cfg, backend: cfg.tracking.to != "none",
        _of(tracking="tensorboard"),
    ),
)


def require_effect(cfg: Config) -> None:
    """Refuses what would undo a new run: weights that are all 1 whatever the scores.

    Raises:
      ValueError: for windows of one head under the rule soft.
    """
    window = cfg.rule == "soft" and cfg.weighting.scope == "window"
    if window and cfg.heads.count == 1:
        raise ValueError(
            "weighting.scope must be document with heads.count = 1 (every weight of a "
            "window of one is 1), got 'window'"
        )


def without_effect(
    cfg: Config, given: dict[str, Any], backend: str
) -> dict[str, list[str]]:
    """What would read a value -> the fields given (`NAME = VALUE`) that nothing reads.

    A value that would be in force without being given says nothing: a saved
    `config.yaml` gives every field.

    Args:
      given: fields of files and options, by dotted name.
    """
    preset = cfg.model.name
    known = preset in preset_names(MODELS)
    unsaid = flatten(build(read_layer(MODELS / f"{preset}.yaml") if known else {}))
    found: dict[str, list[str]] = {}
    for effect in EFFECTS:
        for name in effect.fields:
            changed = name in given and given[name] != unsaid[name]
            if changed and not effect.holds(cfg, backend):
                said = f"{name} = {given[name]!r}"
                found.setdefault(effect.when, []).append(said)
    return found


def log_without_effect(cfg: Config, given: dict[str, Any], backend: str) -> None:
    """Says in one line which settings nothing reads in this run, and what would."""
    found = without_effect(cfg, given, backend)
    parts = [f"{', '.join(names)} (read with {when})" for when, names in found.items()]
    if parts:
        log.warning("without effect in this run: %s", "; ".join(parts))
