"""Shared text with benchmarks is found: planted text, and what is reported of it."""

import json
from pathlib import Path

import pytest

from shared.data.contamination import check, ngrams, words
from tests import leaks
from tests.leaks import PACKAGED, PROBLEM, kinds, spaced, write

benchmark = leaks.benchmark
CLEAN = {
    "id": "clean",
    "prompt": "Say how many letters are in the longest word of a sentence.\n",
    "completion": "def f(s):\n    return max(map(len, s.split()))\n",
}


def found(benchmark, prompt=CLEAN["prompt"], completion=CLEAN["completion"]):
    planted = {"id": "planted", "prompt": prompt, "completion": completion}
    report = check({"train": [CLEAN, planted]}, [benchmark])
    assert report.num_documents == 2
    ids = [i for ids in report.found[benchmark].values() for i in ids]
    assert set(ids) <= {"train/planted"}
    return kinds(report, benchmark)


TEXT, CODE = PROBLEM["text"], PROBLEM["code"].replace("\r\n", "\n")
ALL = {"exact", "normalised", "ngram13"}
# Not more than twelve words in a row of the problem.
FIRST_12 = " ".join(words(TEXT)[:12])


@pytest.mark.parametrize(
    "planted, expected",
    [
        ({}, set()),
        ({"prompt": TEXT, "completion": CODE}, ALL),
        ({"prompt": TEXT}, ALL),
        ({"completion": CODE}, ALL),
        ({"prompt": f'"""\n{TEXT}\n"""\n'}, ALL),
        ({"prompt": f'"""\n{TEXT}\nassert weigh([2]) == 5\n"""\n'}, ALL),
        ({"prompt": spaced(TEXT)}, ALL - {"exact"}),
        ({"completion": spaced(CODE)}, ALL - {"exact"}),
        ({"prompt": TEXT.upper()}, {"ngram13"}),
        ({"prompt": f"Please: {TEXT}"}, {"ngram13"}),
        ({"completion": f"import os\n\n{CODE}\n\nprint(weigh([]))"}, {"ngram13"}),
        ({"completion": "# " + " ".join(words(TEXT)[-13:]).upper()}, {"ngram13"}),
        ({"completion": "# " + "  \t".join(words(CODE)[4:17])}, {"ngram13"}),
        ({"completion": f"# {FIRST_12}"}, set()),
        ({"completion": f"# {FIRST_12} green"}, set()),
    ],
)
def test_planted_text_is_found(benchmark, planted, expected):
    assert found(benchmark, **planted) == expected


def test_every_thirteen_words_of_a_problem_are_found(benchmark):
    text = words(f"{TEXT}\n{CODE}")
    assert len(text) == 43
    rows = []
    for i in range(len(text) - 12):
        copied = text[i : i + 13]
        other = [*copied[:6], "zebra", *copied[7:]]
        rows.append(CLEAN | {"id": f"copied {i}", "completion": " ".join(copied)})
        rows.append(CLEAN | {"id": f"other {i}", "completion": " ".join(other)})
    assert check({"train": rows}, [benchmark]).found[benchmark] == {
        "exact": [],
        "normalised": [],
        "ngram13": [f"train/copied {i}" for i in range(31)],
    }


def test_solutions_that_anyone_writes_do_not_count(tmp_path):
    short = PROBLEM | {"code": "return x + y + z +1"}
    long = PROBLEM | {"code": "return x + y + z + 1"}
    assert (len(short["code"]), len(long["code"])) == (19, 20)
    for row, expected in ((short, set()), (long, {"exact", "normalised"})):
        file = write(tmp_path / "test.jsonl", row | {"text": CLEAN["prompt"][::-1]})
        assert found(file, completion=row["code"]) == expected
    padded = write(tmp_path / "test.jsonl", short | {"code": f"{' ' * 9}return x"})
    assert found(padded, completion=f"{' ' * 9}return x") == set()


def test_words_are_those_of_the_minis_check():
    assert words("Total_1 += f(x)**2 # Größe, don't") == [
        *("total_1", "+=", "f", "(", "x", ")", "**", "2", "#", "größe", ",", "don"),
        *("'", "t"),
    ]
    assert ngrams("a b c", 2) == {"a b", "b c"}
    assert ngrams("a b c", 4) == set()


# What is compared with


def test_files_and_folders_of_the_user(tmp_path, benchmark):
    other = {"prompt": "x" * 30, "completion": "y" * 30}
    (tmp_path / "several").mkdir()
    write(tmp_path / "several" / "a.jsonl", other)
    write(tmp_path / "several" / "b.jsonl", PROBLEM)
    write(tmp_path / "train.jsonl", other)  # a folder's test file speaks for it
    several = str(tmp_path / "several")
    against = [benchmark, str(tmp_path), several]
    rows = [CLEAN | {"prompt": TEXT}, CLEAN | {"id": "other", "prompt": "x" * 30}]
    report = check({"train": rows}, against)
    assert list(report.found) == [*PACKAGED, *against]
    assert report.found[benchmark]["exact"] == ["train/clean"]
    assert report.found[str(tmp_path)]["exact"] == ["train/clean"]
    assert report.found[several]["exact"] == ["train/clean", "train/other"]


def test_a_folder_of_the_user_does_not_replace_a_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("humaneval").mkdir()
    write(Path("humaneval/test.jsonl"), PROBLEM)
    report = check({"train": [CLEAN | {"prompt": TEXT}]}, ["humaneval"])
    assert list(report.found) == [*PACKAGED, "./humaneval"]
    assert kinds(report, "./humaneval") == ALL
    assert kinds(report, "humaneval") == set()


def test_nothing_to_compare_with_is_an_error(tmp_path):
    for name in ("nowhere", str(tmp_path), ""):
        with pytest.raises(ValueError, match=r"check_against must name \.jsonl files,"):
            check({"train": [CLEAN]}, [name])
    with pytest.raises(ValueError, match=r"nowhere\.jsonl as a readable file"):
        check({"train": [CLEAN]}, [str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(ValueError, match="line 1: must have the keys of a format"):
        check({"train": [CLEAN]}, [write(tmp_path / "test.jsonl", {"a": 1})])


# What is reported


def test_the_report(benchmark):
    train = [CLEAN | {"id": str(i), "prompt": TEXT} for i in range(7)]
    reference = [CLEAN | {"id": "8", "completion": f"{CODE}\n# end"}, CLEAN]
    report = check({"train": train, "reference": reference}, [benchmark])
    assert report.lines() == [
        "contamination: 0 of 9 training documents share text with humaneval",
        "contamination: 0 of 9 training documents share text with mbpp_test",
        f"contamination: 8 of 9 training documents share text with {benchmark} (exact "
        "7, normalised 7, 13-gram 8: ids train/0, train/1, train/2, train/3, train/4, "
        "...)",
    ]
    first = [f"train/{i}" for i in range(5)]
    summary = json.loads(json.dumps(report.to_json()))
    assert summary["documents"] == 9
    assert summary["benchmarks"][benchmark] == {
        "documents": 8,
        "exact": {"documents": 7, "ids": first},
        "normalised": {"documents": 7, "ids": first},
        "ngram13": {"documents": 8, "ids": first},
    }
    few = check({"reference": reference}, [benchmark]).lines()[-1]
    assert few.endswith("(exact 0, normalised 0, 13-gram 1: ids reference/8)")
