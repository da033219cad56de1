"""Recipes and configs of the original WMTP system, under the names of this one.

Three tables, original name -> ours: renamed, renamed with its values, and what has no
place here. A name that asks for something else than this program does is refused.
Facts of the original: its test guide and `configs/` (github.com/wooshikwon/wmtp).
"""

import math
from collections.abc import Callable
from typing import Any

from shared.algorithms import ALGORITHMS

ALGO = {"baseline-mtp": "baseline", "critic-wmtp": "critic"}
RHO1 = {"weighted": "rho1-weighted", "token_skip": "rho1-tokenskip"}

RENAMED = {
    "mlflow.experiment": "tracking.experiment",
    "paths.models.base": "model.name",
    "paths.models.ref": "reference.model",
    "paths.models.rm": "critic.reward_model",
    "paths.checkpoints.base_path": "output_dir",
    "paths.checkpoints.save_interval": "train.save_every",
    "paths.checkpoints.keep_last": "train.keep_checkpoints",
    "paths.checkpoints.save_final": "train.export",
    "devices.fsdp.activation_ckpt": "machine.rematerialise",
    "run.name": "run_name",
    "train.num_epochs": "train.epochs",
    "train.max_steps": "train.max_steps",
    "train.gradient_accumulation": "train.accumulation",
    "train.eval_interval": "train.eval_every",
    "train.save_interval": "train.save_every",
    "train.checkpointing.save_interval": "train.save_every",
    "train.checkpointing.keep_last": "train.keep_checkpoints",
    "train.checkpointing.save_final": "train.export",
    "pretrain.num_epochs": "critic.stage1_epochs",
    "pretrain.lr": "critic.stage1_lr",
    "pretrain.early_stopping.patience": "critic.stage1_patience",
    "pretrain.early_stopping.min_delta": "critic.stage1_min_delta",
    "optim.optimizer": "optimizer.name",
    "optim.lr": "optimizer.lr",
    "optim.weight_decay": "optimizer.weight_decay",
    "optim.grad_clip": "optimizer.clip_norm",
    "optim.scheduler": "optimizer.schedule",
    "data.train.max_length": "data.max_length",
    "data.train.batch_size": "data.batch_size",
    "loss.weight_temperature": "weighting.temperature",
    "loss.temperature": "weighting.temperature",
    "loss.epsilon": "weighting.weight_floor",
    "loss.max_weight": "weighting.weight_ceiling",
    "rho1.skip_threshold_percentile": "weighting.skip_fraction",
    "rho1.min_ce_diff": "weighting.excess_floor",
    "critic.auxiliary_loss_coef": "critic.value_loss_coef",
    "critic.gamma": "critic.discount",
}
PATHS = ("model.name", "reference.model", "critic.reward_model", "output_dir")

# With the values that are taken, and what they are here; {} stands for nothing.
VALUES: dict[str, dict[Any, dict[str, Any]]] = {
    "devices.compute_backend": {
        "mps": {"machine.device": "mps"},
        "cuda": {"machine.device": "gpu"},
        "cpu": {"machine.device": "cpu"},
        "auto": {"machine.device": "auto"},
    },
    "devices.mixed_precision": {
        "fp32": {"machine.dtype": "float32"},
        "fp16": {"machine.dtype": "float16"},
        "bf16": {"machine.dtype": "bfloat16"},
    },
    "devices.fsdp.enabled": {False: {}},
    "train.full_finetune": {True: {}},
    "data.train.pack_sequences": {
        True: {"data.layout": "packed"},
        False: {"data.layout": "padded"},
    },
    "pretrain.enabled": {True: {}, False: {"critic.stage1_epochs": 0}},
    "pretrain.early_stopping.enabled": {True: {}},
    "critic.delta_mode": {"td": {"critic.score": "td_error"}},
    "critic.normalize": {"zscore": {}},
    "critic.target": {"rm_sequence": {}},
    "critic.token_spread": {"gae": {}},  # the value head learns GAE returns
}

# What nothing here reads; a name with a dot at its end stands for all below it.
UNUSED = (
    "project",
    "log_interval",  # every step is logged
    "storage.",
    "mlflow.tracking_uri",  # mlflow.db lies in output_dir
    "mlflow.registry_uri",
    "mlflow.artifact_location",
    "launcher.",
    "devices.num_proc",
    "devices.device_ids",  # JAX splits rows over all devices by itself
    "devices.distributed.",
    "devices.fsdp.auto_wrap",
    "devices.fsdp.sharding",
    "devices.fsdp.offload_params",
    "devices.fsdp.offload_grads",
    "data.train.num_workers",  # the next batch is prepared by the program
    "data.eval.",  # validation takes the rows of training
    "train.early_stopping.",  # train.patience counts evaluations, not steps
    "pretrain.max_steps",
    "pretrain.save_value_head",  # every checkpoint holds it
    "pretrain.early_stopping.mode",
    "pretrain.early_stopping.monitor",
    "loss.lambda",
    "critic.discount_lambda",  # of a difference of values that is no TD error
    "eval.",
)

# Read together with others, below.
COMBINED = (
    "train.algo",
    "rho1.selection_mode",
    "run.tags",
    "optim.betas",
    "optim.warmup_ratio",
    "critic.value_lr",
    "critic.use_pseudo_rewards",
    "loss.weight_norm",
    "data.train.sources",
)
DATASETS = "paths.datasets."
HUB_NAMES = {"contest": "code_contests"}


def is_unused(name: str) -> bool:
    """Whether nothing here reads what the original called so."""
    return any(
        name.startswith(known) if known.endswith(".") else name == known
        for known in UNUSED
    )


def is_original(name: str) -> bool:
    """Whether a dotted name is one of the original's."""
    known = name in RENAMED or name in VALUES or name in COMBINED
    return known or is_unused(name) or name.startswith(DATASETS)


def names() -> list[str]:
    """Every name that the tables spell out."""
    return [*RENAMED, *VALUES, *COMBINED, *(x for x in UNUSED if x[-1] != ".")]


def take(tree: dict[Any, Any], prefix: str = "") -> tuple[dict[str, Any], dict]:
    """Splits a YAML tree: `(original name -> value, the rest of the tree)`."""
    found: dict[str, Any] = {}
    rest: dict[Any, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if is_original(path):
            found[path] = value
        elif isinstance(value, dict) and value:
            inside, left = take(value, f"{path}.")
            found |= inside
            rest |= {key: left} if left else {}
        else:
            rest[key] = value
    return found, rest


def translate(
    found: dict[str, Any], earlier: dict[str, Any]
) -> dict[str, tuple[str, Any]]:
    """What one file says, in our names: `field -> (original name, value)`.

    Args:
      found: original names of the file.
      earlier: those of the files that are read before it (`--config`).

    Raises:
      ValueError: for a value that asks for what this program does not do.
    """
    layer: dict[str, tuple[str, Any]] = {}
    for name, ours in RENAMED.items():
        if name not in found:
            continue
        value = _path(name, found[name]) if ours in PATHS else found[name]
        other, before = layer.get(ours, (name, value))
        if before != value:
            raise ValueError(
                f"{other} and {name} must be the same, got {before!r} and {value!r}"
            )
        layer[ours] = name, value
    for name in VALUES.keys() & found.keys():  # `enabled: false` wins over details
        fields = _one_of(name, found[name], VALUES[name])
        layer |= {ours: (name, of) for ours, of in fields.items()}
    known = earlier | found
    for name, read in READERS.items():
        if name in found:
            layer |= {ours: (name, of) for ours, of in read(known).items()}
    if "rho1.selection_mode" in found and known.get("train.algo") == "rho1-wmtp":
        layer["algo"] = "rho1.selection_mode", _algo(known)["algo"]
    return layer


def _one_of(name: str, value: Any, table: dict[Any, Any]) -> Any:
    for known, fields in table.items():
        if type(value) is type(known) and value == known:
            return fields
    spelled = [str(x).lower() if isinstance(x, bool) else str(x) for x in table]
    got = str(value).lower() if isinstance(value, bool) else repr(value)
    one_of = "one of " if len(spelled) > 1 else ""
    raise ValueError(f"{name} must be {one_of}{', '.join(spelled)} here, got {got}")


def _path(name: str, value: Any) -> Any:
    """A path without `file://`."""
    if not isinstance(value, str) or "://" not in value:
        return value
    scheme, path = value.split("://", 1)
    if scheme != "file":
        raise ValueError(
            f"{name} must be a folder, a file:// path or a name on the hub, got "
            f"{value!r}"
        )
    return path


def _algo(known: dict[str, Any]) -> dict[str, Any]:
    algo = known["train.algo"]
    if algo != "rho1-wmtp":
        return {"algo": _one_of("train.algo", algo, ALGO | {"rho1-wmtp": ""})}
    if "rho1.selection_mode" not in known:
        modes = " or ".join(RHO1)
        raise ValueError(f"train.algo rho1-wmtp needs rho1.selection_mode {modes}")
    mode = known["rho1.selection_mode"]
    return {"algo": _one_of("rho1.selection_mode", mode, RHO1)}


def _tags(known: dict[str, Any]) -> dict[str, Any]:
    tags = known["run.tags"]
    listed = isinstance(tags, list) and all(isinstance(x, str) for x in tags)
    return {"tags": ",".join(tags) if listed else tags}


def _betas(known: dict[str, Any]) -> dict[str, Any]:
    betas = known["optim.betas"]
    if not isinstance(betas, list) or len(betas) != 2:
        raise ValueError(f"optim.betas must be a list of two numbers, got {betas!r}")
    return {"optimizer.beta1": betas[0], "optimizer.beta2": betas[1]}


def _warmup(known: dict[str, Any]) -> dict[str, Any]:
    ratio = _number("optim.warmup_ratio", known)
    steps = _number("train.max_steps", known) if ratio else 0.0
    return {"optimizer.warmup_steps": round(ratio * steps)}


def _value_lr(known: dict[str, Any]) -> dict[str, Any]:
    value_lr, lr = (_number(name, known) for name in ("critic.value_lr", "optim.lr"))
    if lr <= 0:
        raise ValueError(f"optim.lr must be > 0, got {lr}")
    return {"optimizer.value_lr_scale": value_lr / lr}


def _number(name: str, known: dict[str, Any]) -> float:
    """A number, also one that YAML 1.1 reads as a string, like `5e-5`."""
    value = known.get(name)
    try:
        number = float("nan" if isinstance(value, bool) else value)  # type: ignore
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        got = f"got {value!r}" if name in known else "got none"
        raise ValueError(f"{name} must be a number, {got}")
    return number


def _pseudo_rewards(known: dict[str, Any]) -> dict[str, Any]:
    """They stand in for a reward model where there is none, there as here."""
    name, model = "critic.use_pseudo_rewards", "paths.models.rm"
    _one_of(name, known[name], {True: "", False: ""})
    if not known[name] and not known.get(model):
        raise ValueError(f"{name} false needs {model}, the folder of a reward model")
    return {}


def _weight_norm(known: dict[str, Any]) -> dict[str, Any]:
    """`none` is what uniform weights have; others have mean 1 here."""
    algo = str(known.get("train.algo"))
    row = ALGORITHMS.get(ALGO.get(algo, algo))
    uniform = row is not None and row.rule == "uniform"
    norms: dict[Any, Any] = {"mean1.0_clip": {}} | ({"none": {}} if uniform else {})
    return _one_of("loss.weight_norm", known["loss.weight_norm"], norms)


def _source(known: dict[str, Any]) -> dict[str, Any]:
    """The folder that `paths.datasets` gives for the one name in `data.train.sources`.

    Without one the name itself, as on the hub.
    """
    sources = known["data.train.sources"]
    if not isinstance(sources, list) or len(sources) != 1:
        raise ValueError(
            f"data.train.sources must be a list of one data set here, got {sources!r}"
        )
    name = sources[0]
    folder = f"{DATASETS}{name}"
    if folder in known:
        return {"data.source": _path(folder, known[folder])}
    return {"data.source": HUB_NAMES.get(name, name)}


READERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train.algo": _algo,
    "run.tags": _tags,
    "optim.betas": _betas,
    "optim.warmup_ratio": _warmup,
    "critic.value_lr": _value_lr,
    "critic.use_pseudo_rewards": _pseudo_rewards,
    "loss.weight_norm": _weight_norm,
    "data.train.sources": _source,
}
