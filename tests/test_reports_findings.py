"""Numbers of a report against hand-made searches; the diff against what `patch` makes of it."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
from report_run import SEED, ok, skipped, turn

from w4s_jax.prompts import CompactTemplate, FullTemplate
from w4s_jax.reports.findings import by_turn, failures, reason_kind, reasons, thinned
from w4s_jax.reports.intervals import mean
from w4s_jax.reports.listing import bounded, code_block, diff_block, parents_of, started_from, unified_diff
from w4s_jax.reports.plots import PathTurn, path, ticks
from w4s_jax.reports.record import RunRecord, read_run
from w4s_jax.reports.tables import interval
from w4s_jax.reports.trees import trees
from w4s_jax.types import CandidateStatus, Evaluated, Feedback, Message, State, Trajectory, Workflow


def search(*turns, index=0, task="t"):
    made = [turn(0, index, n, candidates, chosen, task=task) for n, (candidates, chosen) in enumerate(turns)]
    return Trajectory(round=0, index=index, task=task, turns=tuple(made))


def test_the_best_so_far_never_falls_and_the_chosen_may():
    first = search(([ok(0, 0.5), ok(1, 0.6)], 1), ([ok(0, 0.3), skipped(1)], 0), ([skipped(0)], None), task="a")
    second = search(([ok(0, 0.2)], 0), ([ok(0, 0.9)], 0), task="b", index=1)
    points = by_turn([first, second], {"a": 0.4, "b": 0.3}.get)
    assert [p.turns for p in points] == [0, 1, 2, 3]
    assert [p.best.value for p in points] == pytest.approx([0.35, 0.45, 0.75, 0.6])
    assert [p.best.n for p in points] == [2, 2, 2, 1]
    assert [p.chosen and round(p.chosen.value, 9) for p in points] == [None, 0.4, 0.6, None]


def test_equal_values_are_not_called_certain():
    assert interval(mean([0.5, 0.5])) == "no spread seen"
    assert interval(mean([0.5])) == "no interval"
    assert interval(mean([0.4, 0.6])) == "[-0.771, 1.771]"
    assert interval(mean([0.1, 0.3]), signed=True) == "[-1.071, +1.471]"


def test_seeds_that_are_not_known_are_left_out():
    points = by_turn([search(([ok(0, 0.5)], 0))], lambda task: None)
    assert [(p.turns, p.best.value) for p in points] == [(1, 0.5)]
    assert by_turn([], lambda task: None) == []


def test_the_interval_of_an_accuracy_ends_at_one():
    points = by_turn(
        [search(([ok(0, a)], 0), index=i, task=str(i)) for i, a in enumerate((0.5, 1.0))], lambda task: None
    )
    assert (points[0].best.low, points[0].best.high) == (0.0, 1.0)


def test_failed_items_are_counted_over_all_that_ran():
    found = failures(
        [search(([ok(0, 0.5, symptoms={"far": 4, "empty": 6}), ok(1, 0.9, symptoms={"far": 2}), skipped(2)], 1))]
    )
    assert found.counts == {"far": 6, "empty": 6}
    assert (found.items, found.workflows) == (40, 2)


def test_reasons_are_counted_by_kind_and_ours_apart():
    candidates = [
        skipped(0, "SyntaxError: bad (<workflow>, line 2)"),
        skipped(1, "SyntaxError: worse"),
        skipped(2, "2 Python blocks define solver; write one"),
        skipped(3, "4 Python blocks define solver; write one"),
        skipped(4, "SandboxError: died", status=CandidateStatus.FAILED),
        ok(5, 0.5),
    ]
    found = reasons([search((candidates, 5))])
    assert found.counts == {"SyntaxError": 2, "N Python blocks define solver; write one": 2}
    assert found.examples["SyntaxError"] == "SyntaxError: bad (<workflow>, line 2)"
    assert found.candidates == 6
    assert reasons([search((candidates, 5))], CandidateStatus.FAILED).counts == {"SandboxError": 1}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("json.decoder.JSONDecodeError: x", "json.decoder.JSONDecodeError"),
        ("KeyError:", "KeyError"),
        ("60 seconds of wall clock are over", "N seconds of wall clock are over"),
        ("note: 3", "note: N"),
        ("2 blocks (not repaired: prompt of 9 tokens exceeds 8)", "N blocks"),
        ("", "no reason given"),
    ],
)
def test_a_kind_is_the_type_of_an_exception_or_the_text_without_numbers(reason, kind):
    assert reason_kind(reason) == kind


def test_long_curves_are_thinned_to_means():
    points, width = thinned([(float(i), float(i % 2)) for i in range(1000)], most=250)
    assert width == 4
    assert points[0] == (1.5, 0.5)
    assert len(points) == 250
    assert thinned([(1.0, 2.0)]) == ([(1.0, 2.0)], 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.5, 1.0]), (0.12, 0.47, [0.1, 0.2, 0.3, 0.4, 0.5]), (-3.0, 9.0, [-5.0, 0.0, 5.0, 10.0])],
)
def test_ticks_are_round_and_span_the_values(low, high, expected):
    assert ticks(low, high, 4) == expected


def test_a_diff_turns_the_old_code_into_the_new_one(tmp_path):
    old = "def solver(agent, task):\n    a = 1\n    b = 2\n    return {'answer': a}"
    new = "def solver(agent, task):\n    a = 1\n    c = 3\n    return {'answer': c}"
    lines = unified_diff(old, new, "old", "new")
    assert lines == [
        "--- old", "+++ new", "@@ -1,4 +1,4 @@", " def solver(agent, task):", "     a = 1", "-    b = 2",
        "-    return {'answer': a}", "+    c = 3", "+    return {'answer': c}",
    ]  # fmt: skip
    if shutil.which("patch") is None:
        pytest.skip("patch is not installed")
    (tmp_path / "code.py").write_text(old + "\n")
    patch = "\n".join(lines) + "\n"
    subprocess.run(["patch", str(tmp_path / "code.py")], input=patch, text=True, check=True, capture_output=True)
    assert (tmp_path / "code.py").read_text() == new + "\n"


def test_a_diff_is_marked_line_by_line():
    block = diff_block("a = 1", "a = '<b>'", "old", "new")
    assert '<span class="del">-a = 1\n</span><span class="add">+a = &#x27;&lt;b&gt;&#x27;\n</span>' in block


def test_a_removed_line_of_dashes_is_no_header():
    block = diff_block("x\n-- y", "x", "old", "new")
    assert '<span class="del">--- y\n</span>' in block


def test_unchanged_code_has_no_diff():
    assert "unchanged" in diff_block("\na = 1\n", "a = 1", "old", "new")
    assert "no diff" in diff_block("", "a = 1", "old", "new")


def test_a_turn_starts_from_the_last_chosen_workflow_and_the_first_from_the_seed():
    one, two = SEED + "\n# one", SEED + "\n# two"
    turns = search(
        ([ok(0, 0.5, code=one)], 0), ([skipped(0)], None), ([ok(0, 0.6, code=two)], 0), ([ok(0, 0.1)], 0)
    ).turns
    assert [started_from(turns, n) for n in range(4)] == [SEED, one, one, two]


def test_a_turn_starts_from_the_first_of_the_parents_that_its_record_names():
    one, two, other = SEED + "\n# one", SEED + "\n# two", SEED + "\n# other"
    turns = list(search(([ok(0, 0.5, code=one), ok(1, 0.4, code=two)], 0), ([ok(0, 0.6)], 0), ([ok(0, 0.1)], 0)).turns)
    named = turns[0].key.of_candidate(1).name
    turns[1] = dataclasses.replace(turns[1], parents=(named, "b"))
    shown = f"## a\n```python\n{SEED}\n```\n## b\n```python\n{other}\n```"
    turns[2] = dataclasses.replace(turns[2], parents=("b",), messages=(Message(role="user", content=shown),))
    assert [parents_of(turns, n) for n in range(3)] == [("seed",), (named, "b"), ("b",)]
    assert [started_from(turns, n) for n in range(3)] == [SEED, two, other]


def test_a_drawing_joins_the_chosen_workflow_of_each_turn_to_what_it_was_made_from():
    """Of three turns, the third is made from the first's second candidate and the second's; the second from a seed."""
    turns = [PathTurn([0.5, 0.6], 1), PathTurn([0.4], 0), PathTurn([0.7, None], 0, [(0, 1), (1, 0)])]
    lines = re.findall(r'<polyline points="([\d.]+,[\d.]+) ([\d.]+,[\d.]+)"', path(turns, None))
    dots = {(cx, cy) for cx, cy in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4"', path(turns, None))}
    assert len(lines) == 2
    assert len({end for _, end in lines}) == 1  # both lead to the chosen one of the third turn
    for point in {point for line in lines for point in line}:
        x, y = map(float, point.split(","))
        assert any(abs(float(cx) - x) < 0.1 and abs(float(cy) - y) < 0.1 for cx, cy in dots)


def test_the_trees_say_what_a_turn_was_made_from_where_that_is_no_chain():
    turns = list(search(([ok(0, 0.5), ok(1, 0.4)], 0), ([ok(0, 0.3)], 0), ([ok(0, 0.2)], 0)).turns)
    chain = [turns[0].key.of_candidate(0).name, turns[1].key.of_candidate(0).name]
    turns[0] = dataclasses.replace(turns[0], parents=("cot",))
    turns[1] = dataclasses.replace(turns[1], parents=(chain[0],))
    turns[2] = dataclasses.replace(turns[2], parents=(chain[0], "cot"))
    run = RunRecord(name="run", trajectories=(dataclasses.replace(search(), turns=tuple(turns)),))
    page = trees(run, 1_000_000)
    assert re.findall(r"<h4>(.*?)</h4>", page) == ["Turn 0", "Turn 1", f"Turn 2, made from {chain[0]}, cot"]
    assert f"Change from {chain[0]}" in page


@pytest.mark.parametrize(
    ("chosen", "score"),
    [({"validation_score": 0.9, "validation_accuracy": 0.5}, 0.9), ({"validation_accuracy": 0.9}, 0.9), ({}, None)],
)
def test_the_best_seeds_score_is_read_from_summaries_of_both_versions(chosen, score):
    assert RunRecord(name="run", summary={"seeds": {"by_task": {"t": chosen}}}).seed_score("t") == score
    assert RunRecord(name="run", summary={"searches": {"t": {"seed": chosen}}}).seed_score("t") == score


def test_the_mean_score_of_a_round_is_read_from_metrics_of_both_versions(tmp_path):
    """Before `mean_score`, the mean of the metric was called `mean_accuracy`."""
    lines = [{"kind": "round", "round": 1, "mean_accuracy": 0.4}]
    lines.append({"kind": "round", "round": 2, "mean_score": 0.9, "mean_accuracy": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [found["mean_score"] for found in read_run(tmp_path).rounds] == [0.4, 0.9]


@pytest.mark.parametrize("template", [CompactTemplate(), FullTemplate()])
def test_both_templates_show_the_workflow_that_a_search_starts_from(template):
    seeds = tuple(
        Evaluated(workflow=Workflow(name=n, code=f"{SEED}  # {n}"), feedback=Feedback(score=0.5, accuracy=0.5, n=4))
        for n in "ab"
    )
    state = State(task="t", description="Do.", seeds=seeds, current=seeds[0], best_score=0.5)
    opening = turn(0, 0, 0, [skipped(0)], None)
    opening = type(opening)(**{**vars(opening), "messages": template.opening(state)})
    assert started_from([opening], 0) == seeds[0].workflow.code


def test_long_code_is_cut_at_lines_and_characters_and_says_so():
    assert bounded("a\nb\nc", lines=2) == ("a\nb", 2)
    assert bounded("abcdef", characters=4) == ("abcd", 2)
    assert "2,000 more characters are left out" in code_block("x" * 18_000)
