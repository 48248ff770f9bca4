"""For every task: no word of a test item reaches a prompt, and only the closing evaluation opens the test split."""

import pytest
from rollout_fakes import FakeExecutor, FakePolicy, FakeSandbox, action
from small_benchmarks import write_small_benchmarks

from w4s_jax.prompts import CompactTemplate, FullTemplate
from w4s_jax.rollout.evaluate import Evaluator
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.search.base import SearchOptions
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.registry import STRATEGIES
from w4s_jax.search.task import open_search_task
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.custom import CustomFormat
from w4s_jax.tasks.registry import make_task, task_names
from w4s_jax.types import ProgramRun, RunStatus, SealedSplitError, Split

OWN = ("jsonl", "python")


class WrongSandbox(FakeSandbox):
    """Every workflow answers wrongly, so that every case is a failure and is shown."""

    async def run_program(self, code, limits):
        return ProgramRun(status=RunStatus.EXCEPTION, error="AssertionError")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_small_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture
def task_of(data_dir, tmp_path):
    """The task of a name, sealed; your own task in its two forms."""

    def made(name):
        rows = "".join(f"How much is {i} and {i * i}?,{i + i * i}\n" for i in range(24))
        (tmp_path / "own.csv").write_text("question,answer\n" + rows)
        (tmp_path / "own.py").write_text(
            "class Own:\n    def rows(self):\n"
            "        return [{'question': f'How much is {i} and {i * i}?', 'answer': i} for i in range(24)]\n"
        )
        names = {"jsonl": f"jsonl:{tmp_path / 'own.csv'}", "python": f"python:{tmp_path / 'own.py'}:Own"}
        return make_task(names.get(name, name), TaskOptions(data_dir=data_dir), custom=CustomFormat())

    return made


def lines(items):
    """The lines of questions, white space squeezed."""
    return {line for item in items for line in (" ".join(part.split()) for part in item.question.splitlines()) if line}


@pytest.mark.parametrize(
    "template", [FullTemplate(max_case_characters=10**6), CompactTemplate()], ids=["full", "compact"]
)
@pytest.mark.parametrize("name", [*task_names(), *OWN])
async def test_no_test_item_reaches_the_meta_agent(name, template, task_of):
    task = task_of(name)
    known = "\n".join(lines([*task.items(Split.VALIDATION), *task.items(Split.TRAIN)]))
    sealed = task._task.items(Split.TEST)  # what nobody else may see
    hidden = [line for line in lines(sealed) if len(line) > 15 and line not in known]  # shorter ones say nothing
    assert len(sealed) > 3
    assert len(hidden) >= min(len(sealed), 3)

    policy = FakePolicy(lambda context, key: action("answer 'no such answer'", analysis=f"{key.turn}.{key.candidate}"))
    evaluator = Evaluator(FakeExecutor(), WrongSandbox())
    search_task = await open_search_task(evaluator, task, max_cases=1000)
    options = SearchOptions(num_candidates=2, num_turns=3, max_cases=1000)
    for strategy in STRATEGIES.values():
        engine = SearchEngine(strategy, policy, template, evaluator, options)
        await engine.collect_trajectory(search_task, PlannedTrajectory(seed=0, round=0, index=0, task=task.name))

    read = " ".join(" ".join(m.content for m in context.messages) for context in policy.contexts)
    read = " ".join(read.split())
    assert [line for line in hidden if line in read] == []
    if isinstance(template, FullTemplate):  # the check can fail: every validation question is in there
        shown = lines(task.items(Split.VALIDATION)) - lines(sealed)
        assert [line for line in shown if line not in read] == []
    with pytest.raises(SealedSplitError):
        task.items(Split.TEST)
