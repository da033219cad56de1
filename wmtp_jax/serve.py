"""Serves a model over HTTP as OpenAI does.

    python -m wmtp_jax.serve --model RUN_OR_FOLDER --port 8000

`/v1/completions` and `/v1/chat/completions`, streamed or not, `/v1/models` and
`/health`, on loopback unless `--host` says otherwise: there is no key and no
encryption. What is slow to import comes once the arguments are read.
"""

import argparse
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from shared.decoding.requests import DRAFTERS
from shared.run.freed_memory import use_one_heap
from shared.run.main import exit_code, home_path
from shared.tracking import console
from wmtp_jax import NAME


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.serve", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--name", default="", help="of the model in requests (default: its folder's)")
    add("--host", default="127.0.0.1", help="to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--rows", type=int, default=8, help="samples decoded together (default: 8)")
    add("--queue", type=int, default=256, help="samples that may wait (default: 256)")
    add("--max-body", type=int, default=2**22, help="bytes of a body (default: 4 MiB)")
    add("--drafter", choices=DRAFTERS, default="auto", help="what drafts tokens")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add(
        "--compiled",
        type=home_path,
        default=Path("runs/compiled"),
        help="folder of compiled programs (default: runs/compiled)",
    )
    add("--verbose", action="store_true", help="full tracebacks")
    asked = parser.parse_args(argv)
    required = {
        "port": (0 <= asked.port < 2**16, "in [0, 65535]"),
        "rows": (asked.rows >= 1, ">= 1"),
        "queue": (asked.queue >= 0, ">= 0"),
        "max_body": (asked.max_body >= 1, ">= 1"),
    }
    for name, (holds, range_) in required.items():
        if not holds:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must be {range_}, got {getattr(asked, name)}")
    return asked


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address; nobody can connect before the server listens.

    Raises:
      ValueError: if the host is none of this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise ValueError(f"--host must be of this machine, got {host!r}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        told = f"--host and --port must be free, got {host} and {port}"
        raise ValueError(f"{told}: {error.strerror}") from None
    return bound


def serve(asked: argparse.Namespace, bound: socket.socket) -> None:
    """Loads the model and answers requests until SIGINT or SIGTERM."""
    from shared.config.fields import MachineConfig
    from shared.serving.engine_thread import EngineThread
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.http_server import run
    from wmtp_jax.serving import make_app
    from wmtp_jax.sharding import keep_programs

    keep_programs(asked.compiled)
    machine = MachineConfig(dtype=asked.dtype)
    model = load(asked.model, machine, heads=asked.drafter not in ("none", "ngram"))
    thread = EngineThread(
        lambda: Engine(model, rows=asked.rows, drafter=asked.drafter),
        asked.rows + asked.queue,
    )
    served = served_of(asked, thread)
    app = make_app(served, thread, asked.host, asked.max_body)
    line = f"{served.names[0]} is served at {url_of(bound)}"
    run(app, thread, bound, lambda: console.say(line))


def served_of(asked: argparse.Namespace, thread: Any) -> Any:
    """What requests are read by; it does not keep the engine, which may be renewed."""
    from shared.serving.asked import Served

    return Served(
        names=names_of(asked),
        tokenizer=thread.engine.tokenizer,
        max_length=thread.engine.max_length,
        most_samples=thread.capacity,
    )


def names_of(asked: argparse.Namespace) -> tuple[str, ...]:
    """`--name`, or that of the folder; `--model` as it was given is one, too."""
    path = Path(asked.model).expanduser().absolute()
    if path.parent.name == "checkpoints":
        path = path.parent.parent
    return asked.name or path.name, asked.model


def url_of(bound: socket.socket) -> str:
    """Where a client finds the server."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    if argv is None:
        use_one_heap()
    words = sys.argv[1:] if argv is None else argv
    with exit_code(words) as outcome:
        asked = arguments(argv)
        with closing(bind(asked.host, asked.port)) as bound:
            from wmtp_jax.sharding import jax_told

            with jax_told():
                serve(asked, bound)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
