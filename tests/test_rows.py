"""Packing of documents into rows, and their order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.rows import (
    OPEN_ROWS,
    documents_per_row,
    epoch_order,
    pack_epoch,
    pack_tightly,
    padding_share,
)

L = 32

lengths_lists = st.lists(st.integers(2, L), min_size=0, max_size=200)


@given(lengths_lists, st.integers(1, 5), st.integers(0, 2**64))
@settings(max_examples=80, deadline=None)
def test_rows_hold_each_document_once_and_whole(lengths, max_documents, seed):
    order = epoch_order(len(lengths), seed, 0)
    rows = pack_epoch(lengths, max_length=L, max_documents=max_documents, order=order)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert 1 <= len(row) <= max_documents
        assert sum(lengths[i] for i in row) <= L
    share = padding_share(rows, lengths, L)
    used = sum(lengths)
    assert share == pytest.approx(1 - used / (len(rows) * L) if rows else 0)


@given(lengths_lists.filter(lambda x: len(x) < OPEN_ROWS), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_rows_are_first_fit(lengths, max_documents):
    rows = []
    for i, n in enumerate(lengths):
        fits = (
            row
            for row in rows
            if len(row) < max_documents and sum(lengths[j] for j in row) + n <= L
        )
        row = next(fits, None)
        if row is None:
            rows.append([i])
        else:
            row.append(i)
    order = range(len(lengths))
    packed = pack_epoch(lengths, max_length=L, max_documents=max_documents, order=order)
    assert packed == rows


def test_cost_of_packing_is_bounded_by_the_open_rows():
    # Rows that nothing fits into any more pile up, and the oldest ones are closed.
    lengths = [20] * 1000 + [12] * 1000
    order = range(len(lengths))
    rows = pack_epoch(lengths, max_length=L, max_documents=8, order=order)
    assert sum(len(row) == 2 and lengths[row[0]] == 20 for row in rows) == OPEN_ROWS


@given(lengths_lists)
@settings(max_examples=80, deadline=None)
def test_tight_rows_are_those_of_best_fit(lengths):
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = [L - sum(lengths[j] for j in row) for row in rows]
        fits = [r for r in room if r >= lengths[i]]
        if fits:
            # Of rows with equal room any may be taken: they are alike.
            rows[max(b for b, r in enumerate(room) if r == min(fits))].append(i)
        else:
            rows.append([i])
    found = pack_tightly(lengths, L)
    assert sorted(i for row in found for i in row) == list(range(len(lengths)))

    def filled(rows):
        return sorted(sorted(lengths[i] for i in row) for row in rows)

    assert [sum(x) for x in filled(found)] == [sum(x) for x in filled(rows)]
    assert all(1 <= sum(lengths[i] for i in row) <= L for row in found)
    assert found == pack_tightly(lengths, L)


def test_tight_rows_keep_no_row_closed():
    lengths = [20] * 1000 + [12] * 1000
    assert len(pack_tightly(lengths, L)) == 1000
    with pytest.raises(ValueError, match="at most 32 tokens, got 33"):
        pack_tightly([2, 33], L)


def test_padded_rows_keep_the_order():
    order = [2, 0, 1]
    rows = pack_epoch([4, 4, 4], max_length=L, max_documents=1, order=order)
    assert rows == [[2], [0], [1]]


def test_a_document_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="at most 32 tokens, got 33"):
        pack_epoch([33], max_length=L, max_documents=8, order=[0])


def test_documents_per_row():
    assert [documents_per_row(n, "packed") for n in (2, 31, 32, 128)] == [1, 1, 2, 8]
    assert documents_per_row(128, "padded") == 1


def test_orders_are_permutations_that_differ_by_seed_and_epoch():
    orders = [tuple(epoch_order(50, s, e)) for s in (0, 1, 2**64 - 1) for e in (0, 1)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)
    # As numpy 2 drew it: another release must not change a run that is resumed.
    assert epoch_order(8, 0, 0).tolist() == [0, 2, 3, 1, 5, 6, 7, 4]
    assert epoch_order(0, 0, 0).tolist() == []
