"""`experiments.optimize` as a command: searches, stops, goes on, and leaves what a user takes away."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from commands import run_command
from fakes import FakeServer, completion, refusal
from rlao_runs import one_line, records

from benchmarks.kill_and_resume import Command, stopped_when, turns_stored
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.server import serve
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.registry import make_task
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.workflows import load_seed, load_workflow_file

SMALL = ("--task=toy_units", "--validation_size=10", "--test_size=10", "--num_candidates=2", "--sandbox_packages=")
PRICE = '--executor_prices={"writer":\n {"input": 1, "output": 2}}'
WITHOUT_JAX = """
import runpy, sys
for name in ("jax", "jaxlib", "flax", "optax", "orbax", "transformers", "tokenizers", "safetensors", "tensorboardX"):
    sys.modules[name] = None
sys.argv = ["experiments.optimize", *sys.argv[1:]]
runpy.run_module("experiments.optimize", run_name="__main__")
"""


@pytest.fixture
def optimize(tmp_path):
    """Runs the command; returns what ended and its summary, if it wrote one."""
    command = Command(tmp_path / "no_agent", tmp_path / "compiled")

    def run(*flags, run_dir="run", apart=()):
        arguments = (f"--run_dir={tmp_path / run_dir}", *SMALL, *flags)
        done = command.python_to_end(*apart, *arguments) if apart else run_command("optimize", *arguments)
        path = tmp_path / run_dir / "summary.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return run


def action(code):
    return f"It should think and vote.\n```python\n{code.strip()}\n```"


VOTE = load_seed("toy_vote").code.replace("num_of_response=5", "num_of_response=7")
BROKEN = "def solver(agent, task):\n    return {'answer': undefined}"


def writer(body, headers, attempt):
    """A meta-agent: the second draw of every turn breaks, and so do its repairs; the others vote."""
    sample = int(headers["X-W4S-Sample"].split(".")[1])
    told = body["messages"][-1]["content"]
    return completion(action(BROKEN if sample % 2 or "failed on a first question" in told else VOTE), prompt=900)


# --- the packaged agent -------------------------------------------------------


def test_the_default_finds_a_workflow_and_goes_on_where_it_ended(optimize, tmp_path):
    done, first = optimize("--num_turns=2")
    assert done.returncode == 0, done.stderr
    search = first["searches"]["toy_units"]
    assert (search["turns"], search["stopped_by"]) == (2, "turns")
    assert search["best"]["validation_accuracy"] >= search["seed"]["validation_accuracy"]
    assert search["by_turn"] == sorted(search["by_turn"])
    assert first["simulated"]
    assert "search" not in first  # the test split was not asked for, and not opened
    turns = records(tmp_path / "run" / "trajectories.jsonl")

    again, _ = optimize(f"--flagfile={tmp_path / 'run' / 'run.flags'}", "--dry_run")
    assert again.returncode == 0, again.stderr

    done, second = optimize("--num_turns=3", "--test")
    assert done.returncode == 0, done.stderr
    assert "resuming, 2 turns stored" in done.stderr
    assert records(tmp_path / "run" / "trajectories.jsonl")[:2] == turns
    assert second["searches"]["toy_units"]["by_turn"][:3] == search["by_turn"]
    assert (second["search"]["n"], second["seeds"]["n"]) == (10, 10)
    assert second["usd_by"]["test"] > 0 == first["usd_by"]["test"]

    best = tmp_path / "run" / "workflows" / "best.py"
    assert second["best_workflow"] == str(best)
    assert load_workflow_file(best).code == load_workflow_file(tmp_path / "run" / "workflows" / "toy_units.py").code
    checked = run_command(
        *("evaluate", "--task=toy_units", f"--workflow={best}", "--validation_size=10", "--sandbox_packages="),
        *(f"--run_dir={tmp_path / 'check'}", f"--json_out={tmp_path / 'check.json'}"),
    )
    assert checked.returncode == 0, checked.stderr
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["accuracy"] == second["searches"]["toy_units"]["best"]["validation_accuracy"]

    done, _ = optimize("--num_turns=3", "--num_candidates=3")
    assert "--num_candidates=2 became --num_candidates=3" in one_line(done, 2)


def test_a_target_that_a_seed_meets_ends_the_search_before_its_first_turn(optimize):
    done, summary = optimize("--target=0.1")
    assert done.returncode == 0, done.stderr
    search = summary["searches"]["toy_units"]
    assert (search["turns"], search["stopped_by"]) == (0, "target")
    assert search["best"] == search["seed"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_search_that_is_stopped_leaves_its_best_and_ends_as_if_it_never_was(optimize, tmp_path, number, code):
    command = Command(tmp_path / "no_agent", tmp_path / "compiled")
    flags = ("-m", "experiments.optimize", *SMALL, "--num_turns=4", f"--run_dir={tmp_path / 'run'}")
    process = command.python(*flags)
    stopped_when(process, lambda: turns_stored(tmp_path / "run") >= 1, number)
    assert process.returncode == code
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["searches"]["toy_units"]
    assert kept["stopped_by"] is None
    assert (tmp_path / "run" / "workflows" / "best.py").exists()
    done, resumed = optimize("--num_turns=4", apart=("-m", "experiments.optimize"))
    assert done.returncode == 0, done.stderr
    _, whole = optimize("--num_turns=4", run_dir="whole", apart=("-m", "experiments.optimize"))
    for summary in (resumed, whole):
        summary["searches"]["toy_units"].pop("file")
    assert resumed["searches"] == whole["searches"]
    assert resumed["usd"] == whole["usd"]
    assert (tmp_path / "run" / "trajectories.jsonl").read_bytes() == (
        tmp_path / "whole" / "trajectories.jsonl"
    ).read_bytes()


# --- a model behind an API ----------------------------------------------------


async def test_a_model_behind_an_api_needs_no_jax_and_its_turns_train_one(optimize, tmp_path):
    async with FakeServer(writer) as server:
        flags = ("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", "--budget_usd=1", PRICE)
        done, summary = await asyncio.to_thread(
            optimize, *flags, "--num_turns=3", "--patience=2", apart=("-c", WITHOUT_JAX)
        )
    assert done.returncode == 0, done.stderr
    search = summary["searches"]["toy_units"]
    # Both survivors of both turns are one workflow: a better one can come in the first turn alone.
    assert (search["turns"], search["stopped_by"]) in {(3, "plateau"), (2, "plateau"), (3, "turns")}
    again, _ = optimize(f"--flagfile={tmp_path / 'run' / 'run.flags'}", "--dry_run")
    assert again.returncode == 0, again.stderr
    asked = len(server.requests)
    assert summary["usd_by"]["meta_agent"] == pytest.approx(asked * (900 + 2 * 20) * 1e-6)
    assert f"and {summary['usd_by']['meta_agent']:.4f} USD by the meta-agent" in done.stdout
    opening = server.requests[0][0]["messages"][0]["content"]
    assert "toy_vote" in opening
    assert "def solver(agent, task)" in opening
    assert server.requests[0][1]["Authorization"] == "Bearer none"  # nobody's key goes to another address
    candidates = [c for turn in records(tmp_path / "run" / "trajectories.jsonl") for c in turn["candidates"]]
    assert {c["status"] for c in candidates} <= {"ok", "skipped"}
    assert all(c["ids"] == [] for c in candidates)
    good = next(c for c in candidates if c["status"] == "ok")
    assert good["code"].strip() == VOTE.strip()

    trained = Command(tmp_path / "no_agent", tmp_path / "compiled").python_to_end(
        *("-m", "experiments.rlao", "--meta_agent=tiny", f"--trajectories={tmp_path / 'run'}", "--row_length=8192"),
        *(f"--run_dir={tmp_path / 'trained'}", *SMALL, "--num_turns=1", "--noevaluate_before", "--remat=none"),
    )
    assert trained.returncode == 0, trained.stderr
    updates = [r for r in records(tmp_path / "trained" / "metrics.jsonl") if r["kind"] == "update"]
    assert sum(u["actions"] for u in updates) == sum(c["status"] == "ok" for c in candidates)

    # What was trained searches in its turn, as checkpoint and as export, with the settings that it was trained with.
    found = {}
    for name, agent in (("checkpoint", "trained"), ("export", "trained/hf")):
        done, found[name] = await asyncio.to_thread(
            optimize, f"--meta_agent={tmp_path / agent}", "--num_turns=1", run_dir=name
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "run.flags").read_text().splitlines()
        assert {"--prompt_template=compact", "--max_new_tokens=128", "--cache_length=640"} <= set(lines)
    assert found["checkpoint"]["searches"]["toy_units"]["turns"] == 1


async def test_a_cap_ends_the_search_with_what_it_has_and_a_higher_one_goes_on(optimize, tmp_path):
    async with FakeServer(writer) as server:
        flags = ("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", PRICE, "--max_new_tokens=100")
        done, summary = await asyncio.to_thread(optimize, *flags, "--budget_usd=0.03", "--num_turns=4")
        assert done.returncode == 3, done.stderr
        assert "--budget_usd=0.03 leaves no room" in done.stderr
        search = summary["searches"]["toy_units"]
        assert search["stopped_by"] == "budget"
        assert search["turns"] < 4
        assert summary["usd"] <= 0.03
        assert (tmp_path / "run" / "workflows" / "best.py").exists()
        done, summary = await asyncio.to_thread(optimize, *flags, "--budget_usd=1", "--num_turns=4")
    assert done.returncode == 0, done.stderr
    assert summary["searches"]["toy_units"]["turns"] == 4
    bodies = [(json.dumps(body, sort_keys=True), headers["X-W4S-Sample"]) for body, headers in server.requests]
    assert len(bodies) == len(set(bodies))  # no draw was bought twice
    store = CallStore(tmp_path / "run" / "calls.sqlite")
    assert store.spent.usd == pytest.approx(summary["usd"])
    await store.close()


async def test_a_meta_agent_that_refuses_its_prompt_is_one_line(optimize):
    def refuse(body, headers, attempt):
        return refusal("maximum context length is 4096 tokens", code="context_length_exceeded")

    async with FakeServer(refuse) as server:
        flags = ("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", "--budget_usd=1", PRICE)
        done, _ = await asyncio.to_thread(optimize, *flags)
    assert "api:writer refuses the meta-agent's prompt" in one_line(done, 2)


def test_test_results_stay_with_the_workflow_they_are_of(optimize, tmp_path):
    done, tested = optimize("--num_turns=1", "--test")
    assert done.returncode == 0, done.stderr
    done, again = optimize("--num_turns=1")  # nothing new: what was measured stays, and is not bought again
    assert done.returncode == 0, done.stderr
    assert again["search"] == tested["search"]
    assert (again["usd"], again["calls"]) == (tested["usd"], tested["calls"])
    done, _ = optimize("--num_turns=1", "--num_candidates=3")
    assert "became" in one_line(done, 2)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["search"] == tested["search"]


def test_questions_that_have_changed_are_refused_before_anything_is_written(optimize, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("question,answer\n" + "".join(f"What is {i} + {i}?,{2 * i}\n" for i in range(20)))
    flags = (f"--task=jsonl:{own}", "--scorer=numeric", "--num_turns=1", "--test")
    done, _ = optimize(*flags)
    assert done.returncode == 0, done.stderr
    left = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.suffix in (".py", ".json", ".flags")
    }
    own.write_text(own.read_text().replace("What is 3 + 3?", "What is three and three?"))
    done, _ = optimize(*flags)
    assert re.search(r"questions of jsonl:\S+ are not those that this run was begun with", one_line(done, 2))
    assert {path: path.read_bytes() for path in left} == left


def test_files_of_tasks_whose_names_look_alike_are_kept_apart(optimize, tmp_path):
    for name in ("x-1.csv", "x_1.csv"):
        (tmp_path / name).write_text("question,answer\n" + "".join(f"{name} {i} + {i}?,{2 * i}\n" for i in range(20)))
    tasks = ",".join(f"jsonl:{tmp_path / name}" for name in ("x-1.csv", "x_1.csv"))
    done, summary = optimize(f"--task={tasks}", "--scorer=numeric", "--target=0.01")
    assert done.returncode == 0, done.stderr
    files = [search["file"] for search in summary["searches"].values()]
    assert len(set(files)) == 2
    for task, search in summary["searches"].items():
        text = Path(search["file"]).read_text()
        assert f"for the task {task}." in text
        assert "A workflow that the search started from: outside a sandbox" in text


async def test_actions_that_never_ran_are_counted_and_said(optimize):
    async with FakeServer(lambda *asked: completion("I would rather not.")) as server:
        flags = ("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", "--budget_usd=1", PRICE)
        done, summary = await asyncio.to_thread(optimize, *flags, "--num_turns=1")
    assert done.returncode == 0, done.stderr
    assert summary["searches"]["toy_units"]["candidates"] == {"ok": 0, "skipped": 2, "failed": 0}
    assert "2 skipped of 2 (most often: the reply holds no Python block" in done.stdout


async def test_each_key_goes_to_its_own_address(optimize, monkeypatch):
    simulator = SimulatedBackend(tasks=[make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=10, test=10)))])
    monkeypatch.setenv("META_AGENT_API_KEY", "sk-meta")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with FakeServer(writer) as server, serve(simulator) as url:
        flags = ("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", "--budget_usd=1", PRICE)
        done, _ = await asyncio.to_thread(
            optimize, *flags, "--num_turns=1", "--executor=openai", f"--executor_base_url={url}"
        )
        assert done.returncode == 0, done.stderr
        assert {headers["Authorization"] for _, headers in server.requests} == {"Bearer sk-meta"}


def test_an_address_with_a_password_is_refused_and_not_written(optimize, tmp_path):
    done, _ = optimize("--executor=openai", "--executor_base_url=http://me:sk-secret@127.0.0.1:9/v1", "--budget_usd=1")
    assert "holds a user name or a password" in one_line(done, 2)
    assert "sk-secret" not in done.stderr
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file() and b"sk-secret" in p.read_bytes()]


def test_a_search_is_no_model(optimize, tmp_path):
    done, _ = optimize("--num_turns=1")
    assert done.returncode == 0, done.stderr
    done, _ = optimize(f"--meta_agent={tmp_path / 'run'}", run_dir="other")
    assert "holds a search, not a training run" in one_line(done, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task=",), "--task is empty"),
        (("--meta_agent=api:writer",), "META_AGENT_API_KEY or OPENAI_API_KEY is not set"),
        (
            ("--meta_agent=api:writer", "--meta_agent_base_url=https://example.org/v1"),
            "META_AGENT_API_KEY is not set and https://example.org/v1 needs a key",
        ),
        (
            ("--meta_agent=api:writer", "--meta_agent_base_url=http://127.0.0.1:9/v1", PRICE),
            "give --budget_usd=<USD>",
        ),
        (("--target=0",), "target=0.0 is not allowed"),
        (("--seed_workflows=cot,nothing",), "seed workflow 'nothing' is unknown"),
        (("--scorer=numeric",), "--scorer is of --task=jsonl:PATH, and toy_units is none; drop it"),
        (("--data_revision==v1",), "--data_revision has '=v1'"),
        (("--data_revision=gsm8k=v1",), "--data_revision names 'gsm8k', which is none of the tasks toy_units"),
    ],
)
def test_what_cannot_be_is_one_line(optimize, flags, message):
    done, summary = optimize(*flags)
    assert message in one_line(done, 2)
    assert summary is None


def test_a_dry_run_counts_the_calls_of_the_meta_agent(optimize, tmp_path):
    done, summary = optimize(
        *("--dry_run", "--meta_agent=api:writer", PRICE, "--num_turns=2", f"--json_out={tmp_path / 'case.json'}")
    )
    assert done.returncode == 0, done.stderr
    assert summary is None
    case = json.loads((tmp_path / "case.json").read_text())
    # 2 turns of 2 candidates, each with 3 repairs; 3 seeds on 10 items; the candidates on 10 items and 3 repairs.
    assert [part["calls"] for part in case["meta_agent"]] == [2 * 2 * 4]
    assert case["item_runs"] == {"seed workflows": 30, "search": 2 * 2 * 13}
    assert "meta-agent writer" in done.stdout


def test_a_search_starts_from_the_seeds_that_are_named(optimize, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(VOTE)
    done, summary = optimize(f"--seed_workflows=toy_direct,{own}", "--num_turns=1")
    assert done.returncode == 0, done.stderr
    assert summary["searches"]["toy_units"]["seed"]["workflow"] in {"toy_direct", "mine"}
