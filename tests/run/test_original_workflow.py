"""The original's way of working: every command of the docs' table, and the pipeline.

On the smallest model and two steps; what comes out is compared elsewhere.
"""

import importlib.util
import io
import json
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from wmtp_jax import prepare
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "script" / "run_pipeline.py"
SMALL = (
    "--model smoke --model.num-layers 1 --model.width 16 --data.max-length 64 "
    "--train.max-steps 2 --train.eval-every 1 --data.batch-size 4 "
    "--critic.stage1-epochs 1 --reference.epochs 1"
).split()


TRAINERS = {"wmtp_jax": jax_train, "wmtp_torch_mps": torch_train}


def script():
    spec = importlib.util.spec_from_file_location("run_pipeline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pipeline_here(*arguments: str) -> int:
    """The script, whose runs are made in this process and not in others of their own.

    A failed run (below) shows that they are, without.
    """
    module = script()

    def run_here(trainer, argv, verbose):
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            return TRAINERS[trainer].main(argv)

    module._run = run_here
    return module.main(list(arguments))


def commands() -> list[list[str]]:
    """Our side of the table in `docs/original_commands.md`, as arguments."""
    text = (ROOT / "docs" / "original_commands.md").read_text()
    section = text.split("## Commands")[1].split("\n## ")[0]
    cells = re.findall(r"^\|[^|]+\| `([^`|]+)` \|$", section, re.MULTILINE)
    return [shlex.split(cell) for cell in cells]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the commands name, as in the repository."""
    shutil.copytree(ROOT / "tests" / "configs", tmp_path / "tests" / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str]) -> None:
    """One command of the table; raises if it does not do what it says."""
    match command:
        case ["python", "-m", "wmtp_torch_mps.train", *rest]:
            more = ["--train.max-steps", "3"] if "--resume" in rest else SMALL
            assert torch_train.main([*rest, *more]) == 0
        case ["python", "tests/script/run_pipeline.py", *rest]:
            rest.remove("--verbose")
            assert pipeline_here(*rest, *SMALL) == 0
        case ["python", "-m", "wmtp_jax.prepare", *rest]:
            named = ["tiny" if x == "distilgpt2" else x for x in rest]
            assert prepare.main([*named, "--random-init"]) == 0
        case ["mlflow", "ui", _, store]:
            assert Path(store.removeprefix("sqlite:///")).is_file()
        case ["tail", "-f", log]:
            assert "critic" in Path(log).read_text()
        case _:
            raise AssertionError(command)


@pytest.mark.unaudited  # as in processes of their own; other tests audit such runs
def test_every_command_of_the_table_runs(workplace, capfd):
    listed = commands()
    assert len(listed) == 11
    for command in listed:
        run(command)
    out = capfd.readouterr()
    assert "no Apple GPU (mps) here" in out.out + out.err
    assert "note: nothing here reads" in out.err
    rows = re.findall(r"^(baseline|rho1-\S+|critic) +\S+ +\S+", out.out, re.MULTILINE)
    assert {"baseline", "rho1-weighted", "rho1-tokenskip", "critic"} <= set(rows)
    made = workplace / "tests/test_models/distilgpt2-mtp/config.json"
    assert json.loads(made.read_text())["mtp_config"]["n_future_tokens"] == 4


@pytest.mark.slow
def test_the_jax_trainer_takes_the_same_files(workplace, capfd):
    files = "--config tests/configs/config.local_test.yaml"
    files += " --recipe tests/configs/recipe.rho1_wmtp_tokenskip.yaml"
    assert jax_train.main([*files.split(), *SMALL, "--tracking", "jsonl"]) == 0
    out = capfd.readouterr()
    assert "wmtp_jax takes the CPU here" in out.out + out.err
    summary = json.loads(
        (workplace / "test_checkpoints/test_rho1_skip/summary.json").read_text()
    )
    assert summary["rule"] == "skip" and summary["steps"] == 2


@pytest.mark.slow
def test_a_failed_run_is_told_and_the_others_go_on(workplace, capfd):
    files = "--config tests/configs/config.local_test.yaml --backend jax".split()
    good = ["--recipe", "tests/configs/recipe.mtp_baseline.yaml"]
    # The second cannot be told beforehand: its reference is no model.
    bad = workplace / "bad.yaml"
    bad.write_text("train: {algo: critic-wmtp}\npaths: {models: {ref: nowhere}}\n")
    assert script().main([*files, "--recipe", str(bad), *good, *SMALL]) == 1
    out = capfd.readouterr()
    assert re.search(r"critic +- +- .* failed \(2\)", out.out)
    assert re.search(r"baseline +[0-9.-]+ +[0-9]+ ", out.out)
    assert "error: " in out.err and "nowhere" in out.err


def test_bad_input_is_one_line(workplace, capfd):
    files = "--config tests/configs/config.local_test.yaml".split()
    assert script().main([*files, "--recipe", "nowhere.yaml"]) == 2
    told = capfd.readouterr().err
    assert told.startswith("error: cannot read nowhere.yaml") and told.count("\n") == 1


def test_steps_to_the_baselines_nll():
    module = script()
    rows = [
        {"algorithm": "baseline", "seen": {0: 5.0, 5: 4.0, 10: 3.0}},
        {"algorithm": "critic", "seen": {0: 5.0, 5: 3.0, 10: 3.5}},
        {"algorithm": "rho1-weighted", "seen": {0: 5.0, 10: 3.1}},
        {"algorithm": "rho1-tokenskip"},  # failed
    ]
    module.add_steps_to_baseline(rows)
    found = [row.get("steps to baseline's nll") for row in rows]
    assert found == [10, 5, "never", None]
    alone = [{"algorithm": "critic", "seen": {0: 5.0}}]
    module.add_steps_to_baseline(alone)
    assert "steps to baseline's nll" not in alone[0]
