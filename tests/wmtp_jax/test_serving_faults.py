"""Clients that go, queues that are full, engines that fail, servers that stop."""

import threading
from contextlib import closing
from dataclasses import replace

import pytest

from tests.scripted_engine import ScriptedEngine, reply
from tests.served import CHAT, COMPLETIONS, eventually, serving

ENDLESS = {"prompt": "~", "max_tokens": 190}


class Made(list):
    """The engines that a server has made."""

    def __init__(self, **fields):
        super().__init__()
        self.fields = fields

    def __call__(self):
        self.append(ScriptedEngine(**self.fields))
        return self[-1]


def answers(here, **body):
    return here.ask(COMPLETIONS, **body)["choices"][0]["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_rows(stream):
    made = Made(delay=0.02)
    with serving(made) as here:
        client = here.open(COMPLETIONS, **ENDLESS, n=3, stream=stream)
        eventually(lambda: len(made[0].running) == 3)
        if stream:
            assert client.recv(10)
        client.close()
        eventually(lambda: made[0].cancelled == [1])
        here.wait_idle()
        assert not made[0].busy
        assert answers(here, prompt="a") == reply("a")


def test_a_client_that_goes_while_it_waits():
    made = Made(delay=0.02, rows=1)
    with serving(made) as here, closing(here.open(COMPLETIONS, **ENDLESS)):
        eventually(lambda: made[0].running)
        here.open(COMPLETIONS, prompt="b").close()
        eventually(lambda: 2 in made[0].cancelled)
        assert here.held() == 1 and [row.number for row in made[0].running] == [1]
    assert made[0].batches


def test_more_than_can_wait_is_told_to_come_again():
    made = Made(delay=0.02)
    with serving(made, queue=2, rows=4) as here:
        with closing(here.open(COMPLETIONS, **ENDLESS, n=6)):
            eventually(lambda: here.held() == 6)
            status, headers, body = here.call(
                "POST", COMPLETIONS, '{"prompt": "a", "stream": true}'
            )
            assert (status, headers["Retry-After"]) == (429, "1")
            assert b'"rate_limit_error"' in body and b"6 do: try again" in body
            assert here.get("/health")[0] == 200
        here.wait_idle()
        assert answers(here, prompt="a") == reply("a")
        assert here.refused(COMPLETIONS, prompt="a", n=7)[0] == 400


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails(stream, capfd):
    """Who was running is told; the next are answered by a new engine."""
    made = Made(delay=0.01)
    with serving(made) as here:
        with closing(here.open(COMPLETIONS, **ENDLESS, stream=stream)) as client:
            if stream:
                assert client.recv(12) == b"HTTP/1.1 200"
            eventually(lambda: made[0].running)
            status, error = here.refused(COMPLETIONS, prompt="BOOM")
            told = b""
            while b'"error"' not in told:
                told += client.recv(4096)
        says = "decoding failed: RuntimeError: out of memory"
        assert (status, error["message"], error["type"]) == (500, says, "server_error")
        assert says.encode() in told and (b" 500 " in told) == (not stream)
        here.wait_idle()
        assert len(made) == 2 and answers(here, prompt="a") == reply("a")


def test_an_engine_that_cannot_be_made_again(capfd):
    made = Made()

    def make():
        if made:
            raise MemoryError("no memory")
        return made()

    with serving(make) as here:
        assert here.refused(COMPLETIONS, prompt="BOOM")[0] == 500
        eventually(lambda: here.thread.failed is not None)
        assert str(here.thread.failed) == "no memory"
        here.thread.join()  # and the server shuts down by itself


class Wrong(ScriptedEngine):
    """An engine that breaks its word, by what its first prompt says."""

    @property
    def busy(self):
        rows = [*self.waiting, *self.running]
        if rows and "DIE" in self.tokenizer.decode(rows[0].request.prompt):
            raise KeyError("busy")
        return bool(rows)

    def step(self):
        pieces = super().step()
        texts = [self.tokenizer.decode(row.request.prompt) for row in self.running]
        return [
            replace(p, finish="cancelled") if texts == ["DROP"] else p for p in pieces
        ]

    def submit(self, request):
        if "LOSE" in self.tokenizer.decode(request.prompt):
            raise KeyError("submit")
        return super().submit(request)


def test_an_engine_that_breaks_its_word(capfd):
    with serving(Wrong) as here:
        status, error = here.refused(COMPLETIONS, prompt=["a", "LOSE"])
        assert (status, error["message"]) == (
            500,
            "decoding failed: KeyError: 'submit'",
        )
        status, error = here.refused(COMPLETIONS, prompt="DROP")
        assert status == 500 and "has given up a request" in error["message"]
        here.wait_idle()
        assert answers(here, prompt="a") == reply("a")
        assert here.refused(COMPLETIONS, prompt="DIE")[0] == 503
        here.thread.join()
        assert isinstance(here.thread.failed, KeyError)


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_stops_tells_who_waits(stream):
    made = Made(delay=0.02)
    with serving(made) as here:
        with closing(here.open(COMPLETIONS, **ENDLESS, stream=stream)) as client:
            eventually(lambda: made[0].running)
            if stream:
                assert client.recv(12) == b"HTTP/1.1 200"
            here.stop()
            told = b""
            while part := client.recv(4096):
                told += part
    assert b"the server is shutting down" in told
    assert (b" 503 " in told) == (not stream)


def test_a_body_that_does_not_come(monkeypatch):
    monkeypatch.setattr("wmtp_jax.serving.BODY_SECONDS", 0.1)
    with serving(Made()) as here:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        with closing(here.connect()) as client:
            client.sendall(head)
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        with closing(here.connect()) as client:
            client.sendall(head)  # and goes
        assert answers(here, prompt="a") == reply("a")


def test_nothing_leaks():
    """Rows, jobs and tasks of answers, refusals, failures and clients that go."""
    made = Made(delay=0.001)
    with serving(made) as here:
        tasks = here.tasks()

        def client(i):
            case = i % 5
            if case == 0:
                here.open(COMPLETIONS, **ENDLESS, stream=i % 2 == 0).close()
            elif case == 1:
                here.refused(COMPLETIONS, prompt="a", n=0)
            elif case == 2:
                here.refused(COMPLETIONS, prompt="REFUSE")
            elif case == 3:
                here.refused(CHAT, messages=[])
            else:
                assert answers(here, prompt=f"p{i}") == reply(f"p{i}")

        for at in range(0, 40, 8):
            clients = [
                threading.Thread(target=client, args=(at + i,)) for i in range(8)
            ]
            for each in clients:
                each.start()
            for each in clients:
                each.join()
        here.wait_idle()
        eventually(lambda: here.tasks() <= tasks)
        thread = here.thread
        assert not thread._jobs and not thread._running and not made[0].busy
    assert not [x for x in threading.enumerate() if x.name == "engine"]
