"""What is decided of training: the optimiser, the loss, the shapes of a step; without JAX, so that a run can name it.

RunConfig → **OptimizerConfig, LossConfig, LearnerConfig** → optimizer, losses, learner
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping

from w4s_jax.training.weights import WeightName
from w4s_jax.types import InputError

# --- the optimiser ------------------------------------------------------------


class OptimizerName(enum.StrEnum):
    """Names of the optimisers."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    SGD = "sgd"


class ScheduleName(enum.StrEnum):
    """What the learning rate does after its warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"


class MomentDtype(enum.StrEnum):
    """Names of the dtypes that moments can be kept in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters are updated. The learning rate is W4S's.

    Example:
        >>> OptimizerConfig(schedule_name="cosine", total_steps=100).warmup_steps
        0
    """

    name: str = "adamw"
    learning_rate: float = 2e-5
    schedule_name: str = "constant"
    warmup_steps: int = 0
    """The rate rises linearly; step i in [0, warmup) takes (i + 1)/warmup of it."""
    total_steps: int = 0
    """Where the cosine reaches `final_fraction`; unused by `constant`."""
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    """Decoupled; on matrices only, never on norms and biases."""
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    moment_dtype: str = "float32"
    """Dtype in which moments are kept between updates."""
    max_grad_norm: float = 1.0
    """Largest global norm of the mean gradient; 0: none."""

    def __post_init__(self) -> None:
        _one_of("optimizer", self.name, OptimizerName)
        _one_of("schedule", self.schedule_name, ScheduleName)
        _one_of("moment_dtype", self.moment_dtype, MomentDtype)
        for field in ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"):
            if not getattr(self, field) >= 0:
                raise InputError(f"{field}={getattr(self, field)} must not be negative; raise --{field}")
        if self.moment_dtype == MomentDtype.BFLOAT16 and 1.0 - self.b2 < 0.01:
            raise InputError(
                f"b2={self.b2} with moment_dtype=bfloat16: its steps are below the rounding of bfloat16 (2^-8) and the "
                "second moment would stand still; lower b2 to 0.99, or keep float32"
            )
        if self.schedule_name == ScheduleName.COSINE and self.total_steps <= self.warmup_steps:
            raise InputError(
                f"total_steps={self.total_steps} of the cosine schedule must exceed warmup_steps={self.warmup_steps}; "
                "raise it or choose the constant schedule"
            )


# --- the loss ------------------------------------------------------------------


class LossKind(enum.StrEnum):
    """Names of the losses."""

    RWR = "rwr"
    GRPO = "grpo"


_WEIGHTS: Mapping[str, tuple[WeightName, ...]] = {LossKind.RWR: tuple(WeightName), LossKind.GRPO: (WeightName.GROUP,)}
"""Weights that make sense under a loss: a clipped ratio needs advantages, which have a sign."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which loss, and its numbers.

    Example:
        >>> LossConfig(kind="grpo", clip_high=0.28).clip_low
        0.2
    """

    kind: str = LossKind.RWR.value
    """A `LossKind`."""
    clip_low: float = 0.2
    """Of grpo: how far below 1 a ratio still counts."""
    clip_high: float = 0.2
    """Of grpo: how far above 1; DAPO's is 0.28."""
    kl_coefficient: float = 0.0
    """Of grpo: weight of the penalty for leaving the frozen start; DeepSeekMath's is 0.04."""

    def __post_init__(self) -> None:
        if self.kind not in set(LossKind):
            raise InputError(f"loss={self.kind!r} is unknown; choose one of {', '.join(LossKind)}")
        check_grpo(self.clip_low, self.clip_high, self.kl_coefficient)
        if self.kind != LossKind.GRPO:
            for field in dataclasses.fields(self)[1:]:
                if getattr(self, field.name) != field.default:
                    raise InputError(
                        f"{field.name}={getattr(self, field.name)} does nothing with loss={self.kind}; "
                        f"leave it out, or give --loss=grpo"
                    )

    def check_weights(self, weights: str) -> None:
        """Refuses weights that make no sense under this loss.

        Args:
            weights: A `WeightName`.

        Raises:
            InputError: An unknown name, or one that does not go with the loss.
        """
        allowed = _WEIGHTS[self.kind]
        if weights not in allowed:
            raise InputError(
                f"weights={weights!r} does not go with loss={self.kind}; give --weights={'|'.join(allowed)}"
            )


def check_grpo(clip_low: float, clip_high: float, kl_coefficient: float) -> None:
    """Refuses numbers that GRPO cannot work with.

    Raises:
        InputError: A clip that is empty or without end, or a penalty that is negative.
    """
    if not 0 < clip_low < 1:
        raise InputError(f"clip_low={clip_low} must lie between 0 and 1; GRPO's is --clip_low=0.2")
    if not 0 < clip_high < math.inf:
        raise InputError(f"clip_high={clip_high} must be positive and finite; GRPO's is --clip_high=0.2")
    if not 0 <= kl_coefficient < math.inf:
        raise InputError(
            f"kl_coefficient={kl_coefficient} must be finite and not negative; DeepSeekMath's is --kl_coefficient=0.04"
        )


# --- the step ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How trajectories become updates; all of it decides results.

    Example:
        >>> LearnerConfig(row_length=1024).trajectories_per_step
        4
    """

    row_length: int = 8192
    """Tokens of one packed row; a longer tree is refused."""
    rows_per_batch: int = 1
    """Rows of one micro-batch, over the whole mesh."""
    trajectories_per_step: int = 4
    """Trajectories in one update."""


def _one_of(thing: str, value: str, names: type[enum.StrEnum]) -> None:
    if value not in set(names):
        raise InputError(f"{thing}={value!r} is unknown; choose one of {', '.join(names)}")
