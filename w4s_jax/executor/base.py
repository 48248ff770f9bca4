"""What a back end of a model is, and the faults that one attempt can end in.

ChatRequest → MeteredExecutor → **Backend.send** (one attempt) → ChatReply or a typed fault

A backend knows a wire format and nothing of money, caching or retries; the
faults carry what the metering layer has to know of an attempt that failed:
whether trying again can help, how long the server asked to wait, and whether
the attempt may have been billed.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from w4s_jax.types import CallContext, ChatReply, ChatRequest, ExecutorError, Usage


class Backend(Protocol):
    """A raw client of one model; safe to call from many tasks of one event loop."""

    model: str
    """Name that requests carry and prices are looked up by."""
    simulated: bool
    """True for a model of a model: free, deterministic, and said beside every number."""

    async def send(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """Makes ONE attempt and returns its reply with `usd=0.0`.

        Raises:
            Fault: The attempt failed; see its subclasses.
        """

    async def close(self) -> None:
        """Releases connections; further calls of `send` are not allowed."""


class Fault(ExecutorError):
    """One attempt failed.

    Attributes:
        retry_after: Seconds that the server asked to wait; None where it did not say.
        billed_unknown: The attempt may have been billed, at a cost that nobody knows.
        usage: Tokens of an attempt that failed and reported what it used; None otherwise.
    """

    kind: ClassVar[str] = "fault"
    """Under which the ledger counts it."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        billed_unknown: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.billed_unknown = billed_unknown
        self.usage = usage


class RateLimitedFault(Fault):
    """429: too many requests or tokens."""

    kind = "rate_limited"
    retryable = True


class ServerFault(Fault):
    """5xx, 408 or 409: the server failed to answer."""

    kind = "server_error"
    retryable = True


class TimeoutFault(Fault):
    """No complete reply within the hard limit; the attempt may have been billed."""

    kind = "timeout"
    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message, billed_unknown=True)


class UnreachableFault(Fault):
    """No connection was made, so nothing was billed."""

    kind = "unreachable"
    retryable = True


class ConnectionCutFault(Fault):
    """The connection broke after the request was sent; the attempt may have been billed."""

    kind = "connection_cut"
    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message, billed_unknown=True)


class EmptyReplyFault(Fault):
    """A well-formed reply without text; billed at `usage`."""

    kind = "empty_reply"
    retryable = True


class BrokenBodyFault(Fault):
    """A success whose body is not a chat completion; the attempt may have been billed."""

    kind = "broken_body"
    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message, billed_unknown=True)


class MalformedReplyFault(Fault):
    """JSON was asked for and a choice holds none, for no reason that is given; billed at the usage of `reply`.

    Attributes:
        reply: What the model said all the same; delivered where asking again does not help.
    """

    kind = "malformed_json"
    retryable = True

    def __init__(self, message: str, *, reply: ChatReply) -> None:
        super().__init__(message, usage=reply.usage)
        self.reply = reply


class NotAcceptedFault(Fault):
    """The model does not take a parameter; the backend has learnt it and will not send it again.

    Attributes:
        parameter: Its name on the wire. `n` is left to the caller, who asks one by one.
    """

    kind = "not_accepted"
    retryable = True

    def __init__(self, message: str, *, parameter: str, usage: Usage | None = None) -> None:
        super().__init__(message, usage=usage)
        self.parameter = parameter


class RefusedFault(Fault):
    """The text of the request is at fault (too long, against a policy): its author sees it."""

    kind = "refused"


class BadRequestFault(Fault):
    """4xx for a reason that is ours: a wrong parameter, an unknown model."""

    kind = "bad_request"


class AuthFault(Fault):
    """401, 403: the key is missing, wrong or not allowed to use the model."""

    kind = "auth"


class QuotaFault(Fault):
    """402, or 429 for want of credit: waiting does not help."""

    kind = "quota"
