"""Noise of the controls, resumable training batches, evaluation buckets."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.batches import (
    TrainBatches,
    control_noise,
    eval_batches,
    unigram_entropy,
)
from shared.data.documents import Document, Split
from tests import oracle

L = 32
INTEGERS = ("tokens_BL", "document_BL", "positions_BL", "permutation_BL")
FLOATS = ("noise_BL",)
ARRAYS = ("target_BL", *INTEGERS, *FLOATS)


def make_split(lengths, seed=0, prompt=3):
    """Documents of random tokens >= 1, with every token after the prompt a target.

    The first two say which document it is.
    """
    rng = np.random.default_rng(seed)
    documents = tuple(
        Document(
            id=f"task/{i}",
            tokens=np.array(
                [1 + i // 199, 1 + i % 199, *rng.integers(1, 200, n - 2)]
            ).astype(np.int32),
            target=np.arange(n) >= min(prompt, n - 1),
        )
        for i, n in enumerate(lengths)
    )
    return Split("train", documents, 0, "digest")


def make_columns(split, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "ref_nll": [
            (d.target * (0.1 + rng.random(len(d.tokens)))).astype(np.float32)
            for d in split.documents
        ],
        "reward": rng.normal(size=(len(split.documents), 1)).astype(np.float32),
    }


def make_batches(split, columns=None, **settings):
    defaults = {
        "max_length": L,
        "batch_size": 2,
        "accumulation": 2,
        "layout": "packed",
        "seed": 5,
    }
    return TrainBatches(split, columns or make_columns(split), **defaults | settings)


LENGTHS = [5, 32, 2, 17, 9, 9, 30, 3, 3, 12, 21, 8, 31, 2, 2, 26, 7, 14, 4, 11]
SPLIT = make_split(LENGTHS)


lengths_lists = st.lists(st.integers(2, L), min_size=0, max_size=200)


# Noise of the controls


def test_noise_depends_on_seed_and_id_alone():
    first, second = SPLIT.documents[3], SPLIT.documents[10]
    noise_T, permutation_T = control_noise(first, 0)
    for same, x in enumerate((noise_T, permutation_T)):
        np.testing.assert_array_equal(control_noise(first, 0)[same], x)
    assert noise_T.dtype == np.float32 and permutation_T.dtype == np.int32
    assert not np.array_equal(noise_T, control_noise(first, 1)[0])
    assert not np.array_equal(permutation_T, control_noise(first, 1)[1])
    assert not np.array_equal(noise_T, control_noise(second, 0)[0][: len(noise_T)])


def test_permutation_stays_within_the_targets():
    for document in SPLIT.documents:
        _, permutation_T = control_noise(document, 3)
        rest = np.flatnonzero(~document.target)
        targets = np.flatnonzero(document.target)
        np.testing.assert_array_equal(permutation_T[rest], rest)
        assert sorted(permutation_T[targets]) == targets.tolist()


def test_noise_is_standard_normal_and_permutations_are_uniform():
    noise, places = [], Counter()
    for i in range(2000):
        document = Document(str(i), np.ones(8, np.int32), np.arange(8) >= 4)
        noise_T, permutation_T = control_noise(document, 0)
        noise.append(noise_T)
        places[int(permutation_T[4])] += 1
    # Five standard errors of 16 000 numbers and of 2000 draws from 4.
    assert abs(np.mean(noise)) < 0.04 and abs(np.std(noise) - 1) < 0.03
    assert set(places) == {4, 5, 6, 7}
    assert all(abs(count - 500) < 100 for count in places.values())


def test_noise_is_pinned():
    # As numpy 2 drew it: two streams of one key, the same on every machine.
    document = Document("task/0", np.ones(8, np.int32), np.arange(8) >= 2)
    noise_T, permutation_T = control_noise(document, 0)
    np.testing.assert_allclose(noise_T[:3], [2.542984, -1.012235, 0.342756], rtol=1e-5)
    assert permutation_T.tolist() == [0, 1, 4, 6, 7, 5, 2, 3]


# Training batches


def documents_of(batch, split, columns, seed):
    """Indices of the documents in the rows, each checked against its sources."""
    by_tokens = {d.tokens.tobytes(): i for i, d in enumerate(split.documents)}
    arrays = {
        n: x.reshape(-1, batch.tokens_BL.shape[-1])
        for n, x in (vars(batch) | batch.signals).items()
        if n in ARRAYS or n in columns
    }
    found = []
    for b, numbers in enumerate(arrays["document_BL"]):
        row = {name: array[b] for name, array in arrays.items()}
        count = int(numbers.max())
        assert count <= batch.num_documents
        used = int((numbers > 0).sum())
        assert numbers[:used].tolist() == sorted(numbers[:used].tolist())
        padding = slice(used, None)
        for name in set(ARRAYS) - {"permutation_BL"}:
            assert not row[name][padding].any(), name
        columns_L = np.arange(len(numbers))
        np.testing.assert_array_equal(
            row["permutation_BL"][padding], columns_L[padding]
        )
        for number in range(1, count + 1):
            here = numbers == number
            index = by_tokens[row["tokens_BL"][here].tobytes()]
            document = split.documents[index]
            noise_T, permutation_T = control_noise(document, seed)
            start = int(np.argmax(here))
            expected = {
                "positions_BL": np.arange(here.sum()),
                "target_BL": document.target,
                "ref_nll": columns["ref_nll"][index],
                "reward": np.full(here.sum(), columns["reward"][index]),
                "noise_BL": noise_T,
                "permutation_BL": start + permutation_T,
            }
            for name, values in expected.items():
                np.testing.assert_array_equal(row[name][here], values, name)
            found.append(index)
    return found


@pytest.mark.parametrize("layout, most", [("packed", 2), ("padded", 1)])
def test_each_epoch_holds_each_document_once(layout, most):
    columns = make_columns(SPLIT)
    batches = make_batches(SPLIT, columns, layout=layout)
    for epoch in range(3):
        found = []
        for _ in range(batches.steps_per_epoch(epoch)):
            batch = next(batches)
            assert batch.num_documents == most
            found += documents_of(batch, SPLIT, columns, seed=5)
        assert sorted(found) == list(range(len(LENGTHS)))
    assert batches.state() == {"epoch": 3, "step": 0}


def test_shapes_and_dtypes():
    batch = next(make_batches(SPLIT, batch_size=3, accumulation=2))
    dtypes = {name: getattr(batch, name).dtype for name in ARRAYS}
    assert {getattr(batch, name).shape for name in ARRAYS} == {(2, 3, L)}
    assert {dtypes[name] for name in INTEGERS} == {np.dtype(np.int32)}
    assert {dtypes[name] for name in FLOATS} == {np.dtype(np.float32)}
    assert dtypes["target_BL"] == np.bool_


def stream(batches, n):
    return [[getattr(batch, name) for name in ARRAYS] for batch in islice(batches, n)]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_one_times_eight_holds_the_rows_of_eight_times_one():
    def rows(batch_size, accumulation):
        batches = make_batches(SPLIT, batch_size=batch_size, accumulation=accumulation)
        return [
            [array.reshape(8, L) for array in arrays] for arrays in stream(batches, 6)
        ]

    assert_same(rows(1, 8), rows(8, 1))
    assert_same(rows(2, 4), rows(8, 1))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_restored_from_every_position_the_stream_goes_on_equally(layout):
    batches = make_batches(SPLIT, layout=layout)
    total = batches.steps_per_epoch(0) + batches.steps_per_epoch(1)
    states, whole = [], []
    for _ in range(total):
        states.append(json.dumps(batches.state()))
        whole += stream(batches, 1)
    assert len(set(states)) == total > 4
    for start, state in enumerate(states):
        resumed = make_batches(SPLIT, layout=layout)
        resumed.restore(json.loads(state))
        assert json.dumps(resumed.state()) == state
        assert_same(stream(resumed, total - start), whole[start:])
    batches.restore(json.loads(states[0]))  # back in time, too
    assert_same(stream(batches, total), whole)


@pytest.mark.parametrize(
    "state",
    [{}, {"epoch": 0}, {"epoch": -1, "step": 0}, {"epoch": 0, "step": 10**6}],
)
def test_restore_of_no_position(state):
    batches = make_batches(SPLIT)
    with pytest.raises(ValueError, match="a position in the data must be"):
        batches.restore(state)
    assert batches.state() == {"epoch": 0, "step": 0}


def test_epochs_and_seeds_differ_in_their_order():
    firsts = {
        next(make_batches(SPLIT, seed=seed)).tokens_BL.tobytes() for seed in range(4)
    }
    assert len(firsts) == 4
    batches = make_batches(SPLIT)
    assert batches.epoch_rows(0) != batches.epoch_rows(1)


def test_without_columns_a_batch_has_no_signals():
    batches = TrainBatches(
        SPLIT, {}, max_length=L, batch_size=2, accumulation=1, layout="packed", seed=5
    )
    batch = next(batches)
    assert batch.signals == {} and batch.noise_BL.any()
    assert batch.changed(lambda x: x[0]).signals == {}


# Evaluation


@given(lengths_lists, st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_evaluation_holds_each_document_once_in_its_bucket(lengths, batch_size):
    split = make_split(lengths)
    columns = make_columns(split)
    batches = eval_batches(split, columns, max_length=L, batch_size=batch_size, seed=5)
    widths = [batch.tokens_BL.shape[1] for batch in batches]
    assert widths == sorted(widths)
    found = []
    for batch in batches:
        width = batch.tokens_BL.shape[1]
        assert batch.tokens_BL.shape == (batch_size, width) and width in (8, 16, 32)
        here = documents_of(batch, split, columns, seed=5)
        assert batch.num_documents == 1 and len(here) > 0
        filled_B = batch.document_BL.max(axis=1)
        assert filled_B.tolist() == [1] * len(here) + [0] * (batch_size - len(here))
        for index in here:
            assert width == min(w for w in (8, 16, 32) if w >= lengths[index])
        found += here
    assert sorted(found) == list(range(len(lengths)))
    assert found == sorted(found, key=lambda i: (lengths[i] > 8, lengths[i] > 16, i))


@pytest.mark.parametrize("max_length, widths", [(2, [2]), (5, [2, 3, 5]), (3, [2, 3])])
def test_bucket_widths_of_short_rows(max_length, widths):
    split = make_split(range(2, max_length + 1))
    batches = eval_batches(split, {}, max_length=max_length, batch_size=1, seed=0)
    assert sorted({batch.tokens_BL.shape[1] for batch in batches}) == widths


def test_unigram_entropy():
    tokens = [d.tokens[d.target].tolist() for d in SPLIT.documents]
    flat = [t for document in tokens for t in document]
    expected = oracle.unigram_entropy(flat)
    assert unigram_entropy(SPLIT, 259) == pytest.approx(expected, rel=1e-12)
    one = Document("0", np.array([3, 7, 7], np.int32), np.array([False, True, True]))
    assert unigram_entropy(Split("x", (one,), 0, ""), 259) == 0.0
    none = Document("0", np.array([3, 7], np.int32), np.zeros(2, bool))
    assert unigram_entropy(Split("x", (none,), 0, ""), 259) == 0.0
