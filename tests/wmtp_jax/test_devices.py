"""Many devices are one: in what they compute, keep, save and read.

Simulated devices of one process. `machine.fsdp` and `machine.tensor` share out
parameters and vocabulary, `data` has the rest.
"""

import json

import pytest

from shared.algorithms import ALGORITHMS
from shared.config.fields import Config, DataConfig, HeadsConfig, MachineConfig
from shared.huggingface.folder import write_model
from tests.four_devices import said_on
from tests.shared_out import factorisations
from tests.trees import random_params, small, tokenizer  # noqa: F401
from wmtp_jax import layout, sharding

TOLERANCE = 1e-5  # of numbers relative to 1 + theirs; seen: 2e-6
# What a step exchanges, and what is saved by one mesh and read by others.
MANY = """
import json, sys, tempfile
from pathlib import Path
import jax, numpy as np
from benchmarks.programs import exchanges
from shared.huggingface.leaves import Leaf
from tests import shared_out
from wmtp_jax import checkpoint, init_params, layout, row_blocks
from wmtp_jax.state import abstract_state
from shared.config.layers import build
from shared.huggingface.config_json import read_hf_config

row_blocks.LARGEST_BLOCK = 16  # several blocks: the loop is there, and taken
cfg = shared_out.config("baseline")
one, many = (shared_out.Run(cfg, x) for x in ((1, 1, 1), (2, 2, 2)))
found = {}
right, got = ((x.train(), x.arrays()) for x in (one, many))
found["difference"] = shared_out.between(got, right)
text = many.step.as_text()
told = exchanges(text)
found["exchanges"] = [x._asdict() for x in told]
sizes = [x.step.memory_analysis().argument_size_in_bytes for x in (one, many)]
found["kept"] = sizes[1] / sizes[0]

def flat(state):
    tree = (state.params, state.opt_state, jax.random.key_data(state.key))
    return [np.asarray(x) for x in jax.tree.leaves(tree)]

saved, like = flat(many.state), jax.eval_shape(lambda: many.state)
with tempfile.TemporaryDirectory() as folder:
    run, place = Path(folder), {"best_nll": None, "best_step": 0}
    checkpoint.save(run, 2, many.state, place, cfg.train)
    found["restored"] = []
    for sizes in ((1, 1, 1), (1, 4, 2)):
        mesh = shared_out.mesh_of(sizes)
        _, state, _ = checkpoint.restore(run, like, 2, mesh)
        lies = layout.kept(mesh, state)
        same = jax.tree.map(
            lambda x, at: x.sharding.is_equivalent_to(at, x.ndim), state, lies
        )
        pairs = zip(flat(state), saved, strict=True)
        bits = all(a.tobytes() == b.tobytes() for a, b in pairs)
        found["restored"].append(bits and all(jax.tree.leaves(same)))

folder = sys.argv[1]
layer = read_hf_config(Path(folder)).layer | {"model.name": folder}
layer |= {"data.max_length": 16, "heads.count": 3, "heads.type": "linear"}
layer |= {"model.max_positions": 32}
cfg, read = build(layer), []
given = Leaf.read

def told_read(leaf, index=()):
    part = given(leaf, index)
    read.append((leaf.pieces[0].path, part.size / np.prod(leaf.shape), len(leaf.shape)))
    return part

Leaf.read = told_read
whole = init_params.load_params(cfg)
read.clear()
params = init_params.load_params(cfg, shared_out.mesh_of((2, 2, 2)))
found["read"] = read
found["loaded"] = all(
    np.array_equal(a, b) and len(a.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True)
)
from benchmarks import plan
plan.MODELS["tiny"] = [
    *plan.LLAMA_2, "--model.num-layers", "3", "--model.width", "64",
    "--model.num-attention-heads", "4", "--model.num-kv-heads", "2",
    "--model.ffn-width", "192", "--model.vocab-size", "512",
]
cfg = plan.config("tiny:2x2x2", "float32", 256)
shares = plan.Shares(2, 2, 2, 4)
found["plan"] = plan.by_formula(cfg, shares), plan.by_xla(cfg, shares)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory, tokenizer):  # noqa: F811
    """What eight devices say, in 2 x 2 x 2."""
    folder = tmp_path_factory.mktemp("many") / "model"
    cfg, heads = small("llama"), HeadsConfig(count=3)
    write_model(folder, random_params(cfg, heads), cfg, heads, tokenizer)
    return json.loads(said_on(8, MANY, str(folder)))


def test_eight_devices_are_one(many):
    """Metrics, parameters and moments, after two steps."""
    assert many["difference"] < TOLERANCE


def test_a_device_keeps_its_piece_of_parameters_and_moments(many):
    """A quarter in 2 x 2 pieces, beside vectors and its rows of the batch."""
    assert 0.25 < many["kept"] < 0.35


TENSOR_ONLY = ("{{0,1},{2,3},{4,5},{6,7}}", "[4,2]<=[8]")


def test_in_the_loop_of_the_head_pass_only_tensor_exchanges(many):
    """A few numbers of each row of a block; all else stands outside of it."""
    of_pass = [x for x in many["exchanges"] if "shard_map" in x["of"]]
    loops = {tuple(x["loops"]) for x in of_pass}
    inner = {x for x in loops if x and not any(x == y[: len(x)] != y for y in loops)}
    inside = [x for x in of_pass if tuple(x["loops"]) in inner]
    # Head 0's blocks, and those of the others, head by head.
    assert {len(x["loops"]) for x in inside} == {1, 2}
    assert {x["kind"] for x in inside} == {"all-reduce"}
    assert {x["groups"] for x in inside} <= set(TENSOR_ONLY)
    assert max(x["size"] for x in inside) == 2 * 4 * 16  # two sums of 16 rows
    # Before and after it: W over fsdp, its gradient back, the states' over tensor.
    outside = [x for x in of_pass if tuple(x["loops"]) not in inner]
    kinds = {x["kind"] for x in outside}
    assert {"all-gather", "reduce-scatter", "all-reduce"} <= kinds


def test_no_exchange_is_larger_than_it_must_be(many):
    """The gradient of one layer, or the states of a device's rows under all heads."""
    D, rows, V = 16, 8 // 4 * 16, 31
    layer = 4 * (12 * D * D + 13 * D)
    largest = max(many["exchanges"], key=lambda x: x["size"])
    assert largest["size"] < max(layer, 4 * 3 * rows * D), largest
    # Nor are there ever logits, or unembeddings of all heads, in one.
    assert largest["size"] < min(4 * rows * V * 3, 4 * 3 * V * D * 3)


def test_what_one_mesh_saves_others_read_bit_by_bit(many):
    assert many["restored"] == [True] * 2


def test_no_device_reads_more_than_its_piece(many):
    assert many["loaded"]
    shares = {path: share for path, share, ndim in many["read"] if ndim > 1}
    assert len(shares) > 6 and max(shares["trunk/embed"], shares["heads/unembed"]) < 0.3
    kernels = [share for path, share in shares.items() if path.endswith("kernel")]
    assert set(kernels) == {0.25}


def test_the_plan_of_a_step_is_that_of_its_program(many):
    """benchmarks/plan.py: formulas against what XLA says of the compiled step."""
    ours, xla = many["plan"]
    batch = 256 * (4 * 4 + 4 + 1)  # of one row
    assert 0 <= xla["state"] - ours["state"] < 1.1 * batch
    assert xla["output"] < 1024  # the state is changed in place
    for name in ("fsdp", "tensor", "flops"):
        assert ours[name] == pytest.approx(xla[name], rel=0.02), name
    assert ours["needed"] < ours["flops"]
    # What lives at once; XLA packs it with gaps.
    assert ours["and copy"] == pytest.approx(xla["temporary"], rel=0.1)  # seen: 1 %
    assert xla["heads over"] == ["tensor"] and xla["in heads"] == 2 * 4 * 16


# The whole product, and what else a run may have.

EVERY = """
import json, sys
from dataclasses import replace
from tests import shared_out
algo, counts = sys.argv[1], map(int, sys.argv[2].split(","))
cfg = shared_out.config(algo)
one = shared_out.outcome(cfg, (1, 1, 1))
print(json.dumps({
    "x".join(map(str, sizes)): shared_out.difference(cfg, sizes, one)
    for count in counts for sizes in shared_out.factorisations(count)
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_factorisation_is_one_device(algo, record_property):
    found = json.loads(said_on(8, EVERY, algo, "4,8"))
    assert len(found) == 6 + 10
    record_property(f"devices {algo}", found)
    assert max(found.values()) < TOLERANCE, found


VARIANTS = """
import json
from dataclasses import replace
from tests import shared_out
from shared.config.fields import HeadsConfig, MachineConfig, ModelConfig
sizes = dict(num_layers=2, width=16, num_attention_heads=4, max_positions=32)
llama = dict(
    family="llama", qkv_bias=False, out_bias=False, mlp_bias=False, activation="silu"
)
of_llama = llama | dict(ffn_width=24, vocab_size=32)
plain = ModelConfig(**sizes, vocab_size=31)
cases = {
    "accumulation": shared_out.config("critic", accumulation=2),
    "V divides": shared_out.config(
        "rho1-weighted", model=replace(plain, vocab_size=32)
    ),
    "untied": shared_out.config(
        "baseline", model=replace(plain, tie_embeddings=False)
    ),
    "nothing divides": shared_out.config(
        "rho1-weighted",
        model=ModelConfig(
            num_layers=1, width=15, num_attention_heads=3, ffn_width=21,
            max_positions=33, vocab_size=31,
        ),
    ),
    "llama": shared_out.config(
        "rho1-tokenskip",
        model=ModelConfig(**sizes, num_kv_heads=2, **of_llama),
        head_type="block",
    ),
    "one key": shared_out.config(
        "baseline",
        model=ModelConfig(**sizes, num_kv_heads=1, **of_llama),
        head_type="medusa",
    ),
    "dropout": shared_out.config(
        "baseline", model=replace(plain, dropout=0.3), head_type="block"
    ),
    "rematerialise": shared_out.config(
        "baseline", machine=MachineConfig(rematerialise="layer"), head_type="residual"
    ),
}
cases["attention in blocks"] = shared_out.config(
    "baseline", machine=MachineConfig(attention="blocks"), head_type="block"
)
heads = cases["V divides"].heads
cases["self"] = replace(
    cases["V divides"],
    algo="baseline", heads=replace(heads, only=True, target="self", type="medusa"),
)
cases["trunk gradient"] = replace(
    cases["accumulation"],
    critic=replace(cases["accumulation"].critic, trunk_gradient=True),
)
print(json.dumps({
    name: shared_out.difference(cfg, (2, 2, 2)) for name, cfg in cases.items()
}))
"""


@pytest.mark.slow
def test_eight_devices_are_one_whatever_the_model(record_property):
    found = json.loads(said_on(8, VARIANTS))
    record_property("devices", found)
    assert max(found.values()) < TOLERANCE, found


# Refusals, and where arrays lie: on one device.


def test_factorisations_are_all():
    assert len(set(factorisations(4))) == 6 and len(set(factorisations(8))) == 10


@pytest.mark.parametrize(
    "machine, batch, message",
    [
        ({"fsdp": 2}, 8, r"machine.fsdp must be a divisor of the 1 devices"),
        ({"tensor": 3}, 8, r"times machine.tensor = 3"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(machine, batch, message):
    cfg = Config(
        data=DataConfig(batch_size=batch),
        machine=MachineConfig(device="cpu", **machine),
    )
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(cfg)


class Sizes:
    """As much of a mesh as its layout needs."""

    def __init__(self, fsdp, tensor):
        self.shape = {"data": 1, "fsdp": fsdp, "tensor": tensor}


@pytest.mark.parametrize(
    "names, shape, stack, sizes, spec",
    [
        (["embed"], (512, 64), 0, (2, 2), ("tensor", "fsdp")),
        (["embed"], (511, 64), 0, (2, 2), (None, ("tensor", "fsdp"))),
        (["embed"], (512, 63), 0, (2, 2), (("tensor", "fsdp"), None)),
        (["embed"], (511, 63), 0, (2, 2), (None, None)),
        (["blocks", "up", "kernel"], (4, 64, 256), 1, (2, 2), (None, "fsdp", "tensor")),
        (["blocks", "up", "kernel"], (4, 64, 256), 1, (2, 1), (None, None, "fsdp")),
        (
            ["blocks", "down", "kernel"],
            (4, 256, 64),
            1,
            (2, 2),
            (None, "tensor", "fsdp"),
        ),
        (["blocks", "up", "bias"], (4, 256), 1, (2, 2), ()),
        (["place"], (32, 64), 0, (2, 2), ("fsdp", "tensor")),
        (["inner"], (63, 21), 0, (3, 2), ("fsdp", None)),
    ],
)
def test_the_longest_axis_that_is_to_be_divided(names, shape, stack, sizes, spec):
    found = layout.kept_spec(names, shape, Sizes(*sizes), stack=stack)
    assert tuple(found) == spec
