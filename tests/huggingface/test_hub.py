"""Models by name, against a cache laid out as the hub's client lays it out."""

import os
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants

from shared.huggingface import hub
from shared.huggingface.hub import model_folder

SHA = {"main": "0123456789abcdef0123456789abcdef01234567", "v1": "f" * 40}
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and a hub that nobody can reach."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    hub._fetch.cache_clear()
    return tmp_path / "home"


def cached(home, name, files=FILES):
    """Puts a model in the cache: a branch `main` and a tag `v1`."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    for ref, sha in SHA.items():
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(sha)
        snapshot = folder / "snapshots" / sha
        snapshot.mkdir(parents=True)
        for file in files:
            blob = folder / "blobs" / f"{ref}-{file}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_text(f"{file} of {ref}")
            (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
    return folder / "snapshots"


def refused(*arguments):
    with pytest.raises(ValueError) as caught:
        model_folder(*arguments)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize("name", ["owner/a-model_1.5", "distilgpt2"])
def test_a_name_is_found_in_the_cache(home, name):
    snapshots = cached(home, name)
    found = model_folder(name, "", "model.name")
    assert found == snapshots / SHA["main"]
    assert (found / "config.json").read_text() == "config.json of main"


@pytest.mark.parametrize("revision", ["v1", SHA["v1"]])
def test_a_revision_is_a_ref_or_a_commit(home, revision):
    snapshots = cached(home, "owner/name")
    assert model_folder("owner/name", revision, "model.name") == snapshots / SHA["v1"]


def test_the_cache_may_lie_elsewhere(home, tmp_path, monkeypatch):
    cached(tmp_path / "other", "owner/name")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other" / "hub"))
    found = model_folder("owner/name", "", "model.name")
    assert found.is_relative_to(tmp_path / "other")


def test_a_local_folder_is_taken_as_it_is(home, tmp_path, monkeypatch):
    cached(home, "owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert model_folder("owner/name", "", "model.name").is_relative_to("owner")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folder("~/owner/name", "", "x") == tmp_path / "owner" / "name"
    text = refused("owner/name", "v1", "reference.model")
    assert text.startswith("reference.model with a revision must be a name on the hub")
    assert "'owner/name'" in text and "'v1'" in text


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/nowhere/model",
        "./nowhere",
        "../nowhere",
        "a/b/c",
        "a/../b",
        "owner/",
        "-a/b",
        "a--b/c",
        "owner/name.git",
        "owner/na me",
        "datasets/café",
        "a\nb",
        "a\0b",
        "x" * 5000,
    ],
)
def test_what_is_neither_a_folder_nor_a_name(name):
    text = refused(name, "", "critic.reward_model")
    assert text.startswith("critic.reward_model must be a folder with config.json")
    assert "which is neither" in text


@pytest.mark.parametrize("revision", ["../../x", "/etc/x", "a b", "-x", "a\n", "\0"])
def test_no_such_kind_of_revision(home, revision):
    cached(home, "owner/name")
    text = refused("owner/name", revision, "model.name")
    assert "must be of a revision that is a commit, tag or branch" in text


def test_offline_it_says_so_at_once(home):
    start = time.perf_counter()
    text = refused("owner/name", "v1", "model.name")
    assert time.perf_counter() - start < 10  # the library is imported, no try repeated
    assert "model.name must be a folder with config.json, model.safetensors" in text
    assert "'owner/name' at revision 'v1'" in text
    assert f"HF_HUB_OFFLINE is set, and it is not (whole) in {home / 'hub'}" in text
    cached(home, "owner/name")
    assert "'v2'" in refused("owner/name", "v2", "model.name")
    assert model_folder("owner/name", "v1", "model.name")  # a failure is not kept


def test_a_snapshot_without_safetensors_is_refused(home):
    cached(home, "owner/name", ("config.json", "tokenizer.json"))
    text = refused("owner/name", "", "model.name")
    assert "no safetensors (pickles are not fetched" in text
    cached(home, "owner/other", ("model.safetensors",))
    assert "has no config.json" in refused("owner/other", "", "model.name")


def test_no_pickle_and_no_code_is_asked_for(monkeypatch, home, tmp_path):
    from fnmatch import fnmatch

    asked = {}

    def snapshot_download(name, **arguments):
        asked.update(arguments, name=name)
        for file in FILES:
            (tmp_path / file).write_text("")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert model_folder("owner/name", "", "model.name") == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/name", None)

    def is_fetched(file):
        allowed = any(fnmatch(file, pattern) for pattern in asked["allow_patterns"])
        return allowed and not any(fnmatch(file, p) for p in asked["ignore_patterns"])

    more = ("generation_config.json", "additional_chat_templates/tool.jinja")
    for file in (*FILES, *more, "model-00001-of-00002.safetensors", "merges.txt"):
        assert is_fetched(file), file
    inner = ("onnx/model.safetensors", "onnx/config.json", "x/y.safetensors.index.json")
    for file in ("pytorch_model.bin", "modeling_x.py", *inner):
        assert not is_fetched(file), file
    asked.clear()
    model_folder("owner/name", "", "model.name")
    assert asked == {}  # one run sees one snapshot


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("GatedRepoError", "its owner must first grant access"),
        ("RepositoryNotFoundError", "the hub has no such model, or it is private"),
        ("RevisionNotFoundError", "it has no such revision"),
    ],
)
def test_what_the_hub_answers_is_one_line(monkeypatch, home, kind, reason):
    from huggingface_hub import errors

    def snapshot_download(name, **arguments):
        error = getattr(errors, kind)
        raise error.__new__(error, "404 Client Error.\n\nRepository Not Found\n")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert reason in refused("owner/name", "", "model.name")


def test_a_hub_that_cannot_be_reached(home):
    # Its own process: the library reads the environment once. Nobody listens there.
    code = (
        "from shared.huggingface.hub import model_folder\n"
        "try: model_folder('owner/name', '', 'model.name')\n"
        "except ValueError as error: print(error)"
    )
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | env,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(hub.__file__))),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert "the hub cannot be reached (ConnectError: " in line
    assert done.stderr == ""
