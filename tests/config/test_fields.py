"""The config: ranges, presets, and the layers it is built in."""

import json
import math
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from shared.algorithms import ALGORITHMS
from shared.config.fields import (
    Config,
    CriticConfig,
    DataConfig,
    HeadsConfig,
    ModelConfig,
    OptimizerConfig,
    WeightingConfig,
)
from shared.config.layers import MODELS, PRESETS, flatten, preset_names, read_layer
from shared.config.ranges import RANGES, field_types
from shared.signals.columns import needs_model
from tests.command_lines import MACHINES, RECIPES, error, recipe, run


def test_the_tree_is_frozen_and_every_field_is_explained_once():
    with pytest.raises(FrozenInstanceError):
        Config().seed = 1  # type: ignore[misc]
    assert hash(Config()) == hash(Config())
    for group in [Config, *(kind for kind, _ in field_types(Config).values())]:
        assert not is_dataclass(group) or all(f.kw_only for f in fields(group))


def test_groups_name_themselves_as_the_tree_does():
    # Checked takes the name of a group from its class.
    for name, (kind, _) in field_types(Config).items():
        assert not is_dataclass(kind) or kind.__name__ == f"{name.title()}Config"


def test_every_number_has_a_range_that_its_default_is_in():
    for group in [Config, *(kind for kind, _ in field_types(Config).values())]:
        if not is_dataclass(group):
            continue
        for name, (kind, notes) in field_types(group).items():
            if kind in (int, float):
                ranges = [note for note in notes if isinstance(note, str)]
                assert len(ranges) == 1 and ranges[0] in RANGES, (group, name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: WeightingConfig(temperature=0),
            "weighting.temperature must be > 0, got 0",
        ),
        (
            lambda: WeightingConfig(skip_fraction=1.0),
            "weighting.skip_fraction must be in [0, 1), got 1.0",
        ),
        (
            lambda: WeightingConfig(weight_ceiling=0.5),
            "weighting.weight_ceiling must be >= 1, got 0.5",
        ),
        (
            lambda: CriticConfig(discount=1.5),
            "critic.discount must be in [0, 1], got 1.5",
        ),
        (
            lambda: OptimizerConfig(lr=math.nan),
            "optimizer.lr must be finite, got nan",
        ),
        (
            lambda: OptimizerConfig(weight_decay=math.inf),
            "optimizer.weight_decay must be finite, got inf",
        ),
        (lambda: DataConfig(max_length=1), "data.max_length must be >= 2, got 1"),
        (lambda: HeadsConfig(count=0), "heads.count must be >= 1, got 0"),
        (
            lambda: ModelConfig(num_attention_heads=0),
            "model.num_attention_heads must be >= 1, got 0",
        ),
        (
            lambda: DataConfig(max_examples=-1),
            "data.max_examples must be >= 0, got -1",
        ),
        (
            lambda: HeadsConfig(weight=(1.0,)),
            "heads.weight must be empty or heads.count = 4 numbers, got (1.0,)",
        ),
        (
            lambda: HeadsConfig(count=2, weight=(0.0, 0.0)),
            "heads.weight must be finite numbers >= 0, not all 0, got (0.0, 0.0)",
        ),
        (
            lambda: HeadsConfig(count=2, weight=(1.0, -1.0)),
            "heads.weight must be finite numbers >= 0, not all 0, got (1.0, -1.0)",
        ),
        (
            lambda: HeadsConfig(count=2, weight=(math.nan, 1.0)),
            "heads.weight must be finite numbers >= 0, not all 0, got (nan, 1.0)",
        ),
        (
            lambda: HeadsConfig(count=2, weight=(1.0, math.inf)),
            "heads.weight must be finite numbers >= 0, not all 0, got (1.0, inf)",
        ),
        (lambda: Config(seed=-1), "seed must be >= 0, got -1"),
        (
            lambda: Config(heads=HeadsConfig(count=128)),
            "heads.count must be less than data.max_length = 128, got 128",
        ),
        (
            lambda: Config(data=DataConfig(max_length=513)),
            "data.max_length must be at most model.max_positions = 512, got 513",
        ),
        (
            lambda: Config(weighting=WeightingConfig(control="shuffle")),
            "weighting.control = 'shuffle' needs a rule that reads scores (soft or "
            "skip), got weighting.rule = 'uniform'",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_rule_is_the_algorithms_unless_given(algo):
    assert Config(algo=algo).rule == ALGORITHMS[algo].rule
    skip = Config(algo=algo, weighting=WeightingConfig(rule="skip"))
    assert skip.rule == "skip"
    assert needs_model(skip, "reference") == (algo != "baseline")
    # A reward model takes the place of the critic's pseudo reward, and of that only.
    rewarded = Config(algo=algo, critic=CriticConfig(reward_model="some-model"))
    assert needs_model(rewarded, "reference") == algo.startswith("rho1")
    assert needs_model(rewarded, "reward") == (algo == "critic")


NAMES = ["../x", "a/b", "a\\b", "..", ".", ".hidden", "a b", "a\n", "é", "x" * 101]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_name_cannot_leave_output_dir(name):
    required = "run_name must be a folder name (A-Z a-z 0-9 . _ -, no . first, at most"
    assert error(f"--run-name={name}").startswith(required)


def test_plain_run_names_are_kept():
    for name in ["", "a", "run_1.b-2", "x" * 100]:
        assert run(f"--run-name={name}").config.run_name == name


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_builds_a_config_with_every_model(name):
    flag = "--config" if name in MACHINES else "--recipe"
    for model in preset_names(MODELS):
        invocation = run(flag, name, "--model", model)
        preset = read_layer(PRESETS / f"{name}.yaml")
        assert invocation.overrides == preset | {"model.name": model}
        assert preset.items() <= flatten(invocation.config).items()


def test_the_presets_are_the_ones_promised():
    assert preset_names(PRESETS) == sorted(RECIPES + MACHINES)
    assert {"tiny", "smoke", "distilgpt2-shape"} <= set(preset_names(MODELS))
    for name in RECIPES:
        assert run("--recipe", name).config.algo.replace("-", "_") == name
    gpu = run("--config", "gpu").config.machine
    assert (gpu.device, gpu.dtype) == ("gpu", "bfloat16")


def test_recipes_and_machines_leave_the_model_presets_alone():
    # `--recipe critic` must not bring the learning rate of fine-tuning to a model that
    # starts from random weights.
    of_models: set[str] = set()
    for name in preset_names(MODELS):
        of_models |= set(read_layer(MODELS / f"{name}.yaml"))
    assert "model.name" not in of_models
    for name in preset_names(PRESETS):
        assert not of_models & set(read_layer(PRESETS / f"{name}.yaml"))


def test_presets_open_with_purpose_hardware_and_expectation():
    for folder in (PRESETS, MODELS):
        for name in preset_names(folder):
            text = (folder / f"{name}.yaml").read_text()
            comment = text[: text.index("\n" + text.split("\n#")[-1].split("\n")[1])]
            assert text.startswith("# Purpose: ")
            assert "# Hardware: " in comment and "# Expected: " in comment


def test_an_unknown_model_is_refused_and_one_near_a_preset_lists_them():
    known = ", ".join(preset_names(MODELS))
    for name in ["tinny", "tiny.yaml"]:
        message = error("--model", name)
        assert message.startswith("model.name ") and f"'{name}'" in message
        assert message.endswith(f"(the presets are {known}; did you mean tiny?)")
    for name in ["../models/tiny", "", "a\nb"]:
        assert "model.name" in error(f"--model={name}")


FOLDER = {
    "model_type": "llama",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "vocab_size": 100,
}
MTP = {"n_future_tokens": 3, "head_type": "residual"}


def test_the_model_of_a_folder_is_what_its_config_json_says(tmp_path):
    write = (tmp_path / "config.json").write_text
    write(json.dumps(FOLDER))
    invocation = run("--model", str(tmp_path))
    model = invocation.config.model
    assert (model.name, model.family) == (str(tmp_path), "llama")
    assert (model.num_layers, model.width, model.kv_heads, model.F) == (2, 48, 2, 96)
    assert not (model.qkv_bias or model.tie_embeddings)
    assert invocation.config.heads == HeadsConfig()
    assert invocation.overrides == {"model.name": str(tmp_path)}
    write(json.dumps(FOLDER | {"mtp_config": MTP}))
    heads = run("--model", str(tmp_path)).config.heads
    assert (heads.count, heads.type) == (3, "residual")
    # Options and recipes win over the folder, as over a preset.
    single = run("--model", str(tmp_path), "--heads", "2", "--model.dropout", "0.1")
    assert (single.config.heads.count, single.config.model.dropout) == (2, 0.1)
    trial = recipe(tmp_path, f"model: {{name: '{tmp_path}', max_positions: 128}}")
    assert run("--recipe", trial).config.model.max_positions == 128
    write("{")
    assert "config.json" in error("--model", str(tmp_path))


def test_a_preset_is_meant_by_its_bare_name_and_a_file_by_its_path(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, "seed: 7", "critic")
    assert run("--recipe", "critic").config.algo == "critic"
    assert run("--recipe", "./critic").config.seed == 7


def test_later_layers_win(tmp_path):
    of_machine = "seed: 1\ntags: machine\ntrain: {max_steps: 1}"
    of_trial = "tags: recipe\ntrain: {max_steps: 2, patience: 2}"
    machine = recipe(tmp_path, of_machine, "m.yaml")
    trial = recipe(tmp_path, of_trial, "r.yaml")
    layers = ["--config", machine, "--recipe", trial, "--train.max-steps", "3"]
    invocation = run(*layers)
    cfg = invocation.config
    assert (cfg.seed, cfg.tags) == (1, "recipe")
    assert (cfg.train.max_steps, cfg.train.patience) == (3, 2)
    assert cfg.optimizer.lr == run().config.optimizer.lr != Config().optimizer.lr
    assert invocation.overrides == {
        "seed": 1,
        "tags": "recipe",
        "train.max_steps": 3,
        "train.patience": 2,
    }
    assert run(*reversed(["3", "--train.max-steps"]), *layers[:4]) == invocation


def test_the_model_preset_is_that_of_the_last_layer_that_names_one(tmp_path):
    machine = recipe(tmp_path, "model: {name: distilgpt2-shape}", "m.yaml")
    trial = recipe(tmp_path, "model: {name: smoke}", "r.yaml")

    def width(*argv: str) -> int:
        return run(*argv).config.model.width

    smoke = read_layer(MODELS / "smoke.yaml")["model.width"]
    assert width("--config", machine) == 768
    assert width("--config", machine, "--recipe", trial) == smoke
    assert width("--config", machine, "--recipe", trial, "--model", "tiny") == 128
    assert width("--recipe", trial, "--model.width", "64") == 64
    lower = recipe(tmp_path, "model: {name: smoke, width: 96}", "w.yaml")
    assert width("--recipe", lower) == 96


def test_layers_need_to_fit_together_only_at_the_end(tmp_path):
    path = recipe(tmp_path, "heads: {count: 400}")
    assert error("--recipe", path).startswith("heads.count must be less than")
    cfg = run("--recipe", path, "--data.max-length", "500").config
    assert (cfg.heads.count, cfg.data.max_length) == (400, 500)


@pytest.mark.parametrize("name", ["baseline-mtp", "critic-wmtp"])
def test_the_original_systems_algorithms(tmp_path, name):
    algo = name.split("-")[0]
    assert run("--algo", name).config.algo == algo
    invocation = run("--recipe", recipe(tmp_path, f"algo: {name}"))
    assert invocation.config.algo == invocation.overrides["algo"] == algo
