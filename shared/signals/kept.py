"""The signals of a run, kept with it, so that it goes on without any frozen model.

    signals/signals.json                   where they come from, in words
    signals/{ref_nll,reward}-SPLIT.safetensors

They lie in the run folder, and beside a model that either trainer can go on from.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from shared.data.batches import Columns
from shared.files import write_whole
from shared.huggingface.json_keys import read_keys
from shared.signals import cache as signal_files
from shared.state.run_folder import write_text

WORDS = "signals.json"


@dataclass(frozen=True)
class Signals:
    """The signals of a run, and where they come from.

    Attributes:
      reference, reward_model: one sentence each for log and summary, or None.
      ref_nll: per split, per document, nats of each token (0 where it is no target).
      reward: per split, the whitened reward of each document.
      reward_moments: mean and deviation of the train split's rewards before whitening.
    """

    reference: str | None
    reward_model: str | None
    ref_nll: dict[str, tuple[np.ndarray, ...]]
    reward: dict[str, np.ndarray]
    reward_moments: tuple[float, float]

    def columns(self, name: str) -> Columns:
        """What the batches of split `name` carry."""
        return Columns(ref_nll=self.ref_nll[name], reward=self.reward[name])


def keep_signals(folder: Path, signals: Signals) -> None:
    """Writes the signals of every split as a new folder; a whole one or none.

    Every file is read back before the folder gets its name. A signal that the algorithm
    does not use is all zeros, and is kept like any other.

    Raises:
      ValueError: if a number is not finite, or the folder cannot be written.
    """
    made = folder.with_name(folder.name + ".tmp")
    lengths = {name: [len(x) for x in of] for name, of in signals.ref_nll.items()}
    words = {
        "reference": signals.reference,
        "reward_model": signals.reward_model,
        "reward_moments": list(signals.reward_moments),
    }
    try:
        shutil.rmtree(made, ignore_errors=True)  # of a writer that was killed
        for name, documents in signals.ref_nll.items():
            signal_files.save(made, f"ref_nll-{name}", documents)
            each = [reward.reshape(1) for reward in signals.reward[name]]
            signal_files.save(made, f"reward-{name}", each, "reward")
        write_text(made / WORDS, json.dumps(words, indent=2) + "\n")
        _read(made, lengths)
        made.rename(folder)
    except OSError as error:
        raise ValueError(
            "the run's signals must be in a folder that can be written, got "
            f"{str(folder)!r}: {error.strerror}"
        ) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_signals(folder: Path, lengths: dict[str, list[int]]) -> Signals | None:
    """Reads what `keep_signals` wrote; None if there is no such folder.

    Args:
      lengths: by split, tokens of each document in order.

    Raises:
      ValueError: if a file is missing or damaged, or does not fit the documents.
    """
    return _read(folder, lengths) if folder.exists() else None


def copy_signals(source: Path, folder: Path) -> None:
    """Copies the files of `keep_signals` into a new folder, waiting for the disk.

    Raises:
      ValueError: if `source` holds no signals.
      OSError: if the folder cannot be written.
    """
    if not (source / WORDS).is_file():
        raise ValueError(f"{source} must hold the run's signals, got no {WORDS}")
    folder.mkdir()
    for path in [source / WORDS, *sorted(source.glob("*.safetensors"))]:
        write_whole(folder / path.name, path.read_bytes())


def _read(folder: Path, lengths: dict[str, list[int]]) -> Signals:
    words = _read_words(folder / WORDS)
    ref_nll, reward = {}, {}
    for name, of in lengths.items():
        ref_nll[name] = _read_file(folder, f"ref_nll-{name}", of)
        each = _read_file(folder, f"reward-{name}", [1] * len(of))
        reward[name] = np.concatenate([np.zeros(0, np.float32), *each])
    return Signals(**words, ref_nll=ref_nll, reward=reward)


def _read_file(folder: Path, key: str, lengths: list[int]) -> tuple[np.ndarray, ...]:
    path = folder / f"{key}.safetensors"
    try:
        return signal_files.read(path, key, lengths)
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"{path} must hold the run's signals as they were written, got: "
            f"{next(iter(reason.splitlines()), type(error).__name__)}"
        ) from None


def _read_words(path: Path) -> dict[str, Any]:
    keys = read_keys(path)
    for key in ("reference", "reward_model"):
        if not isinstance(keys.found.get(key, 0), str | None):
            raise keys.refuse(key, "a sentence or null")
    moments = keys.found.get("reward_moments")
    numbers = moments if isinstance(moments, list) else []
    usable = all(type(x) in (int, float) and abs(x) < 1e30 for x in numbers)
    if len(numbers) != 2 or not usable or numbers[1] < 0:
        raise keys.refuse("reward_moments", "a mean and a deviation >= 0")
    found = {key: keys.found[key] for key in ("reference", "reward_model")}
    return found | {"reward_moments": (float(numbers[0]), float(numbers[1]))}
