"""Every formula of the weights on every array library, and how each one fails.

Fixed examples, since JAX compiles once per shape; random ones are in
`test_weighting_properties.py`.
"""

import contextlib
import functools
import math
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared import axes, weighting
from tests.formulas import FORMULAS, SETTINGS, arrays_of, close, example, strict_api

PACKED = [[(0, 5, 4), (0, 4, 2)], [(0, 3, 2), (1, 2, 0), (0, 3, 1)]]
EXAMPLES = {
    "packed": example(PACKED, num_heads=3, length=10),
    "ties": example(PACKED, num_heads=3, length=10, scores="ties", seed=1),
    "equal": example(PACKED, num_heads=3, length=10, scores="equal", seed=2),
    "all masked": example(
        [[(0, 4, 0)], [(0, 1, 0)]], num_heads=3, length=10, seed=3, spare=2
    ),
    "no documents": example([[], []], num_heads=3, length=10, seed=4, spare=3),
    "one target, L < K": example([[(0, 2, 1)]], num_heads=4, length=3, seed=5),
}
LIBRARIES = ("numpy", "strict", "jax", "torch")
# Float32 sums of a few dozen terms; soft weights in float64 as far as 50 bisections go.
TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.03}
SOFT_TOLERANCE = {"float64": 1e-7, "float32": 1e-5}
# No sum over tokens: the others lose counts and differences in 8 bits of mantissa.
ELEMENTWISE = (
    "shift_to_heads",
    "uniform_weights",
    "excess_loss signed",
    "excess_loss absolute",
    "token_rewards uniform",
    "token_rewards last",
    "td_errors",
    "returns",
    "shuffle_scores",
    "random_scores",
)


@contextlib.contextmanager
def strict_jax(dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        yield


def evaluate(arrays, names=tuple(FORMULAS)):
    """{name: tuple of outputs} of the formulas on one example."""
    a = SimpleNamespace(**arrays)
    outputs = {name: FORMULAS[name][0](a, SETTINGS) for name in names}
    return {n: out if isinstance(out, tuple) else (out,) for n, out in outputs.items()}


# What the compiler optimises is not in question, and takes it twice as long.
FAST_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
compiled = jax.jit(evaluate, static_argnums=1, compiler_options=FAST_COMPILE)


@functools.cache
def results(library, dtype, example_name, names):
    """The formulas' outputs on one example as NumPy arrays, JAX's under jit."""
    with strict_api(), strict_jax(dtype):
        arrays = arrays_of(library, dtype, EXAMPLES[example_name])
        outputs = (compiled if library == "jax" else evaluate)(arrays, names)
        if library == "torch":
            outputs = {n: [x.double() for x in out] for n, out in outputs.items()}
        return {
            n: [np.asarray(x).astype(float) for x in out] for n, out in outputs.items()
        }


@functools.cache
def expected(formula, example_name):
    return FORMULAS[formula][1](EXAMPLES[example_name], SETTINGS)


def compiled_names(a, dtype):
    """One shape of the unrolled bisection, which compiles slowly, is enough for JAX."""
    slow = ["soft_weights window"] if dtype == "float64" else []
    if a.mask_BLK.shape != EXAMPLES["packed"].mask_BLK.shape:
        slow = ["soft_weights window", "soft_weights document"]
    return tuple(name for name in FORMULAS if name not in slow)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_equals_the_oracle(formula, library, dtype):
    tolerances = SOFT_TOLERANCE if formula.startswith("soft") else TOLERANCE
    for name, a in EXAMPLES.items():
        names = compiled_names(a, dtype) if library == "jax" else tuple(FORMULAS)
        if formula in names:
            actual = results(library, dtype, name, names)[formula]
            close(actual, expected(formula, name), tolerances[dtype], name)


@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize("formula", ELEMENTWISE)
def test_elementwise_formulas_in_bfloat16(formula, library):
    actual = results(library, "bfloat16", "packed", ELEMENTWISE)[formula]
    close(actual, expected(formula, "packed"), TOLERANCE["bfloat16"], formula)


@pytest.mark.parametrize(
    ("library", "device", "dtype"),
    [
        ("numpy", None, "float32"),
        ("strict", "device1", "float32"),
        ("jax", None, "float32"),
        ("jax", None, "bfloat16"),
        ("torch", "meta", "float32"),
        ("torch", "meta", "bfloat16"),
    ],
)
def test_dtype_and_device_are_kept(library, device, dtype):
    with strict_api(), strict_jax(dtype):
        arrays = arrays_of(library, dtype, EXAMPLES["packed"], device)
        run = functools.partial(jax.eval_shape, evaluate)
        outputs = (run if library == "jax" else evaluate)(arrays)
        # Plain numbers, as read from a file, have no device of their own.
        for number in (float, np.float64):
            white_N = weighting.whiten(arrays["reward_N"], number(0.5), number(2.0))
            outputs[f"whiten by {number}"] = (white_N,)
        document_BL = arrays["document_BL"]
        member_BLS = axes.document_members(document_BL, num_documents=3)
        assert member_BLS.device == document_BL.device
    for formula, out in outputs.items():
        for x in out:
            assert str(x.dtype).split(".")[-1] == dtype, formula
            assert device is None or device in str(x.device), formula


def test_jit_changes_nothing():
    names = ("soft_weights document", "advantages", "z_score")
    with strict_jax("float32"):
        plain = evaluate(arrays_of("jax", "float32", EXAMPLES["packed"]), names)
    under_jit = results("jax", "float32", "packed", tuple(FORMULAS))
    for name in names:
        close([np.asarray(x) for x in plain[name]], under_jit[name], 1e-6, name)


def test_float32_soft_weights_of_huge_scores():
    a = example(PACKED, num_heads=3, length=10, scores="huge", seed=6)
    ours, theirs = FORMULAS["soft_weights document"]
    w_BLK = ours(SimpleNamespace(**arrays_of("numpy", "float32", a)), SETTINGS)
    # log c is about 4e4 here, where neighbouring float32 are 0.004 apart.
    close([w_BLK], theirs(a, SETTINGS), 0.005, "huge")


# Gradients: constants of the loss or not, no formula may turn a mask into NaN.


def sum_of_squares(floats, arrays, formula):
    outputs = evaluate(arrays | floats, (formula,))[formula]
    return sum(jnp.sum(x**2) for x in outputs)


compiled_gradients = jax.jit(
    jax.grad(sum_of_squares), static_argnums=2, compiler_options=FAST_COMPILE
)


@pytest.mark.parametrize("name", ["packed", "equal", "all masked", "no documents"])
@pytest.mark.parametrize(
    "formula",
    [
        "soft_weights document",
        "z_score",
        "value_loss",
        "advantages",
        "weighted_sum, ratio",
        "weight_entropy",
    ],
)
def test_gradients_are_finite(formula, name):
    with strict_jax("float32"):
        arrays = arrays_of("jax", "float32", EXAMPLES[name])
        floats = {n: x for n, x in arrays.items() if x.dtype == jnp.float32}
        gradients = compiled_gradients(floats, arrays, formula)
    for argument, gradient in gradients.items():
        assert np.isfinite(gradient).all(), argument


def test_gradient_of_the_loss_is_head_weight_times_w():
    a = SimpleNamespace(**arrays_of("jax", "float32", EXAMPLES["packed"]))
    assert not np.isfinite(a.nll_BLK).all()
    head_weight = (1.0, 0.5, 2.0)

    def loss_sum(nll_BLK):
        return weighting.weighted_sum(nll_BLK, a.w_BLK, head_weight=head_weight)[0]

    gradient_BLK = jax.grad(loss_sum)(a.nll_BLK)
    expected_BLK = np.float32(head_weight) * np.asarray(a.w_BLK)
    np.testing.assert_array_equal(gradient_BLK, expected_BLK)
    assert np.max(gradient_BLK) > 0


def test_ratio_of_nothing_is_0_with_gradient_0():
    zero = jnp.zeros(())
    value, gradients = jax.value_and_grad(weighting.ratio, argnums=(0, 1))(zero, zero)
    assert (float(value), *map(float, gradients)) == (0.0, 0.0, 0.0)
    assert weighting.ratio(np.array([3.0, 0.0]), np.array([2.0, 0.0])).tolist() == [
        1.5,
        0,
    ]


# Errors

B, M = np.zeros((1, 2)), np.zeros((1, 2), bool)
B3, M3 = np.zeros((1, 2, 1)), np.zeros((1, 2, 1), bool)
WIDE, WIDE3 = np.zeros((1, 3), bool), np.zeros((1, 2, 4), bool)


def soft(score_BLK=B3, mask_BLK=M3, **changes):
    options = {"temperature": 1.0, "weight_floor": 0.1, "weight_ceiling": 2.0}
    options |= {"scope": "document", **changes}
    return weighting.soft_weights(score_BLK, mask_BLK, M3, **options)


def skip(target_BL=M, skip_fraction=0.3):
    return weighting.skip_weights(B, target_BL, M3, M3, skip_fraction=skip_fraction)


SHAPES = "arrays must have one shape, got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: weighting.uniform_weights(B3, WIDE3),
            SHAPES + "{'score': (1, 2, 1), 'mask': (1, 2, 4)}",
        ),
        (
            lambda: soft(mask_BLK=WIDE3),
            SHAPES + "{'score': (1, 2, 1), 'mask': (1, 2, 4)}",
        ),
        (lambda: soft(temperature=0.0), "temperature must be > 0, got 0.0"),
        (lambda: soft(temperature=-1.0), "temperature must be > 0, got -1.0"),
        (lambda: soft(temperature=math.nan), "temperature must be > 0, got nan"),
        (lambda: soft(weight_floor=-0.1), "weight_floor must be in [0, 1], got -0.1"),
        (lambda: soft(weight_floor=1.1), "weight_floor must be in [0, 1], got 1.1"),
        (lambda: soft(weight_ceiling=0.9), "weight_ceiling must be >= 1, got 0.9"),
        (lambda: soft(scope="row"), "scope must be document or window, got 'row'"),
        (lambda: skip(WIDE), SHAPES + "{'score': (1, 2), 'target': (1, 3)}"),
        (
            lambda: skip(skip_fraction=1.0),
            "skip_fraction must be in [0, 1), got 1.0",
        ),
        (
            lambda: skip(skip_fraction=-0.1),
            "skip_fraction must be in [0, 1), got -0.1",
        ),
        (
            lambda: weighting.excess_loss(B, B, WIDE),
            SHAPES + "{'nll': (1, 2), 'ref_nll': (1, 2), 'target': (1, 3)}",
        ),
        (
            lambda: weighting.excess_loss(B, B, M, excess="squared"),
            "excess must be signed or absolute, got 'squared'",
        ),
        (
            lambda: weighting.token_rewards(B, M, M3, reward="first"),
            "reward must be uniform or last, got 'first'",
        ),
        (
            lambda: weighting.td_errors(B, B, WIDE, discount=1.0),
            SHAPES + "{'reward': (1, 2), 'value': (1, 2), 'target': (1, 3)}",
        ),
        (
            lambda: weighting.advantages(B, WIDE, discount=1.0, gae_lambda=1.0),
            SHAPES + "{'td_error': (1, 2), 'target': (1, 3)}",
        ),
        (
            lambda: weighting.weighted_sum(B3, WIDE3, head_weight=(1.0,)),
            SHAPES + "{'nll': (1, 2, 1), 'w': (1, 2, 4)}",
        ),
        (
            lambda: weighting.weighted_sum(B3, B3, head_weight=(1.0, 2.0)),
            "one head_weight per head, got (1.0, 2.0)",
        ),
    ],
)
def test_wrong_arguments_say_what_is_required(call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        call()
