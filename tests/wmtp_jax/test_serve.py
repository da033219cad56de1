"""The command: its options, its line, and how it ends."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from tests.served import COMPLETIONS, Here
from tests.test_layering import ROOT
from wmtp_jax import serve

# The command with engines that follow a script in place of a model's.
SCRIPTED = """
import runpy, sys, types
from tests.scripted_engine import ScriptedEngine

def make(model, rows, drafter):
    return ScriptedEngine(rows=rows, delay=0.02)

def load(name, machine, heads):
    if "missing" in name:
        raise ValueError(f"there must be a model in {name}")
    return name

sys.modules["wmtp_jax.decoding.engine"] = types.SimpleNamespace(Engine=make)
sys.modules["wmtp_jax.decoding.loaded"] = types.SimpleNamespace(load=load)
sys.argv[0] = "serve"
runpy.run_module("wmtp_jax.serve", run_name="__main__")
"""


@contextmanager
def started(*options):
    """The command in a process of its own, and where it listens."""
    command = [sys.executable, "-c", SCRIPTED, "--model", "some/small", "--port", "0"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        line = process.stdout.readline()
        *said, url = line.split()
        assert " ".join(said).endswith("is served at"), line
        yield process, Here(urlsplit(url).port, None, None)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs_and_the_command(sent):
    with started() as (process, here):
        assert here.get("/v1/models")[1]["data"][0]["id"] == "small"
        asked = {"prompt": "~", "max_tokens": 190, "model": "some/small"}
        with closing(here.open(COMPLETIONS, **asked)) as client:
            while here.held() == 0:
                pass
            process.send_signal(sent)
            told = b""
            while part := client.recv(4096):
                told += part
        assert b" 503 " in told and b"the server is shutting down" in told
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_name_of_its_own():
    with started("--name", "mine", "--rows", "2", "--queue", "0") as (_, here):
        assert here.get("/v1/models")[1]["data"][0]["id"] == "mine"
        status, error = here.refused(COMPLETIONS, prompt="a", model="small")
        assert (status, error["code"]) == (404, "model_not_found")
        assert here.refused(COMPLETIONS, prompt="a", n=3, model="mine")[0] == 400


def refusal(capsys, *options):
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert serve.main(["--model", "x", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "options, says",
    [
        (["--port", "65536"], "--port must be in [0, 65535], got 65536"),
        (["--rows", "0"], "--rows must be >= 1, got 0"),
        (["--queue", "-1"], "--queue must be >= 0, got -1"),
        (["--max-body", "0"], "--max-body must be >= 1, got 0"),
        (["--host", "no.host.invalid"], "--host must be of this machine, got 'no.h"),
        (["--host", "203.0.113.1"], "--host and --port must be free, got 203.0.113.1"),
    ],
)
def test_options_that_cannot_be(options, says, capsys):
    assert refusal(capsys, *options).startswith(f"error: {says}")


def test_a_port_that_is_taken(capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        says = f"error: --host and --port must be free, got 127.0.0.1 and {port}: "
        assert refusal(capsys, "--port", port).startswith(says)


@pytest.mark.parametrize(
    "model, names",
    [
        ("runs/one", ("one", "runs/one")),
        ("runs/one/checkpoints/50", ("one", "runs/one/checkpoints/50")),
        ("/a/smollm2/", ("smollm2", "/a/smollm2/")),
    ],
)
def test_the_names_of_a_model(model, names):
    assert serve.names_of(argparse.Namespace(model=model, name="")) == names


def test_addresses_of_both_kinds():
    with closing(serve.bind("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        assert serve.url_of(bound) == f"http://127.0.0.1:{port}/v1"
    if socket.has_ipv6:
        with closing(serve.bind("::1", 0)) as bound:
            assert serve.url_of(bound).startswith("http://[::1]:")
