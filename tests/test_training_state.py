"""The state beside a model: bit-exact, whole or absent, and never trusted."""

import hashlib
import json
import shutil
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import safetensors.numpy

from shared import training_state
from shared.config import Config, DataConfig, HeadsConfig, OptimizerConfig
from shared.config_file import dump_config, load_config
from shared.kept_signals import keep_signals, read_signals
from shared.loop import Progressed
from shared.params_io import read_model, write_model
from shared.signals import files_digest
from shared.state_header import MAX_BYTES, POSITION, moment_names
from shared.tensor_files import write_file
from shared.training_state import (
    TrainingState,
    check_state,
    is_state,
    read_state,
    write_state,
)
from tests import trees
from tests.test_kept_signals import LENGTHS, assert_same_signals, random_signals
from tests.trees import (
    MODEL,
    NTP,
    assert_equal_models,
    assert_same,
    flat,
    open_stock,
    random_params,
    refuses,
    small,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars
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
        optimizer=cfg.optimizer.name,
        moments=random_moments(cfg),
        position=asdict(PLACE),
        config=cfg,
        inputs={"train": "ab", "tokenizer": "cd"},
        versions={"jax": "0.7"},
        loss_scale=None,
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
    keep_signals(base / "signals", random_signals())
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


# Round trips.


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("head_type", ["linear", "residual", "block"])
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
    for name in ("backend", "step", "optimizer", "position", "inputs", "versions"):
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


def test_numbers_that_json_has_no_words_for(tmp_path, tokenizer):
    cfg = config("qwen2", lr=1e-17)
    place = asdict(PLACE) | {"best_nll": float("nan"), "stage1": {"epochs": 2}}
    scale = {"scale": 65536.0, "splits": 2.0}
    state = state_of(
        cfg, step=0, position=place, loss_scale=scale, backend="wmtp_torch_mps"
    )
    write(tmp_path / "out", tokenizer, cfg, state)
    found = check_state(tmp_path / "out")
    assert (found.step, found.backend) == (0, "wmtp_torch_mps")
    assert np.isnan(found.position["best_nll"]) and found.loss_scale == scale
    assert found.config.optimizer.lr == 1e-17


def test_every_field_of_the_loop_is_in_a_position():
    assert POSITION.keys() == {field.name for field in fields(Progressed)}


def test_signals_come_along(made):
    assert_same_signals(read_signals(made / "signals", LENGTHS), random_signals())
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
        ({"optimizer": "lion"}, ("optimizer", "adamw")),
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


# Damage.


def test_a_flipped_bit_is_found_in_every_file(folder):
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        path.write_bytes(damaged)
        refuses(lambda: read_state(folder), path.name)
        path.write_bytes(content)
    read_state(folder)


def test_any_other_number_in_the_header_is_found(folder):
    text = (folder / HEADER).read_text()
    changed = text.replace('"step": 5', '"step": 7')
    assert changed != text
    (folder / HEADER).write_text(changed)
    refuses(lambda: check_state(folder), HEADER, "digest")


@pytest.mark.parametrize(
    "name",
    [TENSORS, MODEL, "config.json", "signals/signals.json", "mtp_heads.safetensors"],
)
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    refuses(lambda: check_state(folder), name, "got none")


@pytest.mark.parametrize("name", ["more.safetensors", "signals/more.json"])
def test_a_file_that_the_header_does_not_name(folder, name):
    (folder / name).write_bytes(b"")
    refuses(lambda: check_state(folder), "only", name)


def test_other_files_of_the_user_are_nobodys_business(folder):
    (folder / "README.md").write_text("mine")
    read_state(folder)


@pytest.mark.parametrize(
    "text, part",
    [
        (b"", "JSON"),
        (b"[1]", "a JSON object"),
        (b"\xff{}", "JSON"),
        (b"{}", "format"),
        (b'{"format": "1"}', "format"),
        (b'{"format": true}', "format"),
        (b'{"format": 2}', "newer version"),
        (b'{"format": 1}', "digest"),
        (b'{"format": 1, "a": ' + b"[" * 900 + b"]" * 900 + b"}", "digest"),
        (b'{"format": 1, "a": ' + b"[" * 99999 + b"]" * 99999 + b"}", "JSON"),
        (b" " * (MAX_BYTES + 1), "bytes"),
    ],
)
def test_a_header_that_is_none(folder, text, part):
    (folder / HEADER).write_bytes(text)
    refuses(lambda: check_state(folder), HEADER, part)


@pytest.mark.parametrize(
    "keys, part",
    [
        ({"step": -1}, "step must be a whole number from 0"),
        ({"step": True}, "got True"),
        ({"step": 5.0}, "got 5.0"),
        ({"step": 10**30}, "step"),
        ({"step": DROP}, "step must be a whole number from 0 to 1000000000, got none"),
        ({"backend": "other"}, "wmtp_jax, wmtp_torch_mps"),
        ({"backend": ["wmtp_jax"]}, "backend"),
        ({"optimizer": "lion"}, "optimizer must be adamw"),
        ({"moments": ["first"]}, "moments must be first, second for adamw"),
        ({"moments": "first"}, "moments must be a list"),
        ({"inputs": {"train": 3}}, "inputs"),
        ({"versions": None}, "versions"),
        ({"loss_scale": {"scale": -1}}, "loss_scale"),
        ({"loss_scale": {"scale": float("inf")}}, "loss_scale"),
        ({"loss_scale": 2}, "loss_scale"),
        ({"more": 1}, "unknown key more"),
        ({"position": []}, "position"),
        ({"position": asdict(PLACE) | {"data": {"epoch": 0}}}, "position.data"),
        (
            {"position": asdict(PLACE) | {"data": {"epoch": 0, "step": -1}}},
            "position.data",
        ),
        ({"position": asdict(PLACE) | {"best_nll": "1"}}, "position.best_nll"),
        ({"position": asdict(PLACE) | {"worse": -1}}, "position.worse"),
        (
            {"position": asdict(PLACE) | {"last_eval": {"a": None}}},
            "position.last_eval",
        ),
        ({"position": asdict(PLACE) | {"stop": 1}}, "unknown key position.stop"),
        ({"config": "algo: critic"}, "config"),
        ({"config": {"optimizer.lrr": 1}}, "optimizer.lrr"),
        ({"config": {"optimizer.lr": -1.0}}, "optimizer.lr must be > 0"),
        ({"config": {"model.width": {"a": [1]}}}, "model.width must be a whole"),
        ({"config": {"algo": "critic"}}, "config.json"),
        ({"sha256": []}, "sha256"),
        ({"sha256": {MODEL: "00"}}, "64 hexadecimal"),
        ({"sha256": {}}, "only what"),
    ],
)
def test_a_header_that_is_wrong_under_a_right_digest(folder, keys, part):
    change(folder, **keys)
    refuses(lambda: check_state(folder), part, str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "signals/../../secret",
        "signals",
        "signals/",
        "a/b",
        ".hidden",
        "..",
        "",
        "a\\b",
        "a\0b",
        "x\n",
    ],
)
def test_names_of_files_elsewhere(folder, name):
    (folder.parent / "secret").write_text("x")
    digests = header_of(folder)["sha256"]
    change(folder, sha256=digests | {name: "0" * 64})
    refuses(lambda: check_state(folder), "got none" if name == "signals" else "plain")


@pytest.mark.parametrize("name", [MODEL, "signals/signals.json"])
def test_links_out_of_the_folder(folder, name):
    shutil.move(folder / name, folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    refuses(lambda: check_state(folder), name, "a link to")


def test_a_folder_of_signals_that_is_a_link(folder):
    shutil.move(folder / "signals", folder.parent / "elsewhere")
    (folder / "signals").symlink_to(folder.parent / "elsewhere")
    refuses(lambda: check_state(folder), "a link to")


# Moments that do not fit.


@pytest.mark.parametrize(
    "edit, parts",
    [
        (lambda t: t.update({"third/a": np.ones(1, "f4")}), ("first, second, third",)),
        (lambda t: t.update({"lost": np.ones(1, "f4")}), ("first, second",)),
        (lambda t: t.update({"first/a": np.ones(1, "f4")}), ("'first'", "'a'")),
        (
            lambda t: t.pop("second/transformer.wte.weight"),
            ("'second'", "transformer.wte.weight", "none"),
        ),
        (lambda t: t.pop("first/value_head.outer.bias"), ("'first'", "outer.bias")),
        (
            lambda t: t.update({"first/mtp_heads.1.weight": np.ones((16, 260), "f4")}),
            ("mtp_heads.1.weight", "(260, 16)", "(16, 260)", TENSORS),
        ),
        (
            lambda t: t.update({"first/transformer.ln_f.bias": np.ones(16, "f2")}),
            ("transformer.ln_f.bias", "F32", "F16"),
        ),
    ],
)
def test_moments_that_do_not_fit(folder, edit, parts):
    change_moments(folder, edit)
    refuses(lambda: read_state(folder), *parts)


def test_no_moments_where_there_must_be_some(folder):
    (folder / TENSORS).unlink()
    digests = header_of(folder)["sha256"]
    digests.pop(TENSORS)
    change(folder, sha256=digests)
    refuses(lambda: read_state(folder), "first, second", "got none")


# Model and config that do not belong together.


@pytest.mark.parametrize(
    "field, value, key",
    [
        ("model.num_layers", 3, "n_layer"),
        ("model.activation", "relu", "activation_function"),
        ("model.norm_epsilon", 1e-3, "layer_norm_epsilon"),
        ("heads.count", 3, "mtp_config"),
        ("heads.type", "block", "mtp_config"),
        ("heads.count", 1, "mtp_config"),
        ("algo", "baseline", "value_head.safetensors"),
    ],
)
def test_a_config_of_another_model(folder, field, value, key):
    change(folder, config=header_of(folder)["config"] | {field: value})
    refuses(lambda: read_state(folder), key)


def test_reading_leaves_the_folder_as_it_is(made):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    params, state = read_state(made)
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    assert flat(params).keys() == flat(state.moments["first"]).keys()
