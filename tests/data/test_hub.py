"""Data sets by their names on the hub: fetched, from its cache, or refused."""

import datasets
import pytest
from datasets import Features, List, Value

from shared.config.fields import DataConfig
from shared.data import hub as hub_data
from shared.data.documents import load_examples
from tests import repositories
from tests.repositories import contests, mbpp, mbpp_folder, refused, run_alone

cache = repositories.cache


@pytest.mark.parametrize("max_examples", [0, 3])
@pytest.mark.parametrize("name", ["mbpp", "code_contests"])
def test_a_name_offline_is_one_line(tmp_path, monkeypatch, name, max_examples):
    monkeypatch.chdir(tmp_path)
    mbpp_folder(tmp_path / "mbpp")  # a name is not a folder of the working folder
    text = refused(DataConfig(source=name, max_examples=max_examples))
    repository = hub_data.SOURCES[name].repository
    assert f"data.source {name!r} must be fetched from the hub ({repository})" in text
    assert "or be in its cache, got OfflineModeIsEnabled: Cannot reach" in text
    assert "give by --data a folder with train.jsonl and validation.jsonl" in text
    assert len(load_examples(DataConfig(source="./mbpp"))["train"]) == 6


def test_a_hub_that_cannot_be_reached_is_not_asked_again(tmp_path):
    # Its own process: the libraries read the environment once. Nobody listens there.
    code = (
        "from shared.config.fields import DataConfig\n"
        "from shared.data.documents import load_examples\n"
        "try: load_examples(DataConfig(source='mbpp'))\n"
        "except ValueError as error: print(error)"
    )
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_alone(code, hub | {"HF_HOME": str(tmp_path / "home")})
    (line,) = done.stdout.splitlines()
    assert "or be in its cache, got ConnectError: " in line
    assert done.stderr == ""  # `datasets` tells of every try


def fill_cache(cache, **splits):
    """What `load_dataset` leaves of MBPP, from which it answers offline."""
    source = hub_data.SOURCES["mbpp"]
    folder = cache / source.repository.replace("/", "___") / source.config / "0.0.0/abc"
    folder.mkdir(parents=True)
    features = Features(
        task_id=Value("int32"),
        text=Value("string"),
        code=Value("string"),
        test_list=List(Value("string")),
        test_setup_code=Value("string"),
        challenge_test_list=List(Value("string")),
    )
    about = {"dataset_name": "mbpp", "config_name": "full", "splits": {}}
    for split, rows in splits.items():
        file = str(folder / f"mbpp-{split}.arrow")
        with datasets.arrow_writer.ArrowWriter(path=file, features=features) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        about["splits"][split] = {"name": split, "num_examples": len(rows)}
    info = datasets.DatasetInfo(features=features, builder_name="parquet", **about)
    info.version = datasets.Version("0.0.0")
    info.write_to_directory(str(folder))


@pytest.mark.parametrize("max_examples", [0, 2])
def test_mbpp_by_name_from_the_cache(cache, max_examples):
    fill_cache(
        cache,
        train=mbpp(range(601, 975)),
        test=mbpp(range(11, 511)),
        validation=mbpp(range(511, 601)),
        prompt=mbpp(range(1, 11)),
    )
    examples = load_examples(DataConfig(source="mbpp", max_examples=max_examples))
    n = max_examples
    assert {name: len(split) for name, split in examples.items()} == {
        "train": n or 374,
        "reference": n or 45,
        "validation": n or 45,
        "test": n or 500,
    }
    assert examples["train"][0]["id"] == "601"
    assert {int(row["id"]) % 2 for row in examples["reference"]} == {0}
    assert {int(row["id"]) % 2 for row in examples["validation"]} == {1}


@pytest.mark.parametrize(
    "split, wrong, span",
    [
        ("train", 600, "601 to 974"),
        ("train", 975, "601 to 974"),
        ("validation", 601, "511 to 600"),
        ("validation", 610, "511 to 600"),
        ("test", 511, "11 to 510"),
    ],
)
def test_mbpp_by_name_has_its_ids(cache, split, wrong, span):
    rows = {"train": [601], "validation": [511, 512], "test": [11]}
    rows[split] = [*rows[split], wrong]
    fill_cache(cache, **{name: mbpp(found) for name, found in rows.items()})
    split = "reference" if wrong == 610 else split
    text = refused(DataConfig(source="mbpp"))
    assert f"split {split!r} of MBPP must have the task ids {span}, got {wrong}" in text


def test_the_names_and_their_repositories():
    repositories = {name: found.repository for name, found in hub_data.SOURCES.items()}
    assert repositories == {
        "mbpp": "google-research-datasets/mbpp",
        "humaneval": "openai/openai_humaneval",
        "code_contests": "deepmind/code_contests",
    }
    assert hub_data.SOURCES["mbpp"].config == "full"


def test_only_named_columns_of_code_contests_are_fetched(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        rows = contests([[3], [3]])
        return {"train": iter(rows), "valid": iter(rows)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    cfg = DataConfig(source="code_contests", max_examples=1)
    assert list(load_examples(cfg)) == ["train", "reference", "validation"]
    ((arguments, options),) = asked
    assert arguments == ("deepmind/code_contests", "default")
    columns = ["name", "description", "solutions"]
    assert options == {"streaming": True, "columns": columns}
