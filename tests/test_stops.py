"""A run that is told to stop, whatever it is at, saves and ends as if it had not been.

One run of each trainer is stopped again and again, each time at another moment and by
another signal, and goes on each time. It trains a reference, asks it, fits a value
head, evaluates, saves and exports.
"""

import signal
from pathlib import Path

import pytest

from shared.critic.stage1 import Stage1
from shared.run import loop, reference_steps, stops
from shared.signals.passes import Pass
from tests import resuming
from tests.trained import MODEL, PACE, STEPS
from wmtp_jax import checkpoint as jax_checkpoint
from wmtp_jax import train as jax_train
from wmtp_jax import training as jax_training
from wmtp_torch_mps import checkpoint as torch_checkpoint
from wmtp_torch_mps import train as torch_train
from wmtp_torch_mps import training as torch_training

TRAINERS = {
    "jax": (jax_train, jax_training, (jax_checkpoint, "write_manifest")),
    "torch": (torch_train, torch_training, (torch_checkpoint, "write_training")),
}
# What runs when the signals come, at which call of it, and which: a second one of a
# scheduler changes nothing.
MOMENTS = {
    "reference": (reference_steps.ReferenceSteps, "log", 3, ["SIGUSR1"]),
    "reference pass": (Pass, "keep", 2, ["SIGTERM"]),
    "stage 1": (Stage1, "measured", 1, ["SIGINT"]),
    "first evaluation": (loop, "eval_metrics", 1, ["SIGXCPU"]),
    "step": (loop.Loop, "log", 3, ["SIGTERM", "SIGTERM"]),
    "evaluation": (loop, "eval_metrics", 1, ["SIGHUP", "SIGTERM"]),
    "save": (None, "", 1, ["SIGUSR2"]),
    "export": (None, "export", 1, ["SIGTERM"]),
}


def stopped_at(moment: str, trainer, argv: list[str], monkeypatch) -> int:
    """The exit code of a trainer that gets the signals of a moment; their first."""
    main, training, saving = trainer
    owner, name, call, told = MOMENTS[moment]
    if moment == "save":
        owner, name = saving
    original = getattr(owner or training, name)
    calls = iter(range(1, 10_000))

    def interrupted(*args, **options):
        if next(calls) == call:
            for one in told:
                signal.raise_signal(getattr(signal, one))
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner or training, name, interrupted)
        code = main.main(argv)
    assert next(calls) > call, f"{moment} never came"
    return code


@pytest.mark.parametrize("backend", TRAINERS)
def test_a_run_stopped_at_every_moment_is_the_run_never_stopped(
    backend, whole_run, tmp_path, monkeypatch, capsys
):
    trainer = TRAINERS[backend]
    whole, run = whole_run(trainer[0], "critic"), tmp_path / "stopped"
    place = ["--train.save-every", "8", "--output-dir", str(tmp_path)]
    argv = [*MODEL, *PACE, "--algo", "critic", *place, "--run-name", run.name]
    before = [signal.getsignal(number) for number in stops.SIGNALS]
    saved = []
    for moment, (*_, told) in MOMENTS.items():
        code = stopped_at(moment, trainer, argv, monkeypatch)
        assert code == 128 + getattr(signal, told[0]), moment
        assert capsys.readouterr().err == "stopped\n", moment
        assert [signal.getsignal(number) for number in stops.SIGNALS] == before
        assert not (run / "summary.json").exists()
        argv = ["--resume", str(run)]
        folder = run / "checkpoints"
        steps = [int(path.name) for path in folder.glob("[0-9]*")]
        saved.append(max(steps, default=-1))
        kept = [x.name for x in (run / "reference").glob("checkpoints/[0-9]*")]
        assert kept == {"reference": ["3"]}.get(moment, kept), moment
    # Nothing before the first evaluation; then every stop has saved what there was.
    assert saved == [-1, -1, -1, 0, 3, 6, 8, STEPS]
    assert trainer[0].main(argv) == 0
    assert resuming.rows_of(run) == resuming.rows_of(whole)
    assert not (run / "reference").exists()
    assert_same_model(run, whole)
    if backend == "jax":
        resuming.assert_same_end(run, whole)


def assert_same_model(run: Path, whole: Path) -> None:
    """The exported model, and torch's moments in the last checkpoint, to the bit."""
    exported = ("model", "mtp_heads", "value_head")
    files = [Path("model") / f"{name}.safetensors" for name in exported]
    moments = Path("checkpoints") / str(STEPS) / "training_state.safetensors"
    for file in [*files, *([moments] if (whole / moments).exists() else [])]:
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_second_ctrl_c_does_not_wait_and_a_second_sigterm_does():
    with stops.polite() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.told == signal.SIGTERM
        with pytest.raises(stops.Stopped) as ended:
            signal.raise_signal(signal.SIGINT)
    assert stops.code_of(ended.value) == 130


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops.at_once():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
