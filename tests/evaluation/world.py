"""What a program could reach outside its sandbox, looked at from outside.

A canary file, sockets that listen, this process itself: each is as it was, or the
change is named. The oracle of a hostile program is this and a verdict, never its word.
"""

import os
import resource
import secrets
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

SECRET_NAME = "SANDBOX_TEST_TOKEN"
LATE = 0.05  # seconds that a left process gets to show itself
GROWTH = 400 * 2**20  # bytes that this process may need for what programs answer


def processes_of(parent: int, mark: str | None = None) -> dict[str, str]:
    """What the runs of a parent have started and not ended: number -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ours = f"parent={parent} " in line or (mark and mark in line)
            if ours and (folder / "stat").read_text().split(") ")[1][0] != "Z":
                found[folder.name] = line[:200]
    return found


class World:
    """Use it in a `with`; `constants` tells a program where everything is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary"
        self.token = secrets.token_hex(16)
        self.mark = f"mark-{secrets.token_hex(8)}"
        self.open = ExitStack()

    def __enter__(self) -> "World":
        self.canary.write_text(self.token)
        os.environ[SECRET_NAME] = self.token
        self.open.callback(os.environ.pop, SECRET_NAME, None)
        self.tcp = self._listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        here = ("127.0.0.1", self.port)
        path = str(self.folder / "socket")
        self.listening = [
            self.tcp,
            self._listener(socket.AF_INET, socket.SOCK_DGRAM, here),
            self._listener(socket.AF_UNIX, socket.SOCK_STREAM, path),
            self._listener(socket.AF_UNIX, socket.SOCK_DGRAM, f"{path}.letters"),
        ]
        if hasattr(os, "memfd_create"):  # Linux: names without a path
            for kind, end in (
                (socket.SOCK_STREAM, ""),
                (socket.SOCK_DGRAM, ".letters"),
            ):
                name = f"\0{self.mark}{end}"
                self.listening.append(self._listener(socket.AF_UNIX, kind, name))
        self.before = self._seen()
        self.peak = self._memory()
        self.running = processes_of(os.getpid())  # of an earlier program
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def _listener(self, family: int, kind: int, where: object) -> socket.socket:
        opened = self.open.enter_context(socket.socket(family, kind))
        opened.bind(where)
        if kind == socket.SOCK_STREAM:
            opened.listen()
        opened.setblocking(False)
        return opened

    def constants(self) -> str:
        """Lines of Python that go before a program."""
        known = {
            "CANARY": str(self.canary),
            "FOLDER": str(self.folder),
            "SECRET_NAME": SECRET_NAME,
            "PARENT": os.getpid(),
            "MARK": self.mark,
            "PORT": self.port,
            "SOCKET": str(self.folder / "socket"),
            "ABSTRACT": self.mark,
        }
        return "".join(f"{name} = {value!r}\n" for name, value in known.items())

    def _seen(self) -> dict[str, object]:
        kept = self.canary.stat() if self.canary.exists() else None
        seen: dict[str, object] = {
            "canary": kept and (kept.st_mode, kept.st_uid, kept.st_mtime_ns),
            "content": self.canary.read_text() if kept else None,
            "folder": sorted(os.listdir(self.folder)),
            "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
        }
        if hasattr(os, "sched_getaffinity"):
            seen["processors"] = os.sched_getaffinity(0)
            seen["scheduling"] = os.sched_getscheduler(0)
            for kind in ("shm", "msg", "sem"):
                seen[kind] = Path(f"/proc/sysvipc/{kind}").read_text().count(" 23063 ")
        return seen

    def _memory(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _left(self) -> list[str]:
        now = processes_of(os.getpid(), self.mark)
        return [line for number, line in now.items() if number not in self.running]

    def changes(self) -> list[str]:
        """What is not as it was; empty if all is well."""
        found = []
        if self._left():
            time.sleep(LATE)
            found += [f"a process: {line}" for line in self._left()]
        seen = self._seen()
        found += [name for name, value in self.before.items() if seen[name] != value]
        for listener in self.listening:
            with suppress(BlockingIOError):
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(100)
                found.append(f"a message at {listener.getsockname()!r}")
        if self._memory() - self.peak > GROWTH:
            found.append("memory of the parent")
        return found
