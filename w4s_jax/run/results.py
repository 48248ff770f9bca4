"""What a call returns: the best workflow to read and to run, scores with intervals, what was spent, the test.

search, evaluation → **OptimizeResult, EvaluateResult** → caller; OptimizeResult.best(question) → sandbox ⇄ executor
"""

from __future__ import annotations

import asyncio
import dataclasses
import html
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w4s_jax.reports.intervals import Estimate, share
from w4s_jax.run import closing
from w4s_jax.run.arguments import words_of_calls
from w4s_jax.run.evaluation import EvaluationResult
from w4s_jax.run.search import SearchRunResult
from w4s_jax.runtime import Answer, LoadedWorkflow
from w4s_jax.search.base import SearchEnd
from w4s_jax.types import BINARY_METRICS, BudgetExceededError, Evaluated

INTERRUPTED = "interrupted"
"""Why a search ended that Ctrl-C ended; the others are `search.base.SearchEnd`."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class OptimizedWorkflow:
    """A workflow that a search evaluated: its code and score; called with a question, it answers.

    Attributes:
        task: Name of the task.
        name: Of the workflow: a seed's, or where the search wrote it, e.g. `r0-t0-turn2-c1`.
        code: Python source with `solver(agent, task)`.
        score: Mean of the task's metric on the validation items, in [0, 1]; optimistic, as the best of many.
        accuracy: Share of validation items graded 1.0.
        interval: 95 % interval of the score (Wilson; where items may be partly right, on the safe side).
        n: Validation items.
        metric: Name of the metric.
        usd_per_item: Mean USD a validation item, from list prices.
        path: Its file, `workflows/….py` in the run directory; None where none was written.
    """

    def __init__(self, task: str, evaluated: Evaluated, path: Path | None, load: Callable[[str], LoadedWorkflow]):
        """Takes what was evaluated, and who makes it answer."""
        feedback = evaluated.feedback
        estimate = share(feedback.score * feedback.n, feedback.n)
        self.task, self.name, self.code = task, evaluated.workflow.name, evaluated.workflow.code
        self.score, self.accuracy, self.n = feedback.score, feedback.accuracy, feedback.n
        self.interval = Interval(estimate.low, estimate.high)
        self.metric, self.usd_per_item, self.path = feedback.metric, feedback.usd_per_item, path
        self._load, self._lock = load, threading.Lock()
        self._loaded: LoadedWorkflow | None = None

    def __call__(self, question: str, *, entry_point: str | None = None, public_tests: Sequence[str] = ()) -> Answer:
        """Answers one question in the sandbox, with the run's executor; nothing is cached, and no cap in USD holds.

        Args:
            question: The text that `solver` gets.
            entry_point: Name of the function to write, for code.
            public_tests: Assertions that the workflow may run, for code.

        Raises:
            WorkflowError: The workflow broke.
            InputError: No key, or no sandbox works on this machine.
            SandboxError: The sandbox failed.
            openai.OpenAIError: The executor's client failed.
        """
        with self._lock:
            loaded = self._loaded = self._loaded or self._load(self.code)
        return loaded(question, entry_point=entry_point, public_tests=public_tests)

    async def answer(
        self, question: str, *, entry_point: str | None = None, public_tests: Sequence[str] = ()
    ) -> Answer:
        """As calling it, from an event loop, which is not held up."""
        return await asyncio.to_thread(self, question, entry_point=entry_point, public_tests=public_tests)

    def close(self) -> None:
        """Ends the sandbox that the first question started; so does forgetting the result."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __repr__(self) -> str:
        return (
            f"OptimizedWorkflow(name={self.name!r}, score={self.score:.3f}, interval={_bounds(self.interval)}, "
            f"n={self.n}, usd_per_item={self.usd_per_item:.6f})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestResult:
    """The best workflow and the best seed on the test split, which nothing was chosen by; items of all tasks pooled."""

    __test__ = False  # no class of tests, whatever its name says to pytest

    score: float
    """Of the best workflow, mean of the task's metric."""
    interval: Interval
    """95 %: Wilson's of an accuracy, else Student's."""
    accuracy: float
    """Share of items at 1.0."""
    n: int
    """Items."""
    usd_per_item: float
    seed_score: float
    """Of the best seed, to compare with."""
    seed_interval: Interval
    gain: float
    """Mean difference of the two on the same items."""
    gain_interval: Interval
    """95 %, Student's, paired by item."""
    summary: Mapping[str, Any]
    """As `summary.json`, with each task apart."""
    text: str
    """The same as people read it."""

    @classmethod
    def of(cls, outcome: SearchRunResult) -> TestResult:
        """Reads it out of a closing evaluation."""
        search, seeds = (closing.labelled(outcome.results, label) for label in ("search", "seeds"))
        found, seed = closing.pooled(search), closing.pooled(seeds)
        gain = closing.paired_gain(seeds, search) or Estimate(found.value - seed.value, 0, -1.0, 1.0)
        n = sum(one.evaluation.n for one in search)
        return cls(
            score=found.value,
            interval=Interval(found.low, found.high),
            accuracy=sum(one.evaluation.num_right for one in search) / n if n else 0.0,
            n=n,
            usd_per_item=sum(one.evaluation.usd_per_item * one.evaluation.n for one in search) / n if n else 0.0,
            seed_score=seed.value,
            seed_interval=Interval(seed.low, seed.high),
            gain=gain.value,
            gain_interval=Interval(gain.low, gain.high),
            summary=outcome.summary,
            text=words_of_calls(outcome.text),
        )

    def __str__(self) -> str:
        return (
            f"test: {self.score:.3f} {_bounds(self.interval)} n={self.n}; best seed {self.seed_score:.3f} "
            f"{_bounds(self.seed_interval)}; gain, paired {self.gain:+.3f} {_bounds(self.gain_interval)}"
        )


class OptimizeResult:
    """What a search found, as far as it came; printed, it is the summary that the command prints.

    Attributes:
        best: The best workflow by validation; of several tasks, that with the highest score.
        by_task: The best workflow of each task.
        seeds: The workflows that the search of the best one's task started from, the best first.
        turns: Turns that were made, those of earlier calls in this run directory included; over all tasks.
        history: Best validation score before the first turn and after each one, of the best one's task.
        stopped_by: `turns`, `target`, `plateau`, `budget` or `interrupted`: why the last search ended.
        usd: Spent in this run directory, earlier calls included.
        summary: As `summary.json`.
        report: The HTML report; written when a search ends.
        run_dir: All that the run keeps.
    """

    def __init__(
        self,
        outcome: SearchRunResult,
        *,
        load: Callable[[str], LoadedWorkflow],
        test: Callable[[], SearchRunResult],
        interrupted: bool = False,
    ) -> None:
        """Takes what a search ended with.

        Args:
            outcome: Of the search.
            load: Makes a workflow's code answer questions.
            test: Makes the closing evaluation.
            interrupted: Whether Ctrl-C ended it.
        """
        self.summary, self.run_dir = outcome.summary, outcome.run_dir
        self.report = Path(self.summary["report"])
        self._outcome, self._run_test, self._lock = outcome, test, threading.Lock()
        self._tested = TestResult.of(outcome) if outcome.results else None
        searched = outcome.searched.values()
        files = {one.task: Path(self.summary["searches"][one.task]["file"]) for one in searched}
        self.by_task: Mapping[str, OptimizedWorkflow] = {
            one.task: OptimizedWorkflow(one.task, one.found.best, files[one.task], load) for one in searched
        }
        self.best = max(self.by_task.values(), key=lambda one: one.score)
        chosen = outcome.searched[self.best.task]
        seeds = sorted(chosen.found.start.seeds, key=lambda seed: -seed.feedback.score)
        self.seeds = tuple(OptimizedWorkflow(chosen.task, seed, None, load) for seed in seeds)
        self.turns = sum(len(one.found.turns) for one in searched)
        self.history: tuple[float, ...] = tuple(self.summary["searches"][self.best.task]["by_turn"])
        ends = [one.found.stopped_by for one in searched]
        last = SearchEnd.BUDGET if SearchEnd.BUDGET in ends or outcome.exceeded else ends[-1]
        self.stopped_by = INTERRUPTED if interrupted or last is None else str(last)
        self.usd: float = self.summary["usd"]

    def test(self) -> TestResult:
        """Opens the sealed test split, once, for the best workflow and the best seed; a second call says the same.

        Raises:
            InputError: The test split has no items, or the run directory is in use.
            BudgetExceededError: A cap left no room; what was finished is kept, and a higher cap goes on.
            ExecutorError, SandboxError, StoreError: We broke.
        """
        with self._lock:
            if self._tested is None:
                outcome = self._run_test()
                self.summary, self.usd = outcome.summary, outcome.summary["usd"]
                self._outcome, self._tested = outcome, TestResult.of(outcome)
            return self._tested

    def close(self) -> None:
        """Ends the sandboxes that questions to its workflows started."""
        for one in (*self.by_task.values(), *self.seeds):
            one.close()

    def __str__(self) -> str:
        ended = f"stopped by {self.stopped_by}; the same call goes on" if self.stopped_by == INTERRUPTED else ""
        return "\n".join(filter(None, [words_of_calls(self._outcome.text).strip("\n"), ended]))

    def __repr__(self) -> str:
        return (
            f"OptimizeResult(best={self.best!r}, turns={self.turns}, stopped_by={self.stopped_by!r}, "
            f"usd={self.usd:.6f}, run_dir={str(self.run_dir)!r})"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class EvaluateResult:
    """One workflow on one split; printed, it is what the command prints.

    Attributes:
        score: Mean of the task's metric over the items that were evaluated.
        interval: 95 % interval of the score: Wilson's of an accuracy, else Student's.
        accuracy: Share of items graded 1.0.
        n: Items that were evaluated.
        not_evaluated: Items that a cap or a failing service left out; the same call goes on.
        usd_per_item: Mean USD an item, from list prices.
        usd: Of this evaluation, whenever it was bought.
        items: A dict an item: id, status, score, answer, error, calls, tokens, usd.
        stopped_by: `budget` or `failures` where items were left out; empty where none was.
        summary: All of it, as `--json_out` of the command.
    """

    def __init__(self, outcome: EvaluationResult, text: str) -> None:
        """Takes what an evaluation ended with, and its text."""
        self.summary, self._text = outcome.json, words_of_calls(text)
        self.score: float = outcome.evaluation.score
        self.accuracy, self.n = outcome.evaluation.accuracy, outcome.evaluation.n
        binary = outcome.json["metric"] in BINARY_METRICS
        self.interval = Interval(*outcome.json["ci95" if binary else "score_ci95"])
        self.not_evaluated: int = outcome.json["not_evaluated"]
        self.usd_per_item, self.usd = outcome.evaluation.usd_per_item, float(outcome.json["usd"])
        self.items: Sequence[Mapping[str, Any]] = outcome.json["items"]
        left = outcome.left_out
        self.stopped_by = "" if left is None else "budget" if isinstance(left, BudgetExceededError) else "failures"

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        left = f", not_evaluated={self.not_evaluated}" if self.not_evaluated else ""
        return f"EvaluateResult(score={self.score:.3f}, interval={_bounds(self.interval)}, n={self.n}{left})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _bounds(interval: Interval) -> str:
    return f"[{interval.low:.3f}, {interval.high:.3f}]"
