"""The header of a training's state: `training_state.json`, written and never trusted.

Beside what it says of the training it holds the digest of every file of its folder, and
of its own content.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config, OptimizerConfig
from shared.config.layers import build, checked, flatten, leaves, printable
from shared.files import write_text
from shared.huggingface.json_keys import MAX_COUNT, Keys, read_keys

HEADER = "training_state.json"
FORMAT = 1  # counted up when an older reader would misread the files
MAX_BYTES = 10_000_000
BACKENDS = ("wmtp_jax", "wmtp_torch_mps")
# Files that the digests are of: in the folder itself, or in its `signals`.
NAME = re.compile(r"(signals/)?(?!\.)[A-Za-z0-9._-]{1,200}")


# What a value must be.


def _is_count(x: Any) -> bool:
    return type(x) is int and 0 <= x <= MAX_COUNT


def _is_number(x: Any) -> bool:
    return type(x) in (int, float)  # NaN too: a metric may be that


def _is_of(x: Any, holds: Any) -> bool:
    return isinstance(x, dict) and all(map(holds, x.values()))


def _is_words(x: Any) -> bool:
    return _is_of(x, lambda word: isinstance(word, str))


def _is_numbers(x: Any) -> bool:
    return x is None or _is_of(x, _is_number)


def _is_scale(x: Any) -> bool:
    return x is None or _is_of(x, lambda y: _is_number(y) and 0 <= y < 1e30)


COUNT = f"a whole number from 0 to {MAX_COUNT}"
WORDS, NUMBERS = "an object of strings", "null or an object of numbers"
# Key -> what it must be, in words and as a test; every key must be there.
KEYS = {
    "backend": (f"one of {', '.join(BACKENDS)}", lambda x: x in BACKENDS),
    "step": (COUNT, _is_count),
    "optimizer": ("a string", lambda x: isinstance(x, str)),
    "moments": ("a list", lambda x: isinstance(x, list)),
    "position": ("an object", lambda x: isinstance(x, dict)),
    "config": ("an object", lambda x: isinstance(x, dict)),
    "inputs": (WORDS, _is_words),
    "versions": (WORDS, _is_words),
    "updates": (COUNT, _is_count),
    "adapted": ("null or an object of numbers >= 0", _is_scale),
    "sha256": (WORDS, _is_words),
}
POSITION = {
    "data": (
        "an epoch and a step, both >= 0",
        lambda x: _is_of(x, _is_count) and set(x) == {"epoch", "step"},
    ),
    "first_eval": (NUMBERS, _is_numbers),
    "last_eval": (NUMBERS, _is_numbers),
    "best_nll": ("null or a number", lambda x: x is None or _is_number(x)),
    "best_step": (COUNT, _is_count),
    "worse": (COUNT, _is_count),
    "stage1": (NUMBERS, _is_numbers),
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a state without its arrays.

    Attributes:
      backend: which trainer wrote it.
      step: steps made so far.
      updates: of the steps, those in which the optimizer changed anything: a float16
        gradient that is not finite makes none.
      optimizer: update rule, that of the config.
      position: `asdict` of `checkpoints.Progressed`, with the position in the data.
      config: of the run, with the weighting rule that is in force.
      inputs: digests of data, tokenizer and models (`run_folder.recorded_inputs`).
      versions: of the libraries that computed.
      adapted: what float16's loss scale and a lack of memory have come to, if anything.
    """

    backend: str
    step: int
    updates: int
    optimizer: str
    position: dict[str, Any]
    config: Config
    inputs: dict[str, str]
    versions: dict[str, str]
    adapted: dict[str, float] | None


def moment_names(cfg: OptimizerConfig) -> tuple[str, ...]:
    """The moments that an optimizer keeps; none for SGD without momentum."""
    if cfg.name == "sgd" and cfg.beta1 == 0:
        return ()
    return ("first", "second") if cfg.name == "adamw" else ("first",)


def write_header(folder: Path, state: Header, digests: dict[str, str]) -> None:
    """Writes the header and reads it again.

    Args:
      digests: of every other file, by name.

    Raises:
      ValueError: if the position, say, is not what a reader takes.
    """
    rule = replace(state.config.weighting, rule=state.config.rule)
    content = {
        "format": FORMAT,
        "backend": state.backend,
        "step": state.step,
        "optimizer": state.optimizer,
        "moments": list(moment_names(state.config.optimizer)),
        "position": state.position,
        "config": flatten(replace(state.config, weighting=rule)),
        "inputs": state.inputs,
        "versions": state.versions,
        "updates": state.updates,
        "adapted": state.adapted,
        "sha256": digests,
    }
    content["digest"] = _digest(content)
    write_text(folder / HEADER, json.dumps(content, indent=2) + "\n")
    read_header(folder)


def read_header(folder: Path) -> tuple[Header, dict[str, str]]:
    """The header, and the digest of each other file by name.

    Raises:
      ValueError: naming the key that is not what it must be.
    """
    path = folder / HEADER
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES} bytes, got more")
    keys = read_keys(path)
    version = keys.found.pop("format", None)
    if type(version) is not int or version < 1:
        raise ValueError(f"format must be {FORMAT}, got {version!r} in {path}")
    if version > FORMAT:
        raise ValueError(
            f"format must be at most {FORMAT}, got {version} in {path}, which was "
            "written by a newer version of this program"
        )
    digest = keys.found.pop("digest", None)
    if digest != _digest({"format": version, **keys.found}):
        raise ValueError(
            f"{path} must be as it was written, got content of another digest (is it "
            "damaged?)"
        )
    _check_keys(keys, KEYS)
    found = keys.found
    _check_keys(Keys(path, found["position"], "position."), POSITION)
    cfg = _read_config(found["config"], path)
    rule = cfg.optimizer
    if found["updates"] > found["step"]:
        raise keys.refuse("updates", f"at most its step, {found['step']}")
    if found["optimizer"] != rule.name:
        raise keys.refuse("optimizer", f"{rule.name} as in its config")
    if found["moments"] != list(moment_names(rule)):
        raise keys.refuse("moments", f"{listed(moment_names(rule))} for {rule.name}")
    _check_digests(found["sha256"], path)
    kept = set(KEYS) - {"moments", "config", "sha256"}
    header = Header(config=cfg, **{key: found[key] for key in kept})
    return header, found["sha256"]


def _check_keys(keys: Keys, needed: dict[str, tuple[str, Any]]) -> None:
    for key, (required, holds) in needed.items():
        if key not in keys.found or not holds(keys.found[key]):
            raise keys.refuse(key, required)
    for key in keys.found.keys() - needed.keys():
        raise ValueError(f"unknown key {keys.within}{printable(key)} in {keys.path}")


def _check_digests(digests: dict[str, str], path: Path) -> None:
    for name, digest in digests.items():
        if not NAME.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(
                "sha256 must have 64 hexadecimal digits for plain names of files in "
                f"the folder and its signals, got {printable(name)!r}: "
                f"{printable(digest)!r} in {path}"
            )


def _read_config(found: dict[str, Any], path: Path) -> Config:
    """The config whose fields are there by dotted path."""
    known, place = leaves(), f" (in {path})"
    for name in found.keys() - known.keys():
        raise ValueError(f"unknown field {printable(name)} in the config of {path}")
    layer = {
        name: checked(known[name].type, value, name, place)
        for name, value in found.items()
    }
    try:
        return build(layer)
    except ValueError as error:
        raise ValueError(f"{error}{place}") from None


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def listed(names: Iterable[str]) -> str:
    """The names in one line."""
    return ", ".join(map(printable, names)) or "none"
