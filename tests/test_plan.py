"""What large models take of many devices: formulas, and the reading of programs.

Held against a compiled step of eight devices in tests/wmtp_jax/test_devices.py.
"""

import json

import pytest

from benchmarks import formulas, plan, programs
from tests.four_devices import said_on
from wmtp_jax.row_blocks import block_sizes


@pytest.mark.parametrize(
    "groups, first",
    [
        ("{{0,2},{1,3}}", [0, 2]),
        ("[2,4]<=[8]", [0, 1, 2, 3]),
        ("[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", [0, 1, 2, 3]),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=2] {'axis_0','axis_2'}", [0, 1, 2, 3]),
        (
            "mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}",
            [0, 1, 2, 3],
        ),
    ],
)
def test_groups_of_devices_are_read(groups, first):
    assert programs.members(groups) == first


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match="of a known form, got 'all'"):
        programs.members("all")


PROGRAM = """HloModule made

%product (a: f32[2,3]) -> f32[2,5] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,5]{1,0} parameter(1)
  ROOT %d = f32[2,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%small (a: f32[2,3]) -> f32[2,1] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %d = f32[2,1]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%known (x: f32[2]) -> f32[2] {
  %f = f32[2,5]{1,0} fusion(%x), kind=kCustom, calls=%product
  %r = f32[2]{0} all-reduce(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%add
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %u = f32[2]{0} while(%p), condition=%c, body=%known, backend_config={"known_trip_count":{"n":"7"}}
  %v = f32[2]{0} while(%p), condition=%c, body=%known, metadata={op_name="a/while"}
  %c = f32[2]{0} conditional(%p), branch_computations={%product, %small}
}
"""  # noqa: E501


def test_products_and_exchanges_count_as_often_as_their_loop_turns():
    """Of branches the larger; a loop of unknown turns once, or as it is told."""
    assert programs.product_flops(PROGRAM) == (7 + 1 + 1) * 2 * 2 * 3 * 5
    told = programs.product_flops(PROGRAM, {"a/while": 4.5}.__getitem__)
    assert told == (7 + 4.5 + 1) * 60
    found = programs.exchanges(PROGRAM)
    assert [(x.turns, programs.members(x.groups)) for x in found] == [
        (7, [0, 4]),
        (1, [0, 4]),
    ]


def test_parameters_are_those_of_the_published_models():
    """Without the three heads of our own: 1.24, 6.74 and 68.98 billion."""
    for model, billions in (("1b", 1.236), ("7b", 6.738), ("70b", 68.977)):
        cfg = plan.config(f"{model}:1x8x1", "bfloat16")
        heads = 3 * cfg.model.vocab_size * cfg.model.width
        numbers = sum(formulas.parameters(cfg)) - heads
        assert numbers / 1e9 == pytest.approx(billions, abs=0.001)


def test_more_devices_hold_less_and_the_same_rows_take_the_same_products():
    found = {}
    for name in ("7b:1x8x1", "7b:1x64x1", "7b:8x8x1", "7b:1x8x8"):
        cfg, shares = plan.config(name, "bfloat16"), plan.shares_of(name)
        ours = plan.by_formula(cfg, shares)
        sent = formulas.exchanged(cfg, shares)
        found[name] = ours["state"], ours["needed"], ours["flops"], sent["tensor"]
    state, needed, made, tensor = zip(*found.values(), strict=True)
    assert state[0] == state[2] and state[1] == state[3] < state[0] / 7
    assert needed[0] == needed[1] == needed[2] == 8 * needed[3]
    # All of `tensor` compute queries, keys and values.
    assert made[0] == made[1] == made[2] and made[0] / 8 < made[3] < made[0] / 3
    assert tensor[:3] == (0, 0, 0) and tensor[3] > 0


LOWERED = """
import json, sys
from benchmarks import plan
found = {}
for name in sys.argv[1:]:
    cfg, shares = plan.config(name, "bfloat16"), plan.shares_of(name)
    found[name] = plan.by_formula(cfg, shares), plan.by_xla(cfg, shares)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_seven_billion_parameters_fit_64_devices(record_property):
    """By XLA's own analysis of the step: 80 GB each, and what its loops exchange."""
    found = json.loads(said_on(64, LOWERED, "7b:1x64x1", "7b:1x8x8"))
    record_property("7b on 64", found)
    for name, (ours, xla) in found.items():
        shares = plan.shares_of(name)
        cfg = plan.config(name, "bfloat16")
        assert xla["state"] + xla["temporary"] + xla["output"] < 80e9
        assert xla["state"] == pytest.approx(ours["state"], rel=0.01)
        assert xla["flops"] == pytest.approx(ours["flops"], rel=0.01)
        # In the layers' loops: at most the gradient of one layer, before it is cut, or
        # all activations of a device's rows.
        whole, split = formulas.layer_numbers(cfg)
        layer = 4 * (whole + split / shares.tensor + 2 * cfg.model.width)
        assert xla["in layers"] <= layer
        if shares.tensor == 1:
            assert not xla["heads over"]
        else:  # two sums of each row of a block of the heads' rows
            block = block_sizes(4096, cfg.model.vocab_size // 8, cfg.model.width)[0]
            assert xla["heads over"] == ["tensor"] and xla["in heads"] == 2 * 4 * block
