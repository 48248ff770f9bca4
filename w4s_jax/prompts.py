"""States become chat messages, model text becomes a workflow.

State → **prompt** → Policy.sample → **Workflow** → self-check → **repair message** …

Two templates speak the same protocol. `FullTemplate` is the default for real
models: interface, principles, task, archive, current workflow with feedback and
cases, output format (the parts W4S names, arXiv 2504.04785; the words are ours).
`CompactTemplate` says the same facts in about a hundred tokens for the tiny
meta-agent of this package.

Nothing of the test split can get here: a `State` holds `Feedback` alone, which
`tasks.base.make_feedback` refuses to build from a test evaluation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Protocol

from w4s_jax.types import Case, Evaluated, Feedback, ItemStatus, Message, State, W4sError, Workflow

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_SOLVER = re.compile(r"^(?:async\s+)?def\s+solver\s*\(", re.MULTILINE)


class ActionParseError(W4sError, ValueError):
    """The model's text holds no single Python block with `solver`; the message says what is missing."""


class PromptTemplate(Protocol):
    """Everything a meta-agent reads, and how its own text is read."""

    def opening(self, state: State) -> tuple[Message, ...]:
        """The dialogue that renders the state it starts from."""

    def after(self, state: State, previous: State) -> tuple[Message, ...]:
        """What follows the action that led from `previous` to `state`."""

    def edit(self, description: str, workflow: Workflow) -> tuple[Message, ...]:
        """A dialogue that shows a task and a workflow, not how it did, and asks for one change of it."""

    def repair(self, error: str, traceback: str) -> tuple[Message, ...]:
        """Asks for a repaired workflow after a failed self-check."""

    def parse(self, text: str, name: str) -> Workflow:
        """Reads the workflow of an action.

        Raises:
            ActionParseError: No block, or several, define `solver`.
        """

    def replace_code(self, text: str, code: str) -> str:
        """Puts repaired code in the place of the code of an action's text."""


def parse_action(text: str, name: str) -> Workflow:
    """Reads the one Python block that defines `solver` out of an action's free text.

    A block that the model left open at the end of its text is read to the end.

    Args:
        text: What the model wrote.
        name: Name of the workflow.

    Raises:
        ActionParseError: No block, or more than one, defines `solver`.
    """
    return Workflow(name=name, code=_solver_block(text).group(1))


def replace_code(text: str, code: str) -> str:
    """Puts `code` into the place of the block that defines `solver`, or behind the text where it has none."""
    fenced = f"```python\n{code}\n```"
    try:
        block = _solver_block(text)
    except ActionParseError:
        return f"{_BLOCK.sub('', text).strip()}\n{fenced}".lstrip()
    return text[: block.start()] + fenced + text[block.end() :]


def _solver_block(text: str) -> re.Match[str]:
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        raise ActionParseError("the reply holds no Python block; write one block fenced by ```python and ```")
    solvers = [b for b in blocks if _SOLVER.search(b.group(1))]
    if not solvers:
        raise ActionParseError("no Python block defines solver; write def solver(agent, task): …")
    if len(solvers) > 1:
        raise ActionParseError(f"{len(solvers)} Python blocks define solver; write one")
    return solvers[0]


def _user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def _all_skipped(state: State, previous: State) -> bool:
    return state.current == previous.current


def _metric(feedback: Feedback) -> str:
    """What a search optimises, in words."""
    return {"f1": "mean F1", "score": "mean score"}.get(feedback.metric, "accuracy")


def _since(score: float, before: float) -> str:
    if score == before:
        return "unchanged from"
    return f"{'up' if score > before else 'down'} from {before:.3f} with"


def _change(feedback: Feedback, before: float, best: float) -> str:
    """A score against that of the workflow before it and the best before both of them."""
    score, name = feedback.score, _metric(feedback)
    so_far = f"the best so far was {best:.3f}"
    if score > best:
        so_far += ", which it passes"
    elif score == best:
        so_far += ", which it ties"
    return f"{name[0].upper()}{name[1:]} {score:.3f}, {_since(score, before)} the workflow before it; {so_far}."


@dataclasses.dataclass(frozen=True)
class CompactTemplate:
    """The dialogue in about a hundred tokens, for meta-agents of a million parameters.

    Scores are whole percent; failures are counted by what the grader could
    see of them; cases are left out.
    """

    def opening(self, state: State) -> tuple[Message, ...]:
        """Task, best score, and the current workflow with its failures."""
        return _user(
            f"{state.description}\nbest {_percent(state.best_score)}\n"
            f"{self._result(state.current.feedback)}\n```python\n{state.current.workflow.code.strip()}\n```"
        )

    def after(self, state: State, previous: State) -> tuple[Message, ...]:
        """The score of the action, with its failures; or that no action ran."""
        if _all_skipped(state, previous):
            return _user(f"best {_percent(state.best_score)}\nbroken")
        return _user(f"best {_percent(state.best_score)}\n{self._result(state.current.feedback)}")

    def edit(self, description: str, workflow: Workflow) -> tuple[Message, ...]:
        """Task and code."""
        return _user(f"{description}\nchange one thing\n```python\n{workflow.code.strip()}\n```")

    def repair(self, error: str, traceback: str) -> tuple[Message, ...]:
        """The error's first line; frames would not be understood."""
        del traceback
        return _user(f"error: {error.splitlines()[0][:80] if error else 'unknown'}\nfix it")

    def parse(self, text: str, name: str) -> Workflow:
        """See `parse_action`."""
        return parse_action(text, name)

    def replace_code(self, text: str, code: str) -> str:
        """See `replace_code`."""
        return replace_code(text, code)

    @staticmethod
    def _result(feedback: Feedback) -> str:
        failures = ", ".join(f"{k} {v}" for k, v in sorted(feedback.symptoms.items(), key=lambda kv: (-kv[1], kv[0])))
        return f"now {_percent(feedback.score)}: {failures or 'no failures'}"


def _percent(score: float) -> int:
    return round(100 * score)


_ROLE = "You design workflows: Python programs that get the most out of a language model on a task."

_INTERFACE = """\
# Interface
Write `def solver(agent, task)`; for tasks that ask for a Python function, `def solver(agent, task, entry_point)`.
`task` is the text of one question. Return a dict with the key "answer".
The executor is a language model that is reached through `agent` only:

agent.call_llm(messages, temperature=0.5, num_of_response=1) -> list of str
    messages is a list of {"role": "system" | "user" | "assistant", "content": str}. One text per response.
agent.call_json_format_llm(messages, temperature=0.5, num_of_response=1, agent_role="", return_dict_keys=[...],
                           instructions="") -> list of dict
    Like call_llm, but each response is a dict with the keys asked for.
agent.execute_code(code, timeout=10) -> str
    Runs Python; the value of solution(), or of the last expression. Raises with the error's text.
agent.extract_answer_str(text) -> str
    The last \\boxed{...}, else the last number, else the last sentence.
agent.extract_code_block(text, entry_point=None) -> str
    The Python block of a reply.
agent.test_on_public_test(task, solution, entry_point, test_loop) -> {"result": bool, "solution": str, "feedback": str}
    Runs the public tests of a coding task on a solution.

Only the Python standard library and the packages numpy and sympy can be imported. There is no file and no network.
"""

_PRINCIPLES = """\
# Principles
- The executor knows more than you do; your part is how it is asked, how often, and what is done with its replies.
- Put the whole question into every prompt that has to answer it.
- Look at what fails now, name one cause, and change the workflow where that cause lies.
- Ideas that often help: reasoning before the answer, several samples and a vote, code that is run instead of mental
  arithmetic, a critique of an earlier answer, tests, different roles, examples made for the question.
- Every call costs money. An equal accuracy for less is better.
- Handle replies that are not what you asked for; a workflow that raises fails the question.
"""

_FORMAT = """\
# Output
First your analysis in plain words: what the failures show, what you change, why it should help.
Then exactly one Python block, complete and runnable, that defines solver:

```python
def solver(agent, task):
    ...
    return {"answer": answer}
```
"""

_EDIT_FORMAT = """\
# Output
Change the workflow in exactly one place, in any way that may help; leave the rest as it is.
First one sentence that names the change.
Then exactly one Python block, the whole workflow with the change, complete and runnable, that defines solver.
"""


@dataclasses.dataclass(frozen=True)
class FullTemplate:
    """The default for real models: every part of the paper's prompt, with validation data alone."""

    max_case_characters: int = 1200
    """Longest text of one field of a case; longer ones are cut in the middle and say so."""

    def opening(self, state: State) -> tuple[Message, ...]:
        """Interface, principles, task, archive of seeds, current workflow with feedback, output format."""
        archive = "\n".join(f"## {e.workflow.name}\n{self._evaluated(e)}" for e in state.seeds)
        parts = [
            _ROLE,
            _INTERFACE,
            _PRINCIPLES,
            f"# Task\n{state.description}\n",
            f"# Workflows tried\n{archive}",
        ]
        if state.current not in state.seeds:
            parts.append(f"# The current workflow\n{self._evaluated(state.current)}")
        parts.append(f"# Where it stands\n{self._result(state)}{self._best(state)}")
        parts.append(_FORMAT)
        return _user("\n".join(parts))

    def after(self, state: State, previous: State) -> tuple[Message, ...]:
        """Score, its change against the turn and the best before, failures, cases, and the request to go on."""
        if _all_skipped(state, previous):
            return _user(
                "This workflow, and every other one written beside it, failed on a first question and could not be "
                f"mended; the current workflow stays.\n{self._best(state)}\n"
                "Write another one. First your analysis, then exactly one Python block that defines solver."
            )
        feedback, before = state.current.feedback, previous.current.feedback.score
        return _user(
            f"Your workflow was run on {feedback.n} validation questions, "
            f"at {feedback.usd_per_item:.6f} USD a question.\n"
            f"{_change(feedback, before, previous.best_score)}\n{self._failures(feedback)}"
            "Please improve it. First your analysis, then exactly one Python block that defines solver."
        )

    def edit(self, description: str, workflow: Workflow) -> tuple[Message, ...]:
        """Interface, task, the workflow's code, and the request for one change of it."""
        parts = [
            _ROLE,
            _INTERFACE,
            f"# Task\n{description}\n",
            f"# The workflow\n```python\n{workflow.code.strip()}\n```",
            _EDIT_FORMAT,
        ]
        return _user("\n".join(parts))

    def repair(self, error: str, traceback: str) -> tuple[Message, ...]:
        """The error with the frames of the workflow's own code."""
        frames = f"\n{traceback.strip()}" if traceback.strip() else ""
        return _user(
            f"The workflow failed on a first question:\n{error.strip()}{frames}\n"
            "Mend it: write the whole corrected workflow as exactly one Python block that defines solver."
        )

    def parse(self, text: str, name: str) -> Workflow:
        """See `parse_action`."""
        return parse_action(text, name)

    def replace_code(self, text: str, code: str) -> str:
        """See `replace_code`."""
        return replace_code(text, code)

    def _evaluated(self, entry: Evaluated) -> str:
        feedback = entry.feedback
        return (
            f"Validation {_metric(feedback)} {feedback.score:.3f} on {feedback.n} questions, "
            f"{feedback.usd_per_item:.6f} USD a question.\n```python\n{entry.workflow.code.strip()}\n```"
        )

    def _result(self, state: State) -> str:
        feedback, before = state.current.feedback, state.score_before
        name = _metric(feedback)
        turn = "" if before is None else f", {_since(feedback.score, before)} the workflow before it"
        return (
            f"{name[0].upper()}{name[1:]} {feedback.score:.3f} on {feedback.n} validation questions{turn}, "
            f"{feedback.usd_per_item:.6f} USD a question.\n{self._failures(feedback)}"
        )

    def _failures(self, feedback: Feedback) -> str:
        """Counts of failures, then cases; whole lines."""
        lines = [f"Failures: {_counts(feedback.symptoms)}."] if feedback.symptoms else []
        lines += [self._case(number, case) for number, case in enumerate(feedback.cases, 1)]
        return "".join(f"{line}\n" for line in lines)

    @staticmethod
    def _best(state: State) -> str:
        return f"The best validation {_metric(state.current.feedback)} so far is {state.best_score:.3f}."

    def _case(self, number: int, case: Case) -> str:
        lines = [f"## Case {number}: {case.status}", f"Question: {self._cut(case.question)}"]
        if case.status is ItemStatus.BROKE:
            lines.append(f"The workflow raised: {self._cut(case.error)}")
        else:
            lines.append(f"The workflow's answer: {self._cut(case.answer)}")
        lines.append(f"The right answer: {self._cut(case.target)}")
        return "\n".join(lines)

    def _cut(self, text: str) -> str:
        if len(text) <= self.max_case_characters:
            return text
        half = self.max_case_characters // 2
        return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def _counts(symptoms: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in sorted(symptoms.items(), key=lambda kv: (-kv[1], kv[0])))
