"""Config files: every way to write one wrong, and the round trip."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config.fields import Config, DataConfig, MachineConfig
from shared.config.layers import (
    MAX_BYTES,
    build,
    dump_config,
    flatten,
    leaves,
    load_config,
)
from shared.config.model import ModelConfig
from tests.command_lines import MACHINES, RECIPES, error, recipe, run

OF_MACHINE = ", ".join(field.name for field in fields(MachineConfig))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("2", 2.0),
        ("5.0e-05", 5e-5),
    ],
)
def test_numbers_as_people_write_them(tmp_path, text, value):
    path = recipe(tmp_path, f"optimizer:\n  lr: {text}")
    got = run("--recipe", path).config.optimizer.lr
    assert got == value and type(got) is float
    assert run(f"--optimizer.lr={text}").config.optimizer.lr == value


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "optimizer:\n"])
def test_an_empty_file_changes_nothing(tmp_path, text):
    assert run("--recipe", recipe(tmp_path, text)) == run()


def test_lists_become_tuples(tmp_path):
    path = recipe(tmp_path, "heads: {count: 3, weight: [1, 0.5, 1e-1]}")
    assert run("--recipe", path).config.heads.weight == (1.0, 0.5, 0.1)
    path = recipe(tmp_path, "data: {check_against: [my tests.jsonl, '2', ' ', '']}")
    files = run("--recipe", path).config.data.check_against
    assert files == ("my tests.jsonl", "2", " ", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1.0", "seed must be a whole number, got 1.0 (in {})"),
        ("seed: true", "seed must be a whole number, got True (in {})"),
        ("seed: '1'", "seed must be a whole number, got '1' (in {})"),
        ("seed:", "seed must be a whole number, got None (in {})"),
        ("verbose: 1", "verbose must be true or false, got 1 (in {})"),
        ("tags: [a]", "tags must be a string, got ['a'] (in {})"),
        ("run_name: 2024", "run_name must be a string, got 2024 (in {})"),
        ("optimizer: {lr: fast}", "optimizer.lr must be a number, got 'fast' (in {})"),
        ("optimizer: {lr: true}", "optimizer.lr must be a number, got True (in {})"),
        ("optimizer: {lr: .nan}", "optimizer.lr must be finite, got nan"),
        ("optimizer: {lr: -.inf}", "optimizer.lr must be finite, got -inf"),
        ("optimizer: {lr: 1e999}", "optimizer.lr must be finite, got inf"),
        (
            f"optimizer: {{lr: {'1' * 400}}}",
            f"optimizer.lr must be a number, got {'1' * 18}...{'1' * 19} (in {{}})",
        ),
        (
            "heads: {weight: [1, x]}",
            "heads.weight must be a list of numbers, got [1, 'x'] (in {})",
        ),
        (
            "heads: {weight: 1}",
            "heads.weight must be a list of numbers, got 1 (in {})",
        ),
        (
            "data: {check_against: [a, 1]}",
            "data.check_against must be a list of strings, got ['a', 1] (in {})",
        ),
        (
            "data: {check_against: [a, [b]]}",
            "data.check_against must be a list of strings, got ['a', ['b']] (in {})",
        ),
        (
            "data: {check_against: a b}",
            "data.check_against must be a list of strings, got 'a b' (in {})",
        ),
        (
            "algo: rho1",
            "algo must be one of baseline, rho1-weighted, rho1-tokenskip, critic, got "
            "'rho1' (in {})",
        ),
        (
            "algo: [critic]",
            "algo must be one of baseline, rho1-weighted, rho1-tokenskip, critic, got "
            "['critic'] (in {})",
        ),
        (
            "machine: cpu",
            f"machine must be a mapping with some of {OF_MACHINE}, got 'cpu' (in {{}})",
        ),
        (
            "machine: {devise: cpu}",
            "unknown key machine.devise in {}; did you mean machine.device? valid "
            f"names in machine: {OF_MACHINE}",
        ),
        (
            "machine: {zzz: 1}",
            f"unknown key machine.zzz in {{}}; valid names in machine: {OF_MACHINE}",
        ),
        (
            "machine: {1: 1}",
            f"unknown key machine.1 in {{}}; valid names in machine: {OF_MACHINE}",
        ),
        ("[1]", "{} must be a mapping at the top, got a list"),
        ("algo", "{} must be a mapping at the top, got a str"),
        ("false", "{} must be a mapping at the top, got a bool"),
        ("seed: 1\nseed: 1", "{}, line 2: bad YAML, seed is given twice"),
        (
            "model:\n  width: 1\n  'width': 1",
            "{}, line 3: bad YAML, width is given twice",
        ),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
            "{}, line 2: bad YAML, aliases (*name) are not allowed",
        ),
        (
            "a: &a [*a]",
            "{}, line 1: bad YAML, aliases (*name) are not allowed",
        ),
        (
            "algo: critic\nseed: [1",
            "{}, line 2: bad YAML, expected ',' or ']', but got '<stream end>'",
        ),
        (
            "\nseed: !!python/object/apply:os.getcwd []",
            "{}, line 2: bad YAML, could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
        ),
        (
            "seed: 1\n---\nseed: 2",
            "{}, line 2: bad YAML, but found another document",
        ),
        ("seed: " + "[" * 1000, "{}, line 1: bad YAML, nested too deeply"),
        ("tags: 2024-13-45", "{}, line 1: bad YAML, month must be in 1..12"),
        ("\nse\x00ed: 1", "{}, line 2: bad YAML, special characters are not allowed"),
        (b"\n\nseed: \xff", "{}, line 3: bad YAML, not UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), f"{{}} must have at most {MAX_BYTES} bytes, got more"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    path = recipe(tmp_path, text)
    expected = message.replace("{}", path)
    assert error("--recipe", path) == expected


def test_an_unknown_key_names_every_valid_one_and_the_nearest(tmp_path):
    path = recipe(tmp_path, "temperature: 1.0")
    names = ", ".join(field.name for field in fields(Config))
    expected = f"did you mean weighting.temperature? valid names: {names}"
    assert error("--recipe", path) == f"unknown key temperature in {path}; {expected}"
    path = recipe(tmp_path, "optimiser: {}")
    assert "; did you mean optimizer?" in error("--recipe", path)


def test_a_hostile_key_stays_on_one_short_line(tmp_path):
    assert len(error("--recipe", recipe(tmp_path, f'"{"x" * 9999}\\n": 1'))) < 500


@pytest.mark.parametrize("was, now", [("true", "layer"), ("false", "none")])
def test_rematerialise_was_a_boolean(tmp_path, was, now):
    """In configs of older runs."""
    path = tmp_path / "config.yaml"
    path.write_text(f"machine:\n  rematerialise: {was}\n", "utf-8")
    assert load_config(path).machine.rematerialise == now


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "no.yaml"
    known = ", ".join(sorted(RECIPES + MACHINES))
    assert error("--recipe", str(missing)) == (
        f"cannot read {missing}: no such file, and no preset ({known})"
    )
    assert error("--config", str(tmp_path)) == f"cannot read {tmp_path}: Is a directory"
    assert error("--config", "a\0b") == r"cannot read 'a\x00b': embedded null byte"
    with pytest.raises(ValueError, match="cannot read"):
        load_config(missing)


def resolved(cfg: Config) -> Config:
    return replace(cfg, weighting=replace(cfg.weighting, rule=cfg.rule))


def read_back(cfg: Config, folder: Path) -> Config:
    path = folder / "config.yaml"
    path.write_text(dump_config(cfg), encoding="utf-8")
    return load_config(path)


def test_a_written_config_holds_every_field_and_the_rule_in_force():
    tree = yaml.safe_load(dump_config(Config(algo="rho1-tokenskip")))
    assert tree["weighting"]["rule"] == "skip"
    assert tree["optimizer"]["epsilon"] == 1e-8
    found = {
        f"{key}.{name}" if isinstance(value, dict) else key
        for key, value in tree.items()
        for name in (value if isinstance(value, dict) else [key])
    }
    assert found == set(flatten(Config()))


def test_no_preset_is_laid_under_a_written_config(tmp_path):
    cfg = Config(model=ModelConfig(name="smoke"))
    assert read_back(cfg, tmp_path) == resolved(cfg)
    # A model whose preset is gone is read back all the same.
    cfg = Config(model=ModelConfig(name="gone"))
    assert read_back(cfg, tmp_path) == resolved(cfg)


def values(path: str) -> st.SearchStrategy[Any]:
    kind = leaves()[path].type
    text = st.text(st.characters(exclude_categories=[]))
    if get_origin(kind) is tuple:
        return st.lists(text, max_size=3).map(tuple)
    if get_origin(kind) is not None:
        return st.sampled_from(get_args(kind))
    plain = {bool: st.booleans(), str: text, float: st.floats(1.0, 1e300)}
    most = 10**6 if path.endswith("epochs") else 10**12
    return plain.get(kind, st.integers(1, most))


# Fields that take any value of their type (numbers: any >= 1), whatever the others are.
FREE = [
    path
    for path in leaves()
    if path.split(".")[0] in ("optimizer", "train", "tracking", "reference", "machine")
    and path not in ("optimizer.beta1", "optimizer.beta2", "optimizer.final_lr_scale")
    and path != "machine.attention"
]
FREE += ["output_dir", "tags", "seed", "weighting.temperature", "data.source"]
FREE += ["data.check_against", "model.name", "model.revision", "critic.reward_model"]


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({}, optional={path: values(path) for path in FREE}))
def test_round_trip_is_exact(tmp_path_factory, layer):
    cfg = build(layer)
    assert flatten(cfg) == flatten(Config()) | layer
    again = read_back(cfg, tmp_path_factory.getbasetemp())
    assert again == resolved(cfg)
    assert repr(again) == repr(resolved(cfg))
    assert dump_config(again) == dump_config(cfg)


@settings(max_examples=40, deadline=None)
@given(st.floats(min_value=5e-324, allow_infinity=False, allow_nan=False))
def test_round_trip_of_any_float(tmp_path_factory, lr):
    # Also what YAML writers get wrong: 1e-08, 1e+16, subnormal numbers.
    cfg = build({"optimizer.lr": lr, "heads.weight": (lr, 1e-08, 0.1, 3.0)})
    again = read_back(cfg, tmp_path_factory.getbasetemp())
    assert again.optimizer.lr == lr and again.heads.weight == cfg.heads.weight


@pytest.mark.parametrize("text", ["한국어", "\x85", "\u2028", "\udc80", "1e-3", "null"])
def test_round_trip_of_odd_text(tmp_path, text):
    cfg = Config(tags=text)
    assert read_back(cfg, tmp_path).tags == text
    assert text in dump_config(cfg) or not text.isprintable()
    in_list = Config(data=DataConfig(check_against=(f"a{text}b", "")))
    assert read_back(in_list, tmp_path) == resolved(in_list)


def test_a_written_config_is_also_a_recipe(tmp_path):
    first = run("--recipe", "critic", "--heads", "2", "--heads.weight", "1", "1e-08")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(first.config))
    assert run("--recipe", str(path)).config == resolved(first.config)
