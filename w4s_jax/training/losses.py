"""What training minimises: reward-weighted regression, or GRPO's clipped probability ratio.

hidden states, PackedBatch → nll of every target → **Loss** → (sum, metrics) → step

A loss is a small frozen object that turns the log-probabilities of a batch's targets into one
sum. It is a field of `Trainer`, as attention is: the tree, the cross-entropy, the accumulation
and the update know nothing of it. The sum is divided by the number of actions of the
optimiser's global batch: the denominator is passed in, and neither accumulation nor data
parallelism can change the value.

* `RewardWeightedRegression`: Σ over actions of weight · (mean NLL of the action's tokens); with weights
  exp(r/τ) it is RLAO (W4S, arXiv 2504.04785; reward-weighted regression, Peters & Schaal 2007).
* `GRPO` (DeepSeekMath, arXiv 2402.03300): PPO's clipped ratio (arXiv 1707.06347) with the advantage over the
  siblings of a turn, the bounds apart as in DAPO (arXiv 2503.14476), and a penalty for leaving the start.

Legend: B rows, T tokens of a row, M targets of a row, D embed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from w4s_jax.training.config import LossConfig, LossKind, check_grpo
from w4s_jax.training.cross_entropy import OutputLayer, target_nll
from w4s_jax.training.tree import PackedBatch
from w4s_jax.types import InputError


class LossMetrics(NamedTuple):
    """Sums, so that those of several micro-batches add up; all float32 scalars."""

    loss: jax.Array
    """The loss before its denominator."""
    nll: jax.Array
    """Σ nll over the targets, nats."""
    targets: jax.Array
    """Tokens that carry loss."""
    measures: Mapping[str, jax.Array]
    """Σ over the targets of what the loss itself measures, by name; empty for reward-weighted regression."""


class Targets(NamedTuple):
    """The targets of a batch as a loss sees them; float32 [B, M] each."""

    nll: jax.Array
    """Of the model that learns, nats; 0 where `Loss.counts` is False."""
    weight: jax.Array
    """The action's weight over its length."""
    share: jax.Array
    """1 over the action's length; 0 where there is no target."""
    behaviour_logprob: jax.Array
    """Of the model that sampled, natural log at temperature 1."""
    reference_logprob: jax.Array | None = None
    """Of the model that training started from; None where the loss does not ask for it."""


class Loss(Protocol):
    """Turns the log-probabilities of a batch's targets into what is minimised."""

    @property
    def needs_behaviour(self) -> bool:
        """Whether every target needs the log-probability that it was sampled with."""

    @property
    def needs_reference(self) -> bool:
        """Whether it asks for the log-probabilities of the frozen start."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what it measures besides its value."""

    def counts(self, weight_BM: jax.Array, share_BM: jax.Array) -> jax.Array:
        """The targets whose log-probability it needs, bool [B, M]; the others are not computed."""

    def __call__(self, targets: Targets, denominator: jax.Array | float = 1.0) -> tuple[jax.Array, LossMetrics]:
        """The scalar loss in float32, and the sums behind it.

        Args:
            targets: Of one micro-batch.
            denominator: Actions of the optimiser's global batch; 1 gives the sum that accumulates.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardWeightedRegression:
    """Σ weight·nll: RLAO's loss (arXiv 2504.04785), or that of cloning where every weight is 1.

    With the advantages of a group for weights it is the policy gradient of a first, on-policy update, without a bound
    on how far a negative one may push; `GRPO` has that.
    """

    @property
    def needs_behaviour(self) -> bool:
        """See `Loss`."""
        return False

    @property
    def needs_reference(self) -> bool:
        """See `Loss`."""
        return False

    @property
    def measures(self) -> tuple[str, ...]:
        """See `Loss`."""
        return ()

    def counts(self, weight_BM: jax.Array, share_BM: jax.Array) -> jax.Array:
        """See `Loss`."""
        del share_BM
        return weight_BM != 0

    def __call__(self, targets: Targets, denominator: jax.Array | float = 1.0) -> tuple[jax.Array, LossMetrics]:
        """See `Loss`."""
        total = jnp.sum(targets.weight * targets.nll)
        counted = jnp.sum(targets.weight != 0, dtype=jnp.float32)
        return total / denominator, LossMetrics(total, jnp.sum(targets.nll), counted, {})


_MAX_LOG_RATIO = 20.0
"""exp(20) is far outside every clip and far inside float32; beyond it a log-ratio is held and has no gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO:
    """The clipped ratio of DeepSeekMath (arXiv 2402.03300, equation 3), its penalty in the loss as there.

    With A the action's advantage, r_t = p(t) / p_behaviour(t) and q_t = p_start(t) / p(t),

        −1/|action| Σ_t [min(r_t·A, clip(r_t, 1 − low, 1 + high)·A) − kl_coefficient·(q_t − ln q_t − 1)].

    Both sides of the ratio are the policy at temperature 1: `Sample.logprobs` is recorded there, whatever
    `temperature` the sampling used, so an update that starts at the sampling parameters has r = 1, and the clip holds
    the very policy that is trained. An importance weight of the sampling distribution it is only where that
    temperature is 1; at a lower one the sum runs over actions that are more likely than under the trained policy,
    as it does for RWR. The penalty (k3 of Schulman, joschu.net/blog/kl-approx.html) is likewise averaged over the
    sampled tokens.

    Departures: the mean runs over the actions of an update rather than of one question; the log-ratios are
    held to ±20.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> sampled = Targets(nll=0 * one, weight=one, share=one, behaviour_logprob=-jnp.log(2 * one))
        >>> float(GRPO()(sampled)[0])  # the ratio of 2 counts as 1.2
        -1.2000000476837158
    """

    clip_low: float = LossConfig.clip_low
    """How far below 1 a ratio still counts."""
    clip_high: float = LossConfig.clip_high
    """How far above 1."""
    kl_coefficient: float = LossConfig.kl_coefficient
    """Weight of the penalty for leaving the frozen start; 0: none, and the start is not kept."""

    def __post_init__(self) -> None:
        check_grpo(self.clip_low, self.clip_high, self.kl_coefficient)

    @property
    def needs_behaviour(self) -> bool:
        """See `Loss`."""
        return True

    @property
    def needs_reference(self) -> bool:
        """See `Loss`."""
        return self.kl_coefficient > 0

    @property
    def measures(self) -> tuple[str, ...]:
        """See `Loss`; each a mean over the targets: whose clip holds, the ratio, and the KL to the start in nats."""
        return ("clip_fraction", "mean_ratio", *(("kl",) if self.needs_reference else ()))

    def counts(self, weight_BM: jax.Array, share_BM: jax.Array) -> jax.Array:
        """See `Loss`; an advantage of 0 still has a ratio and a KL."""
        del weight_BM
        return share_BM > 0

    def __call__(self, targets: Targets, denominator: jax.Array | float = 1.0) -> tuple[jax.Array, LossMetrics]:
        """See `Loss`."""
        weight, counted = targets.weight, targets.share > 0
        ratio = jnp.exp(_held(-targets.nll - targets.behaviour_logprob))
        clipped = jnp.clip(ratio, 1.0 - self.clip_low, 1.0 + self.clip_high)
        losses = -jnp.minimum(ratio * weight, clipped * weight)
        measured = {"clip_fraction": clipped * weight < ratio * weight, "mean_ratio": ratio}
        if self.needs_reference:
            assert targets.reference_logprob is not None
            log_quotient = _held(targets.reference_logprob + targets.nll)
            kl = jnp.expm1(log_quotient) - log_quotient  # exp(x) − 1 − x would lose a small KL to cancellation
            losses += self.kl_coefficient * targets.share * kl
            measured["kl"] = kl
        total = jnp.sum(jnp.where(counted, losses, 0.0))
        sums = {name: jnp.sum(jnp.where(counted, value, 0.0)) for name, value in measured.items()}
        metrics = LossMetrics(total, jnp.sum(targets.nll), jnp.sum(counted, dtype=jnp.float32), sums)
        return total / denominator, metrics


def _held(log_ratio: jax.Array) -> jax.Array:
    return jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def packed_loss(
    loss: Loss,
    hidden_BTD: jax.Array,
    batch: PackedBatch,
    layer: OutputLayer,
    denominator: jax.Array | float = 1.0,
    *,
    reference_logprob_BM: jax.Array | None = None,
    chunk: int,
) -> tuple[jax.Array, LossMetrics]:
    """A loss over the targets of a batch.

    Args:
        loss: What the targets' log-probabilities become.
        hidden_BTD: Final hidden states of the batch's tokens.
        batch: From `training.tree`.
        layer: The model's output layer.
        denominator: Actions of the optimiser's global batch; 1 gives the sum that accumulates.
        reference_logprob_BM: Of the frozen start; for a loss that needs it.
        chunk: Targets of a row whose logits are held at once.

    Returns:
        The scalar loss in float32, and the sums behind it.

    Raises:
        InputError: The shapes do not agree.
    """
    source, token, weight = batch.target_source, batch.target_token, batch.target_weight
    if not source.shape == token.shape == weight.shape or hidden_BTD.shape[:1] != source.shape[:1]:
        raise InputError(
            f"targets {source.shape}, {token.shape}, {weight.shape} must be equal [B, M] "
            f"with the B of hidden {hidden_BTD.shape}; pack them with training.tree.pack"
        )
    counts = loss.counts(weight, batch.target_share)
    nll = target_nll(hidden_BTD, source, token, counts, layer, chunk=chunk)
    return loss(Targets(nll, weight, batch.target_share, batch.behaviour_logprob, reference_logprob_BM), denominator)


# --- by name ------------------------------------------------------------------


def make_loss(config: LossConfig) -> Loss:
    """The loss of a config."""
    if config.kind == LossKind.GRPO:
        return GRPO(clip_low=config.clip_low, clip_high=config.clip_high, kl_coefficient=config.kl_coefficient)
    return RewardWeightedRegression()
