"""What `--dry-run` says of memory, against what XLA and torch ask for."""

from dataclasses import replace

import pytest

from shared.run.command_line import parse
from shared.run.memory import MIB, count_parameters, estimate
from tests.cases import shorter

SMOKE = "--model smoke --model.vocab-size 259"
# At most so far from XLA's arguments and temporaries: the module's own words.
SHAPES = {
    "critic": "--algo critic",
    "more rows": "--algo critic --data.batch-size 16",
    "longer": "--algo baseline --data.max-length 128",
    "deeper, a wider inner layer": "--model.num-layers 4 --model.ffn-width 256",
    "blocks": "--head-type block --heads 3",
    "long rows": "--data.batch-size 1 --data.max-length 2048 "
    "--model.max-positions 2048 --model.width 128 --model.num-attention-heads 4",
    "long rows, deep, again": "--data.batch-size 1 --data.max-length 2048 "
    "--model.max-positions 2048 --model.num-layers 8 --machine.rematerialise layer",
    "rematerialised, deep": "--machine.rematerialise layer --model.num-layers 12",
    "gated": "--model.family llama --model.activation silu",
    "heads only": "--heads.only --head-type medusa --model.num-layers 8",
    "blocks only": "--heads.only --head-type block --model.num-layers 8 --heads 3",
    "many tokens": "--model.vocab-size 8192 --optimizer.name sgd",
}
NORMAL = ("heads only",)


def config(words: str):
    return parse(f"{SMOKE} {words}".split(), "train").config


@pytest.mark.parametrize("shape", shorter(SHAPES, NORMAL))
def test_the_estimate_is_near_what_xla_asks_for(shape):
    from wmtp_jax.optimizer import make_optimizer
    from wmtp_jax.report import memory_of
    from wmtp_jax.sharding import find_mesh
    from wmtp_jax.state import abstract_state
    from wmtp_jax.step import compile_step, make_train_step

    cfg = config(SHAPES[shape])
    tx = make_optimizer(cfg, 2)
    step, _ = make_train_step(cfg, tx, 2, find_mesh(cfg))
    compiled = compile_step(step, abstract_state(cfg, tx), cfg)
    found = compiled.memory_analysis()
    asked = found.argument_size_in_bytes + found.temp_size_in_bytes
    parts = estimate(cfg, "wmtp_jax")
    del parts["program (about)"]
    assert sum(parts.values()) == pytest.approx(asked, rel=0.25)
    planned = memory_of(compiled)
    assert planned["temporary"] == round(found.temp_size_in_bytes / MIB)


@pytest.mark.parametrize("words", ["", "--algo critic", "--head-type block"])
def test_the_parameters_are_those_of_both_trainers(words):
    import jax

    from wmtp_jax.init_params import init_params
    from wmtp_torch_mps.model import WMTP, group_of, named

    cfg = config(words)
    shapes = jax.eval_shape(lambda: init_params(cfg))
    counts = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in shapes.items()}
    assert count_parameters(cfg) == counts
    of_torch = dict.fromkeys(counts, 0)
    for name, parameter in named(WMTP(cfg)).items():
        of_torch[group_of(name)] += parameter.numel()
    assert of_torch == counts


def test_parts_follow_the_config():
    """Halves and doubles where they should, in both trainers."""
    cfg = config("--algo baseline")
    machine = replace(cfg.machine, first_moment="bfloat16")
    for backend in ("wmtp_jax", "wmtp_torch_mps"):
        plain = estimate(cfg, backend)
        assert plain["moments"] == 2 * plain["parameters"] == 2 * plain["gradient"]
        rows = replace(cfg, data=replace(cfg.data, batch_size=8))
        assert estimate(rows, backend)["activations"] == 2 * plain["activations"]
        sgd = replace(cfg, optimizer=replace(cfg.optimizer, name="sgd", beta1=0.0))
        assert estimate(sgd, backend)["moments"] == 0
    half = estimate(replace(cfg, machine=machine), "wmtp_jax")
    assert half["moments"] == 1.5 * half["parameters"]
