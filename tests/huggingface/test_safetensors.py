"""Safetensors files: what is damaged is refused with its name, all else is exact."""

import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from shared.huggingface.safetensors import (
    StoredTensors,
    check_file,
    open_file,
    open_model,
    write_file,
)


def some_tensors():
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (3, 4), "b.weight": (5,), "c.weight": (2, 3, 1)}
    return {name: rng.normal(size=s).astype("f4") for name, s in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    """Two shards and their index."""
    tensors = some_tensors()
    names = {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}
    names["c.weight"] = "model-2.safetensors"
    for shard in set(names.values()):
        of_shard = {name: tensors[name] for name in names if names[name] == shard}
        safetensors.numpy.save_file(of_shard, tmp_path / shard)
    write_index(tmp_path, names)
    return tmp_path


def write_index(folder, names):
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": names})
    (folder / "model.safetensors.index.json").write_text(text)


def read_index(folder):
    text = (folder / "model.safetensors.index.json").read_text()
    return json.loads(text)["weight_map"]


def refuses(call, *parts):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def write_raw(path, header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_written_files_are_those_of_the_library(tmp_path):
    tensors = some_tensors() | {
        "d": np.float32([np.nan]),
        "e": some_tensors()["c.weight"].T,
    }
    path = tmp_path / "model.safetensors"
    write_file(path, tensors)
    check_file(path, tensors)
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], x)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    for name, x in StoredTensors(open_model(tmp_path)).items():
        np.testing.assert_array_equal(x, tensors[name])


def test_reading_back_finds_one_changed_bit(tmp_path):
    tensors, path = some_tensors(), tmp_path / "x.safetensors"
    write_file(path, tensors)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuses(lambda: check_file(path, tensors), "'c.weight'", str(path))
    refuses(lambda: check_file(path, {"a.weight": tensors["a.weight"]}), "b.weight")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_dtypes_become_float32(tmp_path, dtype):
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    x[0] = torch.tensor([float("inf"), -0.0, 1e-40, 65504.0, 3e38])
    x = x.to(getattr(torch, dtype))
    safetensors.torch.save_file({"pad": x[:1, :1].clone(), "x": x}, tmp_path / "a")
    found = StoredTensors(open_file(tmp_path / "a"))["x"]
    assert found.dtype == np.float32
    assert found.tobytes() == x.float().numpy().tobytes()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "float8_e4m3fn"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    x = {"q": torch.zeros(4).to(getattr(torch, dtype)), "w": torch.zeros(2)}
    safetensors.torch.save_file(x, tmp_path / "a")
    stored = open_file(tmp_path / "a")
    refuses(lambda: StoredTensors(stored), "'q'", stored["q"].dtype, str(tmp_path))
    del stored["q"]  # a tensor that nobody needs may be of any dtype
    assert StoredTensors(stored)["w"].shape == (2,)


def test_shards(folder):
    found, right = StoredTensors(open_model(folder)), some_tensors()
    assert found.keys() == right.keys()
    for name, x in right.items():
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize("lost", [1, 24, 48])
def test_a_cut_file(folder, lost):
    path = folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-lost])
    refuses(lambda: open_model(folder), str(path), "whole safetensors", "cut short")


@pytest.mark.parametrize("size", [0, 7, 8, 30])
def test_a_file_cut_in_its_header(folder, size):
    path = folder / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refuses(lambda: open_model(folder), "model-2.safetensors", "whole safetensors")


def test_a_file_that_shrinks_after_it_was_opened(folder):
    found = StoredTensors(open_model(folder))
    path = folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refuses(lambda: found["a.weight"], str(path), "whole safetensors")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, part",
    [
        (b"{not json", "header"),
        (b"[" * 100_000, "header"),
        (b"\xff\xfe", "header"),
        ([], "header"),
        ({"x": 3}, "header"),
        ({"x": ENTRY | {"shape": None}}, "header"),
        ({"x": ENTRY | {"shape": [3]}}, "shape"),
        ({"x": ENTRY | {"shape": [-2]}}, "header"),
        ({"x": ENTRY | {"data_offsets": [-8, 0]}}, "header"),
        ({"x": ENTRY | {"data_offsets": [8, 16]}}, "`x`"),
        ({"x": ENTRY, "y": ENTRY}, "offset"),
        ({"x": ENTRY | {"dtype": "F99"}}, "F99"),
        (b'{"x":%b,"x":%b}' % ((json.dumps(ENTRY).encode(),) * 2), "'x' twice"),
        ({"x": ENTRY | {"shape": [1], "data_offsets": [0, 4]}}, "whole"),
    ],
)
def test_damaged_headers(tmp_path, header, part):
    path = tmp_path / "model.safetensors"
    write_raw(path, header)
    refuses(lambda: open_model(tmp_path), str(path), part)


def test_a_whole_raw_file_is_read(tmp_path):
    """So that the files above are refused for what is wrong with them."""
    write_raw(tmp_path / "model.safetensors", {"x": ENTRY})
    np.testing.assert_array_equal(StoredTensors(open_model(tmp_path))["x"], [0, 0])


def test_a_missing_shard(folder):
    (folder / "model-1.safetensors").unlink()
    refuses(lambda: open_model(folder), "model-1.safetensors", "index.json")


ELSEWHERE = ["../model-1.safetensors", "/x.safetensors", "a/b.safetensors", "..", ""]
NO_SHARD = ["a\\b.safetensors", "model.bin", "a\0.safetensors", 3, None]


@pytest.mark.parametrize("shard", ELSEWHERE + NO_SHARD)
def test_shards_lie_in_the_folder(folder, shard):
    inside = folder / "inner"
    inside.mkdir()
    write_index(inside, read_index(folder) | {"a.weight": shard})
    refuses(lambda: open_model(inside), "'a.weight'", "its own folder")


def test_index_and_shards_must_agree(folder):
    names = read_index(folder)
    write_index(folder, names | {"d.weight": "model-2.safetensors"})
    refuses(lambda: open_model(folder), "'d.weight'", "model-2.safetensors", "none")
    write_index(folder, names | {"a.weight": "model-2.safetensors"})
    refuses(lambda: open_model(folder), "'a.weight'")
    write_index(folder, {n: s for n, s in names.items() if n != "c.weight"})
    refuses(lambda: open_model(folder), "'c.weight'", "listed")


def test_a_tensor_in_two_shards(folder):
    path = folder / "model-1.safetensors"
    safetensors.numpy.save_file(
        {n: some_tensors()[n] for n in ("a.weight", "b.weight")}, path
    )
    refuses(lambda: open_model(folder), "'b.weight'", "model-1", "model-2")


@pytest.mark.parametrize(
    "text, part",
    [
        *(("", "JSON"), ("\xff", "JSON"), ("{{{", "JSON"), ("[]", "JSON object")),
        *(("{}", "weight_map"), ('{"weight_map": {}}', "weight_map")),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}', "'a' twice"),
    ],
)
def test_damaged_indexes(tmp_path, text, part):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text, encoding="latin-1")
    refuses(lambda: open_model(tmp_path), str(path), "must be", part)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "x.pth"]
)
def test_pickles_are_refused_with_the_way_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    refuses(
        lambda: open_model(tmp_path), name, "save_pretrained", "AutoModelForCausalLM"
    )


def test_a_pickle_beside_safetensors_is_passed_over(folder):
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    assert len(open_model(folder)) == 3


def test_nothing_there(tmp_path):
    refuses(lambda: open_model(tmp_path), str(tmp_path), "neither")
    refuses(lambda: open_model(tmp_path / "no"), str(tmp_path / "no"), "neither")
    (tmp_path / "adapter_model.safetensors").touch()
    refuses(lambda: open_model(tmp_path), "adapter_model.safetensors")
    refuses(lambda: open_file(tmp_path), str(tmp_path), "readable")
