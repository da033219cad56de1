"""Command lines and recipe files, as several tests of the config write them."""

from pathlib import Path

import pytest

from shared.run.command_line import Invocation, parse

RECIPES = ["baseline", "critic", "rho1_tokenskip", "rho1_weighted"]
MACHINES = ["cpu", "gpu", "local_mps"]


def run(*argv: str) -> Invocation:
    """What a command line asks for."""
    return parse(list(argv), "train")


def error(*argv: str) -> str:
    """The one line that refuses a command line."""
    with pytest.raises(ValueError) as caught:
        run(*argv)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def recipe(folder: Path, text: str | bytes, name: str = "r.yaml") -> str:
    """A file with this text, as an argument of `--recipe` or `--config`."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)
