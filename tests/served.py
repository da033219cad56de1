"""A server in a thread, and clients of the standard library that ask it.

with serving(make_engine) as here:
    status, answer = here.post("/v1/completions", {"prompt": "a"})
"""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass

from shared.serving.asked import Served
from shared.serving.engine_thread import EngineThread
from wmtp_jax.http_server import Server
from wmtp_jax.serve import bind
from wmtp_jax.serving import make_app

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@dataclass
class Here:
    """The address of a server, its thread, and what its model goes by."""

    port: int
    thread: EngineThread
    server: Server
    model: str = "small"

    def connection(self, timeout=60):
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout))

    def call(self, method, path, body=None, headers=JSON):
        """Status, headers and bytes of a response."""
        with self.connection() as client:
            client.request(method, path, body, headers)
            response = client.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path):
        status, _, body = self.call("GET", path)
        return status, json.loads(body)

    def post(self, path, body):
        status, _, answer = self.call("POST", path, json.dumps(body))
        return status, json.loads(answer)

    def ask(self, path, **body):
        """An answer that must be one."""
        status, answer = self.post(path, {"model": self.model} | body)
        assert status == 200, answer
        return answer

    def refused(self, path, **body):
        """Status and error of a request that gets no answer."""
        status, answer = self.post(path, {"model": self.model} | body)
        assert status >= 400 and answer.keys() == {"error"}
        assert "\n" not in answer["error"]["message"]
        return status, answer["error"]

    def stream(self, path, **body):
        """The events of a streamed answer, without the last, which says that it is."""
        sent = json.dumps({"model": self.model, "stream": True} | body)
        status, headers, told = self.call("POST", path, sent)
        assert status == 200, told
        assert headers["content-type"].startswith("text/event-stream")
        *events, last, empty = told.decode().split("\n\n")
        assert (last, empty) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def open(self, path, **body):
        """A socket on which a request has been sent, and nothing read."""
        text = json.dumps({"model": self.model} | body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in JSON.items())
        head += f"Content-Length: {len(text)}\r\n\r\n"
        client = self.connect()
        client.sendall(head.encode() + text)
        return client

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def stop(self):
        """As a signal has it."""
        self.server.should_exit = True

    def tasks(self):
        """How many run in the server's loop."""
        found = asyncio.run_coroutine_threadsafe(_count_tasks(), self.thread._loop)
        return found.result(20)

    def held(self):
        """Samples that run or wait."""
        return self.get("/health")[1]["samples"]

    def wait_idle(self, seconds=20.0):
        eventually(lambda: self.held() == 0, seconds)


async def _count_tasks():
    return len(asyncio.all_tasks())


def eventually(holds, seconds=20.0):
    """Waits for something to hold."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.01)


@contextmanager
def serving(make_engine, queue=8, rows=4, tokenizer=None, most_bytes=10_000):
    """Serves what `make_engine` makes, until the block is left."""
    thread = EngineThread(make_engine, rows + queue)
    served = Served(
        names=("small", "folder/small"),
        tokenizer=tokenizer or thread.engine.tokenizer,
        max_length=thread.engine.max_length,
        most_samples=thread.capacity,
    )
    ready = threading.Event()
    app = make_app(served, thread, "127.0.0.1", most_bytes)
    with closing(bind("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        server = Server(app, thread, ready.set)
        runs = threading.Thread(target=server.run, args=([bound],))
        runs.start()
        assert ready.wait(20)
        try:
            yield Here(port, thread, server)
        finally:
            server.should_exit = True
            runs.join(20)
            thread.join()
