"""The evaluator and its memo, against scripted workflows."""

import asyncio
import sqlite3

import pytest
from rollout_fakes import FakeExecutor, FakeSandbox, FakeTask, workflow

from w4s_jax.rollout.answers import bounded, plain_answer
from w4s_jax.rollout.calls import ItemCalls
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.memo import OutcomeMemo
from w4s_jax.types import (
    BudgetExceededError,
    CallContext,
    CallRefusedError,
    ExecutorError,
    InputError,
    Item,
    ItemStatus,
    LLMCall,
    Message,
    Purpose,
    SandboxError,
    Split,
    StoreError,
)


def make(executor=None, sandbox=None, memo=None, **options):
    return Evaluator(executor or FakeExecutor(), sandbox or FakeSandbox(), memo, EvaluationOptions(**options))


async def run(evaluator, flow, task=None, **options):
    task = task or FakeTask()
    chosen = {"split": Split.VALIDATION, "purpose": Purpose.OPTIMISATION, **options}
    return await evaluator.evaluate(flow, task, task.all_items, **chosen)


async def test_right_and_wrong_answers_are_graded_in_the_order_of_the_items():
    evaluation = await run(make(), workflow("right 1 3"))
    assert [o.status.value for o in evaluation.outcomes] == ["wrong", "right", "wrong", "right"]
    assert [o.item_id for o in evaluation.outcomes] == ["fake/0", "fake/1", "fake/2", "fake/3"]
    assert (evaluation.accuracy, evaluation.n) == (0.5, 4)
    assert evaluation.outcomes[0].symptom == "another number"


async def test_a_workflow_that_raises_or_times_out_broke_and_says_how():
    raised = (await run(make(), workflow("raise KeyError: 'x'"))).outcomes[0]
    assert (raised.status, raised.score, raised.error) == (ItemStatus.BROKE, 0.0, "KeyError: 'x'")
    assert raised.symptom == "KeyError"
    timed_out = (await run(make(), workflow("timeout"))).outcomes[0]
    assert (timed_out.status, timed_out.symptom) == (ItemStatus.BROKE, "timeout")


async def test_equal_requests_of_an_item_are_numbered_and_booked():
    executor = FakeExecutor()
    evaluation = await run(make(executor), workflow("ask 3 hi", "ask 1 ho"), purpose=Purpose.TEST, repetition=2)
    of_item = [(r.messages[0].content, c.sample_index) for r, c in executor.seen if c.item_id == "fake/2"]
    assert of_item == [("2 hi", 0), ("2 hi", 1), ("2 hi", 2), ("2 ho", 0)]
    assert {(c.purpose, c.repetition) for _, c in executor.seen} == {(Purpose.TEST, 2)}
    first = evaluation.outcomes[0]
    assert (first.calls, first.prompt_tokens, first.completion_tokens, first.usd) == (4, 28, 12, 1.0)
    assert evaluation.usd_per_item == 1.0


async def test_calls_beyond_the_cap_are_refused_to_the_workflow_and_not_sent():
    executor = FakeExecutor()
    evaluation = await run(make(executor, max_calls_per_item=2), workflow("ask 3 hi"))
    assert [o.status for o in evaluation.outcomes] == [ItemStatus.BROKE] * 4
    assert evaluation.outcomes[0].symptom == "CallRefusedError"
    assert len(executor.seen) == 8


async def test_a_call_for_several_samples_counts_each_and_a_refused_one_counts_none():
    context = CallContext(purpose=Purpose.OPTIMISATION)
    calls = ItemCalls(FakeExecutor(), context, max_choices=5, max_tokens=100)

    def call(n, max_tokens=None):
        messages = (Message(role="user", content="hi"),)
        return LLMCall(messages=messages, temperature=1.0, n=n, json_mode=False, max_tokens=max_tokens)

    assert len(await calls.ask(call(3))) == 3
    for n in (3, 1_000_000, 0, -1):
        with pytest.raises(CallRefusedError, match="of 5 choices"):
            await calls.ask(call(n))
    assert len(await calls.ask(call(2, max_tokens=10**9))) == 2
    assert [r.max_tokens for r, _ in calls._executor.seen] == [100, 100]


async def test_a_failure_of_the_executor_is_never_a_low_score():
    with pytest.raises(ExecutorError, match="unreachable"):
        await run(make(FakeExecutor(broken_for=("2",))), workflow("ask 1 hi"))
    with pytest.raises(SandboxError, match="zygote"):
        await run(make(sandbox=FakeSandbox(failures=1)), workflow("right 0"))


async def test_a_failure_of_ours_shows_through_a_sandbox_that_hides_it():
    class Hiding(FakeSandbox):
        async def _interpret(self, text, question, ask):
            try:
                return await super()._interpret(text, question, ask)
            except ExecutorError:
                return await super()._interpret("# raise ValueError: hidden", question, ask)

    with pytest.raises(ExecutorError):
        await run(make(FakeExecutor(broken_for=("2",)), Hiding()), workflow("ask 1 hi"))


async def test_after_a_budget_stop_finished_items_are_kept_and_are_not_bought_again():
    executor, memo = FakeExecutor(budget_calls=2), OutcomeMemo()
    with pytest.raises(BudgetExceededError):
        await run(make(executor, memo=memo, concurrency=1), workflow("ask 1 hi"))
    assert len(memo) == 2
    executor.budget_calls = 4
    assert (await run(make(executor, memo=memo, concurrency=1), workflow("ask 1 hi"))).accuracy == 1.0
    assert len(executor.seen) == 4


async def test_after_a_failure_no_further_item_is_started():
    sandbox = FakeSandbox()
    with pytest.raises(BudgetExceededError):
        await run(make(FakeExecutor(budget_calls=1), sandbox, concurrency=1), workflow("ask 1 hi"), FakeTask(size=50))
    assert len(sandbox.runs) == 2


async def test_a_partial_evaluation_names_what_was_not_evaluated():
    evaluation = await run(make(FakeExecutor(broken_for=("2",))), workflow("ask 1 hi"), partial=True)
    assert [o.status.value for o in evaluation.outcomes] == ["right", "right", "not_evaluated", "right"]
    assert evaluation.outcomes[2].error == "ExecutorError: the executor stayed unreachable"
    assert (evaluation.n, evaluation.accuracy) == (3, 1.0)


async def test_a_partial_evaluation_gives_up_on_an_executor_that_is_gone():
    sandbox = FakeSandbox()
    gone = FakeExecutor(broken_for=tuple(str(i) for i in range(50)))
    evaluation = await run(make(gone, sandbox, concurrency=1), workflow("ask 1 hi"), FakeTask(size=50), partial=True)
    assert evaluation.n == 0
    assert len(sandbox.runs) == 5


async def test_outcomes_do_not_depend_on_concurrency_or_neighbours():
    flow = workflow("right 0 2 5 7", "ask 1 hi")
    task = FakeTask(size=9)
    alone = await run(make(concurrency=1), flow, task)
    together = make(FakeExecutor(jitter=0.003), FakeSandbox(jitter=0.003), concurrency=7)
    others = [run(together, workflow("raise X: y", str(i)), task) for i in range(3)]
    assert (await asyncio.gather(run(together, flow, task), *others))[0] == alone


async def test_no_more_items_are_in_flight_than_allowed_over_all_evaluations():
    sandbox = FakeSandbox(jitter=0.002)
    evaluator = make(sandbox=sandbox, concurrency=3)
    await asyncio.gather(*(run(evaluator, workflow(f"seen {i}")) for i in range(4)))
    assert sandbox.most_running == 3


async def test_progress_is_handed_of_every_item():
    handed = []
    await run(make(sandbox=FakeSandbox(jitter=0.002)), workflow("right 0"), progress=handed.append)
    assert sorted(o.item_id for o in handed) == ["fake/0", "fake/1", "fake/2", "fake/3"]


async def test_a_self_check_passes_a_wrong_answer_and_gives_frames_of_a_broken_one():
    evaluator, task = make(), FakeTask()
    assert (await evaluator.self_check(workflow("right"), task, task.all_items[0])).passed
    broken = await evaluator.self_check(workflow("raise KeyError: 'x'"), task, task.all_items[0])
    assert not broken.passed
    assert broken.traceback == "line 1\nKeyError: 'x'"


async def test_the_item_of_a_self_check_is_not_run_again_by_the_evaluation():
    sandbox, task = FakeSandbox(), FakeTask()
    evaluator = make(sandbox=sandbox)
    await evaluator.self_check(workflow("right"), task, task.all_items[1])
    await run(evaluator, workflow("right"), task)
    assert sorted(question for _, question in sandbox.runs) == ["0", "1", "2", "3"]


async def test_equal_work_in_flight_runs_once():
    sandbox = FakeSandbox(jitter=0.005)
    evaluator = make(sandbox=sandbox)
    evaluations = await asyncio.gather(*(run(evaluator, workflow("right 0")) for _ in range(5)))
    assert len(sandbox.runs) == 4
    assert all(e == evaluations[0] for e in evaluations)


async def test_a_cancelled_run_is_taken_over_by_the_next_that_waits():
    sandbox = FakeSandbox(jitter=0.02)
    evaluator = make(sandbox=sandbox)
    first = asyncio.create_task(run(evaluator, workflow("right 0")))
    await asyncio.sleep(0)
    second = asyncio.create_task(run(evaluator, workflow("right 0")))
    await asyncio.sleep(0.001)
    first.cancel()
    assert (await second).accuracy == 0.25
    assert first.cancelled() or first.cancelling()
    assert len(evaluator.memo) == 4


async def test_the_memo_tells_apart_everything_that_decides_an_outcome():
    sandbox, memo = FakeSandbox(), OutcomeMemo()
    await run(make(sandbox=sandbox, memo=memo), workflow("right 0"))
    runs = len(sandbox.runs)
    for change in ({"split": Split.TEST}, {"repetition": 1}):
        await run(make(sandbox=sandbox, memo=memo), workflow("right 0"), **change)
        runs += 4
        assert len(sandbox.runs) == runs
    for options in ({"item_timeout": 5.0}, {"max_calls_per_item": 3}, {"scope": "seed=1"}):
        await run(make(sandbox=sandbox, memo=memo, **options), workflow("right 0"))
        runs += 4
        assert len(sandbox.runs) == runs
    await run(make(FakeExecutor(model="other"), sandbox, memo), workflow("right 0"))
    assert len(sandbox.runs) == runs + 4
    await run(make(sandbox=sandbox, memo=memo, concurrency=2), workflow("right 0"), purpose=Purpose.TEST)
    assert len(sandbox.runs) == runs + 4


def test_items_with_one_id_and_other_content_are_handed_apart():
    digests = {Item(id="a", question=q, target=t).digest for q, t in (("1", 1), ("1", 2), ("2", 1))}
    assert len(digests) == 3


async def test_another_process_finds_the_outcomes_in_the_file(tmp_path):
    path = tmp_path / "deep" / "memo.sqlite"
    flow = workflow("right 0", "answer '\\ud800 caf\\u00e9'")
    with OutcomeMemo(path) as memo:
        first = await run(make(memo=memo), flow)
        broken = await make(memo=memo).self_check(workflow("raise A: b"), FakeTask(), FakeTask().all_items[0])
    sandbox = FakeSandbox()
    with OutcomeMemo(path) as memo:
        assert await run(make(sandbox=sandbox, memo=memo), flow) == first
        again = await make(sandbox=sandbox, memo=memo).self_check(
            workflow("raise A: b"), FakeTask(), FakeTask().all_items[0]
        )
    assert again == broken
    assert sandbox.runs == []


async def test_a_file_that_is_no_memo_is_named(tmp_path):
    path = tmp_path / "memo.sqlite"
    path.write_bytes(b"not a database, not at all, by no means" * 100)
    with pytest.raises(StoreError, match=r"memo\.sqlite"):
        OutcomeMemo(path)


async def test_a_corrupt_outcome_is_named(tmp_path):
    path = tmp_path / "memo.sqlite"
    with OutcomeMemo(path) as memo:
        await run(make(memo=memo), workflow("right 0"))
    db = sqlite3.connect(path)
    db.execute("UPDATE outcomes_v1 SET outcome = '{}'")
    db.commit()
    db.close()
    with OutcomeMemo(path) as memo, pytest.raises(StoreError, match="remove the file"):
        await run(make(memo=memo), workflow("right 0"))


class Hostile:
    def __str__(self):
        raise RuntimeError("never called")

    __repr__ = __str__


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("text", "text"),
        (True, True),
        (None, None),
        (-7, -7),
        (2.5, 2.5),
        ("\ud800", "?"),
        (["a", 1], '["a", 1]'),
        ({"a": None}, '{"a": null}'),
        (lambda: 10**5000, "<int>"),
        (lambda: [10**5000], "<list>"),
        (b"bytes", "<bytes>"),
        (Hostile, "<Hostile>"),
        (lambda: [Hostile()], "<list>"),
        (lambda: nested(100_000), "<list>"),
    ],
)
def test_a_hostile_answer_becomes_something_plain(answer, plain):
    assert plain_answer(answer() if callable(answer) else answer) == plain


async def test_no_answer_and_an_endless_one_are_wrong_without_being_graded():
    class Refusing(FakeTask):
        async def grade(self, item, answer, sandbox):
            raise AssertionError("never called")

    none = (await run(make(), workflow("answer None"), Refusing())).outcomes[0]
    assert (none.status, none.symptom, none.answer) == (ItemStatus.WRONG, "no answer", None)
    long = (
        await run(make(max_answer_characters=5, kept_characters=4), workflow("answer 'abcdef'"), Refusing())
    ).outcomes[0]
    assert (long.status, long.symptom, long.answer) == (
        ItemStatus.WRONG,
        "answer too long",
        "abcd … (2 more characters)",
    )


def test_bounded_text_says_how_much_is_missing():
    assert bounded("abc", 3) == "abc"
    assert bounded("abcde", 3) == "abc … (2 more characters)"


def test_options_that_allow_nothing_are_refused():
    for bad in ({"concurrency": 0}, {"max_calls_per_item": 0}, {"item_timeout": 0.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            EvaluationOptions(**bad)


async def test_a_task_that_asks_for_scratch_space_gets_it_for_every_item():
    task, asked = FakeTask(), []
    task.scratch_bytes = 4096

    class Sandbox(FakeSandbox):
        async def run_workflow(self, workflow, given, ask, limits):
            asked.append(limits.scratch_bytes)
            return await super().run_workflow(workflow, given, ask, limits)

    await run(make(sandbox=Sandbox()), workflow("right 0"), task)
    assert asked == [4096] * 4
