"""From the command line to a Config, in layers; a later one wins.

    defaults < preset of the model < --config FILE < --recipe FILE < --group.field value

tyro cuts the options into words by field, which tells which were given, and writes
`--help`. Words become values here, so that a mistake is answered with one line.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_origin

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from shared.config.fields import Config
from shared.config.layers import (
    MODELS,
    PRESETS,
    Leaf,
    build,
    checked,
    did_you_mean,
    leaves,
    preset_names,
    printable,
    read_layer,
    required,
)
from shared.config.original_names import is_unused
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.hub import model_folder

WHOLE = re.compile(r"[-+]?[0-9]{1,400}")
TRUTH = {"true": True, "false": False}
HELP = ("--help", "-h")
BARE = {"distributed": ("required",)}  # what an option means without a value


@dataclass(frozen=True)
class Invocation:
    """What one command line asks for."""

    config: Config
    dry_run: bool
    resume: str
    overrides: dict[str, Any]
    """dotted path -> value of what --config, --recipe and single options give"""
    distributed: tuple[str, int, int] = ("auto", 0, -1)
    """how the processes that train together are found, how many, which one"""
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
    distributed: str = "auto"
    """JAX: `auto` finds the processes that train together in the environment, `off`,
    `required` (so without a value), or HOST:PORT of the first of them"""
    processes: int = 0
    """how many, with --distributed HOST:PORT"""
    process: int = -1
    """which of them this is, from 0, with --distributed HOST:PORT"""


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    asked: Annotated[_Asked, tyro.conf.arg(name="")] = field(default_factory=_Asked)
    fields: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@cache
def _words_by_field() -> Any:
    """For tyro: a dict that has, for each field that was given, its words."""
    as_they_are = PrimitiveConstructorSpec[list[str]](
        nargs="*",
        metavar="",
        instance_from_str=list,
        is_instance=lambda x: isinstance(x, list),
        str_from_instance=list,
    )
    fields = {
        path: Annotated[list[str], as_they_are, tyro.conf.arg(aliases=leaf.aliases)]
        for path, leaf in _leaves().items()
    }
    return TypedDict("Words", fields, total=False)  # type: ignore[operator]


def _leaves() -> dict[str, Leaf]:
    return leaves(_Asked) | leaves()


def _spelled(path: str, no: str = "") -> str:
    group, dot, name = path.replace("_", "-").rpartition(".")
    return f"--{group}{dot}{no}{name}"


def _given(argv: list[str]) -> tuple[dict[str, Any], bool]:
    """What the options give, as dotted path -> value, and whether help is asked for."""
    flags = [path for path, leaf in _leaves().items() if leaf.type is bool]
    negated = {_spelled(path, "no-"): f"{_spelled(path)}=false" for path in flags}
    words, unknown = tyro.cli(
        _words_by_field(),
        args=[negated.get(x.replace("_", "-"), x) for x in _joined(argv)],
        return_unknown_args=True,
        console_outputs=False,
        add_help=False,
    )
    unknown = ["--"] * ("--" in argv) + unknown  # tyro passes over it
    wrong = [token for token in unknown if token not in HELP]
    if wrong:
        raise _unknown(wrong[0].partition("=")[0], list(negated))
    # A word after `=` is a string of a class of tyro's own.
    given = {path: _value(path, list(map(str, of))) for path, of in words.items()}
    return given, len(wrong) < len(unknown)


def _joined(argv: list[str]) -> list[str]:
    """A value that begins with one hyphen goes with its option, as if after `=`."""
    joined: list[str] = []
    for token in argv:
        before = joined[-1] if joined else ""
        alone = before.startswith("--") and "=" not in before
        if alone and re.match(r"-[^-\d.]", token) and token not in HELP:
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def _unknown(name: str, names: list[str]) -> ValueError:
    if not name.startswith("-"):
        return _unexpected(name)
    for path, leaf in _leaves().items():
        names += [_spelled(path), *leaf.aliases]
    near = did_you_mean(name.replace("_", "-"), names) or "; --help lists the options"
    return ValueError(f"unknown option {printable(name)}{near}")


def _unexpected(text: str) -> ValueError:
    return ValueError(f"unexpected argument {printable(text)}; options begin with --")


def _value(path: str, words: list[str]) -> Any:
    """The value of a field from the words that were given for it."""
    leaf = _leaves()[path]
    name = next(iter(leaf.aliases), _spelled(path))
    if get_origin(leaf.type) is tuple:
        if get_args(leaf.type)[0] is not str:
            words = [word for part in words for word in part.split()]
        return checked(leaf.type, words, name)
    if leaf.type is bool and not words:
        return True
    words = words or list(BARE.get(path, ()))
    if not words:
        raise ValueError(f"{name} needs a value: {required(leaf.type)}")
    if len(words) > 1:
        raise _unexpected(words[1])
    value: Any = words[0]
    if leaf.type is bool:
        value = TRUTH.get(value.lower(), value)
    elif leaf.type is int and WHOLE.fullmatch(value):
        value = int(value)
    return checked(leaf.type, value, name)


def _source(given: str) -> Any:
    """The file that `--config` or `--recipe` names: a preset, or any path."""
    if given in preset_names(PRESETS):
        return PRESETS / f"{given}.yaml"
    return Path(os.path.expanduser(given))


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


def _found_paths(layer: dict[str, Any]) -> dict[str, Any]:
    """Paths as a run has to find them again from any folder; `~` is the user's home.

    Only paths that lie here are made absolute. A name that stands for something else
    (a preset, `minis`) wins over a folder.

    Raises:
      ValueError: for a `~NAME` in output_dir of nobody's.
    """
    named = {
        "model.name": preset_names(MODELS),
        "reference.model": [],
        "critic.reward_model": [],
        "data.tokenizer": ["bytes"],
        "data.source": ["minis", "mbpp", "humaneval", "code_contests"],
    }
    found: dict[str, Any] = {
        name: _found(layer[name])
        for name, known in named.items()
        if layer.get(name) and layer[name] not in known
    }
    if "data.check_against" in layer:
        found["data.check_against"] = tuple(map(_found, layer["data.check_against"]))
    if "output_dir" in layer:
        found["output_dir"] = path = os.path.expanduser(layer["output_dir"])
        if path.startswith("~"):
            raise ValueError(
                "output_dir must be a folder that can be written, got "
                f"{path!r}, the home of nobody here (./{path} is a folder of that name)"
            )
    return found


def _found(path: str) -> str:
    known = os.path.expanduser(path)
    return os.path.abspath(known) if os.path.exists(known) else path


def parse(argv: list[str], prog: str) -> Invocation:
    """Builds the config that a command line asks for.

    Args:
      argv: the arguments after the name of the program.
      prog: the program as the user types it, for `--help`.

    Raises:
      ValueError: a mistake in an option or a file, in one line.
      SystemExit: with 0, after printing the help that `--help` asks for.
    """
    given, wants_help = _given(argv)
    asked = _Asked(
        **{name: given.pop(name) for name in leaves(_Asked) if name in given}
    )
    overrides: dict[str, Any] = {}
    originals: dict[str, Any] = {}
    for source in (asked.config, asked.recipe):
        overrides |= read_layer(_source(source), originals) if source else {}
    overrides |= given
    overrides |= _found_paths(overrides)
    given = {path: overrides[path] for path in given}
    name = overrides.get("model.name", Config().model.name)
    layer = model_layer(name, overrides.get("model.revision", ""))
    cfg = build(layer | overrides)
    if wants_help:
        tyro.cli(
            _Arguments,
            prog=prog,
            description="Trains a model; every default below is the one in force.",
            args=["--help"],
            default=_Arguments(asked=asked, fields=cfg),
        )
    return Invocation(
        config=cfg,
        dry_run=asked.dry_run,
        resume=os.path.expanduser(asked.resume),
        distributed=(asked.distributed, asked.processes, asked.process),
        overrides=overrides,
        unused=tuple(filter(is_unused, originals)),
    )
