"""A turn as one line of JSON, and back.

Turn → **encode_turn** → line of trajectories.jsonl → **decode_turn** → Turn

The keys are read by other programs and are stable; a change of their meaning raises
`SCHEMA_VERSION`. Version 1 said `accuracy` for the mean of the task's own metric and
`workflow` for source; its records are read where the share of items at 1.0 can be derived
from them, and are refused elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from w4s_jax.types import (
    BINARY_METRICS,
    Candidate,
    CandidateStatus,
    Case,
    Feedback,
    ItemStatus,
    Message,
    StoreError,
    Turn,
    TurnKey,
)

SCHEMA_VERSION = 2


def encode_turn(turn: Turn) -> bytes:
    """The record of a turn, ASCII, with its newline.

    Raises:
        StoreError: A number is not finite.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "trajectory": turn.key.trajectory_name,
        "round": turn.round,
        "turn": turn.turn,
        "task": turn.task,
        "messages": [dataclasses.asdict(message) for message in turn.messages],
        "prompt_ids": turn.prompt_ids,
        "candidates": [_candidate_record(candidate) for candidate in turn.candidates],
        "chosen": turn.chosen,
        "parents": turn.parents,
    }
    try:
        return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"
    except ValueError as error:
        name = turn.key.trajectory_name
        raise StoreError(
            f"turn {turn.turn} of {name} holds a number that is not finite; it cannot be stored"
        ) from error


def decode_turn(line: bytes, where: str) -> Turn:
    """Reads a record.

    Args:
        line: One line of the file.
        where: `file:line`, for errors.

    Raises:
        StoreError: The line is corrupt, of a schema that is not known, or of version 1 without what version 2 needs.
    """
    try:
        record = json.loads(line)
        version = record["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _corrupt(where, error) from error
    if version not in (1, SCHEMA_VERSION):
        raise StoreError(
            f"{where}: schema_version={version!r}, this version reads 1 and {SCHEMA_VERSION}; read it with the version "
            "that wrote it"
        )
    try:
        return _turn(record if version == SCHEMA_VERSION else _from_version_1(record, where))
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _corrupt(where, error) from error


def _corrupt(where: str, error: Exception) -> StoreError:
    return StoreError(
        f"{where}: the record is corrupt ({type(error).__name__}: {error}); restore the file, or remove the line "
        "together with the later turns of its trajectory"
    )


def _turn(record: Mapping[str, Any]) -> Turn:
    if not isinstance(record["turn"], int) or record["turn"] < 0:
        raise ValueError(f"turn={record['turn']!r} is not a number from 0")
    key = TurnKey.parse(f"{record['trajectory']}-turn{record['turn']}")
    if key is None or key.round != record["round"]:
        raise ValueError(f"trajectory={record['trajectory']!r} is not r<round>-t<index> of round {record['round']}")
    candidates = tuple(_candidate(fields) for fields in record["candidates"])
    chosen = record["chosen"]
    if [c.index for c in candidates] != list(range(len(candidates))):
        raise ValueError("candidates are not numbered from 0")
    if chosen is not None and candidates[chosen].status is not CandidateStatus.OK:
        raise ValueError(f"chosen={chosen} is not an evaluated candidate")
    return Turn(
        round=key.round,
        trajectory=key.trajectory,
        turn=key.turn,
        task=record["task"],
        messages=tuple(Message(**message) for message in record["messages"]),
        prompt_ids=tuple(record["prompt_ids"]),
        candidates=candidates,
        chosen=chosen,
        parents=None if record.get("parents") is None else tuple(record["parents"]),
    )


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    return {
        "index": candidate.index,
        "status": candidate.status,
        "reason": candidate.reason,
        "score": candidate.score,
        "accuracy": candidate.accuracy,
        "reward": candidate.reward,
        "usd": candidate.usd,
        "repairs": candidate.repairs,
        "ids": candidate.ids,
        "logprobs": candidate.logprobs,
        "text": candidate.text,
        "code": candidate.code,
        "feedback": None if candidate.feedback is None else _feedback_record(candidate.feedback),
    }


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    feedback = fields["feedback"]
    return Candidate(
        index=fields["index"],
        status=CandidateStatus(fields["status"]),
        reason=fields["reason"],
        score=fields["score"],
        reward=fields["reward"],
        usd=fields["usd"],
        repairs=fields["repairs"],
        ids=tuple(fields["ids"]),
        logprobs=tuple(fields["logprobs"]),
        text=fields["text"],
        code=fields["code"],
        feedback=None if feedback is None else _feedback(feedback),
    )


def _feedback_record(feedback: Feedback) -> dict[str, Any]:
    return {
        "score": feedback.score,
        "accuracy": feedback.accuracy,
        "metric": feedback.metric,
        "n": feedback.n,
        "usd_per_item": feedback.usd_per_item,
        "symptoms": dict(feedback.symptoms),
        "cases": [dataclasses.asdict(case) for case in feedback.cases],
    }


def _feedback(fields: Mapping[str, Any]) -> Feedback:
    return Feedback(
        score=fields["score"],
        accuracy=fields["accuracy"],
        metric=fields["metric"],
        n=fields["n"],
        usd_per_item=fields["usd_per_item"],
        symptoms=dict(fields["symptoms"]),
        cases=tuple(Case(**{**case, "status": ItemStatus(case["status"])}) for case in fields["cases"]),
    )


def _from_version_1(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record of version 1 as version 2 has it."""
    candidates = []
    for fields in record["candidates"]:
        feedback = fields["feedback"]
        found = {key: value for key, value in fields.items() if key not in ("workflow", "accuracy")}
        found |= {"code": fields["workflow"], "score": fields["accuracy"]}
        found["feedback"] = None if feedback is None else _feedback_of_version_1(feedback, where)
        candidates.append(found)
    return {**record, "candidates": candidates}


def _feedback_of_version_1(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Its `accuracy` is the mean of the metric; every item below 1.0 stands in `symptoms`, which gives the share."""
    metric, score, n = fields.get("metric", "accuracy"), fields["accuracy"], fields["n"]
    failed = sum(fields["symptoms"].values())
    if metric in BINARY_METRICS:
        accuracy = score
    elif n and failed <= n and (failed or score == 1.0):
        accuracy = (n - failed) / n
    else:
        raise StoreError(
            f"{where}: schema_version=1 with metric={metric!r} does not say which share of the items is at 1.0; "
            "read it with the version that wrote it, or use another --run_dir"
        )
    return {**fields, "metric": metric, "score": score, "accuracy": accuracy}
