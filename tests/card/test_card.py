"""Model cards: what they say, for whom they are safe, when they are written."""

import json
import re
from dataclasses import replace

import huggingface_hub
import pytest
import yaml
from huggingface_hub.repocard import metadata_load

from shared.card import card
from shared.card.card import is_untouched, make_card, renew_card, write_card
from shared.config.fields import Config, CriticConfig, DataConfig, ReferenceConfig
from shared.config.layers import dump_config
from shared.config.model import ModelConfig
from shared.evaluation.results.kept import FILES
from shared.files import write_json
from shared.huggingface.folder import files_digest
from shared.state.run_folder import lock

SUMMARY = {
    "steps": 20,
    "exported_step": 20,
    "seconds": 12.5,
    "device": "cpu",
    "documents": {"train": 101, "validation": 24},
    "documents_cut": {"train": 3, "validation": 0},
    "parameters": {"trunk": 1000, "all": 1000},
    "validation_unigram_entropy": 3.25,
    "eval_before": {"eval_nll_head_0": 5.5},
    "eval_after": {"eval_nll_head_0": None},
    "contamination": {
        "documents": 101,
        "benchmarks": {
            "/home/jane/secret/own.jsonl": {"documents": 2}
            | {kind: {"documents": 1} for kind in ("exact", "normalised", "ngram13")}
        },
    },
    "versions": {"torch": "2.13"},
}
RESULT = {"task_id": "a", "n": 1, "c": 1, "timed_out": 0, "bits": 8.0, "bytes": 8}
SETTINGS = {"task": "mbpp", "source": "/home/jane/secret/mine", "split": "test"}
SETTINGS |= {"form": "mbpp zero-shot", "samples": 1, "sampling": {"temperature": 0}}


@pytest.fixture
def run(tmp_path):
    """A run's folder with a model that is no more than its two files."""
    folder = tmp_path / "runs" / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    write_json(folder / "summary.json", SUMMARY)
    write_json(folder / "inputs.json", {"backend": "wmtp_jax"})
    save(folder, Config())
    rows = [{"step": n, "eval_nll_head_0": 5.0 - n / 10} for n in (0, 10, 20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def save(run, cfg):
    (run / "config.yaml").write_text(dump_config(cfg), "utf-8")


def card_of(run, step=20):
    return make_card(run, step, run / "model")


def data_of(text):
    """The front matter, as YAML and as the hub's client read it."""
    read = yaml.safe_load(text.split("---\n")[1])
    found = huggingface_hub.ModelCard(text)
    assert found.data.to_dict() == read and "## Training" in found.text
    return read


def evaluated(run, name="mbpp", digest=None):
    folder = (run / "evaluated" / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    (run / "evaluated" / f"{name}.jsonl").write_text(json.dumps(RESULT) + "\n")
    known = {FILES: digest or files_digest(run / "model")}
    write_json(run / "evaluated" / f"{name}.settings.json", SETTINGS | known)


def test_it_says_what_the_run_knows(run):
    text = card_of(run)
    for part in (
        "train 101 (3 cut), validation 24 (0 cut)",
        "| 0 | 5.5000 | 3.0000 |",
        "after step 20",
        "12.5 s",
        "Unigram entropy of that split: 3.2500",
        "Of 101 training documents",
        "| `own.jsonl` | 2 | 1 | 1 | 1 |",
        "Not evaluated when this card was written",
        "trust_remote_code=True",
        "- torch: `2.13`",
    ):
        assert part in text, part
    assert "/home" not in text and "jane" not in text
    assert text == card_of(run) and is_untouched(text)
    data = data_of(text)
    assert data["library_name"] == "transformers" and "license" not in data
    assert "base_model" not in data and data["tags"][0] == "wmtp"


def test_of_a_checkpoint_it_says_the_validation_up_to_there(run):
    text = card_of(run, step=12)
    assert "| 0 | 5.5000 | 4.0000 |" in text and "after step 10" in text
    assert "steps: 12 of a run that made 20" in text


def test_a_run_that_has_not_ended_has_a_card(run):
    for name in ("summary.json", "metrics.jsonl", "inputs.json"):
        (run / name).unlink()
    text = card_of(run)
    assert "Not measured" in text and "## Contamination" not in text
    data_of(text)
    write_card(run)  # nothing is exported
    assert not (run / "model" / "README.md").exists()


def test_a_base_model_of_the_hub_and_data_of_the_hub(run):
    cfg = Config(
        algo="critic",
        model=ModelConfig(name="owner/base-1", revision="v1"),
        data=DataConfig(source="mbpp"),
        critic=CriticConfig(reward_model="owner/reward"),
        reference=ReferenceConfig(model="/home/jane/secret/teacher"),
    )
    save(run, cfg)
    text = card_of(run)
    data = data_of(text)
    assert data["base_model"] == "owner/base-1"
    assert data["datasets"] == ["google-research-datasets/mbpp"]
    assert "license" not in data and "that of the base model holds" in text
    assert "`owner/base-1`, revision `v1`" in text
    assert "score of `owner/reward`" in text and "/home" not in text
    save(run, replace(cfg, algo="rho1-weighted"))
    assert "- reference: `teacher`" in card_of(run)


@pytest.mark.parametrize(
    "front, kept",
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: llama3\nlicense_link: LICENSE",
            {"license": "other", "license_name": "llama3"},
        ),
        ('license: "mit\\n---\\nbase_model: x"', {}),
        ("license: [mit, {a: b}]", {}),
        ("license: &a mit\nother: *b", {}),  # no YAML at all
        ("- license", {}),
        ("license: 1", {}),
    ],
)
def test_the_licence_is_the_base_models(run, tmp_path, front, kept):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text(f"---\n{front}\n---\n# base\n")
    save(run, Config(model=ModelConfig(name=str(base))))
    text = card_of(run)
    data = data_of(text)
    assert {key: x for key, x in data.items() if "license" in key} == kept
    assert "base_model" not in data and "- base model: `base`" in text
    if kept:  # still known where the base model is gone
        write_card(run)
        (base / "README.md").unlink()
        assert data_of(card_of(run))["license"] == kept["license"]


def test_the_licence_may_stand_in_the_config(run, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"license": "mit"}')
    save(run, Config(model=ModelConfig(name=str(tmp_path / "base"))))
    assert data_of(card_of(run))["license"] == "mit"


HOSTILE = [
    "a`b``c",
    "---",
    "x\n---\nlicense: mit\n---\n# y",
    "<script>alert(1)</script>",
    "[a](https://example.org) ![b](c)",
    "a | b \\| c \\",
    "*a* __b__ {{ c }}",
    "\u202eabc\u2028d\x00\x1b[31m",
    "\U0001f600 模型",
    "`" * 300,
    " ",
    "\udcff",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(run, tmp_path, name, monkeypatch):
    """In a config as in what comes out of a summary, a path or a result."""
    cfg = Config(
        algo="critic",
        model=ModelConfig(name=f"/home/jane/{name}"),
        data=DataConfig(source=f"/home/jane/{name}", train_split=name),
        critic=CriticConfig(reward_model=f"/home/jane/{name}"),
    )
    monkeypatch.setattr(card, "read_facts", facts_with(cfg))
    summary = json.loads(json.dumps(SUMMARY).replace("own.jsonl", "own"))
    counts = summary["contamination"]["benchmarks"].popitem()[1]
    summary["contamination"]["benchmarks"][f"/home/jane/{name}"] = counts
    summary["device"] = summary["versions"]["torch"] = name
    write_json(run / "summary.json", summary)
    evaluated(run)
    hostile = SETTINGS | {"source": f"/home/jane/{name}", "form": name}
    known = {FILES: files_digest(run / "model")}
    write_json(run / "evaluated" / "mbpp.settings.json", hostile | known)
    text = card_of(run)
    text.encode()
    assert data_of(text).keys() == {"library_name", "pipeline_tag", "tags"}
    plain = "".join(re.split(r"(?s)(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", text)[0::2])
    for part in (
        "<script",
        "](",
        "\u202e",
        "\x1b",
        "*a*",
        "{{",
        "license: mit",
        "jane",
    ):
        assert part not in plain, part
    shape = re.compile(r"^(#|\||- |---)", re.MULTILINE)
    right = [x.group() for x in shape.finditer(text)]
    tame = replace(cfg, data=replace(cfg.data, source="/a", train_split="a"))
    monkeypatch.setattr(card, "read_facts", facts_with(tame))
    assert [x.group() for x in shape.finditer(card_of(run))] == right
    for line in text.splitlines():
        assert not line.startswith("|") or line.count("|") in (4, 6, 8), line


def facts_with(cfg):
    """`read_facts` of a config that no YAML file could hold."""
    real = card.read_facts
    return lambda run, step: replace(
        real(run, step), cfg=cfg, before=[None] * 4, after=[None] * 4
    )


def test_results_are_those_of_these_weights(run):
    evaluated(run)
    evaluated(run, "12/bits", digest="of other weights")
    (run / "evaluated" / "broken.jsonl").write_text("{")
    write_json(run / "evaluated" / "broken.settings.json", {FILES: "x"})
    text = card_of(run)
    (row,) = [x for x in text.splitlines() if x.startswith("| mbpp, test split")]
    assert "of `mine` | `mbpp zero-shot` | 1 | 1 at temperature 0 | 100.0 % [" in row
    assert "1.0000 [" in row and "In brackets 95 % intervals" in text
    (run / "model" / "model.safetensors").write_bytes(b"trained on")
    assert "Not evaluated" in card_of(run)


def test_an_evaluation_renews_the_card(run):
    write_card(run)
    file = run / "model" / "README.md"
    evaluated(run)
    renew_card(str(run / "checkpoints" / "20"))
    renew_card(str(run / "model"))
    assert "Not evaluated" in file.read_text()
    renew_card(str(run))
    assert "100.0 % [" in file.read_text() and is_untouched(file.read_text())


def test_what_somebody_has_edited_stays(run):
    write_card(run)
    file = run / "model" / "README.md"
    edited = file.read_text().replace("# `mine`", "# My model")
    file.write_text(edited)
    evaluated(run)
    renew_card(str(run))
    assert file.read_text() == edited
    for text in ("", "mine", "a\nb\n"):
        assert not is_untouched(text)


def test_a_run_that_is_held_writes_its_own(run, caplog):
    write_card(run)
    before = (run / "model" / "README.md").read_bytes()
    evaluated(run)
    held = lock(run)
    try:
        with caplog.at_level("WARNING", logger="wmtp"):
            renew_card(str(run))
    finally:
        held.release()
    assert (run / "model" / "README.md").read_bytes() == before
    assert "the model card stays as it is" in caplog.text


def test_the_front_matter_of_a_file_is_read_by_the_hubs_client(run):
    write_card(run)
    assert metadata_load(run / "model" / "README.md")["pipeline_tag"]
