"""A call of the front door as a value, and how it is carried out.

arguments → **OptimizeCall, EvaluateCall** → RunConfig, tasks, back ends → run.search, run.evaluation → result
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import openai

from w4s_jax.run.arguments import budget_text, in_words_of_calls, option_values
from w4s_jax.run.callbacks import Callback
from w4s_jax.run.config import EVALUATE_OPTIONS, OPTIMIZE_OPTIONS, RunConfig
from w4s_jax.run.data import Questions, open_questions, write_rows
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.endpoints import Endpoint, Model, Simulated, executor_endpoint, make_client, meta_agent_endpoint
from w4s_jax.run.evaluation import DEFAULTS as EVALUATE_DEFAULTS
from w4s_jax.run.evaluation import format_result, make_request, run_evaluation
from w4s_jax.run.meta_agent import API
from w4s_jax.run.options import replaced, to_lines
from w4s_jax.run.progress import shown, shown_on
from w4s_jax.run.results import EvaluateResult, OptimizedWorkflow, OptimizeResult
from w4s_jax.run.runner import Runner, Worker
from w4s_jax.run.search import (
    DEFAULTS,
    MAY_CHANGE,
    SearchRun,
    SearchRunResult,
    checked,
    result_so_far,
    run_search,
    run_test,
)
from w4s_jax.run.tasks import Metric
from w4s_jax.runtime import LoadedWorkflow, load_workflow
from w4s_jax.tasks.base import SealedTask
from w4s_jax.types import InputError, Split, StoreError, Task, Workflow
from w4s_jax.workflows import load_workflow as find_workflow
from w4s_jax.workflows import load_workflow_file, seed_names

Data = str | PathLike[str] | Iterable[Mapping[str, Any]] | Task | SealedTask
"""A path, a benchmark's name, rows, or a task."""
Client = Model | tuple[openai.AsyncOpenAI, str]
"""A client with the name of a model."""
Prices = str | Mapping[str, Mapping[str, float]]
"""USD per million tokens by model; a text is JSON, or the path of a file of it."""
WorkflowLike = str | PathLike[str] | Workflow | OptimizedWorkflow | LoadedWorkflow
"""A path, a seed's name, source, or a workflow that is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Call:
    """What both calls are given; see `run.api`."""

    data: Data
    metric: str | Metric | None
    executor: str | Client | Simulated
    budget_usd: float | None
    run_dir: str | PathLike[str]
    prices: Prices | None
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuses a run directory that is no path.

        Raises:
            InputError: It is none.
        """
        if not isinstance(self.run_dir, str | PathLike):
            raise InputError(f"run_dir={self.run_dir!r} is a {type(self.run_dir).__name__}; give a folder's path")
        try:
            if not stat.S_ISDIR(os.stat(self.run_dir).st_mode):
                raise InputError(f"run_dir={fspath(self.run_dir)!r} is a file; give a folder")
        except FileNotFoundError:
            pass  # it is made
        except InputError:
            raise
        except (OSError, ValueError) as error:  # a name too long, or with a null byte
            raise InputError(f"run_dir={fspath(self.run_dir)!r} is no path ({error}); give another") from None

    @property
    def resume(self) -> str:
        """How to go on after an interrupt."""
        return f"The same call with run_dir={fspath(self.run_dir)!r} goes on."

    def _config(self, defaults: RunConfig, allowed: Collection[str], values: Mapping[str, Any]) -> RunConfig:
        """The run as a value.

        Args:
            defaults: Of the call.
            allowed: Names of its options.
            values: Those that its arguments set.
        """
        values = {"run_dir": fspath(self.run_dir), "budget_usd": budget_text(self.budget_usd), **values}
        if self.prices is not None:
            values["executor_prices"] = self.prices if isinstance(self.prices, str) else _prices_text(self.prices)
        return replaced(defaults, {**values, **option_values(self.options, allowed, settled=values)})

    def _kept(self, config: RunConfig, questions: Questions, *, beside: bool) -> RunConfig:
        """The config with the file of the rows that were in memory."""
        if questions.rows is None:
            return config
        path = write_rows(questions.rows, Path(config.run_dir), beside=beside)
        return replaced(config, {"task": (f"jsonl:{path}",)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizeCall(_Call):
    """A call of `w4s_jax.optimize`."""

    meta_agent: str | PathLike[str] | Client
    num_turns: int
    callbacks: Sequence[Callback]

    def __post_init__(self) -> None:
        """Refuses callbacks that are none.

        Raises:
            InputError: They are no sequence of `Callback`s, or the run directory is no path.
        """
        super().__post_init__()
        callbacks: Any = self.callbacks
        if not isinstance(callbacks, Sequence) or not all(isinstance(one, Callback) for one in callbacks):
            raise InputError(f"callbacks={callbacks!r} are no w4s_jax.Callbacks; give a list of them, made")

    def __call__(self, runner: Runner) -> OptimizeResult:
        """Searches; see `run.api.optimize`."""
        executor, meta_agent = executor_endpoint(self.executor), meta_agent_endpoint(self.meta_agent)
        asks_api = str(meta_agent.values["meta_agent"]).startswith(API)
        if executor.model and asks_api and not meta_agent.model and "meta_agent_base_url" not in self.options:
            name = meta_agent.values["meta_agent"].removeprefix(API)  # without an address, it is at the executor's
            meta_agent = meta_agent_endpoint(Model(executor.model.client, name))
        questions = open_questions(self.data, self.metric, self.options)
        turns = option_values({"num_turns": self.num_turns}, ["num_turns"], settled=())
        values = {**questions.values, **executor.values, **meta_agent.values, **turns}
        config = self._config(DEFAULTS, OPTIMIZE_OPTIONS, values)
        config, _ = checked(config, names=() if questions.rows is not None or questions.task else None)
        config = self._kept(config, questions, beside=False)
        search = _Search(config=config, questions=questions, executor=executor, meta_agent=meta_agent)
        return search.result(runner, self.callbacks, self.resume)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Search:
    """A search of the front door, which can be tested after it."""

    config: RunConfig
    questions: Questions
    executor: Endpoint
    meta_agent: Endpoint

    def result(self, runner: Runner, callbacks: Sequence[Callback], resume: str) -> OptimizeResult:
        """Searches, or does what is missing of it."""
        opened: list[SearchRun] = []
        interrupted = False

        async def search(directory: RunDirectory, tasks: Mapping[str, SealedTask]) -> SearchRunResult:
            nonlocal interrupted
            try:
                return await run_search(
                    self.config,
                    directory,
                    tasks,
                    backend=self.executor.make_backend(self.config),
                    meta_backend=self.meta_agent.make_backend(self.config),
                    on_open=opened.append,
                    callbacks=callbacks,
                )
            except asyncio.CancelledError:
                if not opened:
                    raise
                interrupted = True
                return result_so_far(opened[0])

        directory = RunDirectory(Path(self.config.run_dir))
        with self._claimed(directory):
            tasks = self.questions.load(self.config)
            outcome: SearchRunResult = runner(search(directory, tasks))

        display = shown()  # as the search was

        def load(code: str) -> LoadedWorkflow:
            return load_code(code, self.config, make_client(self.config, self.executor, tasks.values()))

        def test() -> SearchRunResult:
            with in_words_of_calls(), shown_on(display):
                return Worker(lambda runner: self._tested(runner, tasks, outcome)).result(resume)

        return OptimizeResult(outcome, load=load, test=test, interrupted=interrupted)

    def _tested(self, runner: Runner, tasks: Mapping[str, SealedTask], found: SearchRunResult) -> SearchRunResult:
        directory = RunDirectory(found.run_dir)

        async def test() -> SearchRunResult:
            backend = self.executor.make_backend(self.config)
            return await run_test(self.config, directory, tasks, found.searched, backend=backend)

        with self._claimed(directory):
            outcome: SearchRunResult = runner(test())
        return outcome

    def _claimed(self, directory: RunDirectory) -> Any:
        comments = [*self.questions.comments, self.executor.comment, self.meta_agent.comment]
        said = [comment for comment in comments if comment]
        if said:
            said.append("No command line can give it: call w4s_jax.optimize again.")
        return directory.opened(to_lines(self.config, OPTIMIZE_OPTIONS - {"run_dir"}), MAY_CHANGE, said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateCall(_Call):
    """A call of `w4s_jax.evaluate`."""

    workflow: WorkflowLike
    split: str
    limit: int
    repetition: int

    def __call__(self, runner: Runner) -> EvaluateResult:
        """Evaluates; see `run.api.evaluate`."""
        workflow, split = as_workflow(self.workflow), _split(self.split)
        for name, number in (("limit", self.limit), ("repetition", self.repetition)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise InputError(f"{name}={number!r} is not allowed; give a whole number, at least 0")
        executor = executor_endpoint(self.executor)
        questions = open_questions(self.data, self.metric, self.options)
        config = self._config(EVALUATE_DEFAULTS, EVALUATE_OPTIONS, {**questions.values, **executor.values})
        directory = RunDirectory(Path(config.run_dir))
        try:
            directory.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--run_dir={directory.root}: {error.strerror}; give another") from None
        config = self._kept(config, questions, beside=True)
        tasks = questions.load(config)
        if len(tasks) > 1:
            raise InputError(
                f"data={','.join(config.tasks.task)} names {len(tasks)} tasks; give one: {', '.join(tasks)}"
            )
        (task,) = tasks.values()
        request = make_request(workflow, task, split, limit=self.limit, repetition=self.repetition)

        async def evaluate() -> Any:
            return await run_evaluation(config, directory, request, backend=executor.make_backend(config))

        outcome = runner(evaluate())
        if outcome.left_out is not None and not outcome.evaluation.n:
            raise outcome.left_out
        return EvaluateResult(outcome, format_result(config, outcome.json))


def as_workflow(given: WorkflowLike) -> Workflow:
    """The workflow of a path, a seed's name, source, or what holds one.

    Raises:
        InputError: It is none of these, or no Python with a `solver`.
    """
    if isinstance(given, Workflow):
        return given
    if isinstance(given, OptimizedWorkflow | LoadedWorkflow):
        return Workflow(name=given.name, code=given.code)
    if not isinstance(given, str | PathLike):
        raise InputError(
            f"workflow={given!r} is a {type(given).__name__}; give a path, a seed's name, source, or a Workflow"
        )
    text = fspath(given)
    if "\n" not in text and "def solver" not in text:
        if not text.strip():
            raise InputError(
                f"workflow={text!r} is empty; give a FILE.py, source, or a seed: {', '.join(seed_names())}"
            )
        return find_workflow(text)
    with _file_of(text, "workflow") as path:
        return load_workflow_file(path)


def load_code(code: str, config: RunConfig, client: Any) -> LoadedWorkflow:
    """A workflow that answers with a run's limits.

    Args:
        code: Of the workflow.
        config: Of the run.
        client: Who is asked, by the name of the run's executor.
    """
    executor, sandbox = config.executor, config.sandbox
    with _file_of(code, "workflow") as path:
        return load_workflow(
            path,
            client=client,
            model=executor.model,
            sandbox=sandbox.kind,
            packages=sandbox.packages,
            allow_unsafe_sandbox=sandbox.allow_unsafe,
            item_timeout=executor.item_timeout,
            max_calls=executor.max_calls_per_item,
            max_tokens=executor.max_tokens,
            workers=sandbox.workers or None,
        )


@contextlib.contextmanager
def _file_of(code: str, name: str) -> Iterator[Path]:
    """Code as a file of this name, while the context is open."""
    with tempfile.TemporaryDirectory(prefix="w4s_jax-") as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(code, encoding="utf-8", errors="surrogatepass")
        yield path


def _split(given: str) -> Split:
    try:
        return Split(given)
    except ValueError:
        raise InputError(f"split={given!r} is unknown; give one of {', '.join(Split)}") from None


def _prices_text(prices: Mapping[str, Mapping[str, float]]) -> str:
    """Prices as JSON.

    Raises:
        InputError: They are no JSON.
    """
    try:
        return json.dumps({name: dict(price) for name, price in prices.items()}, sort_keys=True)
    except (TypeError, ValueError, AttributeError) as error:
        wanted = "{'NAME': {'input': 0.5, 'output': 1.5}} in USD per million tokens"
        raise InputError(f"prices={prices!r} cannot be read ({error}); give {wanted}") from None
