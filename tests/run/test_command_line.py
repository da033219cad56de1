"""The command line: every field, every error, the help."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from shared import algorithms, head_types
from shared.config.fields import Config
from shared.config.layers import build, flatten, leaves
from shared.run.command_line import Invocation
from tests.command_lines import error, run

# What must not be the default plus one, or the first other choice.
SPECIAL = {
    "model.name": "smoke",
    "model.width": 256,
    "model.num_attention_heads": 8,
    "model.num_kv_heads": 2,
    "model.head_width": 64,
    "heads.count": 2,
    "heads.weight": (1.0, 0.5),
    "data.max_length": 64,
    "data.check_against": ("my tests.jsonl", "more"),
    "weighting.rule": "soft",
    "train.evaluate": ("bits", "mbpp:50"),
}
# What a field's other value needs beside it.
NEEDS = {
    "heads.target": {"heads.only": True},
    "model.num_kv_heads": {"model.family": "qwen2", "model.out_bias": False}
    | {"model.mlp_bias": False},
    "model.head_width": {"model.num_attention_heads": 2},
    "model.qkv_bias": {"model.family": "llama", "model.out_bias": False},
    "model.out_bias": {"model.family": "llama", "model.qkv_bias": False},
    "model.mlp_bias": {"model.family": "llama"},
    "weighting.control": {"algo": "critic"},
    "heads.weight": {"heads.count": 2},
}


def other(path: str) -> Any:
    """A valid value of the field that is not its default."""
    kind, value = leaves()[path].type, flatten(Config())[path]
    if path in SPECIAL:
        return SPECIAL[path]
    if get_origin(kind) is not None:
        return next(choice for choice in get_args(kind) if choice != value)
    changed = {bool: not value, int: lambda: value + 1, str: "other-1"}
    if kind is float:
        return value / 2 if value else 0.25
    return changed[kind]() if kind is int else changed[kind]


def wholes() -> list[dict[str, Any]]:
    """Every field once: a llama that is trained whole, and what does not go with it."""
    alone = {"model.scale_by_layer": True}
    only = {path: other(path) for path in ("heads.only", "heads.target")}
    rest = {path: other(path) for path in leaves() if path not in alone | only}
    return [rest, alone, only]


def words(value: Any) -> list[str]:
    return [str(x) for x in (value if isinstance(value, tuple) else [value])]


def hyphens(path: str, texts: list[str]) -> list[str]:
    return [f"--{path.replace('_', '-')}", *texts]


def underscores(path: str, texts: list[str]) -> list[str]:
    return [f"--{path}", *texts]


def equals(path: str, texts: list[str]) -> list[str]:
    option = f"--{path.replace('_', '-')}="
    if get_args(leaves()[path].type)[:1] == (str,):  # a list of strings is not cut up
        return [option + texts[0], *texts[1:]]
    return [option + " ".join(texts)]


def flags(path: str, texts: list[str]) -> list[str]:
    group, dot, name = path.replace("_", "-").rpartition(".")
    if texts not in (["True"], ["False"]):
        return equals(path, texts)
    return [f"--{group}{dot}{'' if texts == ['True'] else 'no-'}{name}"]


@pytest.mark.parametrize("spell", [hyphens, underscores, equals, flags])
def test_every_field_can_be_given_on_the_command_line(spell):
    for wanted in wholes():
        argv: list[str] = []
        for path, value in wanted.items():
            assert value != flatten(Config())[path]
            argv += spell(path, words(value))
        invocation = run(*argv)
        assert invocation.overrides == wanted
        flat = flatten(invocation.config)
        got = {path: (type(flat[path]), flat[path]) for path in wanted}
        assert got == {path: (type(value), value) for path, value in wanted.items()}


@pytest.mark.parametrize("path", leaves())
def test_an_option_changes_its_own_field_only(path):
    layer = {path: other(path)} | NEEDS.get(path, {})
    argv = [word for key, value in layer.items() for word in flags(key, words(value))]
    given = run(*argv).overrides
    assert given == layer
    assert flatten(build(given)) == flatten(Config()) | layer


@pytest.mark.parametrize(
    ("alias", "path"),
    [
        ("--model", "model.name"),
        ("--heads", "heads.count"),
        ("--head-type", "heads.type"),
        ("--head_type", "heads.type"),
        ("--data", "data.source"),
        ("--reference", "reference.model"),
        ("--reward-model", "critic.reward_model"),
        ("--reward_model", "critic.reward_model"),
        ("--tracking", "tracking.to"),
    ],
)
def test_aliases(alias, path):
    value = other(path)
    for spelling in ([alias, str(value)], [f"{alias}={value}"]):
        assert flatten(run(*spelling).config)[path] == value


def test_invocation_only_arguments():
    assert run() == Invocation(run().config, False, "", {})
    invocation = run("--dry-run", "--resume", "runs/a=b", "--verbose")
    assert invocation.dry_run and invocation.resume == "runs/a=b"
    assert invocation.overrides == {"verbose": True}
    assert not run("--dry-run", "--no-dry-run").dry_run
    assert run("--resume=--odd").resume == "--odd"


def test_the_same_option_again_replaces_it():
    assert run("--heads", "2", "--heads.count", "3").config.heads.count == 3


@pytest.mark.parametrize("text", ["", " ", "-x", "--algo", "a=b", "é\n", "'", "None"])
def test_strings_arrive_as_they_were_given(text):
    assert run(f"--tags={text}").config.tags == text


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["my tests.jsonl", "b"], ("my tests.jsonl", "b")),
        (["  a  b  "], ("  a  b  ",)),
        (["1", "2.50", "true"], ("1", "2.50", "true")),
        (["", "a"], ("", "a")),
        (["a,b"], ("a,b",)),
        ([], ()),
    ],
)
def test_a_list_of_strings_arrives_as_the_shell_cut_it(argv, wanted):
    assert run("--data.check-against", *argv).config.data.check_against == wanted
    # Also where other options follow, and after `=`.
    more = ["--data.check_against", *argv, "--seed", "1"]
    assert run(*more).config.data.check_against == wanted
    if argv:
        first = f"--data.check-against={argv[0]}"
        assert run(first, *argv[1:]).config.data.check_against == wanted


@pytest.mark.parametrize("text", ["-x", "--algo", "--algo=critic", "--", "-h"])
def test_a_list_of_strings_may_hold_what_looks_like_an_option(text):
    cfg = run(f"--data.check-against={text}", "b").config
    assert cfg.data.check_against == (text, "b")
    assert cfg.algo == "baseline"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algoo", "critic"], "unknown option --algoo; did you mean --algo?"),
        (["--algoo=critic"], "unknown option --algoo; did you mean --algo?"),
        (
            ["--lr", "1"],
            "unknown option --lr; did you mean --reference.lr or --optimizer.lr?",
        ),
        (
            ["--optimiser.lr", "1"],
            "unknown option --optimiser.lr; did you mean --optimizer.lr?",
        ),
        (["--qqqq"], "unknown option --qqqq; --help lists the options"),
        (["-x"], "unknown option -x; --help lists the options"),
        (["--"], "unknown option --; --help lists the options"),
        (["critic"], "unexpected argument critic; options begin with --"),
        (["--tags", "a", "b"], "unexpected argument b; options begin with --"),
        (["--verbose", "maybe"], "--verbose must be true or false, got 'maybe'"),
        (
            ["--algo", "x"],
            "--algo must be one of baseline, rho1-weighted, rho1-tokenskip, critic, "
            "got 'x'",
        ),
        (
            ["--head_type", "x"],
            "--head-type must be one of linear, residual, medusa, block, got 'x'",
        ),
        (["--heads", "two"], "--heads must be a whole number, got 'two'"),
        (["--seed", "1.5"], "--seed must be a whole number, got '1.5'"),
        (["--seed="], "--seed must be a whole number, got ''"),
        (["--seed", "1_0"], "--seed must be a whole number, got '1_0'"),
        (["--seed", "-1"], "seed must be >= 0, got -1"),
        (["--optimizer.lr", "nan"], "--optimizer.lr must be a number, got 'nan'"),
        (["--optimizer.lr", "-1"], "optimizer.lr must be > 0, got -1.0"),
        (["--optimizer.lr", "1e999"], "optimizer.lr must be finite, got inf"),
        (["--verbose=1"], "--verbose must be true or false, got '1'"),
        (
            ["--heads.weight", "1,2"],
            "--heads.weight must be a list of numbers, got ['1,2']",
        ),
        (
            ["--heads.weight", "1", "x y"],
            "--heads.weight must be a list of numbers, got ['1', 'x', 'y']",
        ),
        (
            ["--algo"],
            "--algo needs a value: one of baseline, rho1-weighted, rho1-tokenskip, "
            "critic",
        ),
        (["--run-name", "--verbose"], "--run-name needs a value: a string"),
        (["--resume"], "--resume needs a value: a string"),
        (["--reward-model"], "--reward-model needs a value: a string"),
        (
            ["--reference.run", "x"],
            "unknown option --reference.run; --help lists the options",
        ),
        (
            ["--weighting.temperature", "0"],
            "weighting.temperature must be > 0, got 0.0",
        ),
    ],
)
def test_a_bad_option_is_refused_in_one_line(argv, message, capfd):
    assert error(*argv) == message
    assert capfd.readouterr() == ("", "")


def test_help_shows_every_option_with_the_default_in_force(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help", "--recipe", "critic", "--model", "smoke")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for path in leaves():
        group, dot, name = path.replace("_", "-").rpartition(".")
        assert f"--{group}{dot}{name}" in text, path
    for option in ["--config STR", "--recipe STR", "--dry-run", "--resume STR"]:
        assert option in text
    assert "--model STR, --model.name STR" in text
    assert "--reward-model STR, --critic.reward-model STR" in text
    assert "peak learning rate of the trunk, > 0 (default: 0.002)" in text
    assert f"{algorithms.help_text()} (default: critic)" in text
    assert f"{head_types.help_text()} (default: linear)" in text
    assert "value head and the advantages" in text  # a group's own line


def test_h_is_help(capsys):
    with pytest.raises(SystemExit) as caught:
        run("-h")
    assert caught.value.code == 0 and "usage: train" in capsys.readouterr().out


def test_import_is_light():
    heavy = ["transformers", "datasets", "jax", "torch", "mlflow"]
    code = (
        "import sys, shared.run.command_line;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_value_may_begin_with_one_hyphen():
    assert run("--tags", "-x", "--run-name", "a").config.tags == "-x"
    assert run("--data.check-against", "-a", "--seed", "3").config.seed == 3
