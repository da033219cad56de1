"""A run folder that somebody sends: its files are read as data, its links not followed.

The folder is one that an older version has written, whose files are damaged as no
program of ours would.
"""

import json
import shutil
from pathlib import Path

import pytest

import wmtp_jax.evaluate
import wmtp_jax.export
import wmtp_jax.generate
import wmtp_jax.inspect
import wmtp_torch_mps.evaluate
import wmtp_torch_mps.export
import wmtp_torch_mps.inspect
from tests import refused
from tests.policy import hostile
from tests.policy.hostile import CANARY, DEEP
from tests.refused import everything
from tests.test_before_rooms import BEFORE, TRAINERS
from wmtp_jax.train import main as jax_train
from wmtp_torch_mps.train import main as torch_train

folder = refused.folder
TRAIN = dict(zip(TRAINERS, (jax_train, torch_train), strict=True))


@pytest.fixture(params=TRAINERS)
def sent(request, folder):
    """What trains a run, and the run."""
    run = Path(shutil.copytree(BEFORE / "trained" / request.param, folder / "run"))
    return TRAIN[request.param], run


def line_of(capsys, main, *argv: str, changes: bool = False) -> str:
    """The one line of a refused command, which leaves everything as it was."""
    before = everything(Path.cwd())
    capsys.readouterr()
    assert main([str(x) for x in argv]) == 2
    err = capsys.readouterr().err
    assert changes or everything(Path.cwd()) == before, "something was left behind"
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert err[:-1].isprintable() and len(err) < 1000
    assert not Path(CANARY).exists()
    return err


def resume(run: Path) -> list[str]:
    return ["--resume", str(run), "--train.max-steps", "8"]


JSON = {
    "deep": DEEP,
    "as deep as Python reads": b'{"a":' + b"[" * 950 + b"]" * 950 + b"}",
    "a list": b"[1]",
    "null": b"null",
    "a number": b'{"backend": 1, "tokenizer": [], "folder": 3}',
    "bytes": b"\xff\xfe{",
    "5000 digits": b'{"step": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"backend": "a", "backend": "b"}',
    "a pickle": b"\x80\x04N.",
    "empty": b"",
}


@pytest.mark.parametrize("case", JSON)
def test_inputs_that_are_none(sent, case, capsys):
    main, run = sent
    (run / "inputs.json").write_bytes(JSON[case])
    assert "inputs.json must" in line_of(capsys, main, *resume(run))


@pytest.mark.parametrize("sent", TRAINERS[1:], indirect=True)
@pytest.mark.parametrize("case", ["deep", "a list", "a number", "empty"])
def test_an_origin_that_is_none(sent, case, capsys):
    main, run = sent
    shutil.rmtree(run / "checkpoints")
    (run / "origin.json").write_bytes(JSON[case])
    assert "origin.json must" in line_of(capsys, main, *resume(run))


@pytest.mark.parametrize("sent", TRAINERS[1:], indirect=True)
@pytest.mark.parametrize("case", ["deep", "words"])
def test_metrics_that_are_none(sent, case, capsys):
    """They are cut back once the run is held, whose log has lines by then."""
    main, run = sent
    content = JSON | {"words": b'{"step": 1, "nll": "<script>"}'}
    (run / "metrics.jsonl").write_bytes(content[case] + b"\n")
    line = line_of(capsys, main, *resume(run), changes=True)
    assert "metrics.jsonl line 1 must be a JSON object" in line


@pytest.mark.parametrize("sent", TRAINERS[1:], indirect=True)
def test_a_summary_that_is_none(sent, capsys):
    main, run = sent
    (run / "summary.json").write_bytes(DEEP)
    there = ["--resume", str(run)]  # it is at its end
    assert "summary.json must" in line_of(capsys, main, *there, changes=True)


def test_a_config_with_a_tag(sent, folder, capsys):
    main, run = sent
    with (run / "config.yaml").open("a") as file:
        file.write("more: " + hostile.tagged(folder).removeprefix("seed: "))
    assert "config.yaml" in line_of(capsys, main, *resume(run))


# --- links --------------------------------------------------------------------------

WRITTEN = ["train.log", "metrics.jsonl", ".lock", "signals", "checkpoints", "model"]


@pytest.mark.parametrize("name", [*WRITTEN, "checkpoints/4", "checkpoints/9"])
def test_nothing_is_written_through_a_link(sent, folder, name, capsys):
    """`train.log` is added to: of a run that was sent, not to a file of the user's."""
    main, run = sent
    outside, place = folder / "outside", run / name
    if place.exists():
        place.rename(outside)
    elif name in ("train.log", ".lock"):
        outside.write_text("of the user\n")
    place.symlink_to(outside)
    line = line_of(capsys, main, *resume(run))
    assert f"{name} must lie in the run's folder, got a link to {outside}" in line


def test_a_link_to_a_run_is_the_run(sent, folder, capsys):
    """The user's own: what is damaged is still told of."""
    main, run = sent
    (folder / "linked").symlink_to(run)
    (run / "inputs.json").write_bytes(DEEP)
    assert "inputs.json must" in line_of(capsys, main, *resume(folder / "linked"))
    (run / "config.yaml").unlink()
    says = "--resume must name a run folder"
    assert says in line_of(capsys, main, *resume(folder / "linked"))


def test_of_a_linked_folder_the_link_alone_is_removed(tmp_path):
    from shared.files import clear_leftovers, remove_folder

    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").touch()
    for name in ("4", ".4.999999999.tmp"):
        (tmp_path / name).symlink_to(kept)
    remove_folder(tmp_path / "4")
    clear_leftovers(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["kept"]
    assert (kept / "mine").exists()


# --- the other commands ---------------------------------------------------------------

MODELS = {
    "jax evaluate": (wmtp_jax.evaluate.main, ["--tasks", "bits"]),
    "torch evaluate": (wmtp_torch_mps.evaluate.main, []),
    "generate": (wmtp_jax.generate.main, ["--prompt", "a"]),
}


@pytest.mark.parametrize("command", MODELS)
def test_a_model_of_a_pickle(folder, command, capsys):
    main, argv = MODELS[command]
    sent = hostile.model_folder(folder / "sent")
    (sent / "pytorch_model.bin").write_bytes(hostile.pickled(folder))
    if "evaluate" in command:
        Path("to").mkdir()
        argv = [*argv, "--to", "to"]
    line = line_of(capsys, main, "--model", sent, *argv)
    assert "got the pickle pytorch_model.bin" in line


OF_RUNS = {
    "wmtp_jax": (wmtp_jax.inspect.main, wmtp_jax.export.main),
    "wmtp_torch_mps": (wmtp_torch_mps.inspect.main, wmtp_torch_mps.export.main),
}


@pytest.mark.parametrize("case", ["deep", "a number"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_inputs_that_are_none_in_every_command(folder, trainer, case, capsys):
    run = Path(shutil.copytree(BEFORE / "trained" / trainer, folder / "run"))
    (run / "inputs.json").write_bytes(JSON[case])
    inspect, export = OF_RUNS[trainer]
    for main, argv in ((inspect, ["--model", run]),
                       (export, [run, "--to", folder / "to"])):  # fmt: skip
        assert "inputs.json must" in line_of(capsys, main, *argv)


PROMPTS = {
    "deep": (DEEP, "more than 100 levels"),
    "half a character": (b'{"prompt": "\\ud800"}', "surrogate"),
    "half a character said": (
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "must have a text `prompt`",
    ),
    "bytes": (b"\xff", "UTF-8"),
    "a list": (b"[]", "objects"),
    "a key twice": (b'{"prompt": "", "prompt": ""}', "twice"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_that_lie(folder, case, capsys):
    content, says = PROMPTS[case]
    Path("prompts.jsonl").write_bytes(content + b"\n")
    model = BEFORE / "export"
    line = line_of(
        capsys, wmtp_jax.generate.main, "--model", model, "--prompts", "prompts.jsonl",
        "--compiled", folder, changes=True,
    )  # fmt: skip
    assert says in line


def test_ids_of_examples_are_no_places(folder):
    """An id stands in the name of a page; it decides neither folder nor ending."""
    from types import SimpleNamespace

    from shared.inspection.asked import file_name

    for own in (
        "../../x",
        "/etc/passwd",
        "a\0b",
        "..",
        "\x1b[2J",
        "x" * 5000,
        "\ud800",
    ):
        run = SimpleNamespace(step=3, name=own)
        shown = SimpleNamespace(name=f"validation/1: {own}")
        subjects = [SimpleNamespace(run=run, shown=shown)] * 2
        name = file_name(subjects)
        assert json.dumps(name).isascii() and len(name) <= 150
        assert Path(name).name == name and not name.startswith(".")
