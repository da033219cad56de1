"""Whatever happens to a file of a checkpoint is told, and an older one is read."""

import logging
import os
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.damage import DAMAGES, harms
from shared.config.layers import load_config
from shared.state import checkpoints
from shared.state.manifest import MANIFEST, check_manifest, write_manifest
from tests import trained
from tests.trained import SAVE_EVERY, STEPS
from tests.trees import refuses
from wmtp_jax import checkpoint as jax_checkpoint
from wmtp_jax import train as jax_train
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import abstract_state
from wmtp_torch_mps import checkpoint as torch_checkpoint
from wmtp_torch_mps import train as torch_train


@cache
def shapes_in(run: Path):
    cfg = load_config(run / "config.yaml")
    return abstract_state(cfg, make_optimizer(cfg, 1))


def read_jax(run: Path, step: int | None = None):
    return jax_checkpoint.restore(run, shapes_in(run), step)


def read_torch(run: Path, step: int | None = None):
    cfg = load_config(run / "config.yaml")
    return torch_checkpoint.restore(run, cfg, torch.device("cpu"), step)


TRAINERS = {"jax": (jax_train, read_jax), "torch": (torch_train, read_torch)}


@pytest.fixture(params=TRAINERS)
def saved(request, whole_run, tmp_path):
    """A run of two checkpoints to be harmed, and what reads it."""
    trainer, read = TRAINERS[request.param]
    run = trained.copy_of(whole_run(trainer, "critic"), tmp_path)
    return run, read


def test_every_damage_to_every_file_is_told(saved):
    run, read = saved
    folder = run / "checkpoints"
    newest, older = folder / str(STEPS), folder / str(STEPS - SAVE_EVERY)
    found = []
    for name, how in harms(newest, older):
        with pytest.raises(
            ValueError, match=r"no checkpoint in .* can be read"
        ) as told:
            read(run, STEPS)
        assert Path(name).name in str(told.value), (name, how)
        assert str(told.value).count("\n") == 0
        found.append((name, how))
    files = sum(path.is_file() for path in newest.rglob("*"))
    # A file of zeros that is all zeros, or equal in both steps, was not damaged.
    assert len(found) >= 4 * files and {how for _, how in found} == set(DAMAGES)
    assert read(run)[0] == STEPS  # as it was


def test_the_older_one_is_read_and_the_damage_named(saved, caplog):
    run, read = saved
    lost = next(x for x in (run / "checkpoints" / str(STEPS)).rglob("*.json"))
    lost.unlink()
    with caplog.at_level(logging.WARNING, "wmtp"):
        step, state, _ = read(run)
    assert step == STEPS - SAVE_EVERY == int(state.step)
    (line,) = caplog.messages
    assert f"checkpoint {STEPS} cannot be read" in line and lost.name in line


def test_a_checkpoint_under_the_number_of_another_is_refused(saved):
    run, read = saved
    folder = run / "checkpoints"
    (folder / str(STEPS)).rename(folder / str(STEPS + 1))
    refuses(lambda: read(run, STEPS + 1), str(STEPS), str(STEPS + 1))


def test_half_a_checkpoint_never_has_a_name(saved, monkeypatch, caplog):
    """Killed once all is written but its name: as far as a save can come without."""
    run, read = saved
    steps = checkpoints.steps_in(run / "checkpoints")
    newest = run / "checkpoints" / str(STEPS)
    gone = next(x for x in range(2**15, 2**16) if not Path(f"/proc/{x}").exists())
    newest.rename(newest.with_name(f".{STEPS}.{gone}.tmp"))
    assert read(run)[0] == STEPS - SAVE_EVERY
    with caplog.at_level(logging.WARNING, "wmtp"):
        checkpoints.clear_unfinished(run / "checkpoints")
    assert caplog.messages == [
        f"checkpoint {STEPS} was not finished: it is passed over"
    ]
    assert checkpoints.steps_in(run / "checkpoints") == steps[:-1]
    assert [x.name for x in (run / "checkpoints").iterdir() if x.name[0] == "."] == []


# --- the disk -----------------------------------------------------------------------


def test_all_is_on_the_disk_before_a_checkpoint_has_its_name(tmp_path, monkeypatch):
    """Every file and folder of it, the manifest last, then the name, then its place."""
    from shared import files

    told: list[str] = []
    sync, rename = files._sync, Path.rename

    def synced(path):
        told.append(path.name)
        sync(path)

    def renamed(path, to):
        told.append(f"renamed to {Path(to).name}")
        return rename(path, to)

    monkeypatch.setattr(files, "_sync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    folder = tmp_path / "checkpoints" / "3"
    with files.new_folder(folder, "a checkpoint's folder") as made:
        (made / "state").mkdir()
        (made / "state" / "array").write_bytes(b"1234")
        write_manifest(made, 3)
        temporary = made.name
    assert told[-2:] == ["renamed to 3", "checkpoints"]
    assert sorted(told[:-2]) == sorted([MANIFEST, "array", "state", temporary])
    check_manifest(folder, 3)


def test_a_file_that_its_manifest_does_not_name(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    write_manifest(tmp_path, 3)
    check_manifest(tmp_path, 3)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refuses(lambda: check_manifest(tmp_path, 3), "b must be as manifest.json says")
    (tmp_path / "b").unlink()
    outside = tmp_path.parent / "outside"
    outside.write_bytes(b"1")
    (tmp_path / "a").unlink()
    os.symlink(outside, tmp_path / "a")
    refuses(lambda: check_manifest(tmp_path, 3), "must lie in its folder")
    refuses(lambda: check_manifest(tmp_path, 4), "step must be 4")


def test_what_was_saved_before_there_was_a_manifest_is_held_against_its_checksum(
    tmp_path,
):
    before = Path(__file__).parent.parent / "fixtures" / "before_rooms" / "trained"
    run = trained.copy_of(before / "wmtp_jax", tmp_path)
    (folder,) = (run / "checkpoints").iterdir()
    assert read_jax(run)[0] == int(folder.name)
    position = folder / "position" / "metadata"
    text = position.read_text()
    position.write_text(text.replace('"checksum"', '"other"'))
    refuses(lambda: read_jax(run), "a manifest.json or a checksum, got neither")
    position.write_text(text.replace('"checksum": "', '"checksum": "0'))
    refuses(lambda: read_jax(run), "checksum they were saved with")
