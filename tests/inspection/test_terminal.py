"""Signs under letters: their widths, what they are without colour, what is escaped."""

import numpy as np
import pytest
from rich.cells import cell_len

from shared.data.tokenizer import load_tokenizer
from shared.inspection import terminal
from shared.inspection.rows import Shown
from shared.inspection.terminal import lines_of, signs_of
from shared.inspection.texts import texts_of
from shared.inspection.tokens import Weighed

NONE = float("nan")


def printed(texts, weights, width=40, plain=False):
    found = lines_of(texts, weights, width, plain=plain)
    return [
        ("".join(x.text for x in line), signs_of(line, plain=plain)) for line in found
    ]


def test_a_sign_stands_under_each_letter():
    texts = ["def", " f", "(x)", ":\n", "\t", "yes"]
    weights = [NONE, 0.01, 1.0, 0.0, 3.0, 1.5]
    assert printed(texts, weights) == [
        ("def f(x):↵", "   ▁▁▄▄▄✕✕"),
        ("⇥yes", "▇▅▅▅"),
    ]
    assert printed(texts, weights, plain=True) == [
        ("def f(x): ", "   __===xx"),
        (" yes", "#+++"),
    ]


@pytest.mark.parametrize("width", [5, 7, 40])
def test_lines_fit_and_signs_are_as_wide_as_letters(width):
    texts = ["ab", "漢字", "c" * 9, "é", "\n", "z"]
    rows = printed(texts, [1.0] * len(texts), width)
    assert "".join(text for text, _ in rows) == "".join(texts).replace("\n", "↵")
    for text, signs in rows:
        assert cell_len(text) <= width and cell_len(signs) == cell_len(text)


def shown_of(text, weights):
    tokenizer = load_tokenizer("bytes")
    tokens = tokenizer.encode(text)
    weight_TK = np.array(weights, np.float32)[:, None]
    shown = Shown(id="a", name="a", tokens=tokens, texts=texts_of(tokens, tokenizer))
    clipped_TK = np.zeros(weight_TK.shape, np.int8)
    return shown, Weighed(
        weight_TK=weight_TK, nll_TK=weight_TK, clipped_TK=clipped_TK, numbers={},
        metrics={},
    )  # fmt: skip


def test_nothing_in_a_text_moves_the_cursor(capsys):
    shown, weighed = shown_of("a\x1b[2Jb\r", [NONE, 1, 1, 1, 1, 1, 0])
    terminal.show("run", shown, weighed, [0])
    text = capsys.readouterr().out
    assert "a\\x1b[2Jb\\x0d\n ▄▄▄▄▄▄▄▄✕✕✕✕\n" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_an_encoding_without_bars_has_letters(capsys, monkeypatch):
    shown, weighed = shown_of("a\nb", [NONE, 3, 0.3])
    monkeypatch.setattr(terminal, "_can_write", lambda text: text.isascii())
    terminal.show("run", shown, weighed, [0])
    text = capsys.readouterr().out
    assert text.isascii() and "a\n #\nb\n-\n" in text
    assert "# from 2.2" in terminal.legend()


def test_the_table_counts(capsys):
    _, weighed = shown_of("abcd", [NONE, 0, 1, 3])
    terminal.summary([("run", weighed)])
    assert capsys.readouterr().out.splitlines()[-1].split() == (
        "run 0 3 1.333 0 3 1 0 0 1.333".split()
    )
