"""Every field says when it has an effect; a value that has none is said in one line."""

from dataclasses import replace

import pytest

from shared.config.fields import Config
from shared.config.layers import dump_config, flatten, leaves, load_config
from shared.run.effects import EFFECTS, without_effect
from tests.command_lines import run
from tests.trained import MODEL, PACE
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train


def test_every_field_has_one_statement():
    """A new field must be put into a row of `EFFECTS`."""
    named = [name for effect in EFFECTS for name in effect.fields]
    assert len(named) == len(set(named))
    assert set(named) == set(leaves())


def idle(*words, backend="wmtp_jax"):
    """The names that a command line gives without effect."""
    asked = run(*words)
    found = without_effect(asked.config, asked.overrides, backend)
    return {said.partition(" =")[0] for names in found.values() for said in names}


WITHOUT = {
    "--heads 1 --heads.warmup-steps 5": {"heads.warmup_steps"},
    "--heads 1 --heads.weight 2 --head-type block": {"heads.weight", "heads.type"},
    "--heads 1 --optimizer.head-lr-scale 2": {"optimizer.head_lr_scale"},
    "--heads.linear-start unembedding --head-type block": {"heads.linear_start"},
    "--algo baseline --weighting.weight-floor 0.2": {"weighting.weight_floor"},
    "--algo rho1-tokenskip --weighting.weight-ceiling 9": {"weighting.weight_ceiling"},
    "--algo rho1-weighted --weighting.skip-fraction 0.1": {"weighting.skip_fraction"},
    "--algo baseline --weighting.rule soft": {"weighting.rule"},
    "--algo critic --weighting.excess absolute": {"weighting.excess"},
    "--algo rho1-weighted --weighting.control random --weighting.excess-floor 1": {
        "weighting.excess_floor"
    },
    "--algo rho1-weighted --critic.discount 0.5": {"critic.discount"},
    "--algo critic --weighting.control random --critic.score advantage": {
        "critic.score"
    },
    "--algo critic --critic.stage1-epochs 0 --critic.stage1-lr 1": {"critic.stage1_lr"},
    "--algo baseline --reference runs/a": {"reference.model"},
    "--algo rho1-weighted --reference /tmp --reference.lr 1": {"reference.lr"},
    "--algo baseline --reward-model x": {"critic.reward_model"},
    "--optimizer.name sgd --optimizer.beta2 0.5": {"optimizer.beta2"},
    "--optimizer.name lion --optimizer.epsilon 1": {"optimizer.epsilon"},
    "--optimizer.schedule constant --optimizer.final-lr-scale 0.5": {
        "optimizer.final_lr_scale"
    },
    "--model.rope-factor 2": {"model.rope_factor"},
    "--model.revision v1 --heads.fresh": {"model.revision", "heads.fresh"},
    "--tracking none --tracking.tensorboard": {"tracking.tensorboard"},
    "--tracking jsonl --tracking.experiment mine": {"tracking.experiment"},
    "--device cpu --machine.deterministic": {"machine.deterministic"},
    "--no-self-test": {"machine.self_test"},
}


@pytest.mark.parametrize("words", WITHOUT)
def test_what_nothing_reads_is_found(words):
    words = words.replace("--no-self-test", "--machine.no-self-test")
    assert idle(*words.split()) == WITHOUT[words.replace("machine.no-", "no-")]


WITH = (
    "--algo critic --heads 1 --heads.warmup-steps 5 --critic.discount 0.5",
    "--algo rho1-weighted --weighting.scope window --weighting.weight-floor 0.2",
    "--algo baseline --weighting.rule soft --weighting.control random",
    "--algo critic --critic.score advantage --critic.stage1-lr 1 --reference.lr 1",
    "--optimizer.schedule linear --optimizer.final-lr-scale 0.5 --heads.weight 1 2 3 4",
    "--algo baseline --weighting.weight-floor 0.05 --critic.stage1-epochs 50",
)


@pytest.mark.parametrize("words", WITH)
def test_what_is_read_is_not_said_and_neither_is_a_default(words):
    """The last one's numbers are in force without being given, too."""
    assert idle(*words.split()) == set()


@pytest.mark.slow
def test_a_saved_config_says_nothing_as_a_recipe(whole_run):
    """It gives every field."""
    file = whole_run(jax_train, "critic") / "config.yaml"
    found = idle("--recipe", str(file), "--algo", "baseline")
    changed = {"critic.stage1_epochs", "reference.epochs", "weighting.rule"}
    assert found <= changed


@pytest.mark.parametrize(
    "backend", [pytest.param(jax_train, marks=pytest.mark.slow), torch_train]
)
def test_it_is_said_in_one_line(backend, tmp_path, capsys):
    """In a run and in a dry one; a recipe for several algorithms is not refused."""
    recipe = tmp_path / "shared.yaml"
    recipe.write_text("critic: {discount: 0.5}\nweighting: {weight_floor: 0.2}\n")
    options = ("--recipe", str(recipe), "--algo", "baseline", "--dry-run")
    assert backend.main([*MODEL, *PACE, *options]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "effect" in x]
    assert "weighting.weight_floor = 0.2 (read with weighting.rule soft" in line
    assert "critic.discount = 0.5" in line and "a value head" in line
    place = ("--output-dir", str(tmp_path), "--run-name", "a", "--train.max-steps", "1")
    assert backend.main([*MODEL, *PACE, *options[:-1], *place]) == 0
    assert (tmp_path / "a" / "train.log").read_text().count("without effect") == 1


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_window_of_one_head_is_refused_to_a_new_run(dry, tmp_path, capsys):
    """A run of before, and its exports, can still be read."""
    words = "--algo rho1-weighted --heads 1 --weighting.scope window".split()
    place = ["--output-dir", str(tmp_path / "runs"), *dry]
    assert jax_train.main([*MODEL, *words, *place]) == 2
    assert "weighting.scope must be document with" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "saved.yaml").write_text(dump_config(run(*words).config))
    assert load_config(tmp_path / "saved.yaml").weighting.scope == "window"
    assert idle(*"--heads 1 --weighting.scope window".split()) == {"weighting.scope"}


def test_a_trunk_alone_does_not_wait_for_heads():
    """Else nothing would be trained for so many steps."""
    cfg = run(*"--heads 1 --heads.warmup-steps 5".split()).config
    assert (cfg.heads.warmup_steps, cfg.head_warmup) == (5, 0)  # it stays as given
    assert replace(cfg, algo="critic").head_warmup == 5
    assert run(*"--heads.warmup-steps 5".split()).config.head_warmup == 5


def test_saved_configs_keep_what_they_say(tmp_path):
    (tmp_path / "a.yaml").write_text("heads: {count: 1}\n")
    assert flatten(load_config(tmp_path / "a.yaml")).keys() == leaves().keys()
    assert Config(heads=replace(Config().heads, count=1)).heads.count == 1
