"""Which documents share a row, and in which order they come.

Nothing is random but what a NumPy Philox generator keyed by the seed says, so both
backends and every resumed run see the same. L positions of a row, S documents in it.
"""

from collections.abc import Sequence

import numpy as np

MIN_DOCUMENT = 2  # a shorter one has nothing to predict
WINDOW = 4096  # documents that are laid out together
# Streams of one Philox key: 2^192 numbers lie between two of them.
NOISE, PERMUTATION, ORDER, START = range(4)


def generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Philox keyed by (seed, number), at the start of one of its streams."""
    key = np.array([seed % 2**64, number], np.uint64)
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """In which order an epoch offers its `n` documents to the rows."""
    return generator(seed, epoch, ORDER).permutation(n)


def documents_per_row(max_length: int, layout: str) -> int:
    """S: 1 if rows are padded, else one document for every 16 positions."""
    return 1 if layout == "padded" else max(1, max_length // 16)


def pack_epoch(
    lengths: Sequence[int],
    *,
    max_length: int,
    max_documents: int,
    order: Sequence[int] | np.ndarray,
) -> list[list[int]]:
    """Lays the documents of an epoch out in rows: tightly, a window at a time.

    Within a window of `WINDOW` documents the longest go first (`pack_tightly`); which
    documents meet in a row depends on the order only through the windows and among
    equal lengths.

    Args:
      lengths: tokens of each document, at most `max_length`.
      max_length: L.
      max_documents: S; 1 gives every document its own row.
      order: document indices in the order in which they are laid out.

    Returns:
      Document indices of each row, rows in the order of their longest documents.

    Example:
      >>> pack_epoch([5, 4, 3, 2], max_length=8, max_documents=8, order=[1, 0, 2, 3])
      [[1, 3], [0, 2]]
    """
    rows: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        here = [int(index) for index in order[start : start + WINDOW]]
        of_window = pack_tightly([lengths[i] for i in here], max_length, max_documents)
        rows += [[here[at] for at in row] for row in sorted(of_window)]
    return rows


def pack_tightly(
    lengths: Sequence[int], max_length: int, max_documents: int | None = None
) -> list[list[int]]:
    """Lays whole documents out in few rows: longest first, where least room is left.

    Args:
      lengths: tokens of each document, at most `max_length`.
      max_length: L.
      max_documents: S; None lets a row hold as many as fit, for passes that sum nothing
        over a document.

    Returns:
      Document indices of each row; no seed decides, of equal lengths the first goes
      first.

    Example:
      >>> pack_tightly([2, 3, 4, 5, 2], max_length=8)
      [[3, 1], [2, 0, 4]]
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(max_length + 1)]
    rooms = 0  # bit r: some row has room r
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = room = lengths[index]
        if length > max_length:
            raise ValueError(
                f"documents must have at most {max_length} tokens, got {length}"
            )
        if enough := rooms >> length:
            room += (enough & -enough).bit_length() - 1  # its lowest bit
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            chosen, room = len(rows), max_length
            rows.append([])
        rows[chosen].append(index)
        if len(rows[chosen]) != max_documents:
            with_room[room - length].append(chosen)
            rooms |= 1 << (room - length)
    return rows
