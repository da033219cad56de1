"""From the command line to a Config, in layers; a later one wins.

    defaults < preset of the model < --config FILE < --recipe FILE < --group.field value

tyro parses the options and writes `--help`. They are looked over first, so that a
mistake in one is answered with one line, and so that it is known which were given.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tyro

from shared.config.fields import Config
from shared.config.layers import (
    MODELS,
    PRESETS,
    build,
    checked,
    did_you_mean,
    dump_config,
    flatten,
    leaves,
    load_config,
    preset_names,
    printable,
    read_layer,
    required,
)
from shared.config.original_names import is_unused
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.hub import model_folder

__all__ = ["Invocation", "dump_config", "flatten", "load_config", "parse"]

WHOLE = re.compile(r"[-+]?[0-9]{1,400}")
TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Invocation:
    """What one command line asks for."""

    config: Config
    dry_run: bool
    resume: str
    overrides: dict[str, Any]
    """dotted path -> value of what --config, --recipe and single options give"""
    unused: tuple[str, ...] = ()
    """names of the original system in the files that mean nothing here"""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    config: str = ""
    """FILE or preset that describes the machine"""
    recipe: str = ""
    """FILE or preset that describes the experiment"""
    dry_run: bool = False
    """check everything, print the config and the sizes, write nothing"""
    resume: str = ""
    """RUN or CHECKPOINT to go on with"""


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    asked: Annotated[_Asked, tyro.conf.arg(name="")] = field(default_factory=_Asked)
    fields: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True)
class _Option:
    path: str
    type: Any
    flag: bool | None = None
    """the value of a bool that is given without one"""


@cache
def _options() -> dict[str, _Option]:
    """Every spelling of every option, with hyphens."""
    found: dict[str, _Option] = {}
    for path, leaf in (leaves(_Asked) | leaves()).items():
        flag = True if leaf.type is bool else None
        group, dot, name = path.replace("_", "-").rpartition(".")
        for spelling in (f"--{group}{dot}{name}", *leaf.aliases):
            found[spelling] = _Option(path, leaf.type, flag)
        if flag:
            found[f"--{group}{dot}no-{name}"] = _Option(path, leaf.type, False)
    return found


def _spelled(token: str) -> tuple[str, _Option]:
    name = token.replace("_", "-")
    if name in _options():
        return name, _options()[name]
    if not token.startswith("-"):
        raise ValueError(
            f"unexpected argument {printable(token)}; options begin with --"
        )
    near = did_you_mean(name, list(_options())) or "; --help lists the options"
    raise ValueError(f"unknown option {printable(token)}{near}")


def _is_option(token: str) -> bool:
    return token.startswith("--") or token == "-h"


def _value(option: _Option, name: str, texts: list[str]) -> Any:
    """The value of an option from the arguments that belong to it."""
    if get_origin(option.type) is tuple:
        if get_args(option.type)[0] is not str:
            texts = [text for part in texts for text in part.split()]
        return checked(option.type, texts, name)
    if not texts and option.flag is not None:
        return option.flag
    if not texts:
        raise ValueError(f"{name} needs a value: {required(option.type)}")
    text: Any = texts[0]
    if option.flag is not None:
        value = checked(bool, TRUTH.get(text.lower(), text), name)
        return value == option.flag
    if option.type is int and WHOLE.fullmatch(text):
        text = int(text)
    return checked(option.type, text, name)


def _scan(argv: list[str]) -> tuple[dict[str, Any], bool]:
    """What the options give, as dotted path -> value, and whether help is asked for."""
    given: dict[str, Any] = {}
    wants_help = False
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token in ("--help", "-h"):
            wants_help = True
            continue
        token, equals, text = (
            token.partition("=") if token[:1] == "-" else (token, "", "")
        )
        name, option = _spelled(token)
        texts = [text] if equals else []
        many = get_origin(option.type) is tuple
        while rest and not _is_option(rest[0]) and (many or not texts):
            if option.flag is not None and rest[0].lower() not in TRUTH:
                break
            texts.append(rest.pop(0))
        given[option.path] = _value(option, name, texts)
    return given, wants_help


def _as_arguments(given: dict[str, Any]) -> list[str]:
    """The same options as tyro spells them, each once.

    Lists are left out: what they hold is in the default that tyro gets, and an entry
    that begins with a hyphen would be read as an option.
    """
    arguments = []
    for path, value in given.items():
        group, dot, name = path.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            arguments.append(f"--{group}{dot}{'' if value else 'no-'}{name}")
        elif not isinstance(value, tuple):
            arguments.append(f"--{group}{dot}{name}={value}")
    return arguments


def _source(given: str) -> Any:
    """The file that `--config` or `--recipe` names: a preset, or any path."""
    return PRESETS / f"{given}.yaml" if given in preset_names(PRESETS) else Path(given)


def model_layer(name: str, revision: str = "") -> dict[str, Any]:
    """What `--model` decides: a preset's fields, or those of a folder's `config.json`.

    Raises:
      ValueError: if the name is neither a preset, nor a folder, nor can be fetched.
    """
    known = preset_names(MODELS)
    if name in known:
        return read_layer(MODELS / f"{name}.yaml")
    try:
        described = read_hf_config(model_folder(name, revision, "model.name"))
    except ValueError as error:
        if os.path.isdir(os.path.expanduser(name)):
            raise
        near = did_you_mean(name, known)
        presets = f"the presets are {', '.join(known)}{near}"
        raise ValueError(f"{error} ({presets})") from None
    layer = dict(described.layer)
    if described.num_heads > 1:
        layer |= {"heads.count": described.num_heads}
        layer |= {"heads.type": described.head_type}
    return layer


def _absolute_paths(layer: dict[str, Any]) -> dict[str, str]:
    """Paths that lie here, as a run has to find them again from any folder.

    A name that stands for something else (a preset, `minis`) wins over a folder.
    """
    named = {
        "model.name": preset_names(MODELS),
        "reference.model": [],
        "critic.reward_model": [],
        "data.tokenizer": ["bytes"],
        "data.source": ["minis", "mbpp", "humaneval", "code_contests"],
    }
    found = {}
    for name, known in named.items():
        path = os.path.expanduser(layer.get(name, ""))
        if path and layer[name] not in known and os.path.exists(path):
            found[name] = os.path.abspath(path)
    return found


def parse(argv: list[str], prog: str) -> Invocation:
    """Builds the config that a command line asks for.

    Args:
      argv: the arguments after the name of the program.
      prog: the program as the user types it, for `--help`.

    Raises:
      ValueError: a mistake in an option or a file, in one line.
      SystemExit: with 0, after printing the help that `--help` asks for.
    """
    given, wants_help = _scan(argv)
    asked = _Asked(
        **{name: given.pop(name) for name in leaves(_Asked) if name in given}
    )
    overrides: dict[str, Any] = {}
    originals: dict[str, Any] = {}
    for source in (asked.config, asked.recipe):
        overrides |= read_layer(_source(source), originals) if source else {}
    overrides |= given
    overrides |= _absolute_paths(overrides)
    given = {path: overrides[path] for path in given}
    name = overrides.get("model.name", Config().model.name)
    layer = model_layer(name, overrides.get("model.revision", ""))
    cfg = build(layer | overrides)
    arguments = tyro.cli(
        _Arguments,
        prog=prog,
        description="Trains a model; every default below is the one in force.",
        args=["--help"] if wants_help else _as_arguments(given),
        default=_Arguments(asked=asked, fields=cfg),
    )
    return Invocation(
        config=arguments.fields,
        dry_run=asked.dry_run,
        resume=asked.resume,
        overrides=overrides,
        unused=tuple(filter(is_unused, originals)),
    )
