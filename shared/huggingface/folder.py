"""Models in and out: Hugging Face folders <-> the parameter tree of the trainers.

    params  = read_model(folder, cfg)
    write_model(folder, params, cfg, heads, tokenizer)

The tree is a nested dict of float32 arrays: `trunk`, `heads` (k >= 1) and maybe
`value`; a reward model is `trunk` and `score`. `shared/huggingface/names.py` says which
tensor is which part of it.
"""

import hashlib
import re
from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.data.tokenizer import Tokenizer
from shared.files import file_digest, new_folder, write_text
from shared.huggingface.config_json import make_hf_config, read_hf_config
from shared.huggingface.generation import FILE as GENERATION
from shared.huggingface.generation import SPECIAL, make_generation
from shared.huggingface.leaves import Tree, open_tree
from shared.huggingface.names import (
    BUFFERS,
    HEADS,
    MODEL,
    TRUNK,
    UNEMBED,
    VALUE,
    file_of,
    unwrapped,
)
from shared.huggingface.safetensors import (
    Stored,
    StoredTensors,
    check_file,
    open_file,
    open_model,
    write_file,
)
from shared.huggingface.token_map import write_token_map
from shared.huggingface.tokenizer_files import (
    check_tokenizer,
    write_json,
    write_tokenizer,
)
from shared.huggingface.tree import (
    Params,
    Tensors,
    find_pieces,
    from_tensors,
    to_tensors,
)

STATE = "training_state.safetensors"  # moments beside a model, no part of it
TEMPLATE = files("shared.huggingface") / "templates" / "modeling_wmtp.py"


def check_model(folder: Path, cfg: ModelConfig, kind: str = "causal") -> None:
    """Holds names, shapes and dtypes of every file against the config, reading none.

    Raises:
      ValueError: as `read_model`, of which this is the first half.
    """
    tensors, heads, parts = _open(folder, cfg, kind)
    find_pieces(tensors, cfg, heads, parts=parts, source=str(folder))


def read_model(folder: Path, cfg: ModelConfig, *, extras: bool = True) -> Params:
    """Reads a causal model, with the heads and the value head that its folder holds.

    Args:
      folder: with config.json and safetensors files (sharded or not).
      cfg: the model; every shape is checked against it before any weight is read.
      extras: whether heads k >= 1 and value head are wanted.

    Returns:
      `trunk`, `heads` (k >= 1, `{}` without) and, if there is one, `value`.

    Raises:
      ValueError: naming the file or tensor that is missing, extra, damaged, or of
        another shape or dtype than it must be.
    """
    tensors, heads, parts = _open(folder, cfg, "causal")
    if not extras:
        tensors, heads, parts = _of_base(tensors), HeadsConfig(count=1), ()
    return from_tensors(tensors, cfg, heads, parts=parts, source=str(folder))


def open_model_tree(
    folder: Path, cfg: ModelConfig, *, kind: str = "causal", extras: bool = True
) -> Tree:
    """As `read_model` or, of kind `reward`, `read_reward_model`: but nothing is read.

    Returns:
      The tree, with a `Leaf` in place of every array.

    Raises:
      ValueError: as there.
    """
    tensors, heads, parts = _open(folder, cfg, kind)
    if not extras and kind == "causal":
        tensors, heads, parts = _of_base(tensors), HeadsConfig(count=1), ()
    return open_tree(tensors, cfg, heads, parts=parts, source=str(folder))


def _of_base(tensors: StoredTensors) -> StoredTensors:
    """Without heads k >= 1 and value head."""
    base = {name: x for name, x in tensors.data.items() if file_of(name) == MODEL}
    return StoredTensors(base)


def read_reward_model(folder: Path, cfg: ModelConfig) -> Params:
    """Reads a sequence classifier with one label: `trunk` and `score`.

    Raises:
      ValueError: as `read_model`.
    """
    tensors, heads, parts = _open(folder, cfg, "reward")
    return from_tensors(tensors, cfg, heads, parts=parts, source=str(folder))


def open_stored(
    folder: Path, cfg: ModelConfig
) -> tuple[StoredTensors, HeadsConfig, Collection[str]]:
    """The tensors of a causal model's folder, its heads, and the other parts it holds.

    Raises:
      ValueError: as `read_model`, of which this is the beginning.
    """
    return _open(folder, cfg, "causal")


def _open(
    folder: Path, cfg: ModelConfig, kind: str
) -> tuple[StoredTensors, HeadsConfig, Collection[str]]:
    """Every file of a folder by the headers; the heads and other parts it holds."""
    described = read_hf_config(folder)
    if described.kind != kind:
        raise ValueError(
            f"{folder} must hold a {kind} model, got a {described.kind} model by the "
            "architectures of its config.json"
        )
    stored = {MODEL: _open_base(folder, cfg)}
    if kind == "reward":
        return StoredTensors(stored[MODEL]), HeadsConfig(count=1), ("score",)
    type_, heads = described.head_type, HeadsConfig(count=1)
    if type_ is not None:
        heads = HeadsConfig(count=described.num_heads, type=type_)
    if (there := (folder / HEADS).is_file()) != (heads.count > 1):
        raise ValueError(
            f"{folder} must hold {HEADS} just where its config.json has mtp_config, "
            f"got {'the file' if there else 'mtp_config'} alone"
        )
    others = [file for file in (HEADS, VALUE) if (folder / file).is_file()]
    stored |= {file: _unwrap(open_file(folder / file)) for file in others}
    if cfg.tie_embeddings:
        _drop_tied(stored[MODEL], cfg)
    for file, tensors in stored.items():
        for name in tensors:
            if file_of(name) != file:
                raise ValueError(
                    f"{folder} must hold tensor {name!r} in {file_of(name)} if at all, "
                    f"got it in {file}"
                )
    whole = {name: at for tensors in stored.values() for name, at in tensors.items()}
    return StoredTensors(whole), heads, ("value",) if VALUE in stored else ()


def files_digest(folder: str | Path) -> str:
    """Digest of a model on disk: its `config.json` and every safetensors file.

    The state of a training beside it is left out: with or without it the model is the
    same.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        if path.name == STATE:
            continue
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    digest.update((Path(folder) / "config.json").read_bytes())
    return digest.hexdigest()


def write_model(
    folder: Path,
    params: Params,
    cfg: ModelConfig,
    heads: HeadsConfig,
    tokenizer: Tokenizer,
    *,
    kind: str = "causal",
    token_map: list[int] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Writes a folder that `transformers` opens; the whole folder or nothing.

    Every tensor is read back and compared before the folder gets its name.

    Args:
      folder: new or empty; its parents are made.
      params: tree of arrays, as `read_model` or `read_reward_model` gives it, or
        `ByName`.
      kind: `causal`, or `reward` for a sequence classifier (`heads` play no part).
      token_map: ids that heads draft, if not all.
      beside: is given the folder, otherwise whole but under another name, to write
        more files into it.

    Raises:
      ValueError: if the folder holds something or cannot be written, if `params` do
        not fit, or if what was read back differs.
    """
    if kind != ("reward" if "score" in params else "causal"):
        raise ValueError(f"params must be of a {kind} model, got {sorted(params)}")
    tensors = to_tensors(params, cfg, heads)
    with new_folder(folder) as made:
        _write_files(made, tensors, cfg, heads, tokenizer, kind)
        if token_map is not None:
            write_token_map(made, token_map)
        if beside is not None:
            beside(made)


def _write_files(
    folder: Path,
    tensors: Tensors,
    cfg: ModelConfig,
    heads: HeadsConfig,
    tokenizer: Tokenizer,
    kind: str,
) -> None:
    words = tokenizer.implementation
    bos, pad = (  # a tokenizer may have more ids than the model has rows
        x if x is not None and x < cfg.vocab_size else None
        for x in (words.bos_token_id, words.pad_token_id)
    )
    eos = tokenizer.eos_id
    config = make_hf_config(cfg, heads, kind=kind, eos_id=eos, pad_id=pad)
    ids = {name: config[name] for name in SPECIAL} | {"bos_token_id": bos}
    generation = make_generation(tokenizer.generation, ids, cfg.vocab_size)
    config["bos_token_id"] = generation.get("bos_token_id") if bos is None else bos
    write_json(folder / "config.json", config)
    write_json(folder / GENERATION, generation)
    write_tokenizer(folder, tokenizer, cfg.max_positions)
    if "auto_map" in config:
        write_text(folder / "modeling_wmtp.py", TEMPLATE.read_text("utf-8"))
    for file in sorted(set(map(file_of, tensors)), reverse=True):
        of_file = {name: x for name, x in tensors.items() if file_of(name) == file}
        write_file(folder / file, of_file)
        check_file(folder / file, of_file)
    check_tokenizer(folder, tokenizer)


def _open_base(folder: Path, cfg: ModelConfig) -> dict[str, Stored]:
    prefix = re.escape(TRUNK[cfg.family]["prefix"])
    buffer = re.compile(f"({prefix})?({BUFFERS[cfg.family]})")
    stored = _unwrap(open_model(folder))
    return {name: at for name, at in stored.items() if not buffer.fullmatch(name)}


def _unwrap(stored: dict[str, Stored]) -> dict[str, Stored]:
    """The same tensors under the names of the model itself."""
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        if (other := found.setdefault(unwrapped(name), tensor)) is not tensor:
            raise ValueError(
                f"tensor {unwrapped(name)!r} must be stored once, got it twice: as "
                f"{other.name!r} and {name!r} in {tensor.file}"
            )
    return found


def _drop_tied(stored: dict[str, Stored], cfg: ModelConfig) -> None:
    """Leaves one of embedding and unembedding, which are the same: the embedding."""
    if UNEMBED not in stored:
        return
    names, prefix = TRUNK[cfg.family], TRUNK[cfg.family]["prefix"]
    places = (prefix + names["embed"], names["embed"])
    embed = next((name for name in places if name in stored), None)
    if embed is None:
        with_prefix = any(name.startswith(prefix) for name in stored)
        stored[places[not with_prefix]] = stored.pop(UNEMBED)
        return
    pair = StoredTensors({name: stored[name] for name in (UNEMBED, embed)})
    if not np.array_equal(pair[UNEMBED], pair[embed]):
        raise ValueError(
            f"tensor {UNEMBED!r} must equal {embed!r} where config.json ties the "
            f"embeddings, got other numbers in {stored[UNEMBED].file}"
        )
    del stored[UNEMBED]
