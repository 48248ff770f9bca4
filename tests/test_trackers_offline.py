"""Weights & Biases and MLflow for real, offline: runs that kill themselves and resume are one tracked run.

What they have written is read with their own records (wandb's protobuf messages, MLflow's client).
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UPDATES = [1, 2, 3, 4]
"""Of two rounds of two trajectories, one an update."""


def run(kind, tmp_path, trackers, at="", code=0):
    """A run in a process of its own; `at` is where it kills itself."""
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "OPENAI_API_KEY")}
    env = kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tracked_runs.py"), kind, str(tmp_path / "run"), trackers, at],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "failed and is left out" not in done.stderr
    return done


def of_metrics(tmp_path, kind, name):
    """Step and value of what `metrics.jsonl` holds, where a round's step is its number."""
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    return [(line["round" if kind == "round" else "step"], line[name]) for line in lines if line["kind"] == kind]


# --- Weights & Biases -------------------------------------------------------------


def frames(data):
    """The records of a `.wandb` file, a LevelDB log: blocks of 32 KiB, pieces with checksum, length and kind."""
    start, whole = 7, b""
    while start + 7 <= len(data):
        left = 32768 - start % 32768
        if left < 7:
            start += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, start)
        whole += data[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def wandb_records(run_dir):
    """Ids of the tracked runs, history rows, and config keys of every start, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, rows, config = [], [], []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for data in frames(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.append(record.run.run_id)
                config += [item.key for item in record.run.config.update]
            elif record.WhichOneof("record_type") == "history":
                names = [
                    (item.key or "/".join(item.nested_key), json.loads(item.value_json)) for item in record.history.item
                ]
                rows.append(dict(names))
    return ids, rows, config


def points(rows, axis, name):
    return [(row[axis], row[name]) for row in rows if name in row]


def test_a_search_that_died_is_one_run_of_wandb(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'w4s_jax[wandb]'")
    run("search", tmp_path, "wandb", "turn 2", 9)
    run("search", tmp_path, "wandb")
    ids, rows, config = wandb_records(tmp_path / "run")
    assert len(ids) == 2
    assert len(set(ids)) == 1
    name = "validation/toy_units"
    assert [step for step, _ in points(rows, f"{name}/turn", f"{name}/best_score")] == [1, 2, 3]
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert points(rows, f"{name}/turn", f"{name}/usd") == of_metrics(tmp_path, "turn", "usd")
    assert sum("test/search/score" in row for row in rows) == 1
    assert {"num_turns", "versions/python"} <= set(config)


# --- MLflow -----------------------------------------------------------------------


def mlflow_run(tmp_path):
    """MLflow's client and the one run that its store has."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("w4s_jax")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def history(client, found, name):
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name))


@pytest.mark.filterwarnings("default")
def test_a_search_that_died_is_one_run_of_mlflow(tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'w4s_jax[mlflow]'")
    run("search", tmp_path, "mlflow", "turn 2", 9)
    client, found = mlflow_run(tmp_path)
    assert found.info.status == "RUNNING"
    run("search", tmp_path, "mlflow")
    client, found = mlflow_run(tmp_path)
    assert found.info.status == "FINISHED"
    assert [step for step, _ in history(client, found, "validation/toy_units/best_score")] == [1, 2, 3]
    assert history(client, found, "validation/toy_units/usd") == of_metrics(tmp_path, "turn", "usd")
    assert len(history(client, found, "test/search/score")) == 1
    assert found.data.params["num_turns"] == "3"
    assert "versions/python" in found.data.params
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found.data.metrics["summary/usd"] == pytest.approx(summary["usd"])


# --- both -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_training_that_died_before_its_checkpoint_logs_each_update_once_to_both(tmp_path):
    """Killed after the updates of round 1 and before its checkpoint: they are made again, and not logged again."""
    for package in ("wandb", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'w4s_jax[{package}]'")
    run("rlao", tmp_path, "wandb,mlflow", "round 1", 9)
    run("rlao", tmp_path, "wandb,mlflow")
    ids, rows, _ = wandb_records(tmp_path / "run")
    client, found = mlflow_run(tmp_path)
    assert len(set(ids)) == 1
    losses, rewards = of_metrics(tmp_path, "update", "loss"), of_metrics(tmp_path, "round", "mean_reward")
    assert [step for step, _ in losses] == UPDATES
    assert points(rows, "train/step", "train/loss") == history(client, found, "train/loss") == losses
    assert points(rows, "rollout/round", "rollout/mean_reward") == rewards
    assert history(client, found, "rollout/mean_reward") == rewards
    for phase in ("before", "after"):
        name = f"validation/{phase}/toy_units"
        of_turns = points(rows, f"{name}/turn", f"{name}/best_score")
        assert [step for step, _ in of_turns] == [1, 2]
        assert history(client, found, f"{name}/best_score") == of_turns
    assert [step for step, _ in points(rows, "rollout/turns/turn", "rollout/turns/mean_reward")] == list(range(3, 11))
    (test,) = [row for row in rows if "test/after/score" in row]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert test["test/after/score"] == found.data.metrics["test/after/score"] == summary["after"]["score"]
