"""A turn as one line of JSON, and back.

Turn → **encode_turn** → line of trajectories.jsonl → **decode_turn** → Turn

The keys are read by other programs and are stable (`docs`: trajectories.jsonl); a
change of their meaning raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from w4s_jax.rollout.plan import trajectory_name
from w4s_jax.types import Candidate, CandidateStatus, Case, Feedback, ItemStatus, Message, StoreError, Turn

SCHEMA_VERSION = 1

_NAME = re.compile(r"r(\d+)-t(\d+)")


def encode_turn(turn: Turn) -> bytes:
    """The record of a turn, ASCII, with its newline.

    Raises:
        StoreError: a number is not finite.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "trajectory": trajectory_name(turn.round, turn.trajectory),
        "round": turn.round,
        "turn": turn.turn,
        "task": turn.task,
        "messages": [dataclasses.asdict(message) for message in turn.messages],
        "prompt_ids": turn.prompt_ids,
        "candidates": [_candidate_record(candidate) for candidate in turn.candidates],
        "chosen": turn.chosen,
    }
    try:
        return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"
    except ValueError as error:
        name = trajectory_name(turn.round, turn.trajectory)
        raise StoreError(
            f"turn {turn.turn} of {name} holds a number that is not finite; it cannot be stored"
        ) from error


def decode_turn(line: bytes, where: str) -> Turn:
    """Reads a record.

    Args:
        line: one line of the file.
        where: `file:line`, for errors.

    Raises:
        StoreError: the line is corrupt, or of another schema.
    """
    try:
        record = json.loads(line)
        version = record["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _corrupt(where, error) from error
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{where}: schema_version={version!r}, this version reads {SCHEMA_VERSION}; read it with the version "
            "that wrote it"
        )
    try:
        return _turn(record)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _corrupt(where, error) from error


def _corrupt(where: str, error: Exception) -> StoreError:
    return StoreError(
        f"{where}: the record is corrupt ({type(error).__name__}: {error}); restore the file, or remove the line "
        "together with the later turns of its trajectory"
    )


def _turn(record: Mapping[str, Any]) -> Turn:
    name = _NAME.fullmatch(record["trajectory"])
    if name is None or int(name[1]) != record["round"]:
        raise ValueError(f"trajectory={record['trajectory']!r} is not r<round>-t<index> of round {record['round']}")
    if not isinstance(record["turn"], int) or record["turn"] < 0:
        raise ValueError(f"turn={record['turn']!r} is not a number from 0")
    candidates = tuple(_candidate(fields) for fields in record["candidates"])
    chosen = record["chosen"]
    if [c.index for c in candidates] != list(range(len(candidates))):
        raise ValueError("candidates are not numbered from 0")
    if chosen is not None and candidates[chosen].status is not CandidateStatus.OK:
        raise ValueError(f"chosen={chosen} is not an evaluated candidate")
    return Turn(
        round=int(name[1]),
        trajectory=int(name[2]),
        turn=record["turn"],
        task=record["task"],
        messages=tuple(Message(**message) for message in record["messages"]),
        prompt_ids=tuple(record["prompt_ids"]),
        candidates=candidates,
        chosen=chosen,
    )


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    return {
        "index": candidate.index,
        "status": candidate.status,
        "reason": candidate.reason,
        "accuracy": candidate.accuracy,
        "reward": candidate.reward,
        "usd": candidate.usd,
        "repairs": candidate.repairs,
        "ids": candidate.ids,
        "logprobs": candidate.logprobs,
        "text": candidate.text,
        "workflow": candidate.workflow,
        "feedback": None if candidate.feedback is None else _feedback_record(candidate.feedback),
    }


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    feedback = fields["feedback"]
    return Candidate(
        index=fields["index"],
        status=CandidateStatus(fields["status"]),
        reason=fields["reason"],
        accuracy=fields["accuracy"],
        reward=fields["reward"],
        usd=fields["usd"],
        repairs=fields["repairs"],
        ids=tuple(fields["ids"]),
        logprobs=tuple(fields["logprobs"]),
        text=fields["text"],
        workflow=fields["workflow"],
        feedback=None if feedback is None else _feedback(feedback),
    )


def _feedback_record(feedback: Feedback) -> dict[str, Any]:
    return {
        "accuracy": feedback.accuracy,
        "metric": feedback.metric,
        "n": feedback.n,
        "usd_per_item": feedback.usd_per_item,
        "symptoms": dict(feedback.symptoms),
        "cases": [dataclasses.asdict(case) for case in feedback.cases],
    }


def _feedback(fields: Mapping[str, Any]) -> Feedback:
    return Feedback(
        accuracy=fields["accuracy"],
        metric=fields.get("metric", "accuracy"),
        n=fields["n"],
        usd_per_item=fields["usd_per_item"],
        symptoms=dict(fields["symptoms"]),
        cases=tuple(Case(**{**case, "status": ItemStatus(case["status"])}) for case in fields["cases"]),
    )
