"""The arms of a comparison, and what makes each of them another run.

    untouched        the model before any training
    ntp              one head, no weights: plain next-token training
    ALGO             as `--algo`, with all heads
    ALGO+CONTROL     the same rule with scores that know nothing
    NAME=FOLDER      results that another tool has left, one file a task

What an arm adds to the options of training is all that tells it from another.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.algorithms import ALGORITHMS, PLAIN

UNTOUCHED, NTP = "untouched", "ntp"
CONTROLS = ("shuffle", "random")
Kind = Literal["trained", "untouched", "files"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the things that are compared.

    Attributes:
      name: of files and tables.
      kind: trained here; `untouched`, the model as it was; `files` of another tool.
      options: that training is given beside those of every arm.
      of: the arm that this one is the control of.
      control: of its scores.
      folder: of an arm of files.
    """

    name: str
    kind: Kind = "trained"
    options: tuple[str, ...] = field(default=())
    of: str = ""
    control: str = "none"
    folder: str = ""

    @property
    def doc(self) -> str:
        """What it is, in one line."""
        if self.kind == "files":
            return f"results of another tool ({self.folder})"
        if self.kind == "untouched":
            return "the model before any training"
        if self.name == NTP:
            return "one head, no weights: plain next-token training"
        if self.control == "shuffle":
            return f"{self.of} with each score on another token of its document"
        if self.control == "random":
            return f"{self.of} with noise for scores"
        return ALGORITHMS[self.name].doc


def arms_of(
    algos: Sequence[str], controls: Sequence[str], files: Sequence[str] = ()
) -> list[Arm]:
    """The arms of a comparison: untouched first, each control behind its algorithm.

    Args:
      algos: `ntp` and names of algorithms.
      controls: of every algorithm that has scores.
      files: `NAME=FOLDER` each.

    Raises:
      ValueError: for a name that is none of them, or comes twice.
    """
    known = (NTP, *ALGORITHMS)
    _check("--algos", algos, known)
    _check("--controls", controls, CONTROLS)
    found = [Arm(name=UNTOUCHED, kind="untouched")]
    for name in algos:
        if name == NTP:
            found.append(Arm(name=NTP, options=("--algo", PLAIN, "--heads.count", "1")))
            continue
        own = ("--algo", name)
        found.append(Arm(name=name, options=own))
        if ALGORITHMS[name].rule == "uniform":
            continue  # it has no scores that could be replaced
        for control in controls:
            found.append(
                Arm(
                    name=f"{name}+{control}",
                    options=(*own, "--weighting.control", control),
                    of=name,
                    control=control,
                )
            )
    taken = {arm.name for arm in found}
    for word in files:
        name, is_pair, folder = word.partition("=")
        if not is_pair or not folder or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ValueError(f"--files must be NAME=FOLDER, got {word!r}")
        if name in taken:
            raise ValueError(f"--files must name other arms than these, got {name!r}")
        taken.add(name)
        found.append(Arm(name=name, kind="files", folder=folder))
    return found


def _check(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"{option} must be of {', '.join(known)}, with commas between, got "
                f"{name!r}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{option} must name each once, got {','.join(names)}")
