"""What each file may import, from its syntax tree; late imports count too."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKENDS = {"jax", "flax", "optax", "orbax", "torch", "wmtp_jax", "wmtp_torch_mps"}
STANDARD = set(sys.stdlib_module_names)

# Besides the standard library. A backend's own files are listed as `.name`.
ALLOWED = {
    "shared/__init__.py": set(),
    "shared/axes.py": {"array_api_compat", "jaxtyping"},
    "shared/weighting.py": {"array_api_compat", "jaxtyping", "shared.axes"},
    "shared/targets.py": {
        "array_api_compat",
        "jaxtyping",
        "shared.axes",
        "shared.weighting",
    },
    "shared/ranges.py": set(),
    "shared/model_config.py": {"tyro", "shared.ranges"},
    "shared/config.py": {"tyro", "shared.ranges", "shared.model_config"},
    "shared/tensor_files.py": {"numpy", "safetensors"},
    "wmtp_jax/row_blocks.py": {"jax"},
    "wmtp_jax/unembed.py": {"jax", "wmtp_jax.row_blocks"},
    "wmtp_jax/sharding.py": {
        "jax",
        "shared.backend",
        "shared.config",
        "shared.throughput",
    },
    "wmtp_jax/place.py": {"jax", "numpy", "shared.model_config"},
    "wmtp_jax/model.py": {
        "jax",
        "flax",
        "shared.config",
        "shared.model_config",
        "wmtp_jax.place",
    },
    "wmtp_jax/heads.py": {
        "jax",
        "shared.config",
        "shared.model_config",
        "wmtp_jax.model",
    },
}
# For whole folders: never these.
FORBIDDEN = {
    "shared": BACKENDS,
    "wmtp_jax": {"torch", "wmtp_torch_mps"},
    "wmtp_torch_mps": {"jax", "flax", "optax", "orbax", "wmtp_jax"},
}
FORBIDDEN_IN = {
    "shared/data.py": {"shared.tracking", "shared.console"},
    "shared/batches.py": {"shared.tracking", "shared.console"},
    "wmtp_jax/loss.py": {"shared.tracking", "shared.console", "optax", "orbax"},
    "wmtp_jax/step.py": {"shared.tracking", "shared.console", "orbax"},
}


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


def wrong_imports(path: str, source: str) -> set[str]:
    """Imports of the file `path` that the tables above do not let in."""
    found = imports(source, path.split("/")[0])
    forbidden = FORBIDDEN[path.split("/")[0]] | FORBIDDEN_IN.get(path, set())
    wrong = {n for n in found if any(touches(n, module) for module in forbidden)}
    if path in ALLOWED:
        wrong |= {
            name
            for name in found
            if name.split(".")[0] not in STANDARD
            and not any(touches(name, module) for module in ALLOWED[path])
        }
    if not path.endswith("wmtp_jax/model.py"):
        wrong |= {name for name in found if touches(name, "flax")}
    return wrong


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_files_import_only_what_they_may(folder):
    wrong = {}
    for file in sources(folder):
        path = file.relative_to(ROOT).as_posix()
        if bad := wrong_imports(path, file.read_text()):
            wrong[path] = bad
    assert not wrong


def test_every_row_of_the_table_is_a_file():
    for path in [*ALLOWED, *FORBIDDEN_IN]:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize(
    "path, line",
    [
        ("shared/weighting.py", "import numpy as np"),
        ("shared/data.py", "def f():\n    import torch"),
        ("shared/data.py", "from importlib import import_module\nimport_module('jax')"),
        ("wmtp_jax/loss.py", "from shared.tracking import Tracker"),
        ("wmtp_jax/step.py", "from flax import linen"),
        ("wmtp_jax/train.py", "from wmtp_torch_mps import train"),
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
