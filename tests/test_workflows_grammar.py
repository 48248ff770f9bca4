"""Recipes become Python that parses, says what it does, and breaks where it should."""

import ast
import dataclasses
import random

import pytest

from w4s_jax.prompts import CompactTemplate, parse_action
from w4s_jax.workflows import grammar
from w4s_jax.workflows.dialogues import DialogueMix, Subject, describe, dialogue
from w4s_jax.workflows.grammar import Extract, Instruction, Pick, Recipe, Style


def run(code, question, replies, **given):
    """Runs one of our own recipes on a scripted executor; returns its answer and the prompts it sent."""
    sent = []

    class Agent:
        def call_llm(self, messages, temperature, num_of_response):
            sent.append(messages[0]["content"])
            return replies[:num_of_response]

        def extract_answer_str(self, text):
            return text.split()[-1]

        def extract_code_block(self, text):
            return text

        def execute_code(self, text):
            return str(eval(text))

        def test_on_public_test(self, task, solution, entry_point, test_loop):
            return {"result": solution == "right", "solution": solution, "feedback": "failed: f(0)"}

    scope = {}
    exec(code, scope)  # code of our own grammar, not a model's
    return scope["solver"](Agent(), question, **given)["answer"], sent


def test_the_prompt_holds_question_style_and_instructions_in_order():
    recipe = Recipe(style=Style.STEPS, instructions=(Instruction.UNITS, Instruction.POLITE), ending=True)
    answer, sent = run(grammar.write(recipe), "2+2?", ["it is 4"])
    assert answer == "4"
    assert sent == [
        "2+2?\nThink step by step. Convert all units first. Be polite and friendly. End with: Answer: <number>"
    ]


@pytest.mark.parametrize(("pick", "expected"), [(Pick.FIRST, "1"), (Pick.LAST, "3"), (Pick.VOTE, "2")])
def test_picks_choose_among_several_answers(pick, expected):
    recipe = Recipe(samples=5, pick=pick)
    assert run(grammar.write(recipe), "q", ["a 1", "a 2", "a 2", "a 4", "a 3"])[0] == expected


def test_programs_are_run():
    assert run(grammar.write(Recipe(style=Style.PROGRAM, extract=Extract.RUN)), "q", ["6*7"])[0] == "42"


def test_a_critique_shows_the_earlier_answer():
    _, sent = run(grammar.write(Recipe(critiques=2)), "q", ["a 1"])
    assert len(sent) == 3
    assert sent[2].endswith("Answer so far:\na 1\nFind the mistake and solve it again.")


def test_the_test_loop_quotes_the_feedback_and_stops_when_tests_pass():
    code = grammar.write(Recipe(style=Style.FUNCTION, tests=3))
    assert len(run(code, "q", ["right"], entry_point="f")[1]) == 1
    _, sent = run(code, "q", ["wrong"], entry_point="f")
    assert len(sent) == 4
    assert "The tests said:\nfailed: f(0)\nFix the function." in sent[1]


def test_drawn_recipes_parse_and_bugs_change_them():
    rng = random.Random(0)
    for _ in range(500):
        recipe = grammar.edit(grammar.random_recipe(rng, code_task=rng.random() < 0.3), rng)
        code = grammar.write(recipe)
        ast.parse(code)
        assert grammar.break_code(code, rng)[0] != code


def test_ingredients_are_read_back_from_the_text():
    recipe = Recipe(
        style=Style.PROGRAM, instructions=(Instruction.UNITS,), extract=Extract.RUN, samples=3, pick=Pick.VOTE
    )
    assert grammar.read_ingredients(grammar.write(recipe)) == {"program", "units", "run", "samples", "vote"}


def test_adding_an_instruction_keeps_three_and_drops_junk_first():
    full = Recipe(instructions=(Instruction.FACTS, Instruction.EDGES, Instruction.POLITE))
    assert grammar.add(full, Instruction.UNITS).instructions == (
        Instruction.FACTS,
        Instruction.UNITS,
        Instruction.EDGES,
    )


def test_every_dialogue_alternates_and_its_actions_can_be_read():
    rng = random.Random(1)
    subjects = (Subject(description="Word problems.", code_task=False), Subject(description="Python.", code_task=True))
    for _ in range(200):
        messages = dialogue(rng, subjects, CompactTemplate(), DialogueMix())
        assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert messages[1].content.startswith("plan: ")


def test_the_shares_of_a_mix_are_what_they_say():
    rng = random.Random(2)
    subjects = (Subject(description="Word problems.", code_task=False),)
    mix = dataclasses.replace(DialogueMix(), second_turn=0.0, repair=0.0)
    broken = 0
    for _ in range(1000):
        messages = dialogue(rng, subjects, CompactTemplate(), mix)
        code = parse_action(messages[1].content, "a").code
        plan = messages[1].content.splitlines()[0]
        broken += not any(describe(r) == plan and grammar.write(r) == code for r in _recipes_like(plan))
    assert 150 <= broken <= 250  # a fifth of 1,000, within four standard deviations


def _recipes_like(plan):
    """Every recipe that has this plan line."""
    words = plan.removeprefix("plan: ").split()
    base = Recipe(
        style=Style[words[0].upper()],
        instructions=tuple(i for i in Instruction if i.name.lower() in words),
        ending="ending" in words,
        critiques=int(words[words.index("critique") + 1]) if "critique" in words else 0,
        samples=int(words[words.index("samples") + 1]),
        extract=next(e for e in Extract if e.name.lower() in words),
    )
    picks = [Pick.VOTE] if "vote" in words else [Pick.FIRST, Pick.LAST]
    return [dataclasses.replace(base, pick=p, temperature=t) for p in picks for t in grammar.TEMPERATURES]
