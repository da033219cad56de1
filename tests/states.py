"""Small training states and signals, and ways to damage them."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.numpy

from shared.config.fields import Config, DataConfig, HeadsConfig, OptimizerConfig
from shared.huggingface.folder import write_model
from shared.signals.kept import Signals, keep_signals
from shared.state.checkpoints import Progressed
from shared.state.header import moment_names
from shared.state.portable_state import (
    TrainingState,
    write_state,
)
from tests.signal_passes import split_of
from tests.trees import (
    NTP,
    random_params,
    small,
)

HEADER, TENSORS = "training_state.json", "training_state.safetensors"
PLACE = Progressed(data={"epoch": 1, "step": 3}, first_eval={"eval_nll_head_0": 5.5})


def config(shape="gpt2", heads=NTP, *, value=False, **optimizer):
    return Config(
        algo="critic" if value else "baseline",
        model=small(shape),
        heads=heads,
        data=DataConfig(max_length=16),
        optimizer=OptimizerConfig(**optimizer),
    )


def random_moments(cfg):
    """Trees of other numbers than the parameters and than one another."""

    def scale(tree, by):
        return {
            k: scale(x, by) if isinstance(x, dict) else x * by for k, x in tree.items()
        }

    params = random_params(cfg.model, cfg.heads, value=cfg.algo == "critic")
    by = {"first": np.float32(0.3), "second": np.float32(-7)}
    return {name: scale(params, by[name]) for name in moment_names(cfg.optimizer)}


def state_of(cfg, **changes):
    found = TrainingState(
        backend="wmtp_jax",
        step=5,
        moments=random_moments(cfg),
        position=asdict(PLACE),
        config=cfg,
        inputs={"train": "ab", "tokenizer": "cd"},
        versions={"jax": "0.7"},
        updates=4,
        adapted=None,
    )
    return replace(found, **changes)


def write(folder, tokenizer, cfg, state=None, signals_from=None):
    params = random_params(cfg.model, cfg.heads, value=cfg.algo == "critic")
    state = state or state_of(cfg)
    write_model(
        folder,
        params,
        cfg.model,
        cfg.heads,
        tokenizer,
        beside=lambda made: write_state(made, state, signals_from),
    )
    return params


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    """A folder of a model with heads and value head; never changed."""
    base = tmp_path_factory.mktemp("made")
    keep_signals(base / "signals", random_signals(), splits_of())
    cfg = config("gpt2", HeadsConfig(count=2), value=True)
    write(base / "out", tokenizer, cfg, signals_from=base / "signals")
    return base / "out"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def change(folder, **keys):
    """Rewrites the header under a right digest; `DROP` takes a key out."""
    file = folder / HEADER
    found = json.loads(file.read_text()) | keys
    found = {name: x for name, x in found.items() if x is not DROP and name != "digest"}
    text = json.dumps(found, sort_keys=True).encode()
    file.write_text(json.dumps(found | {"digest": hashlib.sha256(text).hexdigest()}))


DROP = object()


def header_of(folder):
    return json.loads((folder / HEADER).read_text())


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change_moments(folder, edit):
    """Rewrites the moments under a right digest."""
    tensors = safetensors.numpy.load_file(folder / TENSORS)
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / TENSORS)
    digests = header_of(folder)["sha256"] | {TENSORS: digest_of(folder / TENSORS)}
    change(folder, sha256=digests)


LENGTHS = {"train": [3, 2, 4], "validation": [5]}


def random_signals(lengths=LENGTHS, **changes):
    rng = np.random.default_rng(1)
    found = Signals(
        sources={"reference": "trained first, »so«"},
        columns={
            "ref_nll": {
                name: tuple(rng.gamma(2, 1, n).astype(np.float32) for n in of)
                for name, of in lengths.items()
            },
            "reward": {
                name: tuple(rng.normal(size=(len(of), 1)).astype(np.float32))
                for name, of in lengths.items()
            },
        },
    )
    return replace(found, **changes)


def splits_of(lengths=LENGTHS):
    """Splits whose documents have these lengths."""
    return {name: split_of(of, name=name) for name, of in lengths.items()}


def assert_same_signals(found, right):
    assert found.sources == right.sources
    assert found.columns.keys() == right.columns.keys()
    for name, by_split in right.columns.items():
        assert found.columns[name].keys() == by_split.keys()
        for split, values in by_split.items():
            for x, y in zip(found.columns[name][split], values, strict=True):
                assert x.dtype == np.float32
                np.testing.assert_array_equal(x, y)
