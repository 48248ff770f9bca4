"""An evaluation through the real client against a service that fails: the same outcomes, nothing bought twice."""

import contextlib
import dataclasses

import aiohttp
from sandbox_host import opened

from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import OpenAIBackend
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.limits import Backoff
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import Price, PriceTable
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.server import FaultKind, ServerOptions, serve
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import toy_task
from w4s_jax.types import BudgetExceededError, Purpose, Split, Workflow

PRICE = Price(input=1.0, cached_input=1.0, output=2.0)
FAULTS = {
    FaultKind.RATE_LIMITED: 0.15,
    FaultKind.RATE_LIMITED_SILENT: 0.15,
    FaultKind.SERVER_ERROR: 0.05,
    FaultKind.GATEWAY_ERROR: 0.05,
    FaultKind.HANG: 0.05,
    FaultKind.CUT: 0.05,
    FaultKind.BROKEN_BODY: 0.025,
    FaultKind.EMPTY: 0.025,
    FaultKind.MALFORMED_JSON: 0.05,
}
AS_BOOKED = {
    "rate_limited": (FaultKind.RATE_LIMITED, FaultKind.RATE_LIMITED_SILENT),
    "server_error": (FaultKind.SERVER_ERROR, FaultKind.GATEWAY_ERROR),
    "timeout": (FaultKind.HANG,),
    "connection_cut": (FaultKind.CUT,),
    "broken_body": (FaultKind.BROKEN_BODY,),
    "empty_reply": (FaultKind.EMPTY,),
    "malformed_json": (FaultKind.MALFORMED_JSON,),
}
"""What the ledger calls each fault of the server's."""

JSON_AND_VOTE = """
def solver(agent, task):
    first = agent.call_json_format_llm(task, temperature=0.0, return_dict_keys=["reasoning", "answer"])[0]
    votes = [agent.call_llm(task + "\\nGive only the final number.", temperature=0.8)[0] for _ in range(2)]
    votes.append(str(first["answer"]))
    return {"answer": max(votes, key=votes.count)}
"""


@dataclasses.dataclass
class Service:
    """A server with its questions."""

    task: object
    url: str

    async def book(self):
        async with aiohttp.ClientSession() as session:
            return await (await session.get(self.url + "/book")).json()


@contextlib.asynccontextmanager
async def service(**options):
    task = toy_task("toy_units", sizes=SplitSizes(train=0, validation=30, test=0))
    async with serve(SimulatedBackend(tasks=[task]), options=ServerOptions(**options)) as url:
        yield Service(task, url)


@contextlib.asynccontextmanager
async def evaluating(path, service, sandbox, *, usd=1.0):
    """An evaluation of the voting workflow on a service; yields a function that runs it, and the store."""
    store = CallStore(path / "calls.sqlite")
    backend = OpenAIBackend("simulated", base_url=service.url, timeout_seconds=6.0)
    options = MeteredOptions(max_tokens=100, backoff=Backoff(initial_seconds=0.01, max_seconds=0.1))
    prices = PriceTable({"simulated": PRICE})
    budget = Budget(Caps(usd=usd), spent=store.spent)
    items = service.task.items(Split.VALIDATION)
    try:
        async with MeteredExecutor(backend, store, budget, prices, options) as executor:

            async def evaluate():
                evaluator = Evaluator(executor, sandbox, options=EvaluationOptions(concurrency=30))
                workflow = Workflow(name="vote", code=JSON_AND_VOTE)
                evaluation = await evaluator.evaluate(
                    workflow, service.task, items, split=Split.VALIDATION, purpose=Purpose.OPTIMISATION
                )
                return [dataclasses.replace(outcome, seconds=0.0) for outcome in evaluation.outcomes]

            yield evaluate, store
    finally:
        await store.close()


def usd_of(book):
    """What the service would bill for all that it made."""
    return (PRICE.input * book["prompt_tokens"] + PRICE.output * book["completion_tokens"]) * 1e-6


async def test_faults_change_no_outcome_and_each_is_counted(tmp_path):
    async with opened("auto", workers=2) as sandbox:
        found = {}
        for name, faults in (("calm", {}), ("stormy", FAULTS)):
            (tmp_path / name).mkdir()
            async with (
                service(faults=faults, retry_after=0.01) as server,
                evaluating(tmp_path / name, server, sandbox) as (evaluate, store),
            ):
                found[name] = await evaluate()
                summary, book = store.summary(), await server.book()
                assert await evaluate() == found[name]  # from the cache
                assert (await server.book())["attempts"] == book["attempts"] == summary.total.calls
        assert found["stormy"] == found["calm"]
        assert {outcome.status.value for outcome in found["calm"]} == {"right", "wrong"}
        assert book["given_again"] == 0
        assert book["replies"] == 30 * 3
        assert set(book["faults"]) == set(FAULTS)  # every kind struck
        expected = {name: sum(book["faults"][kind] for kind in kinds) for name, kinds in AS_BOOKED.items()}
        assert summary.faults == expected
        assert usd_of(book) <= summary.total.usd < 1.0


async def test_a_cap_is_never_passed_amid_faults_and_a_raised_one_goes_on(tmp_path):
    async with opened("auto", workers=2) as sandbox:
        async with service(faults=FAULTS, retry_after=0.01) as server:
            stops = 0
            for cap in (0.005, 0.015, 1.0):
                async with evaluating(tmp_path, server, sandbox, usd=cap) as (evaluate, store):
                    try:
                        outcomes = await evaluate()
                    except BudgetExceededError:
                        stops += 1
                    assert usd_of(await server.book()) <= store.summary().total.usd <= cap
            book = await server.book()
        async with service() as calm:
            (tmp_path / "calm").mkdir()
            async with evaluating(tmp_path / "calm", calm, sandbox) as (evaluate, _):
                assert outcomes == await evaluate()
    assert stops == 2
    assert book["given_again"] == 0
