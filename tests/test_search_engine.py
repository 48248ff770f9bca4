"""One engine for every strategy: what is asked, made from what, stored, resumed and stopped, worked out by hand."""

import dataclasses
import hashlib
import json

import pytest
from rollout_fakes import (
    FakeExecutor,
    FakePolicy,
    FakeSandbox,
    FakeTask,
    PlainTemplate,
    action,
    code,
    lively,
)

from w4s_jax.mdp import RewardConfig, RewardKind
from w4s_jax.prompts import CompactTemplate, FullTemplate
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.records import decode_turn, encode_turn
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.search.base import SearchEnd, SearchOptions, StopRules
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.registry import STRATEGIES
from w4s_jax.search.strategy import OneDrawStrategy, Step
from w4s_jax.search.task import open_search_task
from w4s_jax.types import CandidateStatus, Context, InputError, Message

PLANNED = PlannedTrajectory(seed=5, round=1, index=3, task="fake")
"""Its candidates are called r1-t3-turn*-c*; the seeds of the task are seed0 with 0.25 and seed1 with 0.5."""


class WithoutIds(FakePolicy):
    """A meta-agent behind an API: no token is known."""

    def open(self, messages):
        return Context(messages=tuple(messages))

    def extend(self, context, action, messages):
        said = Message(role="assistant", content=action.text)
        return Context(messages=(*context.messages, said, *messages))

    def encode_action(self, text):
        return dataclasses.replace(super().encode_action(text), ids=())

    async def sample(self, context, keys, options):
        samples = await super().sample(context, keys, options)
        return [dataclasses.replace(sample, ids=(), logprobs=()) for sample in samples]


class Scene:
    """A strategy with a scripted meta-agent and executor."""

    def __init__(self, strategy, script, *, template=None, policy=FakePolicy, fits=1_000_000, **options):
        self.policy = policy(script, fits=fits)
        self.executor = FakeExecutor()
        self.evaluator = Evaluator(
            self.executor, FakeSandbox(), options=EvaluationOptions(concurrency=4, max_calls_per_item=8)
        )
        options = SearchOptions(**{"num_candidates": 2, "num_turns": 3, **options})
        self.engine = SearchEngine(strategy, self.policy, template or PlainTemplate(), self.evaluator, options)

    async def collect(self, **options):
        search_task = await open_search_task(self.evaluator, FakeTask(), seed=5)
        return (await self.engine.collect_trajectory(search_task, PLANNED, **options)).turns

    async def search(self, store, rules, on_turn=lambda turn: None):
        search_task = await open_search_task(self.evaluator, FakeTask(), seed=5)
        return await self.engine.search(search_task, PLANNED, store, rules, on_turn)

    @property
    def prompts(self):
        return ["\n".join(message.content for message in context.messages) for context in self.policy.contexts]


def table(*turns):
    """The action of each candidate of each turn."""
    return lambda context, key: turns[key.turn][key.candidate]


THREE_TURNS = table(
    (action("right 0"), action("right 0 1 2")),  # 0.25, 0.75
    (action("right 1 2"), action("right 0 1 3")),  # 0.5, 0.75: a tie
    (action("right 0 1 2 3"), action("raise ValueError: no")),  # 1.0, broken
)


# --- W4S, against its former implementation ------------------------------------------


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "01001ef12ac31cffde76b32fc5343eeb915138a09cd72ad1521daf6374f646e9"),
        (
            {"reward": RewardConfig(kind=RewardKind.REPO)},
            "f08ae0b254b90917509f0b6b4939b457335e0098e92bf59379109531c1d247c1",
        ),
        ({"turns_in_context": 1}, "c7e1b59889bcca5bd3e7811c7d6c2033d4bd3c5376ca35dceff9cf50edee6da9"),
        (
            {"turns_in_context": 7, "max_repairs": 1},
            "ee1482217c3d69466a5a80f169c801ef0ede966dfbfc79e4bb7865c1a6d0cb4a",
        ),
        (
            {"num_candidates": 1, "turns_in_context": 3, "max_repairs": 0},
            "6c69cd87a4b35925abc4d125c3eaab1b267525e303af882958b1529276f7a5b3",
        ),
        (
            {"turns_in_context": 7, "fits": 3000, "reward": RewardConfig(kind=RewardKind.REPO)},
            "957e15efbf5d17adaa45969572af1bc2aeb43fcc119307a5824d82ccc1f4b754",
        ),
    ],
)
async def test_w4s_leaves_the_records_that_its_own_collector_left_before_there_was_an_engine(options, digest):
    """Digests recorded with that collector: prompts, ids, log-probabilities, code, feedback, rewards, choices."""
    turns = await Scene(STRATEGIES["w4s"], lively, **{"num_candidates": 3, "num_turns": 8, **options}).collect()
    records = [json.loads(encode_turn(turn)) for turn in turns]
    for record in records:
        del record["parents"]
    assert hashlib.sha256(b"".join(json.dumps(r).encode() + b"\n" for r in records)).hexdigest() == digest


async def test_each_turn_of_w4s_is_made_from_the_workflow_that_was_current():
    script = table((action("right 0"),), (action("raise ValueError: no"),), (action("right 1"),), (action("right 0"),))
    turns = await Scene(STRATEGIES["w4s"], script, num_candidates=1, num_turns=4, max_repairs=0).collect()
    assert [turn.parents for turn in turns] == [
        ("seed0",),
        ("r1-t3-turn0-c0",),  # worse than seed1, and current nevertheless
        ("r1-t3-turn0-c0",),  # all were skipped: it stays
        ("r1-t3-turn2-c0",),
    ]


# --- best of n -----------------------------------------------------------------------


async def test_best_of_n_draws_every_action_from_the_first_state_with_a_key_of_its_own():
    scene = Scene(STRATEGIES["best_of_n"], THREE_TURNS, max_repairs=0)
    turns = await scene.collect()
    assert len(set(scene.prompts)) == 1
    assert scene.prompts[0].startswith("open 0 seed0 Feedback(score=0.25")
    assert [key[:] for key in scene.policy.keys] == [(5, 1, 3, t, c, 0) for t in range(3) for c in range(2)]
    assert [turn.parents for turn in turns] == [("seed0",)] * 3
    assert [turn.chosen for turn in turns] == [1, 1, 0]


async def test_rewards_of_best_of_n_compare_with_the_best_of_all_and_with_the_first_seed():
    """Best before the turns: 0.5, 0.75, 0.75; the first seed has 0.25."""
    turns = await Scene(STRATEGIES["best_of_n"], THREE_TURNS, max_repairs=0).collect()
    assert [[c.reward for c in turn.candidates] for turn in turns] == [[0.0, 1.0], [0.5, 0.5], [1.0, None]]


# --- random edits --------------------------------------------------------------------


async def test_random_edits_change_the_best_so_far_and_are_compared_with_it():
    """Best: seed1 (0.5), then 0.75 of the first turn; the tie of the second turn is the later one."""
    scene = Scene(STRATEGIES["random"], THREE_TURNS, max_repairs=0)
    turns = await scene.collect()
    first = "r1-t3-turn0-c1"
    assert [turn.parents for turn in turns] == [("seed1",), (first,), (first,)]
    assert scene.prompts == [
        f"edit answer with the number seed1 {code('right 0 1')}",
        f"edit answer with the number {first} {code('right 0 1 2')}",
        f"edit answer with the number {first} {code('right 0 1 2')}",
    ]
    assert [[c.reward for c in turn.candidates] for turn in turns] == [[0.0, 1.0], [0.0, 0.0], [1.0, None]]


@pytest.mark.parametrize("template", [FullTemplate(), CompactTemplate()], ids=["full", "compact"])
@pytest.mark.parametrize("policy", [FakePolicy, WithoutIds])
@pytest.mark.parametrize("name", ["random", "best_of_n"])
async def test_baselines_work_with_every_template_and_with_meta_agents_behind_an_api(name, policy, template):
    scene = Scene(STRATEGIES[name], THREE_TURNS, template=template, policy=policy, max_repairs=0)
    turns = await scene.collect()
    statuses = [candidate.status for turn in turns for candidate in turn.candidates]
    assert statuses == [CandidateStatus.OK] * 5 + [CandidateStatus.SKIPPED]
    if name == "random":
        shown = [code("right 0 1"), code("right 0 1 2"), code("right 0 1 2")]
        assert [text in prompt for text, prompt in zip(shown, scene.prompts, strict=True)] == [True] * 3


@pytest.mark.parametrize("template", [FullTemplate(), CompactTemplate()], ids=["full", "compact"])
async def test_the_request_for_an_edit_holds_no_score_no_failure_and_no_case(template):
    other = Scene(STRATEGIES["w4s"], THREE_TURNS, template=template, max_repairs=0)
    await other.collect()
    scene = Scene(STRATEGIES["random"], THREE_TURNS, template=template, max_repairs=0)
    await scene.collect()
    for said in ("another number", "best 50" if isinstance(template, CompactTemplate) else "0.500"):
        assert any(said in prompt for prompt in other.prompts), said  # the check can fail
        assert not any(said in prompt for prompt in scene.prompts), said
    assert all("one" in prompt and "hange" in prompt for prompt in scene.prompts)


# --- what all strategies get from the engine -------------------------------------------


class Archive(OneDrawStrategy):
    """As Meta Agent Search would: made from everything tried, one action a turn, thought over once before it counts."""

    name = "archive"

    def propose(self, history):
        tried = (*history.search_task.seeds, *(state.current for state in history.states[1:]))
        messages = [Message(role="user", content=" ".join(one.workflow.name for one in tried))]
        return Step(parents=tried, context=self.policy.open(messages), num_candidates=1)

    async def act(self, step, keys):
        (draft,) = await super().act(step, keys)
        again = self.policy.extend(step.context, draft, [Message(role="user", content="think again")])
        revised = await self.policy.sample(again, [keys[0]._replace(attempt=1000)], self.options.sampling)
        return [self.policy.encode_action(revised[0].text)]


ALL = {**STRATEGIES, "archive": Archive}


async def test_a_strategy_may_have_many_parents_own_numbers_of_candidates_and_several_calls_an_action():
    def script(context, key):
        return action("right 0 1 2 3" if key.attempt else "right 0", analysis=str(key.turn))

    scene = Scene(Archive, script, num_turns=2)
    first, second = await scene.collect()
    assert first.parents == ("seed0", "seed1")
    assert second.parents == ("seed0", "seed1", "r1-t3-turn0-c0")
    assert [len(turn.candidates) for turn in (first, second)] == [1, 1]
    assert first.candidates[0].score == 1.0  # the revised action counts
    assert [message.content for message in first.messages] == ["seed0 seed1"]
    assert len(scene.policy.contexts) == 4
    assert decode_turn(encode_turn(second), "x:1") == second


@pytest.mark.parametrize("name", ALL)
async def test_every_search_resumes_after_each_turn_as_if_it_had_never_stopped(name):
    expected = await Scene(ALL[name], lively, num_turns=5, max_repairs=1).collect()
    for done in range(6):
        scene, handed = Scene(ALL[name], lively, num_turns=5, max_repairs=1), []
        assert await scene.collect(finished_turns=expected[:done], on_turn=handed.append) == expected
        assert tuple(handed) == expected[done:]
        assert {key.turn for key in scene.policy.keys} == set(range(done, 5))


@pytest.mark.parametrize("name", ALL)
async def test_a_killed_search_goes_on_from_its_store_without_sampling_again(name, tmp_path):
    rules = StopRules(num_turns=4)
    with TrajectoryStore(tmp_path / "whole.jsonl") as store:
        expected = await Scene(ALL[name], lively).search(store, rules)

    def killed(turn):
        if turn.turn == 1:
            raise KeyboardInterrupt

    with TrajectoryStore(tmp_path / "killed.jsonl") as store, pytest.raises(KeyboardInterrupt):
        await Scene(ALL[name], lively).search(store, rules, killed)
    scene = Scene(ALL[name], lively)
    with TrajectoryStore(tmp_path / "killed.jsonl") as store:
        assert await scene.search(store, rules) == expected
    assert {key.turn for key in scene.policy.keys} == {2, 3}  # the second turn was stored before the kill
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("rules", "turns", "end"),
    [
        (StopRules(num_turns=2), 2, SearchEnd.TURNS),
        (StopRules(num_turns=9, target=0.7), 1, SearchEnd.TARGET),  # 0.75 in the first turn
        (StopRules(num_turns=9, patience=1), 2, SearchEnd.PLATEAU),  # a tie in the second
        (StopRules(num_turns=9, target=0.5), 0, SearchEnd.TARGET),  # a seed has it
    ],
)
async def test_every_search_ends_by_the_same_rules(name, rules, turns, end, tmp_path):
    scene = Scene(STRATEGIES[name], THREE_TURNS, max_repairs=0)
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        result = await scene.search(store, rules)
    assert (len(result.turns), result.stopped_by) == (turns, end)
    assert len(scene.policy.contexts) == turns


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_cap_ends_every_search_with_what_it_has_and_a_higher_one_goes_on(name, tmp_path):
    script = table(*[(action(f"ask 1 t{turn}"),) for turn in range(3)])
    with TrajectoryStore(tmp_path / "whole.jsonl") as store:
        expected = await Scene(STRATEGIES[name], script, num_candidates=1).search(store, StopRules(num_turns=3))
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        scene = Scene(STRATEGIES[name], script, num_candidates=1)
        scene.executor.budget_calls = 6  # a turn takes four
        result = await scene.search(store, StopRules(num_turns=3))
        assert (result.turns, result.stopped_by) == (expected.turns[:1], SearchEnd.BUDGET)
        assert str(result.exceeded) == "budget_calls: no call is left"
        assert await Scene(STRATEGIES[name], script, num_candidates=1).search(store, StopRules(num_turns=3)) == expected
    assert (expected.stopped_by, expected.exceeded) == (SearchEnd.TURNS, None)


async def test_the_best_of_a_search_is_found_whatever_made_it(tmp_path):
    for name in STRATEGIES:
        with TrajectoryStore(tmp_path / f"{name}.jsonl") as store:
            best = (
                await Scene(STRATEGIES[name], THREE_TURNS, max_repairs=0).search(store, StopRules(num_turns=3))
            ).best
        assert (best.workflow.name, best.feedback.score) == ("r1-t3-turn2-c0", 1.0)


async def test_turns_of_records_that_name_no_parents_are_taken_as_they_are():
    expected = await Scene(STRATEGIES["w4s"], lively).collect()
    old = tuple(dataclasses.replace(turn, parents=None) for turn in expected[:2])
    record = json.loads(encode_turn(old[0]))
    del record["parents"]
    assert decode_turn(json.dumps(record).encode(), "x:1") == old[0]
    assert await Scene(STRATEGIES["w4s"], lively).collect(finished_turns=old) == (*old, expected[2])


async def test_turns_of_another_strategy_are_refused():
    turns = await Scene(STRATEGIES["random"], THREE_TURNS, max_repairs=0).collect()
    for name in ("w4s", "best_of_n"):
        with pytest.raises(InputError, match="turn 0 of r1-t3 is stored with another prompt"):
            await Scene(STRATEGIES[name], THREE_TURNS, max_repairs=0).collect(finished_turns=turns)
    other = dataclasses.replace(turns[1], parents=("seed0",))
    with pytest.raises(InputError, match=r"made from \('seed0',\), this search makes it from \('r1-t3-turn0-c1',\)"):
        await Scene(STRATEGIES["random"], THREE_TURNS, max_repairs=0).collect(finished_turns=(turns[0], other))


async def test_a_prompt_that_does_not_fit_ends_a_search_that_has_no_other():
    for name in ("random", "best_of_n"):
        with pytest.raises(InputError, match="exceeds 10"):
            await Scene(STRATEGIES[name], THREE_TURNS, fits=10).collect()


def test_every_strategy_says_its_name():
    assert {name: factory.name for name, factory in STRATEGIES.items()} == {name: name for name in STRATEGIES}
    assert next(iter(STRATEGIES)) == "w4s"
