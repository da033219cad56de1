"""README and docs say what the code does: tables, paths, options, messages, walk."""

import ast
import re
import shlex
from functools import cache

import pytest

from shared.algorithms import ALGORITHMS
from shared.config.layers import leaves
from shared.head_types import HEAD_TYPES
from tests.command_lines import error, run
from tests.script import doc_tables
from tests.test_layering import ROOT, imports

DOCS = [
    ROOT / "README.md",
    ROOT / "README.ko.md",
    ROOT / "wmtp_torch_mps" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCS]
FOLDERS = ("shared", "wmtp_jax", "wmtp_torch_mps", "docs", "tests", "benchmarks")
TO_BE_MADE = ("tests/test_models/", "tests/test_surprise.py")  # by what is beside it
# Of other programs.
FOREIGN = {"--backend-store-uri", "--logdir", "--model_args", "--speculative-config"}
FOREIGN |= {"--tasks"}
# Of SLURM and mpirun.
FOREIGN |= {"--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--time"}
FOREIGN |= {"--cpus-per-task", "--signal", "--requeue", "--open-mode", "--wait"}
FOREIGN |= {"--kill-on-bad-exit", "--hostfile"}
TRAINERS = ("wmtp_jax.train", "wmtp_torch_mps.train")
ADDED = {"surprise"}  # by tests/test_adding_a_weighting.py, as its page says


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def every_text() -> str:
    return "\n".join(map(text_of, NAMES))


def code_lines(text: str) -> list[str]:
    """Lines of indented and fenced code, those that go on after `\\` joined."""
    text = re.sub(r"\\\n\s*", "", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "".join(fenced).splitlines() + re.findall(r"^    (\S.*)$", text, re.M)


# Tables and length.


def test_readme_is_short():
    assert len(text_of("README.md").split()) < 1200


@pytest.mark.parametrize("name", doc_tables.PAGES)
def test_tables_are_those_of_the_code(name):
    """`python tests/script/doc_tables.py` renews them."""
    assert doc_tables.renewed(text_of(name)) == text_of(name)


def test_every_table_stands_somewhere():
    found = doc_tables.PLACE.findall("\n".join(map(text_of, doc_tables.PAGES)))
    assert {name for _, name, _ in found} == set(doc_tables.TABLES)


def test_every_algorithm_and_head_type_is_told():
    readme, configuration = map(text_of, doc_tables.PAGES)
    for name, row in ALGORITHMS.items():
        for part in (f"`{name}`", row.doc, f"`{row.formula}`", row.rule):
            assert part in readme and part in configuration, (name, part)
    for name, row in HEAD_TYPES.items():
        assert f"| `{name}` | {row.doc} |" in configuration


def test_every_field_is_told_with_its_default():
    rows = text_of("docs/configuration.md").split("## Every field")[1].splitlines()
    for path, leaf in leaves().items():
        (row,) = [x for x in rows if x.startswith(f"| `{doc_tables.option(path)}`")]
        assert len(row.split(" | ")) == 3 and row.split(" | ")[2].strip("| ")
        for alias in leaf.aliases:
            assert f"`{alias}`" in row


# The Korean README.


def code_blocks(text: str) -> list[str]:
    """Indented and fenced blocks of code, in their order."""
    blocks = r"^```\w*\n.*?^```$|(?:^    \S[^\n]*\n)+"
    return re.findall(blocks, text, re.MULTILINE | re.DOTALL)


def test_the_korean_readme_has_the_same_commands():
    """Block by block, letter for letter: a new command has to be added to both."""
    blocks = code_blocks(text_of("README.md"))
    assert len(blocks) > 6 and any("make train" in x for x in blocks)
    assert code_blocks(text_of("README.ko.md")) == blocks


def test_the_korean_readme_has_the_same_facts():
    """Figures of the run, commands within the text, rows of both tables, options."""
    english, korean = text_of("README.md"), text_of("README.ko.md")
    for pattern in (
        r"\b\d\.\d{4}\b",
        r"`((?:uv|make|python) [^`]+)`",
        r"^\| (`[^|]*`) \|",
        r"(?<![\w-])--[a-z][\w.-]*[a-z0-9]",
    ):
        reads = re.compile(pattern, re.MULTILINE | re.ASCII)
        found = set(reads.findall(english.split("## How fast")[0]))
        assert found and found <= set(reads.findall(korean)), pattern
    places = english.split("## Where things are")[1]
    for place in re.findall(r"^\| (`.*?) \|", places, re.M):
        assert f"| {place} |" in korean
    for name, row in ALGORITHMS.items():
        (line,) = [x for x in korean.splitlines() if x.startswith(f"| `{name}` |")]
        rest = f"| `{row.formula}` | {row.rule} | {doc_tables.needs(name)} |"
        assert line.endswith(rest), name


# Paths and links.


@pytest.mark.parametrize("name", NAMES)
def test_paths_exist(name):
    pattern = rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]*\w"
    named = set(re.findall(pattern, text_of(name)))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert not {path for path in missing if not path.startswith(TO_BE_MADE)}


def anchor(heading: str) -> str:
    """A heading as a link names it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        if link.startswith("https://"):
            continue
        path, _, at = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if at:  # a picture has none
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert at in map(anchor, headings), link


def test_the_picture_needs_nothing_from_outside():
    picture = text_of("docs/train.svg")
    outside = set(re.findall(r"\w+://[^\"' <)]+", picture))
    assert outside <= {
        "http://www.w3.org/2000/svg",
        "sqlite:////home/you/wmtp/runs/mlflow.db",
    }
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", picture)


def test_the_readme_quotes_the_picture():
    """The README's figures of the run, those with four decimals, are in the picture."""
    quoted = set(re.findall(r"\b\d\.\d{4}\b", text_of("README.md")))
    shown = set(re.findall(r"\b\d\.\d{4}\b", text_of("docs/train.svg")))
    assert len(quoted) >= 4 and quoted <= shown, quoted - shown


# The walk.


def test_the_walk_goes_from_file_to_file():
    """At most 15 files; each is imported by one that was read before."""
    steps = re.findall(r"^(\d+)\. `([\w/]+\.py)`", text_of("docs/reading.md"), re.M)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    files = [path for _, path in steps]
    assert 10 <= len(files) <= 15 and len(set(files)) == len(files)
    assert files[0] == "wmtp_jax/train.py"
    reached = imports(text_of(files[0]))
    for path in files[1:]:
        module = path.removesuffix(".py").replace("/", ".")
        assert any(f"{name}.".startswith(f"{module}.") for name in reached), path
        reached |= imports(text_of(path))


def test_what_the_walk_names_is_there():
    items = re.split(r"^\d+\. ", text_of("docs/reading.md").split("\n`")[0], flags=re.M)
    for item in items[1:]:
        path, *names = re.findall(r"`([\w/.]+)`", item)
        source = text_of(path)
        for name in names:
            assert re.search(rf"\b{name.split('.')[-1]}\b", source), (path, name)


# Options and commands.


@cache
def other_options() -> set[str]:
    """Options of every parser that is no trainer's."""
    found = set(FOREIGN)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            option = r'\badd(?:_argument)?\(\s*"(--[\w-]+)"'
            found |= set(re.findall(option, path.read_text()))
    return found


@cache
def trainer_options() -> set[str]:
    found = {"--config", "--recipe", "--dry-run", "--resume", "--help"}
    found |= {"--distributed", "--processes", "--process"}
    for path, leaf in leaves().items():
        found |= {doc_tables.option(path), *leaf.aliases}
        if leaf.type is bool:
            group, dot, name = path.rpartition(".")
            found.add(doc_tables.option(f"{group}{dot}no-{name}"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_options_are_real(name):
    """Every `--option`, in text too, but the one that is there to be refused."""
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*[a-z0-9]", text_of(name)))
    unknown = named - trainer_options() - other_options()
    assert unknown <= {"--weighting.temprature", "--group.field"}


def commands() -> list[list[str]]:
    """Every `python -m MODULE ...` of a code block or a table, as words."""
    inline = re.findall(r"`(python -m [^`]+)`", every_text())
    lines = [x.partition("python -m ")[2] for x in [*code_lines(every_text()), *inline]]
    return [shlex.split(x, comments=True) for x in lines if x and x[0] != "."]


def test_commands_name_modules():
    found = commands()
    assert len(found) > 30
    for module, *_ in found:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_training_commands_are_understood(monkeypatch):
    """Each is parsed, with its values; what is not here is a model or a file."""
    monkeypatch.chdir(ROOT)
    understood = 0
    for module, *words in commands():
        if module not in TRAINERS or "--help" in words or ADDED & {*words}:
            continue
        try:
            run(*words)
            understood += 1
        except ValueError as refused:
            assert re.match("model.name must be a folder", str(refused)), words
    assert understood > 15


# Messages.


REFUSED = [("--algo", "ppo"), ("--weighting.temprature", "1"), ("--heads", "400")]


@pytest.mark.parametrize("words", REFUSED)
def test_refused_options_are_told_so(words):
    assert f"error: {error(*words)}\n" in text_of("docs/troubleshooting.md")


ANYTHING = ".*"
FEWEST = 16  # letters of a string that can be told from others


@cache
def templates() -> list[re.Pattern]:
    """What the code can say: its strings, with anything where a value is put in."""
    found = set()
    for folder in ("shared", "wmtp_jax", "wmtp_torch_mps"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                pieces = [literal(part) for part in parts]
                letters = "".join(pieces).replace(ANYTHING, "").replace("\\", "")
                if len(letters) >= FEWEST:
                    found.add("".join(x if x else ANYTHING for x in pieces))
    return [re.compile(pattern) for pattern in found]


def literal(node: ast.AST) -> str:
    """The pattern of a piece of a string; nothing for a value."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return ""
    pieces = re.split(r"%(?:\.\d)?[sdfeg]", node.value)
    return ANYTHING.join(map(re.escape, pieces))


def test_messages_are_those_of_the_code():
    """Of a line `FIELD must be ..., got ...` the field has to be one."""
    seen = {error(*words) for words in REFUSED}
    text = text_of("docs/troubleshooting.md")
    fenced = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(fenced).splitlines()
    assert len(lines) > 30
    for line in lines:
        said = re.sub(r"^(error|warning): ", "", line)
        field = re.match(r"(?:--)?([\w.-]+) must be .+, got ", said)
        known = said in seen or (field and field[1] in leaves())
        assert known or any(x.fullmatch(said) for x in templates()), line


def test_names_of_the_repository_only():
    """Nothing of the machine on which the docs were written."""
    for name in [*NAMES, "docs/train.svg"]:
        assert not re.search(r"/(?:tmp|work|root)/", text_of(name)), name
