"""The `agent` that a workflow is given: the API of W4S, over the protocol.

workflow ─ Agent.call_llm … ─ {llm | run_code} request ─ pool ─ reply ─ workflow

Nothing here is trusted by the pool: a workflow may replace every method and can still
only send requests, which the pool checks.
"""

from __future__ import annotations

import _thread
from collections.abc import Mapping, Sequence
from typing import Any

from . import frames, parsing

DEFAULT_KEYS = ("reasoning", "answer")
DEFAULT_TEMPERATURE = 0.5
DEFAULT_CODE_TIMEOUT = 10.0
"""Seconds of `execute_code`."""


class RequestRefused(RuntimeError):
    """The pool refused a request: malformed, or too many."""


class ExecutionError(RuntimeError):
    """The code given to `execute_code` failed; the message is its error."""


class Channel:
    """One request at a time over the inherited socket; threads of a workflow wait for each other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = _thread.allocate_lock()

    def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its reply.

        Raises:
            RequestRefused: The message cannot be sent.
        """
        with self._lock:
            try:
                frame = frames.encode(message)
            except (TypeError, ValueError) as error:
                raise RequestRefused(f"a request must be JSON: {error}") from None
            if len(frame) > frames.MAX_REQUEST:
                raise RequestRefused(f"a request of {len(frame)} bytes exceeds {frames.MAX_REQUEST}")
            frames.write_all(self._fd, frame)
            reply = frames.read_frame(self._fd, frames.MAX_FROM_POOL)
        return dict(reply)


class Agent:
    """Interface of a workflow to its executor and to a Python interpreter."""

    def __init__(self, channel: Channel, public_tests: Sequence[str] = ()) -> None:
        self._channel = channel
        self._public_tests = tuple(public_tests)

    def call_llm(
        self,
        messages: str | Sequence[Mapping[str, str]],
        temperature: float = DEFAULT_TEMPERATURE,
        num_of_response: int = 1,
        agent_role: str | None = None,
        response_format: str | Mapping[str, str] | None = None,
        model: str | None = None,
        max_completion_tokens: int | None = None,
    ) -> list[str]:
        """Asks the executor; returns `num_of_response` texts. `model` is accepted and ignored: there is one executor.

        Raises:
            RequestRefused: The call is malformed or one too many.
        """
        reply = self._channel.request(
            {
                "type": "llm",
                "messages": _with_role(_as_messages(messages), agent_role),
                "temperature": temperature,
                "n": num_of_response,
                "json_mode": _is_json(response_format),
                "max_tokens": max_completion_tokens,
            }
        )
        if "error" in reply:
            raise RequestRefused(reply["error"])
        return [str(text) for text in reply["texts"]]

    def call_json_format_llm(
        self,
        messages: str | Sequence[Mapping[str, str]],
        temperature: float = DEFAULT_TEMPERATURE,
        num_of_response: int = 1,
        agent_role: str | None = None,
        return_dict_keys: Sequence[str] = DEFAULT_KEYS,
        instructions: str = "",
        model: str | None = None,
        max_completion_tokens: int | None = None,
    ) -> list[dict[str, Any]]:
        """Asks for JSON objects with `return_dict_keys`; a key that a reply lacks holds a note that says so.

        Raises:
            RequestRefused: The call is malformed or one too many.
        """
        keys = [str(key) for key in return_dict_keys]
        texts = self.call_llm(
            ask_for_keys(_as_messages(messages), keys, instructions),
            temperature=temperature,
            num_of_response=num_of_response,
            agent_role=agent_role,
            response_format="json_object",
            max_completion_tokens=max_completion_tokens,
        )
        return [parsing.parse_json_reply(text, keys) for text in texts]

    def execute_code(self, code: str, timeout: float = DEFAULT_CODE_TIMEOUT) -> str:
        """Runs Python apart; returns `solution()` if defined, else the last expression, else the printed text.

        Raises:
            ExecutionError: The code raised, or hit a limit.
        """
        reply = self._channel.request({"type": "run_code", "code": str(code), "timeout": timeout})
        if "error" in reply:
            raise ExecutionError(reply["error"])
        return str(reply["value"])

    def extract_answer_str(self, text: object) -> str:
        r"""The last `\boxed{…}`, else the last number, else the last sentence."""
        return parsing.extract_answer_str(text)

    def extract_code_block(self, response: object, entry_point: str | None = None) -> str:
        """The last Python block (that defines `entry_point`), else the whole text."""
        return parsing.extract_code_block(response, entry_point)

    def test_on_public_test(
        self, task: str, solution: str, entry_point: str | None = None, test_loop: int = 3
    ) -> dict[str, Any]:
        """Runs the item's public tests on `solution`, letting the executor repair it up to `test_loop` times.

        Returns:
            `{"result": whether all passed, "solution": the last code, "feedback": the last failure or what passed}`.
        """
        solution, feedback = str(solution), ""
        for attempt in range(max(0, int(test_loop)) + 1):
            feedback = self._failure(solution)
            if not feedback:
                passed = f"{len(self._public_tests)} public tests passed" if self._public_tests else "no public tests"
                return {"result": True, "solution": solution, "feedback": passed}
            if attempt < test_loop:
                solution = self._repair(task, solution, entry_point, feedback)
        return {"result": False, "solution": solution, "feedback": feedback}

    def _failure(self, solution: str) -> str:
        """The first public test that fails with its error; empty where all pass."""
        for test in self._public_tests:
            try:
                self.execute_code(f"{solution}\n\n{test}\n")
            except ExecutionError as error:
                return f"Test failed:\n{test}\n{error}"
        return ""

    def _repair(self, task: str, solution: str, entry_point: str | None, feedback: str) -> str:
        prompt = (
            f"{task}\n\nThis solution is wrong:\n```python\n{solution}\n```\n\n{feedback}\n\n"
            "Find the mistake, then write the whole corrected solution in one Python block."
        )
        return parsing.extract_code_block(self.call_llm(prompt)[0], entry_point)


def ask_for_keys(messages: Sequence[dict[str, str]], keys: Sequence[str], instructions: str) -> list[dict[str, str]]:
    """Appends the instructions and the request for JSON keys to the last user message."""
    request = "\n\n" + (f"{instructions}\n" if instructions else "")
    request += f"Reply with one JSON object with the keys: {', '.join(keys)}."
    messages = [dict(m) for m in messages]
    for message in reversed(messages):
        if message.get("role") == "user":
            message["content"] = f"{message.get('content', '')}{request}"
            return messages
    return [*messages, {"role": "user", "content": request.lstrip()}]


def _as_messages(messages: str | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A bare text is one user message."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(m) for m in messages]


def _with_role(messages: list[dict[str, str]], agent_role: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"You are {agent_role}."}, *messages] if agent_role else messages


def _is_json(response_format: str | Mapping[str, str] | None) -> bool:
    kind = response_format.get("type", "") if isinstance(response_format, Mapping) else response_format
    return kind in ("json_object", "json")
