"""The config: one tree of frozen dataclasses, every default written once.

A run's config is built in layers, later ones winning: the defaults below, the preset
of the model, `--config` (the machine), `--recipe` (the experiment), single fields on
the command line. `shared/run/command_line.py` does that; this file only says what a
config is and when it makes sense.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from tyro.conf import arg

from shared import algorithms
from shared.algorithms import ALGORITHMS, Algorithm, Rule
from shared.config.heads import DecodingConfig, HeadsConfig
from shared.config.machine import MachineConfig
from shared.config.model import ModelConfig
from shared.config.ranges import Checked
from shared.config.train import TrainConfig

if TYPE_CHECKING:  # choices that a table decides are strings to a type checker
    Algo: TypeAlias = str
else:
    Algo = Literal[*ALGORITHMS]
TrackerName = Literal["mlflow", "jsonl", "none"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What is trained on, and how it is cut into rows."""

    source: Annotated[str, arg(aliases=["--data"])] = "minis"
    """`minis`, `mbpp`, `humaneval`, `code_contests`, a folder, or one .jsonl file"""
    format: Literal[
        "auto", "mbpp", "humaneval", "contest", "completion", "messages"
    ] = "auto"
    """keys of a JSON line; `auto` reads them off the first line of a file"""
    chat: bool = False
    """a user's prompt, an assistant's completion, in the tokenizer's chat template"""
    train_split: str = "train"
    """split that is trained on (`train_mini` is the ten-problem one of the minis)"""
    tokenizer: str = ""
    """`bytes` (ByT5), a folder, or empty: the model's own (bytes for a preset)"""
    max_examples: Annotated[int, ">= 0"] = 0
    """first so many examples of each split; 0 takes all"""
    check_against: tuple[str, ...] = ()
    """more files or folders that the training data must not share text with"""
    max_length: Annotated[int, ">= 2"] = 128
    """L, tokens of a row; longer documents are cut at the end, and counted"""
    batch_size: Annotated[int, ">= 1"] = 8
    """B, rows of one micro-batch"""
    layout: Literal["packed", "padded"] = "packed"
    """training rows: several whole documents each, or one"""
    loss_on: Literal["all", "completion"] = "all"
    """target tokens: all but the first of a document, or those of the completion"""


@dataclass(frozen=True, kw_only=True)
class WeightingConfig(Checked):
    """How scores become weights; the formulas are in `shared/weighting.py`."""

    rule: Literal["default", Rule] = "default"
    """`default` takes the algorithm's: uniform, soft or skip"""
    scope: Literal["document", "window"] = "document"
    """over which targets the mean of the soft weights is 1"""
    temperature: Annotated[float, "> 0"] = 0.7
    """score that changes a soft weight by a factor e, > 0"""
    weight_floor: Annotated[float, "in [0, 1]"] = 0.05
    """lower bound of a soft weight, in [0, 1]"""
    weight_ceiling: Annotated[float, ">= 1"] = 3.0
    """upper bound of a soft weight, >= 1"""
    skip_fraction: Annotated[float, "in [0, 1)"] = 0.3
    """share of a document's target tokens that rule `skip` drops, in [0, 1)"""
    excess: Literal["signed", "absolute"] = "signed"
    """excess loss nll - ref_nll (Rho-1), or its absolute value"""
    excess_floor: Annotated[float, ">= 0"] = 0.0
    """excess losses smaller than this in size count as 0, nats, >= 0"""
    control: Literal["none", "shuffle", "random"] = "none"
    """replace the scores by their shuffle within the document, or by noise"""


@dataclass(frozen=True, kw_only=True)
class CriticConfig(Checked):
    """The value head and the advantages that `--algo critic` scores tokens with."""

    reward_model: Annotated[str, arg(aliases=["--reward-model"])] = ""
    """classifier with one label, folder or hub name; empty: pseudo reward"""
    reward_revision: str = ""
    """commit, tag or branch of a reward model's name on the hub"""
    score: Literal["td_error", "advantage"] = "td_error"
    """what is z-scored per document: TD errors, or GAE advantages"""
    reward: Literal["uniform", "last"] = "uniform"
    """the sequence reward R: R / n on every target, or R on the last"""
    discount: Annotated[float, "in [0, 1]"] = 0.99
    """of the next value, in [0, 1]"""
    gae_lambda: Annotated[float, "in [0, 1]"] = 0.95
    """of the next advantage, in [0, 1]"""
    value_loss_coef: Annotated[float, ">= 0"] = 0.1
    """of the value loss in stage 2, >= 0"""
    trunk_gradient: bool = False
    """whether the value loss reaches the trunk in stage 2"""
    stage1_epochs: Annotated[int, ">= 0"] = 50
    """at most so many passes over the frozen trunk's states; 0 leaves stage 1 out"""
    stage1_lr: Annotated[float, "> 0"] = 1e-4
    """learning rate of stage 1, > 0"""
    stage1_patience: Annotated[int, ">= 1"] = 10
    """passes without improvement after which stage 1 ends, >= 1"""
    stage1_min_delta: Annotated[float, ">= 0"] = 1e-4
    """what counts as an improvement of the validation error, >= 0"""
    stage1_disk_mib: Annotated[int, ">= 1"] = 4096
    """of disk that the states may take while stage 1 lasts; more are sampled"""


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(Checked):
    """The frozen model that excess losses and pseudo rewards are measured against."""

    model: Annotated[str, arg(aliases=["--reference"])] = ""
    """run, Hugging Face folder or hub name of the reference; empty: train one first"""
    revision: str = ""
    """commit, tag or branch of a name on the hub"""
    epochs: Annotated[int, "in [1, 1000000]"] = 3
    """passes over the `reference` split"""
    lr: Annotated[float, "> 0"] = 5e-5
    """learning rate of the reference, > 0"""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """One optimizer and one schedule; new heads and the value head scale the rate."""

    name: Literal["adamw", "lion", "sgd"] = "adamw"
    """update rule"""
    lr: Annotated[float, "> 0"] = 5e-5
    """peak learning rate of the trunk, > 0"""
    head_lr_scale: Annotated[float, ">= 0"] = 1.0
    """learning rate of heads k >= 1 over the trunk's, >= 0"""
    value_lr_scale: Annotated[float, ">= 0"] = 10.0
    """learning rate of the value head in stage 2 over the trunk's, >= 0"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """of the learning rate after the warm-up"""
    warmup_steps: Annotated[int, ">= 0"] = 0
    """steps in which the rate rises linearly from 0, >= 0"""
    final_lr_scale: Annotated[float, "in [0, 1]"] = 0.0
    """where linear and cosine end, over the peak, in [0, 1]"""
    weight_decay: Annotated[float, ">= 0"] = 0.01
    """of matrices (not norms, biases, positions), >= 0; decoupled, but for sgd"""
    beta1: Annotated[float, "in [0, 1)"] = 0.9
    """decay of the first moment (adamw, lion), or the momentum of sgd, in [0, 1)"""
    beta2: Annotated[float, "in [0, 1)"] = 0.999
    """decay of the second moment (adamw), or of lion's momentum, in [0, 1)"""
    epsilon: Annotated[float, "> 0"] = 1e-8
    """of adamw's denominator, > 0"""
    clip_norm: Annotated[float, "> 0"] = 1.0
    """largest global norm of a gradient, > 0"""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Checked):
    """Where metrics go beside the terminal."""

    to: Annotated[TrackerName, arg(aliases=["--tracking"])] = "mlflow"
    """`mlflow` also writes the JSON lines; `none` writes neither"""
    experiment: str = "wmtp"
    """MLflow experiment"""
    tensorboard: bool = False
    """also write TensorBoard event files into the run folder"""


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """Everything that decides what a run computes and where it goes."""

    algo: Annotated[Algo, arg(help=algorithms.help_text())] = algorithms.PLAIN
    seed: Annotated[int, ">= 0"] = 0
    """of initialisation, order, dropout and controls; >= 0"""
    run_name: str = ""
    """folder in output_dir; empty: algorithm, date and time"""
    output_dir: str = "runs"
    """where run folders and the caches they share lie"""
    tags: str = ""
    """labels of the run, separated by commas"""
    verbose: bool = False
    """full tracebacks"""
    model: ModelConfig = field(default_factory=ModelConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A run's folder must not lie outside output_dir, whatever the name says.
        named = re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{0,100}", self.run_name) is not None
        plain = "a folder name (A-Z a-z 0-9 . _ -, no . first, at most 100 letters)"
        self.require("run_name", named, plain)
        length, rows = self.data.max_length, self.model.max_positions
        less = f"less than data.max_length = {length}"
        self.require("heads.count", self.heads.count < length, less)
        at_most = f"at most model.max_positions = {rows}"
        self.require("data.max_length", length <= rows, at_most)
        cudnn = self.machine.attention == "cudnn"
        fits = not cudnn or self.machine.dtype == "bfloat16"
        self.require("machine.dtype", fits, "bfloat16 for machine.attention cudnn")
        reaches = self.algorithm.value_head and self.critic.trunk_gradient
        fits = not (self.heads.only and reaches)
        self.require("critic.trunk_gradient", fits, "false with heads.only")
        if self.weighting.control != "none" and self.rule == "uniform":
            raise ValueError(
                f"weighting.control = {self.weighting.control!r} needs a rule that "
                "reads scores (soft or skip), got weighting.rule = 'uniform'"
            )

    @property
    def algorithm(self) -> Algorithm:
        """The row of the algorithm."""
        return ALGORITHMS[self.algo]

    @property
    def head_warmup(self) -> int:
        """Steps in which the trunk waits: 0 where nothing else would learn in them."""
        others = self.heads.count > 1 or self.algorithm.value_head
        return self.heads.warmup_steps if others else 0

    @property
    def rule(self) -> Rule:
        """The weighting rule in force: `weighting.rule`, or the algorithm's own."""
        if self.weighting.rule == "default":
            return self.algorithm.rule
        return self.weighting.rule
