"""How one process of several ends before its time: it tells the others why."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shared.run.peers import Peers
from shared.tracking import console

LINGER = 5.0  # seconds that the first process waits for the others to go before it


def leave(
    peers: Peers, code: int, reason: str, end: Callable[[int], Any] = os._exit
) -> None:
    """Ends this process at once, in no wait for the others; they are told.

    The first, which holds the board, goes last: JAX ends every other process when it is
    gone, without a word.
    """
    console.flush()
    if peers.count > 1:
        # A first process that is stopped would hold this one for a minute.
        last_words = threading.Thread(
            target=_say_goodbye, args=(peers, code, reason), daemon=True
        )
        last_words.start()
        last_words.join(2 * LINGER if peers.is_first else 2.0)
    end(code)


def _say_goodbye(peers: Peers, code: int, reason: str) -> None:
    with suppress(Exception):
        peers.board.put(f"left/{peers.index}", json.dumps([code, reason]))
        until = time.monotonic() + LINGER
        others = {str(i) for i in range(1, peers.count)}
        while peers.is_first and time.monotonic() < until:
            if not others - set(peers.board.under("left")):
                break
            time.sleep(0.2)
        time.sleep(0.5 * peers.is_first)  # they have said so; now they go
