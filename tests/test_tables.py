"""The tables of algorithms and head types: nothing else knows them, adding is easy."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.algorithms import ALGORITHMS
from shared.config.fields import Config
from shared.config.layers import leaves
from shared.head_types import HEAD_TYPES
from shared.huggingface.names import pieces_of
from shared.signals.columns import COLUMNS, needed
from tests.test_layering import ROOT

NAMES = {*ALGORITHMS, *HEAD_TYPES}
SOURCES = [
    path
    for folder in ("shared", "wmtp_jax", "wmtp_torch_mps")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def comparisons(source: str) -> list[str]:
    """What compares `algo` or `heads.type`, or anything with one of the names.

    Rotary positions have a type `linear`, too.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        sides: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith"):
                sides = [node.func.value, *node.args]
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        for side in sides:
            inner = list(ast.walk(side))
            constants = {x.value for x in inner if isinstance(x, ast.Constant)}
            texts = {x for x in constants if isinstance(x, str)}
            asked = re.search(r"\.algo$|heads\.type$|\.head_type$", ast.unparse(side))
            whole = ast.unparse(node)
            if (texts & NAMES or asked) and not re.search(r"\brope|is None", whole):
                found.append(whole)
                break
    return found


def test_no_algorithm_and_no_head_type_is_compared_by_name():
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in SOURCES
        if (lines := comparisons(path.read_text()))
    }
    # A run's heads against those of the folder that it starts from.
    assert list(found) == ["shared/state/model_source.py"]
    assert len(found["shared/state/model_source.py"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        'cfg.algo == "critic"',
        'cfg.algo in ("rho1-weighted", "rho1-tokenskip")',
        'cfg.algo.startswith("rho1")',
        'heads.type != "linear"',
        "kind == 'block' and x",
        "match cfg.heads.type:\n    case 'block':\n        pass",
    ],
)
def test_a_planted_comparison_is_caught(line):
    assert comparisons(line)


def test_every_row_says_what_it_is():
    for row in (*ALGORITHMS.values(), *HEAD_TYPES.values(), *COLUMNS.values()):
        assert row.doc and "\n" not in row.doc
    for name, row in ALGORITHMS.items():
        assert row.formula and "\n" not in row.formula
        assert set(row.signals) <= set(needed(Config(algo=name))) <= set(COLUMNS)
    choices = leaves()
    assert choices["algo"].type.__args__ == tuple(ALGORITHMS)
    assert choices["heads.type"].type.__args__ == tuple(HEAD_TYPES)


def test_a_head_type_has_the_tensors_of_its_row():
    cfg = Config()
    for name, row in HEAD_TYPES.items():
        heads = type(cfg.heads)(count=2, type=name)
        pieces = pieces_of(cfg.model, heads, (), prefix="")
        names = {x.name for x in pieces if x.name.startswith("mtp_heads.1.")}
        assert {f"mtp_heads.1.{tensor.name}" for tensor in row.tensors} <= names
        assert bool(names) and (row.copies_block == any("block." in x for x in names))


# Adding one: file -> what is put before the first line that begins so.
CONFIDENCE = {
    "shared/algorithms.py": {
        "PLAIN =": '''
def confidence(known: Known, cfg: Any) -> Array:
    """`-nll`: DFT at alpha 1, arXiv 2508.05629."""
    return where(
        array_namespace(known.nll_BL), known.batch.target_BL,
        -shift_to_tokens(known.nll_BL),
    )


''',
        '    "critic":': """
    "confidence": Algorithm(
        doc="targets weigh more where the model is sure",
        formula="-nll(j)",
        rule="soft",
        score=confidence,
        reads_nll=True,
    ),
""",
    }
}
SHIFTED = {
    "shared/head_types.py": {
        '    "block":': """
    "shifted": HeadType(
        doc="h + W h + b, then head 0's unembedding",
        tensors=(
            HeadTensor(leaf="kernel", name="outer.weight", shape="DD", turned=True),
            HeadTensor(leaf="bias", name="outer.bias", shape="D"),
        ),
    ),
""",
    },
    "wmtp_jax/heads.py": {
        "HEAD_FUNCTIONS": """
def _init_shifted(key, trunk, cfg, heads):
    extra, D = heads.count - 1, cfg.width
    return {"kernel": jnp.zeros((extra, D, D)), "bias": jnp.zeros((extra, D))}


def _shifted_state(head, outputs, cfg):
    h_BLD = outputs.hidden_BLD
    return h_BLD + h_BLD @ head["kernel"] + head["bias"][None, None]


""",
        '    "block":': """
    "shifted": HeadFunctions(_init_shifted, _shifted_state),
""",
    },
    "shared/huggingface/templates/modeling_wmtp.py": {
        "HEAD_TYPES": """
class ShiftedHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.outer = nn.Linear(width, width)

    def forward(self, state_BLD: Tensor) -> Tensor:
        return state_BLD + self.outer(state_BLD)


""",
        '    "block":': """
    "shifted": HeadType(lambda config, layer, norm: ShiftedHead(config.hidden_size)),
""",
    },
}
TRAINS = """
import sys
from wmtp_jax import export as jax_export, prepare, train as jax_train
from wmtp_torch_mps import train as torch_train

head_type, algo = "shifted", "confidence"
asked = "--model smoke --random-init --heads 3 --head-type shifted --out start"
assert prepare.main(asked.split()) == 0
options = (
    "--algo confidence --model start --tracking jsonl --train.max-steps 3 "
    "--train.eval-every 9 --train.save-every 9 --data.max-length 32 --device cpu "
    "--data.max-examples 20 --optimizer.lr 1e-2 --run-name"
).split()
for name, trainer in {"jax": jax_train, "torch": torch_train}.items():
    assert trainer.main([*options, name]) == 0
assert jax_export.main(["runs/jax", "--to", "moved"]) == 0
more = "--resume moved --run-name crossed --device cpu --train.max-steps 5"
assert torch_train.main(more.split()) == 0
"""


def plant(tree: Path, edits: dict[str, dict[str, str]]) -> None:
    for name, of_file in edits.items():
        text = (tree / name).read_text()
        for beginning, added in of_file.items():
            lines = text.splitlines(keepends=True)
            at = next(i for i, line in enumerate(lines) if line.startswith(beginning))
            text = "".join([*lines[:at], added.lstrip("\n"), *lines[at:]])
        (tree / name).write_text(text)


@pytest.mark.slow
def test_an_algorithm_and_a_head_type_are_added_in_three_files_at_most(tmp_path):
    """Both trainers then train them to the same numbers, and exchange the run."""
    assert len(CONFIDENCE) <= 3 and len(SHIFTED) <= 3
    tree = tmp_path / "tree"
    for folder in ("shared", "wmtp_jax", "wmtp_torch_mps"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    plant(tree, CONFIDENCE)
    plant(tree, SHIFTED)
    done = subprocess.run(
        [sys.executable, "-c", TRAINS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name in ("jax", "torch", "crossed"):
        text = (tmp_path / "runs" / name / "metrics.jsonl").read_text()
        found[name] = [json.loads(line) for line in text.splitlines()]
    assert [row["step"] for row in found["crossed"]] == [3, 4, 5][1:]
    for ours, theirs in zip(found["jax"], found["torch"], strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds", "tokens_per_s", "tflops_per_s"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key
    last = found["jax"][-1]
    assert (
        last["weight_max"] > 1.01 and last["nll_head_2"] < found["jax"][1]["nll_head_2"]
    )
