"""Parts of a model in files: equal to the whole, and no more is read than is asked."""

import numpy as np
import pytest

from shared.config.fields import HeadsConfig
from shared.huggingface import safetensors
from shared.huggingface.folder import open_model_tree, read_model, write_model
from shared.huggingface.leaves import each
from tests.cases import shorter
from tests.trees import SHAPES, random_params, small, tokenizer  # noqa: F401


def opened(folder, shape, head_type, tokenizer):  # noqa: F811
    cfg, heads = small(shape), HeadsConfig(count=3, type=head_type)
    params = random_params(cfg, heads, value=True)
    write_model(folder, params, cfg, heads, tokenizer)
    return cfg, open_model_tree(folder, cfg)


def leaves(tree, path=""):
    for name, x in tree.items():
        if isinstance(x, dict):
            yield from leaves(x, f"{path}{name}/")
        else:
            yield path + name, x


CASES = [(shape, "block") for shape in SHAPES] + [
    ("gpt2", head_type) for head_type in ("linear", "residual", "medusa")
]


@pytest.mark.parametrize("case", shorter(CASES, [CASES[0], CASES[2], CASES[-1]]))
def test_parts_are_those_of_the_whole(case, tmp_path, tokenizer):  # noqa: F811
    cfg, tree = opened(tmp_path / "out", *case, tokenizer)
    whole = dict(leaves(read_model(tmp_path / "out", cfg)))
    rng = np.random.default_rng(0)
    assert whole.keys() == dict(leaves(tree)).keys()
    for path, leaf in leaves(tree):
        assert leaf.shape == whole[path].shape
        np.testing.assert_array_equal(leaf.read(), whole[path])
        for _ in range(4):
            ends = [sorted(rng.integers(0, n + 1, 2)) for n in leaf.shape]
            index = tuple(slice(int(a), int(b)) for a, b in ends)
            part = leaf.read(index)
            assert part.dtype == np.float32
            np.testing.assert_array_equal(part, whole[path][index], path)


def test_no_more_is_read_than_is_asked_for(tmp_path, tokenizer, monkeypatch):  # noqa: F811
    _, tree = opened(tmp_path / "out", "llama", "linear", tokenizer)
    read = []
    given = safetensors._float32
    monkeypatch.setattr(
        safetensors, "_float32", lambda x: read.append(x.size) or given(x)
    )
    blocks = tree["trunk"]["blocks"]
    assert blocks["up"]["kernel"].read((slice(1, 2), slice(4, 8))).shape == (1, 4, 24)
    assert read == [4 * 24]  # of one layer alone
    read.clear()
    # Queries, keys and values of a layer are three tensors of 24, 12 and 12 columns.
    part = blocks["attention"]["qkv"]["kernel"].read(
        (slice(0, 1), slice(2, 4), slice(20, 30))
    )
    assert part.shape == (1, 2, 10) and read == [2 * 4, 2 * 6]


def test_fewer_heads_than_a_folder_has_are_the_first(tmp_path, tokenizer):  # noqa: F811
    cfg, tree = opened(tmp_path / "out", "gpt2", "linear", tokenizer)
    one = each(lambda leaf: leaf.first(1), tree["heads"])["unembed"]
    whole = read_model(tmp_path / "out", cfg)["heads"]["unembed"]
    np.testing.assert_array_equal(one.read(), whole[:1])
