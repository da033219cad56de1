"""uvicorn around the app and the engine's thread, from start to a clean end."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from shared.serving.engine_thread import EngineThread

LAST_SECONDS = 5  # for clients to take what is left for them at the end


class Server(uvicorn.Server):
    """Starts and stops the thread with the server."""

    def __init__(
        self, app: ASGIApp, thread: EngineThread, ready: Callable[[], object]
    ) -> None:
        """Plain HTTP/1.1 in Python, the same wherever it runs.

        Args:
          ready: called once requests are answered.
        """
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        super().__init__(config)
        self.thread, self.ready = thread, ready

    async def startup(self, sockets: Any = None) -> None:
        self.thread.start(self.leave)
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends the requests that run, then waits for their clients to be told."""
        self.thread.stop()
        await super().shutdown(sockets)

    def leave(self) -> None:
        """Has the server shut down."""
        self.should_exit = True


def run(
    app: ASGIApp,
    thread: EngineThread,
    bound: socket.socket,
    ready: Callable[[], object],
) -> None:
    """Serves until SIGINT or SIGTERM, or until no engine can be made.

    Raises:
      Exception: of the engine that could not be made again.
    """
    with suppress(KeyboardInterrupt):  # the signals come again at the end
        Server(app, thread, ready).run([bound])
    thread.join()
    if thread.failed is not None:
        raise thread.failed
