"""One run has one trainer, which ends when it is told to."""

import signal

from tests import resuming
from tests.resuming import (
    SMALL,
    has_row,
    resume,
    rows_of,
    saved_steps,
    trainer,
    wait_until,
)

programs = resuming.programs


def test_a_second_trainer_is_refused_and_sigterm_ends_the_first(
    programs, tmp_path, capsys
):
    run = tmp_path / "busy"
    long = ("--train.max-steps", "0", "--train.epochs", "400")
    few = ("--train.keep-checkpoints", "2", "--train.save-every", "50")
    folder = ("--output-dir", str(tmp_path), "--run-name", run.name)
    with trainer(programs, *SMALL, *long, *few, *folder) as process:
        wait_until(has_row(run, 1), process)
        capsys.readouterr()
        assert resume(run) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        assert "only one trainer" in line and str(run) in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert process.stderr.read() == "stopped\n"
    assert saved_steps(run)[-1] == rows_of(run)[-1]["step"]
