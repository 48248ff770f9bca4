"""Many trajectories: the plan, planned order, failures, cancellation, the supervisor."""

import asyncio
import contextlib

import pytest
from rollout_fakes import FakeExecutor, FakePolicy, FakeSandbox, FakeTask, PlainTemplate, action, lively

from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.plan import PlannedTrajectory, keyed_choice, plan_round
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.search.base import SearchOptions
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.rounds import collect_round
from w4s_jax.search.task import open_search_task
from w4s_jax.search.w4s import W4SStrategy
from w4s_jax.types import BudgetExceededError, InputError, StoreError


def make(policy, executor=None, sandbox=None, **options):
    evaluator = Evaluator(
        executor or FakeExecutor(), sandbox or FakeSandbox(), options=EvaluationOptions(concurrency=8)
    )
    options = SearchOptions(num_candidates=2, **options)
    return evaluator, SearchEngine(W4SStrategy, policy, PlainTemplate(), evaluator, options)


async def collected(
    policy, plan, path, *, executor=None, sandbox=None, in_flight=4, on_turn=None, into=None, **options
):
    evaluator, engine = make(policy, executor, sandbox, **options)
    search_tasks = {name: await open_search_task(evaluator, FakeTask(name=name)) for name in ("a", "b")}
    with TrajectoryStore(path) as store:
        rounds = collect_round(engine, plan, search_tasks, store, in_flight=in_flight, on_turn=on_turn)
        found = [] if into is None else into
        async for trajectory in rounds:
            found.append(trajectory)
        return found


def make_plan(count=6):
    return plan_round(seed=1, round_=2, tasks=["a", "b"], trajectories=count)


# --- the plan ---------------------------------------------------------------


def test_tasks_are_dealt_in_turn_and_the_order_of_their_names_does_not_matter():
    plan = plan_round(seed=3, round_=1, tasks=["a", "b", "c"], trajectories=8)
    assert [p.index for p in plan] == list(range(8))
    assert [p.task for p in plan] == [plan[i % 3].task for i in range(8)]
    assert {p.task for p in plan[:3]} == {"a", "b", "c"}
    assert plan_round(seed=3, round_=1, tasks=["c", "a", "b"], trajectories=8) == plan


def test_the_first_task_of_a_round_depends_on_seed_and_round():
    firsts = {
        plan_round(seed=s, round_=r, tasks=["a", "b", "c"], trajectories=1)[0].task for s in range(4) for r in range(4)
    }
    assert firsts == {"a", "b", "c"}


def test_keyed_choices_are_the_same_on_every_machine_and_spread_evenly():
    assert [keyed_choice(100, 0, "x", i) for i in range(4)] == [keyed_choice(100, 0, "x", i) for i in range(4)]
    counts = [0] * 10
    for i in range(5_000):
        counts[keyed_choice(10, 0, "self-check", 1, i)] += 1
    assert all(400 < count < 600 for count in counts)  # 500 ± 21; five standard deviations


def test_an_impossible_plan_is_refused():
    for tasks, trajectories in ([], 1), (["a", "a"], 1), (["a"], 0):
        with pytest.raises(InputError):
            plan_round(seed=0, round_=0, tasks=tasks, trajectories=trajectories)
    with pytest.raises(InputError, match="nothing to choose"):
        keyed_choice(0, 0, "x")


# --- order and equality -----------------------------------------------------


async def test_trajectories_come_in_planned_order_and_equal_at_any_load(tmp_path):
    expected = await collected(FakePolicy(lively), make_plan(), tmp_path / "calm.jsonl", in_flight=1)
    assert [t.index for t in expected] == list(range(6))
    for number, in_flight in enumerate((2, 6)):
        noisy = await collected(
            FakePolicy(lively, jitter=0.01), make_plan(), tmp_path / f"{number}.jsonl", in_flight=in_flight,
            executor=FakeExecutor(jitter=0.002), sandbox=FakeSandbox(jitter=0.004),
        )  # fmt: skip
        assert noisy == expected


async def test_a_finished_trajectory_is_handed_on_while_later_ones_still_run(tmp_path):
    gate = asyncio.Event()

    class Gated(FakePolicy):
        async def sample(self, context, keys, options):
            if keys[0].trajectory == 1:
                await gate.wait()
            return await super().sample(context, keys, options)

    evaluator, engine = make(Gated(lively))
    search_tasks = {name: await open_search_task(evaluator, FakeTask(name=name)) for name in ("a", "b")}
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        async with contextlib.aclosing(collect_round(engine, make_plan(4), search_tasks, store, in_flight=8)) as rounds:
            assert (await asyncio.wait_for(anext(rounds), 5)).index == 0
            gate.set()
            assert [t.index async for t in rounds] == [1, 2, 3]


async def test_no_more_trajectories_are_in_flight_than_allowed(tmp_path):
    active, most = set(), []

    class Watching(FakePolicy):
        async def sample(self, context, keys, options):
            active.add(keys[0].trajectory)
            most.append(len(active))
            samples = await super().sample(context, keys, options)
            active.discard(keys[0].trajectory)
            return samples

    await collected(Watching(lively, jitter=0.01), make_plan(9), tmp_path / "t.jsonl", in_flight=3, num_turns=1)
    assert max(most) == 3


async def test_every_finished_turn_is_stored_at_once(tmp_path):
    path, sizes = tmp_path / "t.jsonl", []
    await collected(
        FakePolicy(lively), make_plan(3), path, on_turn=lambda turn: sizes.append(path.read_bytes().count(b"\n"))
    )
    assert sizes == [1, 2, 3, 4, 5, 6]


# --- stopping and going on --------------------------------------------------


async def test_a_round_goes_on_from_what_is_stored(tmp_path):
    whole = await collected(FakePolicy(lively), make_plan(), tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (1, 5, len(lines) - 1, len(lines)):
        path = tmp_path / f"{kept}.jsonl"
        path.write_bytes(b"".join(lines[:kept]) + b'{"torn')
        policy = FakePolicy(lively)
        assert await collected(policy, make_plan(), path) == whole
        attempts = [key for key in policy.keys if key.attempt == 0]
        assert len(attempts) == 2 * (len(lines) - kept)


async def test_a_budget_stop_is_raised_after_what_was_in_flight_and_the_same_plan_goes_on(tmp_path):
    script = lambda context, key: action(f"ask 1 {key.trajectory} {key.turn} {key.candidate}")  # noqa: E731
    whole = await collected(FakePolicy(script), make_plan(), tmp_path / "whole.jsonl")
    path = tmp_path / "stopped.jsonl"
    yielded = []
    with pytest.raises(BudgetExceededError):
        await collected(
            FakePolicy(script), make_plan(), path, executor=FakeExecutor(budget_calls=40), in_flight=1, into=yielded
        )
    assert yielded == whole[:2]  # 16 calls a trajectory
    assert path.read_bytes().count(b"\n") == 5
    assert await collected(FakePolicy(script), make_plan(), path) == whole


async def test_the_first_failure_stops_the_round_once_those_in_flight_are_stored(tmp_path, caplog):
    class Failing(FakePolicy):
        async def sample(self, context, keys, options):
            await asyncio.sleep(0)  # lets the others start
            if keys[0].trajectory == 1:
                raise RuntimeError("a bug")
            return await super().sample(context, keys, options)

    path = tmp_path / "t.jsonl"
    evaluator, engine = make(Failing(lively, jitter=0.01))
    search_tasks = {name: await open_search_task(evaluator, FakeTask(name=name)) for name in ("a", "b")}
    with TrajectoryStore(path) as store:
        rounds = collect_round(engine, make_plan(), search_tasks, store, in_flight=3)
        assert (await anext(rounds)).index == 0
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(rounds)
        assert [(t.index, len(t.turns)) for t in store.trajectories()] == [(0, 2), (2, 2)]
    assert "r2-t1" in caplog.text
    assert "RuntimeError: a bug" in caplog.text


async def test_a_store_that_cannot_be_written_stops_the_round(tmp_path):
    def full(turn):
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        await collected(FakePolicy(lively), make_plan(), tmp_path / "t.jsonl", on_turn=full)


async def test_a_cancellation_keeps_finished_turns_and_leaves_nothing_running(tmp_path):
    path = tmp_path / "t.jsonl"
    whole = await collected(FakePolicy(lively), make_plan(), tmp_path / "whole.jsonl")
    enough = asyncio.Event()
    turns = []

    def count(turn):
        turns.append(turn)
        if len(turns) == 3:
            enough.set()

    others = asyncio.all_tasks()
    policy = FakePolicy(lively, jitter=0.02)
    job = asyncio.create_task(collected(policy, make_plan(), path, in_flight=3, on_turn=count))
    await enough.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert asyncio.all_tasks() == others
    assert path.read_bytes().count(b"\n") == len(turns) >= 3
    assert await collected(FakePolicy(lively), make_plan(), path) == whole


async def test_leaving_the_loop_early_leaves_nothing_running(tmp_path):
    evaluator, engine = make(FakePolicy(lively, jitter=0.005))
    search_tasks = {name: await open_search_task(evaluator, FakeTask(name=name)) for name in ("a", "b")}
    others = asyncio.all_tasks()
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        async with contextlib.aclosing(collect_round(engine, make_plan(), search_tasks, store, in_flight=8)) as rounds:
            async for _ in rounds:
                break
    assert asyncio.all_tasks() == others


async def test_a_planned_task_that_was_not_opened_is_refused(tmp_path):
    plan = (PlannedTrajectory(seed=0, round=0, index=0, task="c"),)
    with pytest.raises(InputError, match="'c'"):
        await collected(FakePolicy(lively), plan, tmp_path / "t.jsonl")
    with pytest.raises(InputError, match="in_flight=0"):
        await collected(FakePolicy(lively), make_plan(), tmp_path / "t.jsonl", in_flight=0)
