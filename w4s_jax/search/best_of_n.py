"""Best of n: independent first actions from the state that every search starts from.

s_1 → **Step** (the opening prompt, again and again) → m actions → … → the best of all

The baseline that tells what taking turns is worth: m × turns actions are drawn from one
prompt, which shows the seed workflows with their feedback, as W4S's first prompt does;
nothing that was drawn is ever shown to the meta-agent. Departure from best of n as it is
usually meant: a broken action is repaired, as everywhere here, and the draws come in turns
of m, so that the rules that end a search hold for it, too.
"""

from __future__ import annotations

from typing import ClassVar

from w4s_jax.search.strategy import History, OneDrawStrategy, Step


class BestOfN(OneDrawStrategy):
    """Draws every action from s_1."""

    name: ClassVar[str] = "best_of_n"

    def propose(self, history: History) -> Step:
        """The opening prompt of s_1, whatever was found since."""
        start = history.states[0]
        context = self.policy.open(self.template.opening(start))
        return Step(parents=(start.current,), context=context, num_candidates=self.options.num_candidates)
