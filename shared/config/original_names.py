"""Recipes and configs of the original WMTP system, under the names of this one.

`original_names.yaml` says which are renamed, which are renamed with their values, and
which have no place here; `READERS` below are those that are read together with others.
A name that asks for something else than this program does is refused. Facts of the
original: its test guide and `configs/` (github.com/wooshikwon/wmtp).
"""

import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import yaml

from shared.algorithms import ALGORITHMS

ALGO = {"baseline-mtp": "baseline", "critic-wmtp": "critic"}
RHO1 = {"weighted": "rho1-weighted", "token_skip": "rho1-tokenskip"}

_tables = yaml.safe_load((files("shared.config") / "original_names.yaml").read_bytes())
RENAMED: dict[str, str] = _tables["renamed"]
VALUES: dict[str, dict[Any, dict[str, Any]]] = _tables["values"]
UNUSED: list[str] = _tables["unused"]
PATHS = ("model.name", "reference.model", "critic.reward_model", "output_dir")
DATASETS = "paths.datasets."
HUB_NAMES = {"contest": "code_contests"}


def is_unused(name: str) -> bool:
    """Whether nothing here reads what the original called so."""
    groups = tuple(known for known in UNUSED if known.endswith("."))
    return name in UNUSED or name.startswith(groups)


def is_original(name: str) -> bool:
    """Whether a dotted name is one of the original's."""
    known = name in RENAMED or name in VALUES or name in READERS
    return known or is_unused(name) or name.startswith(DATASETS)


def names() -> list[str]:
    """Every name that the tables spell out."""
    return [*RENAMED, *VALUES, *READERS, *(x for x in UNUSED if x[-1] != ".")]


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


def _selection_mode(known: dict[str, Any]) -> dict[str, Any]:
    return _algo(known) if known.get("train.algo") == "rho1-wmtp" else {}


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
    "rho1.selection_mode": _selection_mode,
    "run.tags": _tags,
    "optim.betas": _betas,
    "optim.warmup_ratio": _warmup,
    "critic.value_lr": _value_lr,
    "critic.use_pseudo_rewards": _pseudo_rewards,
    "loss.weight_norm": _weight_norm,
    "data.train.sources": _source,
}
