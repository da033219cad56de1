"""Config files: strict YAML in, checked values out, and back.

A layer of a config is a flat dict, dotted path -> value of that field's type, as in
`{"optimizer.lr": 0.001}`. Every complaint is one line: what is required, what was got,
and where.
"""

import difflib
import re
import reprlib
from dataclasses import asdict, is_dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml

from shared.config import original_names
from shared.config.fields import Algo, Config
from shared.config.machine import Remat
from shared.config.ranges import field_types

PRESETS = files("shared.config") / "presets"
MODELS = PRESETS / "models"
MAX_BYTES = 1_000_000
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


# Fields and their values.


class Leaf(NamedTuple):
    """A field that holds a value, not a group."""

    type: Any
    aliases: tuple[str, ...]


def _is_group(kind: Any) -> bool:
    return is_dataclass(kind)


@cache
def leaves(group: Any = Config, prefix: str = "") -> dict[str, Leaf]:
    """Every field of a tree that is not a group, by its dotted path."""
    found: dict[str, Leaf] = {}
    for name, (kind, notes) in field_types(group).items():
        if _is_group(kind):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            aliases = [getattr(note, "aliases", None) or () for note in notes]
            found[prefix + name] = Leaf(kind, tuple(chain(*aliases)))
    return found


def flatten(cfg: Config) -> dict[str, Any]:
    """The config as dotted path -> value."""
    return {path: attrgetter(path)(cfg) for path in leaves()}


def build(layer: dict[str, Any]) -> Config:
    """The defaults with the values of the layer put in, checked as a whole."""
    groups: dict[str, dict[str, Any]] = {"": {}}
    for path, value in layer.items():
        group, _, name = path.rpartition(".")
        groups.setdefault(group, {})[name] = value
    top, cfg = groups.pop(""), Config()
    inner = {name: replace(getattr(cfg, name), **of) for name, of in groups.items()}
    return replace(cfg, **top, **inner)


def required(kind: Any) -> str:
    """A field's type in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        of = "strings" if get_args(kind)[0] is str else "numbers"
        return f"a list of {of}"
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(kind, "a string")


def _convert(value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(entry, get_args(kind)[0]) for entry in value)
    if kind is float and isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)  # PyYAML reads `1e-3` as a string
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value


def checked(kind: Any, value: Any, where: str, place: str = "") -> Any:
    """The value as `kind`; `where` is what the user calls the field.

    Raises:
      ValueError: `WHERE must be REQUIRED, got VALUE PLACE`. A float is no whole
        number, and a bool is no number.
    """
    if kind == Algo and isinstance(value, str):
        value = original_names.ALGO.get(value, value)
    if kind == Remat and isinstance(value, bool):  # as configs of older runs have it
        value = "layer" if value else "none"
    try:
        return _convert(value, kind)
    except (TypeError, OverflowError):
        message = f"{where} must be {required(kind)}, got {_short.repr(value)}{place}"
        raise ValueError(message) from None


# What the user wrote, shown on one line.


def printable(name: object) -> str:
    """A name from outside, safe to print."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 200 else _short.repr(text)


def did_you_mean(name: str, names: list[str]) -> str:
    """`; did you mean X?` with the nearest of the names, or nothing.

    `optimizer.lrr` is looked up among the names of its group; a name without a group,
    or that its group does not have, is first held against the last part of all names.
    """
    group, dot, last = name.rpartition(".")
    inside = [known for known in names if dot and known.startswith(group + dot)]
    lasts = [known.removeprefix(group + dot) for known in inside]
    near = [group + dot + x for x in difflib.get_close_matches(last, lasts, n=1)]
    if not near and (inside or not dot):
        bare = last.lstrip("-")
        near = [known for known in names if re.split(r"\.|--", known)[-1] == bare]
    if not near and not inside:
        near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# Files.


def preset_names(folder: Any) -> list[str]:
    """The presets in a folder of the package."""
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name[:-5] for name in names if name.endswith(".yaml"))


def _read_bytes(source: Any, where: str) -> bytes:
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        known = ", ".join(preset_names(PRESETS))
        message = f"cannot read {where}: no such file, and no preset ({known})"
        raise ValueError(message) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {where}: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where} must have at most {MAX_BYTES} bytes, got more")
    return data


class _Strict(yaml.SafeLoader):
    """Takes no key twice, and no aliases: a few of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            problem, mark = "aliases (*name) are not allowed", self.peek_event()
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{printable(key.value)} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _load(source: Any, where: str) -> Any:
    """The value of a YAML document; a ValueError says in which line it has none."""
    data = _read_bytes(source, where)
    try:
        text = data.decode("utf-8-sig")
        return _Strict(text).get_single_data()  # a SafeLoader
    except UnicodeDecodeError as error:
        line, reason = data.count(b"\n", 0, error.start), "not UTF-8 text"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, reason = mark.line if mark else 0, error.problem or "bad YAML"
    except yaml.reader.ReaderError as error:
        line, reason = text.count("\n", 0, error.position), error.reason
    except RecursionError:
        line, reason = 0, "nested too deeply"
    except ValueError as error:  # no such date, or a number with too many digits
        line, reason = 0, str(error)
    raise ValueError(f"{where}, line {line + 1}: bad YAML, {printable(reason)}")


def read_layer(source: Any, originals: dict[str, Any] | None = None) -> dict[str, Any]:
    """The fields that a YAML file gives; an empty file gives none.

    Args:
      originals: what the files before this one said in names of the original system
        (`shared/config/original_names.py`); this one's are added.

    Raises:
      ValueError: unreadable or bad YAML, an unknown key (with the valid ones), a value
        of the wrong type, a field given under two names.
    """
    where = printable(source)
    tree = _load(source, where)
    if tree is not None and not isinstance(tree, dict):
        got = type(tree).__name__
        raise ValueError(f"{where} must be a mapping at the top, got a {got}")
    found, rest = original_names.take(tree or {})
    layer = _flat(rest, Config, "", where)
    originals, place = {} if originals is None else originals, f" (in {where})"
    try:
        translated = original_names.translate(found, originals)
    except ValueError as error:
        raise ValueError(f"{error}{place}") from None
    originals |= found
    for field, (name, value) in translated.items():
        value = checked(leaves()[field].type, value, name, place)
        if field in layer:
            raise ValueError(f"{field} is given under two names in {where}")
        layer[field] = value
    return layer


def _flat(tree: dict[Any, Any], group: Any, prefix: str, where: str) -> dict[str, Any]:
    """The fields under one group of a YAML tree; a group left empty gives none."""
    layer: dict[str, Any] = {}
    names = field_types(group)
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if key not in names:
            known = [x for x in original_names.names() if x.startswith(f"{path}.")]
            if known and isinstance(value, dict):  # a group of the original's
                path = f"{path}.{next(iter(value), '')}"
            near = did_you_mean(path, [*names, *leaves(), *known])
            valid = f"valid names{' in ' + prefix[:-1] if prefix else ''}"
            raise ValueError(
                f"unknown key {printable(path)} in {where}{near or ';'} "
                f"{valid}: {', '.join(names)}"
            )
        kind, place = names[key][0], f" (in {where})"
        if not _is_group(kind):
            layer[path] = checked(kind, value, path, place)
        elif isinstance(value, dict):
            layer |= _flat(value, kind, f"{path}.", where)
        elif value is not None:
            fields = f"a mapping with some of {', '.join(field_types(kind))}"
            got = _short.repr(value)
            raise ValueError(f"{path} must be {fields}, got {got}{place}")
    return layer


def load_config(path: str | Path) -> Config:
    """The config that `dump_config` wrote."""
    return build(read_layer(Path(path)))


def dump_config(cfg: Config) -> str:
    """The config as YAML, every field, with the weighting rule that is in force."""
    tree = asdict(replace(cfg, weighting=replace(cfg.weighting, rule=cfg.rule)))
    whole: dict[str, Any] = {"sort_keys": False, "width": 1_000_000}
    text = yaml.safe_dump(tree, **whole, allow_unicode=True)
    # PyYAML writes some line breaks (U+0085) so that they are read back as spaces,
    # unless it escapes all that is not ASCII.
    plain = text.replace("\n", "").isprintable()
    return text if plain else yaml.safe_dump(tree, **whole)
