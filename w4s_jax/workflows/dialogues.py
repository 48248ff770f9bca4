"""Procedural dialogues for the warm start of a tiny meta-agent.

recipes + states → **dialogues** → tokenizer, supervised training

The agent has to learn the format, the style and to spread over the ingredients,
not to be good: of its answers a fifth carry a bug, nearly half change one ingredient
of the current workflow at random, a sixth are drawn blindly, and the rest answer a word
of the task's description or what fails most. Accuracies and failure counts of the states are drawn, not
measured. No held-out family is seen here.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from w4s_jax.prompts import PromptTemplate
from w4s_jax.types import Evaluated, Feedback, Message, State, Workflow
from w4s_jax.workflows import grammar
from w4s_jax.workflows.grammar import Extract, Instruction, Pick, Recipe, Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A task as a dialogue names it."""

    description: str
    code_task: bool
    """Whether the answer is a function."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueMix:
    """Shares of the kinds of answers; what is left answers what the state shows."""

    broken: float = 0.2
    """Whatever else they are."""
    random: float = 0.15
    edit: float = 0.5
    second_turn: float = 0.35
    repair: float = 0.3
    """Of the broken answers that raise, the share that is followed by its repair."""


def describe(recipe: Recipe) -> str:
    """The plan line that stands before the code."""
    words = [recipe.style.name.lower(), *(i.name.lower() for i in recipe.instructions)]
    if recipe.ending:
        words.append("ending")
    if recipe.critiques:
        words.append(f"critique {recipe.critiques}")
    if recipe.tests:
        words.append(f"tests {recipe.tests}")
    else:
        words.append(recipe.extract.name.lower())
    words.append(f"samples {recipe.samples}" + (" vote" if recipe.pick is Pick.VOTE else ""))
    return "plan: " + " ".join(words)


def dialogue(
    rng: random.Random, subjects: Sequence[Subject], template: PromptTemplate, mix: DialogueMix
) -> tuple[Message, ...]:
    """Draws one dialogue that alternates user and assistant, one or two turns, or a turn and its repair."""
    subject = rng.choice(subjects)
    recipe = grammar.random_recipe(rng, code_task=subject.code_task)
    state = _state(rng, subject, recipe, best=0.0)
    messages = list(template.opening(state))
    answer, code, error = _answer(rng, subject, recipe, state, mix)
    messages.append(_action(answer, code))
    if error:
        if rng.random() < mix.repair:
            messages += [*template.repair(error, ""), _action(answer, grammar.write(answer))]
        elif rng.random() < mix.second_turn:
            other, other_code, _ = _answer(rng, subject, recipe, state, mix)
            messages += [*template.after(state, state), _action(other, other_code)]
    elif rng.random() < mix.second_turn:
        after = _state(rng, subject, answer, best=state.best_score)
        second, second_code, _ = _answer(rng, subject, answer, after, mix)
        messages += [*template.after(after, state), _action(second, second_code)]
    return tuple(messages)


def _action(recipe: Recipe, code: str) -> Message:
    return Message(role="assistant", content=f"{describe(recipe)}\n```python\n{code}\n```")


def _answer(
    rng: random.Random, subject: Subject, recipe: Recipe, state: State, mix: DialogueMix
) -> tuple[Recipe, str, str]:
    """The recipe answered with, its code (with a bug or not) and the error the bug gives."""
    kind = rng.random()
    code_task = subject.code_task
    if kind < mix.random:
        answer = grammar.random_recipe(rng, code_task=code_task)
    elif kind < mix.random + mix.edit:
        answer = grammar.edit(recipe, rng, code_task=code_task)
    else:
        answer = _sensible(rng, subject, recipe, state.current.feedback)
    if rng.random() < mix.broken:
        return answer, *grammar.break_code(grammar.write(answer), rng)
    return answer, grammar.write(answer), ""


_SYMPTOMS = ("close", "factor", "from text", "far", "no number")
_CODE_SYMPTOMS = ("edge test", "syntax", "all tests")
_ERRORS = ("NameError", "IndexError", "AttributeError", "TypeError", "ExecutionError", "malformed")


def _state(rng: random.Random, subject: Subject, recipe: Recipe, best: float) -> State:
    items = 20
    wrong = rng.randint(1, items - 1)
    names = list(_CODE_SYMPTOMS if subject.code_task else _SYMPTOMS)
    if rng.random() < 0.15:
        names = [*names, rng.choice(_ERRORS)]
    weights = [rng.expovariate(1.0) ** 2 for _ in names]
    drawn = rng.choices(names, weights, k=wrong)
    score = 1 - wrong / items
    current = Evaluated(
        workflow=Workflow(name="current", code=grammar.write(recipe)),
        feedback=Feedback(
            score=score, accuracy=score, n=items, symptoms={name: drawn.count(name) for name in set(drawn)}
        ),
    )
    best = max(best, score, rng.choice((0.0, rng.random())))
    return State(
        task="warm_start",
        description=subject.description,
        seeds=(),
        current=current,
        best_score=best,
    )


_WORDS = (
    ("unit", Instruction.UNITS),
    ("table", Instruction.FACTS),
    ("ambiguous", Instruction.WORDING),
    ("irrelevant", Instruction.IGNORE),
    ("huge", Instruction.CHECK),
)
"""Words of a description and an instruction that they suggest."""


def _sensible(rng: random.Random, subject: Subject, recipe: Recipe, feedback: Feedback) -> Recipe:
    """Answers a word of the task's description, or its most frequent failure."""
    program = dataclasses.replace(recipe, style=Style.PROGRAM, extract=Extract.RUN, ending=False)
    if subject.code_task:
        fixes = (grammar.add(recipe, Instruction.EDGES), dataclasses.replace(recipe, tests=max(recipe.tests, 2)))
        return rng.choice(fixes)
    named = [grammar.add(recipe, fix) for word, fix in _WORDS if word in subject.description]
    named += [program] * ("huge" in subject.description)
    if named and rng.random() < 0.5:
        return rng.choice(named)
    vote = dataclasses.replace(recipe, samples=5, temperature=0.8, pick=Pick.VOTE)
    answers = {
        "factor": (grammar.add(recipe, Instruction.UNITS),),
        "from text": (grammar.add(recipe, Instruction.FACTS), grammar.add(recipe, Instruction.IGNORE)),
        "close": (program, grammar.add(recipe, Instruction.CHECK)),
        "far": (grammar.add(recipe, Instruction.WORDING), vote, dataclasses.replace(recipe, style=Style.PLAN)),
        "no number": (dataclasses.replace(recipe, ending=True, extract=Extract.NUMBER),),
    }
    symptom = max(feedback.symptoms, key=lambda s: (feedback.symptoms[s], s))
    return rng.choice(answers.get(symptom, (Recipe(instructions=recipe.instructions),)))
