"""One sampled action becomes a candidate: parsed, tried, repaired, evaluated.

Sample → **parse → self-check on one item ⇄ repair → evaluation → feedback** → Candidate

W4S, arXiv 2504.04785, section 3: an action whose workflow breaks on one validation
item is repaired by the meta-agent, three times at most, and is skipped if the error
persists. Every repair is asked for in a side dialogue that holds the turn's context,
the action as it now stands and its error, so side dialogues do not grow. The repaired
code takes the place of the code in the action's text, which is tokenised once.

Departure from the paper's words: an action that cannot be read (no block, several
`solver`s) is an error like any other and may be repaired.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import NamedTuple

from w4s_jax.prompts import ActionParseError, PromptTemplate
from w4s_jax.rollout.evaluate import Evaluator
from w4s_jax.tasks.base import make_feedback
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Context,
    DrawKey,
    ExecutorError,
    InputError,
    Item,
    Policy,
    Purpose,
    Sample,
    SamplingOptions,
    SandboxError,
    Split,
    Task,
    Workflow,
)

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """What all candidates of a trajectory are tried on."""

    task: Task
    items: tuple[Item, ...]
    """Validation items."""
    self_check: Item
    """The one that every candidate is tried on first."""
    feedback_seed: int
    """Of the sample of cases that feedback shows."""
    max_cases: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateEvaluator:
    """Turns sampled actions into evaluated candidates."""

    policy: Policy
    template: PromptTemplate
    evaluator: Evaluator
    sampling: SamplingOptions
    max_repairs: int = 3
    retries: int = 1
    """How often a candidate is begun again after a failure of ours; what it finished is remembered."""

    async def evaluate(self, context: Context, sample: Sample, key: DrawKey, on: Validation) -> Candidate:
        """Returns the evaluated candidate, or the skipped one with its reason.

        Args:
            context: What `sample` was sampled from.
            sample: The action.
            key: That the action was drawn with.
            on: The items to try it on.

        Raises:
            ExecutorError, SandboxError: We broke, `retries` + 1 times.
            BudgetExceededError: A cap left no room; finished items are remembered.
        """
        for attempt in range(self.retries):
            try:
                return await self._evaluated(context, sample, key, on)
            except (ExecutorError, SandboxError) as error:
                _LOG.warning(
                    "%s: %s: %s; trying again (%d of %d)",
                    _name(key), type(error).__name__, error, attempt + 1, self.retries,
                )  # fmt: skip
        return await self._evaluated(context, sample, key, on)

    async def _evaluated(self, context: Context, sample: Sample, key: DrawKey, on: Validation) -> Candidate:
        tried = await self._tried(context, sample, key, on)
        candidate = Candidate(
            index=key.candidate,
            status=CandidateStatus.SKIPPED,
            text=tried.sample.text,
            ids=tried.sample.ids,
            logprobs=tried.sample.logprobs,
            code=tried.workflow.code if tried.workflow else "",
            reason=tried.error,
            usd=tried.usd,
            repairs=tried.repairs,
        )
        if tried.error or tried.workflow is None:
            return candidate
        evaluation = await self.evaluator.evaluate(
            tried.workflow, on.task, on.items, split=Split.VALIDATION, purpose=Purpose.OPTIMISATION
        )
        feedback = make_feedback(
            on.items, evaluation, seed=on.feedback_seed, max_cases=on.max_cases, metric=on.task.metric
        )
        return dataclasses.replace(
            candidate,
            status=CandidateStatus.OK,
            score=feedback.score,
            usd=tried.usd + sum(outcome.usd for outcome in evaluation.outcomes),
            feedback=feedback,
        )

    async def _tried(self, context: Context, sample: Sample, key: DrawKey, on: Validation) -> _Tried:
        """Tries the action, and its repairs, until one passes or no repair is left."""
        usd = 0.0
        for repairs in range(self.max_repairs + 1):
            verdict = await self._try(sample.text, key, on)
            if not verdict.error:
                return _Tried(sample, verdict.workflow, "", repairs, usd)
            usd += verdict.usd
            if repairs == self.max_repairs:
                break
            try:
                sample = await self._repaired(context, sample, key._replace(attempt=repairs + 1), verdict)
            except InputError as error:  # action and error leave no room for a repair
                return _Tried(sample, verdict.workflow, f"{verdict.error} (not repaired: {error})", repairs, usd)
        return _Tried(sample, verdict.workflow, verdict.error, self.max_repairs, usd)

    async def _try(self, text: str, key: DrawKey, on: Validation) -> _Verdict:
        try:
            workflow = self.template.parse(text, _name(key))
        except ActionParseError as error:
            return _Verdict(None, str(error) or "the action cannot be read")
        check = await self.evaluator.self_check(workflow, on.task, on.self_check)
        if check.passed:
            return _Verdict(workflow)
        return _Verdict(workflow, check.outcome.error, check.traceback, check.outcome.usd)

    async def _repaired(self, context: Context, sample: Sample, key: DrawKey, verdict: _Verdict) -> Sample:
        """The action after one repair; unchanged where the reply cannot be read.

        Raises:
            InputError: The side dialogue does not fit the model.
        """
        side = self.policy.extend(context, sample, self.template.repair(verdict.error, verdict.traceback))
        reply = (await self.policy.sample(side, [key], self.sampling))[0]
        try:
            code = self.template.parse(reply.text, _name(key)).code
        except ActionParseError as error:
            _LOG.info("%s: repair %d cannot be read: %s", _name(key), key.attempt, error)
            return sample
        return self.policy.encode_action(self.template.replace_code(sample.text, code))


class _Verdict(NamedTuple):
    """What became of one try; `error` is empty where it passed."""

    workflow: Workflow | None
    error: str = ""
    traceback: str = ""
    usd: float = 0.0


class _Tried(NamedTuple):
    """An action after its self-checks; `error` is empty where it survived."""

    sample: Sample
    workflow: Workflow | None
    error: str
    repairs: int
    usd: float
    """Of the self-checks that failed; the one that passed is part of the evaluation."""


def _name(key: DrawKey) -> str:
    return key.candidate_key.name
