"""Which checkpoint of a run is read: the one asked for, or the newest whole one.

Steps are what the backend's own folder holds, in any order.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("wmtp")
Read = TypeVar("Read")


def require_step(folder: Path, steps: Iterable[int], step: int | None) -> int:
    """`step`, or the newest there is.

    Raises:
      ValueError: if it is not there; says which are.
    """
    found = sorted(steps)
    wanted = step if step is not None else max(found, default=None)
    if wanted is None or wanted not in found:
        have = ", ".join(map(str, found)) or "none"
        name = "a checkpoint" if wanted is None else f"a checkpoint of step {wanted}"
        raise ValueError(f"there must be {name} in {folder}, got: {have}")
    return wanted


def newest_whole(
    folder: Path,
    steps: Iterable[int],
    step: int | None,
    read: Callable[[int], Read],
    errors: type[Exception] = ValueError,
) -> tuple[int, Read] | None:
    """`(step, what was read)` of `step`, else of the newest that can be read.

    A damaged newest checkpoint is passed over with a warning. None if there is none.

    Args:
      errors: what `read` raises for a damaged one.

    Raises:
      ValueError: if `step` was asked for and is missing or damaged, or all are damaged.
    """
    found = sorted(steps, reverse=True)
    tried = [require_step(folder, found, step)] if step is not None else found
    for candidate in tried:
        try:
            return candidate, read(candidate)
        except errors as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            log.warning("checkpoint %d cannot be read: %s", candidate, reason[:200])
    if tried:
        raise ValueError(
            f"no checkpoint in {folder} can be read; got damaged ones: "
            f"{', '.join(map(str, tried))}"
        )
    return None
