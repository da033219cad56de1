"""A torch run that goes on is the run that never stopped, to the bit."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from shared.data.tokenizer import load_tokenizer
from shared.run.loop import Progressed
from tests.cases import shorter
from tests.minis import config, minis
from tests.torch_models import start_of, torch_model
from tests.trained import EVAL_EVERY, STEPS, copy_of, cut, rows, run
from wmtp_torch_mps import checkpoint, train
from wmtp_torch_mps.model import named
from wmtp_torch_mps.optimizer import moments_of
from wmtp_torch_mps.state import init_state
from wmtp_torch_mps.step import train_step

MOMENTS = "training_state.safetensors"
CRITIC = config("critic", "linear", "default")
HALF = replace(CRITIC, machine=replace(CRITIC.machine, dtype="float16"))
ROUNDED = replace(CRITIC, machine=replace(CRITIC.machine, dtype="bfloat16"))
OVERFLOWING, FITTING = {"scale": 2.0**40}, {"scale": 2.0**12}


def test_a_resumed_run_ends_in_the_same_bits(whole_run, tmp_path):
    whole = whole_run(train, "critic")
    killed = cut(copy_of(whole, tmp_path), EVAL_EVERY)
    assert train.main(["--resume", str(killed), "--device", "cpu"]) == 0
    for file in ("model.safetensors", "mtp_heads.safetensors", MOMENTS):
        ours, right = (
            load_file(path / "checkpoints" / str(STEPS) / file)
            for path in (killed, whole)
        )
        assert ours.keys() == right.keys()
        assert all(np.array_equal(ours[name], right[name]) for name in ours), file


def with_optimizer(cfg, **changes):
    return replace(cfg, optimizer=replace(cfg.optimizer, **changes))


# Config, and what is poked into the state at its start.
SETTINGS = {
    "as it is": (CRITIC, {}),
    "in halves": (CRITIC, {"splits": 2}),
    "dropout": (replace(CRITIC, model=replace(CRITIC.model, dropout=0.1)), {}),
    "computed again": (
        replace(CRITIC, machine=replace(CRITIC.machine, rematerialise="layer")),
        {},
    ),
    "lion": (with_optimizer(CRITIC, name="lion"), {}),
    "sgd": (with_optimizer(CRITIC, name="sgd"), {}),
    "sgd without momentum": (with_optimizer(CRITIC, name="sgd", beta1=0.0), {}),
    "cosine": (with_optimizer(CRITIC, schedule="cosine", warmup_steps=1), {}),
    "head warm-up": (
        replace(CRITIC, heads=replace(CRITIC.heads, warmup_steps=1)),
        {},
    ),
    "trunk gradient": (
        replace(CRITIC, critic=replace(CRITIC.critic, trunk_gradient=True)),
        {},
    ),
    "bfloat16": (ROUNDED, {}),
    "float16": (HALF, {}),
    "float16 that overflows": (HALF, {"scaler": "overflows"}),
    "float16 that overflows in a head warm-up": (
        replace(HALF, heads=replace(HALF.heads, warmup_steps=1)),
        {"scaler": "overflows"},
    ),
    "float16 that overflows, sgd": (
        with_optimizer(HALF, name="sgd"),
        {"scaler": "overflows"},
    ),
}


NORMAL = ("as it is", "in halves", "dropout", "sgd without momentum", "head warm-up")
NORMAL += ("float16 that overflows", "float16 that overflows in a head warm-up")


@pytest.mark.parametrize("name", shorter(SETTINGS, NORMAL))
def test_what_is_saved_and_read_goes_on_the_same(name, tmp_path):
    cfg, poked = SETTINGS[name]
    state = init_state(torch_model(cfg, start_of(cfg)))
    state.splits = poked.get("splits", 1)
    if "scaler" in poked:
        state.scaler.load_state_dict(state.scaler.state_dict() | OVERFLOWING)
    steps = minis("packed", 3)
    train_step(state, steps[0], 3)
    assert state.skipped == int("scaler" in poked)
    if "scaler" in poked:
        state.scaler.load_state_dict(state.scaler.state_dict() | FITTING)
    train_step(state, steps[1], 3)
    place = asdict(Progressed({"epoch": 0, "step": 2}))
    checkpoint.save(tmp_path, 2, state, place, load_tokenizer("bytes"))
    read, _ = checkpoint.read(tmp_path / "checkpoints" / "2", cfg, torch.device("cpu"))
    whole, resumed = (train_step(x, steps[2], 3)[1] for x in (state, read))
    assert {n: float(x) for n, x in whole.items()} == {
        n: float(x) for n, x in resumed.items()
    }
    tensors = [
        named(x.params)
        | {f"{m} {n}": t for m, of in moments_of(x.optimizer, x.params).items()
           for n, t in of.items()}
        for x in (state, read)
    ]  # fmt: skip
    for tensor, x in tensors[0].items():
        assert torch.equal(x, tensors[1][tensor]), tensor
    assert (read.step, read.skipped) == (state.step, state.skipped)
    assert read.splits == state.splits


def test_float16_trains_and_resumes_with_its_scale(tmp_path):
    half = ["--machine.dtype", "float16"]
    done = run(train, tmp_path, "half", *half)
    last = rows(done)[STEPS]
    assert last["loss_scale"] == 2.0**12  # none was skipped
    assert last["eval_nll_head_0"] < rows(done)[0]["eval_nll_head_0"]
    longer = ["--train.max-steps", str(STEPS + 1)]
    assert train.main(["--resume", str(done), *longer]) == 0
    assert rows(done)[STEPS + 1]["loss_scale"] == 2.0**12
