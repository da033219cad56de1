"""The pass that fills the cache: packed, interrupted and gone on with, never wrong."""

import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.signals import cache, passes
from tests.signal_passes import (
    KEY,
    L,
    Model,
    assert_right,
    config_of,
    plain_answer,
    split_of,
)

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"
RNG = np.random.default_rng(0)
LENGTHS = [2, L, *RNG.integers(2, L + 1, 150).tolist()]
SPLIT = split_of(LENGTHS)


class Stop:
    """Raises as Ctrl-C does when batch `number` is asked for."""

    def __init__(self, number):
        self.number = number

    def __call__(self, number):
        if number == self.number:
            raise KeyboardInterrupt


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of about two batches."""
    monkeypatch.setattr(passes, "BATCHES", 2)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="wmtp")
    return caplog


def beside(folder):
    return folder / "signals" / f"{KEY}.parts"


def everything(folder):
    return {path.name: path for path in (folder / "signals").iterdir()}


def parts_of(folder):
    """Batches of each part."""
    parts = passes.cut(SPLIT, config_of(folder), KEY)
    assert sum(len(part.split.documents) for part in parts) == len(LENGTHS)
    return [part.num_batches for part in parts]


def share_of_padding(batches):
    return 1 - np.mean([(batch.document_BL > 0).mean() for batch in batches])


# Packed


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_document_once_in_packed_rows_of_one_shape(tmp_path, layout):
    model = Model()
    found = model.run(tmp_path, SPLIT, layout=layout, batch_size=4)
    assert_right(found, SPLIT)
    assert {batch.tokens_BL.shape for batch in model.batches} == {(4, L)}
    assert len({batch.num_documents for batch in model.batches}) == 1
    for batch in model.batches:
        assert batch.document_BL.max() <= batch.num_documents
        assert (batch.positions_BL[batch.document_BL == 0] == 0).all()
    assert len(model.batches) < 0.6 * len(LENGTHS) / 4
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


def test_short_documents_fill_rows_too(tmp_path):
    model, split = Model(), split_of([2] * (2 * L // 2))
    assert_right(model.run(tmp_path, split), split)
    (batch,) = model.batches
    assert share_of_padding([batch]) == 0 and batch.document_BL.max() == L // 2


def test_lengths_like_those_of_mbpp(tmp_path):
    """Lengths in tokens of GPT-2: median 118, a twentieth is longer than 256."""
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.normal(4.82, 0.43, 374)).astype(int).clip(47, 256)
    model, split = Model(), split_of(lengths)
    model.run(tmp_path, split, max_length=256, batch_size=8)
    assert share_of_padding(model.batches) < 0.05


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the checkout")
def test_real_mbpp(tmp_path):
    from shared.config.fields import DataConfig
    from shared.data.documents import load_splits
    from shared.data.tokenizer import load_tokenizer

    cfg = DataConfig(source=str(REAL / "mbpp"), max_length=256)
    tokenizer = load_tokenizer(str(REAL / "gpt2_tokenizer"))
    split = load_splits(cfg, tokenizer, splits=("train",))["train"]
    model = Model()
    found = model.run(tmp_path, split, max_length=256, batch_size=8)
    assert_right(found, split)
    assert share_of_padding(model.batches) < 0.05


def test_a_split_of_one_part_writes_no_part(tmp_path, monkeypatch):
    written, save = [], cache.save

    def saving(folder, key, *rest):
        written.append(key)
        return save(folder, key, *rest)

    monkeypatch.setattr(cache, "save", saving)
    Model().run(tmp_path, SPLIT)
    assert written == [KEY]


# Interrupted


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("stop", [1, 2, 5, 9, "last"])
def test_an_interrupted_pass_goes_on_where_it_was(tmp_path, lines, stop):
    whole, num_batches = Model(), parts_of(tmp_path)
    total = sum(num_batches)
    right = whole.run(tmp_path / "whole", SPLIT)
    assert_right(right, SPLIT)
    assert len(whole.batches) == total and len(num_batches) > 5
    stop = total if stop == "last" else stop

    with pytest.raises(KeyboardInterrupt):
        Model(Stop(stop)).run(tmp_path, SPLIT)
    ends = np.cumsum(num_batches)
    finished = int(np.sum(ends < stop))  # parts whose every batch was answered
    kept = int(ends[finished - 1]) if finished else 0
    assert len(list(beside(tmp_path).glob("*"))) == finished
    assert f"{KEY}.safetensors" not in everything(tmp_path) if finished else True
    assert ("is kept, and the same command goes on" in lines.text) == bool(finished)

    again = Model()
    found = again.run(tmp_path, SPLIT)
    assert len(again.batches) == total - kept
    for x, y in zip(found, right, strict=True):
        np.testing.assert_array_equal(x, y)
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]
    files = [
        everything(x)[f"{KEY}.safetensors"] for x in (tmp_path, tmp_path / "whole")
    ]
    tensors = [load_file(file) for file in files]
    for name in tensors[0]:
        np.testing.assert_array_equal(tensors[0][name], tensors[1][name])
    said = "ref_nll of train: {} of 152 documents are there from an interrupted pass"
    parts = passes.cut(SPLIT, config_of(tmp_path), KEY)
    documents = sum(len(part.split.documents) for part in parts[:finished])
    assert (said.format(documents) in lines.text) == bool(finished)
    cached = Model()
    cached.run(tmp_path, SPLIT)
    assert not cached.loads and "read from the cache" in lines.text


@pytest.mark.usefixtures("small_parts")
def test_a_stop_while_an_answer_is_waited_for_is_told_too(tmp_path, lines):
    """Where a device computes later, the host waits for it within the pass."""
    model, read, stop = Model(), [], sum(parts_of(tmp_path)[:2]) + 1

    class Late:
        def __init__(self, answer_BL):
            self.answer_BL = answer_BL

        def __array__(self, dtype=None, copy=None):
            read.append(self)
            if len(read) == stop:
                raise KeyboardInterrupt
            return self.answer_BL

    model.answer = lambda batch: Late(plain_answer(batch))
    with pytest.raises(KeyboardInterrupt):
        model.run(tmp_path, SPLIT)
    assert "is kept, and the same command goes on" in lines.text


@pytest.mark.usefixtures("small_parts")
def test_progress_counts_the_batches_of_the_whole_pass(tmp_path, monkeypatch):
    seen = []

    class Progress(passes.Progress):
        def __init__(self, total, *rest, start, **settings):
            super().__init__(total, *rest, start=start, **settings)
            seen.append([(start, total)])

        def update(self, step, **fields):
            seen[-1].append(step)
            super().update(step, **fields)

    monkeypatch.setattr(passes, "Progress", Progress)
    num_batches = parts_of(tmp_path)
    total, kept = sum(num_batches), sum(num_batches[:2])
    with pytest.raises(KeyboardInterrupt):
        Model(Stop(kept + 1)).run(tmp_path, SPLIT)
    Model().run(tmp_path, SPLIT)
    assert seen == [
        [(0, total), *range(1, kept + 1)],
        [(kept, total), *range(kept + 1, total + 1)],
    ]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_part_is_measured_again(tmp_path, lines, damage):
    num_batches = parts_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Model(Stop(sum(num_batches[:3]) + 1)).run(tmp_path, SPLIT)
    parts = passes.cut(SPLIT, config_of(tmp_path), KEY)
    first, second = (beside(tmp_path) / f"{part.key}.safetensors" for part in parts[:2])
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(
        {
            "flip": content,
            "cut": content[:-5],
            "empty": b"",
            "other": first.read_bytes(),
        }[damage]
    )
    model = Model()
    assert_right(model.run(tmp_path, SPLIT), SPLIT)
    assert f"{second} is not used and will be made anew" in lines.text
    left = [n for i, n in enumerate(num_batches) if i not in (0, 2)]
    assert len(model.batches) == sum(left)
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


@pytest.mark.usefixtures("small_parts")
def test_parts_for_another_shape_are_not_taken(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Model(Stop(9)).run(tmp_path, SPLIT)
    other, whole = Model(), Model()
    assert_right(other.run(tmp_path, SPLIT, batch_size=1), SPLIT)
    whole.run(tmp_path / "whole", SPLIT, batch_size=1)
    assert len(other.batches) == len(whole.batches)
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


@pytest.mark.usefixtures("small_parts")
def test_with_every_part_at_hand_no_weights_are_read(tmp_path, monkeypatch):
    save = cache.save

    def saving(folder, key, *rest):
        if key == KEY:
            raise KeyboardInterrupt
        return save(folder, key, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "save", saving)
        with pytest.raises(KeyboardInterrupt):
            Model().run(tmp_path, SPLIT)
    model = Model()
    assert_right(model.run(tmp_path, SPLIT), SPLIT)
    assert not model.loads
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


def test_numbers_that_are_not_finite_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "BATCHES", 2)
    model = Model()
    monkeypatch.setattr(model, "answer", lambda batch: batch.noise_BL + np.inf)
    with pytest.raises(ValueError, match="ref_nll must be finite"):
        model.run(tmp_path, SPLIT)
    assert not list(tmp_path.rglob("*.safetensors"))


# Killed

KILLED = """
import signal, sys, time
from shared.signals import passes
from tests.signal_passes import Model
from tests.signals.test_measure import SPLIT

# A test run that is itself in the background has children that ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
passes.BATCHES = 2
def before(number):
    if number == 9:
        print("here", flush=True)
        time.sleep(100)
Model(before).run(sys.argv[1], SPLIT)
"""


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_pass_leaves_nothing_half_written(tmp_path, number):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert any("here" in line for line in process.stdout)
        process.send_signal(number)
        assert process.wait() != 0
    parts = {part.key: part for part in passes.cut(SPLIT, config_of(tmp_path), KEY)}
    left = list(beside(tmp_path).iterdir())
    assert left and set(everything(tmp_path)) == {beside(tmp_path).name}
    for path in left:
        assert path.suffix == ".safetensors"
        lengths = [len(d.tokens) for d in parts[path.stem].split.documents]
        cache.read(path, path.stem, "ref_nll", lengths)
    model = Model()
    assert_right(model.run(tmp_path, SPLIT), SPLIT)
    batches = {key: part.num_batches for key, part in parts.items()}
    kept = sum(batches[path.stem] for path in left)
    assert len(model.batches) == sum(batches.values()) - kept
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


# Two at once


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("number", [1, 4, 10])
def test_another_run_that_ends_first_removes_the_parts(tmp_path, number):
    """And takes those that are there; the slower one measures on."""

    def before(now):
        if now == number:
            assert_right(Model().run(tmp_path, SPLIT), SPLIT)
            assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]

    slow = Model(before)
    assert_right(slow.run(tmp_path, SPLIT), SPLIT)
    assert len(slow.batches) == sum(parts_of(tmp_path))
    assert list(everything(tmp_path)) == [f"{KEY}.safetensors"]


@pytest.mark.usefixtures("small_parts")
def test_the_folder_may_vanish_while_a_part_is_written(tmp_path, monkeypatch):
    write, vanished = cache.write_whole, []

    def writing(path, content):
        if not vanished and path.parent == beside(tmp_path):
            vanished.append(path)
            shutil.rmtree(path.parent)
        write(path, content)

    monkeypatch.setattr(cache, "write_whole", writing)
    assert_right(Model().run(tmp_path, SPLIT), SPLIT)
    assert vanished and list(everything(tmp_path)) == [f"{KEY}.safetensors"]


@pytest.mark.usefixtures("small_parts")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "signals").mkdir()
    beside(tmp_path).write_text("in the way")
    with pytest.raises(ValueError, match="folder that can be written, got"):
        Model().run(tmp_path, SPLIT)
