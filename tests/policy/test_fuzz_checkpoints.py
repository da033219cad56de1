"""Whatever the files of a checkpoint hold: a ValueError of one line, at once."""

import gc
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from shared.config.layers import load_config
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.generation import make_generation, read_generation
from shared.huggingface.safetensors import StoredTensors, open_file, open_model
from shared.huggingface.token_map import read_token_map
from shared.state.header import HEADER
from shared.state.manifest import MANIFEST, check_manifest, write_manifest
from shared.state.portable_state import check_state
from tests.policy import hostile
from tests.policy.fuzzing import (
    TEXTS,
    VALUES,
    as_json,
    changed,
    harmed,
    known,
    often,
    only,
)
from tests.test_before_rooms import BEFORE
from wmtp_jax import checkpoint as jax_checkpoint
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import abstract_state

TORCH = BEFORE / "trained" / "wmtp_torch_mps" / "checkpoints" / "4"


def signed(content: dict[str, Any]) -> bytes:
    """Under the digest that a header or manifest of it has."""
    found = {name: x for name, x in content.items() if name != "digest"}
    text = json.dumps(found, sort_keys=True).encode()
    return as_json(found | {"digest": hashlib.sha256(text).hexdigest()})


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    return Path(shutil.copytree(TORCH, tmp_path_factory.mktemp("torch") / "4"))


@often(10, 1500)
@pytest.mark.parametrize("name", [HEADER, "config.json"])
def test_headers_of_a_torch_folder(torch_folder, name, examples):
    file = torch_folder / name
    right = file.read_bytes()
    held = json.loads(right)
    parts: list[Any] = [changed(held)]
    if name == HEADER:
        parts += [
            st.builds(lambda key, x: held | {key: x}, st.just(key), changed(held[key]))
            for key in ("config", "position", "sha256")
        ]
        parts = [st.one_of(parts).map(signed)]
    else:
        parts = [part.map(as_json) for part in parts]

    def read(content: bytes) -> None:
        file.write_bytes(content)
        check_state(torch_folder)
        read_hf_config(torch_folder)

    try:
        only(ValueError, st.one_of(*parts, harmed(right)), read, examples)
    finally:
        file.write_bytes(right)
    read(right)


@often(6, 1500)
def test_configs_of_models(tmp_path, examples):
    folder = hostile.model_folder(tmp_path / "sent")
    right = json.loads((folder / "config.json").read_bytes())
    llama = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    more = ["mtp_config", "rope_parameters", "rope_theta", "num_labels", "head_dim"]
    found = changed(right | llama) | known([*right, *more]).map(lambda x: right | x)

    def read(content: bytes) -> None:
        (folder / "config.json").write_bytes(content)
        read_hf_config(folder)
        kept = read_generation(folder)
        make_generation(kept, {"eos_token_id": 1}, 10)

    only(ValueError, found.map(as_json), read, examples)


@often(10, 1500)
def test_lists_of_tokens(tmp_path, examples):
    def read(content: bytes) -> None:
        (tmp_path / "token_map.json").write_bytes(content)
        read_token_map(tmp_path, 10)

    lists = st.lists(st.integers(-1, 11) | VALUES, max_size=4).map(as_json)
    only(ValueError, lists | harmed(b"[1, 2, 3]"), read, examples)


ENTRY = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}


@often(40, 5000)
def test_headers_of_tensors(tmp_path, examples):
    entries = st.dictionaries(TEXTS, changed(ENTRY) | st.just(ENTRY), max_size=3)
    data = st.binary(max_size=20)
    size = st.none() | st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64 - 1])
    files = st.builds(hostile.safetensors, entries.map(as_json), data, size)
    whole = hostile.safetensors({"x": ENTRY})

    def read(content: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(content)
        tensors = StoredTensors(open_file(tmp_path / "model.safetensors"))
        for name in tensors:
            assert tensors[name].nbytes <= len(content) * 2

    read(whole)
    only(ValueError, files | harmed(whole), read, examples)


@often(10, 2000)
def test_indexes_of_shards(tmp_path, examples):
    right = {"metadata": {}, "weight_map": {"x": "a.safetensors"}}
    (tmp_path / "a.safetensors").write_bytes(hostile.safetensors({"x": ENTRY}))

    def read(content: bytes) -> None:
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        open_model(tmp_path)

    read(as_json(right))
    shards = st.dictionaries(TEXTS, TEXTS | VALUES).map(lambda x: {"weight_map": x})
    only(ValueError, (changed(right) | shards).map(as_json), read, examples)


@often(20, 3000)
def test_manifests(tmp_path, examples):
    folder = tmp_path / "3"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    write_manifest(folder, 3)
    right = json.loads((folder / MANIFEST).read_bytes())
    entry = changed(right["files"]["a"])
    files = st.dictionaries(TEXTS | st.just("a"), entry | VALUES, max_size=2)
    others = changed(right) | files.map(lambda x: right | {"files": x})

    def read(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        check_manifest(folder, 3)

    read(signed(right))
    only(ValueError, others.map(signed) | harmed(as_json(right)), read, examples)


# Small files by which Orbax finds its arrays, of before there was a manifest: nothing
# holds them against a digest before Orbax reads them.
METADATA = [
    "_CHECKPOINT_METADATA",
    "position/metadata",
    "state/_METADATA",
    "state/_sharding",
    "state/manifest.ocdbt",
    "state/array_metadatas/process_0",
]


@pytest.fixture
def collected():
    """What a test leaves is told of in that test, not in one that comes later."""
    yield
    gc.collect()


# What Orbax has begun when it gives up is told by Python, not by it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@often(1, 40)
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_an_older_jax_run(tmp_path, name, examples):
    run = Path(shutil.copytree(BEFORE / "trained" / "wmtp_jax", tmp_path / "run"))
    cfg = load_config(run / "config.yaml")
    like = abstract_state(cfg, make_optimizer(cfg, 1))
    file = run / "checkpoints" / "4" / name
    right = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        jax_checkpoint.restore(run, like, 4)

    only(ValueError, harmed(right), read, examples)
