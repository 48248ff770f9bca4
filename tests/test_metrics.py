"""What is recorded of a run: `metrics.jsonl`, TensorBoard, and the names of the curves."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from w4s_jax.reports.record import Phase
from w4s_jax.run import series
from w4s_jax.run.callbacks import Callback, Callbacks, FinishedTurn, Metrics
from w4s_jax.run.closing import Finalist, Result
from w4s_jax.run.metrics import MetricsLog, round_values
from w4s_jax.run.tensorboard import TensorBoard
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Evaluated,
    Evaluation,
    Feedback,
    ItemOutcome,
    ItemStatus,
    Split,
    StoreError,
    Trajectory,
    Turn,
    Workflow,
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_behind_the_checkpoint_are_dropped_with_a_torn_last_line(tmp_path):
    """Killed in round 2, after the checkpoint of round 1: what round 2 wrote will be written again."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep_rounds=0)
    for round_, step in ((1, 1), (1, 2), (2, 3)):
        log.add("update", round_=round_, step=step, values={"loss": 0.5})
    log.close()
    path.write_text(path.read_text() + '{"kind": "upd')
    log = MetricsLog(path, keep_rounds=1)
    log.add("update", round_=2, step=3, values={"loss": 0.25})
    log.close()
    assert [(m["round"], m["step"], m["loss"]) for m in lines(path)] == [(1, 1, 0.5), (1, 2, 0.5), (2, 3, 0.25)]


def test_metrics_that_are_no_metrics_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("what is this\n")
    with pytest.raises(StoreError, match=r"metrics\.jsonl cannot be used"):
        MetricsLog(tmp_path / "metrics.jsonl", keep_rounds=1)


def candidate(index, status, **fields):
    return Candidate(index=index, status=status, text="", **fields)


def test_a_skipped_action_counts_as_no_reward_and_a_failure_of_ours_not_at_all():
    """Rewards 1 and 0.5 of two that ran, one skipped, one failed by us: 1.5 over 3 actions, 2 of which ran."""
    ok, skipped, failed = CandidateStatus.OK, CandidateStatus.SKIPPED, CandidateStatus.FAILED
    candidates = (
        candidate(0, ok, reward=1.0, score=0.9, feedback=Feedback(score=0.9, accuracy=0.8, n=5), repairs=2),
        candidate(1, ok, reward=0.5, score=0.5, feedback=Feedback(score=0.5, accuracy=0.4, n=5)),
        candidate(2, skipped, repairs=3),
        candidate(3, failed),
    )
    turn = Turn(round=1, trajectory=0, turn=0, task="t", messages=(), prompt_ids=(), candidates=candidates, chosen=0)
    values = round_values([Trajectory(round=1, index=0, task="t", turns=(turn,))])
    assert values["actions"] == 3
    assert values["mean_reward"] == pytest.approx(0.5)
    assert values["running_share"] == pytest.approx(2 / 3)
    assert values["reward_per_running"] == pytest.approx(0.75)
    assert values["mean_score"] == pytest.approx(0.7)
    assert values["mean_accuracy"] == pytest.approx(0.6)
    assert (values["repairs"], values["failed_by_us"]) == (5, 1)


def test_a_round_without_actions_has_no_division_by_zero():
    assert round_values([])["mean_reward"] == 0.0


# --- turns, updates, rounds and results as curves ---------------------------------


def finished(phase, number=0, task="t", round_=0, turns=1):
    """A turn with rewards 1, 0.5, none (skipped) and one failed by us: the second, of score 0.5, was chosen."""
    ok, skipped, failed = CandidateStatus.OK, CandidateStatus.SKIPPED, CandidateStatus.FAILED
    candidates = (
        candidate(0, ok, reward=1.0, score=0.9),
        candidate(1, ok, reward=0.5, score=0.5),
        candidate(2, skipped),
        candidate(3, failed),
    )
    turn = Turn(
        round=round_, trajectory=0, turn=number, task=task, messages=(), prompt_ids=(), candidates=candidates, chosen=1
    )
    return FinishedTurn(turn=turn, phase=phase, best_score=0.9, turns=turns, usd=0.25, calls=8)


VALUES = {"best_score": 0.9, "score": 0.5, "mean_reward": 0.5, "usd": 0.25, "calls": 8}


def test_a_turn_has_its_scores_its_mean_reward_and_what_was_spent_so_far():
    """(1 + 0.5 + 0) / 3, as a skipped candidate counts and one that failed by us does not."""
    assert finished(Phase.SEARCH).values == VALUES


def test_a_turn_in_which_nothing_ran_has_no_score_of_its_own():
    turn = finished(Phase.SEARCH).turn
    lost = Turn(**{**vars(turn), "candidates": turn.candidates[3:], "chosen": None})
    found = FinishedTurn(turn=lost, phase=Phase.SEARCH, best_score=0.9, turns=1, usd=0.25, calls=8)
    assert found.values == {"best_score": 0.9, "usd": 0.25, "calls": 8}


@pytest.mark.parametrize(
    ("found", "name", "axis", "step"),
    [
        (series.of_update(Metrics(round=2, step=7, values=VALUES)), "train", "step", 7),
        (series.of_round(Metrics(round=2, step=7, values=VALUES)), "rollout", "round", 2),
        (series.of_turn(finished(Phase.TRAINING, turns=31)), "rollout/turns", "turn", 31),
        (series.of_turn(finished(Phase.BEFORE, 2)), "validation/before/t", "turn", 3),
        (series.of_turn(finished(Phase.AFTER, 2)), "validation/after/t", "turn", 3),
        (series.of_turn(finished(Phase.SEARCH, 2, "jsonl:my/q.csv")), "validation/jsonl_my_q.csv", "turn", 3),
    ],
)
def test_train_and_validation_have_names_and_axes_apart(found, name, axis, step):
    assert (found.name, found.axis, found.step) == (name, axis, step)
    assert found.named()[f"{name}/best_score"] == 0.9


def result(label, task, *scores):
    feedback = Feedback(score=0.5, accuracy=0.5, n=4)
    chosen = Evaluated(workflow=Workflow(name=task, code="# w"), feedback=feedback)
    outcomes = tuple(
        ItemOutcome(item_id=f"{task}/{i}", status=ItemStatus.RIGHT if s == 1 else ItemStatus.WRONG, score=s)
        for i, s in enumerate(scores)
    )
    evaluation = Evaluation(task=task, split=Split.TEST, workflow_digest="", outcomes=outcomes)
    return Result(finalist=Finalist(label=label, task=task, chosen=chosen), evaluation=evaluation)


def test_test_scores_are_of_each_task_and_of_all_items_together():
    """Of 1, 0 in one task and 1, 1, 1, 0 in another: 1/2, 3/4, and 4/6 of all."""
    found = series.of_results([result("after", "a", 1.0, 0.0), result("after", "b", 1.0, 1.0, 1.0, 0.0)])
    assert found.named() == {
        "test/after/score": pytest.approx(4 / 6),
        "test/after/a/score": 0.5,
        "test/after/b/score": 0.75,
    }


def test_a_search_has_a_line_a_turn_which_stays_when_it_goes_on(tmp_path):
    """Turns of a training run stand in its rounds."""
    path = tmp_path / "metrics.jsonl"
    for number in range(2):
        with MetricsLog(path) as log:
            log.on_turn(finished(Phase.SEARCH, number))
            log.on_turn(finished(Phase.TRAINING, number, round_=1))
    assert lines(path) == [{"kind": "turn", "round": 0, "step": n, "task": "t", **VALUES} for n in (1, 2)]


def test_what_metrics_hold_are_the_same_curves_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    update, round_ = Metrics(round=1, step=3, values={"loss": 0.5}), Metrics(round=1, step=3, values={"actions": 4})
    with MetricsLog(path) as log:
        log.on_update(update)
        log.on_round(round_)
        log.on_turn(finished(Phase.SEARCH, 4))
    wanted = [series.of_update(update), series.of_round(round_), series.of_turn(finished(Phase.SEARCH, 4))]
    assert list(series.recorded(path)) == wanted
    assert list(series.recorded(tmp_path / "none")) == []


def scalars(folder):
    """Tag, step and value of every event: records of a length, a checksum, an Event and a checksum."""
    found = []
    for path in sorted(folder.glob("events*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            event = Event.FromString(data[start + 12 : start + 12 + length])
            found += [(value.tag, event.step, pytest.approx(value.simple_value)) for value in event.summary.value]
            start += 16 + length
    return found


def test_tensorboard_keeps_training_and_validation_in_runs_of_their_own(tmp_path):
    with TensorBoard(tmp_path, purge_step=0) as board:
        board.on_update(Metrics(round=1, step=3, values={"loss": 0.5}))
        board.on_round(Metrics(round=1, step=3, values={"mean_reward": 0.75}))
        board.on_turn(finished(Phase.TRAINING, round_=1))
        board.on_turn(finished(Phase.AFTER, 1, round_=2))
        board.on_test([result("after", "a", 1.0, 0.0)])
    assert scalars(tmp_path) == [("train/loss", 3, 0.5), ("rollout/mean_reward", 3, 0.75)]
    validation = scalars(tmp_path / "validation")
    assert ("validation/after/t/best_score", 2, 0.9) in validation
    assert ("test/after/score", 0, 0.5) in validation
    assert len(validation) == len(VALUES) + 2


def test_several_callbacks_are_called_in_the_order_they_are_given():
    said = []

    class Says(Callback):
        def __init__(self, name):
            self.name = name

        def on_run_start(self, config, run_dir):
            said.append((self.name, "start"))

        def on_run_end(self, summary):
            said.append((self.name, "end"))

    both = Callbacks(Says("a"), Says("b"))
    both.on_run_start(None, None)
    both.on_turn(finished(Phase.SEARCH))  # what a callback does not say is nothing
    both.on_run_end({})
    assert said == [("a", "start"), ("b", "start"), ("a", "end"), ("b", "end")]
