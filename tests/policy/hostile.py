"""Files that somebody might send, and a canary that tells whether one was obeyed."""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shared.config.heads import HeadsConfig
from shared.huggingface.config_json import make_hf_config
from tests.trees import small

CANARY = "canary"
DEEP = b"[" * 100_000
TAG = "!!python/object/apply:builtins.open"


class Sings:
    """Whoever unpickles it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def pickled(folder: Path) -> bytes:
    return pickle.dumps(Sings(folder / CANARY))


def array_of_objects(folder: Path) -> bytes:
    """An `.npz` whose array is a pickle."""
    content = io.BytesIO()
    np.savez(content, x=np.array([Sings(folder / CANARY)], dtype=object))
    return content.getvalue()


def tagged(folder: Path) -> str:
    """YAML that a loader of everything obeys."""
    return f"seed: {TAG} [{folder / CANARY}, w]\n"


def obey(folder: Path, kind: str) -> None:
    """Opens each as nothing of ours may, to show that the canary sings."""
    opened: Any
    if kind == "pickle":
        opened = pickle.loads(pickled(folder))
    elif kind == "yaml":
        opened = yaml.unsafe_load(tagged(folder))["seed"]
    else:
        content = io.BytesIO(array_of_objects(folder))
        opened = np.load(content, allow_pickle=True)["x"]
        opened = opened.item() if hasattr(opened, "item") else opened
    opened.close()


def model_folder(folder: Path) -> Path:
    """A folder with the `config.json` of a small GPT-2 of bytes, and no weights."""
    folder.mkdir()
    cfg = replace(small("gpt2"), num_layers=1)  # as `tests.refused.SMALL` has it
    ids = {"eos_id": 1, "pad_id": 0}
    made = make_hf_config(cfg, HeadsConfig(count=1), kind="causal", **ids)
    (folder / "config.json").write_text(json.dumps(made))
    # A tokenizer of three words, whose last is the end.
    words = {"a": 0, "b": 1, "</s>": 2}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "b"}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model})
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def safetensors(header: Any, data: bytes = b"\0" * 8, size: int | None = None) -> bytes:
    """A file with that header, which may lie about its own size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = len(text) if size is None else size
    return said.to_bytes(8, "little") + text + data
