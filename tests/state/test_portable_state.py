"""The state beside a model: bit-exact, whole or absent."""

import hashlib
from dataclasses import asdict, fields

import numpy as np
import pytest
import safetensors.numpy

from shared.config.fields import HeadsConfig
from shared.config.layers import dump_config, load_config
from shared.head_types import HEAD_TYPES
from shared.huggingface.folder import files_digest, read_model, write_model
from shared.huggingface.safetensors import write_file
from shared.run.loop import Progressed
from shared.signals.kept import read_signals
from shared.state import portable_state as training_state
from shared.state.header import LATER, POSITION
from shared.state.portable_state import (
    check_state,
    is_state,
    read_state,
    write_state,
)
from tests import states, trees
from tests.states import (
    HEADER,
    PLACE,
    TENSORS,
    assert_same_signals,
    config,
    digest_of,
    header_of,
    random_moments,
    random_signals,
    splits_of,
    state_of,
    write,
)
from tests.trees import (
    MODEL,
    NTP,
    assert_equal_models,
    assert_same,
    open_stock,
    random_params,
    refuses,
    small,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars
made, folder = states.made, states.folder

# Round trips.


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("shape", trees.SHAPES)
def test_round_trip_is_exact(tmp_path, tokenizer, shape, head_type, value):
    cfg = config(shape, HeadsConfig(count=3, type=head_type), value=value)
    right = state_of(cfg)
    params = write(tmp_path / "out", tokenizer, cfg)
    found_params, found = read_state(tmp_path / "out")
    assert_same(found_params, params)
    assert found.moments.keys() == {"first", "second"}
    for name in found.moments:
        assert_same(found.moments[name], right.moments[name])
    (tmp_path / "config.yaml").write_text(dump_config(cfg), "utf-8")
    assert found.config == load_config(tmp_path / "config.yaml")
    for name in ("backend", "step", "position", "inputs", "versions"):
        assert getattr(found, name) == getattr(right, name)
    assert Progressed(**found.position) == PLACE
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["out"]


@pytest.mark.parametrize(
    "optimizer, moments",
    [
        ({"name": "adamw"}, {"first", "second"}),
        ({"name": "lion"}, {"first"}),
        ({"name": "sgd"}, {"first"}),
        ({"name": "sgd", "beta1": 0.0}, set()),
    ],
)
def test_moments_of_each_optimizer(tmp_path, tokenizer, optimizer, moments):
    cfg = config("llama", **optimizer)
    write(tmp_path / "out", tokenizer, cfg)
    assert (tmp_path / "out" / TENSORS).exists() == bool(moments)
    _, found = read_state(tmp_path / "out")
    assert found.moments.keys() == moments
    for name, right in random_moments(cfg).items():
        assert_same(found.moments[name], right)


def test_moments_have_the_names_and_the_layout_of_their_parameters(made):
    moments = safetensors.numpy.load_file(made / TENSORS)
    params = {}
    for file in (MODEL, "mtp_heads.safetensors", "value_head.safetensors"):
        params |= safetensors.numpy.load_file(made / file)
    both = {f"{moment}/{name}" for moment in ("first", "second") for name in params}
    assert moments.keys() == both
    assert {"first/transformer.wte.weight", "second/mtp_heads.1.weight"} < both
    for name, x in params.items():
        np.testing.assert_array_equal(moments[f"first/{name}"], x * np.float32(0.3))


def test_numbers_that_json_has_no_words_for_are_not_written(tmp_path, tokenizer):
    place = asdict(PLACE) | {"best_nll": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, tokenizer, config(), state_of(config(), position=place))


def test_small_numbers_and_what_a_trainer_adapted_to(tmp_path, tokenizer):
    cfg = config("qwen2", lr=1e-17)
    place = asdict(PLACE) | {"best_nll": None, "stage1": {"epochs": 2}}
    scale = {"scale": 65536.0, "splits": 2.0}
    state = state_of(
        cfg, step=0, position=place, adapted=scale, updates=0, backend="wmtp_torch_mps"
    )
    write(tmp_path / "out", tokenizer, cfg, state)
    found = check_state(tmp_path / "out")
    assert (found.step, found.backend) == (0, "wmtp_torch_mps")
    assert found.position["stage1"] == {"epochs": 2} and found.adapted == scale
    assert found.config.optimizer.lr == 1e-17


def test_every_field_of_the_loop_is_in_a_position():
    known = POSITION | LATER
    assert known.keys() == {field.name for field in fields(Progressed)}


def test_signals_come_along(made):
    found = read_signals(made / "signals", ("ref_nll", "reward"), splits_of())
    assert_same_signals(found, random_signals())
    listed = header_of(made)["sha256"]
    on_disk = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert set(listed) == on_disk - {HEADER}
    assert "signals/ref_nll-train.safetensors" in listed


def test_a_run_without_signals(tmp_path, tokenizer):
    write(tmp_path / "out", tokenizer, config(), signals_from=tmp_path / "signals")
    assert not (tmp_path / "out" / "signals").exists()
    read_state(tmp_path / "out")


def test_only_a_folder_with_a_header_is_a_state(made, tmp_path, tokenizer):
    cfg = small("gpt2")
    write_model(tmp_path / "out", random_params(cfg), cfg, NTP, tokenizer)
    assert is_state(made)
    assert not is_state(tmp_path / "out") and not is_state(tmp_path / "none")
    refuses(lambda: read_state(tmp_path / "out"), HEADER, "No such file")


# Beside the model, and no part of it.


@pytest.mark.parametrize("shape", ["gpt2", "gpt2-untied", "llama"])
def test_stock_transformers_does_not_see_it(tmp_path, tokenizer, shape):
    cfg = config(shape, HeadsConfig(count=2))
    params = write(tmp_path / "out", tokenizer, cfg)
    write_model(tmp_path / "bare", params, cfg.model, cfg.heads, tokenizer)
    stock = open_stock(tmp_path / "out")
    assert_equal_models(stock, open_stock(tmp_path / "bare"))
    assert_same(read_model(tmp_path / "out", cfg.model), params)


def test_the_digest_of_the_model_does_not_depend_on_it(folder):
    before = files_digest(folder)
    (folder / TENSORS).unlink()
    (folder / HEADER).unlink()
    assert files_digest(folder) == before
    parts = "".join(
        f"{file.name} {digest_of(file)}\n"
        for file in sorted(folder.glob("*.safetensors"))
    )
    whole = parts.encode() + (folder / "config.json").read_bytes()
    assert before == hashlib.sha256(whole).hexdigest()
    (folder / "other.safetensors").write_bytes(b"x")
    assert files_digest(folder) != before


# Whole or nothing.


@pytest.mark.parametrize(
    "error, kind",
    [
        (OSError(28, "No space left on device"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_stopped_half_way_leaves_nothing(tmp_path, tokenizer, error, kind):
    cfg, seen = config(), []

    def beside(made):
        write_state(made, state_of(cfg))
        seen.extend(path.name for path in made.iterdir())
        raise error

    params = random_params(cfg.model)
    with pytest.raises(kind):
        write_model(tmp_path / "out", params, cfg.model, NTP, tokenizer, beside=beside)
    assert {MODEL, HEADER, TENSORS} < set(seen)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"moments": {}}, ("moments", "first, second", "none")),
        ({"step": -1}, ("step", "-1")),
        ({"position": {"data": {}}}, ("position.data",)),
    ],
)
def test_a_state_that_nobody_could_read_is_not_written(
    tmp_path, tokenizer, changes, parts
):
    cfg = config()
    state = state_of(cfg, **changes)
    refuses(lambda: write(tmp_path / "out", tokenizer, cfg, state), *parts)
    assert not list(tmp_path.iterdir())


def test_moments_of_another_shape_are_not_written(tmp_path, tokenizer):
    cfg = config()
    state = state_of(cfg)
    state.moments["second"]["trunk"]["embed"] = np.ones((2, 2), np.float32)
    refuses(
        lambda: write(tmp_path / "out", tokenizer, cfg, state), "trunk/embed", "(2, 2)"
    )
    assert not list(tmp_path.iterdir())


def test_moments_that_are_not_read_back_equal_are_not_kept(
    tmp_path, tokenizer, monkeypatch
):
    def write_wrong(path, tensors):
        write_file(path, {name: np.abs(x) for name, x in tensors.items()})

    monkeypatch.setattr(training_state, "write_file", write_wrong)
    refuses(lambda: write(tmp_path / "out", tokenizer, config()), "first/", TENSORS)
    assert not list(tmp_path.iterdir())
