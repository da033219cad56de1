"""Which runs share a signal: what its key holds, and what it does not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from shared.config.fields import HeadsConfig
from shared.signals.columns import rewards
from shared.signals.measure import collect, passes_of
from shared.state.frozen_models import untrained_reference
from tests import oracle
from tests.signal_passes import Model, assert_right, config_of, frozen_of, split_of

SPLITS = {
    name: split_of([5, 9, 2, 30], name=name, seed=seed)
    for seed, name in enumerate(("train", "validation", "reference"))
}
DIGESTS = {"tokenizer": "t", "model": "start", "reference_model": "weights"}


def measure(folder, *, named=True, digests=DIGESTS, of=(), data=(), **changes):
    """Whether a run had to load its reference, and what it found."""
    model = Model()
    cfg = config_of(folder, **dict(data))
    cfg = replace(cfg, **{"algo": "rho1-weighted"} | changes)
    own = replace(cfg, algo="baseline", heads=HeadsConfig(count=1))
    own = replace(own, model=replace(own.model, **dict(of)))
    scored = {name: SPLITS[name] for name in ("train", "validation")}
    weights, tokenizer = digests["reference_model"], digests["tokenizer"]
    if named:
        frozen = frozen_of(own, scored, weights=weights, tokenizer=tokenizer)
    else:
        tokens = SimpleNamespace(digest=tokenizer)
        frozen = untrained_reference(cfg, tokens, SPLITS, digests["model"])
    passes = passes_of(cfg, {"reference": frozen}, {"device": "cpu", "library": "1"})
    for wanted in passes:
        wanted.read()
    model.measure(*passes)
    found = collect(cfg, passes, SPLITS)
    for name, split in scored.items():
        assert_right(found.columns["ref_nll"][name], split)
    assert model.loads <= 1  # for both splits
    return bool(model.loads)


def test_a_named_reference_is_measured_once_for_algorithms_seeds_and_batches(tmp_path):
    assert measure(tmp_path)
    files = sorted((tmp_path / "signals").iterdir())
    assert len(files) == 2
    for changes in (
        {"seed": 1},
        {"algo": "rho1-tokenskip"},
        {"algo": "critic"},  # its pseudo rewards are made of ref_nll
        {"data": {"batch_size": 5}},
        {"heads": HeadsConfig(count=2)},
        {"of": {"name": "elsewhere"}},
        {"digests": DIGESTS | {"model": "another start"}},
    ):
        assert not measure(tmp_path, **changes), changes
    assert sorted((tmp_path / "signals").iterdir()) == files


@pytest.mark.parametrize(
    "changes",
    [
        {"digests": DIGESTS | {"reference_model": "others"}},
        {"digests": DIGESTS | {"tokenizer": "another"}},
        {"data": {"max_length": 31}},
        {"data": {"layout": "padded"}},
        {"data": {"loss_on": "completion"}},
        {"of": {"num_layers": 2}},
        {"named": False},
    ],
)
def test_what_changes_the_numbers_is_measured_again(tmp_path, changes):
    measure(tmp_path)
    assert measure(tmp_path, **changes)


def test_a_reference_trained_first_is_known_by_its_training(tmp_path):
    assert measure(tmp_path, named=False)
    assert not measure(tmp_path, named=False, algo="critic")
    assert measure(tmp_path, named=False, seed=1)
    assert measure(tmp_path, named=False, data={"batch_size": 1})


def test_nothing_random_is_in_a_batch_of_a_pass(tmp_path):
    model = Model()
    model.run(tmp_path, SPLITS["train"])
    for batch in model.batches:
        assert not batch.noise_BL.any() and not batch.signals
        L = batch.tokens_BL.shape[1]
        np.testing.assert_array_equal(
            batch.permutation_BL, np.broadcast_to(np.arange(L), batch.tokens_BL.shape)
        )


@pytest.mark.parametrize("named", [False, True])
def test_documents_without_targets_are_in_no_moment_of_the_rewards(named):
    """Their prompt fills the row: they have no pseudo reward, and weigh nothing."""
    splits = {name: split_of([9] * 6, name=name) for name in ("train", "validation")}
    for split in splits.values():
        for document in split.documents[::2]:
            document.target[:] = False
    raw = np.array([9.0, 1.0, 9.0, 3.0, 9.0, 5.0], np.float32)
    nll = tuple(
        -x * d.target for x, d in zip(raw, splits["train"].documents, strict=True)
    )
    if named:
        found = {"reward_score": dict.fromkeys(splits, tuple(raw[:, None]))}
    else:
        found = {"ref_nll": dict.fromkeys(splits, nll)}
    white, said = rewards(found, splits, {"reward model": "a model"})
    right = oracle.whiten([1.0, 3.0, 5.0], *oracle.reward_moments([1.0, 3.0, 5.0]))
    for values in white.values():
        flat = np.concatenate(values)
        np.testing.assert_allclose(flat[1::2], right, atol=1e-6)
        assert not flat[::2].any() and flat.dtype == np.float32
    assert "mean 3.000, deviation 1.633" in said
