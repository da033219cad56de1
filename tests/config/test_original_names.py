"""Recipes of the original system, under its own names, say what they said there."""

from pathlib import Path

import pytest
import yaml

from shared.config import original_names
from shared.config.layers import leaves
from shared.run.command_line import parse
from tests.command_lines import error, recipe, run

CONFIGS = Path(__file__).parents[1] / "configs"
MACHINE = str(CONFIGS / "config.local_test.yaml")
ALGOS = {
    "mtp_baseline": "baseline",
    "critic_wmtp": "critic",
    "rho1_wmtp_weighted": "rho1-weighted",
    "rho1_wmtp_tokenskip": "rho1-tokenskip",
}


def file_of(name: str) -> str:
    return str(CONFIGS / f"recipe.{name}.yaml")


@pytest.mark.parametrize("name", ALGOS)
def test_a_recipe_means_what_it_did(name):
    """The values are those of the original's test guide and recipes."""
    asked = run("--config", MACHINE, "--recipe", file_of(name))
    cfg = asked.config
    assert cfg.algo == ALGOS[name]
    assert (cfg.model.name, cfg.data.source) == ("tiny", "minis")
    assert (cfg.machine.device, cfg.machine.dtype) == ("mps", "float32")
    assert (cfg.train.epochs, cfg.train.max_steps, cfg.seed) == (3, 30, 42)
    assert (cfg.train.save_every, cfg.train.keep_checkpoints) == (100, 1)
    assert not cfg.train.export and cfg.output_dir == "./test_checkpoints"
    data, optimizer = cfg.data, cfg.optimizer
    assert (data.batch_size, data.max_length, data.layout) == (1, 128, "padded")
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == (
        "adamw",
        5e-5,
        0.01,
    )
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
    assert (optimizer.clip_norm, optimizer.schedule) == (1.0, "constant")
    assert optimizer.warmup_steps == 0
    assert cfg.tags.startswith("test,") and cfg.run_name.startswith("test_")
    assert cfg.tracking.experiment == "wmtp/local_test"
    assert {"eval.protocol", "launcher.target", "project"} <= set(asked.unused)
    if cfg.algo != "baseline":
        weighting = cfg.weighting
        assert (weighting.temperature, weighting.weight_floor) == (0.7, 0.05)
        assert weighting.weight_ceiling == 3.0
    if cfg.algo.startswith("rho1"):
        assert (weighting.skip_fraction, weighting.excess_floor) == (0.3, 0.01)
    if cfg.algo == "critic":
        critic = cfg.critic
        assert (critic.discount, critic.gae_lambda) == (0.99, 0.95)
        assert (critic.value_loss_coef, critic.score) == (0.1, "td_error")
        assert optimizer.value_lr_scale == 1.0
        assert (critic.stage1_lr, critic.stage1_epochs) == (1e-4, 3)
        assert (critic.stage1_patience, critic.stage1_min_delta) == (10, 1e-4)
        assert critic.reward_model == ""


def test_every_name_of_the_table_leads_to_a_field():
    fields = leaves()
    ours = [*original_names.RENAMED.values(), *original_names.PATHS]
    for values in original_names.VALUES.values():
        ours += [name for found in values.values() for name in found]
    assert set(ours) <= fields.keys()
    assert not original_names.RENAMED.keys() & original_names.VALUES.keys()
    # A name of ours is taken for the original's only where both mean the same.
    both = set(original_names.names()) & fields.keys()
    assert all(original_names.RENAMED[name] == name for name in both)


def test_the_recipes_use_most_of_the_table():
    """What no file of the original's names tests would go wrong unseen."""
    used = set()
    for path in CONFIGS.glob("*.yaml"):
        found, _ = original_names.take(yaml.safe_load(path.read_text()))
        assert not [name for name in found if not original_names.is_original(name)]
        used |= found.keys()
    assert len(used & set(original_names.names())) > 40


@pytest.mark.parametrize(
    "text, field, value",
    [
        ("optim: {lr: 2e-5, scheduler: cosine}", "optimizer.schedule", "cosine"),
        ("optim: {warmup_ratio: 0.03}\ntrain: {max_steps: 1000}",
         "optimizer.warmup_steps", 30),
        ("optim: {lr: 2e-5}\ncritic: {value_lr: 2e-6}",
         "optimizer.value_lr_scale", pytest.approx(0.1)),
        ("pretrain: {enabled: false, num_epochs: 3}", "critic.stage1_epochs", 0),
        ("devices: {compute_backend: cuda}", "machine.device", "gpu"),
        ("devices: {mixed_precision: fp16}", "machine.dtype", "float16"),
        ("train: {gradient_accumulation: 32}", "train.accumulation", 32),
        ("data: {train: {sources: [contest]}}", "data.source", "code_contests"),
        ("data: {train: {pack_sequences: true}}", "data.layout", "packed"),
        ("paths: {models: {rm: some/model}}\ncritic: {use_pseudo_rewards: true}",
         "critic.reward_model", "some/model"),
        ("paths: {models: {rm: 'file://m'}}\ncritic: {use_pseudo_rewards: false}",
         "critic.reward_model", "m"),
        ("train: {eval_interval: 500, save_interval: 1000}", "train.eval_every", 500),
        ("paths: {models: {ref: 'file://a/b'}}", "reference.model", "a/b"),
        ("algo: critic-wmtp", "algo", "critic"),
    ],
)  # fmt: skip
def test_a_name_is_read(text, field, value, tmp_path):
    asked = run("--recipe", recipe(tmp_path, text))
    assert asked.overrides[field] == value


@pytest.mark.parametrize(
    "text, told",
    [
        ("train: {algo: ppo}", "train.algo must be one of baseline-mtp, critic-wmtp, "
         "rho1-wmtp here, got 'ppo'"),
        ("train: {algo: rho1-wmtp}", "needs rho1.selection_mode weighted or"),
        ("train: {algo: rho1-wmtp}\nrho1: {selection_mode: hard}",
         "rho1.selection_mode must be one of weighted, token_skip"),
        ("train: {full_finetune: false}", "train.full_finetune must be true here"),
        ("devices: {fsdp: {enabled: true}}", "devices.fsdp.enabled must be false"),
        ("devices: {mixed_precision: int8}", "must be one of fp32, fp16, bf16"),
        ("critic: {token_spread: length}", "critic.token_spread must be gae here"),
        ("critic: {use_pseudo_rewards: false}", "false needs paths.models.rm"),
        ("train: {algo: critic-wmtp}\nloss: {weight_norm: none}",
         "loss.weight_norm must be mean1.0_clip here, got 'none'"),
        ("loss: {temperature: 2.0, weight_temperature: 0.7}",
         "loss.weight_temperature and loss.temperature must be the same, got 0.7 and"),
        ("critic: {normalize: minmax}", "critic.normalize must be zscore here"),
        ("loss: {epsilon: much}", "loss.epsilon must be a number, got 'much'"),
        ("loss: {max_weight: 0.5}", "weighting.weight_ceiling must be >= 1"),
        ("optim: {betas: [0.9]}", "optim.betas must be a list of two numbers"),
        ("critic: {value_lr: 1e-5}", "optim.lr must be a number, got none"),
        ("optim: {warmup_ratio: 0.1}", "train.max_steps must be a number, got none"),
        ("data: {train: {sources: [mbpp, contest]}}", "a list of one data set"),
        ("paths: {models: {base: 's3://x'}}", "paths.models.base must be a folder"),
        ("optim: {lrr: 1}", "unknown key optim.lrr"),
        ("run: {tags: 3}", "run.tags must be a string, got 3"),
        ("weighting: {temperature: 1}\nloss: {weight_temperature: 2}",
         "weighting.temperature is given under two names"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_the_names_that_were_used(text, told, tmp_path):
    message = error("--recipe", recipe(tmp_path, text))
    assert told in message
    assert "r.yaml" in message or "weight_ceiling" in told  # a range names no file


# Every name in the files of `configs/` and `tests/configs/` of the original's public
# repository, as read in November 2026.
THERE = """
project seed log_interval storage.mode storage.s3.bucket storage.s3.region
storage.s3.prefix paths.models.base paths.models.rm paths.models.ref paths.datasets.mbpp
paths.datasets.contest paths.datasets.humaneval paths.checkpoints.base_path
paths.checkpoints.save_interval paths.checkpoints.keep_last paths.checkpoints.save_final
mlflow.experiment mlflow.tracking_uri mlflow.registry_uri mlflow.artifact_location
launcher.target launcher.resources.gpus launcher.resources.gpu_type
launcher.resources.cpus launcher.resources.memory_gb launcher.resources.disk_gb
devices.compute_backend devices.device_ids devices.mixed_precision devices.num_proc
devices.distributed.enabled devices.distributed.backend devices.distributed.timeout
devices.distributed.init_method devices.distributed.find_unused_parameters
devices.fsdp.enabled devices.fsdp.auto_wrap devices.fsdp.activation_ckpt
devices.fsdp.sharding devices.fsdp.offload_params devices.fsdp.offload_grads
run.name run.tags data.train.sources data.train.max_length data.train.batch_size
data.train.pack_sequences data.train.num_workers data.eval.sources data.eval.max_length
data.eval.batch_size data.eval.pack_sequences data.eval.num_workers pretrain.enabled
pretrain.num_epochs pretrain.max_steps pretrain.lr pretrain.save_value_head
pretrain.early_stopping.enabled pretrain.early_stopping.mode
pretrain.early_stopping.patience pretrain.early_stopping.min_delta
pretrain.early_stopping.monitor train.algo train.full_finetune train.num_epochs
train.max_steps train.eval_interval train.save_interval train.early_stopping.enabled
train.early_stopping.patience train.early_stopping.min_delta
train.early_stopping.monitor train.checkpointing.save_interval
train.checkpointing.keep_last train.checkpointing.save_final critic.target
critic.token_spread critic.delta_mode critic.normalize critic.discount_lambda
critic.gamma critic.gae_lambda critic.auxiliary_loss_coef critic.value_lr
critic.use_pseudo_rewards optim.optimizer optim.lr optim.weight_decay optim.betas
optim.grad_clip optim.scheduler optim.warmup_ratio loss.weight_norm loss.lambda
loss.weight_temperature loss.epsilon loss.max_weight rho1.selection_mode
rho1.skip_threshold_percentile rho1.min_ce_diff eval.protocol eval.sampling.temperature
eval.sampling.top_p eval.sampling.n eval.metrics
""".split()


def test_every_name_of_the_originals_own_files_is_known():
    """`seed` and `critic.gae_lambda` are ours as they are."""
    ours = leaves()
    unknown = [x for x in THERE if not original_names.is_original(x) and x not in ours]
    assert not unknown


def test_what_nothing_reads_is_listed(tmp_path):
    text = "project: x\nlauncher: {target: local, resources: {gpus: 1}}\nseed: 3"
    asked = parse(["--config", recipe(tmp_path, text)], "train")
    assert set(asked.unused) == {"project", "launcher.target", "launcher.resources"}
    assert asked.config.seed == 3


def test_the_recipe_finds_the_data_that_the_config_names(tmp_path):
    machine = recipe(tmp_path, "paths: {datasets: {mbpp: 'file://d/m'}}", "m.yaml")
    text = "data: {train: {sources: [mbpp]}}"
    asked = run("--config", machine, "--recipe", recipe(tmp_path, text))
    assert asked.overrides["data.source"] == "d/m"
