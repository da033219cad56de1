"""The state beside a model is never trusted: every damage is one line."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest

from shared.state.header import MAX_BYTES
from shared.state.portable_state import (
    check_state,
    read_state,
)
from tests import states, trees
from tests.states import (
    DROP,
    HEADER,
    PLACE,
    TENSORS,
    change,
    change_moments,
    header_of,
)
from tests.trees import (
    MODEL,
    flat,
    refuses,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars
made, folder = states.made, states.folder


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
        (b'{"format": 1, "a": ' + b"[" * 90 + b"]" * 90 + b"}", "digest"),
        (b'{"format": 1, "a": ' + b"[" * 900 + b"]" * 900 + b"}", "100 levels"),
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
        ({"moments": "first"}, "moments must be first, second for adamw"),
        ({"inputs": {"train": 3}}, "inputs"),
        ({"versions": None}, "versions"),
        ({"updates": 6}, "updates must be at most its step, 5"),
        ({"adapted": {"scale": -1}}, "adapted"),
        ({"adapted": {"scale": float("inf")}}, "adapted"),
        ({"adapted": 2}, "adapted"),
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
