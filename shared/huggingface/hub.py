"""Models by name: a local folder as it is, or a snapshot of the Hugging Face hub.

Only configs, tokenizers, safetensors and the model card (for its licence) are fetched,
never pickles or code. The cache is the one that `transformers` uses: what either has
fetched the other finds.
"""

import os
import re
from functools import cache
from pathlib import Path

from shared.config.layers import printable
from shared.messages import named_line

# Rules of huggingface_hub.utils.validate_repo_id, and the names it forbids.
PART = r"(?![-.])[A-Za-z0-9_.-]{1,96}(?<![-.])"
NAME = re.compile(rf"(?!.*(--|\.\.))(?!.*\.git$)({PART}/)?{PART}")
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}")
FETCHED = [
    "README.md",
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "merges.txt",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
]
# Other formats of the same weights: folders (onnx, original) and Mistral's own file.
IGNORED = ["*/*.safetensors*", "consolidated*", "training_state*"]
NEEDED = "a folder with config.json, model.safetensors and tokenizer files"


def model_folder(name: str, revision: str, field: str) -> Path:
    """The folder of a model: `name` if that is one, else a snapshot of the hub.

    Args:
      name: a local folder, `owner/name` on the hub, or a bare name of its early days
        (`distilgpt2`). A folder wins where both are meant.
      revision: commit, tag or branch on the hub; empty is its main branch.
      field: what the user calls the option, for messages (`model.name`).

    Raises:
      ValueError: if there is no such folder and it cannot be fetched, or a revision of
        a folder is asked for.
    """
    folder = os.path.expanduser(name)
    shown = repr(printable(name))
    if os.path.isdir(folder):
        if revision:
            raise ValueError(
                f"{field} with a revision must be a name on the hub, got the local "
                f"folder {shown} and revision {printable(revision)!r}"
            )
        return Path(folder)
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{field} must be {NEEDED}, or a name on the hub (OWNER/NAME), got "
            f"{shown}, which is neither"
        )
    if revision:
        shown += f" at revision {printable(revision)!r}"
        if not REVISION.fullmatch(revision):
            raise ValueError(
                f"{field} must be of a revision that is a commit, tag or branch, got "
                f"{shown}"
            )
    try:
        snapshot = _fetch(name, revision)
    except Exception as error:  # the library lets through those of its HTTP client
        raise ValueError(
            f"{field} must be {NEEDED}, or a model that the hub gives, got {shown}: "
            f"{_reason(error)}"
        ) from error
    _check_snapshot(snapshot, f"{field} must be {NEEDED}, got {shown}")
    return snapshot


def folder_on_disk(name: str, revision: str) -> Path | None:
    """What `model_folder` would find without asking the hub; None if that is nothing.

    Args: as there.
    """
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return Path(folder)
    if not NAME.fullmatch(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None


@cache
def _fetch(name: str, revision: str) -> Path:
    # Asked for several times in one run, which must see one snapshot throughout.
    from huggingface_hub import snapshot_download

    snapshot = snapshot_download(
        name,
        revision=revision or None,
        allow_patterns=FETCHED,
        ignore_patterns=IGNORED,
    )
    return Path(snapshot)


def _check_snapshot(folder: Path, refused: str) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{refused}, whose snapshot {folder} has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{refused}, whose snapshot {folder} has no safetensors (pickles are not "
            "fetched because they can run code: convert them by transformers' "
            "from_pretrained and save_pretrained)"
        )


def _reason(error: Exception) -> str:
    """Why the hub gave nothing, in one line."""
    from huggingface_hub import constants, errors

    cause, cache_folder = error.__cause__, constants.HF_HUB_CACHE
    if isinstance(error, errors.GatedRepoError):
        return "its owner must first grant access to it on its page, and you log in"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model, or it is private and you are not logged in"
    if constants.is_offline_mode() or isinstance(cause, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, and it is not (whole) in {cache_folder}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        got = f" ({named_line(cause)})" if cause else ""
        return f"the hub cannot be reached{got}, and it is not in {cache_folder}"
    return named_line(error)
