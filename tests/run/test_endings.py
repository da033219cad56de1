"""What stands around a run must not cost its result: encodings, pipes, disks, devices.

Both trainers, in the same words where the words are ours.
"""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from shared.files import write_whole
from shared.tracking import console
from tests import trained
from tests.cases import shorter
from tests.trained import STEPS
from wmtp_jax import checkpoint, export, prepare, training
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

TRAINERS = {"jax": jax_train, "torch": torch_train}
SHORT = [*trained.MODEL, *trained.PACE, "--train.max-steps", "2"]
SHORT += ["--train.save-every", "1"]


@pytest.fixture(params=TRAINERS)
def trainer(request):
    return TRAINERS[request.param]


@pytest.fixture(params=shorter(TRAINERS, ["torch"]))
def quick_trainer(request):
    """Where what is tested is shared, the normal run has the one that compiles not."""
    return TRAINERS[request.param]


def one_line(capsys, code, *argv, main):
    capsys.readouterr()
    assert main(list(map(str, argv))) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# --- encodings ----------------------------------------------------------------------


def narrow(monkeypatch, encoding="ascii"):
    """stdout and stderr that cannot write `∑`; the function tells what they got."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        for name in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)

    def said(name: str) -> str:
        streams[name].flush()
        return streams[name].buffer.getvalue().decode(encoding)

    return said


@pytest.mark.parametrize("encoding", shorter(["ascii", "cp1252"], ["ascii"]))
def test_no_encoding_costs_a_result(quick_trainer, encoding, tmp_path, monkeypatch):
    said = narrow(monkeypatch, encoding)
    out = tmp_path / "é∑"
    argv = [*SHORT, "--output-dir", str(out), "--run-name", "a"]
    assert quick_trainer.main(argv) == 0
    assert said("stderr") == ""
    assert "\\u2211" in said("stdout") and "run folder: " in said("stdout")
    assert json.loads((out / "a" / "summary.json").read_text("utf-8"))["steps"] == 2
    assert str(out) in (out / "a" / "train.log").read_text("utf-8")


def test_no_encoding_costs_help_dry_run_or_an_error(trainer, tmp_path, monkeypatch):
    said = narrow(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        trainer.main(["--help"])
    assert ended.value.code == 0
    out = ["--output-dir", str(tmp_path / "∑")]
    assert trainer.main([*SHORT, *out, "--dry-run"]) == 0
    assert "\\u2211" in said("stdout")
    assert trainer.main([*SHORT, "--data", "∑"]) == 2
    assert said("stderr").startswith("error: ") and "\\u2211" in said("stderr")


@pytest.mark.slow
def test_no_encoding_costs_prepare_or_export(whole_run, tmp_path, monkeypatch):
    said = narrow(monkeypatch)
    made = tmp_path / "∑"
    assert prepare.main(f"--model smoke --random-init --out {made}".split()) == 0
    for number, (name, of) in enumerate(TRAINERS.items()):
        run = whole_run(of, "baseline")
        command = {"jax": export, "torch": torch_export}[name]
        assert command.main([str(run), "--to", str(tmp_path / f"∑{number}")]) == 0
    assert said("stdout").count("\\u2211") >= 3


def test_text_that_is_no_unicode_reaches_log_and_terminal(capsys, tmp_path):
    """A name of bytes that are no UTF-8 comes as lone surrogates."""
    console.setup_logging(tmp_path, verbose=False).info("caf%s", "\udce9")
    console.close_logging()
    assert "caf\\udce9" in (tmp_path / "train.log").read_text("utf-8")
    out, err = capsys.readouterr()
    assert "caf" in out and err == ""


# --- pipes --------------------------------------------------------------------------


class Closed(io.StringIO):
    """Nobody reads it any more."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_a_closed_pipe_costs_no_result(quick_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    argv = [*SHORT, "--output-dir", str(tmp_path), "--run-name", "a"]
    assert quick_trainer.main(argv) == 0
    assert (tmp_path / "a" / "summary.json").is_file()
    assert quick_trainer.main([*argv, "--run-name", "b", "--dry-run"]) == 0


# As `--help` prints: by another's `print`, more than a pipe holds.
TALKS = """
import sys
from shared.run.main import exit_code
with exit_code([]) as outcome:
    for _ in range(sys.maxsize if sys.argv[1] == "ever" else 1):
        print("x" * 100)
sys.exit(outcome.code)
"""


@pytest.mark.parametrize("how_long", ["ever", "once"])
def test_head_ends_a_command_without_a_traceback(how_long):
    with subprocess.Popen(
        [sys.executable, "-c", TALKS, how_long],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as talker:  # fmt: skip
        talker.stdout.close()
        assert talker.stderr.read() == ""
    assert talker.returncode == 0


# --- disks --------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part.bin")


# As tensorstore says it, in one line of four.
IN_ORBAX = """RESOURCE_EXHAUSTED: Error writing local file "/runs/0/_sharding": Failed
writing: "/runs/_sharding.__lock": Failed to write 9088 bytes to file 17: \
No space left on device [os_error_code='28']"""


def test_a_full_disk_keeps_the_last_checkpoint(trainer, tmp_path, monkeypatch, capsys):
    saves = iter(range(9))

    def till_full(save):
        def guarded(*arguments, **options):
            return full() if next(saves) > 1 else save(*arguments, **options)

        return guarded

    if trainer is jax_train:
        write = checkpoint._write_arrays
        monkeypatch.setattr(checkpoint, "_write_arrays", till_full(write))
    else:
        from shared.huggingface import folder

        monkeypatch.setattr(folder, "_write_files", till_full(folder._write_files))
    run = tmp_path / "a"
    argv = [*SHORT, "--output-dir", tmp_path, "--run-name", "a"]
    line = one_line(capsys, 1, *argv, main=trainer.main)
    assert "No space left on device" in line
    assert f"(the checkpoint of step 1 is kept; go on: --resume {run})" in line
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["0", "1"]
    monkeypatch.undo()
    assert trainer.main(["--resume", str(run)]) == 0
    assert (run / "summary.json").is_file()


def test_what_orbax_says_of_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ValueError(IN_ORBAX)

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "save", refuse)
    argv = [*SHORT, "--output-dir", tmp_path, "--run-name", "a"]
    line = one_line(capsys, 1, *argv, main=jax_train.main)
    assert "the checkpoint of step 0 must be written to " in line
    assert "got: No space left on device (" in line and "sharding" not in line


def test_a_full_disk_costs_a_log_its_lines_alone(tmp_path, capsys, monkeypatch):
    log = console.setup_logging(tmp_path, verbose=False)
    (file,) = (x for x in log.handlers if hasattr(x, "baseFilename"))
    monkeypatch.setattr(file.stream, "write", full, raising=False)
    log.info("one")
    log.info("two")
    monkeypatch.undo()
    console.close_logging()
    assert capsys.readouterr() == ("one\ntwo\n", "")


def test_any_error_of_the_system_is_one_line(trainer, whole_run, tmp_path, capsys):
    """Here of the record of the metrics, which is a folder."""
    run = trained.copy_of(whole_run(trainer, "baseline"), tmp_path)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    more = ["--resume", run, "--train.max-steps", str(STEPS + 1)]
    line = one_line(capsys, 1, *more, main=trainer.main)
    kept = f"(the checkpoint of step {STEPS} is kept"
    assert f"metrics.jsonl: Is a directory {kept}" in line


def test_a_run_in_a_read_only_folder_is_refused(trainer, whole_run, tmp_path, capsys):
    copied = trained.copy_of(whole_run(trainer, "baseline"), tmp_path)
    (copied / ".lock").unlink(missing_ok=True)
    (copied / ".lock").mkdir()  # what nobody, not even root, can write
    line = one_line(capsys, 2, "--resume", copied, main=trainer.main)
    assert "the run's folder must be one that can be written" in line


# --- devices and memory -------------------------------------------------------------


PREPARE = pytest.param("prepare --out x", marks=pytest.mark.slow)


@pytest.mark.parametrize("command", ["train --device gpu", PREPARE])
def test_a_platform_that_is_not_there_is_one_line(command, tmp_path):
    name, *argv = command.split()
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    command = [sys.executable, "-m", f"wmtp_jax.{name}", *argv, "--model", "smoke"]
    command += ["--random-init"] * (name == "prepare")
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path,
        env=environment | {"PYTHONPATH": os.getcwd()}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(
        "error: JAX_PLATFORMS must name devices that JAX sees"
    )
    assert "got 'cuda'" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_in_jax_is_one_line(tmp_path, monkeypatch, capsys):
    import jax

    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBufferAssignment"
        )

    monkeypatch.setattr(training, "make_eval_step", refuse)
    argv = [*SHORT, "--output-dir", tmp_path]
    line = one_line(capsys, 1, *argv, main=jax_train.main)
    assert "the run must fit into memory, got: RESOURCE_EXHAUSTED: Out of" in line


def test_memory_that_runs_out_is_no_damaged_checkpoint(
    whole_run, tmp_path, monkeypatch, capsys
):
    import jax

    run = trained.copy_of(whole_run(jax_train, "baseline"), tmp_path)

    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", refuse)
    line = one_line(capsys, 1, "--resume", run, main=jax_train.main)
    assert "Out of memory" in line and "damaged" not in line


def test_a_half_written_file_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.json", b"{}")
    assert list(tmp_path.iterdir()) == []
