"""A small model as lm-evaluation-harness asks it; `base, ours = ...` in a test file."""

import pytest
import torch

from tests.started import folder_of
from wmtp_jax.harness_model import WMTP


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a random model that reads 2048 tokens, three shots among them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm_eval") / "base"
    return str(folder_of("gpt2", folder, vocab_size=259, n_positions=2048))


@pytest.fixture(scope="module")
def ours(base):
    return WMTP(base, rows=4, drafter="none")  # fewer programs to compile
