"""Random search: single edits of the best workflow so far, written without seeing how it did.

History → the best so far → **Step** (its code alone, one change asked for) → m edits → …

The baseline that tells what feedback is worth: the meta-agent, the selection by
validation score, the repairs and the number of evaluations are those of the other
strategies, while the prompt holds neither scores nor failures nor cases. Departures from
random search as it is usually meant: the edits are drawn by a language model, not
uniformly, and a broken one is repaired with its error in view, as everywhere here.
"""

from __future__ import annotations

from typing import ClassVar

from w4s_jax.search.strategy import History, OneDrawStrategy, Step


class RandomEdits(OneDrawStrategy):
    """Changes the best workflow so far in one place, blindly."""

    name: ClassVar[str] = "random"

    def propose(self, history: History) -> Step:
        """The code of the best so far, and the request for one change of it."""
        best = history.best
        messages = self.template.edit(history.search_task.task.description, best.workflow)
        return Step(parents=(best,), context=self.policy.open(messages), num_candidates=self.options.num_candidates)
