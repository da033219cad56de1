"""The run a newcomer starts first learns something, and so does its critic."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_default_critic_run_learns(tmp_path):
    command = [sys.executable, "-m", "wmtp_jax.train", "--algo", "critic"]
    command += ["--tracking", "jsonl", "--run-name", "default"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "default" / "summary.json").read_text())
    after = summary["eval_after"]
    assert summary["steps"] >= 30 and summary["train_step_traces"] == 1
    assert after["eval_nll_head_0"] < summary["validation_unigram_entropy"]
    assert after["eval_explained_variance"] > 0
    assert summary["value_head_stage1"]["explained_variance"] > 0
    for place in ("run folder:", "unigram entropy"):
        assert place in done.stdout
