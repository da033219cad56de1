"""Messages on a pipe: four bytes of length, then that many bytes of UTF-8.

Lone surrogates, which Python's texts may hold, pass through.
"""

import os

READY = "ready"


def pack(text: str) -> bytes:
    r"""One message.

    Example:
      >>> pack("ok")
      b'\x02\x00\x00\x00ok'
    """
    content = text.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(4, "little") + content


def write(pipe: int, text: str) -> None:
    """Sends one message to the end.

    Raises:
      OSError: if nobody reads.
    """
    left = memoryview(pack(text))
    while left:
        left = left[os.write(pipe, left) :]


def read(pipe: int) -> str:
    """Waits for one message; takes no byte of what follows it.

    Raises:
      EOFError: if the other end is closed.
    """
    size = int.from_bytes(exactly(pipe, 4), "little")
    return exactly(pipe, size).decode("utf-8", "surrogatepass")


def exactly(pipe: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(pipe, min(count, 2**20))
        if not part:
            raise EOFError("the other end of the pipe is closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
