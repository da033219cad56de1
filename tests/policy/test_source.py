"""What no line of the source may do, from its syntax trees: run what data says."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("shared", "wmtp_jax", "wmtp_torch_mps", "benchmarks", "tests")
Rule = Callable[[ast.AST], bool]
# What a rule looks at.
KINDS = (ast.Call, ast.Import, ast.ImportFrom, ast.Attribute, ast.Name, ast.Dict)


# --- what a node does ---------------------------------------------------------------


def dotted(node: ast.AST) -> str:
    """A dotted name: `torch.load`; of what is no plain name, what ends it: `.load`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def called(node: ast.AST) -> str:
    """The dotted name that a call calls; empty for other nodes."""
    return dotted(node.func) if isinstance(node, ast.Call) else ""


def keyword(node: ast.AST, name: str) -> ast.expr | None:
    """The value of a keyword, of a call or of a dict that becomes keywords."""
    if isinstance(node, ast.Call):
        return next((x.value for x in node.keywords if x.arg == name), None)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        is_it = lambda key: isinstance(key, ast.Constant) and key.value == name  # noqa: E731
        return next((value for key, value in pairs if is_it(key)), None)
    return None


def is_other(value: ast.expr | None, right: bool) -> bool:
    """Whether a value is given that is not plainly the right one."""
    plain = isinstance(value, ast.Constant) and value.value is right
    return value is not None and not plain


def imported(node: ast.AST) -> set[str]:
    """Names that one statement or call imports."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {f"{node.module or ''}.{alias.name}" for alias in node.names}
    if called(node).endswith(("import_module", "__import__")):
        words = node.args if isinstance(node, ast.Call) else []
        return {str(x.value) for x in words if isinstance(x, ast.Constant)}
    return set()


def any_of(names: set[str], *wanted: str) -> bool:
    """Whether one of the names is, or lies in, one of those wanted."""
    return any(name == x or name.startswith(f"{x}.") for name in names for x in wanted)


def is_pickle(node: ast.AST) -> bool:
    own = ("pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib")
    reads = called(node).rpartition(".")[2] in ("read_pickle", "to_pickle")
    return any_of(imported(node), *own, "cloudpickle") or reads


def is_code(node: ast.AST) -> bool:
    """`eval` and its like by their own names; `model.eval()` and `re.compile` not."""
    if isinstance(node, ast.Name):
        loaded = isinstance(node.ctx, ast.Load)
        return loaded and node.id in ("eval", "exec", "compile", "__import__")
    named = dotted(node) if isinstance(node, ast.Attribute) else ""
    return named.startswith(("builtins.", "__builtins__."))


def is_module(node: ast.AST) -> bool:
    own = ("runpy", "code", "codeop", "importlib.util.spec_from_file_location")
    return any_of(imported(node), *own) or "spec_from_file_location" in called(node)


def is_shell(node: ast.AST) -> bool:
    own = ["os.system", "os.popen", "pty"]
    own += [f"subprocess.get{x}" for x in ("output", "statusoutput")]
    own += ["asyncio.create_subprocess_shell"]
    by_name = called(node) in own or any_of(imported(node), *own)
    return by_name or is_other(keyword(node, "shell"), False)


def is_unsafe_load(node: ast.AST) -> bool:
    if is_other(keyword(node, "weights_only"), True):
        return True
    if called(node) in ("torch.load", "torch.jit.load", "torch.hub.load"):
        return keyword(node, "weights_only") is None
    return any_of(imported(node), "torch.load", "torch.hub", "torch.jit.load")


def is_remote_code(node: ast.AST) -> bool:
    return is_other(keyword(node, "trust_remote_code"), False)


def is_unsafe_yaml(node: ast.AST) -> bool:
    own = [f"yaml.{x}load{y}" for x in ("", "full_", "unsafe_") for y in ("", "_all")]
    own += [f"yaml.{x}Loader" for x in ("", "C", "Full", "Unsafe")]
    named = dotted(node) if isinstance(node, ast.Attribute) else ""
    return named in own or any_of(imported(node), *own, "ruamel", "oyaml")


def is_object_array(node: ast.AST) -> bool:
    if is_other(keyword(node, "allow_pickle"), False):
        return True
    loads = called(node) in ("np.load", "numpy.load", "jnp.load")
    return loads and keyword(node, "allow_pickle") is None


def is_archive(node: ast.AST) -> bool:
    """An archive names its files itself, `../` too, and may hold any size."""
    own = ("tarfile", "zipfile", "gzip", "bz2", "lzma", "zlib.decompress")
    unpacks = called(node).rpartition(".")[2] in ("unpack_archive", "extractall")
    return any_of(imported(node), *own) or unpacks


# Each rule, words without which no line breaks it (so that few files are parsed), lines
# that break it, and lines that look alike and do not.
RULES: dict[str, tuple[Rule, str, str, str]] = {
    "pickle": (
        is_pickle,
        "pickle|marshal|shelve|dill|joblib",
        """import pickle
           from dill import loads
           import_module('marshal')
           importlib.import_module('dill.source')
           import numpy, shelve as s
           frame.read_pickle(path)
           import joblib.memory""",
        """from shared.huggingface.safetensors import PICKLE
           pickles = 1""",
    ),
    "code": (
        is_code,
        r"(?<![.\w])(eval|exec|compile|__import__)\b|builtins",
        """eval(x)
           exec(x)
           f = compile
           map(eval, texts)
           __import__('os')
           import builtins; builtins.exec(x)
           compile(x, '', 'exec')""",
        """model.eval()
           re.compile(x)
           jitted.lower(x).compile()
           ast.parse(x)""",
    ),
    "module": (
        is_module,
        r"runpy|(import|from) code|spec_from_file",
        """import runpy
           from runpy import run_path
           import code
           util.spec_from_file_location('x', path)
           from importlib.util import spec_from_file_location""",
        """code = 3
           from importlib.resources import files""",
    ),
    "a shell": (
        is_shell,
        r"shell|system|popen|\bpty\b|getoutput|getstatusoutput",
        """subprocess.run(x, shell=True)
           run(x, shell=flag)
           os.system(x)
           from os import popen
           subprocess.getoutput(x)
           options = {'shell': 1}""",
        """subprocess.run(x, shell=False)
           subprocess.run(x)
           os.path.join(x)""",
    ),
    "weights": (
        is_unsafe_load,
        r"torch\.(load|jit|hub)|from torch|weights_only",
        """torch.load(x)
           torch.load(x, weights_only=False)
           torch.load(x, 'cpu')
           f(weights_only=flag)
           from torch import load
           torch.hub.load(x)
           options = {'weights_only': False}""",
        """torch.load(x, weights_only=True)
           json.load(x)
           of_torch.load(name)""",
    ),
    "remote code": (
        is_remote_code,
        "trust_remote_code",
        """f(x, trust_remote_code=True)
           f(trust_remote_code=asked.trust)
           options = {'trust_remote_code': True}""",
        """f(trust_remote_code=False)
           kwargs.pop('trust_remote_code', None)""",
    ),
    "yaml": (
        is_unsafe_yaml,
        "yaml",
        """yaml.load(x)
           yaml.load(x, Loader=yaml.SafeLoader)
           yaml.unsafe_load(x)
           from yaml import load
           class L(yaml.FullLoader): pass
           yaml.load_all(x)
           import ruamel.yaml""",
        """yaml.safe_load(x)
           class L(yaml.SafeLoader): pass
           from yaml import dump""",
    ),
    "objects": (
        is_object_array,
        r"allow_pickle|(np|numpy)\.load\b",
        """np.load(x)
           jnp.load(x)
           np.load(x, allow_pickle=True)
           f(allow_pickle=flag)""",
        """np.load(x, allow_pickle=False)
           np.loadtxt(x)""",
    ),
    "archive": (
        is_archive,
        "tarfile|zipfile|gzip|bz2|lzma|zlib|unpack_archive|extractall",
        """import tarfile
           from zipfile import ZipFile
           shutil.unpack_archive(x)
           import gzip
           zipped.extractall(to)""",
        """import zlib
           zip(a, b, strict=True)""",
    ),
}
# Where a rule does not hold, and why; a file or a folder.
EXCEPTIONS = {
    ("code", "shared/evaluation/walls/inside"): "runs programs of models, behind walls",
    ("module", "shared/comparison/grid/child.py"): "runs our own commands, by name",
    ("code", "tests/evaluation/test_prompts.py"): "runs a program of its own",
    ("code", "tests/evaluation/test_plain_data.py"): "an oracle, on literals it wrote",
    ("code", "tests/card/test_both_trainers.py"): "runs the lines that a card shows",
    ("module", "tests/run/test_original_workflow.py"): "runs a script of ours",
    ("remote code", "tests/exported.py"): "opens what it exported, as a user would",
    ("remote code", "tests/huggingface/test_modeling_folders.py"): "the same",
    ("pickle", "tests/policy/hostile.py"): "makes the files that must not be opened",
    ("yaml", "tests/policy/hostile.py"): "the same",
    ("objects", "tests/policy/hostile.py"): "the same",
}


def sources() -> Iterator[tuple[str, str]]:
    """Every Python file of ours, templates too, but for what older versions wrote."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("tests/fixtures/"):
                yield name, path.read_text("utf-8")


def broken(text: str) -> dict[str, list[int]]:
    """The rules that a text breaks, with the lines."""
    found: dict[str, list[int]] = {}
    likely = [
        (name, rule) for name, (rule, words, *_) in RULES.items()
        if re.search(words, text)
    ]  # fmt: skip
    for node in ast.walk(ast.parse(text)) if likely else ():
        if isinstance(node, KINDS):
            for name, rule in likely:
                if rule(node):
                    found.setdefault(name, []).append(node.lineno)
    return found


def exception(name: str, path: str) -> tuple[str, str] | None:
    """The exception that lets a file break a rule, if there is one."""
    for rule, place in EXCEPTIONS:
        if rule == name and (path == place or path.startswith(f"{place}/")):
            return rule, place
    return None


def test_no_line_runs_what_data_says():
    wrong, needed = [], set()
    for path, text in sources():
        for name, lines in broken(text).items():
            if let := exception(name, path):
                needed.add(let)
            else:
                wrong.append(f"{path}, lines {lines}: {name}")
    assert not wrong, "\n".join(wrong)
    assert needed == EXCEPTIONS.keys(), "an exception that nothing needs any more"


@pytest.mark.parametrize("name", RULES)
def test_a_line_that_breaks_a_rule_is_found(name):
    _, _, wrong, right = RULES[name]
    for line in map(str.strip, wrong.splitlines()):
        assert name in broken(line), line
    for line in map(str.strip, right.splitlines()):
        assert name not in broken(line), line


def test_no_exception_is_for_what_a_user_runs():
    """Outside the tests: the child behind its walls, and our own commands."""
    places = {place for _, place in EXCEPTIONS if not place.startswith("tests/")}
    assert places == {
        "shared/evaluation/walls/inside",
        "shared/comparison/grid/child.py",
    }
    tree = ast.parse((ROOT / "shared/comparison/grid/child.py").read_text("utf-8"))
    calls = {called(node) for node in ast.walk(tree) if "runpy" in called(node)}
    assert calls == {"runpy.run_module"}  # never a path


# --- pages --------------------------------------------------------------------------

# A text gets into a page as text alone.
RAW = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
RAW += ("new Function", 'src="http', "url(http", "import(")


def test_pages_put_texts_in_as_text():
    kinds = (".js", ".html", ".j2")
    pages = [x for x in ROOT.glob("shared/**/template*/*") if x.suffix in kinds]
    assert len(pages) >= 6
    for path in pages:
        text = path.read_text("utf-8")
        assert not [x for x in RAW if x in text], path
        # Plots alone are markup: `drawing.py` makes them, and escapes what they say.
        raw = [x for x in text.splitlines() if "| safe" in x or "|safe" in x]
        plots = ["{{ plot.svg | safe }}"] if path.name == "report.html.j2" else []
        assert [x.strip() for x in raw] == plots, path
