"""The header of a training's state: `training_state.json`, written and never trusted.

Beside what it says of the training it holds the digest of every file of its folder, and
of its own content.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config, OptimizerConfig
from shared.config.layers import build, checked, flatten, leaves, printable
from shared.files import write_text
from shared.huggingface.json_keys import MAX_COUNT, Keys, read_keys
from shared.state.digests import content_digest

HEADER = "training_state.json"
FORMAT = 1  # counted up when an older reader would misread the files
MAX_BYTES = 10_000_000
BACKENDS = ("wmtp_jax", "wmtp_torch_mps")
# Files that the digests are of: in the folder itself, or in its `signals`.
NAME = re.compile(r"(signals/)?(?!\.)[A-Za-z0-9._-]{1,200}")
DIGEST = re.compile("[0-9a-f]{64}")


def _is_count(x: Any) -> bool:
    return type(x) is int and 0 <= x <= MAX_COUNT


def _is_number(x: Any) -> bool:
    return type(x) in (int, float)  # NaN too, in what an older version wrote


def _is_of(x: Any, holds: Any) -> bool:
    return isinstance(x, dict) and all(map(holds, x.values()))


# What a value must be, in words and as a test.
COUNT = f"a whole number from 0 to {MAX_COUNT}", _is_count
WORDS = "an object of strings", lambda x: _is_of(x, lambda word: type(word) is str)
NUMBERS = "null or an object of numbers", lambda x: x is None or _is_of(x, _is_number)
OBJECT = "an object", lambda x: isinstance(x, dict)
# Every key must be there; `optimizer` and `moments` only repeat what `config` says.
KEYS: dict[str, tuple[str, Any]] = {
    "format": (
        f"{FORMAT} (another one is of a newer version of this program)",
        lambda x: type(x) is int and x == FORMAT,
    ),
    "backend": (f"one of {', '.join(BACKENDS)}", lambda x: x in BACKENDS),
    "step": COUNT,
    "optimizer": ("there", lambda x: True),
    "moments": ("there", lambda x: True),
    "position": OBJECT,
    "config": OBJECT,
    "inputs": WORDS,
    "versions": WORDS,
    "updates": COUNT,
    "adapted": (
        "null or an object of numbers >= 0",
        lambda x: x is None or _is_of(x, lambda y: _is_number(y) and 0 <= y < 1e30),
    ),
    "sha256": OBJECT,
}
POSITION: dict[str, tuple[str, Any]] = {
    "data": (
        "an epoch and a step, both >= 0",
        lambda x: _is_of(x, _is_count) and set(x) == {"epoch", "step"},
    ),
    "first_eval": NUMBERS,
    "last_eval": NUMBERS,
    "best_nll": ("null or a number", lambda x: x is None or _is_number(x)),
    "best_step": COUNT,
    "worse": COUNT,
    "stage1": NUMBERS,
}
# What older versions did not know of a position.
LATER: dict[str, tuple[str, Any]] = {
    "skipped_updates": COUNT,
    "skipped_in_a_row": COUNT,
    "roll_backs": COUNT,
    "passed_over": (
        "a list of objects of whole numbers >= 0",
        lambda x: isinstance(x, list) and all(_is_of(y, _is_count) for y in x),
    ),
    "grad_norms": (
        "a list of numbers >= 0",
        lambda x: isinstance(x, list) and all(_is_number(y) and y >= 0 for y in x),
    ),
    "grad_spikes": COUNT,
    "micro_batch_splits": COUNT,
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a state without its arrays.

    Attributes:
      backend: which trainer wrote it.
      step: steps made so far.
      updates: of the steps, those in which the optimizer changed anything: a float16
        gradient that is not finite makes none.
      position: `asdict` of `checkpoints.Progressed`, with the position in the data.
      config: of the run, with the weighting rule that is in force.
      inputs: digests of data, tokenizer and models (`run_folder.recorded_inputs`).
      versions: of the libraries that computed.
      adapted: what float16's loss scale and a lack of memory have come to, if anything.
    """

    backend: str
    step: int
    updates: int
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
    content = {key: getattr(state, key, None) for key in KEYS} | {
        "format": FORMAT,
        "optimizer": state.config.optimizer.name,
        "moments": list(moment_names(state.config.optimizer)),
        "config": flatten(replace(state.config, weighting=rule)),
        "sha256": digests,
    }
    content["digest"] = content_digest(content)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_text(folder / HEADER, text + "\n")
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
    found = keys.found
    keys.take("format", *KEYS["format"])  # before all that another one may do otherwise
    if found.pop("digest", None) != content_digest(found):
        raise ValueError(
            f"{path} must be as it was written, got content of another digest (is it "
            "damaged?)"
        )
    _check_keys(keys, KEYS)
    position = Keys(path, found["position"], "position.")
    there = {key: test for key, test in LATER.items() if key in position.found}
    _check_keys(position, POSITION | there)
    cfg = _read_config(found["config"], path)
    rule, names = cfg.optimizer.name, moment_names(cfg.optimizer)
    step, digests = found["step"], found["sha256"]
    keys.take("updates", f"at most its step, {step}", lambda x: x <= step)
    keys.take("optimizer", f"{rule} as in its config", lambda x: x == rule)
    keys.take("moments", f"{listed(names)} for {rule}", lambda x: x == [*names])
    required = "64 hexadecimal digits of a plain name in the folder or its signals"
    for name, digest in digests.items():
        if not NAME.fullmatch(name) or not DIGEST.fullmatch(str(digest)):
            raise Keys(path, digests, "sha256.").refuse(name, required)
    kept = {field.name: found[field.name] for field in fields(Header)}
    return Header(**kept | {"config": cfg}), digests


def _check_keys(keys: Keys, needed: dict[str, tuple[str, Any]]) -> None:
    for key, (required, holds) in needed.items():
        keys.take(key, required, holds)
    for key in keys.found.keys() - needed.keys():
        raise ValueError(f"unknown key {keys.within}{printable(key)} in {keys.path}")


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


def listed(names: Iterable[str]) -> str:
    """The names in one line."""
    return ", ".join(map(printable, names)) or "none"
