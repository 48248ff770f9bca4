"""The strategy of W4S: a chain of turns, each the best of m, in a dialogue that grows and opens afresh.

History → state, dialogue → **Step** → m actions → the best advances the state → …

W4S, arXiv 2504.04785, section 3. A dialogue opens with the prompt that renders its
state; each later turn appends the action that advanced the state and its feedback;
after `turns_in_context` turns a fresh dialogue opens from the current state. Its turns
are the trajectories that a meta-agent is trained on.

Where all candidates of a turn were skipped, the dialogue goes on from the first of
them, so that the meta-agent sees what did not work. A continued dialogue that no
longer fits the model is followed by a fresh one; nothing is ever truncated.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import ClassVar

from w4s_jax.search.strategy import History, OneDrawStrategy, Step
from w4s_jax.types import CandidateStatus, Context, InputError, Sample, State, StopReason, Turn

_LOG = logging.getLogger(__name__)


class W4SStrategy(OneDrawStrategy):
    """Improves the current workflow, turn by turn, with its feedback in view.

    Example:
        >>> engine = SearchEngine(W4SStrategy, policy, template, evaluator)  # doctest: +SKIP
    """

    name: ClassVar[str] = "w4s"

    def propose(self, history: History) -> Step:
        """The dialogue of the last turn, continued, or a fresh one."""
        state = history.state
        if not history.turns:
            return self._step(state, self._opening(state))
        opened = history.states[_opened_by(history.turns)]
        if state.turn - opened.turn >= self.options.turns_in_context:
            return self._step(state, self._opening(state))
        last = history.turns[-1]
        before = Context(messages=last.messages, prompt_ids=last.prompt_ids)
        messages = self.template.after(state, history.states[-2])
        try:
            context = self.policy.extend(before, _continued(last), messages)
        except InputError as error:
            _LOG.warning("task %s, turn %d: %s; a fresh dialogue opens", state.task, state.turn, error)
            return self._step(state, self._opening(state))
        return self._step(state, context, continues=True)

    def judge(self, history: History, step: Step, turn: Turn) -> Turn:
        """Rewards against the current state, and the state that opened the turn's dialogue."""
        opened = history.states[_opened_by((*history.turns, turn))]
        return self.judged(turn, history.state, opened)

    def _opening(self, state: State) -> Context:
        return self.policy.open(self.template.opening(state))

    def _step(self, state: State, context: Context, *, continues: bool = False) -> Step:
        return Step(
            parents=(state.current,),
            context=context,
            num_candidates=self.options.num_candidates,
            fallback=functools.partial(self._opening, state) if continues else None,
        )


def _opened_by(turns: Sequence[Turn]) -> int:
    """Number of the turn that opened the dialogue of the last one."""
    number = len(turns) - 1
    while number and _continues(turns[number], turns[number - 1]):
        number -= 1
    return number


def _continues(turn: Turn, before: Turn) -> bool:
    """Whether a turn's dialogue is that of the turn before it, grown."""
    known = len(before.messages)
    return len(turn.messages) > known and turn.messages[:known] == before.messages


def _continued(turn: Turn) -> Sample:
    """The action that the dialogue goes on from, as recorded: the chosen one, or the first skipped one."""
    leads = [c for c in turn.candidates if c.index == turn.chosen or turn.chosen is None]
    lead = next((c for c in leads if c.status is not CandidateStatus.FAILED), leads[0])
    return Sample(ids=lead.ids, logprobs=lead.logprobs, text=lead.text, stop=StopReason.END_OF_TURN)
