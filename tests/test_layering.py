"""Which room may import which, from the files' syntax trees; late imports count too."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)
# Rooms of `shared` and its files outside a room, in the order in which they build on
# each other: each imports itself and what stands above it. Beside it, what a room may
# import from outside.
ORDER = {
    "shared/__init__": set(),
    "shared/axes": {"array_api_compat", "jaxtyping"},
    "shared/files": set(),
    "shared/messages": set(),
    "shared/json_text": set(),
    "shared/weighting": {"array_api_compat", "jaxtyping"},
    "shared/targets": {"jaxtyping"},
    "shared/head_types": set(),
    "shared/algorithms": {"array_api_compat"},
    "shared/config": {"yaml", "tyro"},
    "shared/data": {"numpy", "datasets", "huggingface_hub", "pyarrow", "transformers"},
    "shared/huggingface": {
        *("numpy", "ml_dtypes", "safetensors", "huggingface_hub", "transformers"),
    },
    "shared/tracking": {
        "numpy",
        "filelock",
        "mlflow",
        "sqlalchemy",
        "rich",
        "tensorboardX",
    },
    "shared/signals": {"numpy", "safetensors"},
    "shared/state": {"numpy", "filelock"},
    "shared/run": {"numpy", "rich", "tyro"},
    "shared/critic": {"numpy"},
    "shared/decoding": {"numpy", "array_api_compat", "jaxtyping", "rich"},
    "shared/serving": {"numpy"},
    "shared/evaluation": {"numpy", "scipy"},
    "shared/card": set(),
    "shared/inspection": {"numpy", "rich"},
    "shared/comparison": {
        *("numpy", "scipy", "statsmodels", "jinja2", "markupsafe", "matplotlib"),
        "filelock",
    },
}
# Both trainers stand below all rooms; what either may import from outside.
TRAINERS = {
    "wmtp_jax": {
        *("jax", "flax", "optax", "orbax", "numpy", "starlette", "uvicorn"),
        *("lm_eval", "datasets"),
    },
    "wmtp_torch_mps": {"torch", "transformers", "numpy"},
}
# One file where another library of a trainer would be out of its place.
ONLY = {
    "flax": {"wmtp_jax/model.py"},
    "orbax": {"wmtp_jax/checkpoint.py"},
    "yaml": {"shared/config/layers.py", "shared/config/original_names.py"},
    "lm_eval": {"wmtp_jax/harness.py", "wmtp_jax/harness_model.py"},
    "starlette": {"wmtp_jax/serving.py", "wmtp_jax/http_server.py"},
    "uvicorn": {"wmtp_jax/http_server.py"},
}
# A step computes; it does not tell.
SILENT = {"wmtp_jax/loss.py", "wmtp_jax/step.py"}


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names of everything a source text imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = ".".join([package] * bool(node.level) + [node.module or ""])
            found |= {f"{prefix.strip('.')}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value))
    return found


def touches(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def sources(folder: str) -> list[Path]:
    """Python files that we import; a template is only ever copied."""
    found = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if path.parent.name != "templates"]


def room_of(path: str) -> str:
    """`shared/ROOM`, `shared/FILE` without its ending, or the trainer."""
    parts = path.removesuffix(".py").split("/")
    return parts[0] if parts[0] in TRAINERS else "/".join(parts[:2])


def may_import(path: str) -> set[str]:
    """Beginnings of the names that a file may import, the standard library aside."""
    room, rooms = room_of(path), list(ORDER)
    if room in TRAINERS:
        return {"shared", room} | TRAINERS[room]
    above = rooms[: rooms.index(room) + 1]
    return {name.replace("/", ".") for name in above} | ORDER[room]


def wrong_imports(path: str, source: str) -> set[str]:
    """Imports of the file `path` that the tables above do not let in."""
    allowed = may_import(path)
    wrong = set()
    for name in imports(source, path.split("/")[0]):
        top = name.split(".")[0]
        known = top in STANDARD or any(touches(name, module) for module in allowed)
        misplaced = top in ONLY and path not in ONLY[top]
        told = path in SILENT and touches(name, "shared.tracking")
        if not known or misplaced or told:
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("folder", ["shared", *TRAINERS])
def test_files_import_only_what_they_may(folder):
    wrong = {}
    for file in sources(folder):
        path = file.relative_to(ROOT).as_posix()
        if bad := wrong_imports(path, file.read_text()):
            wrong[path] = bad
    assert not wrong


def test_every_name_of_the_tables_is_there():
    files = {path.relative_to(ROOT).as_posix() for path in sources("shared")}
    assert {room_of(path) for path in files} == set(ORDER)
    for path in [*SILENT, *(path for paths in ONLY.values() for path in paths)]:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize(
    "path, line",
    [
        ("shared/weighting.py", "import numpy as np"),
        ("shared/axes.py", "from shared import weighting"),
        ("shared/config/fields.py", "from shared.data.batches import Batch"),
        ("shared/data/documents.py", "def f():\n    import torch"),
        (
            "shared/data/hub.py",
            "from importlib import import_module\nimport_module('jax')",
        ),
        ("shared/signals/cache.py", "from shared.run.inputs import Inputs"),
        ("wmtp_jax/loss.py", "from shared.tracking.tracking import Several"),
        ("wmtp_jax/step.py", "from flax import linen"),
        ("wmtp_jax/train.py", "from wmtp_torch_mps import train"),
        ("wmtp_torch_mps/train.py", "import jax"),
    ],
)
def test_a_planted_import_is_caught(path, line):
    assert wrong_imports(path, line)


def test_only_makers_jit():
    """`jax.jit` is applied where a program is assembled, never as a decorator."""
    for file in sources("wmtp_jax"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                decorators = {ast.unparse(d) for d in node.decorator_list}
                assert not any("jit" in d for d in decorators), (file.name, node.name)
