"""Trajectories collected from a scripted meta-agent: repairs, skips, dialogues, failures, resuming."""

import dataclasses

import pytest
from rollout_fakes import (
    END,
    FakeExecutor,
    FakePolicy,
    FakeSandbox,
    FakeTask,
    PlainTemplate,
    action,
    code,
    encode,
    lively,
)

from w4s_jax.mdp import RewardConfig, RewardKind
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.search.base import SearchOptions
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.task import open_search_task
from w4s_jax.search.w4s import W4SStrategy
from w4s_jax.types import (
    BudgetExceededError,
    CandidateStatus,
    ExecutorError,
    InputError,
    SandboxError,
)

PLANNED = PlannedTrajectory(seed=5, round=1, index=3, task="fake")
OK, SKIPPED, FAILED = CandidateStatus.OK, CandidateStatus.SKIPPED, CandidateStatus.FAILED


class Scene:
    """A policy, an evaluator and a search_task, wired together."""

    def __init__(self, script, *, executor=None, sandbox=None, task=None, policy=None, concurrency=4, **options):
        self.policy = policy or FakePolicy(script)
        self.executor = executor or FakeExecutor()
        self.sandbox = sandbox or FakeSandbox()
        self.task = task or FakeTask()
        self.evaluator = Evaluator(
            self.executor, self.sandbox, options=EvaluationOptions(concurrency=concurrency, max_calls_per_item=8)
        )
        chosen = {"num_candidates": 3, "num_turns": 2, **options}
        self.engine = SearchEngine(W4SStrategy, self.policy, PlainTemplate(), self.evaluator, SearchOptions(**chosen))

    async def collect(self, **options):
        self.search_task = await open_search_task(self.evaluator, self.task, seed=5)
        self.sandbox.runs.clear()
        return await self.engine.collect_trajectory(self.search_task, PLANNED, **options)


def by_candidate(*texts):
    """The text of each candidate, in every turn."""
    return lambda context, key: texts[key.candidate]


async def test_the_best_of_m_advances_and_all_are_kept_with_their_rewards():
    """Seeds 0.25 (current) and 0.5; candidates 0.5, 0.75, 0.25 at turn 0, and again at turn 1.

    Turn 0: 0.5 ties with the best, above the current: 0.5; 0.75 passes it: 1; 0.25 ties with the current: 0.
    Turn 1: best and current are 0.75: nothing improves.
    """
    scene = Scene(by_candidate(action("right 0 1"), action("right 0 1 2"), action("right 3")))
    first, second = (await scene.collect()).turns
    assert [c.score for c in first.candidates] == [0.5, 0.75, 0.25]
    assert [c.reward for c in first.candidates] == [0.5, 1.0, 0.0]
    assert [c.reward for c in second.candidates] == [0.0, 0.0, 0.0]
    assert (first.chosen, second.chosen) == (1, 1)
    assert first.candidates[1].code == code("right 0 1 2")
    assert [c.index for c in first.candidates] == [0, 1, 2]


async def test_the_repo_reward_keeps_the_best_of_the_dialogues_start():
    scene = Scene(
        by_candidate(action("right 0 1 2")), num_candidates=1, reward=RewardConfig(kind=RewardKind.REPO), num_turns=3
    )
    turns = (await scene.collect()).turns
    assert [t.candidates[0].reward for t in turns] == [1.0, 1.0, 0.0]  # the third turn opens a fresh dialogue


async def test_the_prompt_of_a_turn_begins_with_the_one_before_and_the_chosen_ids():
    scene = Scene(by_candidate(action("right 0"), action("right 0 1 2")), num_candidates=2)
    first, second = (await scene.collect()).turns
    prefix = first.prompt_ids + first.candidates[1].ids
    assert second.prompt_ids[: len(prefix)] == prefix
    assert [m.role for m in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].content == action("right 0 1 2")
    assert second.messages[2].content.startswith("chosen Feedback(score=0.75")


async def test_sampled_ids_and_logprobs_are_recorded_as_they_were_sampled():
    scene = Scene(by_candidate(action("right 0"), action("right 1"), action("right 2")))
    candidate = (await scene.collect()).turns[0].candidates[2]
    assert candidate.ids == (*encode(action("right 2")), END)
    assert len(candidate.logprobs) == len(candidate.ids)


async def test_every_draw_has_a_key_of_its_own():
    def script(context, key):
        return action("raise ValueError: no")

    scene = Scene(script, max_repairs=1)
    await scene.collect()
    expected = {(5, 1, 3, turn, c, attempt) for turn in (0, 1) for c in (0, 1, 2) for attempt in (0, 1)}
    assert {tuple(key) for key in scene.policy.keys} == expected
    assert len(scene.policy.keys) == len(expected)


async def test_a_fresh_dialogue_opens_from_the_current_state_every_turns_in_context_turns():
    scene = Scene(by_candidate(action("right 0 1")), num_candidates=1, num_turns=5, turns_in_context=2)
    turns = (await scene.collect()).turns
    assert [len(t.messages) for t in turns] == [1, 3, 1, 3, 1]
    assert turns[2].messages[0].content.startswith("open 2 r1-t3-turn1-c0 Feedback(score=0.5")


async def test_a_broken_action_is_repaired_with_its_traceback_and_tokenised_once():
    def script(context, key):
        if key.attempt == 0:
            return action("raise KeyError: k", analysis="my plan")
        return action("right 0 1 2 3", analysis="sorry")

    scene = Scene(script, num_candidates=1, num_turns=1)
    (turn,) = (await scene.collect()).turns
    (candidate,) = turn.candidates
    assert (candidate.status, candidate.repairs, candidate.score) == (OK, 1, 1.0)
    assert candidate.text == action("right 0 1 2 3", analysis="my plan")  # only the code was replaced
    assert candidate.ids == (*encode(candidate.text), END)
    assert candidate.logprobs == ()
    assert scene.policy.encoded == [candidate.text]
    side = scene.policy.contexts[1].messages
    assert [m.content for m in side[1:]] == [
        action("raise KeyError: k", analysis="my plan"),
        "repair KeyError: k line 1\nKeyError: k",
    ]
    assert turn.messages == side[:1]  # the side dialogue leaves no trace


async def test_each_repair_sees_the_action_as_it_now_stands_and_not_the_earlier_ones():
    def script(context, key):
        return action(f"raise E{key.attempt}: x") if key.attempt < 3 else action("right 1")

    scene = Scene(script, num_candidates=1, num_turns=1)
    (candidate,) = (await scene.collect()).turns[0].candidates
    assert (candidate.status, candidate.repairs) == (OK, 3)
    assert [len(c.messages) for c in scene.policy.contexts] == [1, 3, 3, 3]
    assert "raise E2" in scene.policy.contexts[3].messages[1].content
    assert len(scene.policy.encoded) == 3


async def test_an_error_that_persists_is_skipped_with_its_reason_after_three_repairs():
    scene = Scene(by_candidate(action("raise ValueError: always"), action("right 0")), num_candidates=2, num_turns=1)
    (turn,) = (await scene.collect()).turns
    broken = turn.candidates[0]
    assert (broken.status, broken.repairs, broken.reason) == (SKIPPED, 3, "ValueError: always")
    assert (broken.score, broken.reward, broken.feedback) == (None, None, None)
    assert turn.chosen == 1
    assert len({question for text, question in scene.sandbox.runs if "always" in text}) == 1  # one item, no more


async def test_an_action_without_code_can_be_repaired_too():
    def script(context, key):
        return "only words" if key.attempt < 2 else action("right 0")

    (candidate,) = (await Scene(script, num_candidates=1, num_turns=1).collect()).turns[0].candidates
    assert (candidate.status, candidate.repairs, candidate.code) == (OK, 2, code("right 0"))
    assert candidate.text.startswith("only words")


async def test_where_all_were_skipped_the_state_stays_and_the_dialogue_says_so():
    def script(context, key):
        return action("raise ValueError: no") if key.turn == 0 else action("right 0 1 2")

    scene = Scene(script, max_repairs=0)
    first, second = (await scene.collect()).turns
    assert first.chosen is None
    assert second.messages[1].content == first.candidates[0].text
    assert second.messages[2].content.startswith("all skipped Feedback(score=0.25")
    assert [c.reward for c in second.candidates] == [1.0] * 3
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids


async def test_the_cost_of_a_candidate_is_its_failed_self_checks_and_its_evaluation():
    """The first try asks once before it breaks (0.25 USD); the repaired one asks twice on each of 4 items (2 USD)."""

    def script(context, key):
        return action("ask 1 hi", "raise ValueError: no") if key.attempt == 0 else action("ask 2 hi")

    (candidate,) = (await Scene(script, num_candidates=1, num_turns=1).collect()).turns[0].candidates
    assert candidate.usd == 2.25
    assert candidate.feedback.usd_per_item == 0.5


async def test_a_failure_of_ours_is_tried_again_and_leaves_no_trace():
    scene = Scene(by_candidate(action("right 0"), action("right 1"), action("right 2")))
    expected = await scene.collect()
    shaky = Scene(scene.policy.script)
    search_task = await open_search_task(shaky.evaluator, shaky.task, seed=5)
    shaky.sandbox.failures = 1
    assert await shaky.engine.collect_trajectory(search_task, PLANNED) == expected


async def test_a_candidate_that_fails_by_us_is_failed_and_never_rewarded():
    """The executor cannot be reached for the word that only candidate 1 asks about."""
    executor = FakeExecutor()
    task = FakeTask(seeds=(("right 0",),))
    scene = Scene(
        by_candidate(action("right 0 1"), action("ask 1 hi"), action("raise ValueError: no")),
        executor=executor, task=task, num_turns=1, max_repairs=0,
    )  # fmt: skip
    executor.broken_for = ("0", "1", "2", "3")
    (turn,) = (await scene.collect()).turns
    assert [c.status for c in turn.candidates] == [OK, FAILED, SKIPPED]
    failed = turn.candidates[1]
    assert failed.reason == "ExecutorError: the executor stayed unreachable"
    assert (failed.score, failed.reward) == (None, None)
    assert failed.text == action("ask 1 hi")
    assert turn.chosen == 0


async def test_a_turn_whose_every_candidate_fails_by_us_is_no_turn():
    turns = []
    scene = Scene(by_candidate(*[action("ask 1 hi")] * 3), executor=FakeExecutor(broken_for=("0", "1", "2", "3")))
    with pytest.raises(ExecutorError, match="unreachable"):
        await scene.collect(on_turn=turns.append)
    sandbox = FakeSandbox()
    scene = Scene(by_candidate(*[action("right 1")] * 3), sandbox=sandbox)
    search_task = await open_search_task(scene.evaluator, scene.task)
    sandbox.failures = 1000
    with pytest.raises(SandboxError):
        await scene.engine.collect_trajectory(search_task, PLANNED, on_turn=turns.append)
    assert turns == []


async def test_a_budget_stop_keeps_finished_turns_and_a_later_run_goes_on_from_them():
    turns = []
    script = lively
    expected = (await Scene(script, num_turns=4).collect()).turns
    calls = 0
    while len(turns) < 4:  # a little more budget each time, as a user would give
        calls += 7
        scene = Scene(script, num_turns=4, executor=FakeExecutor(budget_calls=calls))
        try:
            await scene.collect(finished_turns=tuple(turns), on_turn=turns.append)
        except BudgetExceededError:
            continue
    assert tuple(turns) == expected
    assert calls > 7


@pytest.mark.parametrize("kind", list(RewardKind))
async def test_resuming_after_each_turn_equals_never_having_stopped(kind):
    options = {"num_turns": 5, "max_repairs": 1, "reward": RewardConfig(kind=kind)}
    expected = await Scene(lively, **options).collect()
    assert {c.status for t in expected.turns for c in t.candidates} == {OK, SKIPPED}
    for done in range(6):
        scene = Scene(lively, **options)
        handed = []
        resumed = await scene.collect(finished_turns=expected.turns[:done], on_turn=handed.append)
        assert resumed == expected
        assert tuple(handed) == expected.turns[done:]
        assert {key.turn for key in scene.policy.keys} == set(range(done, 5))


async def test_results_are_equal_at_any_concurrency_and_load():
    expected = await Scene(lively, num_turns=3, concurrency=1).collect()
    for concurrency in (2, 16):
        policy = FakePolicy(lively, jitter=0.003)
        scene = Scene(
            None, policy=policy, executor=FakeExecutor(jitter=0.002), sandbox=FakeSandbox(jitter=0.002),
            num_turns=3, concurrency=concurrency,
        )  # fmt: skip
        assert await scene.collect() == expected


async def test_stored_turns_of_another_prompt_tokenizer_or_trajectory_are_refused():
    scene = Scene(lively)
    turns = (await scene.collect()).turns
    other_prompt = dataclasses.replace(turns[1], messages=turns[0].messages)
    other_ids = dataclasses.replace(turns[0], prompt_ids=(1, 2, 3))
    for bad in ((turns[0], dataclasses.replace(other_prompt, prompt_ids=())), (other_ids,)):
        with pytest.raises(InputError, match="another prompt or tokenizer"):
            await scene.collect(finished_turns=bad)
    with pytest.raises(InputError, match="is stored for task 'other'"):
        await scene.collect(finished_turns=(dataclasses.replace(turns[0], task="other"),))
    with pytest.raises(InputError, match="r1-t3"):
        await scene.collect(finished_turns=(turns[1],))


async def test_a_first_prompt_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(InputError, match="exceeds 10"):
        await Scene(None, policy=FakePolicy(lively, fits=10)).collect()


async def test_a_dialogue_that_no_longer_fits_is_followed_by_a_fresh_one_and_resumes():
    script = by_candidate(action("right 0 1", analysis="x" * 2_000))
    options = {"num_candidates": 1, "num_turns": 3, "turns_in_context": 3}
    expected = await Scene(None, policy=FakePolicy(script, fits=2_000), **options).collect()
    assert [len(t.messages) for t in expected.turns] == [1, 1, 1]
    for done in range(4):
        scene = Scene(None, policy=FakePolicy(script, fits=2_000), **options)
        assert await scene.collect(finished_turns=expected.turns[:done]) == expected


async def test_a_dialogue_refused_only_when_sampling_is_also_followed_by_a_fresh_one_and_resumes():
    class Strict(FakePolicy):
        async def sample(self, context, keys, options):
            if len(context.messages) > 1:
                raise InputError("prompt with max_new_tokens does not fit")
            return await super().sample(context, keys, options)

    script = by_candidate(action("right 0 1"))
    options = {"num_candidates": 1, "num_turns": 3, "reward": RewardConfig(kind=RewardKind.REPO)}
    expected = await Scene(None, policy=Strict(script), **options).collect()
    assert [len(t.messages) for t in expected.turns] == [1, 1, 1]
    for done in range(4):
        assert (
            await Scene(None, policy=Strict(script), **options).collect(finished_turns=expected.turns[:done])
            == expected
        )


async def test_a_repair_that_does_not_fit_skips_the_action_with_the_numbers():
    script = by_candidate(action("raise ValueError: no", analysis="x" * 2_000))
    scene = Scene(None, policy=FakePolicy(script, fits=2_000), num_candidates=1, num_turns=1)
    (candidate,) = (await scene.collect()).turns[0].candidates
    assert candidate.status is SKIPPED
    assert "ValueError: no (not repaired: prompt of" in candidate.reason


async def test_a_task_without_validation_items_or_seeds_is_refused():
    for task, message in ((FakeTask(size=0), "no validation item"), (FakeTask(seeds=()), "no seed workflow")):
        with pytest.raises(InputError, match=message):
            await Scene(lively, task=task).collect()


async def test_a_trajectory_of_another_task_is_refused():
    with pytest.raises(InputError, match="planned for task 'fake', not 'other'"):
        await Scene(lively, task=FakeTask(name="other")).collect()


def test_options_that_allow_nothing_are_refused():
    for bad in ({"num_candidates": 0}, {"num_turns": 0}, {"turns_in_context": 0}, {"max_repairs": -1}):
        with pytest.raises(InputError, match=next(iter(bad))):
            SearchOptions(**bad)
