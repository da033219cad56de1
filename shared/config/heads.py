"""The groups of the config that say what the heads are, and how they draft tokens."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from tyro.conf import arg

from shared import head_types
from shared.config.ranges import Checked
from shared.head_types import HEAD_TYPES

if TYPE_CHECKING:  # choices that a table decides are strings to a type checker
    HeadType: TypeAlias = str
else:
    HeadType = Literal[*HEAD_TYPES]


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(Checked):
    """The K prediction heads; head 0 is the pretrained path."""

    count: Annotated[int, ">= 1", arg(aliases=["--heads"])] = 4
    """K; 1 is plain next-token training"""
    type: Annotated[
        HeadType, arg(aliases=["--head-type"], help=head_types.help_text())
    ] = "linear"
    linear_start: Literal["random", "unembedding"] = "random"
    """new linear heads: random, or copies of head 0's unembedding"""
    fresh: bool = False
    """start new heads (and value head) even where the model's folder holds some"""
    weight: tuple[float, ...] = ()
    """head_weight[k] in the loss, K numbers >= 0; empty: 1 each (only: 0 for head 0)"""
    trunk_gradient_scale: Annotated[float, "in [0, 1]"] = 1.0
    """share of heads k >= 1's gradient that trunk and unembedding get, in [0, 1]"""
    warmup_steps: Annotated[int, ">= 0"] = 0
    """first steps, of heads k >= 1 and value head alone; the trunk starts after them"""
    only: bool = False
    """the trunk never learns: no backward pass through it, no moments of it are kept"""
    target: Literal["data", "self"] = "data"
    """what heads learn to predict: the data's token, or what head 0 itself would say"""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = len(self.weight) in (0, self.count)
        self.require("weight", fits, f"empty or heads.count = {self.count} numbers")
        usable = all(0 <= weight < math.inf for weight in self.weight)
        usable = usable and (not self.weight or any(self.weight))
        self.require("weight", usable, "finite numbers >= 0, not all 0")
        self._require_learning_heads()

    def _require_learning_heads(self) -> None:
        """Refuses `only` where nothing would learn, and `target` where the trunk does.

        A trunk that learns what it says itself would only grow surer of it.
        """
        self.require("target", self.only or self.target == "data", "data without only")
        if not self.only:
            return
        self.require("count", self.count > 1, ">= 2 with only (head 0 learns nothing)")
        learns = not self.weight or any(self.weight[1:])
        self.require("weight", learns, "above 0 for a head k >= 1 with only")
        no_wait = "0 with only (the trunk waits for ever)"
        self.require("warmup_steps", self.warmup_steps == 0, no_wait)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Checked):
    """What exports say of decoding with the heads."""

    draft_vocab: Annotated[int, ">= 0"] = 0
    """heads draft only the most frequent so many ids of the training split; 0: all"""
