"""Raises the walls of a sandboxed child, then serves.

Arguments are NAME=VALUE. Requests come on descriptor 0, answers go out on descriptor
1. The first answer is `READY`: before it no line of a program has run, so that it
cannot be forged. If a wall cannot be raised, one line on descriptor 2 says why.
"""

# `signal` itself makes enumerations, for which every start would have to wait.
import _signal as signal  # type: ignore[import-not-found]
import os
import resource
import sys

from shared.evaluation.walls.inside import frames

if sys.platform == "linux":  # now: behind the walls these files are not to be read
    from shared.evaluation.walls.inside import kernel, landlock, namespaces, seccomp

STACK = 8 * 2**20  # bytes, as is usual: how deep C may recurse is then the same


def limit(name: str, amount: int) -> None:
    """Sets a limit, or as much of it as an outer one lets through."""
    which = getattr(resource, name)
    _, hard = resource.getrlimit(which)
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(which, (amount, amount))


def limit_all(options: dict[str, str]) -> None:
    """The limits that hold for one process; macOS takes no limit of memory."""
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_STACK", STACK)
    limit("RLIMIT_FSIZE", int(options["file_bytes"]))
    limit("RLIMIT_NOFILE", int(options["open_files"]))
    limit("RLIMIT_CPU", int(options["cpu_seconds"]))
    if sys.platform != "darwin":
        limit("RLIMIT_AS", int(options["memory_bytes"]))
        limit("RLIMIT_NPROC", int(options["threads"]))


def raise_walls(options: dict[str, str]) -> None:
    """All walls of this level, in the process that will run the program."""
    walls = options["walls"].split(",")
    readable = options["read"].split(":")
    writable = [os.getcwd()]
    if sys.platform == "linux":
        kernel.die_with_parent(int(options["parent"]))
    if "namespaces" in walls:
        namespaces.enter(readable, int(options["scratch_bytes"]))
        # Once more: who changes its user is forgotten.
        kernel.die_with_parent(int(options["parent"]))
        writable = [namespaces.SCRATCH]
        readable += [*namespaces.DEVICES]
        be_first_process()
    limit_all(options)
    if sys.platform == "linux":
        kernel.keep_privileges()
    if "landlock" in walls:
        alone = "namespaces" not in walls
        landlock.restrict(readable, [*writable, "/dev/null"], alone=alone)
    if "seccomp" in walls:
        kernel.drop_capabilities()
        seccomp.install()


def be_first_process() -> None:
    """Goes on as process 1 of the new namespace; this one waits for its end.

    When process 1 ends, the kernel kills all others of its namespace. What it ended by
    is passed on, and its times are among those of this process's children.
    """
    blocked = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    alive, alive_here = os.pipe()  # `getppid` of process 1 is 0: this tells instead
    child = os.fork()
    if child:
        os.close(alive)
        signal.signal(signal.SIGTERM, lambda *_: end(child))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        for number in range(3):
            os.close(number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0 and status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(status & 0xFF)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    kernel.checked(kernel.libc.prctl(kernel.PR_SET_PDEATHSIG, 9, 0, 0, 0), "death")
    os.close(alive_here)
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":
            os._exit(1)
    except BlockingIOError:
        pass
    os.close(alive)


def end(child: int) -> None:
    """Kills process 1, which may have ended meanwhile."""
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    mode = options["mode"]
    if mode == "examiner":
        from shared.evaluation.walls.inside.examiner import serve
    elif mode == "script":
        from shared.evaluation.walls.inside.script import serve
    else:
        from shared.evaluation.walls.inside.worker import serve
    sys.dont_write_bytecode = True
    try:
        raise_walls(options)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    sys.path[-1:] = [x for x in options["import"].split(":") if x]
    sys.argv[:] = [""]
    frames.write(1, frames.READY)
    serve()
