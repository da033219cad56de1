"""Every benchmark runs to its table at a tiny size; times are not looked at."""

import itertools
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import (
    bandwidth,
    decode,
    decoders,
    floor,
    hardware,
    head_memory,
    long_rows,
    memory,
    peers,
    programs,
    scaling,
    signals,
    skipping,
    step_time,
    timing,
    weighting_overhead,
    workload,
)
from tests import served_model
from tests.cases import shorter

SMALL = ["--shape", "tiny", "--batch", "2", "--length", "32", "--rounds", "1"]


@pytest.fixture(autouse=True)
def narrow_shapes(monkeypatch):
    """As many tokens as ever, and as little of all else as can be."""
    tiny = ["--model", "smoke", "--model.num-layers", "1", "--model.width", "16"]
    narrow = ["--model.width", "32", "--model.num-attention-heads", "2"]
    shapes = workload.SHAPES | {
        "tiny": [*tiny, "--model.max-positions", "512"],
        "distilgpt2": [*workload.SHAPES["distilgpt2"], *narrow],
    }
    monkeypatch.setattr(workload, "SHAPES", shapes)


@pytest.fixture(autouse=True)
def memory_as_it_was(monkeypatch):
    """A benchmark changes how its own process allocates; not this one."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")


def table(monkeypatch, tmp_path, module, *options):
    """Rows of the table that a benchmark writes."""
    path = tmp_path / "rows.json"
    argv = ["benchmark", *SMALL, *options, "--json", str(path)]
    monkeypatch.setattr(sys, "argv", argv)
    module.main()
    return json.loads(path.read_text())


@pytest.mark.slow
def test_step_time(monkeypatch, tmp_path, capsys):
    asked = ("--memory", "--variants", "ours", "ours-torch", "torch-naive")
    rows = table(monkeypatch, tmp_path, step_time, *asked)
    assert [row["step"] for row in rows] == list(asked[2:])
    assert all(row["tokens/s"] > 0 and row["padding"] == "0.0%" for row in rows)
    assert all(row["peak GiB"] > 0.1 and row["times ours"] > 0 for row in rows)
    assert all(row["processor"] == hardware.processor() for row in rows)
    shown = capsys.readouterr().out
    best = " is [0-9.]+ times torch-naive"
    assert re.search(f"in float32: ours(-torch)?{best}", shown)
    assert re.search("products by numpy in float32: [0-9]+ GFLOP/s", shown)
    assert hardware.processor() in shown


@pytest.mark.parametrize("name", ["torch-naive-bf16", "hf-trainer", "hf-trainer-bf16"])
def test_torchs_peers_start_alike(name):
    """The loss of a random model is that of guessing, whoever computes it."""
    if name.startswith("hf"):
        pytest.importorskip("accelerate", reason="extra `bench` is not installed")
    given = [*SMALL, "--heads", "3"]
    cfg = workload.config(workload.parser("x").parse_args(given))
    step = step_time.VARIANTS[name].make(cfg, [workload.dense_batch(cfg)])
    losses = [step().loss for _ in range(3)]
    assert losses[0] == pytest.approx(np.log(cfg.model.vocab_size), rel=0.05)
    assert losses[2] < losses[0]


def test_the_processor_is_named(monkeypatch, tmp_path):
    """On Linux of both kinds, from files as they are; on a Mac from sysctl."""
    for text, name in (
        ("model name\t: Xeon\ncpu family\t: 6\nmodel\t\t: 207\nflags\t\t: avx2 "
         "avx512f amx_bf16\n", "Xeon, family 6 model 207 (N: AVX2, AVX-512, AMX BF16)"),
        ("Features\t: fp asimd sve bf16\n", "arm64 (N: NEON, SVE, BF16)"),
    ):  # fmt: skip
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
        monkeypatch.setattr(hardware.sys, "platform", "linux")
        cores = f"{os.cpu_count()} cores"
        assert hardware.processor() == name.replace("N", cores, 1)
    said = "machdep.cpu.brand_string: Apple M3\nhw.optional.arm.FEAT_BF16: 1\n"
    ran = subprocess.CompletedProcess([], 0, stdout=said)
    monkeypatch.setattr(hardware.subprocess, "run", lambda *_, **__: ran)
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    assert hardware.processor() == f"Apple M3 ({cores}: BF16)"


@pytest.mark.slow
def test_step_time_of_a_data_set(monkeypatch, tmp_path):
    """Ours packs; peers pad, JAX's to L and torch's to the longest of the batch."""
    options = ("--data", "minis", "--length", "512")
    options += ("--variants", "ours", "jax-naive", "torch-naive")
    rows = table(monkeypatch, tmp_path, step_time, *options)
    shares = [float(row["padding"].rstrip("%")) for row in rows]
    assert 0 < shares[0] < shares[1] and 0 < shares[2] < shares[1]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["synthetic", "minis"])
def test_peers_do_the_same_work(data):
    """From the same weights their first losses are ours; torch's are random alike."""
    given = [*SMALL, "--length", "256", "--heads", "3", "--data", data]
    asked = workload.parser("x").parse_args(given)
    cfg = workload.config(asked)
    batches = workload.batches_of(asked, cfg, "padded")
    ours = peers.ours(cfg, batches)()
    assert ours.tokens == peers.tokens_of(batches[0])
    naive = peers.jax_naive(cfg, batches)()
    assert naive.tokens == ours.tokens
    assert naive.loss == pytest.approx(ours.loss, rel=1e-5)
    for name in ("ours-torch", "torch-naive"):
        torch = step_time.VARIANTS[name].make(cfg, batches)()
        assert torch.tokens == ours.tokens
        assert torch.loss == pytest.approx(ours.loss, rel=0.05)


@pytest.mark.slow
def test_jax_cce_does_the_same_work():
    pytest.importorskip("jax_cce", reason="extra `bench` is not installed")
    asked = workload.parser("x").parse_args([*SMALL, "--heads", "3"])
    cfg = workload.config(asked)
    batches = [workload.dense_batch(cfg)]
    found = [made(cfg, batches)() for made in (peers.ours, peers.jax_cce)]
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-5)
    with pytest.raises(SystemExit, match="no mask"):
        document_BL = np.zeros_like(batches[0].document_BL)
        peers.jax_cce(cfg, [replace(batches[0], document_BL=document_BL)])


@pytest.mark.slow
def test_skipping(monkeypatch, tmp_path):
    """What decides whether an update is made costs no pass over the parameters."""
    always, chosen = table(monkeypatch, tmp_path, skipping)
    assert chosen["GB"] <= 1.01 * always["GB"]
    assert chosen["temporary MiB"] <= 1.05 * always["temporary MiB"]


@pytest.mark.slow
def test_weighting_overhead(monkeypatch, tmp_path):
    rows = table(monkeypatch, tmp_path, weighting_overhead)
    assert [row["algorithm"] for row in rows] == list(workload.ALGOS)
    by_flops = {row["algorithm"]: row["by FLOPs"] for row in rows}
    assert by_flops["rho1-tokenskip"] < by_flops["baseline"] == 1


@pytest.mark.slow
def test_head_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(
        head_memory,
        "WAYS",
        {name: head_memory.WAYS[name] for name in ("ours", "logits kept")},
    )
    rows = table(
        monkeypatch, tmp_path, head_memory, "--seconds", "--shape", "distilgpt2"
    )
    held = {row["loss and gradient"]: row["temporary MiB"] for row in rows}
    assert held["linear heads, ours"] < held["linear heads, logits kept"]


@pytest.mark.skipif(sys.platform != "linux", reason="sizes are read from /proc")
@pytest.mark.parametrize("trainer", shorter(memory.TRAINERS, ["wmtp_torch_mps"]))
def test_memory(monkeypatch, capsys, trainer):
    """What the process that is watched says of itself."""
    given = ["--trainer", trainer, "--steps", "2", "--inside"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *SMALL[:-2], *given])
    memory.main()
    lines = capsys.readouterr().out.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    marks = [row["mark"] for row in told if "mark" in row]
    sizes = {row["part"]: row["bytes"] for row in told if "part" in row}
    assert [mark.split(",")[0] for mark in marks[-2:]] == ["step 1", "step 2"]
    assert sizes["parameters"] * 2 <= sizes["moments"] < sizes["parameters"] * 2 + 99


@pytest.mark.skipif(sys.platform != "linux", reason="sizes are read from /proc")
def test_memory_is_told_from_mark_to_mark():
    """A process that holds 64 MiB, then nothing of them."""
    script = "import time; x = b'x' * 2**26; print('full'); time.sleep(0.3); del x; "
    script += "time.sleep(0.3); print('empty'); time.sleep(0.3)"
    rows = memory.timeline(*memory.watch([sys.executable, "-c", script]))
    full, empty = rows[-2:]
    assert (full["until"], empty["until"]) == ("full", "empty")
    assert empty["peak GiB"] - empty["then GiB"] == pytest.approx(2**-4, abs=0.02)


@pytest.mark.slow
def test_scaling(monkeypatch, tmp_path):
    plot = tmp_path / "growth.png"
    rows = table(monkeypatch, tmp_path, scaling, "--plot", str(plot))
    assert [row["axis"] for row in rows] == [
        axis for axis in scaling.POINTS for _ in "123"
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sizes are read from /proc")
@pytest.mark.parametrize("trainer", long_rows.WHOLE)
def test_long_rows(monkeypatch, tmp_path, trainer):
    asked = ("--trainer", trainer, "--lengths", "128", "--tokens", "256")
    rows = table(monkeypatch, tmp_path, long_rows, *asked, "--document", "40")
    names = ["whole", "whole, again", "blocks", "blocks, again"]
    assert [row["variant"] for row in rows] == names
    assert {(row["L"], row["rows"]) for row in rows} == {(128, 2)}
    assert rows[0]["over the first"] == 1 and all(row["s"] > 0 for row in rows)


def test_collectives_are_found_in_the_loops_they_stand_in():
    """In a loop in a loop, in what that calls, and outside of both."""
    text = """HloModule made

%inner (a: f32[2]) -> f32[2] {
  %x = f32[2,8]{1,0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
}

%outer (b: f32[2]) -> f32[2] {
  %y = (bf16[4]{0}, f32[4]{0}) all-gather(%b), replica_groups=[1,2]<=[2], dimensions={0}
  %w = f32[2]{0} while(%b), condition=%c, body=%inner
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %v = f32[2]{0} while(%p), condition=%c, body=%outer
  %z = f32[3]{0} reduce-scatter(%v), replica_groups={{0,1}}, to_apply=%add
}
"""  # fmt: skip
    found = [tuple(x)[:4] for x in programs.exchanges(text)]
    assert found == [
        ("all-gather", 24, ("outer",), "[1,2]<=[2]"),
        ("all-reduce", 64, ("outer", "inner"), "{{0,1}}"),
        ("reduce-scatter", 12, (), "{{0,1}}"),
    ]


def test_signals(monkeypatch, tmp_path):
    options = ("--heads", "1", "--documents", "6", "--length", "64")
    rows = table(monkeypatch, tmp_path, signals, *options)
    assert all(float(row["largest difference"]) < 1e-4 for row in rows)


@pytest.mark.slow
def test_decode(monkeypatch, tmp_path, capsys):
    """All sides write the same texts; one of them again, alone."""
    folder, path = served_model.folder(tmp_path / "model"), tmp_path / "rows.json"
    names = ("add", "a", "subtract", "xor")
    rows = [
        {"prompt": f"def {name}(x, y):\n", "completion": "    pass"} for name in names
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "--model",
        folder,
        "--data",
        str(data),
        "--batch",
        "1",
        "2",
        "--tokens",
        "20",
    ]
    options += ["--prompts", "1", "--rounds", "1", "--drafters", "ngram"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *options, "--json", str(path)])
    monkeypatch.setattr(bandwidth, "SIZE", 2**20)
    monkeypatch.setattr(decode, "AIMS", {1: 2.5, 2: 1.5})
    decode.main()
    rows = json.loads(path.read_text())
    sides = [("ours", 1), ("transformers", 1), ("ours", 2), ("transformers", 2)]
    assert [(row["side"], row["batch"]) for row in rows] == [*sides, ("ngram", 1)]
    for row in rows:
        same, of = row["same text"].split("/")
        assert same == of != "0" and row["tokens/s"] > 0
        assert (row["times transformers"] == 1) or row["side"] != "transformers"
    shown = capsys.readouterr().out
    for said in (
        "batch 2: [0-9.]+ times",
        "pass of 4 over 1: ",
        "best drafter: ngram, ",
    ):
        assert re.search(said, shown), said
    monkeypatch.setattr(
        sys, "argv", ["benchmark", *options, "--alone", "transformers", "1"]
    )
    decode.main()
    assert int(capsys.readouterr().out) > 2**27


def test_llama_cpp_writes_as_it_is_asked_to(monkeypatch):
    """Its package is not here: one that counts upwards stands in for it."""

    class Llama:
        def __init__(self, **options):
            assert options["model_path"] == "x.gguf"

        def reset(self):
            pass

        def generate(self, tokens, temp, **options):
            return itertools.count(tokens[-1] + 1) if temp == 0 else None

    monkeypatch.setitem(sys.modules, "llama_cpp", types.SimpleNamespace(Llama=Llama))
    write = decoders.llama_cpp("x.gguf", 3)
    assert write([[1, 2], [7]]) == [[3, 4, 5], [8, 9, 10]]


def test_bytes_of_a_step():
    """A tied embedding is read once, as unembedding; places count twice."""
    params = {"embed": np.zeros((9, 4), "f4"), "norm": {"scale": np.zeros(4, "f4")}}
    params |= {"unembed": params["embed"], "layers": ({"up": np.zeros((8, 4), "f4")},)}
    cfg = types.SimpleNamespace(num_layers=1, kv_heads=2, H=2)
    model = types.SimpleNamespace(params=params, cfg=cfg, dtype="float32")
    assert bandwidth.step_bytes(model, 0) == 4 * (36 + 4 + 32)
    assert bandwidth.step_bytes(model, 10) == 4 * (72 + 2 * 4 * 10)


def test_times_are_taken_in_turns():
    calls = []
    counted = {}
    variants = {
        "a": lambda: calls.append("a") or 2,
        "b": lambda: calls.append("b") or 4,
    }
    times = timing.take_turns(variants, rounds=2, counted=counted)
    assert calls == ["a", "b"] * 3  # one round warms up
    assert counted == {"a": [2, 2], "b": [4, 4]}
    assert timing.ratio({"a": [1, 2, 9], "b": [2, 2, 3]}, "a", "b") == 1
    assert timing.rates({"a": [2.0]}, {"a": [6]}) == {"a": [3.0]}
    assert len(times["a"]) == 2


def test_the_floor_is_taken_round_by_round():
    """Products of 10 FLOPs took 1 and 2 s: 20 FLOPs need 2 and 4 s, and took 4."""
    share = floor.share_of_floor([4.0, 4.0], [20, 20], [1.0, 2.0], [10, 10])
    assert share == 0.75
