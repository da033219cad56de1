"""Where a run's model and tokenizer come from, and whether they fit its config."""

import shutil
from dataclasses import replace
from pathlib import Path

from shared.config.fields import Config
from shared.config.layers import MODELS, load_config, preset_names
from shared.data.tokenised import Split
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.config_json import Described, read_hf_config
from shared.huggingface.folder import open_model_tree
from shared.huggingface.generation import FILE as GENERATION
from shared.huggingface.generation import read_generation
from shared.huggingface.hub import model_folder
from shared.huggingface.leaves import Leaf, Tree, each
from shared.huggingface.token_map import FILE as TOKEN_MAP
from shared.huggingface.token_map import (
    most_frequent,
    read_token_map,
    write_token_map,
)
from shared.huggingface.tokenizer_files import write_json
from shared.huggingface.tree import Params
from shared.state.run_folder import check_backend, find, recorded_inputs

# Fields of `model` that a folder does not decide.
FREE = {"model.name", "model.revision", "model.dropout", "model.max_positions"}


def find_folder(cfg: Config) -> Path | None:
    """The Hugging Face folder of `model.name`; None for a preset.

    Raises:
      ValueError: if there is no such folder and it cannot be fetched.
    """
    if cfg.model.name in preset_names(MODELS):
        return None
    return model_folder(cfg.model.name, cfg.model.revision, "model.name")


def check_folder(cfg: Config, folder: Path) -> None:
    """Holds the config against the `config.json` of the folder it starts from.

    Raises:
      ValueError: naming the first field that differs.
    """
    described = read_hf_config(folder)
    if described.kind != "causal":
        raise ValueError(
            f"model.name must be a causal language model, got a sequence classifier "
            f"in {folder} (a reward model goes with --reward-model)"
        )
    for name, value in described.layer.items():
        got = getattr(cfg.model, name.removeprefix("model."))
        free = name in FREE or (name.startswith("model.rope") and cfg.model.is_rotary)
        if got != value and not free:
            raise ValueError(f"{name} must be {value!r} as in {folder}, got {got!r}")
    if cfg.model.max_positions != described.layer["model.max_positions"]:
        if not cfg.model.is_rotary:
            raise ValueError(
                f"model.max_positions must be {described.layer['model.max_positions']} "
                f"as in {folder}, got {cfg.model.max_positions}"
            )
    if _takes_heads(cfg, described) and (
        cfg.heads.type != described.head_type or cfg.heads.count > described.num_heads
    ):
        raise ValueError(
            f"heads must be {described.head_type} and at most {described.num_heads} as "
            f"in {folder}, got {cfg.heads.type} and {cfg.heads.count} (new ones: "
            "--heads.fresh)"
        )


def keep_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Copies a tokenizer that came from a folder into a run, whole or not at all.

    What its model says of decoding goes beside it.
    """
    if tokenizer.generation and not (path / GENERATION).exists():
        write_json(path / GENERATION, tokenizer.generation)
    if tokenizer.name == "bytes" or (path / "tokenizer").exists():
        return
    made = path / "tokenizer.tmp"
    shutil.rmtree(made, ignore_errors=True)
    tokenizer.implementation.save_pretrained(str(made))
    made.rename(path / "tokenizer")


def keep_token_map(path: Path, cfg: Config, train: Split) -> None:
    """Writes the ids that heads draft into a run (`decoding.draft_vocab`), or none.

    They are counted here once, so that checkpoints can be exported without the data.

    Args:
      train: the split whose documents are counted.
    """
    number = cfg.decoding.draft_vocab
    if number == 0 or cfg.heads.count == 1:
        (path / TOKEN_MAP).unlink(missing_ok=True)
        return
    documents = (document.tokens for document in train.documents)
    ids = most_frequent(documents, number, cfg.model.vocab_size)
    if not (path / TOKEN_MAP).exists() or read_token_map(path) != ids:
        write_token_map(path, ids)


def run_to_export(
    run: str, backend: str, instead: str
) -> tuple[Path, int | None, Config, Tokenizer]:
    """Folder, step if one is asked for, config and tokenizer of the run to export.

    Args:
      run: its folder, or `RUN/checkpoints/STEP`.
      instead: what the user can do with a run of the other backend.

    Raises:
      ValueError: if there is no such run, or the other backend has written it.
    """
    path, step = find(run, ".", "RUN")
    check_backend(path, backend, instead)
    cfg = load_config(path / "config.yaml")
    return path, step, cfg, tokenizer_of_run(path, cfg)


def tokenizer_of_run(path: Path, saved: Config) -> Tokenizer:
    """The tokenizer that a run was started with, wherever its model came from.

    A copy has the digest of the original, which signals in the cache are known by.
    """
    generation = read_generation(path)
    if (path / "tokenizer").is_dir():
        tokenizer = load_tokenizer(str(path / "tokenizer"))
        digest = recorded_inputs(path).get("tokenizer")
        if digest is None:
            raise ValueError(
                f"{path / 'inputs.json'} must hold the digest of the run's tokenizer, "
                "got none"
            )
        return replace(tokenizer, digest=digest, generation=generation)
    folder = None if saved.data.tokenizer else find_folder(saved)
    tokenizer = load_tokenizer(saved.data.tokenizer or str(folder or "bytes"))
    return replace(tokenizer, generation=generation)


def stored_params(cfg: Config) -> Params | None:
    """What `open_params` opens, read."""
    opened = open_params(cfg)
    return None if opened is None else each(Leaf.read, opened)


def open_params(cfg: Config) -> Tree | None:
    """What the folder of `model.name` gives a run to start from; None for a preset.

    Returns:
      `trunk`, and, unless `heads.fresh` is set, `heads` (as many as the run has) and
      `value`, where the folder has them and the run needs them; with a `Leaf` in place
      of every array.

    Raises:
      ValueError: if the folder does not fit the config, or a file is damaged.
    """
    folder = find_folder(cfg)
    if folder is None:
        return None
    check_folder(cfg, folder)
    heads = _takes_heads(cfg, read_hf_config(folder))
    value = cfg.algorithm.value_head and not cfg.heads.fresh
    stored = open_model_tree(folder, cfg.model, extras=heads or value)
    stored["heads"] = each(lambda x: x.first(cfg.heads.count - 1), stored["heads"])
    wanted = {"trunk": True, "heads": heads, "value": value}
    return {name: part for name, part in stored.items() if wanted[name]}


def _takes_heads(cfg: Config, described: Described) -> bool:
    """Whether heads k >= 1 come from the folder."""
    return described.num_heads > 1 and cfg.heads.count > 1 and not cfg.heads.fresh
