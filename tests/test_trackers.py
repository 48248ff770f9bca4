"""Callbacks and trackers of a run, with a scripted tracker: order, resuming, failures, and what is never sent."""

import json
import logging
import threading
import tomllib
from pathlib import Path

import pytest
from tracked_runs import search

from w4s_jax.run import trackers
from w4s_jax.run.callbacks import Callback
from w4s_jax.run.config import TRACKERS, RunConfig, TrackingConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.options import from_lines, options
from w4s_jax.run.tracker_clients import CLIENTS
from w4s_jax.types import InputError, StoreError

ROOT = Path(__file__).parent.parent
ONE, TWO = ("--num_turns=1",), ("--num_turns=2",)


class Seen(Callback):
    """Writes down what it sees; raises at a turn."""

    def __init__(self, raise_at=0):
        self.said, self.raise_at, self.threads = [], raise_at, set()

    def note(self, *what):
        self.said.append(what)
        self.threads.add(threading.current_thread())

    def on_run_start(self, config, run_dir):
        self.note("start", run_dir.name, config.search.num_turns)

    def on_turn(self, finished):
        self.note("turn", finished.turn.turn, finished.turns, str(finished.phase))
        if finished.turns == self.raise_at:
            raise KeyError("mine")

    def on_test(self, results):
        self.note("test", sorted(result.finalist.label for result in results))

    def on_run_end(self, summary):
        self.note("end", summary["searches"]["toy_units"]["turns"])


def test_a_callback_sees_each_turn_once_over_all_processes_of_a_run(tmp_path):
    first, second = Seen(), Seen()
    search(tmp_path / "run", *ONE, callbacks=[first])
    assert first.said == [
        ("start", "run", 1),
        ("turn", 0, 1, "search"),
        ("test", ["search", "seeds"]),
        ("end", 1),
    ]
    search(tmp_path / "run", *TWO, callbacks=[second])
    assert [what for what in second.said if what[0] == "turn"] == [("turn", 1, 2, "search")]
    assert first.threads == second.threads == {threading.main_thread()}
    assert turn_lines(tmp_path / "run") == [1, 2]


def turn_lines(run_dir):
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_callback_raises_ends_the_run_as_its_own_error_and_loses_nothing(tmp_path):
    with pytest.raises(KeyError, match="mine"):
        search(tmp_path / "run", *TWO, callbacks=[Seen(raise_at=1)])
    assert len((tmp_path / "run" / "trajectories.jsonl").read_text().splitlines()) == 1
    assert turn_lines(tmp_path / "run") == [1]
    again = Seen()
    search(tmp_path / "run", *TWO, callbacks=[again])
    assert [what[:2] for what in again.said] == [
        ("start", "run"),
        ("turn", 1),
        ("test", ["search", "seeds"]),
        ("end", 2),
    ]


# --- trackers ---------------------------------------------------------------------


class FakeClient:
    """A tracker that remembers, in the class, every run it was given."""

    name = "wandb"

    def __init__(self, runs, *, fail_at=None, fail_to_start=False, hold=None):
        self.runs, self.fail_at, self.fail_to_start, self.hold = runs, fail_at, fail_to_start, hold
        self.run = None

    def start(self, start, values):
        if self.fail_to_start:
            raise RuntimeError("no server\nat all")
        run_id = start.run_id or f"run{len(self.runs)}"
        self.run = self.runs.setdefault(run_id, {"rows": [], "values": values, "summary": {}, "ended": []})
        return run_id

    def log(self, point, row):
        if self.fail_at is not None and row >= self.fail_at:
            raise ConnectionResetError("gone")
        if self.hold is not None:
            self.hold.wait()
        self.run["rows"].append((row, point.name, point.step))

    def summarise(self, values):
        self.run["summary"].update(values)

    def end(self, finished):
        self.run["ended"].append(finished)


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Runs a search with the scripted tracker; returns all runs it was given."""
    runs = {}
    monkeypatch.setattr("w4s_jax.run.search.refuse_missing", lambda config: None)

    def run(*flags, tracker=True, callbacks=(), **options):
        monkeypatch.setattr(trackers, "CLIENTS", {"wandb": lambda: FakeClient(runs, **options)})
        search(tmp_path / "run", *flags, *(["--trackers=wandb"] if tracker else []), callbacks=callbacks)
        return runs

    return run


TURNS = [(0, "validation/toy_units", 1), (1, "test", 0)]


def test_a_search_that_goes_on_goes_on_in_the_same_tracked_run(tracked, tmp_path):
    """The second process opens test again, for the same workflow: its scores are there already."""
    assert tracked(*ONE)["run0"]["rows"] == TURNS
    (run,) = tracked(*TWO).values()
    assert run["rows"] == [*TURNS, (2, "validation/toy_units", 2)]
    assert run["ended"] == [True, True]
    assert run["summary"]["summary/toy_units/turns"] == 2
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["trackers"]["wandb"]["id"] == "run0"


def test_a_tracker_that_comes_late_catches_up(tracked):
    tracked(*ONE, tracker=False)
    assert tracked(*TWO)["run0"]["rows"][:2] == [(0, "validation/toy_units", 1), (1, "validation/toy_units", 2)]


def test_a_tracker_that_fails_later_costs_one_line_and_what_it_lacks_is_sent_on_resuming(tracked, caplog):
    with caplog.at_level(logging.WARNING, "w4s_jax"):
        (run,) = tracked(*TWO, fail_at=1).values()
    said = [r.getMessage() for r in caplog.records if "tracker" in r.getMessage()]
    assert len(said) == 1
    assert "tracker wandb failed and is left out from here on (ConnectionResetError: gone)" in said[0]
    assert run["rows"] == [(0, "validation/toy_units", 1)]
    assert tracked(*TWO)["run0"]["rows"][:2] == [(0, "validation/toy_units", 1), (1, "validation/toy_units", 2)]


def test_a_tracker_that_hangs_holds_up_nothing_but_the_end_and_not_for_long(tracked, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(trackers, "_CLOSE_SECONDS", 0.1)
    hold = threading.Event()
    with caplog.at_level(logging.WARNING, "w4s_jax"):
        tracked(*TWO, hold=hold)
    hold.set()
    assert turn_lines(tmp_path / "run") == [1, 2]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["search"]["n"] == 4
    assert "tracker wandb: not all is sent" in caplog.text


def test_a_tracker_that_cannot_start_is_one_line_before_anything_is_paid(tracked, tmp_path):
    with pytest.raises(InputError, match=r"--trackers=wandb cannot start \(RuntimeError: no server at all\)"):
        tracked(*ONE, fail_to_start=True)
    assert (tmp_path / "run" / "trajectories.jsonl").read_text() == ""
    assert not (tmp_path / "run" / "run.flags").exists()  # the command may be corrected


def test_a_run_that_an_error_ends_is_ended_as_such(tracked):
    runs = {}
    with pytest.raises(KeyError, match="mine"):
        runs = tracked(*TWO, callbacks=[Seen(raise_at=1)])
    runs = tracked(*TWO)
    assert runs["run0"]["ended"] == [False, True]
    assert len(runs) == 1


def test_options_and_versions_are_sent_and_no_key(tracked, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    values = tracked(*ONE, "--meta_agent_base_url=http://me:pw@host/v1?key=pw2")["run0"]["values"]
    assert values["task"] == ["toy_units"]
    assert (values["num_turns"], values["meta_agent_base_url"]) == (1, "http://host/v1")
    assert "tau" not in values  # no option of a search
    assert values["versions/python"].count(".") == 2
    assert not {"secret", "pw"} & {word for value in values.values() for word in str(value).replace("-", " ").split()}
    assert "pw" not in json.dumps(values)


def test_memory_that_is_none_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "trackers.json").write_text("what is this")
    with pytest.raises(StoreError, match=r"trackers\.json cannot be used.*remove it"):
        trackers.TrackerMemory(RunDirectory(tmp_path))


# --- options ----------------------------------------------------------------------


def test_every_tracker_that_has_a_name_has_a_client_and_an_extra_called_as_its_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert tuple(CLIENTS) == TRACKERS
    assert {name for name in TRACKERS if CLIENTS[name]().name == name and name in extras} == set(TRACKERS)


def test_a_tracker_is_known_by_name_and_named_once():
    assert from_lines(RunConfig(), ["--trackers=wandb,mlflow"]).tracking.trackers == ("wandb", "mlflow")
    with pytest.raises(InputError, match="--trackers has 'tensorbord', which is not known; give some of wandb, mlflow"):
        TrackingConfig(trackers=("tensorbord",))
    with pytest.raises(InputError, match="names mlflow twice"):
        TrackingConfig(trackers=("mlflow", "mlflow"))
    assert not options(RunConfig)["trackers"].decides_results


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package mlflow is not installed; pip install 'w4s_jax\[mlflow\]'"):
        trackers.refuse_missing(TrackingConfig(trackers=("mlflow",)))


def test_a_folder_called_wandb_is_no_package(tmp_path, monkeypatch):
    """W&B leaves one in the working directory."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(InputError, match="the package wandb is not installed"):
        trackers.refuse_missing(TrackingConfig(trackers=("wandb",)))
