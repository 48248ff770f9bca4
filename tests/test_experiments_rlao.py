"""One whole run of the main job on a tiny scripted meta-agent: what it writes, and what it must never show."""

import json
import re
import sqlite3

import pytest
from rlao_runs import records

from benchmarks.kill_and_resume import NUM_TURNS, Left
from w4s_jax.sandbox import open_sandbox
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.registry import make_task
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import Limits, RunStatus, SolverInput, Split
from w4s_jax.workflows import load_workflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(shared):
    return shared.run_dir


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def test_a_run_writes_every_file_of_a_run_directory(run_dir):
    files = "run.flags versions.json metrics.jsonl trajectories.jsonl calls.sqlite summary.json report.html"
    for name in (*files.split(), "workflows/best.py", "hf/model.safetensors", "hf/README.md", "hf/tokenizer.json"):
        assert (run_dir / name).stat().st_size > 0, name
    assert list((run_dir / "checkpoints").glob("step_*"))
    assert not list(run_dir.rglob("*.partial"))


def test_the_summary_has_its_stable_keys(summary):
    assert summary["schema_version"] == 2
    for name in ("before", "after", "seeds"):
        part = summary[name]
        low, high = part["ci95"]
        assert part["n"] == 4
        assert 0 <= low <= part["accuracy"] <= high <= 1
    assert len(summary["mean_reward"]) == 2
    assert set(summary["usd_by"]) == {"meta_agent", "optimisation", "test"}
    assert sum(summary["usd_by"].values()) == pytest.approx(summary["usd"])
    assert summary["simulated"] is True
    for name in ("calls", "prompt_tokens", "completion_tokens", "seconds"):
        assert summary[name] > 0, name


def test_the_summary_counts_what_the_ledger_holds(summary, run_dir):
    with sqlite3.connect(run_dir / "calls.sqlite") as db:
        columns = "count(*), sum(prompt_tokens), sum(completion_tokens), sum(usd)"
        calls, prompt, completion, usd = db.execute(f"SELECT {columns} FROM calls").fetchone()
    assert (summary["calls"], summary["prompt_tokens"], summary["completion_tokens"]) == (calls, prompt, completion)
    assert summary["usd"] == pytest.approx(usd)


def test_the_paths_of_the_summary_lead_to_something(summary, run_dir):
    for name in ("best_workflow", "checkpoint", "hf_export", "report"):
        assert (run_dir.parent / summary[name]).exists(), name


def test_every_turn_is_recorded_with_its_stable_keys(run_dir):
    turns = records(run_dir / "trajectories.jsonl")
    assert len(turns) == NUM_TURNS
    for turn in turns:
        assert {"schema_version", "trajectory", "turn", "task", "prompt_ids", "candidates", "chosen"} <= set(turn)
        assert len(turn["candidates"]) == 2
        for candidate in turn["candidates"]:
            keys = "ids logprobs text code status score accuracy reward usd repairs"
            assert set(keys.split()) <= set(candidate)
            assert candidate["status"] in ("ok", "skipped", "failed")


def test_the_scripted_agent_gives_the_machinery_work(run_dir):
    """Rewards differ, actions are repaired, training moves the parameters: else the tests of resuming say nothing."""
    candidates = [c for turn in records(run_dir / "trajectories.jsonl") for c in turn["candidates"]]
    assert len({c["reward"] for c in candidates}) > 1
    assert any(c["repairs"] for c in candidates)
    assert any(not c["repairs"] and len(c["ids"]) == len(c["logprobs"]) > 0 for c in candidates)
    started_from = (run_dir.parent / "agent" / "model.safetensors").read_bytes()
    assert (run_dir / "hf" / "model.safetensors").read_bytes() != started_from


def test_metrics_hold_every_update_and_round(run_dir):
    lines = records(run_dir / "metrics.jsonl")
    assert [(m["kind"], m["round"], m["step"]) for m in lines] == [
        *(("update", 1, 1), ("update", 1, 2), ("round", 1, 2)),
        *(("update", 2, 3), ("update", 2, 4), ("round", 2, 4)),
    ]
    for update in lines:
        if update["kind"] == "update":
            assert update["actions"] == 4
            assert 1 <= update["effective_sample_size"] <= 4
            assert update["tree_tokens"] < update["row_tokens"]


def test_versions_name_code_packages_model_and_splits(run_dir):
    versions = json.loads((run_dir / "versions.json").read_text())
    assert {"python", "packages", "commit", "meta_agent", "split_sha256"} <= set(versions)
    assert re.fullmatch("[0-9a-f]{64}", versions["meta_agent"]["tokenizer_sha256"])
    task = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=4, test=4)))
    assert versions["split_sha256"]["toy_units"] == {split.value: task.split_hash(split) for split in Split}


def test_no_test_question_reaches_a_prompt(run_dir):
    """Nor anything else of a turn: the search that finds validation questions there finds no test question."""
    task = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=4, test=4)))
    task.unseal()
    turns = records(run_dir / "trajectories.jsonl")
    prompts = "\n".join(message["content"] for turn in turns for message in turn["messages"])
    everything = (run_dir / "trajectories.jsonl").read_text()
    assert all(item.question in prompts for item in task.items(Split.VALIDATION))
    for item in task.items(Split.TEST):
        assert item.question not in prompts
        assert json.dumps(item.question)[1:-1] not in everything


def test_test_items_are_called_for_in_the_closing_evaluation_alone(run_dir):
    """In the ledger's order: once the first call of the test purpose is booked, no other purpose follows."""
    with sqlite3.connect(run_dir / "calls.sqlite") as db:
        rows = db.execute("SELECT purpose, item FROM calls ORDER BY id").fetchall()
    purposes = [purpose for purpose, _ in rows]
    assert set(purposes[purposes.index("test") :]) == {"test"}
    task = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=4, test=4)))
    task.unseal()
    tested = {item.id for item in task.items(Split.TEST)}
    assert {item for purpose, item in rows if purpose == "test"} <= tested
    assert not tested & {item for purpose, item in rows if purpose != "test"}


async def test_the_best_workflow_opens_with_its_numbers_and_runs(run_dir):
    best = load_workflow(str(run_dir / "workflows" / "best.py"))
    head = best.code.split("\n\n")[0]
    assert head.startswith("# Workflow ")
    for said in ("Test accuracy", "Validation accuracy", "n=4", "simulat", "USD", "outside a sandbox"):
        assert said in head
    task = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=1)))

    async def ask(call):
        return ["Answer: 7"] * call.n

    async with open_sandbox("auto", workers=1) as sandbox:
        given = SolverInput(question=task.items(Split.VALIDATION)[0].question)
        run = await sandbox.run_workflow(best, given, ask, Limits())
    assert (run.status, run.answer) == (RunStatus.OK, "7")


def test_the_closing_table_says_simulated(shared, run_dir):
    printed = (shared.root / "uninterrupted.stdout").read_text()
    for said in (
        "best seed workflow",
        "before RLAO",
        "after RLAO",
        "n=4",
        "simulated USD",
        "nothing about real models",
    ):
        assert said in printed


def test_the_flags_of_a_run_run_it_again(shared, run_dir):
    """To the same bits, in another folder, from `run.flags` alone."""
    again = shared.root / "again"
    flags = [f"--flagfile={run_dir / 'run.flags'}", f"--run_dir={again}"]
    done = shared.command.python_to_end("-m", "experiments.rlao", *flags)
    assert done.returncode == 0, done.stderr
    found = Left.of(again)
    assert (found.parameters, found.metrics, found.turns) == (
        shared.left.parameters,
        shared.left.metrics,
        shared.left.turns,
    )
    assert (again / "run.flags").read_text() == (run_dir / "run.flags").read_text()


def test_stored_trajectories_train_as_the_run_that_collected_them_did(shared, run_dir):
    """Offline, in one update a trajectory; the turns of the searches before and after are trained on too."""
    offline = shared.root / "offline"
    done = shared.command.finish(
        offline, f"--trajectories={run_dir}", "--num_rounds=1", "--noevaluate_before", f"--json_out={offline}.json"
    )
    assert done.returncode == 0, done.stderr
    updates = [m for m in records(offline / "metrics.jsonl") if m["kind"] == "update"]
    assert [m["step"] for m in updates] == [1, 2, 3, 4, 5, 6]
    assert all(m["grad_norm"] > 0 for m in updates)
    assert {r["trajectory"] for r in records(offline / "trajectories.jsonl")} == {"r2-t0"}  # the search after, alone
    assert json.loads((shared.root / "offline.json").read_text()) == json.loads((offline / "summary.json").read_text())
