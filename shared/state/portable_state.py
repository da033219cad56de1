"""The state of a training, beside the model from which either trainer can go on.

    training_state.json         step, config, position in the data, digests of all files
    training_state.safetensors  the optimizer's moments by parameter name
    signals/                    what frozen models say of the data (signals/kept.py)

A moment is a tree like the parameters. It has their names and layout in
`model.safetensors`, `mtp_heads.safetensors` and `value_head.safetensors`, after its own
name: `first/transformer.wte.weight`, `second/mtp_heads.1.weight`; what never learns (a
trunk with `heads.only`) has none. `first` is AdamW's
and Lion's mean of gradients and SGD's momentum; `second` AdamW's mean of squares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.files import file_digest
from shared.huggingface.card_data import CARD
from shared.huggingface.config_json import make_hf_config
from shared.huggingface.folder import STATE, read_model, write_model
from shared.huggingface.json_keys import read_keys
from shared.huggingface.names import VALUE
from shared.huggingface.safetensors import (
    Stored,
    StoredTensors,
    check_file,
    open_file,
    write_file,
)
from shared.huggingface.token_map import read_token_map
from shared.huggingface.tree import Params, from_tensors, to_tensors
from shared.signals.kept import copy_signals
from shared.state.digests import check_digest
from shared.state.header import (
    HEADER,
    NAME,
    Header,
    listed,
    moment_names,
    read_header,
    write_header,
)


@dataclass(frozen=True, kw_only=True)
class TrainingState(Header):
    """A state with its arrays.

    Attributes:
      moments: by name (`moment_names`), trees like the parameters, float32; to be
        written, `ByName` too.
    """

    moments: dict[str, Params]


def is_state(folder: Path) -> bool:
    """Whether a training can go on from the folder."""
    return (folder / HEADER).is_file()


def write_state(
    folder: Path, state: TrainingState, signals_from: Path | None = None
) -> None:
    """Writes the state into a folder that is not public yet (`write_model(beside=)`).

    Every tensor, and then the header, is read back and compared.

    Args:
      folder: with all of its other files, whose digests are taken here.
      signals_from: RUN/signals, where the run has kept any.

    Raises:
      ValueError: if moments or position are not what they must be, or what was read
        back differs.
      OSError: if the folder cannot be written.
    """
    cfg, names = state.config, moment_names(state.config.optimizer)
    if set(state.moments) != set(names):
        raise ValueError(
            f"the moments of {cfg.optimizer.name} must be {listed(names)}, got "
            f"{listed(state.moments)}"
        )
    tensors = {
        f"{moment}/{name}": array
        for moment in names
        for name, array in to_tensors(
            state.moments[moment], cfg.model, cfg.heads, trunk=not cfg.heads.only
        ).items()
    }
    if tensors:
        write_file(folder / STATE, tensors)
        check_file(folder / STATE, tensors)
    if signals_from is not None and signals_from.is_dir():
        copy_signals(signals_from, folder / "signals")
    digests = {name: file_digest(folder / name) for name in _files(folder)}
    write_header(folder, state, digests)


def write_training(
    folder: Path,
    params: Params,
    state: TrainingState,
    tokenizer: Tokenizer,
    run: Path,
    card: Callable[[Path], None] | None = None,
) -> None:
    """Writes a model with the state of its training beside it; all of it or nothing.

    Args:
      params: as of `write_model`.
      run: whose signals and token map come along.
      card: writes the model card beside it.

    Raises:
      ValueError: as `write_model` and `write_state`.
    """
    model, heads = state.config.model, state.config.heads

    def beside(made: Path) -> None:
        write_state(made, state, run / "signals")
        if card is not None:
            card(made)

    ids = read_token_map(run)
    write_model(folder, params, model, heads, tokenizer, token_map=ids, beside=beside)


def check_state(folder: Path) -> Header:
    """Reads the header and holds every file of the folder against its digest.

    Raises:
      ValueError: naming the file that is missing, extra or damaged, or the key of the
        header that is not what it must be.
    """
    header, digests = read_header(folder)
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} must hold {name} as its {HEADER} says, got none"
            )
        check_digest(folder / name, folder, digest, HEADER)
    for name in _files(folder):
        is_read = name.endswith(".safetensors") or name.startswith("signals/")
        if (is_read or name == "config.json") and name not in digests:
            raise ValueError(
                f"{folder} must hold only what its {HEADER} names, got also {name}"
            )
    _check_config(folder, header.config)
    return header


def read_state(folder: Path) -> tuple[Params, TrainingState]:
    """The parameters and the state of a folder that either trainer has written.

    Raises:
      ValueError: as `check_state` and `read_model`, or naming the moment or tensor that
        is missing, extra, or of another shape or dtype than it must be.
    """
    header = check_state(folder)
    params = read_model(folder, header.config.model)
    moments = _read_moments(folder / STATE, header.config)
    return params, TrainingState(**vars(header), moments=moments)


# The other files.


def _files(folder: Path) -> list[str]:
    """Names of the files in the folder and its signals, but header and model card."""
    paths = [*folder.iterdir(), *folder.glob("signals/*")]
    names = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    left = (HEADER, CARD)  # a card is there to be edited
    return sorted(name for name in names if NAME.fullmatch(name) and name not in left)


def _check_config(folder: Path, cfg: Config) -> None:
    """Holds the run's config against the files and `config.json` of its model."""
    keys = read_keys(folder / "config.json")
    ids = {"eos_id": 0, "pad_id": None}  # the tokenizer's, not the run's
    made = make_hf_config(cfg.model, cfg.heads, kind="causal", **ids)  # type: ignore[arg-type]
    for key in made.keys() | {"mtp_config"}:
        if keys.found.get(key) != made.get(key) and not key.endswith("_token_id"):
            raise keys.refuse(key, f"{made.get(key)!r} by the config in {HEADER}")
    needed, there = cfg.algorithm.value_head, (folder / VALUE).is_file()
    if there != needed:
        raise ValueError(
            f"{folder} must hold {VALUE} just where its algorithm trains values, got "
            f"{'it' if there else 'none'} with {cfg.algo}"
        )


def _read_moments(path: Path, cfg: Config) -> dict[str, Params]:
    names = moment_names(cfg.optimizer)
    stored: dict[str, dict[str, Stored]] = {}
    for name, tensor in open_file(path).items() if path.is_file() else ():
        moment, _, name = name.rpartition("/")
        stored.setdefault(moment, {})[name] = tensor
        if tensor.dtype != "F32":
            raise ValueError(
                f"tensor {moment}/{name} must be of dtype F32, got {tensor.dtype} in "
                f"{path}"
            )
    if set(stored) != set(names):
        raise ValueError(
            f"{path} must hold the moments {listed(names)} of {cfg.optimizer.name}, "
            f"got {listed(sorted(stored))}"
        )
    return {
        moment: from_tensors(
            StoredTensors(stored[moment]),
            cfg.model,
            cfg.heads,
            parts=("value",) if cfg.algorithm.value_head else (),
            source=f"the moment {moment!r} in {path}",
            moments=True,
            trunk=not cfg.heads.only,
        )
        for moment in names
    }
