"""Output that is stopped and goes on."""

import json

import pytest

from shared.decoding.kept_lines import KeptLines

ASKED = {"model": "m", "n": 1}


ENDS = "a\nb\u2028c\x85d\x1ce\r"  # each an end of a line, somewhere


def test_it_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "out.jsonl"
    first = KeptLines(path, ASKED)
    assert list(tmp_path.iterdir()) == []  # nothing before there is something
    first.add({"text": ENDS})
    first.add({"text": "ü"})
    partial = tmp_path / "out.jsonl.partial"
    with open(partial, "ab") as file:
        file.write(b'{"text": "hal')  # of a killed writer
    second = KeptLines(path, ASKED)
    assert second.lines == [{"text": ENDS}, {"text": "ü"}]
    second.add({"text": "c"})
    second.finish()
    lines = path.read_text("utf-8").split("\n")
    assert [json.loads(x)["text"] for x in lines if x] == [ENDS, "ü", "c"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_killed_in_its_first_line_has_left_nothing(tmp_path):
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"mod')
    lines = KeptLines(tmp_path / "out.jsonl", ASKED)
    lines.add({"text": "a"})
    lines.finish()
    assert (tmp_path / "out.jsonl").read_text() == '{"text": "a"}\n'


@pytest.mark.parametrize("name", ["out.jsonl", "none/out.jsonl"])
def test_what_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "out.jsonl").write_text("")
    with pytest.raises(ValueError, match="--to must be"):
        KeptLines(tmp_path / name, ASKED)


def test_other_options_are_refused(tmp_path):
    first = KeptLines(tmp_path / "out.jsonl", ASKED)
    first.add({"text": "a"})
    with pytest.raises(ValueError, match=r"go on with what .* for, got other n \("):
        KeptLines(tmp_path / "out.jsonl", ASKED | {"n": 2})
    (tmp_path / "out.jsonl.partial").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"^--out must .* got other options \("):
        KeptLines(tmp_path / "out.jsonl", ASKED, "--out")
